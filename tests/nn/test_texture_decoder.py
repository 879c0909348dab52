"""The texture decoder: parameters, map sizes, layers, and the error of a texture."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosscam.errors import InputError, RecipeError
from crosscam.nn.texture_decoder import TextureDecoder, UpBlock, texture_loss

R50 = (256, 512, 1024, 2048)
STRIDES = (4, 8, 16, 16)


def stages(channels: tuple[int, ...], size: tuple[int, int], batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, c, size[0] // s, size[1] // s, generator=generator)
        for c, s in zip(channels, STRIDES, strict=True)
    ]


def conv(inputs: int, outputs: int, side: int, bias: bool = True) -> int:
    return inputs * outputs * side * side + outputs * bias


def test_parameters_at_a_resnet_50() -> None:
    """9.07 M, counted layer by layer from the release; 0.67 M of them are skips."""

    def up(a: int, b: int) -> int:
        return 2 * conv(a, a, 3, bias=False) + 2 * 2 * a + conv(a, b, 3)

    def adapt(a: int, b: int) -> int:
        return conv(a, b, 1) + 2 * b

    skips = adapt(1024, 512) + adapt(512, 256) + adapt(256, 64)
    rest = adapt(2048, 512) + up(512, 256) + up(256, 64) + up(64, 32) + up(32, 16) + conv(16, 3, 7)
    with torch.device("meta"):
        decoder = TextureDecoder(R50, STRIDES)
        bare = TextureDecoder(R50, STRIDES, skips=False)
    count = sum(p.numel() for p in decoder.parameters())
    assert count == rest + skips
    assert sum(p.numel() for p in bare.parameters()) == rest
    assert round(count / 1e6, 2) == 9.07
    assert round(skips / 1e6, 2) == 0.67


def test_every_stated_map_size() -> None:
    with torch.device("meta"):
        decoder = TextureDecoder(R50, STRIDES)
        texture, maps = decoder(stages_on_meta(R50, (256, 128)))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (256, 32, 16), (64, 64, 32), (32, 128, 64), (16, 256, 128),
    ]  # fmt: skip
    assert texture.shape == (2, 3, 256, 256)


def stages_on_meta(channels: tuple[int, ...], size: tuple[int, int]) -> list[Tensor]:
    return [
        torch.empty(2, c, size[0] // s, size[1] // s)
        for c, s in zip(channels, STRIDES, strict=True)
    ]


@pytest.mark.parametrize("size", [(64, 32), (48, 48), (96, 32)])
@pytest.mark.parametrize("channels", [(32, 64, 128, 256), (16, 16, 24, 8)])
def test_other_backbones_and_sizes_follow(size: tuple[int, int], channels: tuple[int, ...]) -> None:
    decoder = TextureDecoder(channels, STRIDES, width=0.125)
    texture, maps = decoder(stages(channels, size))
    assert texture.shape == (2, 3, size[0], size[0])
    assert [tuple(m.shape[2:]) for m in maps] == [
        (size[0] // k, size[1] // k) for k in (8, 4, 2, 1)
    ]
    assert [m.shape[1] for m in maps] == [32, 8, 8, 8]


def test_layers_as_the_paper_lists_them() -> None:
    """The whole forward pass again, with functions instead of modules."""
    decoder = TextureDecoder((8, 16, 24, 32), STRIDES, width=0.0625).eval()
    for norm in decoder.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
    maps = stages((8, 16, 24, 32), (64, 32))
    state = decoder.state_dict()

    def batch_norm(x: Tensor, at: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{at}.{name}"] for name in names))

    def adapt(x: Tensor, at: str) -> Tensor:
        return batch_norm(
            F.conv2d(x, state[f"{at}.0.weight"], state[f"{at}.0.bias"]), f"{at}.1"
        ).relu()

    def up(x: Tensor, at: str) -> Tensor:
        y = F.conv2d(x, state[f"{at}.residual.0.weight"], padding=1)
        y = batch_norm(y, f"{at}.residual.1").relu()
        y = batch_norm(F.conv2d(y, state[f"{at}.residual.3.weight"], padding=1), f"{at}.residual.4")
        y = F.interpolate((x + y).relu(), scale_factor=2, mode="bilinear")
        y = F.pad(y, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(y, state[f"{at}.convolution.1.weight"], state[f"{at}.convolution.1.bias"])

    c1, c2, c3, c4 = maps
    d1 = up(adapt(c4, "reduce") + adapt(c3, "skip3"), "up1")
    d2 = up(d1 + adapt(c2, "skip2"), "up2")
    d3 = up(d2 + adapt(c1, "skip1"), "up3")
    d4 = up(d3, "up4")
    painted = F.conv2d(
        F.pad(d4, (3, 3, 3, 3), mode="reflect"), state["paint.1.weight"], state["paint.1.bias"]
    )
    expected = F.interpolate(painted, (64, 64), mode="bilinear", align_corners=True)
    texture, found = decoder(maps)
    torch.testing.assert_close(texture, expected)
    for mine, theirs in zip(found, (d1, d2, d3, d4), strict=True):
        torch.testing.assert_close(mine, theirs)


# --- layers that compute a plain layer in another way -------------------------------------------


def plain(decoder: TextureDecoder) -> TextureDecoder:
    """The same weights in ordinary layers, to be compared with."""
    other = copy.deepcopy(decoder)
    for block in (other.up1, other.up2, other.up3, other.up4, other):
        name = "paint" if block is other else "convolution"
        fast = getattr(block, name)
        slow = nn.Conv2d(fast[1].in_channels, fast[1].out_channels, fast[1].kernel_size)
        setattr(block, name, nn.Sequential(nn.ReflectionPad2d(fast[0].padding), slow))
    other.load_state_dict(decoder.state_dict())
    return other.to(next(decoder.parameters()).dtype)


def painted_plainly(decoder: TextureDecoder, maps: list[Tensor]) -> Tensor:
    d4 = decoder(maps).maps[3]
    side = d4.shape[2]
    return F.interpolate(decoder.paint(d4), (side, side), mode="bilinear", align_corners=True)


def learned(channels: tuple[int, ...] = (8, 16, 24, 32), width: float = 0.0625) -> TextureDecoder:
    """A decoder in training whose maps do not fade away, as those of its first weights do."""
    torch.manual_seed(0)
    decoder = TextureDecoder(channels, STRIDES, width=width)
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias)
    return decoder.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_plain_layers(layout: torch.memory_format) -> None:
    """Of weights and of stage maps, in float64: nothing but the order of sums differs."""
    decoder = learned().double()
    other = plain(decoder)
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(2, 3, 48, 48, generator=random, dtype=torch.float64)
    results = []
    for paint, network in ((lambda m: decoder(m).texture, decoder),
                           (lambda m: painted_plainly(other, m), other)):  # fmt: skip
        maps = [m.double().to(memory_format=layout).requires_grad_()
                for m in stages((8, 16, 24, 32), (48, 32))]  # fmt: skip
        texture = paint(maps)
        inputs = [*maps, *network.parameters()]
        first = torch.autograd.grad((texture.square() * weight).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        results.append(([texture], first, second))
    for mine, theirs in zip(*results, strict=True):
        # Biases in front of a normalization have no gradient, but what rounding leaves of it.
        scale = max(float(t.detach().abs().max()) for t in theirs)
        for one, other_one in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other_one, rtol=1e-9, atol=1e-13 * scale)


def test_in_bfloat16_the_texture_is_as_near_as_with_plain_layers() -> None:
    """Autocast against float64: the error is that of plain layers, which differ in roundings."""
    decoder = learned(width=0.25)
    other = plain(decoder)
    maps = stages((8, 16, 24, 32), (64, 32), batch=4)
    exact = painted_plainly(copy.deepcopy(other).double(), [m.double() for m in maps])
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = decoder(maps).texture, painted_plainly(other, maps)
    assert mine.dtype == theirs.dtype == torch.bfloat16

    def error(texture: Tensor) -> float:
        return float((texture - exact).detach().square().mean().sqrt())

    assert error(mine) < 1.1 * error(theirs)
    assert error(mine) < 0.03 * float(exact.detach().square().mean().sqrt())


def test_names_are_those_of_plain_layers() -> None:
    decoder = learned()
    assert {"paint.1.weight", "paint.1.bias", "up1.convolution.1.weight"} <= set(
        decoder.state_dict()
    )
    assert decoder.state_dict().keys() == plain(decoder).state_dict().keys()
    assert {n: p.shape for n, p in decoder.named_parameters()} == {
        n: p.shape for n, p in plain(decoder).named_parameters()
    }


def test_first_weights() -> None:
    """Xavier normal with gain 0.02: standard deviation 0.02 sqrt(2 / (fan in + fan out))."""
    torch.manual_seed(0)
    decoder = TextureDecoder((64, 128, 256, 512), STRIDES)
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            a, b, side, _ = module.weight.shape
            expected = 0.02 * math.sqrt(2 / ((a + b) * side * side))
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.15)
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert float(module.weight.detach().mean()) == pytest.approx(1.0, abs=0.02)
            assert 0.005 < float(module.weight.detach().std()) < 0.04
            assert not module.bias.any()


def test_without_skips_only_the_last_map_counts() -> None:
    decoder = TextureDecoder((8, 8, 8, 8), STRIDES, width=0.0625, skips=False).eval()
    maps = stages((8, 8, 8, 8), (32, 16))
    other = [*(torch.zeros_like(m) for m in maps[:3]), maps[3]]
    assert torch.equal(decoder(maps).texture, decoder(other).texture)


def test_a_backbone_of_other_strides_is_refused() -> None:
    with pytest.raises(RecipeError, match="last_stride=1"):
        TextureDecoder(R50, (4, 8, 16, 32))
    with pytest.raises(RecipeError, match="decoder_width"):
        TextureDecoder(R50, STRIDES, width=0)


def test_pictures_that_do_not_divide_are_refused() -> None:
    decoder = TextureDecoder((8, 8, 8, 8), STRIDES, width=0.0625)
    maps = [torch.zeros(1, 8, *cells) for cells in ((10, 5), (5, 3), (3, 2), (3, 2))]
    with pytest.raises(InputError, match="multiples of 16"):
        decoder(maps)


def test_an_up_block_doubles() -> None:
    assert UpBlock(8, 16)(torch.zeros(2, 8, 4, 3)).shape == (2, 16, 8, 6)


# --- the error of a texture -------------------------------------------------------------------


def textures(batch: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.rand(batch, 3, side, side, generator=generator) * 2 - 1


def test_a_perfect_texture_has_no_error() -> None:
    texture = textures(3, 8)
    assert texture_loss(texture, texture) == 0
    holes = texture.clone()
    holes[0, :, 2:5] = torch.nan
    assert texture_loss(texture, holes) == 0


def test_the_error_is_the_mean_of_absolute_differences() -> None:
    painted, texture = textures(2, 8).double(), textures(2, 8).double().flip(0)
    values = [abs(a - b) for a, b in zip(painted.flatten(), texture.flatten(), strict=True)]
    assert float(texture_loss(painted, texture)) == pytest.approx(
        float(sum(values)) / len(values), rel=1e-6
    )


def test_texels_that_are_not_known_do_not_count() -> None:
    painted, texture = textures(3, 8), textures(3, 8).roll(1, 0)
    texture[0] = torch.nan  # a picture without a texture
    texture[1, :, :3] = torch.nan
    total, count = 0.0, 0
    for a, b in zip(painted.flatten().tolist(), texture.flatten().tolist(), strict=True):
        if not math.isnan(b):
            total, count = total + abs(a - b), count + 1
    assert float(texture_loss(painted, texture)) == pytest.approx(total / count, rel=1e-5)


def test_gradients_come_from_known_texels_alone() -> None:
    painted, texture = textures(2, 8).requires_grad_(), textures(2, 8).flip(0)
    texture[0] = torch.nan
    texture[1, :, :4] = torch.nan
    texture_loss(painted, texture).backward()
    assert painted.grad is not None
    assert painted.grad.isfinite().all()
    assert not painted.grad[0].any()
    assert not painted.grad[1, :, :4].any()
    expected = (painted - texture).detach()[1, :, 4:].sign() / (3 * 4 * 8)
    torch.testing.assert_close(painted.grad[1, :, 4:], expected)


def test_without_any_texture_the_error_is_zero_and_has_a_graph() -> None:
    painted = textures(2, 8).requires_grad_()
    loss = texture_loss(painted, torch.full((2, 3, 8, 8), torch.nan))
    loss.backward()
    assert loss == 0
    assert painted.grad is not None
    assert not painted.grad.any()


def test_a_larger_texture_is_averaged_over_what_is_known() -> None:
    painted, texture = textures(2, 4), textures(2, 8)
    texture[0, :, :2, :2] = torch.nan  # one whole texel of the output
    texture[1, :, 0, 0] = torch.nan  # a quarter of one
    blocks = texture.view(2, 3, 4, 2, 4, 2).permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 4, 4, 4)
    means = np.array([[np.nanmean(t) if not t.isnan().all() else np.nan for t in b]
                      for b in blocks.reshape(-1, 4, 4)])  # fmt: skip
    errors = np.abs(painted.numpy().reshape(-1, 4) - means)
    assert float(texture_loss(painted, texture)) == pytest.approx(np.nanmean(errors), rel=1e-5)


def test_textures_for_other_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="a texture for"):
        texture_loss(textures(2, 8), textures(3, 8))
