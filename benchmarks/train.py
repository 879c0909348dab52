"""Images per second of a training step, per backbone, precision and memory format.

    python benchmarks/train.py                          # the CPU table of docs/RESULTS.md
    python benchmarks/train.py --backbones resnet50 osnet_x1_0 --size 256x128 --batch 64 --steps 50

One step is forward, cross-entropy over 751 identities, backward and SGD with momentum, on random
pictures that lie in memory: what the network costs, without the data.  Each line is the median of
--steps steps after --warmup; the rounds of all variants of a backbone are interleaved, so that
a busy machine slows all alike.  "ratio" is against fp32 nchw of the same backbone and run, by
CPU-seconds on a CPU and by wall time on a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from crosscam.cli import told
from crosscam.nn import backbones, layers, losses

PEOPLE = 751
VARIANTS = {
    "fp32 nchw": (torch.float32, torch.contiguous_format),
    "fp32 channels_last": (torch.float32, torch.channels_last),
    "bf16 nchw": (torch.bfloat16, torch.contiguous_format),
    "bf16 channels_last": (torch.bfloat16, torch.channels_last),
}


class Net(nn.Module):
    """A backbone, its pooled map and a classifier."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = backbones.build(name)
        self.classifier = layers.init_normal(nn.Linear(self.backbone.channels[-1], PEOPLE), 0.001)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(layers.global_avg_pool(self.backbone(images)))
        return logits


def stepper(
    name: str, variant: str, batch: int, size: tuple[int, int], device: torch.device, compiled: bool
) -> Callable[[], tuple[float, float]]:
    """A function that makes one step and returns its wall and CPU seconds."""
    dtype, memory = VARIANTS[variant]
    torch.manual_seed(0)
    net = Net(name).to(device, memory_format=memory)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, *size, device=device).to(memory_format=memory)
    pids = torch.randint(PEOPLE, (batch,), device=device)
    model = torch.compile(net) if compiled else net

    def step() -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = losses.cross_entropy(model(images), pids, 0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - wall, time.process_time() - cpu

    return step


def measure(name: str, options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    size = tuple(int(v) for v in options.size.split("x"))
    steps = {
        variant: stepper(name, variant, options.batch, size, device, options.compile)
        for variant in options.variants
    }
    for step in steps.values():
        for _ in range(options.warmup):
            step()
    seconds: dict[str, list[tuple[float, float]]] = {variant: [] for variant in steps}
    for _ in range(options.steps):
        for variant, step in steps.items():
            seconds[variant].append(step())
    rows = []
    for variant, pairs in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        rows.append(
            {
                "backbone": name,
                "variant": variant,
                "images_per_wall_s": options.batch / wall,
                "images_per_cpu_s": options.batch / cpu,
                "wall_s": wall,
                "cpu_s": cpu,
            }
        )
    key = "images_per_wall_s" if device.type == "cuda" else "images_per_cpu_s"
    reference = next((row[key] for row in rows if row["variant"] == "fp32 nchw"), None)
    for row in rows:
        row["ratio"] = row[key] / reference if reference else None
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=["osnet_x0_25", "resnet18"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--size", default="128x64", help="height x width in pixels (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images a step (%(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps (%(default)s)")
    parser.add_argument("--warmup", type=int, default=2, help="untimed steps (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    parser.add_argument("--json", metavar="FILE", help="also write the table to FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(
        f"torch {torch.__version__}, {chip}, {torch.get_num_threads()} threads, batch "
        f"{options.batch}, {options.size}, {options.steps} steps, "
        f"{'compiled' if options.compile else 'eager'}"
    )
    print(f"{'backbone':<14}{'variant':<20}{'img/wall-s':>11}{'img/CPU-s':>11}{'ratio':>7}")
    rows = []
    for name in options.backbones:
        for row in measure(name, options, device):
            rows.append(row)
            ratio = f"{row['ratio']:7.2f}" if row["ratio"] else "      -"
            print(
                f"{name:<14}{row['variant']:<20}{row['images_per_wall_s']:11.1f}"
                f"{row['images_per_cpu_s']:11.1f}{ratio}",
                flush=True,
            )
    if options.json:
        from pathlib import Path

        Path(options.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(told(main))
