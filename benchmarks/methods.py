"""Cost of methods beside each other: training step, memory, and what is deployed.

    python benchmarks/methods.py                                   # the CPU table of docs/methods
    python benchmarks/methods.py --rows "baseline" "mpn prior=extent" --backbone resnet50 \
        --width 1 --size 384x128 --people 6 --images 8

A row is a method and its settings.  A step is forward, losses, backward and AdamW on random
pictures (and random priors, where the method needs some) that lie in memory; a figure is the
median of --steps steps after --warmup.  Every row runs in a process of its own, one after the
other, in --rounds rounds: the least time of a row counts, since other work on the machine only
adds.  Memory is the peak resident size of that process minus what it had before the first step
(on a GPU, the peak that was allocated).  "ratio" is against the first row.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

from crosscam.cli import told
from crosscam.describe import describe
from crosscam.recipe import parse
from crosscam.types import Batch, Prior

ROWS = (
    "baseline",
    "mpn auxiliary=0",
    "mpn sharing=false",
    "mpn",
    "mpn attention=true",
    "mpn prior=extent",
    "mpn prior=parsing",
    "mpn neck=msfl neck_width=128",
    "msfl",
)


def measure(row: str, options: argparse.Namespace) -> dict[str, Any]:
    name, *settings = row.split()
    height, width = (int(v) for v in options.size.split("x"))
    if name == "mpn":
        settings = [f"width={options.features}", *settings]
    recipe = parse(
        None,
        [
            f"method={name}",
            f"method.backbone.name={options.backbone}",
            f"method.backbone.width={options.width}",
            "method.backbone.last_stride=1",
            f"preprocess.size=[{height},{width}]",
            *(f"method.{s}" for s in settings),
        ],
    )
    device = torch.device(options.device)
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    method = recipe.method.build(751)
    cost = describe(method, recipe.preprocess.size)
    method = method.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    n = options.people * options.images
    images = torch.randn(n, 3, height, width, device=device).to(memory_format=torch.channels_last)
    made = {
        Prior.MASKS: lambda: torch.rand(n, max(len(method.parts), 1), 64, 32, device=device),
        Prior.KEYPOINTS: lambda: torch.rand(n, 17, 3, device=device),
        Prior.SURFACE: lambda: torch.rand(n, 3, 128, 64, device=device),
        Prior.TEXTURE: lambda: torch.rand(n, 3, height, height, device=device) * 2 - 1,
    }
    batch = Batch(
        images,
        torch.arange(options.people, device=device).repeat_interleave(options.images),
        torch.zeros(n, dtype=torch.int64, device=device),
        {prior: made[prior]() for prior in method.needs},
    )
    optimizer = torch.optim.AdamW(method.parameters(), 1e-3)

    def step() -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        for number in range(len(method.updates())):
            with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                total = torch.stack(list(method(batch, number).values())).sum()
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - wall, time.process_time() - cpu

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(options.warmup):
        step()
    wall, cpu = (statistics.median(c) for c in zip(*(step() for _ in range(options.steps))))  # noqa: B905
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak * 1024
    return {
        "row": row,
        "images_per_s": n / (wall if device.type == "cuda" else cpu),
        "memory_mb": memory / 1e6,
        "params_train": cost.params_train,
        "params_deploy": cost.params_deploy,
        "macs": cost.macs,
        "feature_dim": cost.feature_dim,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help="method KEY=VALUE ...")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--width", type=float, default=0.5, help="of the backbone (%(default)s)")
    parser.add_argument("--features", type=int, default=128, help="MPN's width (%(default)s)")
    parser.add_argument("--size", default="128x64", help="height x width in pixels (%(default)s)")
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="autocast")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options)))
        return
    best: dict[str, dict[str, Any]] = {}
    for _ in range(options.rounds):
        for row in options.rows:
            command = [sys.executable, *sys.argv, "--one", row]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = json.loads(out.splitlines()[-1])
            if found["images_per_s"] > best.get(row, {"images_per_s": 0.0})["images_per_s"]:
                best[row] = found
    unit = "img/s" if options.device.startswith("cuda") else "img/CPU-s"
    print(
        f"{'':34}{unit:>10}{'ratio':>7}{'MB':>7}{'train M':>9}{'deploy M':>9}{'GMAC':>7}{'dim':>6}"
    )
    reference = best[options.rows[0]]["images_per_s"]
    for row in options.rows:
        r = best[row]
        print(
            f"{row:34}{r['images_per_s']:10.1f}{r['images_per_s'] / reference:7.2f}"
            f"{r['memory_mb']:7.0f}{r['params_train'] / 1e6:9.2f}{r['params_deploy'] / 1e6:9.2f}"
            f"{r['macs'] / 1e9:7.3f}{r['feature_dim']:6d}"
        )


if __name__ == "__main__":
    sys.exit(told(main))
