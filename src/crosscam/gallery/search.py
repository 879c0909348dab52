"""Searching a gallery: who is seen here, and where else?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from crosscam.errors import InputError, NotFoundError
from crosscam.gallery.points import Scored, Vectors, checked_vectors
from crosscam.gallery.sighting import Sighting, Where, tidy
from crosscam.image import decode
from crosscam.pictures import camera_of
from crosscam.retrieval import RerankSettings, rerank
from crosscam.wording import counted, either

if TYPE_CHECKING:
    from crosscam.gallery.gallery import Gallery

__all__ = ["NEAR_COPY", "Found", "Hit", "search"]

NEAR_COPY = 0.995
"""From this cosine on, two vectors are called those of near-copies."""

EFFORT = 160
"""Candidates that the index keeps during approximate search."""

TEMPLATE = 256
"""At most so many sightings of a person are averaged."""

_DEEPEST = 20_000  # candidates that grouping may ask for
_QUERY = "query"

Source = Path | str | bytes | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Hit:
    """A result, with what speaks for it."""

    sighting: Sighting
    score: float  # cosine similarity with the query's template, -1..1
    picture: Path | None
    reranked: float | None = None  # re-ranked distance, smaller is nearer
    parts: Mapping[str, float] = field(default_factory=dict)  # cosine by part of the body
    copy_of: str = ""  # "query", or the id of a better result it nearly equals
    count: int = 1  # sightings of its group among the candidates

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {"score": round(self.score, 6), **self.sighting.to_json()}
        if self.reranked is not None:
            values["reranked"] = round(self.reranked, 6)
        if self.parts:
            values["parts"] = {k: round(v, 6) for k, v in self.parts.items()}
        if self.copy_of:
            values["copy_of"] = self.copy_of
        if self.count > 1:
            values["count"] = self.count
        return values


@dataclass(frozen=True)
class Found:
    """Ranked results, best first, and remarks a reader should see."""

    hits: list[Hit]
    template: int  # query vectors that were pooled
    exact: bool
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def to_json(self) -> dict[str, Any]:
        return {
            "results": [h.to_json() for h in self.hits],
            "template": self.template,
            "exact": self.exact,
            "notes": self.notes,
        }


@dataclass
class _Asked:
    """The query as vectors, and what is known of those it shows."""

    vectors: Vectors  # [Q, D]
    ids: set[str]
    cameras: set[str]
    persons: set[str]
    frames: set[tuple[str, str]]
    unplaced: int = 0  # of the vectors, those whose camera is not known


def search(
    gallery: Gallery,
    *,
    pictures: Sequence[Source] = (),
    sightings: Sequence[str] = (),
    person: str | None = None,
    vectors: npt.ArrayLike | None = None,
    top: int = 10,
    where: Where = Where(),  # noqa: B008 frozen
    cameras: Sequence[str] = (),
    exclude_own_cameras: bool = False,
    group: Literal["track", "person"] | None = None,
    once_per_frame: bool = False,
    include_known: bool = False,
    distinct: bool = False,
    pool: Literal["mean", "max"] = "mean",
    exact: bool = False,
    effort: int = EFFORT,
    rerank_top: int = 0,
) -> Found:
    """Rank the gallery for one person, seen on one or several pictures.

    Pictures, sightings, vectors and the sightings of a named person together make the template.
    Rejected sightings of the person are left out; sightings that were confirmed are part of the
    template, and are left out of the results unless ``include_known``.

    Args:
        gallery: an open gallery; it needs its encoder for ``pictures``.
        pictures: query pictures (files, bytes, or uint8 RGB [h, w, 3]).
        sightings: ids of query sightings; they are not results themselves.
        person: a name; all sightings that carry it are asked with (at most 256).
        vectors: query vectors [Q, D] of unit length.
        top: results, or groups of results.
        where: which sightings may be results.
        cameras: the cameras that the query pictures come from.  Where none is given and they
            matter, a picture file's is that of the sightings with its bytes, or else the one in its
            name (``x_c3``).
        exclude_own_cameras: leave out the cameras of the query; a note says where they are unknown.
        group: "track" shows the best sighting of each track, "person" of each named person
            (of each track where nobody is named).
        once_per_frame: of several results in one frame only the best stays, and a frame the
            query itself is in has none: nobody is twice in one frame.
        include_known: also show sightings that already carry the person's name.
        distinct: leave near-copies out instead of marking them.
        pool: "mean" asks once, with the mean of the query vectors brought to unit length; "max"
            scores a sighting by the most similar of them.
        exact: look at every vector, whatever the index says.
        effort: candidates the index keeps; more is slower and finds more.
        rerank_top: re-rank so many of the best by k-reciprocal encoding; 0 does not.

    Raises:
        InputError: nothing to ask with, a number out of range.
        NotFoundError: an unknown id or person.
        ImageError: a query picture is broken.
        GalleryError: the store does not answer.
    """
    _check(top, effort, rerank_top, pool, group)
    person = None if person is None else gallery.people.called(person)
    asked = _ask(gallery, pictures, sightings, person, vectors, cameras)
    if exclude_own_cameras and not cameras:
        _place(gallery, asked, pictures)
    wanted = where
    where = _narrowed(where, asked, person, exclude_own_cameras, include_known)
    templates = asked.vectors
    if pool == "mean":
        mean = templates.mean(axis=0, dtype=np.float64)
        length = float(np.linalg.norm(mean))
        if length < 1e-6:
            raise InputError("the query vectors cancel out: they cannot show one person.")
        templates = (mean / length).astype(np.float32)[None]
    plain = group is None and not once_per_frame and not distinct
    limit = max(top, rerank_top) if plain else max(4 * top, rerank_top, 64)
    while True:
        points, complete = _candidates(gallery, templates, limit, where, exact, effort,
                                       vectors=bool(rerank_top) or distinct)  # fmt: skip
        distances: dict[str, float] = {}
        if rerank_top:
            points, distances = _reranked(templates, points, rerank_top)
        chosen, counts = _choose(points, asked, group, once_per_frame, distinct)
        if plain or len(chosen) >= top or complete or limit >= _DEEPEST:
            break
        limit = min(4 * limit, _DEEPEST)
    hits = _explain(gallery, chosen[:top], counts, distances, asked, templates)
    notes = _notes(hits, asked) if hits else _why_nothing(gallery, wanted)
    if exclude_own_cameras and not cameras:
        notes += _why_not_left_out(asked)
    if not plain and len(chosen) < top and not complete:
        notes.append(f"only the best {_DEEPEST:,} sightings were grouped.")
    return Found(hits, len(asked.vectors), exact, notes)


def _check(top: int, effort: int, rerank_top: int, pool: str, group: str | None) -> None:
    for name, value, low, high in (
        ("top", top, 1, 10_000),
        ("effort", effort, 1, 100_000),
        ("rerank_top", rerank_top, 0, 5_000),
    ):
        if not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"{name} must be a whole number in {low}..{high}, got {value!r}.")
    if pool not in ("mean", "max"):
        raise InputError(f"pool must be mean or max, got {pool!r}.")
    if group not in (None, "track", "person"):
        raise InputError(f"group must be track or person, got {group!r}.")


def _ask(
    gallery: Gallery,
    pictures: Sequence[Source],
    sightings: Sequence[str],
    person: str | None,
    vectors: npt.ArrayLike | None,
    cameras: Sequence[str],
) -> _Asked:
    dim = gallery.model.dim
    rows: list[Vectors] = []
    asked = _Asked(np.zeros((0, dim), np.float32), set(), set(cameras), set(), set())
    if pictures:
        images = [decode(p) for p in pictures]
        embedded = gallery.require_encoder("search by picture").embed(images)
        rows.append(checked_vectors(embedded, len(images), dim))
    if vectors is not None:
        array = np.asarray(vectors, np.float32)
        rows.append(checked_vectors(array, len(array) if array.ndim else 0, dim))
        asked.unplaced += len(array)
    known = gallery.sightings(sightings) if sightings else []
    if person is not None:
        own = list(gallery.find(Where(persons=(person,), verbatim=True), limit=TEMPLATE))
        if not own:
            raise NotFoundError(gallery.people.unknown(person))
        asked.persons.add(person)
        there = {s.id for s in known}
        known += [s for s in own if s.id not in there]
    for s in known:
        asked.ids.add(s.id)
        if s.camera:
            asked.cameras.add(s.camera)
        else:
            asked.unplaced += 1
        if s.person:
            asked.persons.add(s.person)
        if s.frame_key:
            asked.frames.add(s.frame_key)
    if known:
        points = gallery.points.get([s.id for s in known], payload=False, vectors=True)
        found = [p.vector for p in points if p.vector is not None]
        if not found:  # forgotten since they were looked up
            if person is not None:
                raise NotFoundError(gallery.people.unknown(person))
            gallery.sightings(sightings)  # says which are not there
            raise NotFoundError("the sightings asked for have just been forgotten.")
        rows.append(np.stack(found))
    if not rows:
        raise InputError("nothing to search for: give pictures, sightings or a person.")
    asked.vectors = np.concatenate(rows)
    return asked


def _place(gallery: Gallery, asked: _Asked, pictures: Sequence[Source]) -> None:
    """Finds out which cameras the query pictures come from."""
    for picture in pictures:
        own: set[str] = set()
        if not isinstance(picture, np.ndarray):
            own = {s.camera for s in gallery.showing(picture)}
        if not any(own) and isinstance(picture, (str, Path)):
            own = {camera_of(Path(picture).stem)}
        asked.cameras |= own - {""}
        asked.unplaced += not any(own)


def _narrowed(
    where: Where, asked: _Asked, person: str | None, exclude_own_cameras: bool, known: bool
) -> Where:
    persons = tuple(sorted(asked.persons))
    own = (person,) if person is not None and not known else ()
    ids = set() if known and person is not None else asked.ids
    return replace(
        where,
        not_ids=(*where.not_ids, *sorted(ids)),
        not_cameras=(
            *where.not_cameras,
            *(sorted(asked.cameras) if exclude_own_cameras else ()),
        ),
        not_rejected_for=(*where.not_rejected_for, *persons),
        not_persons=(*where.not_persons, *own),
    )


def _candidates(
    gallery: Gallery,
    templates: Vectors,
    limit: int,
    where: Where,
    exact: bool,
    effort: int,
    *,
    vectors: bool,
) -> tuple[list[Scored], bool]:
    """The best of all templates, by their best score; and whether there are no more."""
    lists = gallery.points.nearest(
        templates, limit, where, exact=exact, effort=max(effort, limit), vectors=vectors
    )
    best: dict[str, Scored] = {}
    for point in (p for one in lists for p in one):
        if point.id not in best or point.score > best[point.id].score:
            best[point.id] = point
    # Equal scores in the order of ids, so that equal galleries answer equally.
    ordered = sorted(best.values(), key=lambda p: (-p.score, p.id))
    return ordered, all(len(one) < limit for one in lists)


def _reranked(
    templates: Vectors, points: list[Scored], top: int
) -> tuple[list[Scored], dict[str, float]]:
    head, tail = points[:top], points[top:]
    if len(head) < 3:
        return points, {}
    gallery = np.stack([p.vector for p in head if p.vector is not None])
    k1 = min(20, len(head) - 1)
    settings = RerankSettings(k1=k1, k2=min(6, k1))
    distance = rerank(templates, gallery, settings).min(axis=0)
    order = np.argsort(distance, kind="stable")
    return (
        [head[i] for i in order] + tail,
        {p.id: float(d) for p, d in zip(head, distance, strict=True)},
    )


def _choose(
    points: Sequence[Scored],
    asked: _Asked,
    group: str | None,
    once_per_frame: bool,
    distinct: bool,
) -> tuple[list[Scored], dict[str, int]]:
    """What of the candidates stays, and how many each result stands for."""
    chosen: list[Scored] = []
    leader: dict[Any, str] = {}
    counts: dict[str, int] = {}
    frames = set(asked.frames)
    shown = [*asked.vectors]
    for point in points:
        s = Sighting.from_payload(point.id, point.payload)
        frame = s.frame_key
        if once_per_frame and frame is not None:
            if frame in frames:
                continue
            frames.add(frame)
        key: Any = s.id
        if group == "track":
            key = s.track_key or s.id
        elif group == "person":
            key = s.person or s.track_key or s.id
        if key in leader:
            counts[leader[key]] += 1
            continue
        if distinct and point.vector is not None:
            if max(float(v @ point.vector) for v in shown) >= NEAR_COPY:
                continue
            shown.append(point.vector)
        leader[key] = s.id
        counts[s.id] = 1
        chosen.append(point)
    return chosen, counts


def _explain(
    gallery: Gallery,
    points: Sequence[Scored],
    counts: Mapping[str, int],
    distances: Mapping[str, float],
    asked: _Asked,
    templates: Vectors,
) -> list[Hit]:
    stored = gallery.points.get([p.id for p in points], payload=False, vectors=True)
    vectors = {p.id: p.vector for p in stored}
    hits: list[Hit] = []
    before: list[tuple[str, Vectors]] = [(_QUERY, v) for v in asked.vectors]
    for point in points:
        vector = vectors.get(point.id)
        if vector is None:  # deleted by another client between the two questions
            continue
        copy_of = next((name for name, v in before if float(v @ vector) >= NEAR_COPY), "")
        before.append((point.id, vector))
        s = Sighting.from_payload(point.id, point.payload)
        hits.append(
            Hit(
                sighting=s,
                score=float(np.clip(point.score, -1, 1)),
                picture=gallery.picture(s),
                reranked=distances.get(point.id),
                parts={
                    name: max(_cosine(t[a:b], vector[a:b]) for t in templates)
                    for name, (a, b) in gallery.model.parts.items()
                },
                copy_of=copy_of,
                count=counts.get(point.id, 1),
            )
        )
    return hits


def _notes(hits: Sequence[Hit], asked: _Asked) -> list[str]:
    notes = []
    copies = sum(h.copy_of == _QUERY for h in hits)
    if copies:
        notes.append(
            f"{copies} of {counted(len(hits), 'result')} "
            f"{either(copies, 'is a near-copy', 'are near-copies')} of the query (cosine "
            f"{NEAR_COPY} or more): the same or the next picture, not a new sighting."
        )
    twins = sum(bool(h.copy_of) and h.copy_of != _QUERY for h in hits)
    if twins:
        notes.append(
            f"{twins} of {counted(len(hits), 'result')} "
            f"{either(twins, 'is a near-copy of a better one', 'are near-copies of better ones')}."
        )
    spread = asked.vectors @ asked.vectors.T
    if len(spread) > 1 and float(spread.min()) < 0:
        notes.append(
            f"the query pictures differ much (lowest cosine {float(spread.min()):.2f}): do all "
            "show the same person?"
        )
    return notes


def _why_not_left_out(asked: _Asked) -> list[str]:
    """What to do where the cameras of a query are to be left out, and are not known."""
    if not asked.unplaced:
        return []
    name = "name those to leave out (--query-camera; in the API not_cameras)."
    if not asked.cameras:
        return [f"the camera of the query is not known, so that none was left out: {name}"]
    one = either(asked.unplaced, "it was", "they were")
    return [
        f"the camera of {asked.unplaced} of {counted(len(asked.vectors), 'query picture')} is not "
        f"known, so that {one} not left out: {name}"
    ]


def _why_nothing(gallery: Gallery, where: Where) -> list[str]:
    """What the filters ask for and the gallery has nowhere, such as a mistyped camera."""
    notes = []
    known = gallery.points.values("camera", Where()) if where.cameras else {}
    strange = sorted({c for c in where.cameras if c not in known and tidy(c) not in known})
    if strange:
        notes.append(
            f"no sighting is of camera {', '.join(strange)}. Cameras of this gallery: "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    ranged = where.after is not None or where.before is not None
    if ranged and gallery.points.extreme("time", last=False) is None:
        notes.append("no sighting of this gallery has a time, so none is in a range of times.")
    return notes


def _cosine(a: Vectors, b: Vectors) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 0 else 0.0
