"""Where the points of a gallery live, behind one small interface with two forms.

A point is an id, a unit vector and a payload.  :class:`EdgeHome` keeps them in a folder, in this
process (Qdrant Edge); :class:`ServerHome` on a Qdrant server or cluster.  Both get the same
points, payloads and filters, so what is written above them is written once.

A home holds a manifest and named sets of points.  The manifest says which set is the current one:
replacing a set (another model) is one atomic write.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from crosscam.errors import DiskError, GalleryError, InputError, MissingExtraError
from crosscam.files import disk_errors, flush_folder, write_atomically
from crosscam.gallery.sighting import Where, tidy

__all__ = [
    "EdgeHome",
    "Home",
    "Point",
    "Points",
    "Scored",
    "ServerHome",
    "checked_vectors",
    "disk_bytes",
    "is_url",
]

Vectors = npt.NDArray[np.float32]
Quantization = Literal["none", "int8"]

# A set of points: the model's short hash and, where it is a compacted copy, a number.  On a server
# the name of another gallery may begin so.
_SET = re.compile(r"points-[0-9a-fA-F]{1,16}(\.[0-9a-f]{8})?")
_KEYWORDS = ("camera", "person", "picture", "rejected")  # each index costs every upsert time
_NUMBERS = ("time", "added")
_M, _EF_CONSTRUCT = 16, 128  # edges of a node and candidates while building the graph
_EVERYTHING = 1_000_000

# The engine writes to sparse files through memory maps, where a full disk is no error: the system
# kills the process (SIGBUS).  So there is room before every write.  Adding leaves the larger
# reserve, which is more than a new set of points (40 MB) or what a batch makes of its indexes; so
# naming and forgetting, which need next to nothing, still go on when adding does not.
_SPARE, _RESERVE = 8 << 20, 64 << 20
_RINSE = 34 << 20  # bytes of an update that fills a segment of the log, which has 32 MiB


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


# --- in a folder ----------------------------------------------------------------------------------


class EdgeHome:
    """Points in a folder, by Qdrant Edge in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "gallery.json"

    def read(self) -> dict[str, Any] | None:
        try:
            values = json.loads(self.manifest.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise GalleryError(
                f"{self.manifest} cannot be read ({error}). Restore it from a backup."
            ) from error
        if not isinstance(values, dict):
            raise GalleryError(f"{self.manifest} holds no manifest. Restore it from a backup.")
        return values

    def write(self, manifest: Mapping[str, Any]) -> None:
        write_atomically(self.manifest, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        with disk_errors(self.manifest, "the manifest that was there"):
            flush_folder(self.folder)  # before anything that it no longer names is deleted

    def open(self, name: str, dim: int, quantization: Quantization, *, create: bool) -> Points:
        folder = self.folder / name
        if not folder.is_dir() and not create:
            raise GalleryError(
                f"{self.folder} has lost its points: there is no folder {name}. Restore it from a "
                "backup, or make a new gallery of the pictures in it."
            )
        return _EdgePoints(folder, dim, quantization)

    def names(self) -> list[str]:
        found = self.folder.glob("points-*")
        return sorted(p.name for p in found if p.is_dir() and _SET.fullmatch(p.name))

    def copy(self, name: str, new: str) -> None:
        """Copy a set of points that is flushed and that nobody changes, to be optimized."""
        try:
            source = self.folder / name
            # The copy is then optimized: what that needs must be free now.
            _require_space(self.folder, disk_bytes(source) + _to_rewrite(source))
            with disk_errors(self.folder / new, "the points that were there"):
                shutil.copytree(source, self.folder / new, copy_function=_copy_with_holes)
        except BaseException:
            shutil.rmtree(self.folder / new, ignore_errors=True)
            raise

    def drop(self, name: str) -> None:
        shutil.rmtree(self.folder / name)

    def close(self) -> None:
        pass


class _EdgePoints:
    erases = True

    def __init__(self, folder: Path, dim: int, quantization: Quantization) -> None:
        try:
            import qdrant_edge as edge
        except ImportError as error:
            raise MissingExtraError(
                "a gallery in a folder needs qdrant-edge-py: pip install 'crosscam[gallery]'."
            ) from error
        self._edge: Any = edge
        self._dim = dim
        self._folder = folder
        # Where bytes are searched, the vectors score the best again and may stay on the disk;
        # reading them ahead is most of the time that opening takes.
        memory = edge.Memory.Cold if quantization == "int8" else edge.Memory.Cached
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size=dim, distance=edge.Distance.Dot, memory=memory),
            hnsw_config=edge.HnswIndexConfig(
                m=_M, ef_construct=_EF_CONSTRUCT, full_scan_threshold=10_000
            ),
            quantization_config=edge.ScalarQuantizationConfig(
                type=edge.ScalarType.Int8, quantile=0.99
            )
            if quantization == "int8"
            else None,
            # Optimizing is called by hand, and then it must leave nothing of a deleted point.
            optimizers=edge.EdgeOptimizersConfig(
                deleted_threshold=1e-9, vacuum_min_vector_number=1, default_segment_number=1
            ),
        )
        with _edge_errors(folder):
            if (folder / "edge_config.json").is_file():
                self._shard = edge.EdgeShard.load(str(folder))
            else:
                # Killed while it was made: nothing was ever in it.
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                _require_space(folder, _RESERVE)
                self._shard = edge.EdgeShard.create(str(folder), config)
            have = set(self._shard.info().payload_schema)
            for keys, kind in ((_KEYWORDS, "Keyword"), (_NUMBERS, "Float")):
                for key in keys:
                    if key not in have:
                        self._shard.update(
                            edge.UpdateOperation.create_field_index(
                                key, getattr(edge.PayloadSchemaType, kind)
                            )
                        )

    def add(
        self, ids: Sequence[str], vectors: Vectors, payloads: Sequence[Mapping[str, Any]]
    ) -> None:
        make = self._edge.Point
        # A view is taken faster than a list of floats, or the array itself.
        points = [
            make(id, memoryview(row), payload)
            for id, row, payload in zip(ids, vectors, payloads, strict=True)
        ]
        # Twice: in the log and in the store; a payload has some 500 bytes, its indexes more.
        size = 2 * len(points) * (4 * self._dim + 1000)
        self._update(self._edge.UpdateOperation.upsert_points(points), _RESERVE + size)

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
        edge = self._edge
        params = edge.SearchParams(
            exact=exact,
            hnsw_ef=None if exact else effort,
            quantization=None if exact else edge.QuantizationSearchParams(
                rescore=True, oversampling=2.0
            ),
        )  # fmt: skip
        condition = _condition(edge, where)
        requests = [
            edge.QueryRequest(
                limit=limit,
                query=edge.Query.Nearest(q.tolist()),
                params=params,
                filter=condition,
                with_payload=True,
                with_vector=vectors,
            )
            for q in queries
        ]
        with _edge_errors(self._folder):
            if len(requests) == 1:
                found = [self._shard.query(requests[0])]
            else:
                found = self._shard.query_batch(edge.QueryBatchRequest(requests))
        return [
            [Scored(str(p.id), float(p.score), p.payload or {}, _vector(p.vector)) for p in one]
            for one in found
        ]

    def get(
        self, ids: Sequence[str], *, payload: bool = True, vectors: bool = False
    ) -> list[Point]:
        with _edge_errors(self._folder):
            records = self._shard.retrieve(list(ids), payload, vectors)
        return [_point(r) for r in records]

    def scan(
        self,
        where: Where,
        *,
        vectors: bool = False,
        limit: int | None = None,
        fields: Sequence[str] | None = None,
        start: str | None = None,
    ) -> Iterator[Point]:
        condition, left = _condition(self._edge, where), limit
        offset: Any = start
        while left is None or left > 0:
            page = 1000 if left is None else min(left, 1000)
            with _edge_errors(self._folder):
                records, offset = self._shard.scroll(
                    self._edge.ScrollRequest(
                        offset=offset,
                        limit=page,
                        filter=condition,
                        with_payload=True if fields is None else list(fields),
                        with_vector=vectors,
                    )
                )
            yield from map(_point, records)
            left = None if left is None else left - len(records)
            if offset is None:
                return

    def count(self, where: Where) -> int:
        with _edge_errors(self._folder):
            return int(
                self._shard.count(
                    self._edge.CountRequest(filter=_condition(self._edge, where), exact=True)
                )
            )

    def values(self, key: str, where: Where) -> dict[str, int]:
        with _edge_errors(self._folder):
            hits = self._shard.facet(
                self._edge.FacetRequest(
                    key, limit=_EVERYTHING, exact=True, filter=_condition(self._edge, where)
                )
            ).hits
        return {str(h.value): int(h.count) for h in hits if h.count}

    def extreme(self, key: str, *, last: bool) -> Point | None:
        edge = self._edge
        direction = edge.Direction.Desc if last else edge.Direction.Asc
        with _edge_errors(self._folder):
            records, _ = self._shard.scroll(
                edge.ScrollRequest(
                    limit=1,
                    with_payload=True,
                    with_vector=False,
                    order_by=edge.OrderBy(key, direction),
                )
            )
        return _point(records[0]) if records else None

    def update(
        self, where: Where, payload: Mapping[str, Any], *, clear: Sequence[str] = ()
    ) -> None:
        condition = _condition(self._edge, _meant(where))
        operation = self._edge.UpdateOperation
        if payload:
            self._update(operation.set_payload_by_filter(condition, dict(payload)))
        if clear:
            self._update(operation.delete_payload_by_filter(condition, list(clear)))

    def replace_payloads(self, payloads: Mapping[str, Mapping[str, Any]]) -> None:
        for id, payload in payloads.items():
            self._update(self._edge.UpdateOperation.overwrite_payload([id], dict(payload)))

    def delete(self, where: Where) -> None:
        condition = _condition(self._edge, _meant(where))
        self._update(self._edge.UpdateOperation.delete_points_by_filter(condition))

    def flush(self) -> None:
        with _edge_errors(self._folder):
            self._shard.flush()

    def optimize(self) -> None:
        edge = self._edge
        _require_space(self._folder, _to_rewrite(self._folder))
        with _edge_errors(self._folder):
            self._shard.flush()
            # The engine lowers the priority of the thread that optimizes, which an ordinary user
            # cannot undo: it gets a thread of its own.
            with ThreadPoolExecutor(1, "optimize") as thread:
                thread.submit(self._shard.optimize).result()
            self._shard.flush()
            # The write-ahead log still holds what was added and deleted.  Its segments have
            # 32 MiB; one that is full and flushed is removed when the next is full too.  Two
            # large updates of nothing push the old content out.
            nothing = edge.Filter(must=[edge.HasIdCondition({str(uuid.UUID(int=0))})])
            for _ in range(2):
                self._shard.update(
                    edge.UpdateOperation.set_payload_by_filter(nothing, {"_": "\0" * _RINSE})
                )
                self._shard.flush()

    def indexed(self) -> int:
        return int(self._shard.info().indexed_vectors_count)

    def close(self) -> None:
        with _edge_errors(self._folder):
            self._shard.close()

    def _update(self, operation: Any, space: int = _SPARE) -> None:
        _require_space(self._folder, space)
        with _edge_errors(self._folder):
            self._shard.update(operation)


def disk_bytes(folder: Path) -> int:
    """What the files below a folder take of the disk; 0 where there is none."""
    if not folder.is_dir():
        return 0
    found = [p.stat() for p in folder.rglob("*") if p.is_file()]
    return sum(s.st_blocks * 512 if hasattr(s, "st_blocks") else s.st_size for s in found)


def _to_rewrite(folder: Path) -> int:
    """Bytes that optimizing needs free: all is written once more before the old is deleted, with an
    index of what had none."""
    return disk_bytes(folder) * 3 // 2 + 2 * _RINSE + _SPARE


def _copy_with_holes(source: str, target: str) -> None:
    """As ``shutil.copy2``, but what is zero takes no space on the disk."""
    nothing = bytes(1 << 16)
    with Path(source).open("rb") as old, Path(target).open("wb") as new:
        while block := old.read(len(nothing)):
            if block == nothing:
                new.seek(len(block), os.SEEK_CUR)
            else:
                new.write(block)
        new.truncate()
    shutil.copystat(source, target)


def _require_space(folder: Path, size: int) -> None:
    """``DiskError`` unless so many bytes are free where ``folder`` is; see _RESERVE."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DiskError(
            f"could not write {folder}: the disk is full ({free >> 20:,} MiB are free, and this "
            f"needs {-(-size >> 20):,}). Last good state: all sightings that were acknowledged. "
            "Free some space and try again."
        )


@contextmanager
def _edge_errors(folder: Path) -> Iterator[None]:
    """The engine's errors, with the folder and what to do; a full disk is said to be full."""
    try:
        with disk_errors(folder, "all sightings that were acknowledged"):
            yield
    except BaseException as error:
        # A panic of the engine, which is no Exception so that nobody takes it for one by chance.
        panic = type(error).__name__ == "PanicException"
        own = isinstance(error, Exception) and not isinstance(
            error, (TypeError, KeyError, AttributeError)
        )
        if not panic and not (own and type(error).__module__ in ("builtins", "qdrant_edge")):
            raise
        text = str(error)
        if "No space left" in text:
            with disk_errors(folder, "all sightings that were acknowledged"):
                raise OSError(28, "No space left on device") from error
        raise GalleryError(
            f"the points in {folder} cannot be used ({text}). If another process has the gallery "
            "open, close it; else run `crosscam gallery verify`."
        ) from error


# --- on a server ----------------------------------------------------------------------------------


class ServerHome:
    """Points on a Qdrant server or cluster.

    ``url`` is ``http://host:6333`` or ``http://host:6333/NAME``.  The manifests of all galleries
    of a server are points without a vector in the collection ``crosscam``.
    """

    _ABOUT = "crosscam"

    def __init__(self, url: str, *, api_key: str | None = None, client: Any = None) -> None:
        try:
            import qdrant_client
        except ImportError as error:
            raise MissingExtraError(
                "a gallery on a server needs qdrant-client: pip install 'crosscam[gallery]'."
            ) from error
        parts = urlsplit(url)
        self.name = parts.path.strip("/") or "gallery"
        if not self.name.replace("-", "").replace("_", "").isalnum() or not self.name.isascii():
            raise InputError(
                f"{url} names the gallery {self.name!r}; letters, digits, - and _ are possible."
            )
        self.url = url
        self._models: Any = qdrant_client.models
        address = f"{parts.scheme}://{parts.netloc}"
        self._local = client is not None
        try:
            self.client = client or qdrant_client.QdrantClient(
                url=address,
                port=parts.port or 6333,
                api_key=api_key,
                timeout=60,
                check_compatibility=False,
            )
        except ValueError as error:
            raise InputError(f"{url} is not the address of a server ({error}).") from error

    def read(self) -> dict[str, Any] | None:
        with _server_errors(self.url):
            if not self.client.collection_exists(self._ABOUT):
                return None
            found = self.client.retrieve(self._ABOUT, [self._id()], with_payload=True)
        return dict(found[0].payload or {}) if found else None

    def write(self, manifest: Mapping[str, Any]) -> None:
        with _server_errors(self.url):
            if not self.client.collection_exists(self._ABOUT):
                self.client.create_collection(self._ABOUT, vectors_config={})
            point = self._models.PointStruct(id=self._id(), vector={}, payload=dict(manifest))
            self.client.upsert(self._ABOUT, [point], wait=True)

    def open(self, name: str, dim: int, quantization: Quantization, *, create: bool) -> Points:
        models = self._models
        collection = f"{self._ABOUT}-{self.name}-{name}"
        with _server_errors(self.url):
            if not self.client.collection_exists(collection):
                if not create:
                    raise GalleryError(
                        f"{self.url} has lost its points: there is no collection {collection}. "
                        "Restore it from a snapshot."
                    )
                self.client.create_collection(
                    collection,
                    vectors_config=models.VectorParams(
                        size=dim, distance=models.Distance.DOT, on_disk=quantization == "int8"
                    ),
                    hnsw_config=models.HnswConfigDiff(m=_M, ef_construct=_EF_CONSTRUCT),
                    quantization_config=models.ScalarQuantization(
                        scalar=models.ScalarQuantizationConfig(
                            type=models.ScalarType.INT8, quantile=0.99, always_ram=True
                        )
                    )
                    if quantization == "int8"
                    else None,
                )
                if not self._local:
                    for keys, kind in ((_KEYWORDS, "KEYWORD"), (_NUMBERS, "FLOAT")):
                        for key in keys:
                            self.client.create_payload_index(
                                collection, key, getattr(models.PayloadSchemaType, kind), wait=True
                            )
        return _ServerPoints(self.client, models, collection, self.url, self._local)

    def names(self) -> list[str]:
        prefix = f"{self._ABOUT}-{self.name}-"
        with _server_errors(self.url):
            every = [c.name for c in self.client.get_collections().collections]
        own = (c.removeprefix(prefix) for c in every if c.startswith(prefix))
        return sorted(name for name in own if _SET.fullmatch(name))

    def drop(self, name: str) -> None:
        with _server_errors(self.url):
            self.client.delete_collection(f"{self._ABOUT}-{self.name}-{name}")

    def close(self) -> None:
        if not self._local:
            self.client.close()

    def _id(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"crosscam:{self.name}"))


class _ServerPoints:
    erases = False

    def __init__(self, client: Any, models: Any, name: str, url: str, local: bool) -> None:
        self._client, self._models, self._name, self._url = client, models, name, url
        self._local = local

    def add(
        self, ids: Sequence[str], vectors: Vectors, payloads: Sequence[Mapping[str, Any]]
    ) -> None:
        points = [
            self._models.PointStruct(id=id, vector=row.tolist(), payload=dict(payload))
            for id, row, payload in zip(ids, vectors, payloads, strict=True)
        ]
        with _server_errors(self._url):
            for start in range(0, len(points), 500):  # some 5 MB of JSON a request
                self._client.upsert(self._name, points[start : start + 500], wait=True)

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
        models = self._models
        # The client's local mode is always exact, and warns of parameters.
        params = None if self._local else models.SearchParams(
            exact=exact,
            hnsw_ef=None if exact else effort,
            quantization=None if exact else models.QuantizationSearchParams(
                rescore=True, oversampling=2.0
            ),
        )  # fmt: skip
        requests = [
            models.QueryRequest(
                query=q.tolist(),
                limit=limit,
                filter=_condition(models, where),
                params=params,
                with_payload=True,
                with_vector=vectors,
            )
            for q in queries
        ]
        with _server_errors(self._url):
            found = self._client.query_batch_points(self._name, requests)
        return [
            [
                Scored(str(p.id), float(p.score), p.payload or {}, _vector(p.vector))
                for p in one.points
            ]
            for one in found
        ]

    def get(
        self, ids: Sequence[str], *, payload: bool = True, vectors: bool = False
    ) -> list[Point]:
        with _server_errors(self._url):
            records = self._client.retrieve(
                self._name, list(ids), with_payload=payload, with_vectors=vectors
            )
        return [_point(r) for r in records]

    def scan(
        self,
        where: Where,
        *,
        vectors: bool = False,
        limit: int | None = None,
        fields: Sequence[str] | None = None,
        start: str | None = None,
    ) -> Iterator[Point]:
        left = limit
        offset: Any = start
        while left is None or left > 0:
            with _server_errors(self._url):
                records, offset = self._client.scroll(
                    self._name,
                    scroll_filter=_condition(self._models, where),
                    limit=1000 if left is None else min(left, 1000),
                    offset=offset,
                    with_payload=True if fields is None else list(fields),
                    with_vectors=vectors,
                )
            yield from map(_point, records)
            left = None if left is None else left - len(records)
            if offset is None:
                return

    def count(self, where: Where) -> int:
        with _server_errors(self._url):
            condition = _condition(self._models, where)
            return int(self._client.count(self._name, count_filter=condition, exact=True).count)

    def values(self, key: str, where: Where) -> dict[str, int]:
        with _server_errors(self._url):
            hits = self._client.facet(
                self._name,
                key,
                facet_filter=_condition(self._models, where),
                limit=_EVERYTHING,
                exact=True,
            ).hits
        return {str(h.value): int(h.count) for h in hits if h.count}

    def extreme(self, key: str, *, last: bool) -> Point | None:
        models = self._models
        direction = models.Direction.DESC if last else models.Direction.ASC
        with _server_errors(self._url):
            records, _ = self._client.scroll(
                self._name, limit=1, order_by=models.OrderBy(key=key, direction=direction)
            )
        return _point(records[0]) if records else None

    def update(
        self, where: Where, payload: Mapping[str, Any], *, clear: Sequence[str] = ()
    ) -> None:
        condition = _condition(self._models, _meant(where))
        with _server_errors(self._url):
            if payload:
                self._client.set_payload(self._name, dict(payload), points=condition, wait=True)
            if clear:
                self._client.delete_payload(self._name, list(clear), points=condition, wait=True)

    def replace_payloads(self, payloads: Mapping[str, Mapping[str, Any]]) -> None:
        with _server_errors(self._url):
            for id, payload in payloads.items():
                self._client.overwrite_payload(self._name, dict(payload), points=[id], wait=True)

    def delete(self, where: Where) -> None:
        condition = _condition(self._models, _meant(where))
        with _server_errors(self._url):
            self._client.delete(
                self._name,
                points_selector=self._models.FilterSelector(filter=condition),
                wait=True,
            )

    def flush(self) -> None:
        pass  # the server's business: it answered after writing its log

    def optimize(self) -> None:
        pass  # the server's optimizers run by themselves

    def indexed(self) -> int:
        with _server_errors(self._url):
            return int(self._client.get_collection(self._name).indexed_vectors_count or 0)

    def close(self) -> None:
        pass


@contextmanager
def _server_errors(url: str) -> Iterator[None]:
    from qdrant_client.http.exceptions import (
        ApiException,
        ResponseHandlingException,
        UnexpectedResponse,
    )

    try:
        yield
    except ResponseHandlingException as error:
        raise GalleryError(
            f"no Qdrant server answers at {url} ({error.source}). Start it, or correct the address."
        ) from error
    except UnexpectedResponse as error:
        denied = error.status_code in (401, 403)
        raise GalleryError(
            f"the Qdrant server at {url} answered {error.status_code} {error.reason_phrase}: "
            f"{error.content.decode('utf-8', 'replace')[:300]}."
            + (" Set CROSSCAM_QDRANT_API_KEY to its key." if denied else "")
        ) from error
    except ApiException as error:
        raise GalleryError(f"the Qdrant server at {url} failed: {error}.") from error


# --- shared ---------------------------------------------------------------------------------------


def _condition(models: Any, where: Where) -> Any:
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


def _meant(where: Where) -> Where:
    """What a change is about: something, and no other spelling of its names."""
    if not where:
        raise InputError("say which sightings are meant: this would change all of them.")
    return replace(where, verbatim=True)


def _point(record: Any) -> Point:
    return Point(str(record.id), record.payload or {}, _vector(record.vector))


def _vector(values: Any) -> Vectors | None:
    if values is None or (isinstance(values, dict) and not values):
        return None
    return np.asarray(values, np.float32)
