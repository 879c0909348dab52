"""An encoder fed in other ways than its card says: another size, other numbers, channels swapped.

Weights and recipe (torch) and ONNX files are fed exactly so.  Of what is sealed (OpenVINO, or
ONNX where the package onnx is missing) the same numbers are reached by other pixels, as far as
pixels go: (x' / 255 - mean) / std = (x / 255 - mean') / std'.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.card import FILES
from crosscam.encoder import Encoder
from crosscam.image import Preprocess, resize
from crosscam.optional import import_onnxruntime

__all__ = ["Feeder", "feeder"]

Pictures = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]
Feeder = Callable[[Sequence[Pictures], Preprocess], Vectors | None]
"""Pictures and how to feed them to vectors [N, D], or None where that cannot be done."""

_CLIPPED = 0.02  # share of pixel values that may be cut off


def feeder(encoder: Encoder, folder: Path, *, run: bool) -> Feeder:
    """What feeds ``encoder``, which was loaded from ``folder``, in any way.

    Args:
        encoder: the model.
        folder: where it is from.
        run: it is a run, not an exported encoder.
    """
    if encoder.card.format == "torch":
        return _of_torch(encoder, folder, run)
    modules = ("onnx", "onnxruntime")
    if encoder.card.format == "onnx" and all(importlib.util.find_spec(m) for m in modules):
        found = _of_onnx(folder, encoder.threads)
        if found is not None:
            return found
    return _by_pixels(encoder)


def resized(pictures: Sequence[Pictures], preprocess: Preprocess) -> Pictures:
    """Pictures [N, H, W, 3] of the size that ``preprocess`` states."""
    same = [resize(p, preprocess.size, preprocess.interpolation) for p in pictures]
    return np.stack(same)


def _of_torch(encoder: Encoder, folder: Path, run: bool) -> Feeder:
    from crosscam import deployed, embedder

    model, _ = deployed.load(folder, None if run else encoder.card, device="cpu")
    method, recipe = model.method, model.recipe
    assert method is not None
    assert recipe is not None

    def feed(pictures: Sequence[Pictures], preprocess: Preprocess) -> Vectors:
        other = embedder.of_method(method, replace(recipe, preprocess=preprocess), device="cpu")
        return other.function(resized(pictures, preprocess))

    return feed


def _of_onnx(folder: Path, threads: int) -> Feeder | None:
    """The file with other constants in its first steps, or None if these are not ours."""
    import onnx
    from onnx import numpy_helper

    onnxruntime = import_onnxruntime()
    model = onnx.load(str(folder / FILES["onnx"][0]))
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    shift = _constant_behind(graph, "pictures", ("Cast", "Sub"), constants)
    scale = _constant_behind(graph, "pictures", ("Cast", "Sub", "Mul"), constants)
    if shift is None or scale is None:
        return None
    for axis, name in ((1, "height"), (2, "width")):
        graph.input[0].type.tensor_type.shape.dim[axis].Clear()
        graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    del graph.value_info[:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")

    def feed(pictures: Sequence[Pictures], preprocess: Preprocess) -> Vectors | None:
        for name, values in zip((shift, scale), preprocess.shift_and_scale(), strict=True):
            constants[name].CopyFrom(numpy_helper.from_array(values, name))
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            same = resized(pictures, preprocess)
            parts = [
                session.run(None, {"pictures": same[i : i + 16]})[0]
                for i in range(0, len(same), 16)
            ]
        except Exception:  # a network of one size only, in the words of ONNX Runtime
            return None
        return np.concatenate(parts).astype(np.float32)

    return feed


def _constant_behind(
    graph: Any, source: str, ops: Sequence[str], constants: dict[str, Any]
) -> str | None:
    """The constant [3] of the last of the nodes ``ops``, which follow each other."""
    name = None
    for op in ops:
        nodes = [n for n in graph.node if source in n.input and n.op_type == op]
        if len(nodes) != 1:
            return None
        source = nodes[0].output[0]
        others = [i for i in nodes[0].input if i in constants]
        name = others[0] if others else None
    return name if name and list(constants[name].dims) == [3] else None


def _by_pixels(encoder: Encoder) -> Feeder:
    own = encoder.preprocess

    def feed(pictures: Sequence[Pictures], preprocess: Preprocess) -> Vectors | None:
        if preprocess.size != own.size:
            return None
        wanted = resized(pictures, preprocess).astype(np.float64) / 255
        wanted = (wanted - preprocess.mean) / preprocess.std
        pixels = np.round(255 * (wanted * own.std + own.mean))
        if ((pixels < 0) | (pixels > 255)).mean() > _CLIPPED:
            return None
        return encoder.pictures(np.clip(pixels, 0, 255).astype(np.uint8))

    return feed
