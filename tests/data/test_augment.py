"""Augmentation: what is drawn, and that it is done to pictures and priors as drawn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from crosscam.data import augment as module
from crosscam.data.augment import Augment, Draws
from crosscam.errors import InputError, RecipeError
from crosscam.image import Preprocess
from crosscam.types import Prior

SIZE = (12, 6)
PRE = Preprocess(size=SIZE)
STILL = Augment(flip=0, pad=0, erase=0)


def pictures(count: int = 8, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, *size, 3), dtype=np.uint8))


def naive(augment: Augment, picture: Tensor, draws: Draws, b: int) -> npt.NDArray[np.float32]:
    """Picture ``b`` pixel by pixel, from the definition; [3, H, W].  No color jitter."""
    height, width, _ = picture.shape
    tall, wide = augment.enlarged((height, width))
    source = picture.tolist()
    mean, std = np.array(PRE.mean), np.array(PRE.std)
    shift, scale = (mean * 255).astype(np.float32), (1 / (std * 255)).astype(np.float32)

    def taps(at: int, small: int, big: int) -> tuple[int, int, int]:
        exact = min(max((at + 0.5) * (small / big) - 0.5, 0.0), small - 1.0)
        low = math.floor(exact)
        return low, min(low + 1, small - 1), round((exact - low) * 1024)

    def pixel(y: int, x: int, c: int) -> int:
        y, x = (
            y + int(draws.crop_at[b, 0]) - augment.pad,
            x + int(draws.crop_at[b, 1]) - augment.pad,
        )
        if not (0 <= y < height and 0 <= x < width):
            return 0
        if draws.flip[b]:
            x = width - 1 - x
        if not draws.zoomed[b]:
            return int(source[y][x][c])
        up, low, wy = taps(y + int(draws.zoom_at[b, 0]), height, tall)
        near, far, wx = taps(x + int(draws.zoom_at[b, 1]), width, wide)
        total = (1024 - wy) * (source[up][near][c] * (1024 - wx) + source[up][far][c] * wx)
        total += wy * (source[low][near][c] * (1024 - wx) + source[low][far][c] * wx)
        return (int(total) + 2**19) // 2**20

    out = np.empty((3, height, width), np.float32)
    top, left, h, w = draws.erase[b]
    for y in range(height):
        for x in range(width):
            inside = top <= y < top + h and left <= x < left + w
            for c in range(3):
                value = pixel(y, x, c)
                if inside and augment.erase_order == "before":
                    value = round(augment.erase_fill[c] * 255)
                out[c, y, x] = (np.float32(value) - shift[c]) * scale[c]
                if inside and augment.erase_order == "after":
                    out[c, y, x] = augment.erase_fill[c]
    return out


CHOICES = {
    "still": STILL,
    "flip": replace(STILL, flip=1.0),
    "pad-crop": replace(STILL, pad=2),
    "pad beyond the picture": replace(STILL, pad=9, flip=0.5),
    "resize-crop": replace(STILL, resize_crop=1.0, zoom=1.25),
    "erase after": replace(STILL, erase=1.0, erase_fill=(0.1, -0.2, 0.3)),
    "erase before": replace(STILL, erase=1.0, erase_order="before", erase_fill=(0.1, 0.5, 1.0)),
    "all": Augment(flip=0.5, pad=2, resize_crop=0.5, zoom=1.3, erase=0.7),
}


# --- pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHOICES)
def test_apply_is_the_loop_over_pixels_bit_for_bit(name: str) -> None:
    augment, batch = CHOICES[name], pictures(24)
    draws = augment.draw(7, 1, 2, 24, SIZE)
    expected = np.stack([naive(augment, p, draws, b) for b, p in enumerate(batch)])
    for compiled in (True, False):
        got = augment.apply(batch, draws, PRE, compiled=compiled)
        assert got.dtype == torch.float32
        assert got.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("size", [(128, 64), (33, 17)])
def test_the_two_ways_agree_bit_for_bit(name: str, size: tuple[int, int]) -> None:
    augment = replace(
        CHOICES[name], jitter=0.5, brightness=0.3, contrast=0.3, saturation=1, hue=0.5
    )
    store, rows = pictures(20, size), np.array([3, 19, 0, 3, 7, 11, 12, 5, 6, 7])
    draws = augment.draw(3, 0, 9, 10, size)
    one = augment.apply(store, draws, PRE, rows)
    other = augment.apply(store, draws, PRE, rows, compiled=False)
    assert torch.equal(one, other)
    assert torch.equal(one, augment.apply(store[torch.from_numpy(rows)], draws, PRE))


@pytest.mark.parametrize("name", CHOICES)
def test_what_a_gpu_compiles_agrees_bit_for_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph for all batches, traced here and run operation by operation."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    fused = torch.compile(module._made, backend=backend, fullgraph=True, dynamic=False)
    monkeypatch.setattr(module, "_fused", lambda: fused)
    augment = replace(CHOICES[name], jitter=0.5, saturation=0.5, hue=0.3)
    store, rows = pictures(20), np.arange(0, 20, 2)
    for step in range(3):
        draws = augment.draw(1, 1, step, 10, SIZE)
        expected = augment.apply(store, draws, PRE, rows)
        got = augment.apply(store, draws, PRE, rows, compiled=False, fuse=True)
        assert torch.equal(got, expected)
        assert got.stride() == expected.stride()
    assert len(graphs) == 1


def test_without_numba_the_same_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    augment, batch = CHOICES["all"], pictures()
    draws = augment.draw(0, 0, 0, 8, SIZE)
    expected = augment.apply(batch, draws, PRE)
    monkeypatch.setattr(module, "_kernels", lambda: None)
    assert torch.equal(augment.apply(batch, draws, PRE), expected)


def test_nothing_drawn_is_plain_normalization() -> None:
    batch = pictures()
    got = STILL.apply(batch, STILL.draw(0, 0, 0, 8, SIZE), PRE)
    assert torch.equal(got, PRE.normalize_tensor(batch))


def test_resize_crop_is_pillows_resize_up_to_rounding() -> None:
    from PIL import Image

    augment = replace(STILL, resize_crop=1.0)
    batch = pictures(4, (64, 32))
    draws = augment.draw(5, 0, 0, 4, (64, 32))
    assert augment.enlarged((256, 128)) == (288, 144)
    assert augment.enlarged((64, 32)) == (72, 36)
    plain = Preprocess(size=(64, 32), mean=(0, 0, 0), std=(1 / 255,) * 3)
    got = augment.apply(batch, draws, plain).permute(0, 2, 3, 1).numpy()
    for b in range(4):
        big = Image.fromarray(batch[b].numpy()).resize((36, 72), Image.Resampling.BILINEAR)
        top, left = draws.zoom_at[b]
        expected = np.asarray(big)[top : top + 64, left : left + 32].astype(float)
        assert np.abs(got[b] - expected).max() <= 1.01  # Pillow rounds after each direction


def as_levels(augment: Augment, batch: Tensor, draws: Draws) -> npt.NDArray[np.float64]:
    plain = Preprocess(size=SIZE, mean=(0, 0, 0), std=(1 / 255,) * 3)
    return augment.apply(batch, draws, plain).permute(0, 2, 3, 1).double().numpy()


def one_jitter(
    brightness: float = 1, contrast: float = 1, saturation: float = 1, hue: float = 0
) -> Draws:
    draws = STILL.draw(0, 0, 0, 8, SIZE)
    return replace(draws, jitter=np.tile([brightness, contrast, saturation, hue], (8, 1)))


LUMA = np.array([0.299, 0.587, 0.114])
JITTER = replace(STILL, jitter=1.0)


def test_brightness_and_contrast_are_their_definitions() -> None:
    batch = pictures()
    x = batch.double().numpy()
    mean = (x @ LUMA).mean((1, 2))[:, None, None, None]
    for b, c in ((1.3, 1.0), (0.7, 1.0), (1.0, 1.4), (1.0, 0.5), (0.8, 1.2)):
        expected = np.clip(b * ((x - mean) * c + mean), 0, 255)
        assert np.abs(as_levels(JITTER, batch, one_jitter(b, c)) - expected).max() < 0.65


def test_saturation_is_its_definition() -> None:
    batch = pictures()
    x = batch.double().numpy()
    gray = (x @ LUMA)[..., None]
    for s in (0.0, 0.6, 1.8):
        expected = np.clip((x - gray) * s + gray, 0, 255)
        assert np.abs(as_levels(JITTER, batch, one_jitter(saturation=s)) - expected).max() < 0.75


def test_hue_turns_colors_and_leaves_gray_and_luma() -> None:
    gray = pictures()[..., :1].expand(-1, -1, -1, 3).contiguous()
    for h in (-0.5, 0.1, 0.37):
        assert np.abs(as_levels(JITTER, gray, one_jitter(hue=h)) - gray.numpy()).max() <= 1
    soft = (pictures().int() // 8 + 112).to(torch.uint8)  # far from clipping
    turned = as_levels(JITTER, soft, one_jitter(hue=0.3))
    luma = soft.double().numpy() @ LUMA
    assert np.abs(turned @ LUMA - luma).max() < 0.6
    assert np.abs(turned - soft.numpy()).max() > 8
    back = as_levels(JITTER, torch.from_numpy(turned.astype(np.uint8)), one_jitter(hue=-0.3))
    assert np.abs(back - soft.numpy()).max() <= 2
    full = as_levels(JITTER, soft, one_jitter(hue=1.0))
    assert np.array_equal(full, soft.numpy())


@pytest.mark.parametrize("compiled", [True, False])
def test_gray_pictures_are_luma_alone(compiled: bool) -> None:
    batch = pictures()
    augment = replace(STILL, gray=1.0)
    drawn = augment.draw(0, 0, 0, len(batch), SIZE)
    plain = Preprocess(size=SIZE, mean=(0, 0, 0), std=(1 / 255,) * 3)
    got = augment.apply(batch, drawn, plain, compiled=compiled).double().numpy()
    assert np.array_equal(got[:, 0], got[:, 1])
    assert np.array_equal(got[:, 0], got[:, 2])
    assert np.abs(got[:, 0] - batch.double().numpy() @ LUMA).max() < 0.75


def test_no_change_of_color_is_exactly_none() -> None:
    batch = pictures()
    assert np.array_equal(as_levels(JITTER, batch, one_jitter()), batch.numpy())


@pytest.mark.gpu
@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("name", CHOICES)
def test_a_gpu_gives_the_same_bits_and_does_not_wait(name: str, fuse: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    augment = replace(CHOICES[name], jitter=0.5, saturation=0.5, hue=0.3)
    store, rows = pictures(20), np.arange(0, 20, 2)
    draws = augment.draw(1, 1, 1, 10, SIZE)
    expected = augment.apply(store, draws, PRE, rows)
    there = store.cuda()
    augment.apply(there, draws, PRE, rows, fuse=fuse)  # compiling may wait
    try:
        torch.cuda.set_sync_debug_mode("error")
        got = augment.apply(there, draws, PRE, rows, fuse=fuse)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(got.cpu(), expected)


def test_what_does_not_fit_is_refused() -> None:
    draws = STILL.draw(0, 0, 0, 8, SIZE)
    with pytest.raises(InputError, match="uint8"):
        STILL.apply(pictures().float(), draws, PRE)
    with pytest.raises(InputError, match="8 draws do not fit 7"):
        STILL.apply(pictures(7), draws, PRE)
    with pytest.raises(InputError, match=r"rows must be in 0\.\.7"):
        STILL.apply(pictures(), draws, PRE, np.arange(1, 9))


# --- draws ------------------------------------------------------------------------------------


def fields_of(draws: Draws) -> list[npt.NDArray[np.generic]]:
    names = ("zoomed", "zoom_at", "flip", "crop_at", "jitter", "erase")
    return [getattr(draws, n) for n in names]


def same(one: Draws, other: Draws) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(fields_of(one), fields_of(other), strict=True))


ALL = Augment(resize_crop=0.5, jitter=0.5, saturation=0.2, hue=0.1)


def test_draws_are_a_function_of_seed_epoch_and_step() -> None:
    first = ALL.draw(1, 2, 3, 16, (256, 128))
    assert same(first, ALL.draw(1, 2, 3, 16, (256, 128)))
    for other in ((0, 2, 3), (1, 3, 3), (1, 2, 4), (1, 3, 2)):
        assert not same(first, ALL.draw(*other, 16, (256, 128)))


def test_draws_do_not_change_from_release_to_release() -> None:
    draws = ALL.draw(1, 2, 4, 3, (256, 128))
    assert draws.crop_at.tolist() == PINNED["crop_at"]
    assert draws.erase.tolist() == PINNED["erase"]
    assert draws.flip.tolist() == PINNED["flip"]
    np.testing.assert_allclose(draws.jitter, PINNED["jitter"], rtol=1e-12)


def test_a_process_takes_its_part_of_the_same_draws() -> None:
    whole = ALL.draw(1, 2, 3, 64, (256, 128))
    assert same(whole.part(0, 16), ALL.draw(1, 2, 3, 16, (256, 128)))
    parts = [fields_of(whole.part(i, i + 16)) for i in range(0, 64, 16)]
    joined = [np.concatenate(p) for p in zip(*parts, strict=True)]
    assert all(np.array_equal(a, b) for a, b in zip(joined, fields_of(whole), strict=True))


def test_switching_one_off_leaves_the_others() -> None:
    whole = ALL.draw(1, 2, 3, 64, (256, 128))
    without = replace(ALL, erase=0.0, pad=0).draw(1, 2, 3, 64, (256, 128))
    assert not without.erase.any()
    assert not without.crop_at.any()
    assert np.array_equal(whole.flip, without.flip)
    assert np.array_equal(whole.zoom_at, without.zoom_at)
    assert np.array_equal(whole.jitter, without.jitter)
    some = replace(ALL, gray=0.5).draw(1, 2, 3, 64, (256, 128))
    assert same(replace(some, jitter=whole.jitter), whole)
    colored = some.jitter[:, 2] > 0
    assert 16 < colored.sum() < 48
    assert np.array_equal(some.jitter[colored], whole.jitter[colored])
    assert np.array_equal(some.jitter[:, [0, 1, 3]], whole.jitter[:, [0, 1, 3]])


def test_rates_are_the_probabilities() -> None:
    n = 20_000
    augment = Augment(flip=0.3, resize_crop=0.6, erase=0.5, jitter=0.2, gray=0.1)
    draws = augment.draw(0, 0, 0, n, (256, 128))
    changed = (draws.jitter[:, :2] != [1, 1]).any(1)
    for drawn, p in (
        (draws.flip, 0.3),
        (draws.zoomed, 0.6),
        (draws.erase[:, 2] > 0, 0.5),
        (changed, 0.2),
        (draws.jitter[:, 2] == 0, 0.1),
    ):
        assert abs(drawn.mean() - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_places_are_uniform() -> None:
    n = 42_000
    draws = Augment(pad=10, resize_crop=1.0).draw(0, 0, 0, n, (256, 128))
    for values, count in (
        (draws.crop_at[:, 0], 21),
        (draws.crop_at[:, 1], 21),
        (draws.zoom_at[:, 0], 33),
        (draws.zoom_at[:, 1], 17),
    ):
        found = np.bincount(values, minlength=count)
        assert len(found) == count
        chi_squared = ((found - n / count) ** 2 / (n / count)).sum()
        assert chi_squared < count + 5 * math.sqrt(2 * count)


def test_jitter_stays_in_its_range() -> None:
    augment = Augment(jitter=1.0, brightness=0.2, contrast=0.1, saturation=0.3, hue=0.05)
    change = augment.draw(0, 0, 0, 10_000, SIZE).jitter - [1, 1, 1, 0]
    spread = np.array([0.2, 0.1, 0.3, 0.05])
    assert (np.abs(change) <= spread).all()
    assert np.allclose(change.std(0), spread / math.sqrt(3), rtol=0.03)
    assert (np.abs(change.mean(0)) < 4 * spread / math.sqrt(3 * 10_000)).all()


def test_erased_boxes_are_those_of_the_rejection_rule() -> None:
    """Against the rule played out one draw at a time (Zhong et al., algorithm 1)."""
    height, width, n = 256, 128, 20_000
    draws = Augment(erase=1.0).draw(0, 0, 0, n, (height, width))
    top, left, h, w = draws.erase.T
    assert (h > 0).all()
    assert ((h < height) & (w < width) & (top >= 0) & (left >= 0)).all()
    assert ((top + h <= height) & (left + w <= width)).all()
    # Rounding moves a side by half a pixel at most.
    area, slack = h * w, (h + w + 0.5) / 2
    assert (area >= 0.02 * height * width - slack).all()
    assert (area <= 0.4 * height * width + slack).all()
    assert ((h + 0.5) / (w - 0.5) >= 0.3).all()
    assert ((h - 0.5) / (w + 0.5) <= 1 / 0.3).all()
    # and the ranges are used up to their ends
    assert area.min() < 0.022 * height * width
    assert area.max() > 0.395 * height * width
    assert (h / w).min() < 0.32
    assert (h / w).max() > 3.2
    rng = np.random.default_rng(1)
    sides = []
    while len(sides) < n:
        s, r = rng.uniform(0.02, 0.4) * height * width, rng.uniform(0.3, 1 / 0.3)
        box = round(math.sqrt(s * r)), round(math.sqrt(s / r))
        if box[0] < height and box[1] < width:
            sides.append(box)
    for drawn, expected in zip((h, w), np.array(sides).T, strict=True):
        error = 4 * expected.std() * math.sqrt(2 / n)
        assert abs(drawn.mean() - expected.mean()) < error
        quantiles = np.linspace(0.05, 0.95, 19)
        assert np.abs(np.quantile(drawn, quantiles) - np.quantile(expected, quantiles)).max() < 4
    # Both ends of the range of places occur (randint includes them).
    assert (top == 0).any()
    assert (top + h == height).any()
    assert (left + w == width).any()


def test_boxes_that_never_fit_erase_nothing() -> None:
    augment = Augment(erase=1.0, erase_area=(0.9, 0.95), erase_aspect=(20.0, 30.0))
    assert not augment.draw(0, 0, 0, 64, (32, 32)).erase.any()


# --- priors -----------------------------------------------------------------------------------


def test_masks_of_the_pictures_size_move_as_the_pictures_do() -> None:
    augment = Augment(flip=0.5, pad=3, resize_crop=0.5, zoom=1.25, erase=0.0)
    size = (40, 20)
    batch = pictures(16, size)
    draws = augment.draw(2, 0, 0, 16, size)
    black = Preprocess(size=size, mean=(0, 0, 0), std=(1, 1, 1))
    moved = augment.apply(batch, draws, black)
    masks = batch.permute(0, 3, 1, 2)
    for given in (masks, masks.float() / 255):
        got = augment.apply_priors({Prior.MASKS: given}, draws, size)[Prior.MASKS]
        assert got.dtype == torch.float32
        # The pictures are rounded to 8 bits and interpolated in steps of 1/1024.
        assert (got - moved).abs().max() < 1 / 255
        plain = torch.from_numpy(~draws.zoomed)
        assert plain.any()
        torch.testing.assert_close(got[plain], moved[plain], rtol=1e-6, atol=0)


def test_coarse_masks_follow_a_blob() -> None:
    """The center of mass of a coarse mask goes where a keypoint at its place goes."""
    augment = Augment(flip=0.5, pad=8, resize_crop=0.5, erase=0.0)
    size, cells, n = (64, 32), (16, 8), 32
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(8.0), indexing="ij")
    blob = torch.exp(-((y - 7.5) ** 2 + (x - 3.0) ** 2) / 2)  # centered in cells (7.5, 3.0)
    draws = augment.draw(4, 0, 0, n, size)
    priors = {
        Prior.MASKS: blob.expand(n, 1, *cells),
        Prior.KEYPOINTS: torch.tensor([[[13.5, 31.5, 1.0]]]).expand(n, 1, 3),  # in pixels
    }
    moved = augment.apply_priors(priors, draws, size)
    masks, points = moved[Prior.MASKS][:, 0], moved[Prior.KEYPOINTS][:, 0]
    mass = masks.sum((1, 2))
    at_y = ((masks * y).sum((1, 2)) / mass + 0.5) * 4 - 0.5
    at_x = ((masks * x).sum((1, 2)) / mass + 0.5) * 4 - 0.5
    assert (at_y - points[:, 1]).abs().max() < 0.5
    assert (at_x - points[:, 0]).abs().max() < 1.5  # the blob's skirt is cut at the sides


def test_a_keypoint_marks_the_same_pixel_before_and_after() -> None:
    """A white pixel on black and a keypoint on it, moved together."""
    augment = Augment(flip=0.5, pad=4, resize_crop=0.0, erase=0.0)
    n, (height, width) = 64, (20, 10)
    rng = np.random.default_rng(0)
    where = np.stack([rng.integers(0, width, n), rng.integers(0, height, n)], 1)
    batch = torch.zeros(n, height, width, 3, dtype=torch.uint8)
    batch[torch.arange(n), where[:, 1], where[:, 0]] = 255
    draws = augment.draw(0, 0, 0, n, (height, width))
    moved = augment.apply(batch, draws, Preprocess(size=(20, 10), mean=(0, 0, 0), std=(1, 1, 1)))
    points = torch.cat([torch.from_numpy(where), torch.full((n, 1), 0.75)], 1)[:, None]
    got = augment.apply_priors({Prior.KEYPOINTS: points}, draws, (height, width))[Prior.KEYPOINTS]
    lost = 0
    for b in range(n):
        x, y, visible = got[b, 0].tolist()
        spots = moved[b, 0].nonzero().tolist()
        if spots:
            assert spots == [[int(y), int(x)]]
            assert visible == 0.75
        else:
            assert visible == 0
            assert not (0 <= x < width and 0 <= y < height)
            lost += 1
    assert 0 < lost < n // 2


def test_resize_crop_moves_a_keypoint_with_what_it_marks() -> None:
    augment = replace(STILL, resize_crop=1.0, zoom=1.5)
    size = (40, 20)
    draws = replace(augment.draw(0, 0, 0, 1, size), zoom_at=np.array([[3, 2]]))
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(20.0), indexing="ij")
    ramp = torch.stack([x, y]) / 255  # tells where it came from
    points = torch.tensor([[[8.0, 11.0, 1.0]]])
    moved = augment.apply_priors({Prior.MASKS: ramp[None], Prior.KEYPOINTS: points}, draws, size)
    px, py, _ = moved[Prior.KEYPOINTS][0, 0].tolist()
    assert (px, py) == pytest.approx(((8.5) * 1.5 - 0.5 - 2, 11.5 * 1.5 - 0.5 - 3))
    ramp = moved[Prior.MASKS][0] * 255
    low_y, low_x = math.floor(py), math.floor(px)
    f, g = py - low_y, px - low_x
    for channel, expected in ((0, 8.0), (1, 11.0)):
        r = ramp[channel]
        value = (1 - f) * ((1 - g) * r[low_y, low_x] + g * r[low_y, low_x + 1])
        value = value + f * ((1 - g) * r[low_y + 1, low_x] + g * r[low_y + 1, low_x + 1])
        assert float(value) == pytest.approx(expected, abs=1e-4)


def test_a_mirror_exchanges_left_and_right() -> None:
    augment = replace(STILL, flip=1.0)
    draws = augment.draw(0, 0, 0, 1, (4, 3))
    masks = torch.rand(1, 3, 4, 3)
    points = torch.tensor([[[0.0, 1.0, 1.0], [2.0, 3.0, 0.5], [1.0, 0.0, 0.0]]])
    pairs = {Prior.MASKS: [(1, 2)], Prior.KEYPOINTS: [(0, 1)]}
    moved = augment.apply_priors(
        {Prior.MASKS: masks, Prior.KEYPOINTS: points}, draws, (4, 3), pairs
    )
    assert torch.equal(moved[Prior.MASKS], masks[:, [0, 2, 1]].flip(3))
    assert moved[Prior.KEYPOINTS].tolist() == [[[0, 3, 0.5], [2, 1, 1], [1, 0, 0]]]
    with pytest.raises(InputError, match="cannot exchange 0 and 7 of 3"):
        augment.apply_priors({Prior.MASKS: masks}, draws, (4, 3), {Prior.MASKS: [(0, 7)]})


def test_erasing_leaves_priors_unless_asked() -> None:
    augment = replace(STILL, erase=1.0)
    draws = replace(augment.draw(0, 0, 0, 1, (8, 4)), erase=np.array([[2, 1, 3, 2]]))
    priors = {
        Prior.MASKS: torch.ones(1, 1, 8, 4),
        Prior.KEYPOINTS: torch.tensor([[[1.0, 2.0, 1.0], [2.4, 4.4, 1.0], [2.6, 4.0, 1.0]]]),
    }
    left = augment.apply_priors(priors, draws, (8, 4))
    assert all(torch.equal(left[k], priors[k]) for k in priors)
    asked = replace(augment, erase_priors=True)
    moved = asked.apply_priors(priors, draws, (8, 4))
    expected = torch.ones(8, 4)
    expected[2:5, 1:3] = 0
    assert torch.equal(moved[Prior.MASKS][0, 0], expected)
    assert moved[Prior.KEYPOINTS][0, :, 2].tolist() == [0, 0, 1]
    coarse = asked.apply_priors({Prior.MASKS: torch.ones(1, 1, 4, 2)}, draws, (8, 4))
    shares = torch.tensor([[0, 0], [0.5, 0.5], [0.25, 0.25], [0, 0]])  # of 2 x 2 pixels
    assert torch.equal(coarse[Prior.MASKS][0, 0], 1 - shares)


@pytest.mark.parametrize("cells", [SIZE, (6, 3), (4, 4)])
def test_places_go_along_with_the_nearest_cell(cells: tuple[int, int]) -> None:
    augment = Augment(flip=0.5, pad=2, resize_crop=0.5, zoom=1.25, erase=0.5, erase_priors=True)
    n, (height, width), (tall, wide) = 24, SIZE, augment.enlarged(SIZE)
    draws = augment.draw(3, 0, 0, n, SIZE)
    places = torch.randn(n, 3, *cells, generator=torch.Generator().manual_seed(0))
    places[:, :, 0, 0] = torch.nan
    got = augment.apply_priors({Prior.SURFACE: places}, draws, SIZE)[Prior.SURFACE]
    assert got.shape == places.shape
    for b in range(n):
        covered = module._covered(draws.part(b, b + 1), SIZE, cells)[0]
        for i in range(cells[0]):
            for j in range(cells[1]):
                y = (i + 0.5) * height / cells[0] - 0.5 + draws.crop_at[b, 0] - augment.pad
                x = (j + 0.5) * width / cells[1] - 0.5 + draws.crop_at[b, 1] - augment.pad
                inside = -0.5 <= y < height - 0.5 and -0.5 <= x < width - 0.5
                if not inside or covered[i, j] >= 0.5:
                    assert got[b, :, i, j].isnan().all()
                    continue
                if draws.flip[b]:
                    x = width - 1 - x
                if draws.zoomed[b]:
                    y = (y + draws.zoom_at[b, 0] + 0.5) * (height / tall) - 0.5
                    x = (x + draws.zoom_at[b, 1] + 0.5) * (width / wide) - 0.5
                row = min(max((y + 0.5) * cells[0] / height - 0.5, 0), cells[0] - 1)
                column = min(max((x + 0.5) * cells[1] / width - 0.5, 0), cells[1] - 1)
                want = places[b, :, math.floor(row + 0.5), math.floor(column + 0.5)].clone()
                want[0] *= -1 if draws.flip[b] else 1
                assert torch.equal(got[b, :, i, j].nan_to_num(9), want.nan_to_num(9))


def test_places_move_as_masks_do() -> None:
    """Where nothing is between two cells, a place is where the mask channel of its value is."""
    augment = Augment(flip=0.5, pad=3, erase=0.0)
    draws = augment.draw(2, 0, 0, 16, SIZE)
    places = torch.rand(16, 3, *SIZE)
    both = {Prior.SURFACE: places, Prior.MASKS: places}
    moved = augment.apply_priors(both, draws, SIZE)
    got = moved[Prior.SURFACE]
    got[torch.from_numpy(draws.flip), 0] *= -1
    torch.testing.assert_close(got.nan_to_num(0), moved[Prior.MASKS], rtol=1e-6, atol=1e-7)


def test_textures_stay_as_they_are() -> None:
    texture = torch.rand(8, 3, 5, 5)
    draws = ALL.draw(0, 0, 0, 8, SIZE)
    assert ALL.apply_priors({Prior.TEXTURE: texture}, draws, SIZE)[Prior.TEXTURE] is texture


def test_priors_that_do_not_fit_are_refused() -> None:
    draws = ALL.draw(0, 0, 0, 2, SIZE)
    for prior, value, said in (
        (Prior.MASKS, torch.zeros(3, 1, 4, 4), "2 draws do not fit 3 masks"),
        (Prior.MASKS, torch.zeros(2, 4, 4), r"\[B, K, h, w\]"),
        (Prior.MASKS, torch.zeros(2, 1, 4, 4, dtype=torch.int64), "float or uint8"),
        (Prior.KEYPOINTS, torch.zeros(2, 5, 2), r"\[B, J, 3\]"),
        (Prior.SURFACE, torch.zeros(2, 2, 4, 4), r"\[B, 3, h, w\]"),
        (Prior.SURFACE, torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "surfaces must be float"),
    ):
        with pytest.raises(InputError, match=said):
            ALL.apply_priors({prior: value}, draws, SIZE)


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"flip": 1.5}, r"augment\.flip is a probability"),
        ({"pad": -1}, r"augment\.pad"),
        ({"zoom": 0.9}, r"augment\.zoom"),
        ({"hue": 0.6}, r"augment\.hue"),
        ({"gray": 1.5}, r"augment\.gray is a probability"),
        ({"contrast": -0.1}, r"augment\.contrast"),
        ({"erase_area": (0.4, 0.02)}, r"augment\.erase_area"),
        ({"erase_aspect": (0.0, 1.0)}, r"augment\.erase_aspect"),
        ({"erase_fill": (0.0, float("nan"), 0.0)}, r"augment\.erase_fill"),
        ({"erase_order": "before", "erase_fill": (0.0, 0.0, 128.0)}, r"in \[0, 1\]"),
        ({"erase_order": "during"}, r"augment\.erase_order"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Augment(**setting)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="seed"):
        Augment().draw(-1, 0, 0, 4, SIZE)


PINNED: dict[str, list[object]] = {
    "crop_at": [[2, 1], [8, 17], [8, 8]],
    "erase": [[0, 0, 0, 0], [153, 3, 62, 59], [0, 0, 0, 0]],
    "flip": [False, True, True],
    "jitter": [
        [1.0, 1.0, 1.0, 0.0],
        [1.0, 1.0, 1.0, 0.0],
        [1.1255756559619945, 0.9152524052023352, 0.8625374937082501, -0.009560824031852766],
    ],
}
