"""Pictures per CPU-second: our pipeline against one that works picture by picture with Pillow.

    python benchmarks/data.py                                  # generated JPEGs
    python benchmarks/data.py --data ../market1501/bounding_box_train --size 128x64

The reference does for every picture of every epoch what most re-identification code does: open,
resize, mirror, pad by 10 and crop, to a float tensor, normalize, erase, and stack 64 of them.
Ours decodes once into uint8 and then draws the same augmentation for whole batches; its first
epoch includes the decoding.  Every line is the median of --rounds, whose parts are interleaved, so
that a busy machine slows all alike; "ratio" is against the first line of its block.  CPU-seconds
count all threads; one thread is used unless --threads says otherwise.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from per_image import PerImage
from PIL import Image

from crosscam.cli import told
from crosscam.data.augment import Augment
from crosscam.data.loader import TrainLoader
from crosscam.data.samplers import make_sampler
from crosscam.data.store import ImageStore
from crosscam.image import Preprocess, decode

PEOPLE, SHOTS = 16, 4
BATCH = PEOPLE * SHOTS


def generate(folder: Path, count: int) -> list[Path]:
    """``count`` crops of 128x64 pixels: colored clothes before a blurred street, with noise."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        street = Image.fromarray(rng.integers(0, 256, (9, 5, 3), dtype=np.uint8))
        picture = np.asarray(street.resize((64, 128), Image.Resampling.BICUBIC)).astype(np.int16)
        left, top = rng.integers(12, 20), rng.integers(4, 12)
        for height, color in zip((18, 45, 45), rng.integers(0, 256, (3, 3)), strict=True):
            picture[top : top + height, left : left + 30] = color
            top += height
        picture = picture + rng.normal(0, 6, picture.shape).astype(np.int16)
        path = folder / f"{number:05d}.jpg"
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(path)
    return paths


class Reference:
    """Every step on one Pillow image or one [3, H, W] tensor."""

    def __init__(self, paths: list[Path], augment: Augment, preprocess: Preprocess) -> None:
        self.paths, self.classic = paths, PerImage(augment, preprocess)

    def epoch(self) -> int:
        for start in range(0, len(self.paths), BATCH):
            torch.stack([self.classic.picture(p) for p in self.paths[start : start + BATCH]])
        return len(self.paths)


class Ours:
    """The store and the loader that training uses."""

    def __init__(
        self, paths: list[Path], augment: Augment, preprocess: Preprocess, threads: int
    ) -> None:
        self.paths, self.augment, self.preprocess = paths, augment, preprocess
        self.threads = threads
        self.labels = np.arange(len(paths)) // SHOTS
        self.passed = 0
        self.loader = self.load()

    def load(self) -> TrainLoader:
        store = ImageStore.build(self.paths, self.preprocess, workers=self.threads)
        cpu = torch.device("cpu")
        return TrainLoader(
            store.to(cpu),
            self.labels,
            self.labels,
            make_sampler("grouped", self.labels, PEOPLE, SHOTS, seed=0),
            self.augment,
            self.preprocess,
            seed=0,
            device=cpu,
        )

    def epoch(self) -> int:
        self.passed += 1
        return sum(len(batch) for batch in self.loader.epoch(self.passed))

    def first_epoch(self) -> int:
        return sum(len(batch) for batch in self.load().epoch(0))


@dataclass(frozen=True)
class Line:
    """One measured thing; ``run`` returns how many pictures it handled."""

    block: str
    name: str
    run: Callable[[], int]


def lines(paths: list[Path], augment: Augment, preprocess: Preprocess, threads: int) -> list[Line]:
    files = [path.read_bytes() for path in paths]
    reference = Reference(paths, augment, preprocess)
    ours = Ours(paths, augment, preprocess, threads)
    width, height = preprocess.size[::-1]

    def pillow(data: bytes) -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB")

    def each(work: Callable[[bytes], object]) -> Callable[[], int]:
        return lambda: len([work(data) for data in files] and files)

    jittered = Ours(paths, Augment(pad=augment.pad, jitter=0.5, hue=0.05), preprocess, threads)
    zoomed = Ours(paths, Augment(pad=0, resize_crop=0.5), preprocess, threads)
    epoch, read = "an epoch of training", "decode to uint8"
    fitted = f"decode and resize to {height}x{width}"
    shape = (width, height)
    return [
        Line(epoch, "Pillow, per image", reference.epoch),
        Line(epoch, "ours", ours.epoch),
        Line(epoch, "ours, the first, decoding included", ours.first_epoch),
        Line(epoch, "ours, and color jitter p=0.5", jittered.epoch),
        Line(epoch, "ours, resize-crop p=0.5 for pad-crop", zoomed.epoch),
        Line(read, "Pillow", each(lambda d: np.asarray(pillow(d)))),
        Line(read, "ours", each(decode)),
        Line(fitted, "Pillow", each(lambda d: np.asarray(pillow(d).resize(shape, 2)))),
        Line(fitted, "ours", each(preprocess.load)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="JPEGs (default: generated)")
    parser.add_argument("--count", type=int, default=1024, help="pictures (%(default)s)")
    parser.add_argument("--size", default="256x128", help="height x width in pixels (%(default)s)")
    parser.add_argument("--pad", type=int, default=10, help="pixels of padding (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the table to FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    height, width = (int(v) for v in options.size.split("x"))
    preprocess = Preprocess(size=(height, width))
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            paths = generate(Path(folder), options.count)
        else:
            found = sorted(p for p in options.data.rglob("*") if p.suffix.lower() == ".jpg")
            paths = found[:: max(1, len(found) // options.count)][: options.count]
        paths = paths[: len(paths) // BATCH * BATCH]
        if not paths:
            sys.exit(f"{options.data} has fewer than {BATCH} JPEGs (*.jpg).")
        size = statistics.mean(path.stat().st_size for path in paths)
        print(
            f"{len(paths)} JPEGs of {size:,.0f} bytes, {options.size}, batch {BATCH}, "
            f"{options.threads} thread(s), {options.rounds} rounds, torch {torch.__version__}, "
            f"Pillow {PIL.__version__}, {platform.machine()}"
        )
        measured = lines(paths, Augment(pad=options.pad), preprocess, options.threads)
        rates: dict[int, list[tuple[float, float]]] = {i: [] for i in range(len(measured))}
        for turn in range(-1, options.rounds):  # the first warms up
            for number, line in enumerate(measured):
                wall, cpu = time.perf_counter(), time.process_time()
                count = line.run()
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                if turn >= 0:
                    rates[number].append((count / cpu, count / wall))
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(measured):
        per_cpu, per_wall = (statistics.median(r) for r in zip(*rates[number], strict=True))
        head = next((row for row in rows if row["block"] == line.block), None)
        ratio = per_cpu / head["images_per_cpu_s"] if head else 1.0
        rows.append(
            {
                "block": line.block,
                "name": line.name,
                "images_per_cpu_s": per_cpu,
                "images_per_wall_s": per_wall,
                "ratio": ratio,
            }
        )
        if head is None:
            print(f"\n{line.block:<40}{'img/CPU-s':>11}{'img/wall-s':>12}{'ratio':>8}")
        print(f"  {line.name:<38}{per_cpu:11,.0f}{per_wall:12,.0f}{ratio:8.1f}")
    print(
        f"\nmemory: {height * width * 3:,} bytes a picture kept decoded; a batch of {BATCH} as "
        f"float32 has {BATCH * height * width * 12:,}"
    )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(told(main))
