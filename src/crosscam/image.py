"""The one way pixels become numbers, for training, evaluation and service alike.

    picture = decode("crop.jpg")                   # uint8 [h, w, 3], RGB, upright
    pre = Preprocess(size=(256, 128))
    x = pre.normalize(pre.load("crop.jpg")[None])  # float32 [1, 3, 256, 128]

JPEGs are decoded by libjpeg-turbo through simplejpeg, everything else (and what simplejpeg does
not take) by Pillow.  Both use the same integer transform, so the pixels are the same bits.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from crosscam.errors import ImageError, InputError

if TYPE_CHECKING:
    import torch

__all__ = ["EXTENSIONS", "IMAGENET_MEAN", "IMAGENET_STD", "Preprocess", "decode", "resize"]

Picture = npt.NDArray[np.uint8]  # [h, w, 3], RGB
Source = Path | str | bytes | npt.NDArray[Any] | Image.Image

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"})
"""File names that folders are searched for, lower case."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded: 64 megapixels are 192 MB of RGB."""

MAX_BYTES = 256_000_000
"""Larger files are refused before they are read."""


def decode(source: Source, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """A picture as uint8 [h, w, 3], RGB, upright.

    Takes a path, the bytes of a file, a Pillow image, or an array (uint8; [h, w, 3] is RGB,
    [h, w, 4] is RGBA, [h, w] is gray).  The EXIF orientation is applied; transparency is laid on
    white; 16-bit gray is scaled to 8 bits; of an animation the first frame counts.

    Raises:
        ImageError: missing, empty, truncated or corrupt file, not an image, more than
            ``max_pixels`` pixels (judged before decoding), an array of another kind.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _from_pillow(source, "the image", max_pixels)
    name = "the upload" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _read(Path(source))
    if not data:
        raise ImageError(f"{name} is empty (0 bytes). Copy or download it again.")
    if data[:2] == b"\xff\xd8" and b"Exif\0\0" not in data[:65536]:
        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(data)
            _require_size(height, width, name, max_pixels)
            if space in ("YCbCr", "RGB"):
                picture: Picture = simplejpeg.decode_jpeg(data, "RGB", strict=True)
                return picture
        except ValueError as error:
            if isinstance(error, ImageError):
                raise
            # Whatever is odd about it, Pillow decides, and words the error.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are judged below; odd metadata is no concern
            with Image.open(io.BytesIO(data)) as image:
                return _from_pillow(image, name, max_pixels)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not a picture in a known format (JPEG, PNG, WebP, BMP, TIFF, GIF)."
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} has too many pixels ({error}); at most {max_pixels:,} are decoded. "
            "Crop the person out, or make the picture smaller."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, TypeError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{name} is truncated or corrupt ({error}). Copy or download it again."
        ) from error


def resize(
    picture: Picture,
    size: tuple[int, int],
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Picture:
    """``picture`` [h, w, 3] uint8 at ``size`` (height, width), antialiased when it shrinks."""
    if picture.shape[:2] == tuple(size):
        return picture
    method = Image.Resampling[interpolation.upper()]
    height, width = size
    return np.asarray(Image.fromarray(picture).resize((width, height), method))


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
        if len(self.size) != 2 or min(self.size) < 1 or max(self.size) > 4096:
            raise InputError(
                f"preprocess.size must be (height, width) in 1..4096 pixels, got {self.size}."
            )
        if self.interpolation not in ("bilinear", "bicubic"):
            raise InputError(
                f"preprocess.interpolation must be bilinear or bicubic, got {self.interpolation!r}."
            )
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(v) for v in values):
                raise InputError(f"preprocess.{key} must be three numbers (R, G, B), got {values}.")
        if min(self.std) <= 0:
            raise InputError(f"preprocess.std must be above zero, got {self.std}.")

    def load(self, source: Source) -> Picture:
        """Decoded and resized, uint8 [H, W, 3]."""
        return resize(decode(source), self.size, self.interpolation)

    def normalize(self, pictures: Picture) -> npt.NDArray[np.float32]:
        """uint8 [B, H, W, 3] to float32 [B, 3, H, W]: (x / 255 - mean) / std."""
        shift, scale = self._shift_and_scale()
        x = (pictures.astype(np.float32) - shift) * scale
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))

    def normalize_tensor(self, pictures: torch.Tensor) -> torch.Tensor:
        """The same numbers, bit for bit, from a uint8 tensor [B, H, W, 3], on its device.

        The result is [B, 3, H, W] in channels-last memory order.
        """
        import torch

        batch, height, width, channels = pictures.shape
        if channels != 3:
            raise InputError(f"pictures must be [B, H, W, 3], got {list(pictures.shape)}.")
        # Whole rows at a time: mean and std repeated along a row of pixels run several times
        # faster than a broadcast over three channels.
        shift, scale = (
            torch.from_numpy(np.tile(v, width)).to(pictures.device) for v in self._shift_and_scale()
        )
        rows = pictures.reshape(batch * height, width * 3).to(torch.float32)
        rows.sub_(shift).mul_(scale)
        return rows.view(batch, height, width, 3).permute(0, 3, 1, 2)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of :meth:`to_dict`; ``InputError`` names a missing or unknown key."""
        known = set(cls.__dataclass_fields__)
        if set(values) != known:
            raise InputError(
                f"a preprocessing card needs the keys {sorted(known)}, got {sorted(values)}."
            )
        return cls(
            tuple(values["size"]),
            values["interpolation"],
            tuple(values["mean"]),
            tuple(values["std"]),
        )

    def _shift_and_scale(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Of pixel values 0..255: (x - shift) * scale, each step rounded to float32."""
        shift = np.array(self.mean, np.float64) * 255
        scale = 1 / (np.array(self.std, np.float64) * 255)
        return shift.astype(np.float32), scale.astype(np.float32)


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
    return _from_pillow(Image.fromarray(array), "the array", max_pixels)


def _from_pillow(image: Image.Image, name: str, max_pixels: int) -> Picture:
    width, height = image.size
    _require_size(height, width, name, max_pixels)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        gray = np.asarray(image).astype(np.float64)
        if image.mode != "F" or gray.max(initial=0) > 255:  # 16 bits in whatever container
            gray /= 257
        image = Image.fromarray(np.clip(np.rint(gray), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _require_size(height: int, width: int, name: str, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ImageError(
            f"{name} has {height} x {width} pixels; at most {max_pixels:,} are decoded. "
            "Crop the person out, or make the picture smaller."
        )
    if height * width == 0:
        raise ImageError(f"{name} has no pixels ({height} x {width}).")
