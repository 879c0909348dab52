"""Where the points of a gallery live, behind one small interface with two forms.

A point is an id, a unit vector and a payload.  :class:`~crosscam.gallery.edge.EdgeHome` keeps them
in a folder, in this process (Qdrant Edge); :class:`~crosscam.gallery.server.ServerHome` on a Qdrant
server or cluster.  Both get the same points, payloads and filters, so what is written above them is
written once, and so is what their libraries have in common.

A home holds a manifest and named sets of points.  The manifest says which set is the current one:
replacing a set (another model) is one atomic write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from crosscam.errors import GalleryError, InputError
from crosscam.gallery.sighting import Where, tidy

__all__ = [
    "Home",
    "Point",
    "Points",
    "Quantization",
    "Scored",
    "Vectors",
    "checked_vectors",
    "is_url",
]

Vectors = npt.NDArray[np.float32]
Quantization = Literal["none", "int8"]

# A set of points: the model's short hash and, where it is a compacted copy, a number.  On a server
# the name of another gallery may begin so.
SET_NAME = re.compile(r"points-[0-9a-fA-F]{1,16}(\.[0-9a-f]{8})?")
KEYWORDS = ("camera", "person", "picture", "rejected")  # each index costs every upsert time
NUMBERS = ("time", "added")
# Edges of a node, and candidates while building the graph.
GRAPH: dict[str, Any] = {"m": 16, "ef_construct": 128}
EVERYTHING = 1_000_000


def checked_vectors(vectors: Vectors, count: int, dim: int) -> Vectors:
    """Vectors [count, dim] of unit length, or a ``GalleryError``."""
    array = np.ascontiguousarray(vectors, np.float32)
    if array.shape != (count, dim):
        raise GalleryError(
            f"vectors must be [{count}, {dim}] float32, got {list(array.shape)}: the model and the "
            "gallery do not fit."
        )
    lengths = np.einsum("nd,nd->n", array, array)
    if not np.all(np.abs(lengths - 1) < 1e-3):  # also catches NaN
        worst = int(np.argmax(~(np.abs(lengths - 1) < 1e-3)))
        raise GalleryError(
            f"vectors must have unit length, but number {worst} has length "
            f"{float(np.sqrt(lengths[worst])):.4g}. Divide each by its length."
        )
    return array


@dataclass(frozen=True, slots=True)
class Point:
    """A point as it is stored; ``vector`` is None where it was not asked for."""

    id: str
    payload: Mapping[str, Any]
    vector: Vectors | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A point that was found, with the inner product of its vector and the query's."""

    id: str
    score: float
    payload: Mapping[str, Any]
    vector: Vectors | None = None


class Points(Protocol):
    """A set of points.  What has returned survives the death of the process."""

    erases: bool
    """Whether :meth:`optimize` leaves nothing of deleted points in any file.  A server decides
    itself when it rewrites its files."""

    def add(self, ids: Sequence[str], vectors: Vectors, payloads: Sequence[Mapping[str, Any]]
            ) -> None:  # fmt: skip
        """Insert points, or replace those that have the same id."""

    def nearest(
        self,
        queries: Vectors,
        limit: int,
        where: Where,
        *,
        exact: bool,
        effort: int,
        vectors: bool,
    ) -> list[list[Scored]]:
        """For each query [Q, D] the ``limit`` points with the highest inner product, best first.

        ``exact`` looks at every point; else an index may be used, ``effort`` being the
        candidates it keeps.
        """

    def get(self, ids: Sequence[str], *, payload: bool = True, vectors: bool = False
            ) -> list[Point]:  # fmt: skip
        """The points that exist among ``ids``, in any order."""

    def scan(self, where: Where, *, vectors: bool = False, limit: int | None = None,
             fields: Sequence[str] | None = None, start: str | None = None
             ) -> Iterator[Point]:  # fmt: skip
        """All points that fit, ordered by id, from the id ``start`` on, which need not be there;
        with only some payload ``fields`` if given."""

    def count(self, where: Where) -> int:
        """How many points fit, exactly."""

    def values(self, key: str, where: Where) -> dict[str, int]:
        """The values of a payload key, and how many points have each."""

    def extreme(self, key: str, *, last: bool) -> Point | None:
        """The point with the smallest or largest number under ``key``."""

    def update(self, where: Where, payload: Mapping[str, Any], *, clear: Sequence[str] = ()
               ) -> None:  # fmt: skip
        """Set payload entries of all points that fit, and remove the keys ``clear``; ``where``
        must ask for something."""

    def replace_payloads(self, payloads: Mapping[str, Mapping[str, Any]]) -> None:
        """Give points other payloads, whole."""

    def delete(self, where: Where) -> None:
        """Delete all points that fit; ``where`` must ask for something."""

    def flush(self) -> None:
        """Make everything survive a power cut too."""

    def optimize(self) -> None:
        """Index what is not indexed, and erase deleted points if it :attr:`erases`."""

    def indexed(self) -> int:
        """How many vectors an index holds."""

    def close(self) -> None:
        """Let go of files and connections."""


class Home(Protocol):
    """A manifest and named sets of points."""

    def read(self) -> dict[str, Any] | None:
        """The manifest, or None where there is no gallery yet."""

    def write(self, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest, atomically."""

    def unwrite(self) -> None:
        """Delete the manifest, and with it the gallery."""

    def open(self, name: str, dim: int, quantization: Quantization, *, create: bool) -> Points:
        """A set of points; made if ``create`` and it is not there."""

    def names(self) -> list[str]:
        """The sets of points that are there."""

    def drop(self, name: str) -> None:
        """Delete a set of points."""

    def close(self) -> None:
        """Let go of connections."""


def is_url(where: str | Path) -> bool:
    """Whether a gallery's place is a server."""
    return str(where).startswith(("http://", "https://"))


# --- what both libraries have in common -----------------------------------------------------------


def filter_of(models: Any, where: Where) -> Any:
    """The filter of either library, whose classes have the same names and keywords."""
    must: list[Any] = []
    must_not: list[Any] = []
    edge = hasattr(models, "EdgeShard")

    def has_id(ids: Sequence[str]) -> Any:
        return models.HasIdCondition(set(ids)) if edge else models.HasIdCondition(has_id=list(ids))

    def any_of(key: str, names: Sequence[str]) -> Any:
        # Names are kept tidy; those that older versions kept are found as they were given.
        also = () if where.verbatim else map(tidy, names)
        values = list(dict.fromkeys([*names, *also]))
        match = (
            models.MatchValue(value=values[0])
            if len(values) == 1
            else models.MatchAny(values)
            if edge
            else models.MatchAny(any=values)
        )
        return models.FieldCondition(key=key, match=match)

    if where.ids:
        must.append(has_id(where.ids))
    if where.not_ids:
        must_not.append(has_id(where.not_ids))
    for key, values, conditions in (
        ("camera", where.cameras, must),
        ("camera", where.not_cameras, must_not),
        ("person", where.persons, must),
        ("person", where.not_persons, must_not),
        ("rejected", where.rejected_for, must),
        ("rejected", where.not_rejected_for, must_not),
        ("track", where.tracks, must),
        ("picture", where.pictures, must),
    ):
        if values:
            conditions.append(any_of(key, values))
    if where.after is not None or where.before is not None:
        between = (models.RangeFloat if edge else models.Range)(gte=where.after, lt=where.before)
        must.append(models.FieldCondition(key="time", range=between))
    if where.added_before is not None:
        until = (models.RangeFloat if edge else models.Range)(lt=where.added_before)
        must.append(models.FieldCondition(key="added", range=until))
    if not must and not must_not:
        return None
    return models.Filter(must=must or None, must_not=must_not or None)


def meant(where: Where) -> Where:
    """What a change is about: something, and no other spelling of its names."""
    if not where:
        raise InputError("say which sightings are meant: this would change all of them.")
    return replace(where, verbatim=True)


def in_pages(
    page: Callable[[Any, int], Any], limit: int | None, start: str | None
) -> Iterator[Point]:
    """Points from ``start`` on, at most ``limit``: ``page(from where, how many)`` gives some of
    them and where to go on, which is None at the end."""
    left, offset = limit, start
    while left is None or left > 0:
        records, offset = page(offset, 1000 if left is None else min(left, 1000))
        yield from map(point_of, records)
        left = None if left is None else left - len(records)
        if offset is None:
            return


def point_of(record: Any) -> Point:
    """A record of either library as a point."""
    return Point(str(record.id), record.payload or {}, vector_of(record.vector))


def vector_of(values: Any) -> Vectors | None:
    """A vector of either library, which is empty or None where it was not asked for."""
    if values is None or (isinstance(values, dict) and not values):
        return None
    return np.asarray(values, np.float32)
