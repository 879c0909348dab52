"""What a method costs: parameters in training and deployed, multiply-adds, sizes.

Counted by running ``embed`` once on one blank picture and watching every tensor operation, so
the figures are of what is executed, not of what a formula says about the architecture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crosscam.errors import InputError

__all__ = ["Description", "describe"]


@dataclass(frozen=True)
class Description:
    """The cost of a method.  All figures are for one picture of ``input_size``."""

    params_train: int  # all parameters, with auxiliary heads, classifiers and centers
    params_deploy: int  # those that ``embed`` reads
    macs: int  # multiply-adds of ``embed``: convolutions, linear layers, matrix products
    input_size: tuple[int, int]  # height, width in pixels
    feature_dim: int  # length D of the feature

    def to_json(self) -> str:
        """The figures as a JSON object, keys as the fields."""
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        height, width = self.input_size
        return "\n".join(
            (
                f"parameters, training   {self.params_train / 1e6:10.3f} M",
                f"parameters, deployed   {self.params_deploy / 1e6:10.3f} M",
                f"multiply-adds          {self.macs / 1e9:10.3f} G",
                f"input, height x width  {height:6d} x {width}",
                f"feature                {self.feature_dim:10d}",
            )
        )


def describe(method: nn.Module, input_size: tuple[int, int] = (256, 128)) -> Description:
    """Counts parameters and multiply-adds of ``method`` for pictures of ``input_size``.

    A parameter is deployed if ``embed`` reads it.  Buffers (running statistics) are no
    parameters; a frozen parameter is one.  A multiply-add is one product inside a convolution,
    linear layer, matrix product or attention; biases, normalization, activations and pooling are
    not counted, as is the custom in the field.

    Args:
        method: any module with ``embed(images [B, 3, H, W]) -> [B, D]``.  It is run in evaluation
            mode without gradients and left in the modes it had.
        input_size: height and width in pixels.

    Raises:
        InputError: no ``embed``, a size that is not positive, or an ``embed`` that does not
            return [B, D].
    """
    embed: Callable[[Tensor], Tensor] | None = getattr(method, "embed", None)
    if embed is None:
        raise InputError(
            f"describe needs a module with embed(images), got {type(method).__name__}."
        )
    if len(input_size) != 2 or min(input_size) < 1:
        raise InputError(f"input_size must be (height, width) in pixels, got {input_size}.")
    parameters = list(method.parameters())
    where = parameters[0].device if parameters else torch.device("cpu")
    images = torch.zeros(1, 3, *input_size, device=where)
    modes = [(module, module.training) for module in method.modules()]
    try:
        method.eval()
        with torch.no_grad(), _Watch(parameters) as watch:
            features = embed(images)
    except RuntimeError as error:  # a map that shrinks to nothing
        size = f"{input_size[0]} x {input_size[1]}"
        raise InputError(f"pictures of {size} pixels do not fit this network: {error}") from error
    finally:
        for module, training in modes:
            module.training = training
    if features.ndim != 2 or features.shape[0] != 1:
        raise InputError(
            f"embed must turn images [1, 3, H, W] into [1, D], got {list(features.shape)}."
        )
    return Description(
        params_train=sum(p.numel() for p in parameters),
        params_deploy=sum(p.numel() for p in parameters if id(p) in watch.read),
        macs=watch.macs,
        input_size=(input_size[0], input_size[1]),
        feature_dim=features.shape[1],
    )


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation below autograd; counts products and notes the parameters read."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self.read: set[int] = set()
        self._known = {id(p) for p in parameters}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.read.update(
            id(leaf)
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor) and id(leaf) in self._known
        )
        count = _PRODUCTS.get(func.overloadpacket)
        if count is not None:
            self.macs += count(args, result)
        return result


def _convolution(args: tuple[Any, ...], result: Tensor) -> int:
    images, weight, transposed = args[0], args[1], args[6]
    # Each cell of the output (of the input, if transposed) meets one filter's worth of weights:
    # weight is [out, in / groups, ...], or [in, out / groups, ...] if transposed.
    cells: Tensor = images if transposed else result
    return cells.numel() * int(math.prod(weight.shape[1:]))


def _product(position: int) -> Callable[[tuple[Any, ...], Tensor], int]:
    """Counter of a matrix product whose left factor is argument number ``position``."""
    return lambda args, result: result.numel() * int(args[position].shape[-1])


def _attention(args: tuple[Any, ...], _: Any) -> int:
    query, key, value = args[:3]  # [B, heads, L, E], [B, heads, S, E], [B, heads, S, F]
    pairs = int(math.prod(query.shape[:-1])) * int(key.shape[-2])
    return pairs * int(query.shape[-1] + value.shape[-1])


_aten = torch.ops.aten
_PRODUCTS: dict[Any, Callable[[tuple[Any, ...], Any], int]] = {
    _aten.convolution: _convolution,
    _aten.mm: _product(0),
    _aten.bmm: _product(0),
    _aten.mv: _product(0),
    _aten.dot: _product(0),
    _aten.addmm: _product(1),
    _aten.addmv: _product(1),
    _aten.baddbmm: _product(1),
}
for _name in (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
):
    if hasattr(_aten, _name):  # which of them exist depends on the version of torch
        _PRODUCTS[getattr(_aten, _name)] = _attention
