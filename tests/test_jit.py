"""Compiled loops where nothing can be kept on disk."""

from __future__ import annotations

import importlib.util

import numba
import numpy as np
import pytest
from numba.core import caching

from crosscam.synth import raster


def test_people_are_drawn_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert raster.__file__ is not None
    spec = importlib.util.spec_from_file_location("raster_without_cache", raster.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])  # none finds a folder
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(lambda: 0)
    spec.loader.exec_module(module)
    points = np.array([[0, 0, 1], [4, 0, 1], [0, 4, 1]], np.float32)
    faces = np.array([[0, 1, 2]], np.int32)
    drawn = []
    for one in (module, raster):
        face = np.full((6, 6), -1, np.int32)
        bary, depth = np.zeros((6, 6, 2), np.float32), np.full((6, 6), raster.FAR, np.float32)
        one.rasterize(points, faces, face, bary, depth)
        drawn.append(face)
    assert (drawn[0] >= 0).sum() == 10  # cells whose centers a triangle of 4 x 4 covers
    assert np.array_equal(*drawn)
