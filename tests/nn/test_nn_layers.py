"""Layers against their formulas."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from crosscam.errors import InputError
from crosscam.nn.layers import (
    IBN,
    BNNeck,
    GeM,
    InstanceNorm,
    global_avg_pool,
    global_max_pool,
    init_kaiming,
    init_norm,
    init_normal,
    init_xavier,
    narrow_in_float32,
)


def maps(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(2, 3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=dtype) + 0.1


class TestPooling:
    def test_average_and_maximum_by_hand(self) -> None:
        x = torch.tensor([[[[1.0, 2.0], [3.0, 10.0]], [[-1.0, -2.0], [-3.0, -4.0]]]])
        assert global_avg_pool(x).tolist() == [[4.0, -2.5]]
        assert global_max_pool(x).tolist() == [[10.0, -1.0]]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_average_has_the_bits_of_a_plain_mean(
        self, dtype: torch.dtype, layout: torch.memory_format
    ) -> None:
        """Value and gradient, also where pictures go a few at a time (a batch of 5 in 3 parts)."""
        random = torch.Generator().manual_seed(0)
        x = torch.randn(5, 512, 32, 16, generator=random).to(dtype).to(memory_format=layout)
        weight = torch.randn(5, 512, generator=random)
        results = []
        for pool in (global_avg_pool, lambda m: m.mean((2, 3), dtype=torch.float32)):
            leaf = x.clone().requires_grad_()
            y = pool(leaf.relu())
            (gradient,) = torch.autograd.grad((y * weight).sum(), leaf)
            results.append((y, gradient, pool(x)))
        for mine, theirs in zip(*results, strict=True):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs)

    def test_average_can_be_differentiated_twice(self) -> None:
        x = maps().requires_grad_()
        assert torch.autograd.gradcheck(global_avg_pool, x)
        assert torch.autograd.gradgradcheck(lambda x: global_avg_pool(x.square()).square(), x)

    def test_gem_naive(self) -> None:
        x, pool = maps(), GeM(3.0)
        got = pool(x)
        for b in range(2):
            for c in range(3):
                cells = x[b, c].flatten().tolist()
                want = (sum(v**3 for v in cells) / 8) ** (1 / 3)
                assert got[b, c].item() == pytest.approx(want, rel=1e-12)

    def test_gem_lies_between_average_and_maximum(self) -> None:
        x = maps()
        torch.testing.assert_close(GeM(1.0)(x), global_avg_pool(x))
        # The mean of n values to the p is at least max^p / n, so the ratio is at least n^(-1/p).
        ratio = GeM(200.0)(x) / global_max_pool(x)
        assert (ratio >= 8 ** (-1 / 200) - 1e-12).all()
        assert (ratio <= 1 + 1e-12).all()

    def test_gem_learns_its_exponent(self) -> None:
        x, pool = maps().requires_grad_(), GeM(2.5).double()

        def call(x: Tensor, p: Tensor) -> Tensor:
            return torch.func.functional_call(pool, {"p": p}, (x,))

        p = pool.p.detach().requires_grad_()
        assert torch.autograd.gradcheck(call, (x, p))
        assert torch.autograd.gradgradcheck(call, (x, p))
        assert pool.p.requires_grad
        assert not GeM(learnable=False).p.requires_grad

    def test_gem_of_negative_and_zero_cells_is_finite(self) -> None:
        x = torch.tensor([[[[-1.0, 0.0]]]], requires_grad=True)
        pool = GeM()
        pool(x).sum().backward()
        assert pool(x).item() == pytest.approx(1e-6, rel=1e-4)
        assert pool.p.grad is not None
        assert torch.isfinite(pool.p.grad)

    @pytest.mark.parametrize("pool", [global_avg_pool, global_max_pool, GeM()])
    @pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
    def test_float32_out_of_half_precision(self, pool: nn.Module, half: torch.dtype) -> None:
        x = maps(torch.float32).to(half) * 200  # 200^3 overflows float16
        with torch.autocast("cpu", torch.bfloat16):
            got = pool(x)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, pool(x.float()))

    def test_shape_is_checked(self) -> None:
        for pool in (global_avg_pool, global_max_pool, GeM()):
            with pytest.raises(InputError, match=r"\[2, 3\]"):
                pool(torch.zeros(2, 3))
        with pytest.raises(InputError, match="p=0"):
            GeM(0)


class TestBNNeck:
    def test_normalizes_and_keeps_its_bias(self) -> None:
        x = torch.tensor([[1.0], [2.0], [6.0]])
        neck = BNNeck(1)
        want = (x - 3) / math.sqrt(14 / 3 + 1e-5)
        torch.testing.assert_close(neck(x), want)
        assert [name for name, p in neck.named_parameters() if p.requires_grad] == ["weight"]
        assert neck.bias.tolist() == [0.0]
        assert neck.weight.tolist() == [1.0]

    def test_sync_conversion_keeps_the_bias_frozen(self) -> None:
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(BNNeck(3)))
        assert not converted[0].bias.requires_grad


class TestIBN:
    def test_halves(self) -> None:
        x = maps()
        layer = IBN(3).double()  # one channel per picture, two per batch
        got = layer(x)
        for b in range(2):
            cells = x[b, 0]
            want = (cells - cells.mean()) / (cells.var(unbiased=False) + 1e-5).sqrt()
            torch.testing.assert_close(got[b, 0], want)
        rest = x[:, 1:]
        mean = rest.mean((0, 2, 3), keepdim=True)
        var = rest.var((0, 2, 3), unbiased=False, keepdim=True)
        torch.testing.assert_close(got[:, 1:], (rest - mean) / (var + 1e-5).sqrt())

    @pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
    @pytest.mark.parametrize("layer", [IBN(6), InstanceNorm(6)])
    def test_order_in_memory_is_kept(self, layer: nn.Module, order: torch.memory_format) -> None:
        # Or every convolution behind it puts its maps in order, which doubles a training step.
        x = torch.randn(2, 6, 4, 3).contiguous(memory_format=order).requires_grad_()
        got = layer(x)
        assert got.is_contiguous(memory_format=order)
        torch.testing.assert_close(got, layer(x.detach().contiguous()))

    def test_too_few_channels(self) -> None:
        with pytest.raises(InputError, match="at least 2"):
            IBN(1)


class TestInit:
    def test_standard_deviations(self) -> None:
        torch.manual_seed(0)
        conv = nn.Conv2d(64, 128, 3)
        fan_in, fan_out = 64 * 9, 128 * 9
        # 73,728 draws: the sample deviation is within 1.5 % of the true one (over 5 sigma).
        assert init_normal(conv).weight.std().item() == pytest.approx(0.001, rel=0.015)
        assert init_normal(conv, 0.01).weight.std().item() == pytest.approx(0.01, rel=0.015)
        assert init_kaiming(conv).weight.std().item() == pytest.approx(
            math.sqrt(2 / fan_out), rel=0.015
        )
        assert init_kaiming(conv, "fan_in").weight.std().item() == pytest.approx(
            math.sqrt(2 / fan_in), rel=0.015
        )
        assert init_xavier(conv).weight.std().item() == pytest.approx(
            0.02 * math.sqrt(2 / (fan_in + fan_out)), rel=0.015
        )
        assert torch.equal(conv.bias, torch.zeros(128))

    def test_reaches_every_layer_and_leaves_the_rest(self) -> None:
        net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Sequential(nn.Linear(8, 8)))
        assert init_normal(net, 0.0) is net
        assert not net[0].weight.any()
        assert not net[2][0].weight.any()
        assert torch.equal(net[1].weight, torch.ones(8))

    def test_norm(self) -> None:
        torch.manual_seed(0)
        norm = init_norm(nn.BatchNorm2d(20_000), 0.02)
        assert norm.weight.mean().item() == pytest.approx(1.0, abs=0.001)
        assert norm.weight.std().item() == pytest.approx(0.02, rel=0.03)
        assert not norm.bias.any()
        assert torch.equal(init_norm(nn.BatchNorm1d(3)).weight, torch.ones(3))


class TestNarrow:
    """bfloat16 on a CPU, where oneDNN's strided convolutions fail on maps one cell wide."""

    @staticmethod
    def outcome(
        convolution: nn.Module, x: Tensor, half: bool, g: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output, and gradients of input and weight for ``g``."""
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = convolution(leaf)
        gradients = torch.autograd.grad(
            y, [leaf, convolution.weight], torch.ones_like(y) if g is None else g.to(y.dtype)
        )
        return (y, *gradients)

    @staticmethod
    def given(width: int) -> tuple[nn.Conv2d, Tensor]:
        torch.manual_seed(0)
        convolution = nn.Conv2d(64, 64, 3, 2, padding=1, bias=False)
        x = torch.randn(64, 64, 4, width)
        like = torch.channels_last
        return convolution.to(memory_format=like), x.to(memory_format=like)  # type: ignore[call-overload]

    @pytest.mark.parametrize("width", [1, 2])
    def test_to_one_cell_the_sums_are_those_of_float32(self, width: int) -> None:
        convolution, x = self.given(width)
        g = torch.randn(64, 64, 2, 1).bfloat16()
        want = self.outcome(convolution, x, False, g)
        narrow_in_float32(nn.Sequential(convolution))
        got = self.outcome(convolution, x, True, g)
        assert got[0].dtype == torch.bfloat16
        for mine, theirs in zip(got, want, strict=True):
            assert torch.equal(mine, theirs.to(mine.dtype))

    def test_classes_of_their_own_are_guarded_too(self) -> None:
        class PadsItself(nn.Conv2d):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))

        torch.manual_seed(0)
        layer = PadsItself(64, 64, 3, 2, bias=False)
        x = torch.randn(8, 64, 4, 2)
        want = layer(x)
        narrow_in_float32(layer)
        narrow_in_float32(layer)  # which changes nothing more
        assert isinstance(layer, PadsItself)
        for module in (layer, copy.deepcopy(layer)):
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(module(x), want.bfloat16())

    def test_wider_maps_stay_in_bfloat16(self) -> None:
        convolution, x = self.given(3)
        want = self.outcome(convolution, x, True)
        narrow_in_float32(convolution)
        for mine, theirs in zip(self.outcome(convolution, x, True), want, strict=True):
            assert torch.equal(mine, theirs)
