"""How fast and how large is evaluation? One command: ``python benchmarks/retrieval.py``.

Everything is a ratio to two references in the same run: the bare float32 matrix product of the
same sizes, and a straightforward evaluator that sorts every row. CPU-seconds (all threads) stand
beside wall seconds; on a busy machine the CPU-seconds are the ones to read. Memory is the peak
above the features. Each case runs in a process of its own.

    python benchmarks/retrieval.py                          # evaluation and re-ranking, Market size
    python benchmarks/retrieval.py --cases market msmt17 market500k rerank-market rerank-msmt17

Features are synthetic: Gaussian clusters of unit length, one per person, plus an offset per
camera; ``--noise`` sets the difficulty and the mAP printed says how hard it came out.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from crosscam.cli import told

SIZES = {  # queries, gallery, persons, cameras, distractors in the gallery
    "market": (3368, 15913, 750, 6, 2798),
    "msmt17": (11659, 82161, 3060, 15, 0),
    "market500k": (3368, 515913, 750, 6, 502798),
}


def features(name: str, size: int, noise: float) -> tuple[np.ndarray, ...]:
    """Arguments of ``evaluate``."""
    n_query, n_gallery, persons, cameras, distractors = SIZES[name]
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((persons + 1, size), dtype=np.float32)
    offsets = 0.3 * rng.standard_normal((cameras, size), dtype=np.float32)

    def side(n: int, lone: int) -> tuple[np.ndarray, ...]:
        pids = rng.integers(1, persons + 1, n)
        pids[rng.permutation(n)[:lone]] = 0
        cams = rng.integers(0, cameras, n)
        out = np.empty((n, size), np.float32)
        for i in range(0, n, 4096):  # in blocks, to keep this from being the peak
            part = slice(i, i + 4096)
            known = (pids[part] > 0).astype(np.float32)[:, None]
            out[part] = rng.standard_normal(out[part].shape, dtype=np.float32) * noise
            own = centers[pids[part]] * known
            # A distractor is a person nobody asks for: as far out as the others.
            own += (1 - known) * rng.standard_normal(own.shape, dtype=np.float32)
            out[part] += own + offsets[cams[part]]
            out[part] /= np.linalg.norm(out[part], axis=1, keepdims=True)
        return out, pids, cams

    return (*side(n_query, 0), *side(n_gallery, distractors))


def bare_product(query: np.ndarray, gallery: np.ndarray, rows: int = 1024) -> Callable[[], None]:
    """The matrix product alone, in the fastest form found: many rows, memory used again."""
    rows = min(rows, len(query))
    out = np.empty((rows, len(gallery)), np.float32)

    def run() -> None:
        for i in range(0, len(query), rows):
            part = query[i : i + rows]
            np.matmul(part, gallery.T, out=out[: len(part)])

    return run


def tiled_product(query: np.ndarray, gallery: np.ndarray, side: int = 1024) -> Callable[[], None]:
    """The same product in tiles that stay in the cache, a thread each: what evaluation is made of.

    Its difference to ``evaluate`` is all that is spent on anything but the matrix product.
    """
    from crosscam.retrieval.parallel import run_tasks, thread_count

    def worker(tasks: Iterable[int]) -> None:
        tile = np.empty((side, side), np.float32)
        for j in tasks:
            right = gallery[j : j + side]
            for i in range(0, len(query), side):
                part = query[i : i + side]
                out = tile.reshape(-1)[: len(part) * len(right)].reshape(len(part), len(right))
                np.matmul(part, right.T, out=out)

    return lambda: run_tasks(worker, range(0, len(gallery), side), thread_count(None))


def sort_based(data: tuple[np.ndarray, ...], rows: int) -> Callable[[], float]:
    """What most evaluators do: distances, argsort, gather, cumulative sums; mAP of ``rows``."""
    query, query_pids, query_cams, gallery, gallery_pids, gallery_cams = data

    def run() -> float:
        found = []
        for i in range(0, rows, 256):
            distances = 1 - query[i : min(i + 256, rows)] @ gallery.T
            order = np.argsort(distances, axis=1)
            for q, ranked in enumerate(order, start=i):
                right = gallery_pids[ranked] == query_pids[q]
                right = right[~(right & (gallery_cams[ranked] == query_cams[q]))]
                if right.any():
                    precision = right.cumsum() / np.arange(1, len(right) + 1)
                    found.append((precision * right).sum() / right.sum())
        return float(np.mean(found))

    return run


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def resident(peak: bool) -> float:
    """MB of this process now, or the peak since ``reset_peak``."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else float("nan")


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(case: str, size: int, noise: float, rounds: int) -> dict[str, Any]:
    from crosscam.retrieval import RerankSettings, evaluate, rerank

    reranking = case.startswith("rerank-")
    name = case.removeprefix("rerank-")
    data = features(name, size, noise)
    small = tuple(part[:400] for part in data)
    _, first_call, _ = timed(lambda: evaluate(*small))
    evaluate(*small, rerank=RerankSettings())
    rerank(small[0], small[3])
    runs: dict[str, Callable[[], Any]] = {}
    if reranking:
        runs["evaluate, re-ranked"] = lambda: evaluate(*data, rerank=RerankSettings())
        if name == "market":
            runs["re-ranked distances"] = lambda: rerank(data[0], data[3])
    else:
        runs["evaluate"] = lambda: evaluate(*data)
    times: dict[str, list[tuple[float, float]]] = {}
    out: dict[str, Any] = {"case": case, "size": size, "first_call_s": first_call, "rows": {}}
    for label, run in runs.items():
        gc.collect()
        reset_peak()
        before = resident(peak=False)
        wall, cpu, result = timed(run)
        times[label] = [(wall, cpu)]
        out["rows"][label] = {"memory_mb": resident(peak=True) - before}
        if label.startswith("evaluate"):
            out["mAP"] = result.mAP
        del result
    if reranking:
        everything = np.concatenate([data[0], data[3]])
        product = bare_product(everything, everything)
        tiled = tiled_product(everything, everything)
        limit = "bare N x N product"
    else:
        product = bare_product(
            data[0], data[3], rows=max(256, min(4096, 2**29 // len(data[3]) // 4))
        )
        tiled = tiled_product(data[0], data[3])
        limit = "bare product"
    measured = {limit: product, f"{limit}, in tiles": tiled, **runs}
    for repeat in range(rounds):
        for label, run in measured.items():
            if repeat or label not in times:  # the run whose memory was measured is the first
                wall, cpu, _ = timed(run)
                times.setdefault(label, []).append((wall, cpu))
    if not reranking:
        rows = min(len(data[0]), max(256, 2**25 // len(data[3])))
        wall, cpu, _ = timed(sort_based(data, rows))
        factor = len(data[0]) / rows
        times[f"sort-based, from {rows} queries"] = [(wall * factor, cpu * factor)]
    for label, pairs in times.items():
        wall, cpu = np.median(pairs, axis=0)
        row = out["rows"].setdefault(label, {})
        row |= {"wall_s": wall, "cpu_s": cpu, "n": len(pairs)}
    for row in out["rows"].values():
        row["ratio_cpu"] = row["cpu_s"] / out["rows"][limit]["cpu_s"]
        row["ratio_wall"] = row["wall_s"] / out["rows"][limit]["wall_s"]
    return out


def show(result: dict[str, Any]) -> None:
    n_query, n_gallery, *_ = SIZES[result["case"].removeprefix("rerank-")]
    print(
        f"\n{result['case']}: {n_query} x {n_gallery}, {result['size']}-d, "
        f"mAP {result['mAP']:.3f}, first call {result['first_call_s']:.1f} CPU-s"
    )
    print(f"{'':36s}{'wall s':>9s}{'ratio':>7s}{'CPU s':>9s}{'ratio':>7s}{'MB':>7s}   n")
    for label, row in result["rows"].items():
        memory = f"{row['memory_mb']:.0f}" if "memory_mb" in row else ""
        print(
            f"{label:36s}{row['wall_s']:9.2f}{row['ratio_wall']:7.2f}"
            f"{row['cpu_s']:9.2f}{row['ratio_cpu']:7.2f}{memory:>7s}{row['n']:4d}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    cases = [*SIZES, "rerank-market", "rerank-msmt17"]
    parser.add_argument("--cases", nargs="+", choices=cases, default=["market", "rerank-market"])
    parser.add_argument("--size", type=int, default=512, help="feature size")
    parser.add_argument("--noise", type=float, default=2.05)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.cases[0], args.size, args.noise, args.rounds)))
        return
    cpus, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"numpy {np.__version__}, {cpus} CPUs, load {load:.1f}")
    for case in args.cases:
        command = [sys.executable, __file__, "--one", "--cases", case, "--size", str(args.size)]
        command += ["--noise", str(args.noise), "--rounds", str(args.rounds)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        show(json.loads(done.stdout))
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(told(main))
