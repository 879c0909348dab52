"""Scored comparisons of sightings whose people are known.

Three views of the same comparisons are kept, because three questions are asked of them:

- pairs: how do scores of one person's sightings differ from those of two people's?
- people: how well does the best-fitting sighting of *each* person in a gallery fit a query?  That
  is what a search answers with, and it grows with the gallery.
- cameras: do two cameras make strangers look alike?

Memory: ``same`` as many floats as there are right pairs; histograms of 4,096 bins per query
person (16 KB each); ``best`` Q x M floats; one block of 256 queries x G scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crosscam.errors import FeatureError
from crosscam.types import DISTRACTOR_PID, JUNK_PID
from crosscam.wording import counted

__all__ = ["BINS", "EDGES", "Trials", "bin_of", "collect", "of_pairs"]

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

BINS = 4096
EDGES: npt.NDArray[np.float64] = np.linspace(-1.0, 1.0, BINS + 1)
_BLOCK = 256


@dataclass(frozen=True)
class Trials:
    """Scores of comparisons, by what is known of them.  Query people are numbered 0..P-1."""

    same: Floats  # [S] scores of pairs of one person, own camera left out
    same_person: Counts  # [S] which query person
    other: Counts  # [P, BINS] scores of pairs of two people, by query person
    best_same: Floats  # [Q] best score of the query's own person, NaN where it has none
    best_other: Floats  # [Q, M] best score of every person, NaN where it is the query's own
    query_person: Counts  # [Q]
    cameras: Mapping[tuple[int, int], tuple[Counts, Counts]]  # (same, other) [BINS] histograms

    @property
    def people(self) -> int:
        """Query people P."""
        return len(self.other)


def bin_of(scores: npt.NDArray[np.floating]) -> Counts:
    """The bin of every score, 0..BINS-1."""
    places = np.floor((scores.astype(np.float64) + 1.0) * (BINS / 2))
    return np.clip(places, 0, BINS - 1).astype(np.int64)


def collect(
    query_features: npt.ArrayLike,
    query_pids: npt.ArrayLike,
    query_camids: npt.ArrayLike,
    gallery_features: npt.ArrayLike,
    gallery_pids: npt.ArrayLike,
    gallery_camids: npt.ArrayLike,
) -> Trials:
    """Scores every query [Q, D] against every gallery sighting [G, D], unit rows.

    Sightings of the query's own person and camera are left out, as in evaluation; so are junk
    sightings (person -1).  Person 0 is a distractor where no query shows it, as in every data set
    that crosscam reads, and each of them counts as somebody else; in ids from elsewhere that give
    a query 0 it is a person like others.

    Raises:
        FeatureError: sizes that do not fit, rows that are not of unit length, or no pairs of one
            person or of two.
    """
    q, g = _unit_rows(query_features, "query"), _unit_rows(gallery_features, "gallery")
    qp, qc = _ids(query_pids, len(q), "query_pids"), _ids(query_camids, len(q), "query_camids")
    gp = _ids(gallery_pids, len(g), "gallery_pids")
    gc = _ids(gallery_camids, len(g), "gallery_camids")
    if q.shape[1] != g.shape[1]:
        raise FeatureError(
            f"queries have {counted(q.shape[1], 'number')} per row and the gallery {g.shape[1]}. "
            "Both must come from the same model."
        )
    kept = np.flatnonzero(gp != JUNK_PID)
    if DISTRACTOR_PID not in qp:  # every one of them is somebody else
        gp = np.where(gp == DISTRACTOR_PID, JUNK_PID - 1 - np.arange(len(gp)), gp)
    kept = kept[np.argsort(gp[kept], kind="stable")]  # one person's sightings side by side
    g, gp, gc = g[kept], gp[kept], gc[kept]
    persons, starts = np.unique(gp, return_index=True)
    names, query_person = np.unique(qp, return_inverse=True)

    same: list[Floats] = []
    same_person: list[Counts] = []
    other = np.zeros((len(names), BINS), np.int64)
    best_same = np.full(len(q), np.nan, np.float32)
    best_other = np.empty((len(q), len(persons)), np.float32)
    cameras: dict[tuple[int, int], tuple[Counts, Counts]] = {}
    for start in range(0, len(q), _BLOCK):
        rows = slice(start, start + _BLOCK)
        scores = np.clip(q[rows] @ g.T, -1.0, 1.0)
        for i, row in enumerate(scores, start):
            own = gp == qp[i]
            right = own & (gc != qc[i])
            wrong = ~own
            bins = bin_of(row)
            same.append(row[right])
            same_person.append(np.full(int(right.sum()), query_person[i]))
            other[query_person[i]] += np.bincount(bins[wrong], minlength=BINS)
            if right.any():
                best_same[i] = row[right].max()
            best_other[i] = np.maximum.reduceat(row, starts)
            best_other[i, persons == qp[i]] = np.nan
            for camera in np.unique(gc):
                pair = (min(int(qc[i]), int(camera)), max(int(qc[i]), int(camera)))
                there = gc == camera
                both = cameras.setdefault(pair, (np.zeros(BINS, int), np.zeros(BINS, int)))
                for counts, chosen in zip(both, (right, wrong), strict=True):
                    counts += np.bincount(bins[there & chosen], minlength=BINS)
    trials = Trials(
        np.concatenate(same),
        np.concatenate(same_person).astype(np.int64),
        other,
        best_same,
        best_other,
        query_person.astype(np.int64),
        cameras,
    )
    return _checked(trials)


def of_pairs(scores: npt.ArrayLike, same: npt.ArrayLike) -> Trials:
    """Trials of a list of pairs: ``scores`` [N] and whether each shows one person, [N] bool.

    Nothing is known of searches then, so ``best_same`` and ``best_other`` are empty, and every
    pair counts as a person of its own.
    """
    values = np.asarray(scores, np.float32)
    right = np.asarray(same, bool)
    if values.ndim != 1 or values.shape != right.shape:
        raise FeatureError(
            f"every score needs one answer, got shapes {list(values.shape)} and "
            f"{list(right.shape)}."
        )
    if not np.isfinite(values).all() or (np.abs(values) > 1.0 + 1e-3).any():
        raise FeatureError("scores must be cosine similarities in [-1, 1]; some are not.")
    wrong = values[~right]
    other = np.zeros((max(len(wrong), 1), BINS), np.int64)
    if len(wrong):
        other[np.arange(len(wrong)), bin_of(wrong)] = 1
    none = np.empty(0, np.float32)
    trials = Trials(
        values[right],
        np.arange(int(right.sum())),
        other,
        none,
        none.reshape(0, 0),
        np.empty(0, np.int64),
        {},
    )
    return _checked(trials)


def _checked(trials: Trials) -> Trials:
    if not len(trials.same) or not trials.other.sum():
        raise FeatureError(
            f"a calibration needs pairs of one person and pairs of two, got {len(trials.same)} "
            f"and {int(trials.other.sum())}. Give sightings of several people by several cameras."
        )
    return trials


def _unit_rows(features: npt.ArrayLike, name: str) -> Floats:
    rows = np.ascontiguousarray(features, np.float32)
    if rows.ndim != 2 or not rows.size:
        raise FeatureError(
            f"{name} features must be [N, D] with at least one row, got {list(rows.shape)}."
        )
    lengths = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~(np.abs(lengths - 1.0) < 1e-3))
    if len(bad):
        raise FeatureError(
            f"{name} features must have unit length; row {bad[0]} has length "
            f"{lengths[bad[0]]:.4g} ({counted(len(bad), 'such row')}). Divide every row by its "
            "length."
        )
    return rows


def _ids(values: npt.ArrayLike, count: int, name: str) -> Counts:
    ids = np.asarray(values)
    if ids.shape != (count,) or not np.issubdtype(ids.dtype, np.integer):
        raise FeatureError(f"{name} must be {count} whole numbers, got {list(ids.shape)}.")
    return ids.astype(np.int64)
