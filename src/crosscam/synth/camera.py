"""Cameras: where one hangs, what it looks at, and what it does to light.

``Camera`` is drawn once per set and camera number.  Two families exist, so that a set can be
trained on one and tested on the other: 0 is soft (low resolution, mild contrast), 1 is harsh
(sharpened until edges ring, deep shadows); the usual set mixes both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Camera", "draw_camera", "gaussian", "look_at"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Camera:
    """One camera.  Lengths in meters, angles in radians, sizes in pixels."""

    number: int  # 1, 2, ...
    seed: int
    height: float
    distance: float  # to the middle of the place people cross
    view: float  # direction it looks in, seen from above
    headings: tuple[float, float]  # the two ways most people walk
    native: tuple[float, float]  # height of a person's box in the sensor's pixels, range
    blur: float  # sigma, in sensor pixels
    matrix: Array  # [3, 3] color mixing with white balance
    exposure: float
    shoulder: float
    gamma: float
    saturation: float
    contrast: float
    black: float
    noise: float
    sharpen: float
    quality: tuple[int, int]  # of the sensor's own JPEG
    scenes: int


def draw_camera(seed: int, number: int, family: int | None = None) -> Camera:
    """Camera ``number`` (from 1) of the set ``seed``."""
    rng = np.random.default_rng([seed, 20, number])
    harsh = bool(rng.random() < 0.45) if family is None else family == 1
    low = rng.uniform(64, 120) if not harsh else rng.uniform(90, 150)
    matrix = np.eye(3) + rng.normal(0, 0.03, (3, 3))
    # Most cameras balance their white well, a few are off for good.
    cast = 0.09 if rng.random() < 0.12 else 0.03
    balance = np.array([1 + rng.normal(0, cast), 1.0, 1 + rng.normal(0, cast)])
    view = rng.uniform(0, 2 * math.pi)
    heading = view + rng.choice([0.0, math.pi / 2]) + rng.normal(0, 0.5)
    return Camera(
        number=number,
        seed=seed,
        height=float(rng.uniform(2.2, 5.2)),
        distance=float(rng.uniform(5.5, 14)),
        view=float(view),
        headings=(float(heading), float(heading + math.pi)),
        native=(float(low), float(low * rng.uniform(1.5, 2.4))),
        blur=float(rng.uniform(0.15, 0.5) if not harsh else rng.uniform(0.1, 0.35)),
        matrix=(matrix * balance).astype(np.float32),
        exposure=float(rng.uniform(0.75, 1.10) if not harsh else rng.uniform(0.70, 1.05)),
        shoulder=float(rng.uniform(0.1, 0.6)),
        gamma=float(rng.uniform(0.44, 0.54) if not harsh else rng.uniform(0.46, 0.62)),
        saturation=float(rng.uniform(0.40, 1.00) if not harsh else rng.uniform(0.30, 0.85)),
        contrast=float(rng.uniform(0.90, 1.15) if not harsh else rng.uniform(1.10, 1.50)),
        black=float(rng.uniform(-0.08, 0.00) if not harsh else rng.uniform(-0.12, -0.02)),
        noise=float(rng.uniform(0.004, 0.016)),
        sharpen=float(rng.uniform(0.2, 1.2) if not harsh else rng.uniform(1.0, 3.0)),
        quality=(int(rng.integers(45, 72)), int(rng.integers(74, 95))),
        scenes=4,
    )


def look_at(eye: Array, target: Array) -> Array:
    """Rotation [3, 3] from world to a level camera at ``eye`` that looks at ``target``."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, np.array([0.0, 0.0, 1.0]))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    return np.stack([right, down, forward]).astype(np.float32)


def gaussian(sigma: float, smear: int = 0) -> Array:
    """Odd blur kernel, sum 1: a bell of ``sigma`` pixels, smeared over 2 ``smear`` + 1."""
    radius = max(1, math.ceil(2.5 * sigma))
    x = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (x / max(sigma, 0.05)) ** 2)
    if smear:
        kernel = np.convolve(kernel, np.ones(2 * smear + 1))
    result: Array = (kernel / kernel.sum()).astype(np.float32)
    return result
