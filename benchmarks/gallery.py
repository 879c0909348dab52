"""How fast a gallery takes, finds and reopens vectors, and how many bytes they take.

    python benchmarks/gallery.py                      # 100,000 x 512, graph index
    python benchmarks/gallery.py --int8               # with scalar quantization
    python benchmarks/gallery.py --count 1000000 --no-index
    python benchmarks/gallery.py --folder F --parts add     # one part at a time; then
    python benchmarks/gallery.py --folder F --parts search  # index, search, reopen

The vectors are made, not embedded: people are random unit vectors, the 20 sightings of each have
noise of the same length added (cosine of two sightings of one person near 0.5, of two people
near 0), 20 cameras, 30 days.  Queries are sightings with half as much noise added again.  Noise
in all 512 directions is harder for an index than real features are.

Recall@10 is the share of the true ten best (float32 matrix product, filters applied) that is
found.  The filter leaves out one camera and the first third of the time.  "CPU" is
``time.process_time`` of all threads, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crosscam.cli import told
from crosscam.gallery import Gallery, Model, Sighting, Where
from crosscam.gallery.points import KEYWORDS, NUMBERS

START = 1_770_000_000.0
DAYS = 30
WHERE = Where(not_cameras=("3",), after=START + DAYS * 86400 / 3)
PARTS = ["add", "index", "search", "reopen"]
Vectors = npt.NDArray[np.float32]


def clustered(count: int, dim: int, rng: np.random.Generator) -> Vectors:
    people = rng.standard_normal((-(-count // 20), dim), dtype=np.float32)
    people /= np.linalg.norm(people, axis=1, keepdims=True)
    return _noisy(np.repeat(people, 20, axis=0)[:count], 1.0, rng)


def _noisy(vectors: Vectors, length: float, rng: np.random.Generator) -> Vectors:
    scale = np.float32(length / np.sqrt(vectors.shape[1]))
    for start in range(0, len(vectors), 50_000):
        some = vectors[start : start + 50_000]
        some += scale * rng.standard_normal(some.shape, dtype=np.float32)
        some /= np.linalg.norm(some, axis=1, keepdims=True)
    return vectors


def best(
    vectors: Vectors, queries: Vectors, keep: npt.NDArray[np.bool_], k: int
) -> npt.NDArray[np.int64]:
    """The rows [Q, k] of the true best, in no order."""
    rows = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(vectors), 50_000):
        some = queries @ vectors[start : start + 50_000].T
        some[:, ~keep[start : start + 50_000]] = -2
        scores = np.concatenate([scores, some], 1)
        here = np.arange(start, start + some.shape[1])
        rows = np.concatenate([rows, np.broadcast_to(here, some.shape)], 1)
        top = np.argpartition(-scores, k, axis=1)[:, :k]
        rows, scores = np.take_along_axis(rows, top, 1), np.take_along_axis(scores, top, 1)
    return rows


class Timer:
    """Wall and CPU milliseconds of calls."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def __enter__(self) -> Timer:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall.append(1e3 * (time.perf_counter() - self._wall))
        self.cpu.append(1e3 * (time.process_time() - self._cpu))

    def text(self) -> str:
        p50, p99 = np.quantile(self.wall, [0.5, 0.99])
        return (
            f"p50 {p50:6.2f} ms  least {min(self.wall):6.2f}  p99 {p99:7.2f}  "
            f"CPU {np.median(self.cpu):6.2f} ms"
        )


def load() -> str:
    return f"load {os.getloadavg()[0]:.1f}"


def memory(kind: str = "VmRSS") -> float:
    """MB of this process that lie in memory; of kind "RssAnon", those that are no file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) / 1e3
    return float("nan")


def on_disk(folder: Path, part: str = "") -> float:
    files = (p for p in folder.rglob("*") if p.is_file() and part in str(p.relative_to(folder)))
    return sum(p.stat().st_blocks * 512 for p in files) / 1e6


def make(args: argparse.Namespace, folder: Path) -> None:
    """Adds the vectors, and keeps the queries and their true answers for the other parts."""
    rng = np.random.default_rng(args.seed)
    vectors = clustered(args.count, args.dim, rng)
    cameras = rng.integers(0, 20, args.count)
    times = START + rng.uniform(0, DAYS * 86400, args.count)
    queries = _noisy(vectors[rng.integers(0, args.count, args.queries)].copy(), 0.5, rng)
    keep = (cameras != 3) & (times >= WHERE.after)
    print(
        f"{args.count:,} x {args.dim}, {platform.machine()}, {os.cpu_count()} processors, {load()}"
    )
    items = [
        Sighting(id="", camera=str(c), time=float(t), track=f"{i // 5}", source="synthetic")
        for i, (c, t) in enumerate(zip(cameras, times, strict=True))
    ]
    floor(vectors[:20_000], items[:20_000], folder / "floor")
    model = Model("0" * 64, args.dim)
    gallery = Gallery.create(folder / "g", model, quantization="int8" if args.int8 else "none")
    wall, cpu = time.perf_counter(), time.process_time()
    ids = gallery.add_vectors(vectors, items)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"add          {args.count / wall:8,.0f}/s wall, {args.count / cpu:,.0f} per CPU second, "
          f"{load()}", flush=True)  # fmt: skip
    gallery.close()
    named = np.array(ids)
    np.savez(
        folder / "asked.npz",
        queries=queries,
        all=named[best(vectors, queries, np.ones(args.count, bool), 10)],
        filtered=named[best(vectors, queries, keep, 10)],
    )


def floor(vectors: Vectors, items: list[Sighting], folder: Path) -> None:
    """What the engine's own calls take for the same points, ids and payloads made before."""
    import qdrant_edge as edge

    ids = [str(uuid.UUID(int=i + 1)) for i in range(len(vectors))]
    payloads = [{**s.payload(), "model": "0" * 16, "added": START} for s in items]
    for name, keys, given in (
        ("with payload indexes", [*KEYWORDS, *NUMBERS], payloads),
        ("without payload", [], [None] * len(ids)),
    ):
        params = edge.EdgeVectorParams(size=vectors.shape[1], distance=edge.Distance.Dot)
        folder.mkdir(parents=True)
        shard = edge.EdgeShard.create(str(folder), edge.EdgeConfig(vectors=params))
        for key in keys:
            kind = edge.PayloadSchemaType.Keyword if key in KEYWORDS else (
                edge.PayloadSchemaType.Float)  # fmt: skip
            shard.update(edge.UpdateOperation.create_field_index(key, kind))
        wall = time.perf_counter()
        for start in range(0, len(ids), 256):
            rows = slice(start, start + 256)
            some = zip(ids[rows], vectors[rows], given[rows], strict=True)
            points = [edge.Point(i, memoryview(v), p) for i, v, p in some]
            shard.update(edge.UpdateOperation.upsert_points(points))
        shard.flush()
        wall = time.perf_counter() - wall
        print(f"engine alone {len(ids) / wall:8,.0f}/s wall {name}, {load()}", flush=True)
        shard.close()
        shutil.rmtree(folder)


def build(folder: Path) -> None:
    """Builds the index."""
    with Gallery.open(folder / "g") as gallery:
        wall, cpu = time.perf_counter(), time.process_time()
        gallery.compact()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"index        {wall:8.1f} s wall, {cpu:.1f} CPU s, {gallery.points.indexed():,} "
              f"vectors, {load()}", flush=True)  # fmt: skip


def ask(folder: Path, efforts: list[int]) -> None:
    """Times of searches, and the share of the true ten best that they find."""
    asked = np.load(folder / "asked.npz")
    queries = asked["queries"]
    with Gallery.open(folder / "g") as gallery:
        indexed = gallery.points.indexed() > 0
        for effort in [0, *(efforts if indexed else ())]:
            for name, condition in (("all", Where()), ("filtered", WHERE)):
                clock, hits = Timer(), 0
                for q, true in zip(queries, asked[name], strict=True):
                    with clock:
                        found = gallery.points.nearest(
                            q[None], 10, condition, exact=not effort, effort=effort, vectors=False
                        )[0]
                    hits += len({p.id for p in found} & set(true.tolist()))
                label = f"effort {effort}" if effort else "exact"
                recall = f"recall@10 {hits / 10 / len(queries):.4f}"
                print(f"{label:12s} {name:9s} {clock.text()}  {recall}  {load()}", flush=True)
        for name, condition in (("all", Where()), ("filtered", WHERE)):
            clock = Timer()
            for q in queries:
                with clock:
                    gallery.search(vectors=q[None], top=10, where=condition, exact=not indexed)
            print(f"whole search {name:9s} {clock.text()}  {load()}")


def reopen(folder: Path) -> None:
    """In a process of its own, so that its memory is that of the gallery alone."""
    queries = np.load(folder / "asked.npz")["queries"]
    import qdrant_edge  # noqa: F401 counted before, not as the gallery's

    import crosscam.gallery.search  # noqa: F401

    before = memory()
    with Timer() as clock:
        gallery = Gallery.open(folder / "g")
    exact = not gallery.points.indexed()
    print(f"reopen       {clock.wall[0]:8.1f} ms, {load()}")
    opened = memory()
    for n, q in enumerate(queries):
        with Timer() as clock:
            gallery.search(vectors=q[None], exact=exact)
        if n == 0:
            print(f"first search {clock.wall[0]:8.1f} ms")
    whole, own = memory(), memory("RssAnon")
    print(f"memory       {opened - before:8.0f} MB after opening, {whole - before:.0f} MB after "
          f"{len(queries)} searches, {own:.0f} MB of the process not mapped files")  # fmt: skip
    gallery.close()
    size = on_disk(folder / "g")
    print(f"disk         {size:8.0f} MB, of it write-ahead log {on_disk(folder / 'g', 'wal'):.0f}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--int8", action="store_true", help="scalar quantization")
    parser.add_argument("--no-index", action="store_true", help="do not build the graph")
    parser.add_argument("--efforts", type=int, nargs="+", default=[64, 128, 192, 256])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the gallery here")
    said = "only these; the later ones need the --folder of the first"
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help=said)
    args = parser.parse_args()
    if args.folder:
        run(args, args.folder)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(args, Path(folder))


def run(args: argparse.Namespace, folder: Path) -> None:
    for part in PARTS:
        if part not in args.parts:
            continue
        if part == "add":
            make(args, folder)
        elif part == "index" and not args.no_index:
            build(folder)
        elif part == "search":
            ask(folder, args.efforts)
        elif part == "reopen" and args.parts == ["reopen"]:
            reopen(folder)
        elif part == "reopen":
            again = [sys.executable, __file__, "--parts", "reopen", "--folder", str(folder)]
            subprocess.run(again, check=True)


if __name__ == "__main__":
    sys.exit(told(main))
