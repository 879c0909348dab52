"""Two descriptors from before learning, so that what learning adds can be seen.

Both read uint8 RGB pictures [N, H, W, 3] and return unit vectors [N, D] float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from crosscam import image

__all__ = ["DESCRIPTORS", "hsv_histogram", "raw_pixels"]

Pictures = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]


def hsv_histogram(pictures: Pictures, stripes: int = 8, bins: int = 8) -> Features:
    """Histograms of hue, saturation and value in horizontal stripes, D = stripes * 3 * bins.

    Hue is weighted by saturation, since gray has none.  Every stripe's three histograms sum to
    one each; the square root is taken (Hellinger kernel) before the vector is normalized.
    """
    n, height = pictures.shape[:2]
    hue, saturation, value = _hsv(pictures)
    rows = np.arange(height) * stripes // height  # stripe of every pixel row
    base = (np.arange(n)[:, None, None] * stripes + rows[None, :, None]) * bins
    parts = []
    for channel, weight in ((hue, saturation), (saturation, None), (value, None)):
        cell = base + np.minimum((channel * bins).astype(np.int64), bins - 1)  # [N, H, W]
        counts = np.bincount(
            cell.ravel(),
            None if weight is None else weight.ravel(),
            minlength=n * stripes * bins,
        ).reshape(n, stripes, bins)
        parts.append(counts / np.maximum(counts.sum(-1, keepdims=True), 1e-12))
    return _unit(np.sqrt(np.stack(parts, 2)).reshape(n, -1))


def raw_pixels(pictures: Pictures, size: tuple[int, int] = (32, 16)) -> Features:
    """The picture at ``size`` (height, width), each color channel less its mean, D = H * W * 3."""
    small = np.stack([image.resize(p, size) for p in pictures]).astype(np.float64)
    small -= small.mean((1, 2), keepdims=True)
    return _unit(small.reshape(len(small), -1))


DESCRIPTORS: dict[str, Callable[[Pictures], Features]] = {
    "hsv": hsv_histogram,
    "pixels": raw_pixels,
}


def _hsv(pictures: Pictures) -> tuple[npt.NDArray[np.float64], ...]:
    """Hue, saturation and value in [0, 1] (Smith, SIGGRAPH 1978); the hue of gray is 0."""
    rgb = pictures.astype(np.float64) / 255
    high, low = rgb.max(-1), rgb.min(-1)
    spread = high - low
    safe = np.where(spread > 0, spread, 1.0)
    r, g, b = ((high - rgb[..., c]) / safe for c in range(3))
    hue = np.where(rgb[..., 0] == high, b - g, np.where(rgb[..., 1] == high, 2 + r - b, 4 + g - r))
    hue = np.where(spread > 0, hue / 6 % 1.0, 0.0)
    return hue, np.where(high > 0, spread / np.where(high > 0, high, 1.0), 0.0), high


def _unit(features: npt.NDArray[np.float64]) -> Features:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    # A picture of one color has no raw-pixel feature: it gets the first axis, far from all others.
    features = np.where(norms > 1e-12, features, np.eye(1, features.shape[1]))
    return (features / np.where(norms > 1e-12, norms, 1.0)).astype(np.float32)
