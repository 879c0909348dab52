"""The descriptors without learning, against loops over their definitions."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from crosscam.classic import _hsv, hsv_histogram, raw_pixels


def test_hsv_equals_the_standard_library() -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    pictures[0, 0, 0] = 77  # gray
    pictures[0, 0, 1] = 0  # black
    hue, saturation, value = _hsv(pictures)
    for place in np.ndindex(2, 5, 4):
        expected = colorsys.rgb_to_hsv(*(pictures[place] / 255))
        np.testing.assert_allclose(
            (hue[place], saturation[place], value[place]), expected, atol=1e-12
        )


def test_histogram_equals_a_loop() -> None:
    random = np.random.default_rng(1)
    pictures = random.integers(0, 256, (3, 12, 5, 3), dtype=np.uint8)
    stripes, bins = 4, 6
    expected = np.zeros((3, stripes, 3, bins))
    for n, y, x in np.ndindex(3, 12, 5):
        h, s, v = colorsys.rgb_to_hsv(*(pictures[n, y, x] / 255))
        for channel, (value, weight) in enumerate(((h, s), (s, 1.0), (v, 1.0))):
            expected[n, y // 3, channel, min(int(value * bins), bins - 1)] += weight
    expected /= expected.sum(-1, keepdims=True)
    expected = np.sqrt(expected).reshape(3, -1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(hsv_histogram(pictures, stripes, bins), expected, atol=1e-6)


def test_histogram_of_one_color_is_known() -> None:
    red = np.zeros((1, 8, 4, 3), np.uint8)
    red[..., 0] = 255
    features = hsv_histogram(red, stripes=2, bins=4).reshape(2, 3, 4)
    expected = np.zeros((2, 3, 4))
    expected[:, 0, 0] = expected[:, 1, 3] = expected[:, 2, 3] = 1 / np.sqrt(6)
    np.testing.assert_allclose(features, expected, atol=1e-7)


def test_raw_pixels_ignore_brightness_and_see_pattern() -> None:
    random = np.random.default_rng(2)
    picture = random.integers(40, 180, (1, 32, 16, 3), dtype=np.uint8)
    brighter = picture + 30
    one, two = raw_pixels(picture), raw_pixels(brighter)
    np.testing.assert_allclose(one, two, atol=1e-6)
    mirrored = raw_pixels(picture[:, :, ::-1])
    assert float(one[0] @ mirrored[0]) < 0.5


@pytest.mark.parametrize("descriptor", [hsv_histogram, raw_pixels])
def test_vectors_are_unit_even_for_a_flat_picture(descriptor: object) -> None:
    flat = np.full((2, 32, 16, 3), 90, np.uint8)
    features = descriptor(flat)  # type: ignore[operator]
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
