"""Points of a gallery in a folder, by Qdrant Edge in this process."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crosscam.errors import DiskError, GalleryError, MissingExtraError
from crosscam.files import disk_errors, flush_folder, write_atomically
from crosscam.gallery.points import (
    EVERYTHING,
    GRAPH,
    KEYWORDS,
    NUMBERS,
    SET_NAME,
    Point,
    Points,
    Quantization,
    Scored,
    Vectors,
    filter_of,
    in_pages,
    meant,
    point_of,
    vector_of,
)
from crosscam.gallery.sighting import Where

__all__ = ["EdgeHome", "disk_bytes"]

# The engine writes to sparse files through memory maps, where a full disk is no error: the system
# kills the process (SIGBUS).  So there is room before every write.  Adding leaves the larger
# reserve, which is more than a new set of points (40 MB) or what a batch makes of its indexes; so
# naming and forgetting, which need next to nothing, still go on when adding does not.
_SPARE, _RESERVE = 8 << 20, 64 << 20
_RINSE = 34 << 20  # bytes of an update that fills a segment of the log, which has 32 MiB


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

    def unwrite(self) -> None:
        self.manifest.unlink(missing_ok=True)

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
        return sorted(p.name for p in found if p.is_dir() and SET_NAME.fullmatch(p.name))

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
            hnsw_config=edge.HnswIndexConfig(**GRAPH, full_scan_threshold=10_000),
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
            for keys, kind in ((KEYWORDS, "Keyword"), (NUMBERS, "Float")):
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
        condition = filter_of(edge, where)
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
            [Scored(str(p.id), float(p.score), p.payload or {}, vector_of(p.vector)) for p in one]
            for one in found
        ]

    def get(
        self, ids: Sequence[str], *, payload: bool = True, vectors: bool = False
    ) -> list[Point]:
        with _edge_errors(self._folder):
            records = self._shard.retrieve(list(ids), payload, vectors)
        return [point_of(r) for r in records]

    def scan(
        self,
        where: Where,
        *,
        vectors: bool = False,
        limit: int | None = None,
        fields: Sequence[str] | None = None,
        start: str | None = None,
    ) -> Iterator[Point]:
        condition = filter_of(self._edge, where)

        def page(offset: Any, size: int) -> Any:
            with _edge_errors(self._folder):
                return self._shard.scroll(
                    self._edge.ScrollRequest(
                        offset=offset,
                        limit=size,
                        filter=condition,
                        with_payload=True if fields is None else list(fields),
                        with_vector=vectors,
                    )
                )

        return in_pages(page, limit, start)

    def count(self, where: Where) -> int:
        with _edge_errors(self._folder):
            return int(
                self._shard.count(
                    self._edge.CountRequest(filter=filter_of(self._edge, where), exact=True)
                )
            )

    def values(self, key: str, where: Where) -> dict[str, int]:
        with _edge_errors(self._folder):
            hits = self._shard.facet(
                self._edge.FacetRequest(
                    key, limit=EVERYTHING, exact=True, filter=filter_of(self._edge, where)
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
        return point_of(records[0]) if records else None

    def update(
        self, where: Where, payload: Mapping[str, Any], *, clear: Sequence[str] = ()
    ) -> None:
        condition = filter_of(self._edge, meant(where))
        operation = self._edge.UpdateOperation
        if payload:
            self._update(operation.set_payload_by_filter(condition, dict(payload)))
        if clear:
            self._update(operation.delete_payload_by_filter(condition, list(clear)))

    def replace_payloads(self, payloads: Mapping[str, Mapping[str, Any]]) -> None:
        for id, payload in payloads.items():
            self._update(self._edge.UpdateOperation.overwrite_payload([id], dict(payload)))

    def delete(self, where: Where) -> None:
        condition = filter_of(self._edge, meant(where))
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
