"""Layers with a quick second derivative, against PyTorch's and finite differences."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from crosscam.methods import BackboneSettings
from crosscam.methods.msfl import MSFL
from crosscam.nn.twice import QuickTwice, batch_norm, conv2d
from crosscam.types import Batch

SHAPES = [(5, 3), (4, 3, 5, 2)]


def rows(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    made = torch.Generator().manual_seed(1)
    return tuple(  # type: ignore[return-value]
        torch.randn(size, dtype=torch.float64, generator=made).requires_grad_()
        for size in (shape, 3, 3)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_both_derivatives_agree_with_finite_differences(shape: tuple[int, ...]) -> None:
    def quick(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return batch_norm(x, None, None, weight, bias, 0.1, 1e-2)

    assert torch.autograd.gradcheck(quick, rows(shape))
    assert torch.autograd.gradgradcheck(quick, rows(shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("uses", ["x", "weight", "bias", "all"])
def test_second_derivatives_are_those_of_pytorch(shape: tuple[int, ...], uses: str) -> None:
    def second(mode: contextlib.AbstractContextManager[object]) -> tuple[Tensor, ...]:
        inputs = rows(shape)
        with mode:
            y = F.batch_norm(inputs[0], None, None, *inputs[1:], True)
        loss = y.pow(3).sum() + (y * y.roll(1, 0)).sum()
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        parts = dict(zip(("x", "weight", "bias"), first, strict=True))
        chosen = parts.values() if uses == "all" else [parts[uses]]
        total = torch.stack([g.pow(2).sum() for g in chosen]).sum() + y.sin().sum()
        return torch.autograd.grad(total, inputs)

    for ours, theirs in zip(second(QuickTwice()), second(contextlib.nullcontext()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_running_statistics_and_outputs_are_those_of_the_layer() -> None:
    x = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(1))
    layer, same = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    with QuickTwice():
        y = layer(x)
        frozen = layer.eval()(x)
    assert torch.equal(y, same(x))
    assert torch.equal(frozen, same.eval()(x))
    for name, value in same.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value), name
    assert "Normalize" in type(y.grad_fn).__name__
    assert "Normalize" not in type(frozen.grad_fn).__name__


def test_in_bfloat16_it_is_at_least_as_exact_as_pytorch() -> None:
    made = torch.Generator().manual_seed(1)
    x, g, v = (torch.randn(16, 8, 8, 4, generator=made).bfloat16() for _ in range(3))
    weight = torch.rand(8, generator=made) + 0.5

    def second(
        kind: torch.dtype, mode: contextlib.AbstractContextManager[object]
    ) -> tuple[Tensor, ...]:
        # Weights of a layer stay wide where its maps are bfloat16, as inside autocast.
        wide = torch.float64 if kind == torch.float64 else torch.float32
        inputs = (x.to(kind), weight.to(wide), torch.zeros(8, dtype=wide))
        inputs = tuple(t.requires_grad_() for t in inputs)
        outer = g.to(kind).requires_grad_()
        with mode:
            y = F.batch_norm(inputs[0], None, None, *inputs[1:], True)
        (gx,) = torch.autograd.grad(y, inputs[0], outer, create_graph=True)
        return torch.autograd.grad(gx, (inputs[0], inputs[1], outer), v.to(kind))

    truth = second(torch.float64, contextlib.nullcontext())
    ours = second(torch.bfloat16, QuickTwice())
    theirs = second(torch.bfloat16, contextlib.nullcontext())
    for exact, near, far in zip(truth, ours, theirs, strict=True):
        assert (near.double() - exact).norm() <= 1.1 * (far.double() - exact).norm()
        assert (near.double() - exact).norm() < 0.01 * exact.norm()


# --- convolutions -------------------------------------------------------------------------------

Settings = dict[str, Any]
WAYS: list[Settings] = [
    {"padding": 1},
    {"stride": (2, 1), "padding": (1, 2), "groups": 2},
    {"stride": 2, "dilation": (1, 2), "padding": 1},
]


def maps(settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    made = torch.Generator().manual_seed(1)
    sizes = [(3, 4, 6, 5), (6, 4 // settings.get("groups", 1), 3, 2), (6,)]
    return tuple(  # type: ignore[return-value]
        torch.randn(size, dtype=torch.float64, generator=made).requires_grad_() for size in sizes
    )


@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_convolutions_agree_with_finite_differences(settings: Settings) -> None:
    def quick(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return conv2d(x, weight, bias, **settings)

    assert torch.autograd.gradcheck(quick, maps(settings))
    assert torch.autograd.gradgradcheck(quick, maps(settings))


@pytest.mark.parametrize("settings", WAYS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_loss_on_gradients_of_maps_teaches_convolutions_as_pytorch_does(
    settings: Settings, bias: bool
) -> None:
    def second(mode: contextlib.AbstractContextManager[object]) -> tuple[Tensor, ...]:
        inputs = maps(settings)[: 2 + bias]
        with mode:
            y = F.conv2d(*inputs, **settings)
        [first] = torch.autograd.grad(y.pow(3).sum(), inputs[0], create_graph=True)
        return torch.autograd.grad(first.pow(2).sum() + y.sin().sum(), inputs)

    found, wanted = second(QuickTwice()), second(contextlib.nullcontext())
    assert len(found) == 2 + bias
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_weights_get_no_gradient_that_will_be_differentiated() -> None:
    x, weight, bias = maps(WAYS[0])
    with QuickTwice():
        y = F.conv2d(x, weight, bias, padding=1)
    asked = (x, weight, bias)
    of = torch.autograd.grad(y.sum(), asked, create_graph=True, allow_unused=True)
    assert of[0] is not None
    assert of[1:] == (None, None)
    assert all(g is not None for g in torch.autograd.grad(y.sum(), asked))


def test_in_autocast_it_computes_what_the_layer_computes() -> None:
    layer, same = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(4, 8, 3, padding="same")
    same.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        plain = layer(x)
        with QuickTwice():
            quick, by_word = layer(x), same(x)
    assert quick.dtype == torch.bfloat16
    assert torch.equal(quick, plain)
    assert torch.equal(by_word, plain)
    assert "Convolve" in type(quick.grad_fn).__name__
    assert "Convolve" not in type(by_word.grad_fn).__name__


class Kernels(TorchDispatchMode):
    """Collects the sizes of the kernels of all convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.sizes.add(tuple(args[1].shape[2:]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("adversarial", [False, True])
def test_no_convolution_of_msgr_has_a_kernel_as_large_as_a_map(adversarial: bool) -> None:
    small = BackboneSettings("resnet18", width=0.125)
    method = MSFL(
        4, backbone=small, width=8, refine_width=8, embedding=8,
        msgr=0.1, msgr_adversarial=adversarial,
    )  # fmt: skip
    pids = torch.arange(4).repeat(2)
    batch = Batch(torch.randn(8, 3, 64, 32), pids, torch.zeros(8))
    own = {tuple(m.kernel_size) for m in method.modules() if isinstance(m, nn.Conv2d)}
    with Kernels() as kernels:
        torch.stack(list(method(batch, 0).values())).sum().backward()
    assert kernels.sizes == own


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kind", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_a_gpu_gives_the_same(order: torch.memory_format, kind: torch.dtype, most: float) -> None:
    """Both derivatives, beside those in float64 on the host; v in the other order than x."""
    made = torch.Generator().manual_seed(1)
    x, g, v = (torch.randn(16, 8, 8, 4, generator=made).to(kind) for _ in range(3))
    weight = torch.rand(8, generator=made) + 0.5

    def second(wide: torch.dtype, narrow: torch.dtype, device: str) -> tuple[Tensor, ...]:
        maps = x.to(device, narrow).to(memory_format=order).requires_grad_()
        outer = g.to(device, narrow).to(memory_format=order).requires_grad_()
        scale = weight.to(device, wide).requires_grad_()
        y = batch_norm(maps, None, None, scale, torch.zeros_like(scale), 0.1, 1e-5)
        [first] = torch.autograd.grad(y, maps, outer, create_graph=True)
        loss = (first * v.to(device, narrow)).sum(dtype=wide)
        return torch.autograd.grad(loss, (maps, outer, scale))

    on_gpu = second(torch.float32, kind, "cuda")
    for found, wanted in zip(on_gpu, second(torch.float64, torch.float64, "cpu"), strict=True):
        error = (found.cpu().double() - wanted).norm() / wanted.norm()
        assert error < most
