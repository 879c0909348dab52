"""The one way pixels become numbers, for training, evaluation and service alike.

    picture = decode("crop.jpg")                   # uint8 [h, w, 3], RGB, upright
    pre = Preprocess(size=(256, 128))
    x = pre.normalize(pre.load("crop.jpg")[None])  # float32 [1, 3, 256, 128]

Ordinary JPEGs are decoded by libjpeg-turbo through simplejpeg (three times as fast as Pillow on
person crops, ``benchmarks/data.py``), everything else by Pillow.  Both use the same integer
transform and the same smooth chroma upsampling, so the pixels are the same bits; where there is
no simplejpeg, Pillow decodes them all.
"""

from __future__ import annotations

import io
import itertools
import math
import numbers
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from crosscam.errors import ImageError, InputError

try:
    import simplejpeg
except ImportError:  # no wheel for this machine
    simplejpeg = None

if TYPE_CHECKING:
    import torch

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocess", "decode", "resize"]

Picture = npt.NDArray[np.uint8]  # [h, w, 3], RGB
Source = Path | str | bytes | npt.NDArray[Any] | Image.Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded: 64 megapixels are 192 MB of RGB."""

MAX_BYTES = 256_000_000
"""Larger files are refused before they are read."""


_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
"""What Pillow may open.  Not all it can: some formats start other programs (EPS)."""

_UPRIGHT = {  # EXIF tag 274: what was done to the picture, and what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(source: Source, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """A picture as uint8 [h, w, 3], RGB, upright.

    Takes a path, the bytes of a file, a Pillow image, or an array (uint8; [h, w, 3] is RGB,
    [h, w, 4] is RGBA, [h, w] is gray).  The EXIF orientation is applied; transparency is laid on
    white; of 16 bits the upper 8 count; of an animation the first frame counts.  Color profiles
    are not applied.  Memory: the file and at most 7 bytes per pixel.

    Raises:
        ImageError: missing, empty, truncated or corrupt file, not an image, more than
            ``max_pixels`` pixels (judged before decoding), an array of another kind.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _with_pillow(source, "the image", max_pixels)
    if not isinstance(source, (str, Path, bytes)):
        raise ImageError(
            f"a picture is a path, bytes, an array or a Pillow image, got {type(source).__name__}."
        )
    name = "the upload" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _read(Path(source))
    if not data:
        raise ImageError(f"{name} is empty (0 bytes). Copy or download it again.")
    picture = _fast_jpeg(data, name, max_pixels)
    if picture is not None:
        return picture
    return _with_pillow(data, name, max_pixels)


def resize(
    picture: Picture,
    size: tuple[int, int],
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    *,
    out: Picture | None = None,
) -> Picture:
    """``picture`` [h, w, 3] uint8 at ``size`` (height, width), antialiased when it shrinks.

    The pixels are Pillow's, to the bit: by Pillow itself for the first pictures of a process, and
    then by compiled loops where numba is installed.  A picture that has the size already is
    returned as it is.  ``out`` (uint8 [*size, 3], in one piece) is filled and returned if given.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ImageError(
            f"a picture to resize must be uint8 [h, w, 3], got {picture.dtype} "
            f"{list(picture.shape)}."
        )
    height, width = size
    if out is not None and (out.shape != (height, width, 3) or not out.flags.c_contiguous):
        raise ImageError(f"out must be [{height}, {width}, 3] in one piece, got {list(out.shape)}.")
    if picture.shape[:2] == (height, width):
        if out is None:
            return picture
        out[...] = picture
        return out
    # Each axis has a pass of its own, with bytes in between, so their order shows in some last
    # bits.  This is the order of Pillow 13; earlier ones always began with the rows.
    shorter = picture.shape[0] - height
    rows_first = shorter <= max(0, 2 * (picture.shape[1] - width))
    if (count := next(_resized)) >= _PAYS:
        if count == _PAYS:
            threading.Thread(target=_compile, name="compile resize", daemon=True).start()
        if _compiled:
            if out is None:
                out = np.empty((height, width, 3), np.uint8)
            _compiled[0](picture, out, interpolation == "bicubic", rows_first)
            return out
    method = _RESAMPLING[interpolation]
    image = Image.fromarray(picture)
    between = (width, image.height) if rows_first else (image.width, height)
    image = image.resize(between, method).resize((width, height), method)
    if out is None:
        return np.array(image)  # a copy: what Pillow lends cannot be written to
    out[...] = np.asarray(image)
    return out


_PAYS = 2000
"""Pictures that Pillow resizes before numba is imported, which takes as long as these."""

_resized = itertools.count()
_compiled: list[Callable[[Picture, Picture, bool, bool], None]] = []  # one, once it is ready


def _compile() -> None:
    """Make the loops ready while Pillow goes on: nobody waits for a compiler."""
    try:
        from crosscam.resample import resample
    except ImportError:  # Pillow it stays
        return
    resample(np.zeros((1, 1, 3), np.uint8), np.empty((2, 2, 3), np.uint8), False, True)
    _compiled.append(resample)


_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocess:
    """How pictures are fed to a network; kept with every trained model.

    Args:
        size: height and width in pixels.
        interpolation: of the resize, bilinear or bicubic (both antialiased).
        mean: of the RGB channels in [0, 1], subtracted.
        std: of the RGB channels in [0, 1], divided by.
    """

    size: tuple[int, int] = (256, 128)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        size = self.size
        if len(size) != 2 or not all(_is(int, v) and 1 <= v <= 4096 for v in size):
            raise InputError(
                f"preprocess.size must be (height, width) in 1..4096 pixels, got {size}."
            )
        if self.interpolation not in _RESAMPLING:
            raise InputError(
                f"preprocess.interpolation must be bilinear or bicubic, got {self.interpolation!r}."
            )
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(_is(float, v) and math.isfinite(v) for v in values):
                raise InputError(f"preprocess.{key} must be three numbers (R, G, B), got {values}.")
        if min(self.std) <= 0:
            raise InputError(f"preprocess.std must be above zero, got {self.std}.")

    def load(self, source: Source, *, out: Picture | None = None) -> Picture:
        """Decoded and resized, uint8 [H, W, 3]; in ``out`` if it is given."""
        return resize(decode(source), self.size, self.interpolation, out=out)

    def normalize(self, pictures: Picture) -> npt.NDArray[np.float32]:
        """uint8 [B, H, W, 3] to float32 [B, 3, H, W]: (x / 255 - mean) / std."""
        _require_batch("uint8" if pictures.dtype == np.uint8 else pictures.dtype, pictures.shape)
        shift, scale = self.shift_and_scale()
        x = (pictures.astype(np.float32) - shift) * scale
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))

    def normalize_tensor(self, pictures: torch.Tensor) -> torch.Tensor:
        """The same numbers, bit for bit, from a uint8 tensor on any device.

        Takes [B, H, W, 3] or [B, 3, H, W] (where both could be meant, the former).  The result
        is float32 [B, 3, H, W] in channels-last memory order.
        """
        import torch

        if pictures.ndim == 4 and pictures.shape[3] != 3 and pictures.shape[1] == 3:
            pictures = pictures.permute(0, 2, 3, 1)
        _require_batch(str(pictures.dtype).removeprefix("torch."), pictures.shape)
        batch, height, width, _ = pictures.shape
        # Whole rows at a time: mean and std repeated along a row of pixels run several times
        # faster than a broadcast over three channels.
        repeated = [torch.from_numpy(np.tile(v, width)) for v in self.shift_and_scale()]
        if pictures.is_cuda:  # from other memory the copy may wait for the GPU
            repeated = [values.pin_memory() for values in repeated]
        shift, scale = (v.to(pictures.device, non_blocking=True) for v in repeated)
        rows = pictures.reshape(batch * height, width * 3).to(torch.float32)
        rows.sub_(shift).mul_(scale)
        return rows.view(batch, height, width, 3).permute(0, 3, 1, 2)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of :meth:`to_dict`; ``InputError`` says which entry does not fit."""
        known = set(cls.__dataclass_fields__)
        if not isinstance(values, Mapping) or set(values) != known:
            got = sorted(map(str, values)) if isinstance(values, Mapping) else values
            raise InputError(f"a preprocessing card needs the keys {sorted(known)}, got {got}.")
        lists = {}
        for key in ("size", "mean", "std"):
            if not isinstance(values[key], (list, tuple)):
                raise InputError(f"preprocess.{key} must be a list of numbers, got {values[key]}.")
            lists[key] = tuple(values[key])
        return cls(interpolation=values["interpolation"], **lists)

    def shift_and_scale(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """What normalization does to pixel values 0..255: (x - shift) * scale, [3] and [3].

        Each step is rounded to float32.  Subtracting before multiplying leaves compilers nothing
        to fuse, so every library and device gets the same bits.
        """
        shift = np.array(self.mean, np.float64) * 255
        scale = 1 / (np.array(self.std, np.float64) * 255)
        return shift.astype(np.float32), scale.astype(np.float32)


def _is(kind: type, value: object) -> bool:
    number = numbers.Integral if kind is int else numbers.Real
    return isinstance(value, number) and not isinstance(value, bool)


def _require_batch(dtype: object, shape: Sequence[int]) -> None:
    if str(dtype) != "uint8" or len(shape) != 4 or shape[3] != 3:
        raise InputError(f"pictures must be uint8 [B, H, W, 3], got {dtype} {list(shape)}.")


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ImageError(f"{path} has {size:,} bytes; at most {MAX_BYTES:,} are read.")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"no picture at {path}. Check the path.") from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror or error}).") from error


def _from_array(array: npt.NDArray[Any], max_pixels: int) -> Picture:
    shape = list(array.shape)
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not fits or 0 in shape:
        raise ImageError(
            f"an array must be uint8 [h, w, 3] RGB, [h, w, 4] RGBA or [h, w] gray and not empty, "
            f"got {array.dtype} {shape}."
        )
    _require_size(shape[0], shape[1], "the array", max_pixels)
    if array.ndim == 3 and array.shape[2] == 3:
        return np.ascontiguousarray(array)
    return _with_pillow(Image.fromarray(array), "the array", max_pixels)


def _fast_jpeg(data: bytes, name: str, max_pixels: int) -> Picture | None:
    """An ordinary color JPEG, or None for whatever Pillow must look at (and word the error)."""
    # Pillow finds an orientation in EXIF or, lacking that, in XMP.
    if simplejpeg is None or data[:3] != b"\xff\xd8\xff":
        return None
    if b"Exif\0\0" in data or b"tiff:Orientation" in data:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if space != "YCbCr":  # gray, CMYK
        return None
    _require_size(height, width, name, max_pixels)
    try:
        # strict: the slightest damage is an error, and Pillow decides
        picture: Picture = simplejpeg.decode_jpeg(
            data, "RGB", fastdct=False, fastupsample=False, strict=True
        )
    except ValueError:
        return None
    return picture


def _with_pillow(source: bytes | Image.Image, name: str, max_pixels: int) -> Picture:
    try:
        if isinstance(source, Image.Image):
            return _from_pillow(source, name, max_pixels)
        with Image.open(io.BytesIO(source), formats=_FORMATS) as image:
            return _from_pillow(image, name, max_pixels)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not a picture in a known format (JPEG, PNG, WebP, BMP, TIFF, GIF, PPM)."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name} has too many pixels ({error}); at most {max_pixels:,} are decoded. "
            "Crop the person out, or make the picture smaller."
        ) from error
    except Exception as error:  # each of Pillow's formats has its own ways to fail
        raise ImageError(
            f"{name} is truncated or corrupt ({error}). Copy or download it again."
        ) from error


def _from_pillow(image: Image.Image, name: str, max_pixels: int) -> Picture:
    width, height = image.size
    _require_size(height, width, name, max_pixels)
    image.load()  # before asking for the orientation: TIFFs are turned, and say so, by loading
    try:
        turn = _UPRIGHT.get(image.getexif().get(274, 1))
    except Exception:  # broken metadata of a picture that may be whole
        turn = None
    if image.mode.startswith("I") or image.mode == "F":
        gray = np.asarray(image)
        if image.mode == "F" or gray.min() < 0 or gray.max() > 65535:
            raise ImageError(
                f"{name} has {'float' if image.mode == 'F' else '32-bit'} pixels; "
                "save it with 8 or 16 bits per channel."
            )
        image = Image.fromarray((gray >> 8).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if turn is not None:
        image = image.transpose(turn)
    return np.array(image)  # a copy: what Pillow lends cannot be written to


def _require_size(height: int, width: int, name: str, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ImageError(
            f"{name} has {height} x {width} pixels; at most {max_pixels:,} are decoded. "
            "Crop the person out, or make the picture smaller."
        )
    if height * width == 0:
        raise ImageError(f"{name} has no pixels ({height} x {width}).")
