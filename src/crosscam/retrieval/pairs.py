"""The score of every (query, gallery) pair, without ever holding all of them.

Scores are asked for in two ways.  A *tile* gives many at once, fast and approximate: one float32
matrix product, whose last bits depend on the BLAS, its threads and the shape of the block.  The
*exact* score of a single pair is a float64 sum in a fixed order.  Since the rounding error of a
matrix product has a bound that holds for every order of summation,

    |fl(x·y) - x·y|  <=  n u / (1 - n u) * sum |x_i| |y_i|,   u = 2^-24,  n terms

(N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1), a tile
decides nearly all comparisons for certain and the few others are decided by exact scores.  So
whatever is computed from them depends on the features alone.

A score is larger for better pairs: the cosine similarity, or minus the squared distance.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crosscam.retrieval.inputs import (
    COSINE,
    EUCLIDEAN,
    Features,
    check_choice,
    check_dimensions,
    check_norms,
)

__all__ = ["FeaturePairs", "Metric", "TrackPairs"]

Metric = Literal["cosine", "euclidean", "sqeuclidean"]
METRICS = ("cosine", "euclidean", "sqeuclidean")

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_UNIT_ROUNDOFF = 2.0**-24


class FeaturePairs:
    """Scores of ``query`` [Q, D] against the rows ``columns`` of ``gallery`` [G, D].

    A tile holds ``unit * score`` up to ``error[i]`` for query i.  For the Euclidean distance the
    vectors carry two more numbers, (x, -|x|^2/2, 1) against (y, 1, -|y|^2/2), so that the matrix
    product itself is -|x - y|^2 / 2; and all lengths are scaled by a power of two, which rounds
    nothing and keeps every product in range.

    Memory: one float32 copy of the queries, and 16 bytes per gallery row.
    """

    def __init__(
        self,
        query: Features,
        gallery: Features,
        metric: Metric,
        *,
        kernels: ModuleType,
        columns: Indices | None = None,
    ) -> None:
        check_choice(metric, "metric", METRICS)
        check_dimensions(query, gallery)
        self.query, self.gallery, self.kernels = query, gallery, kernels
        self.all_columns = columns is None
        self.columns = np.arange(len(gallery)) if columns is None else columns
        self.kind = COSINE if metric == "cosine" else EUCLIDEAN
        query_square = self._square_norms(query, "query_features")
        gallery_square = (
            query_square if gallery is query else self._square_norms(gallery, "gallery_features")
        )
        size = query.shape[1]
        if self.kind == COSINE:
            self.width, self.scale, self.unit = size, 1.0, 1.0
            self.query_inverse = 1 / np.sqrt(query_square)
            self.gallery_inverse = (
                self.query_inverse if gallery is query else 1 / np.sqrt(gallery_square)
            )
            magnitude = np.ones(len(query))
            self._gallery_half = gallery_square[:0]
            # The reciprocal of an extreme length is no float32; then pack in float64, slower.
            ordinary = (gallery_square > 1e-60) & (gallery_square < 1e60)
            self._packing = np.float32 if ordinary.all() else np.float64
        else:
            largest = float(np.sqrt(max(query_square.max(), gallery_square.max())))
            self.scale = float(2.0 ** -np.clip(np.frexp(largest)[1], -126, 126))
            self.width, self.unit = size + 2, self.scale**2 / 2
            self.query_inverse = self.gallery_inverse = np.ones(1)  # not read for this kind
            self._gallery_half = self.unit * gallery_square
            query_half = self.unit * query_square
            top = float(self._gallery_half.max())
            magnitude = 2 * np.sqrt(query_half * top) + query_half + top
        self.error: Floats = 1.01 * (self.width + 8) * _UNIT_ROUNDOFF * magnitude + 1e-36
        self.packed_query: Singles = np.empty((len(query), self.width), np.float32)
        for start in range(0, len(query), 4096):
            self._pack_query(slice(start, min(start + 4096, len(query))), query_square)

    @property
    def shape(self) -> tuple[int, int]:
        """Queries, and columns to rank them against."""
        return len(self.query), len(self.columns)

    def _square_norms(self, features: Features, name: str) -> Floats:
        squares = np.empty(len(features), np.float64)
        self.kernels.square_norms(features, squares)
        check_norms(squares, name, cosine=self.kind == COSINE)
        return squares

    def _pack_query(self, rows: slice, square: Floats) -> None:
        out = self.packed_query[rows]
        size = self.query.shape[1]
        if self.kind == COSINE:
            np.multiply(self.query[rows], self.query_inverse[rows, None], out=out, casting="unsafe")
        else:
            np.multiply(self.query[rows], np.float32(self.scale), out=out[:, :size])
            out[:, size] = -self.unit * square[rows]
            out[:, size + 1] = 1

    def images(self, start: int, stop: int) -> tuple[int, int]:
        """Which places of ``columns`` the tile columns start..stop-1 are made of."""
        return start, stop

    def images_per_column(self, start: int, stop: int) -> Indices | None:  # noqa: ARG002
        """How many images each of the columns start..stop-1 has; None if one each."""
        return None

    def pack_gallery(self, start: int, stop: int, out: Singles) -> Singles:
        """The right-hand side of the matrix product for places start..stop-1, into ``out``."""
        if self.gallery is self.query and self.all_columns and self.kind == COSINE:
            return self.packed_query[start:stop]
        rows: slice | Indices = slice(start, stop) if self.all_columns else self.columns[start:stop]
        out = out[: stop - start]
        size = self.query.shape[1]
        if self.kind == COSINE:
            inverse = self.gallery_inverse[rows, None].astype(self._packing)
            np.multiply(self.gallery[rows], inverse, out=out, casting="unsafe")
        else:
            np.multiply(self.gallery[rows], np.float32(self.scale), out=out[:, :size])
            out[:, size] = 1
            out[:, size + 1] = -self._gallery_half[rows]
        return out

    def reduce_tile(self, tile: Singles, start: int, stop: int) -> Singles:  # noqa: ARG002
        """From scores of images to scores of columns; here they are the same."""
        return tile

    def bounds(self, rows: Indices, score: Floats) -> tuple[Singles, Singles]:
        """What a tile value must stay below or exceed to be surely worse or better than a score.

        ``error`` leaves room for rounding the bounds themselves to float32.
        """
        middle, error = self.unit * score, self.error[rows]
        return (middle - error).astype(np.float32), (middle + error).astype(np.float32)

    def exact(self, rows: Indices, columns: Indices) -> Floats:
        """The exact scores of single pairs."""
        return self._exact_images(rows, self.columns[columns])

    def _exact_images(self, rows: Indices, gallery_rows: Indices) -> Floats:
        out = np.empty(len(rows), np.float64)
        self.kernels.exact_pairs(
            self.kind,
            self.query,
            self.gallery,
            self.query_inverse,
            self.gallery_inverse,
            rows,
            gallery_rows,
            out,
        )
        return out


class TrackPairs(FeaturePairs):
    """Scores against gallery tracks: a track scores as its best image does.

    ``columns`` lists the gallery rows track by track, and ``track_start`` [T + 1] where each
    track begins in it.
    """

    def __init__(self, *args: Any, track_start: Indices, **options: Any) -> None:
        super().__init__(*args, **options)
        self.all_columns = False
        self.track_start = track_start

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.query), len(self.track_start) - 1

    def images(self, start: int, stop: int) -> tuple[int, int]:
        return int(self.track_start[start]), int(self.track_start[stop])

    def images_per_column(self, start: int, stop: int) -> Indices | None:
        return np.diff(self.track_start[start : stop + 1])

    def reduce_tile(self, tile: Singles, start: int, stop: int) -> Singles:
        offsets = self.track_start[start:stop] - self.track_start[start]
        best: Singles = np.maximum.reduceat(tile, offsets, axis=1)
        return best

    def exact(self, rows: Indices, columns: Indices) -> Floats:
        if len(rows) == 0:
            return np.empty(0)
        lengths = self.track_start[columns + 1] - self.track_start[columns]
        ends = np.cumsum(lengths)
        begins = ends - lengths
        places = np.arange(ends[-1]) + np.repeat(self.track_start[columns] - begins, lengths)
        scores = self._exact_images(np.repeat(rows, lengths), self.columns[places])
        best: Floats = np.maximum.reduceat(scores, begins)
        return best
