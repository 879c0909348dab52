"""What the weights themselves tell: not finite, constant, or as a network is before training.

A backbone or head that was loaded in part keeps, in what was not loaded, the values that a
framework starts with.  Two of these have a signature that no training keeps: running statistics of
zero and one, and a uniform distribution that ends exactly at 1 / sqrt(inputs) (PyTorch's linear and
convolution layers) or at sqrt(6 / (inputs + outputs)) (Glorot).  Normal distributions have none:
a network that was trained from scratch for some epochs still shows the deviations it began with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.card import FILES, Card
from crosscam.optional import import_openvino

__all__ = ["Suspects", "Weights", "read", "suspects"]

Array = npt.NDArray[Any]

_LEAST_UNIFORM = 256  # numbers that a verdict needs


@dataclass
class Weights:
    """What an encoder's files hold."""

    tensors: dict[str, Array] = field(default_factory=dict)
    products: dict[str, tuple[Array, int, int]] = field(default_factory=dict)
    """Weights of convolutions and linear layers, with the number of inputs and outputs of each."""
    statistics: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    """Running mean and variance of batch normalizations."""


@dataclass(frozen=True)
class Suspects:
    """Names of layers with something wrong."""

    broken: tuple[str, ...]
    constant: tuple[str, ...]
    untouched: tuple[str, ...]
    uniform: tuple[str, ...]
    products: int
    statistics: int


def read(folder: Path, card: Card, unread: Sequence[str] = ()) -> Weights:
    """The weights of an encoder or run.

    Args:
        folder: where its files are.
        card: its card.
        unread: parameters of a run that ``embed`` does not read.

    Raises:
        ImportError: an ONNX file, and the package onnx is not installed.
    """
    file = folder / FILES[card.format][0]
    if card.format == "torch":
        return _of_torch(file, set(unread))
    return _of_onnx(file) if card.format == "onnx" else _of_openvino(file)


def suspects(weights: Weights) -> Suspects:
    """Judge all layers."""
    finite = {k: bool(np.isfinite(v).all()) for k, v in weights.tensors.items()}
    whole = {k: v for k, v in weights.products.items() if finite.get(k, True)}
    return Suspects(
        broken=tuple(k for k, fine in finite.items() if not fine),
        constant=tuple(k for k, (w, _, _) in whole.items() if w.size > 1 and np.ptp(w) == 0),
        untouched=tuple(
            k
            for k, (mean, var) in weights.statistics.items()
            if not mean.any() and (var == 1).all()
        ),
        uniform=tuple(k for k, (w, i, o) in whole.items() if is_uniform(w, i, o)),
        products=len(weights.products),
        statistics=len(weights.statistics),
    )


def is_uniform(weight: Array, inputs: int, outputs: int) -> bool:
    """Whether a weight is as PyTorch or Glorot's rule draw it, uniformly.

    Of n draws in [-b, b] the largest falls short of b by more than 10 b / n once in e^10 times,
    and the deviation is b / sqrt(3) within 5 sqrt(0.2 / n) of it: numbers that training moves.
    """
    values = np.abs(weight.astype(np.float64).ravel())
    n = values.size
    if n < _LEAST_UNIFORM:
        return False
    top, spread = float(values.max()), float(np.sqrt((values**2).mean()))
    for bound in (1 / math.sqrt(inputs), math.sqrt(6 / (inputs + outputs))):
        reaches = bound * (1 - 10 / n) <= top <= bound * (1 + 1e-3)
        if reaches and abs(spread * math.sqrt(3) / bound - 1) < 5 * math.sqrt(0.2 / n):
            return True
    return False


def _of_torch(file: Path, unread: set[str]) -> Weights:
    from safetensors.numpy import load_file

    found = Weights({k: v for k, v in load_file(file).items() if k not in unread})
    for name, value in found.tensors.items():
        if value.ndim in (2, 4) and name.endswith("weight"):
            found.products[name] = _product(value)
        elif name.endswith(".running_mean"):
            var = found.tensors.get(name.replace("running_mean", "running_var"))
            if var is not None:
                found.statistics[name.removesuffix(".running_mean")] = (value, var)
    return found


def _of_onnx(file: Path) -> Weights:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(file)).graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    found = Weights({k: v for k, v in arrays.items() if np.issubdtype(v.dtype, np.floating)})
    # Weights in 16 bits are widened, and those in 8 bits are scaled, before they are used.
    source = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Cast"}
    for node in graph.node:
        inputs = [source.get(name, name) for name in node.input]
        if node.op_type in ("Conv", "Gemm", "MatMul") and len(inputs) > 1:
            value = found.tensors.get(inputs[1])
            if value is None or value.ndim not in (2, 4):
                continue
            flipped = any(a.name == "transB" and a.i for a in node.attribute)
            turned = value.ndim == 2 and not flipped
            found.products[inputs[1]] = _product(value.T if turned else value)
        elif node.op_type == "BatchNormalization" and all(n in arrays for n in inputs[3:5]):
            name = inputs[3].removesuffix(".running_mean")
            found.statistics[name] = (arrays[inputs[3]], arrays[inputs[4]])
    return found


def _of_openvino(file: Path) -> Weights:
    """Batch normalizations are merged into their neighbors there, so their statistics are gone."""
    found = Weights()
    for op in import_openvino().Core().read_model(file).get_ops():
        if op.get_type_name() != "Constant" or not op.get_element_type().is_real():
            continue
        value = np.array(op.data)
        found.tensors[op.get_friendly_name()] = value
        if value.ndim == 4 and value.size >= _LEAST_UNIFORM:
            found.products[op.get_friendly_name()] = _product(value)
    return found


def _product(value: Array) -> tuple[Array, int, int]:
    """A weight [outputs, inputs, ...] with its numbers of inputs and outputs."""
    window = math.prod(value.shape[2:])
    return value, value.shape[1] * window, value.shape[0] * window
