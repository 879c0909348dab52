"""How fast a gallery takes, finds and reopens vectors, and how many bytes they take.

    python benchmarks/gallery.py                      # 100,000 x 512, graph index
    python benchmarks/gallery.py --int8               # with scalar quantization
    python benchmarks/gallery.py --count 1000000 --no-index

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
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crosscam.gallery import Gallery, Model, Sighting, Where

START = 1_770_000_000.0
DAYS = 30
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


def best(vectors: Vectors, queries: Vectors, keep: npt.NDArray[np.bool_], k: int) -> list[set[int]]:
    found = []
    for q in queries:
        score = vectors @ q
        score[~keep] = -2
        found.append(set(np.argpartition(-score, k)[:k].tolist()))
    return found


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


def resident() -> float:
    """MB of this process that lie in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1e3
    return float("nan")


def on_disk(folder: Path) -> float:
    return sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if p.is_file()) / 1e6


def run(args: argparse.Namespace, folder: Path) -> None:
    rng = np.random.default_rng(args.seed)
    vectors = clustered(args.count, args.dim, rng)
    cameras = rng.integers(0, 20, args.count)
    times = START + rng.uniform(0, DAYS * 86400, args.count)
    chosen = rng.integers(0, args.count, args.queries)
    queries = _noisy(vectors[chosen].copy(), 0.5, rng)
    where = Where(not_cameras=("3",), after=START + DAYS * 86400 / 3)
    keep = (cameras != 3) & (times >= where.after)
    truth = {
        "": best(vectors, queries, np.ones(args.count, bool), 10),
        "filtered": best(vectors, queries, keep, 10),
    }
    print(
        f"{args.count:,} x {args.dim}, {platform.machine()}, {os.cpu_count()} processors, {load()}"
    )
    items = [
        Sighting(id="", camera=str(c), time=float(t), track=f"{i // 5}", source="synthetic")
        for i, (c, t) in enumerate(zip(cameras, times, strict=True))
    ]
    model = Model("0" * 64, args.dim)
    gallery = Gallery.create(folder / "g", model, quantization="int8" if args.int8 else "none")
    wall, cpu = time.perf_counter(), time.process_time()
    ids = gallery.add_vectors(vectors, items)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    row = {id: i for i, id in enumerate(ids)}
    print(f"add          {args.count / wall:8,.0f}/s wall, {args.count / cpu:,.0f} per CPU second, "
          f"{load()}")  # fmt: skip

    def ask(label: str, exact: bool, effort: int) -> None:
        for name, condition in (("", Where()), ("filtered", where)):
            clock, hits = Timer(), 0
            for q, true in zip(queries, truth[name], strict=True):
                with clock:
                    found = gallery.points.nearest(
                        q[None], 10, condition, exact=exact, effort=effort, vectors=False
                    )[0]
                hits += len({row[p.id] for p in found} & true)
            print(f"{label:12s} {name:9s} {clock.text()}  recall@10 {hits / 10 / len(queries):.4f}"
                  f"  {load()}", flush=True)  # fmt: skip

    ask("exact", True, 1)
    if not args.no_index:
        wall, cpu = time.perf_counter(), time.process_time()
        gallery.compact()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"index        {wall:8.1f} s wall, {cpu:.1f} CPU s, {load()}", flush=True)
        for effort in args.efforts:
            ask(f"effort {effort}", False, effort)
        ask("exact", True, 1)
    for name, condition in (("", Where()), ("filtered", where)):
        clock = Timer()
        for q in queries:
            with clock:
                gallery.search(vectors=q[None], top=10, where=condition, exact=args.no_index)
        print(f"whole search {name:9s} {clock.text()}  {load()}")
    gallery.close()
    size = on_disk(folder)
    print(f"disk         {size:8.0f} MB, {size / args.count * 1e6:,.0f} MB per million")
    np.save(folder / "queries.npy", queries)
    again = [sys.executable, __file__, "--reopen", "--folder", str(folder)]
    subprocess.run([*again, "--no-index"] if args.no_index else again, check=True)


def reopen(folder: Path, exact: bool) -> None:
    """In a process of its own, so that its memory is that of the gallery alone."""
    queries = np.load(folder / "queries.npy")
    import crosscam.gallery.search  # noqa: F401 counted before, not as the gallery's

    before = resident()
    with Timer() as clock:
        gallery = Gallery.open(folder / "g")
    print(f"reopen       {clock.wall[0]:8.1f} ms, {load()}")
    opened = resident()
    for n, q in enumerate(queries):
        with Timer() as clock:
            gallery.search(vectors=q[None], exact=exact)
        if n == 0:
            print(f"first search {clock.wall[0]:8.1f} ms")
    print(f"memory       {opened - before:8.0f} MB after opening, {resident() - before:.0f} MB "
          f"after {len(queries)} searches, mapped files included")  # fmt: skip
    gallery.close()


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
    parser.add_argument("--reopen", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reopen:
        reopen(args.folder, args.no_index)
    elif args.folder:
        run(args, args.folder)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(args, Path(folder))


if __name__ == "__main__":
    main()
