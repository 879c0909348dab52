"""Pixels: what Pillow would give, for every kind of file, and clear refusals."""

from __future__ import annotations

import io
import itertools
import struct
import sys
import threading
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import PIL
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from crosscam import image
from crosscam.errors import ImageError, InputError
from crosscam.image import IMAGENET_MEAN, IMAGENET_STD, Preprocess, decode, resize

Pixels = npt.NDArray[np.uint8]


def picture(height: int = 37, width: int = 21, seed: int = 0) -> Pixels:
    """Smooth color with some noise, so that JPEGs of it have work to do."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack([40 + 5 * y, 90 + 6 * x, 200 - 3 * (x + y)], -1) + rng.normal(0, 12, (1, 1, 3))
    noisy = base + rng.normal(0, 9, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def encoded(pixels: Pixels | Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    source = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    source.save(file, kind, **options)
    return file.getvalue()


def by_pillow(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


# --- decoding is Pillow's, bit for bit --------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    quality=st.integers(1, 100),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    progressive=st.booleans(),
)
def test_a_jpeg_decodes_to_the_bits_of_pillow(
    height: int, width: int, quality: int, subsampling: str, progressive: bool
) -> None:
    data = encoded(
        picture(height, width),
        quality=quality,
        subsampling=subsampling,
        progressive=progressive,
    )
    assert np.array_equal(decode(data), by_pillow(data))


def test_ordinary_jpegs_take_the_fast_way_and_others_do_not() -> None:
    pytest.importorskip("simplejpeg")
    data = encoded(picture())
    assert image._fast_jpeg(data, "x", 10**6) is not None
    gray = encoded(Image.fromarray(picture()).convert("L"))
    cmyk = encoded(Image.fromarray(picture()).convert("CMYK"))
    exif = Image.Exif()
    exif[274] = 6
    turned = encoded(picture(), exif=exif)
    for other in (gray, cmyk, turned, data[:-30], data[:-1], encoded(picture(), "PNG")):
        assert image._fast_jpeg(other, "x", 10**6) is None


def test_without_simplejpeg_the_bits_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture())
    fast = decode(data)
    monkeypatch.setattr(image, "simplejpeg", None)
    assert np.array_equal(decode(data), fast)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files_give_their_pixels(kind: str) -> None:
    assert np.array_equal(decode(encoded(picture(), kind)), picture())


def test_webp_and_gif_give_what_pillow_gives() -> None:
    for kind in ("WEBP", "GIF"):
        data = encoded(picture(), kind)
        assert np.array_equal(decode(data), by_pillow(data))


@pytest.mark.data
@pytest.mark.parametrize(
    "folder", ["market1501/bounding_box_train", "cuhk03-np/detected/bounding_box_train"]
)
def test_real_crops_decode_to_the_bits_of_pillow(real_data: Path, folder: str) -> None:
    paths = sorted((real_data / folder).glob("*.jpg"))[::97]
    assert len(paths) > 50
    for path in paths:
        assert np.array_equal(decode(path), np.asarray(Image.open(path).convert("RGB"))), path


# --- every kind of picture --------------------------------------------------------------------


def test_gray_is_spread_over_the_channels() -> None:
    gray = Image.fromarray(picture()).convert("L")
    for kind in ("JPEG", "PNG"):
        data = encoded(gray, kind)
        pixels = decode(data)
        assert np.array_equal(pixels, by_pillow(data))
        assert (pixels[..., 0] == pixels[..., 2]).all()
    assert np.array_equal(decode(np.asarray(gray)), np.repeat(np.asarray(gray)[..., None], 3, 2))


def test_cmyk_jpeg_is_converted() -> None:
    data = encoded(Image.fromarray(picture()).convert("CMYK"), quality=95)
    pixels = decode(data)
    assert np.array_equal(pixels, by_pillow(data))
    assert np.abs(pixels.astype(int) - picture()).mean() < 12  # not inverted


def test_transparency_is_laid_on_white() -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgba[0, 1] = (10, 20, 30, 0)
    rgba[1, 0] = (0, 0, 0, 51)  # a fifth: 255 * 4 / 5
    expected = np.array([[[10, 20, 30], [255] * 3], [[204] * 3, [255] * 3]], np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(rgba), "PNG")), expected)
    assert np.array_equal(decode(rgba), expected)


def test_transparent_palette_is_laid_on_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 200, 10, 20])
    palette.putpixel((1, 0), 1)
    data = encoded(palette, "PNG", transparency=0)
    assert decode(data).tolist() == [[[255, 255, 255], [200, 10, 20]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_of_sixteen_bits_the_upper_eight_count(kind: str) -> None:
    deep = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    assert decode(encoded(Image.fromarray(deep), kind))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_sixteen_bit_color_png_is_read() -> None:
    row = struct.pack(">BHHH", 0, 65535, 32768, 256)

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert decode(data).tolist() == [[[255, 128, 1]]]


def test_pixels_of_32_bits_are_refused() -> None:
    deep = Image.fromarray(np.full((2, 2), 70000, np.int32))
    with pytest.raises(ImageError, match="8 or 16 bits"):
        decode(encoded(deep, "TIFF"))
    with pytest.raises(ImageError, match="float"):
        decode(encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(picture(), kind, exif=exif, **options)
    opened = Image.open(io.BytesIO(data))
    assert np.array_equal(decode(data), np.asarray(ImageOps.exif_transpose(opened)))
    assert decode(data).shape[:2] == ((37, 21) if orientation < 5 else (21, 37))
    if kind != "JPEG":  # and as the standard has it: row 0, column 0 of what is stored lies there
        corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0)}.get(orientation)
        corner = corner or {5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[orientation]
        assert np.array_equal(decode(data)[corner], picture()[0, 0])


def test_an_orientation_in_xmp_is_applied() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(picture(), xmp=xmp)
    assert np.array_equal(decode(data), np.rot90(by_pillow(data), -1))


def test_broken_exif_leaves_the_picture_as_it_is() -> None:
    plain = encoded(picture())
    body = b"Exif\0\0garbage"
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    assert np.array_equal(decode(plain[:2] + segment + plain[2:]), by_pillow(plain))


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.fromarray(np.full((4, 4, 3), v, np.uint8)) for v in (10, 200)]
    for kind in ("GIF", "WEBP", "PNG", "MPO"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(decode(data).astype(int) - 10).max() <= 2


def test_one_pixel_is_a_picture() -> None:
    pixels = np.array([[[1, 2, 3]]], np.uint8)
    assert np.array_equal(decode(encoded(pixels, "PNG")), pixels)
    loaded = Preprocess(size=(8, 4)).load(encoded(pixels, "PNG"))
    assert (loaded == pixels).all()
    assert loaded.shape == (8, 4, 3)


def test_paths_outside_ascii(tmp_path: Path) -> None:
    path = tmp_path / "Übergröße 人物 #1.jpg"
    path.write_bytes(encoded(picture()))
    assert np.array_equal(decode(path), decode(encoded(picture())))
    assert np.array_equal(decode(str(path)), decode(path))


def test_arrays_and_pillow_images_are_taken() -> None:
    assert np.array_equal(decode(picture()), picture())
    assert np.array_equal(decode(Image.fromarray(picture())), picture())
    assert decode(picture()[::2, ::-1]).flags.c_contiguous


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_arrays_of_another_kind_are_refused(array: npt.NDArray[np.generic]) -> None:
    with pytest.raises(ImageError, match=r"uint8 \[h, w, 3\]"):
        decode(array)


# --- refusals ---------------------------------------------------------------------------------


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    empty, text, folder = tmp_path / "empty.jpg", tmp_path / "text.jpg", tmp_path / "folder.jpg"
    empty.write_bytes(b"")
    text.write_text("not a picture")
    folder.mkdir()
    for path, said in (
        (empty, "is empty"),
        (text, "not a picture in a known format"),
        (folder, "cannot be read"),
        (tmp_path / "missing.jpg", "no picture at"),
    ):
        with pytest.raises(ImageError, match=said) as caught:
            decode(path)
        assert str(path) in str(caught.value)
    with pytest.raises(ImageError, match="is empty"):
        decode(b"")
    with pytest.raises(ImageError, match="got int"):
        decode(3)  # type: ignore[arg-type]


def test_no_other_program_is_started() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(ImageError, match="known format"):
        decode(postscript)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_truncated_files_are_refused_wherever_they_end(kind: str) -> None:
    data = encoded(picture(64, 32), kind)
    for length in range(1, len(data) * 9 // 10, max(1, len(data) // 40)):
        with pytest.raises(ImageError):
            decode(data[:length])


def test_a_jpeg_with_damage_is_as_pillow_has_it() -> None:
    data = bytearray(encoded(picture(64, 32)))
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(200):
        damaged = data.copy()
        damaged[int(rng.integers(2, len(data)))] = int(rng.integers(256))
        try:
            pixels = decode(bytes(damaged))
        except ImageError:
            refused += 1
            continue
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(damaged))).convert("RGB")
        assert np.array_equal(pixels, np.asarray(expected))
    assert 0 < refused < 200


def bomb_png(side: int) -> bytes:
    """A valid header of a huge gray PNG and a few of its rows."""
    body = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + body
    head += struct.pack(">I", zlib.crc32(b"IHDR" + body))
    rows = zlib.compress(bytes(20 * (side + 1)))
    return head + struct.pack(">I", len(rows)) + b"IDAT" + rows + bytes(4)


def bomb_jpeg(side: int) -> bytes:
    """A small JPEG whose header claims ``side`` x ``side`` pixels."""
    data = bytearray(encoded(picture()))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(data)


@pytest.mark.parametrize("bomb", [bomb_png, bomb_jpeg])
def test_huge_pictures_are_refused_before_decoding(bomb: object) -> None:
    import tracemalloc

    for side in (20_000, 10_000):  # above and below Pillow's own limit
        data = bomb(side)  # type: ignore[operator]
        tracemalloc.start()
        with pytest.raises(ImageError, match="at most 64,000,000 are decoded"):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
        tracemalloc.stop()


def test_max_pixels_is_a_limit_that_may_be_reached() -> None:
    for source in (encoded(picture()), encoded(picture(), "PNG"), picture()):
        assert decode(source, max_pixels=37 * 21).shape == (37, 21, 3)
        with pytest.raises(ImageError, match="at most 776 are decoded"):
            decode(source, max_pixels=37 * 21 - 1)


def test_large_files_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "video.jpg"
    with path.open("wb") as file:
        file.truncate(image.MAX_BYTES + 1)  # a hole: takes no room
    with pytest.raises(ImageError, match="at most 256,000,000 are read"):
        decode(path)


# --- resizing ---------------------------------------------------------------------------------


def by_pillow_13(pixels: Pixels, size: tuple[int, int], interpolation: str) -> Pixels:
    """What Pillow 13 makes of it; earlier ones began with the rows of whatever they were given."""
    method, source = Image.Resampling[interpolation.upper()], Image.fromarray(pixels)
    shorter, narrower = (have - want for have, want in zip(pixels.shape, size, strict=False))
    if int(PIL.__version__.partition(".")[0]) < 13 and shorter > max(0, 2 * narrower):
        turned = source.transpose(Image.Transpose.TRANSPOSE).resize(size, method)
        return np.asarray(turned.transpose(Image.Transpose.TRANSPOSE))
    return np.asarray(source.resize(size[::-1], method))


@pytest.fixture(params=["pillow", "compiled"])
def resizing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of the two makes the pixels."""
    if request.param == "compiled":
        pytest.importorskip("numba")
        if not image._compiled:
            image._compile()
    monkeypatch.setattr(image, "_PAYS", -1 if request.param == "compiled" else 10**9)
    return str(request.param)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_is_pillows(resizing: str, interpolation: Literal["bilinear", "bicubic"]) -> None:
    for have, want in (
        ((128, 64), (256, 128)),
        ((256, 128), (128, 64)),
        ((300, 140), (256, 128)),  # the columns first
        ((150, 64), (256, 64)),  # one pass
        ((128, 90), (128, 64)),
        ((1, 1), (7, 5)),
        ((700, 300), (1, 1)),
        ((2, 2), (9, 9)),
        ((3, 800), (64, 32)),
        ((37, 21), (64, 32)),
        ((37, 21), (20, 50)),
        ((37, 21), (36, 22)),
    ):
        source = picture(*have)
        before = source.copy()
        got = resize(source, want, interpolation)
        assert np.array_equal(got, by_pillow_13(source, want, interpolation)), (have, want)
        assert got.flags.writeable
        assert np.array_equal(source, before)
    assert resize(before, before.shape[:2]) is before


_SIDE = st.one_of(st.integers(1, 4), st.integers(1, 150))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    have=st.tuples(_SIDE, _SIDE),
    want=st.tuples(_SIDE, _SIDE),
    seed=st.integers(0, 2**32 - 1),
    hard=st.booleans(),
)
def test_any_size_becomes_any_other(
    resizing: str, have: tuple[int, int], want: tuple[int, int], seed: int, hard: bool
) -> None:
    """Black beside white takes bicubic weights beyond 0 and 255."""
    source = np.random.default_rng(seed).integers(0, 256, (*have, 3), np.uint8)
    if hard:
        source = np.where(source < 128, np.uint8(0), np.uint8(255))
    for interpolation in ("bilinear", "bicubic"):
        got = resize(source, want, interpolation)  # type: ignore[arg-type]
        assert np.array_equal(got, by_pillow_13(source, want, interpolation))


def test_resize_fills_the_memory_it_is_given(resizing: str) -> None:
    places = np.zeros((3, 64, 32, 3), np.uint8)
    lent = picture()
    lent.flags.writeable = False
    for source in (lent, picture(64, 32), picture(40, 50)[:, ::2]):
        got = resize(source, (64, 32), out=places[1])
        assert np.shares_memory(got, places)
        assert np.array_equal(places[1], by_pillow_13(np.array(source), (64, 32), "bilinear"))
    assert not places[[0, 2]].any()
    pre = Preprocess(size=(64, 32))
    pre.load(encoded(picture(), "PNG"), out=places[2])
    assert np.array_equal(places[2], pre.load(picture()))
    for wrong in (places[0, :32], places[:, :, 0].swapaxes(0, 1), places[0, :, ::-1]):
        with pytest.raises(ImageError, match=r"\[64, 32, 3\] in one piece"):
            resize(picture(), (64, 32), out=wrong)


def test_compiled_loops_take_over_when_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(image, "_compiled", [])
    monkeypatch.setattr(image, "_resized", itertools.count())
    monkeypatch.setattr(image, "_PAYS", 3)
    for _ in range(3):
        first = resize(picture(), (64, 32))
        assert not [t for t in threading.enumerate() if t.name == "compile resize"]
    while not image._compiled:
        assert np.array_equal(resize(picture(), (64, 32)), first)
    calls: list[int] = []
    ready = image._compiled[0]
    monkeypatch.setattr(image, "_compiled", [lambda *a: (calls.append(1), ready(*a))[1]])
    assert np.array_equal(resize(picture(), (64, 32)), first)
    assert calls == [1]


def test_without_numba_pillow_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "_compiled", [])
    monkeypatch.delitem(sys.modules, "crosscam.resample", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "crosscam.jit", raising=False)
    image._compile()
    assert image._compiled == []
    monkeypatch.setattr(image, "_PAYS", -1)
    expected = by_pillow_13(picture(), (64, 32), "bilinear")
    assert np.array_equal(resize(picture(), (64, 32)), expected)


def test_resize_refuses_what_is_not_pixels() -> None:
    with pytest.raises(ImageError, match="uint8"):
        resize(picture().astype(np.float32), (4, 4))  # type: ignore[arg-type]


# --- normalization ----------------------------------------------------------------------------


def test_normalization_has_the_same_bits_in_numpy_and_torch() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    batch = np.concatenate([every, every[:, ::-1]])
    pre = Preprocess(size=(16, 16))
    expected = pre.normalize(batch)
    tensor = pre.normalize_tensor(torch.from_numpy(batch))
    assert expected.dtype == np.float32
    assert expected.shape == (2, 3, 16, 16)
    assert np.array_equal(tensor.numpy(), expected)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    first = pre.normalize_tensor(torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous())
    assert np.array_equal(first.numpy(), expected)
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_normalization_is_the_definition() -> None:
    batch = picture()[None]
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    expected = ((batch / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    got = Preprocess(size=(37, 21)).normalize(batch)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    plain = Preprocess(size=(37, 21), mean=(0, 0, 0), std=(1, 1, 1)).normalize(batch)
    np.testing.assert_allclose(plain, batch.transpose(0, 3, 1, 2) / 255.0, rtol=1e-6)


def test_channels_are_not_swapped() -> None:
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 255
    x = Preprocess(size=(2, 2)).normalize(decode(encoded(red[0], "PNG"))[None])[0, :, 0, 0]
    assert x[0] == pytest.approx((1 - 0.485) / 0.229, rel=1e-6)
    assert x[1] == pytest.approx(-0.456 / 0.224, rel=1e-6)
    assert x[2] == pytest.approx(-0.406 / 0.225, rel=1e-6)


@pytest.mark.gpu
def test_normalization_has_the_same_bits_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    pre = Preprocess(size=(16, 16))
    got = pre.normalize_tensor(torch.from_numpy(every).cuda())
    assert np.array_equal(got.cpu().numpy(), pre.normalize(every))


def test_normalization_refuses_other_batches() -> None:
    pre = Preprocess()
    with pytest.raises(InputError, match=r"uint8 \[B, H, W, 3\], got float32"):
        pre.normalize_tensor(torch.zeros(1, 4, 4, 3))
    with pytest.raises(InputError, match=r"got uint8 \[4, 4, 3\]"):
        pre.normalize_tensor(torch.zeros(4, 4, 3, dtype=torch.uint8))
    with pytest.raises(InputError, match="got float64"):
        pre.normalize(np.zeros((1, 4, 4, 3)))  # type: ignore[arg-type]


# --- the card ---------------------------------------------------------------------------------


def test_a_card_round_trips_through_json() -> None:
    import json

    pre = Preprocess(size=(384, 128), interpolation="bicubic", mean=(0.5, 0.4, 0.3))
    assert Preprocess.from_dict(json.loads(json.dumps(pre.to_dict()))) == pre


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": [256]}, "height, width"),
        ({"size": [0, 128]}, "1..4096"),
        ({"size": [256.5, 128]}, "1..4096"),
        ({"size": ["256", "128"]}, "1..4096"),
        ({"size": 256}, "list of numbers"),
        ({"interpolation": "nearest"}, "bilinear or bicubic"),
        ({"mean": [0.5, 0.5]}, "three numbers"),
        ({"mean": [0.5, 0.5, float("nan")]}, "three numbers"),
        ({"std": [0.1, 0.0, 0.1]}, "above zero"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_card_that_cannot_be_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Preprocess.from_dict({**Preprocess().to_dict(), **change})


def test_a_card_with_a_missing_key_is_refused() -> None:
    card = Preprocess().to_dict()
    del card["std"]
    with pytest.raises(InputError, match="needs the keys"):
        Preprocess.from_dict(card)
    with pytest.raises(InputError, match="needs the keys"):
        Preprocess.from_dict(None)  # type: ignore[arg-type]
