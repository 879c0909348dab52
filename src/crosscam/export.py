"""A trained run becomes an encoder: one folder, compared with its network before it is there.

    card = export(Path("runs/mine"), Path("models/mine"), format="onnx")

The network is written once, as ONNX, with everything between uint8 pictures and unit vectors
inside; OpenVINO's files and the int8 weights are made of that file.  The torch format is weights
and recipe, for machines that have this package and PyTorch.

Then the folder is loaded as a user would load it, by every runtime that is installed, and runs 1,
2 and 17 pictures at a time.  Every vector is compared with what the network gives for that
picture alone, in float32.  If one of them is further away than ``BOUNDS`` allows, the folder is
removed and an ``ExportError`` says by how much.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

import crosscam
from crosscam import deployed, embedder, probe
from crosscam.card import (
    BOUNDS,
    FILES,
    NATIVE_BOUND,
    NO_FIGURES,
    Card,
    Format,
    Precision,
    TrainedOn,
    file_entry,
)
from crosscam.embedder import Embedder
from crosscam.encoder import Encoder
from crosscam.encoder.runtimes import installed, of_unit_length
from crosscam.errors import (
    CheckpointError,
    DataError,
    ExportError,
    InputError,
    MissingExtraError,
)
from crosscam.evaluate import evaluate
from crosscam.files import new_folder
from crosscam.image import Preprocess
from crosscam.optional import import_onnxruntime, import_openvino
from crosscam.pictures import image_files
from crosscam.training import checkpoint
from crosscam.types import Dataset
from crosscam.wording import counted

__all__ = ["BATCHES", "BOUNDS", "Statement", "export", "prove", "wrap"]

BATCHES = (1, 2, 17)
"""Pictures per call that an encoder must give the same vectors for."""

_CALIBRATION = 256  # pictures at most; the ranges of activations hardly move after that
_OPSET = 18

Pictures = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Statement:
    """What only the maker of an encoder knows; empty keeps what the run says.

    Args:
        name: what it is called.
        license: of the weights, as an SPDX identifier or in words.
        terms: of the data it was trained on.
        limits: what it is not good for, after what holds for all.
    """

    name: str = ""
    license: str = ""
    terms: str = ""
    limits: tuple[str, ...] = ()


def export(
    run: Path,
    out: Path,
    *,
    format: Format = "onnx",
    precision: Precision = "fp32",
    calibration: Path | None = None,
    pictures: Path | None = None,
    measure: Dataset | None = None,
    statement: Statement | None = None,
    progress: bool = False,
) -> Card:
    """Write the encoder of a finished run to the new folder ``out``; returns its card.

    Args:
        run: run folder.
        out: folder to make; nothing is left there if anything goes wrong.
        format: onnx, openvino or torch.
        precision: fp32; fp16 keeps half the bytes, and may be computed in 16 bits by who asks for
            that; int8 keeps a quarter, with activations in 8 bits (not in
            torch format).
        calibration: folder of pictures that int8 takes the ranges of activations from; the more
            they are like those it will see, the better.
        pictures: folder that the proof takes its 17 pictures from; else those of ``calibration``
            and, without it, rendered people.
        measure: data set that network and encoder are both measured on, for the card; needed
            for int8.
        statement: name, license, terms and limits for the card.
        progress: show progress bars.

    Raises:
        ExportError: the encoder disagrees with its network.
        CheckpointError: no such run, or one that is not finished.
        InputError: settings contradict each other, or ``out`` exists.
        MissingExtraError: a package that the format needs is not installed.
    """
    if precision == "int8" and format == "torch":
        raise InputError("int8 is for onnx and openvino: use one of them, or fp16.")
    if (precision == "int8") != (calibration is not None):
        raise InputError(
            "int8 needs --calibration, a folder of pictures like those it will see."
            if calibration is None
            else f"--calibration is for --precision int8, and {precision} was asked for."
        )
    if precision == "int8" and measure is None:
        raise InputError(
            "int8 changes the features, and its card says by how much: give --data and --root, a "
            "data set with query and gallery."
        )
    require_packages(format)
    method, recipe, run_card = embedder.load_method(run)
    size = recipe.test_preprocess.size
    card = deployed.card_of_run(run, recipe, run_card, method.dim, deployed.parts_of(method))
    reference = embedder.of_method(method, recipe, name=card.name, device="cpu")
    network = deployed.Deployed(method, recipe).eval()
    _require_new(out)
    with new_folder(out) as folder:
        if format == "torch":
            unread = set(deployed.training_only(method, size))
            weights = {k: v for k, v in method.state_dict().items() if k not in unread}
            if precision == "fp16":
                weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
            checkpoint.save_weights(folder / FILES["torch"][0], weights)
            bare = replace(recipe, data=replace(recipe.data, root="", cache="", pairs=""))
            (folder / FILES["torch"][1]).write_text(bare.to_yaml(), encoding="utf-8")
            card = replace(card, training={**card.training, "training_only": sorted(unread)})
        else:
            _write_onnx(network, size, folder / "encoder.onnx")
            _finish_onnx(folder, format, precision, _calibration(calibration, card.preprocess))
        card = _with_files(card, folder, format, precision, statement)
        return _prove_and_measure(
            folder,
            card,
            reference.function,
            pictures or calibration,  # 8 bits hold for pictures like those they were fitted to
            reference,
            measure,
            progress,
        )


def wrap(
    model: Path,
    out: Path,
    *,
    preprocess: Preprocess,
    statement: Statement,
    channels: Literal["rgb", "bgr"] = "rgb",
    metric: Literal["cosine", "euclidean"] = "cosine",
    flip: bool = False,
    format: Literal["onnx", "openvino"] = "onnx",
    pictures: Path | None = None,
    measure: Dataset | None = None,
    progress: bool = False,
) -> Card:
    """Make an encoder of an ONNX file of somebody else's; returns its card.

    The file takes float32 [N, 3, H, W], already normalized, and gives [N, D]; what turns uint8
    pictures into that, and features into unit vectors, is put before and behind it.  A file that
    was written for a batch of one is given a free batch, and the proof tells whether it holds.

    Args:
        model: the .onnx file, with its external data (if any) beside it.
        out: folder to make; nothing is left there if anything goes wrong.
        preprocess: how the model wants to be fed; mean and std are of RGB in [0, 1] (a model
            that takes 0 to 255 has mean 0 and std 1/255).
        statement: name, license and terms; they must be stated, since the file does not.
        channels: the order the model takes; the encoder always takes RGB.
        metric: how features are compared.
        flip: add the features of the mirrored picture.
        format: onnx or openvino.
        pictures: folder that the proof takes its pictures from; rendered people otherwise.
        measure: data set that the encoder is measured on, for the card.
        progress: show progress bars.

    Raises:
        CheckpointError: the file cannot be read, or is not such a model.
        ExportError: the encoder disagrees with the model.
    """
    require_packages(format)
    if not (statement.name and statement.license and statement.terms):
        raise InputError(
            "an encoder made of somebody else's model needs its name, its license and the terms "
            "of the data it was trained on: give all three."
        )
    original, dim = _read_foreign(model, preprocess.size)
    reference = _foreign_reference(model, preprocess, channels, flip)
    _require_new(out)
    with new_folder(out) as folder:
        _save_onnx(_between(original, preprocess, channels, flip), folder / "encoder.onnx")
        _finish_onnx(folder, format, "fp32", None)
        card = Card(
            name=statement.name,
            method=f"{model.name}, made elsewhere",
            trained_on=TrainedOn("not stated", statement.terms, start="not stated"),
            license=statement.license,
            dim=dim,
            preprocess=preprocess,
            format=format,
            precision="fp32",
            files={},
            metric=metric,
            flip=flip,
            limits=deployed.LIMITS,
            crosscam=crosscam.__version__,
        )
        card = _with_files(card, folder, format, "fp32", statement)
        return _prove_and_measure(folder, card, reference, pictures, None, measure, progress)


def prove(
    folder: Path, card: Card, reference: Callable[[Pictures], Vectors], pictures: Pictures
) -> dict[str, Any]:
    """Compare the encoder of ``folder`` with ``reference``, which is given one picture at a time.

    Args:
        folder: an encoder with its card.
        card: that card.
        reference: pictures [1, H, W, 3] to vectors [1, D].
        pictures: uint8 [17, H, W, 3], all of them different.

    Returns:
        What the card says of it: runtimes, batches, largest distance, least cosine, the bound,
        and the largest distance between two of the pictures.

    Raises:
        ExportError: a vector is further away than the bound, or all pictures look alike to the
            network, so that nothing is proven.
    """
    bound = BOUNDS[card.precision]
    truth = np.concatenate([reference(pictures[i : i + 1]) for i in range(len(pictures))])
    if not np.isfinite(truth).all():
        raise ExportError(
            f"the network of {card.name} gives features that are not finite. Train it again."
        )
    spread = float(np.linalg.norm(truth[:, None] - truth[None], axis=2).max())
    if spread <= bound:
        raise ExportError(
            f"the network of {card.name} gives nearly the same vector for {len(pictures)} "
            f"different people (largest distance {spread:.2g}), so nothing can be proven, and it "
            "is of no use. Train it longer or at another rate."
        )
    runtimes = installed(card.format)
    encoders = [Encoder.load(folder, runtime=runtime, device="cpu") for runtime in runtimes]
    proof = {
        "against": f"the network, one picture at a time, float32 (torch {torch.__version__})",
        "runtimes": runtimes,
        "batches": list(BATCHES),
        **_agreement(encoders, truth, pictures, bound),
        "spread": round(spread, 3),
    }
    if card.precision == "fp16":
        encoders = [
            Encoder.load(folder, runtime=runtime, device="cpu", precision="native")
            for runtime in runtimes
        ]
        computed = sorted({encoder.runtime.precision for encoder in encoders} - {"float32"})
        if computed:  # where the processor has 16 bits
            proof["native"] = {
                "computed_in": ", ".join(computed),
                **_agreement(encoders, truth, pictures, NATIVE_BOUND),
            }
    return proof


def _agreement(
    encoders: Sequence[Encoder], truth: Vectors, pictures: Pictures, bound: float
) -> dict[str, Any]:
    """How far the vectors of encoders are from ``truth`` at most, in every batch size."""
    distances, cosines = [], []
    for encoder in encoders:
        card = encoder.card
        for count in BATCHES:
            vectors = encoder.pictures(pictures[:count])
            lengths = np.linalg.norm(vectors, axis=1)
            apart = float(np.linalg.norm(vectors - truth[:count], axis=1).max())
            if not apart <= bound or not (np.abs(lengths - 1) < 1e-3).all():  # NaN too
                raise ExportError(
                    f"the encoder of {card.name} is wrong at batch {count} in "
                    f"{encoder.runtime.name}: a vector is {apart:.2g} away from the network's "
                    f"({card.precision}, computed in {encoder.runtime.precision}, allows "
                    f"{bound:g}), lengths are {lengths.min():.4g} to {lengths.max():.4g}. Nothing "
                    "was written."
                    + (
                        " Give more calibration pictures, or use fp16."
                        if card.precision == "int8"
                        else " Try another format or precision."
                    )
                )
            distances.append(apart)
            cosines.append(float((vectors * truth[:count]).sum(1).min()))
    return {
        "largest_distance": float(f"{max(distances):.3g}"),
        "least_cosine": round(min(min(cosines), 1.0), 7),
        "bound": bound,
    }


def require_packages(format: str) -> None:
    """Raise a ``MissingExtraError`` if a package that writes this format is not installed."""
    needed = {
        "torch": (),
        "onnx": ("onnx", "onnxscript", "onnxruntime"),
        "openvino": ("onnx", "onnxscript", "onnxruntime", "openvino"),
    }[format]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"exporting to {format} needs {', '.join(missing)}: pip install 'crosscam[export]'"
        )


# --- the folder and its card ----------------------------------------------------------------------


def _require_new(out: Path) -> None:
    if out.exists():
        raise InputError(f"{out} exists already: give a new folder, or remove it first.")


def _with_files(
    card: Card, folder: Path, format: Format, precision: Precision, said: Statement | None
) -> Card:
    said = said or Statement()
    on = card.trained_on
    if said.terms:
        on = dataclasses.replace(on, terms=said.terms)
    card = replace(
        card,
        name=said.name or card.name,
        license=said.license or card.license,
        trained_on=on,
        limits=(*card.limits, *said.limits),
        format=format,
        precision=precision,
        files={name: file_entry(folder / name) for name in FILES[format]},
    )
    card.write(folder)
    return card


def _prove_and_measure(
    folder: Path,
    card: Card,
    reference: Callable[[Pictures], Vectors],
    pictures: Path | None,
    network: Embedder | None,
    measure: Dataset | None,
    progress: bool,
) -> Card:
    with torch.inference_mode():
        proof = prove(folder, card, reference, _proof_pictures(pictures, card.preprocess))
        proof["probe"] = probe.write(folder, card.preprocess, reference)
    figures = [*card.figures]
    if measure is not None:
        figure, cosine = _measured(Encoder.load(folder, device="cpu"), network, measure, progress)
        # The run's own figure of the same data is in it already, as a difference.
        figures = [*(f for f in figures if _measured_on(f) != _measured_on(figure)), figure]
        proof |= cosine
    if not figures:
        card = replace(card, limits=(*card.limits, "Not measured on any data set yet."))
    card = replace(card, proof=proof, figures=tuple(figures))
    card.write(folder)
    return card


def _measured_on(figure: Mapping[str, Any]) -> list[Any]:
    keys = ("data", "variant", "same_camera", "ap", "n_queries", "n_gallery", "n_distractors")
    return [figure.get(key) for key in keys]


def _measured(
    encoder: Encoder, network: Embedder | None, dataset: Dataset, progress: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of the encoder on a data set; and its change, and cosines, against the network."""
    own = evaluate(encoder.embedder(), dataset, progress=progress)
    figure = {k: v for k, v in own.summary().items() if k not in NO_FIGURES}
    figure = {"title": dataset.title, **figure}
    figure |= {"precision": encoder.card.precision, "runtime": encoder.runtime.name}
    if network is None:
        return figure, {}
    exact = evaluate(network, dataset, progress=progress)
    figure |= {
        "rank1_change": own.metrics.rank1 - exact.metrics.rank1,
        "mAP_change": own.metrics.mAP - exact.metrics.mAP,
    }
    cosines = np.concatenate(
        [
            (own.query_features * exact.query_features).sum(1),
            (own.gallery_features * exact.gallery_features).sum(1),
        ]
    )
    on = {
        "on": dataset.title,
        "mean": round(float(cosines.mean()), 6),
        "least": round(float(cosines.min()), 6),
    }
    return figure, {"cosine_to_network": on}


def _proof_pictures(folder: Path | None, preprocess: Preprocess) -> Pictures:
    """Different pictures of people, resized: the first of a folder, or rendered ones."""
    count = max(BATCHES)
    if folder is not None:
        files = image_files(folder, deep=True)
        if len(files) < count:
            raise DataError(
                f"{folder} has {counted(len(files), 'picture')}, and the proof takes {count}. Give "
                "another folder, or none for rendered people."
            )
        step = len(files) // count
        return np.stack([preprocess.load(f) for f in files[step - 1 :: step][:count]])
    return np.stack([preprocess.load(crop) for crop in probe.people()])


# --- ONNX -----------------------------------------------------------------------------------------


def _write_onnx(network: deployed.Deployed, size: tuple[int, int], path: Path) -> None:
    example = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():  # of the exporter about itself
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=["pictures"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=_OPSET,
                verbose=False,
            )
    except Exception as error:  # whatever a network has that the exporter cannot follow
        raise ExportError(
            f"the network cannot be written as ONNX ({' '.join(str(error).split())[:500]}). "
            "Use --format torch."
        ) from error
    finally:
        log.setLevel(level)
    assert program is not None
    _save_onnx(program.model_proto, path)


def _save_onnx(model: Any, path: Path) -> None:
    """Write and check a model, without the source lines and paths that the exporter notes."""
    import onnx

    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output,
                 *graph.initializer, *model.functions):  # fmt: skip
        del part.metadata_props[:]
        if part.doc_string:
            part.doc_string = ""
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _finish_onnx(
    folder: Path, format: Format, precision: Precision, calibration: Pictures | None
) -> None:
    """Turn ``encoder.onnx`` into the files of the format and precision."""
    path = folder / "encoder.onnx"
    if calibration is not None:
        _quantize(path, calibration)
    elif precision == "fp16":
        _pair_columns(path)
        if format == "onnx":
            _halve(path)
    if format == "openvino":
        openvino = import_openvino()
        model = openvino.Core().read_model(path)
        openvino.save_model(
            model, folder / FILES["openvino"][0], compress_to_fp16=precision == "fp16"
        )
        path.unlink()


def _pair_columns(path: Path) -> None:
    """Let the first convolution read two neighboring pixels as one of six channels.

    A kernel of 7 x 7 that moves by two pixels becomes one of 7 x 4 pairs (its 8th column is zero)
    that moves by one pair, and the pairs are there already: they lie side by side in memory.  The
    sums are the same.  Three channels fill no vector register; with six, bfloat16 on a CPU takes
    5% less time for all of OSNet x0.25 (``benchmarks/encode.py``).  Graphs that begin in another
    way, or mirror their pictures, stay as they are.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(path))
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    chain, name = [], "pictures"
    for kind in ("Cast", "Sub", "Mul", "Transpose", "Conv"):
        readers = [n for n in graph.node if name in n.input and n.op_type != "Shape"]
        if [n.op_type for n in readers] != [kind] or readers[0].input[0] != name:
            return
        chain.append(readers[0])
        name = readers[0].output[0]
    cast, shift, scale, _, convolution = chain
    _, height, width, _ = (d.dim_value for d in graph.input[0].type.tensor_type.shape.dim)
    how = {a.name: helper.get_attribute_value(a) for a in convolution.attribute}
    kernel = constants.get(convolution.input[1])
    wanted = {"kernel_shape": [7, 7], "strides": [2, 2], "pads": [3] * 4, "dilations": [1, 1]}
    plain = how.get("group", 1) == 1 and how.get("auto_pad", b"NOTSET") == b"NOTSET"
    lists = [constants[n.input[1]] for n in (shift, scale) if n.input[1] in constants]
    if kernel is None or len(lists) < 2 or width % 2 or not plain:
        return
    if {key: how.get(key) for key in wanted} != wanted:
        return
    weights = numpy_helper.to_array(kernel)
    count = len(weights)
    pairs = np.zeros((count, 3, 7, 8), np.float32)
    pairs[..., 1:] = weights  # from pixel -4 on, where pixel -3 was the first
    pairs = pairs.reshape(count, 3, 7, 4, 2).transpose(0, 4, 1, 2, 3).reshape(count, 6, 7, 4)
    changed = [(kernel, pairs), *((t, np.tile(numpy_helper.to_array(t), 2)) for t in lists)]
    for tensor, values in changed:
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    for attribute in [a for a in convolution.attribute if a.name in wanted]:
        convolution.attribute.remove(attribute)
    convolution.attribute.extend(
        helper.make_attribute(key, value)
        for key, value in (("kernel_shape", [7, 4]), ("strides", [2, 1]), ("pads", [3, 2, 3, 1]))
    )
    shape = numpy_helper.from_array(np.array([-1, height, width // 2, 6], np.int64), "pairs_shape")
    graph.initializer.append(shape)
    cast.input[0] = "pairs"
    graph.node.insert(0, helper.make_node("Reshape", ["pictures", "pairs_shape"], ["pairs"]))
    del graph.value_info[:]  # shapes inside, before the change
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _halve(path: Path) -> None:
    """Keep the weights in 16 bits; each is widened where it is read, which runtimes do on loading.

    The computation may then be in whatever the hardware has; a half-precision graph would be
    slower in ONNX Runtime on a CPU than a float32 one.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(path))
    graph = model.graph
    widened = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2:  # biases and constants weigh nothing
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        widened.append(helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*widened, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _quantize(path: Path, pictures: Pictures) -> None:
    """Weights and activations in 8 bits (QDQ), but for what stands around the network."""
    import onnx

    import_onnxruntime()  # before anything of it is imported
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter([pictures[i : i + 8] for i in range(0, len(pictures), 8)])

        def get_next(self) -> dict[str, Pictures] | None:
            some = next(self.batches, None)
            return None if some is None else {"pictures": some}

    ready = path.with_name("ready.onnx")
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
        exact = [n.name for n in _outside(onnx.load(str(ready)))]
        quantize_static(
            str(ready),
            str(path),
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=exact,
        )
        onnx.save(_shared(onnx.load(str(path))), str(path))
    finally:
        log.setLevel(level)
        ready.unlink(missing_ok=True)


def _shared(model: Any) -> Any:
    """The model with one copy of equal weights; fused layers give the mirrored picture its own."""
    from onnx import numpy_helper

    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    name_of: dict[str, str] = {}
    weights = list(model.graph.initializer)
    for weight in weights:
        content = numpy_helper.to_array(weight).tobytes()
        name_of[weight.name] = first.setdefault(
            (weight.data_type, tuple(weight.dims), content), weight.name
        )
    del model.graph.initializer[:]
    model.graph.initializer.extend(w for w in weights if name_of[w.name] == w.name)
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = name_of.get(name, name)
    return model


def _outside(model: Any) -> list[Any]:
    """The nodes before the first and behind the last product with weights."""
    nodes = list(model.graph.node)
    inner = [i for i, n in enumerate(nodes) if n.op_type in ("Conv", "Gemm", "MatMul")]
    return nodes[: inner[0]] + nodes[inner[-1] + 1 :] if inner else nodes


def _calibration(folder: Path | None, preprocess: Preprocess) -> Pictures | None:
    if folder is None:
        return None
    files = image_files(folder, deep=True)
    if len(files) < 16:
        raise DataError(
            f"{folder} has {counted(len(files), 'picture')}; calibration needs 16 or more, better "
            "200. Give pictures like those that the encoder will see."
        )
    step = max(1, len(files) // _CALIBRATION)
    return np.stack([preprocess.load(f) for f in files[::step][:_CALIBRATION]])


# --- models of others -----------------------------------------------------------------------------


def _read_foreign(path: Path, size: tuple[int, int]) -> tuple[Any, int]:
    """The model with a free batch, and the length of its features."""
    import onnx

    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        what = "no ONNX file" if not path.is_file() else "external data is missing"
        raise CheckpointError(
            f"{path}: {what} ({error}). Put the file, and all that came with it, in one folder."
        ) from error
    except Exception as error:  # protobuf, checker
        said = " ".join(str(error).split())[:300]
        missing = "external data" in said.lower() or "should be stored in" in said
        raise CheckpointError(
            f"{path} cannot be read as an ONNX model ({said}). "
            + (
                "Put the data file that came with it into the same folder."
                if missing
                else "Copy it again."
            )
        ) from error
    graph = model.graph
    constants = {i.name for i in graph.initializer}
    inputs = [i for i in graph.input if i.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise CheckpointError(
            f"{path} has {counted(len(inputs), 'input')} and "
            f"{counted(len(graph.output), 'output')}; a re-identification model has one of each. "
            "Cut the model to its features."
        )
    for value, place in ((inputs[0], "takes"), (graph.output[0], "gives")):
        kind = value.type.tensor_type.elem_type
        if kind != onnx.TensorProto.FLOAT:
            name = onnx.TensorProto.DataType.Name(kind)
            raise CheckpointError(f"{path} {place} {name}, and float32 is needed.")
    shape = [d.dim_value or None for d in inputs[0].type.tensor_type.shape.dim]
    if len(shape) != 4 or shape[1] not in (3, None):
        raise CheckpointError(
            f"{path} takes {shape}; a model of pictures takes [N, 3, height, width]."
        )
    if any(have not in (want, None) for have, want in zip(shape[2:], size, strict=True)):
        raise InputError(
            f"{path} takes pictures of {shape[2]}x{shape[3]}, and {size[0]}x{size[1]} (height x "
            "width) was stated: state the size of the model."
        )
    for value in (inputs[0], graph.output[0]):
        value.type.tensor_type.shape.dim[0].ClearField("dim_value")
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]  # shapes inside, with the old batch
    dims = [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim]
    out = _foreign_run(path)(np.zeros((1, 3, *size), np.float32))
    if out.ndim != 2:
        raise CheckpointError(
            f"{path} gives {list(out.shape)} (declared {dims}); features are [N, D]. Cut the model "
            "to its features."
        )
    return model, int(out.shape[1])


def _between(model: Any, preprocess: Preprocess, channels: str, flip: bool) -> Any:
    """The model with normalization before it and the unit length behind it."""
    import onnx
    from onnx import compose, helper, numpy_helper

    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset < 13:
        model = onnx.version_converter.convert_version(model, 13)
        opset = 13
    model = compose.add_prefix(model, "inner/")
    constants = {i.name for i in model.graph.initializer}
    inner_in = next(i for i in model.graph.input if i.name not in constants)
    inner_out = model.graph.output[0]
    height, width = preprocess.size
    shift, scale = preprocess.shift_and_scale()
    order = np.array([2, 1, 0] if channels == "bgr" else [0, 1, 2], np.int64)
    weights: dict[str, npt.NDArray[Any]] = {
        "shift": shift, "scale": scale, "order": order,
        "axis": np.array([1], np.int64), "smallest": np.array(1e-12, np.float32),
        "mirror_start": np.array([-1], np.int64), "mirror_end": np.array([-(2**31)], np.int64),
        "mirror_axis": np.array([3], np.int64), "zero": np.array([0], np.int64),
        "two": np.array([2], np.int64), "half": np.array([2, -1, inner_dim(inner_out)], np.int64),
    }  # fmt: skip
    node = helper.make_node
    before = [
        node("Cast", ["pictures"], ["float"], to=onnx.TensorProto.FLOAT),
        node("Sub", ["float", "shift"], ["shifted"]),
        node("Mul", ["shifted", "scale"], ["scaled"]),
        node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        node("Gather", ["planes", "order"], ["ordered"], axis=1),
    ]
    if flip:
        before += [
            node("Slice", ["ordered", "mirror_start", "mirror_end", "mirror_axis", "mirror_start"],
                 ["mirrored"]),
            node("Concat", ["ordered", "mirrored"], [inner_in.name], axis=0),
        ]  # fmt: skip
    else:
        before.append(node("Identity", ["ordered"], [inner_in.name]))

    def unit(source: str, to: str) -> list[Any]:
        return [
            node("Mul", [source, source], [f"{to}_squares"]),
            node("ReduceSum", [f"{to}_squares", "axis"], [f"{to}_sum"], keepdims=1),
            node("Sqrt", [f"{to}_sum"], [f"{to}_length"]),
            node("Max", [f"{to}_length", "smallest"], [f"{to}_divisor"]),
            node("Div", [source, f"{to}_divisor"], [to]),
        ]

    if flip:
        behind = [
            *unit(inner_out.name, "units"),
            node("Reshape", ["units", "half"], ["halves"]),
            node("ReduceSum", ["halves", "zero"], ["sum"], keepdims=0),
            *unit("sum", "features"),
        ]
    else:
        behind = unit(inner_out.name, "features")
    used = {name for n in (*before, *behind) for name in n.input}
    graph = helper.make_graph(
        [*before, *model.graph.node, *behind],
        "encoder",
        [helper.make_tensor_value_info(
            "pictures", onnx.TensorProto.UINT8, ["batch", height, width, 3])],
        [helper.make_tensor_value_info(
            "features", onnx.TensorProto.FLOAT, ["batch", inner_dim(inner_out)])],
        [*model.graph.initializer,
         *(numpy_helper.from_array(v, k) for k, v in weights.items() if k in used)],
    )  # fmt: skip
    whole = helper.make_model(
        graph, opset_imports=list(model.opset_import), functions=list(model.functions)
    )
    whole.ir_version = max(8, model.ir_version)
    return whole


def inner_dim(value: Any) -> int:
    """D of an output [batch, D], 0 where the file does not say."""
    return int(value.type.tensor_type.shape.dim[1].dim_value)


def _foreign_run(path: Path) -> Callable[[Vectors], Vectors]:
    onnxruntime = import_onnxruntime()
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its own tree of errors
        raise CheckpointError(
            f"{path} cannot be run by ONNX Runtime ({' '.join(str(error).split())[:300]})."
        ) from error
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0], np.float32)


def _foreign_reference(
    path: Path, preprocess: Preprocess, channels: str, flip: bool
) -> Callable[[Pictures], Vectors]:
    """What the model itself gives for one picture: the definition, step by step in NumPy."""
    run = _foreign_run(path)

    def reference(pictures: Pictures) -> Vectors:
        images = preprocess.normalize(pictures)
        if channels == "bgr":
            images = np.ascontiguousarray(images[:, ::-1])
        features = of_unit_length(run(images))
        if flip:
            mirrored = of_unit_length(run(np.ascontiguousarray(images[..., ::-1])))
            features = of_unit_length(features + mirrored)
        return features

    return reference
