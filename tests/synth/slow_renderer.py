"""A rasterizer written for reading, not for speed: the oracle of the compiled one."""

from __future__ import annotations

import numpy as np


def rasterize_slowly(points, faces, face, bary, depth):
    """Same contract as ``crosscam.synth.raster.rasterize``, in float64 NumPy.

    Returns a mask of the pixels whose center lies within 1e-3 pixels of an edge: there, rounding
    may decide either way.
    """
    height, width = face.shape
    unsure = np.zeros((height, width), bool)
    p = points.astype(np.float64)
    for f, (a, b, c) in enumerate(faces):
        corners = p[[a, b, c]]
        if corners[:, 2].min() <= 0.05:
            continue
        x0, y0 = np.floor(corners[:, :2].min(0)).astype(int) - 1
        x1, y1 = np.ceil(corners[:, :2].max(0)).astype(int) + 1
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if x0 >= x1 or y0 >= y1:
            continue
        matrix = np.array([corners[:, 0], corners[:, 1], np.ones(3)])
        if abs(np.linalg.det(matrix)) < 1e-12:
            continue
        x, y = np.meshgrid(np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5)
        spots = np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
        w = np.linalg.solve(matrix, spots)
        # Distance to an edge is its weight times the height of the triangle over it.
        sides = np.linalg.norm(corners[[2, 0, 1], :2] - corners[[1, 2, 0], :2], axis=1)
        heights = abs(np.linalg.det(matrix)) / np.maximum(sides, 1e-9)
        inside = (w >= 0).all(0)
        close = ((np.abs(w) * heights[:, None] < 1e-3).any(0)) & (w >= -0.01).all(0)
        z = corners[:, 2] @ w
        window = np.s_[y0:y1, x0:x1]
        inside, close, z = (v.reshape(x.shape) for v in (inside, close, z))
        unsure[window] |= close
        nearer = inside & (z < depth[window])
        depth[window][nearer] = z[nearer]
        face[window][nearer] = f
        bary[window][nearer] = np.moveaxis(w[1:], 0, -1).reshape(*x.shape, 2)[nearer]
    return unsure
