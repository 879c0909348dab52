"""What training, evaluation and re-ranking do on a GPU, in one call.

    python benchmarks/train_gpu.py              # all rows, the important ones first
    python benchmarks/train_gpu.py              # again: goes on with the rows that are missing
    python benchmarks/train_gpu.py --profile 512   # and where a step of such rows spends its time
    python benchmarks/train_gpu.py --tiny       # every kind of row on a CPU, at toy size

Every row runs in a process of its own, so that one which fails (out of memory, a compiler that
gives up) loses its own figures only; the next one starts Python meanwhile and then waits.
OUT/results.json is written after every row, OUT/table.md made of it; a later call with the same
--out on the same device measures what is not there yet (failed rows too, with --again).  After
--budget-s seconds nothing runs any more, and no row is started that would probably not end.  The
pictures and their cache (1.3 GB) lie in --work.

Ours is crosscam's own training: the decoded training set in device memory (``data.store``),
augmentation on the device, the step of the training loop (``training.loop.learn``), in bfloat16 and
channels-last, plain ("eager"), compiled by torch.compile, compiled with the first convolution on
pixels packed into 12 or 16 channels ("packed 12", "packed 16": the same numbers; training cannot do
that yet), compiled with the compiler's own CUDA graphs ("graphs"), or with forward and backward
passes recorded as a CUDA graph that is played again with other pictures (``engine.graphs``), plain
("recorded") or compiled ("compiled recorded").
Each method has the augmentation, optimizer and weights of its paper, on 256x128 pictures whatever
its paper's size; MSFL's ResNet-50 has last stride 2, all others 1.  MSGR differentiates twice,
which a compiled step cannot.  Masks and textures are random, and lie in device memory as real ones.

The classic pipeline was written for this comparison, the way re-identification code used to be:
JPEGs opened, resized, mirrored, padded, cropped and erased one by one with Pillow in the workers of
a DataLoader, float32 or float16 (autocast and GradScaler), NCHW, no compiler, the losses read after
every step.  It trains our baseline, so its network and losses are the same.

Figures: img/s is end to end, from one step to the next, sampler and augmentation included; "data
img/s" the same without the network; "of matrix rate" the share of the bfloat16 rate that this
machine reached in the same process ("matrix TFLOP/s": products of two --matrix x --matrix matrices
of random numbers), counting the operations of all convolutions and matrix products of a step;
"syncs" how often a step made the host wait for the GPU; "MB" the most memory that tensors took (of
rows with CUDA graphs: all that was kept); "ratio" is against the classic float16
pipeline with the baseline on the same network and batch.  "Market, 60 epochs" is 60 times
Market-1501's 12,936 pictures at that rate; of the row "run" it is the whole training, from decoding
to the last checkpoint, as the epochs made tell: img/s is the rate once the first steps are over.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import json
import math
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from per_image import PerImage
from PIL import Image
from torch import Tensor, nn

from crosscam.cli import told
from crosscam.data.augment import Augment
from crosscam.data.loader import TrainLoader
from crosscam.data.samplers import make_sampler
from crosscam.data.store import ImageStore
from crosscam.image import Preprocess
from crosscam.methods import BackboneSettings, Method, find
from crosscam.nn import layers
from crosscam.priors import labels, rows
from crosscam.recipe import (
    DataSettings,
    EngineSettings,
    MethodSettings,
    OptimizerSettings,
    PriorSettings,
    Recipe,
    SamplerSettings,
    ScheduleSettings,
    TestSettings,
)
from crosscam.training import loop
from crosscam.training.optim import learning_rate, make_optimizers
from crosscam.training.passes import Passes, Plain
from crosscam.types import Batch, Prior

IMAGES = 4  # of an identity in a batch
MARKET = {"pictures": 12936, "people": 751, "epochs": 60}


# --- the rows -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One thing to measure.

    ``kind`` is ours, classic, run (the whole training loop), or retrieval.  ``how`` is eager,
    compiled, packed N, graphs, recorded or compiled recorded for ours, eager, compiled or recorded
    for run, fp16 or fp32 for classic, a device for retrieval.
    """

    kind: str
    method: str = "baseline"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    network: str = "resnet50"
    batch: int = 64
    how: str = "eager"
    least_s: float = 20.0  # left of the budget, or the row is not started

    @property
    def is_compiled(self) -> bool:
        return self.how.split()[0] in ("compiled", "packed", "graphs")

    @property
    def label(self) -> str:
        return self.method + (" + msgr" if self.options.get("msgr") else "")

    @property
    def name(self) -> str:
        if self.kind == "retrieval":
            return f"{self.method}, {self.how}"
        return f"{self.kind}, {self.label}, {self.network}, {self.batch}, {self.how}"


METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("mpn", {}),
    ("san", {}),
    ("msfl", {"last_stride": 2}),
    ("msfl", {"last_stride": 2, "msgr": 0.01}),
    ("mmga", {}),
)


def all_rows() -> list[Row]:
    """In order of importance: a short budget measures the first ones."""
    compiled = {"how": "compiled", "least_s": 60.0}
    graphs = {"how": "graphs", "least_s": 60.0}
    fp16 = {"how": "fp16", "least_s": 30.0}
    resnet, osnet = "resnet50", "osnet_x1_0"
    plain = [(m, o) for m, o in METHODS if "msgr" not in o]
    twice = [(m, o) for m, o in METHODS if "msgr" in o]
    return [
        # What is aimed at: the share of the matrix rate, the ratio, a training in three minutes.
        Row("ours", batch=512, **compiled),
        Row("classic", batch=512, **fp16),
        Row("ours", batch=512),
        Row("run", batch=512, **compiled),
        *(Row("retrieval", name, how="cuda", least_s=30.0) for name in ("evaluate", "re-rank")),
        *(Row("ours", m, o, batch=512) for m, o in METHODS),
        Row("ours", network=osnet, batch=512),
        Row("classic", network=osnet, batch=512, **fp16),
        # Batches as the papers have them, where launching kernels is what takes the time.
        Row("ours", batch=64),
        Row("classic", batch=64, **fp16),
        Row("ours", batch=64, how="recorded"),
        Row("ours", batch=64, **compiled),
        Row("ours", batch=64, how="compiled recorded", least_s=60.0),
        *(Row("retrieval", name, how="cpu", least_s=30.0) for name in ("evaluate", "re-rank")),
        *(Row("ours", m, o, batch=64) for m, o in METHODS),
        Row("ours", network=osnet, batch=64),
        Row("classic", network=osnet, batch=64, **fp16),
        Row("ours", network=osnet, batch=64, how="recorded"),
        *(Row("ours", m, o, batch=64, how="recorded") for m, o in twice),
        *(Row("run", batch=64, how=how, least_s=60.0) for how in ("eager", "recorded")),
        *(Row("ours", m, o, batch=512, **compiled) for m, o in plain),
        Row("ours", network=osnet, batch=512, **compiled),
        *(Row("ours", batch=512, how=f"packed {n}", least_s=60.0) for n in (16, 12)),
        *(Row("ours", batch=batch, **graphs) for batch in (64, 512)),
        *(Row("ours", m, o, batch=64, **compiled) for m, o in plain),
        Row("ours", network=osnet, batch=64, **compiled),
        *(Row("ours", network=osnet, batch=batch, **graphs) for batch in (64, 512)),
        *(Row("classic", network=n, batch=b, how="fp32", least_s=30.0)
          for n in (resnet, osnet) for b in (64, 512)),
    ]  # fmt: skip


SMALL: dict[str, dict[str, Any]] = {
    "mpn": {"width": 16},
    "san": {"embedding": 16, "decoder_width": 0.0625},
    "msfl": {"width": 32, "refine_width": 8, "embedding": 16},
    "mmga": {"features": 16},
}


def tiny_rows(device: str) -> list[Row]:
    """One of every kind, small enough for a CPU; compiled means traced there, by no compiler."""
    small = {"network": "resnet18", "batch": 8}
    found = [Row("ours", **small), Row("ours", how="compiled", **small),
             Row("classic", how="fp16", **small), Row("classic", how="fp32", **small)]  # fmt: skip
    found += [Row("ours", m, {**o, **SMALL.get(m, {})}, **small) for m, o in METHODS]
    found += [Row("retrieval", name, how=device) for name in ("evaluate", "re-rank")]
    found += [Row("ours", how=how, **small) for how in ("packed 16", "recorded")]
    return [*found, Row("run", **small)]


# --- pictures -----------------------------------------------------------------------------------


def draw_pictures(folder: Path, count: int, people: int) -> list[Path]:
    """JPEGs of 128x64 under names like those of Market-1501: patches of color under grain."""
    train = folder / "bounding_box_train"
    paths = [train / f"{i % people + 1:04d}_c{i % 6 + 1}s1_{i:06d}_01.jpg" for i in range(count)]
    if train.is_dir() and len(list(train.iterdir())) == count:
        return paths
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("bounding_box_train", "query", "bounding_box_test"):
        (folder / name).mkdir(parents=True)

    def draw(number: int) -> None:
        rng = np.random.default_rng(number)
        street = Image.fromarray(rng.integers(0, 256, (16, 8, 3), dtype=np.uint8))
        picture = np.asarray(street.resize((64, 128), Image.Resampling.BICUBIC))
        grain = rng.integers(0, 24, picture.shape, dtype=np.uint8)
        Image.fromarray(picture // 8 * 7 + grain).save(paths[number], quality=90)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(draw, range(count)))
    return paths


def ids_of(paths: Iterable[Path]) -> np.ndarray:
    return np.unique([int(path.name[:4]) for path in paths], return_inverse=True)[1]


# --- ours ---------------------------------------------------------------------------------------


def settings_of(row: Row, options: argparse.Namespace) -> Recipe:
    """The recipe of a row: its paper's, at the size and batch of the comparison."""
    cls = find(row.method)
    said: dict[str, dict[str, Any]] = {}
    for key, value in cls.recipe.items():
        section, name = key.split(".")
        said.setdefault(section, {})[name] = tuple(value) if isinstance(value, list) else value
    keywords = dict(row.options)
    stride = keywords.pop("last_stride", 1)
    backbone = BackboneSettings(row.network, last_stride=stride, width=options.width)
    if row.network.startswith("osnet"):
        backbone = BackboneSettings(row.network, width=options.width)
    return Recipe(
        seed=0,
        method=MethodSettings(row.method, {"backbone": backbone, **keywords}),
        data=DataSettings(
            "market1501", str(options.pictures_at), partial=True, cache=str(options.work / "cache")
        ),
        priors=PriorSettings(),
        preprocess=Preprocess(size=options.size),
        augment=Augment(**said.get("augment", {})),
        sampler=SamplerSettings("grouped", row.batch // IMAGES, IMAGES),
        optimizer=OptimizerSettings(**said.get("optimizer", {})),
        schedule=ScheduleSettings(epochs=options.epochs, warmup="none", milestones=()),
        engine=EngineSettings(
            precision="bf16",
            compile=row.how.startswith("compiled"),
            graphs=row.how.endswith("recorded"),
            checkpoint_minutes=60.0,
        ),
        test=TestSettings(),
    )


def random_priors(method: Method, count: int, device: torch.device) -> dict[Prior, rows.Rows]:
    """Label maps and textures of noise, kept and unpacked as the real ones are."""
    rng, each = np.random.default_rng(0), np.arange(count)
    found: dict[Prior, rows.Rows] = {}
    if Prior.MASKS in method.needs:
        maps = rng.integers(0, len(LABELS), (count, 128, 64), dtype=np.uint8)
        table = labels.channel_table(LABELS, method.parts)
        found[Prior.MASKS] = rows.MaskRows(maps, each, table, device)
    if Prior.TEXTURE in method.needs:
        textures = rng.integers(0, 256, (min(count, 1024), 256, 256, 3), dtype=np.uint8)
        found[Prior.TEXTURE] = rows.TextureRows(textures, None, each % len(textures), device)
    return found


LABELS = ("background", "head", "top", "left arm", "right arm", "bottom", "shoes")


class PackedConvolution(nn.Module):
    """A 7x7 convolution of stride 2 as one of 4x4 on cells of 2x2 pixels: the same numbers.

    Three channels leave the units that multiply matrices idle; a cell has twelve, padded with
    zeros to ``channels``.  With a row and a column of zeros before the kernel its taps fall into
    whole cells.
    """

    def __init__(self, convolution: nn.Conv2d, channels: int) -> None:
        super().__init__()
        self.weight, self.more = convolution.weight, channels - 12

    def forward(self, images: Tensor) -> Tensor:
        cells = nn.functional.pixel_unshuffle(images, 2)
        kernel = nn.functional.pixel_unshuffle(nn.functional.pad(self.weight, (1, 0, 1, 0)), 2)
        cells = nn.functional.pad(cells, (2, 1, 2, 1, 0, self.more))
        kernel = nn.functional.pad(kernel, (0, 0, 0, 0, 0, self.more))
        return nn.functional.conv2d(
            cells.contiguous(memory_format=torch.channels_last),
            kernel.contiguous(memory_format=torch.channels_last),
        )


class Ours:
    """The training of a row, step by step."""

    def __init__(self, row: Row, options: argparse.Namespace) -> None:
        self.row, self.options = row, options
        self.device = torch.device(options.device)
        self.recipe = recipe = settings_of(row, options)
        paths = draw_pictures(options.pictures_at, options.pictures, options.people)
        ids = ids_of(paths)
        # Decoded by the first row, mapped by the others.
        store = ImageStore.build(
            paths, recipe.preprocess, budget_bytes=0, cache_dir=options.work / "cache"
        )
        torch.manual_seed(0)
        self.method = recipe.method.build(int(ids.max()) + 1).to(self.device)
        self.method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cpu":  # as the training loop does
            layers.narrow_in_float32(self.method)
        self.method.train()
        self.method.schedule(0.99)  # with losses that join late
        self.updates = make_optimizers(self.method, recipe.optimizer)
        self.loader = TrainLoader(
            store.to(self.device),
            ids.astype(np.int64),
            ids.astype(np.int64),
            make_sampler("grouped", ids, recipe.sampler.people, IMAGES, 0),
            recipe.augment,
            recipe.preprocess,
            seed=0,
            device=self.device,
            priors=random_priors(self.method, len(paths), self.device),
            fuse=row.is_compiled,
        )
        self.made = 0  # steps
        learner: nn.Module = self.method
        self.stem: nn.Conv2d | None = None  # what a packed one stands for
        if row.how.startswith("packed"):
            backbone: Any = self.method.backbone
            self.stem = backbone.conv1
            backbone.conv1 = PackedConvolution(backbone.conv1, int(row.how.split()[1]))
        if row.is_compiled:
            backend: dict[str, Any] = {"backend": "aot_eager"} if options.tiny else {}
            if row.how == "graphs":
                backend = {"mode": "reduce-overhead"}
            elif options.inductor:
                backend = {"options": dict(options.inductor)}
            learner = torch.compile(self.method, **backend)  # type: ignore[assignment]
        plain = Plain(self.method, learner, half=True)
        self.passes: Passes = plain
        if row.how.endswith("recorded"):
            self.passes = loop.recorded(plain, self.device, 1)

    def batches(self) -> Iterator[Batch]:
        """Epoch after epoch."""
        for epoch in range(10**9):
            yield from self.loader.epoch(epoch)

    def step(self, batch: Batch, passes: Passes | None = None) -> dict[str, Tensor]:
        """As the training loop makes it."""
        if self.row.how == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        self.made += 1
        rate = learning_rate(self.recipe.optimizer.lr, self.recipe.schedule, 0.0)
        for group in self.groups():
            group["lr"] = group["fixed_lr"] or rate * group["lr_factor"]
        torch.manual_seed(loop.step_seed(0, self.made, 0))
        norm = self.recipe.optimizer.clip
        return loop.learn(batch, passes or self.passes, self.updates, norm=norm)

    def groups(self) -> Iterator[dict[str, Any]]:
        """The parameter groups of all optimizers."""
        return (g for update in self.updates for o in update for g in o.param_groups)

    def flops(self, batch: Batch) -> int:
        """Operations of the convolutions and matrix products of one step, uncompiled.

        Those that it needs: of a packed stem, not its products with zeros.
        """
        from torch.utils.flop_counter import FlopCounterMode

        backbone: Any = self.method.backbone
        made = backbone.conv1 if self.stem else None
        if self.stem:
            backbone.conv1 = self.stem
        with FlopCounterMode(display=False) as counter:
            self.step(batch, Plain(self.method, self.method, half=True))
        if self.stem:
            backbone.conv1 = made
        return int(counter.get_total_flops())

    def measure(self) -> dict[str, Any]:
        options, device = self.options, self.device
        rate = matrix_rate(device, options.matrix)
        batches = self.batches()
        size = len(first := next(batches))
        flops = self.flops(first)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # a plain step needs more than a compiled one
        del first
        began = time.perf_counter()
        for _ in range(options.warmup):
            terms = self.step(next(batches))
        wait(device)
        warm = time.perf_counter() - began
        loss = sum(float(t) for t in terms.values())
        if not math.isfinite(loss):
            raise ArithmeticError(f"the loss is {loss} after the warm-up")
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        waits = self.waits(batches)
        seconds, steps = paced(lambda: self.step(next(batches)), options, device)
        memory = self.memory_mb()
        alone, count = paced(lambda: next(batches), options, device, share=0.25)
        speed = size * steps / seconds
        figures = {
            "images_per_s": speed,
            "ms_per_step": 1000 * seconds / steps,
            "steps": steps,
            "data_images_per_s": size * count / alone,
            "gflop_per_image": flops / size / 1e9,
            "matrix_tflops": rate / 1e12,
            "matrix_share": flops / size * speed / rate,
            "memory_mb": memory,
            "syncs_per_step": waits,
            "warmup_s": warm,
            "market_minutes": MARKET["pictures"] * MARKET["epochs"] / speed / 60,
        }
        if chosen(self.row, options.profile):
            # A profile that takes too long, or fails, loses itself only.
            print(json.dumps(figures), flush=True)
            self.profile(batches)
        return figures

    def memory_mb(self) -> float | None:
        """The most that tensors took since the peak was reset.

        What lies in graphs is no tensor's any more: there it is all that is kept.
        """
        if self.device.type != "cuda":
            return None
        played = self.row.how.endswith(("recorded", "graphs"))
        most = torch.cuda.max_memory_reserved if played else torch.cuda.max_memory_allocated
        return most() / 1e6

    def waits(self, batches: Iterator[Batch]) -> float | None:
        """How often a step makes the host wait for the GPU; an error if that is asked for."""
        if self.device.type != "cuda":
            return None
        mode, count = self.options.sync, 3
        try:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("error" if mode == "error" else "warn")
                for _ in range(count):
                    self.step(next(batches))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        said = [w for w in found if "synchroniz" in str(w.message)]
        places = sorted({f"{w.filename}:{w.lineno}" for w in said})
        if places:
            print(f"{self.row.name}: waits at {', '.join(places)}", file=sys.stderr)
        return len(said) / count

    def profile(self, batches: Iterator[Batch]) -> None:
        """What one step spends its time on, by operation and the shapes it is given, to a file."""
        from torch.profiler import ProfilerActivity, profile

        kinds = [ProfilerActivity.CPU]
        kinds += [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
        with profile(activities=kinds, record_shapes=True) as found:
            self.step(next(batches))
            wait(self.device)
        by = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        table = found.key_averages(group_by_input_shape=True).table(
            sort_by=by, row_limit=60, max_name_column_width=60, max_shapes_column_width=90
        )
        with (self.options.out / "profile.txt").open("a", encoding="utf-8") as file:
            file.write(f"== {self.row.name}\n{table}\n")


def chosen(row: Row, texts: list[str] | None) -> bool:
    """Whether the row's name has one of these texts; with no text every row is meant."""
    return texts is not None and (not texts or any(text in row.name for text in texts))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def paced(
    step: Callable[[], object],
    options: argparse.Namespace,
    device: torch.device,
    share: float = 1.0,
) -> tuple[float, int]:
    """(seconds, steps): at least --steps of them, and as many as fit that share of --seconds.

    The host waits for the GPU as often as the training loop does, when it logs.
    """
    every = EngineSettings().log_every
    wait(device)
    began, steps = time.perf_counter(), 0
    while steps < options.steps or time.perf_counter() - began < share * options.seconds:
        step()
        steps += 1
        if steps % every == 0:
            wait(device)
    wait(device)
    return time.perf_counter() - began, steps


def matrix_rate(device: torch.device, side: int) -> float:
    """Operations a second of a bfloat16 matrix product, the best of some rounds."""
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    best = math.inf
    for _ in range(5):
        wait(device)
        began = time.perf_counter()
        for _ in range(10 if device.type == "cuda" else 1):
            a @ b
        wait(device)
        best = min(best, (time.perf_counter() - began) / (10 if device.type == "cuda" else 1))
    return 2 * side**3 / best


# --- the classic pipeline -----------------------------------------------------------------------


class Classic(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """One JPEG after the other, with Pillow."""

    def __init__(self, paths: list[Path], ids: np.ndarray, size: tuple[int, int]) -> None:
        self.paths, self.ids = paths, ids
        self.classic = PerImage(Augment(), Preprocess(size=size))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.classic.picture(self.paths[row]), int(self.ids[row])


class Endless(torch.utils.data.Sampler[list[int]]):
    """The batches of the sampler of ours, without end."""

    def __init__(self, ids: np.ndarray, batch: int) -> None:
        self.sampler = make_sampler("grouped", ids, batch // IMAGES, IMAGES, 0)

    def __iter__(self) -> Iterator[list[int]]:
        for epoch in range(10**9):
            yield from (batch.tolist() for batch in self.sampler.epoch(epoch))


def fitting(workers: int, batch_bytes: int) -> int:
    """Workers whose batches, two each, fit into the memory that processes share."""
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return workers
    fit = int(0.8 * shutil.disk_usage(shared).free / batch_bytes / 2) - 1
    return max(1, min(workers, fit)) if workers else 0


def classic(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    device, half = torch.device(options.device), row.how == "fp16"
    paths = draw_pictures(options.pictures_at, options.pictures, options.people)
    ids = ids_of(paths)
    workers = fitting(options.workers, row.batch * 12 * math.prod(options.size))
    data = torch.utils.data.DataLoader(
        Classic(paths, ids, options.size),
        batch_sampler=Endless(ids, row.batch),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    recipe = settings_of(row, options)
    method = recipe.method.build(int(ids.max()) + 1).to(device).train()
    settings = recipe.optimizer
    optimizer = torch.optim.Adam(
        method.parameters(), settings.lr, weight_decay=settings.weight_decay
    )
    scaler = torch.amp.GradScaler(device.type, enabled=half and device.type == "cuda")
    kind = torch.float16 if device.type == "cuda" else torch.bfloat16  # CPUs scale no gradient
    source = iter(data)

    def step() -> None:
        images, pids = next(source)
        images = images.to(device, non_blocking=True)
        pids = pids.to(device, non_blocking=True)
        with torch.autocast(device.type, kind, enabled=half):
            terms = method(Batch(images, pids, pids))
            total = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        sum(float(t.detach()) for t in terms.values())  # for the log, after every step

    for _ in range(options.warmup + 2 * workers):  # until no batch is left of those made beforehand
        step()
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds, steps = paced(step, options, device)
    memory = torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else None
    count = max(options.steps // 4, 4 * workers, 1)  # they come in bursts of as many as workers
    for _ in range(2 * workers):  # what was made while the network was busy
        next(source)
    began = time.perf_counter()
    for _ in range(count):
        next(source)
    alone = time.perf_counter() - began
    speed = row.batch * steps / seconds
    return {
        "images_per_s": speed,
        "ms_per_step": 1000 * seconds / steps,
        "steps": steps,
        "data_images_per_s": row.batch * count / alone,
        "memory_mb": memory,
        "workers": workers,
        "market_minutes": MARKET["pictures"] * MARKET["epochs"] / speed / 60,
    }


# --- a whole training, and what comes after it --------------------------------------------------


def whole_run(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """``training.loop.train``, with checkpoints, logs and all: some epochs, by the clock."""
    draw_pictures(options.pictures_at, options.pictures, options.people)
    recipe = settings_of(row, options)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        began = time.perf_counter()
        run = loop.train(recipe, Path(folder) / "run", device=options.device, progress=False)
        seconds = time.perf_counter() - began
        card = json.loads((run / "card.json").read_text(encoding="utf-8"))
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steady = steady_rate([json.loads(line) for line in lines], row.batch)
    speed = steady or card["images_per_second"]
    epoch = card["steps"] / card["epochs"] * row.batch  # pictures
    left = max(MARKET["epochs"] - card["epochs"], 0) * epoch / speed
    return {
        "epochs": card["epochs"],
        "images_per_s": speed,
        "images_per_s_from_the_start": card["images_per_second"],
        "memory_mb": card["peak_memory_mb"],
        "seconds": seconds,
        "market_minutes": (seconds + left) / 60,
    }


def steady_rate(lines: list[dict[str, Any]], batch: int) -> float | None:
    """Pictures a second between the first and the last line of a log; None if there is one."""
    if len(lines) < 2:
        return None
    (first, began), (last, ended) = (
        (line["step"], line["step"] * batch / line["images_per_second"])
        for line in (lines[0], lines[-1])
    )
    return float((last - first) * batch / (ended - began))


def retrieval(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """Market-size random features, on a device: seconds of the second call."""
    from crosscam.retrieval import RerankSettings, evaluate

    queries, gallery, people = options.market
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((people, 512), dtype=np.float32)

    def side(count: int) -> tuple[np.ndarray, ...]:
        pids = rng.integers(0, people, count)
        features = centers[pids] + 2 * rng.standard_normal((count, 512), dtype=np.float32)
        return features, pids, rng.integers(0, 6, count)

    given = (*side(queries), *side(gallery))
    settings = RerankSettings() if row.method == "re-rank" else None
    times = []
    for _ in range(2):
        began = time.perf_counter()
        metrics = evaluate(*given, rerank=settings, device=row.how)
        times.append(time.perf_counter() - began)
    return {"seconds": times[-1], "first_call_s": times[0], "mAP": metrics.mAP,
            "queries": queries, "gallery": gallery}  # fmt: skip


# --- all of it ----------------------------------------------------------------------------------


def measure(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    if row.kind == "classic":
        return classic(row, options)
    if row.kind == "run":
        return whole_run(row, options)
    if row.kind == "retrieval":
        return retrieval(row, options)
    with loop.flushed_denormals(), loop.chosen_convolutions():
        return Ours(row, options).measure()


def about(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on besides the rows."""
    cuda = options.device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "size": list(options.size),
        "width": options.width,
        "pictures": options.pictures,
        "people": options.people,
        "inductor": dict(options.inductor),
    }


READY: dict[str, subprocess.Popen[str]] = {}
"""Processes that have started Python for a row and wait to be told."""


def started(row: Row, options: argparse.Namespace) -> subprocess.Popen[str]:
    """The process of a row, which measures once it reads a line."""
    command = [sys.executable, __file__, *options.words, "--one", str(options.rows.index(row))]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # its workers and compilers end with it
    )


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ends a process and all that it started; returns what it had printed, and said of errors."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()


def child(
    row: Row, options: argparse.Namespace, left: float, following: Row | None
) -> dict[str, Any] | None:
    """The figures of a row measured by another process; None if the budget ended it before them.

    The process of the row ``following`` is started beside it and waits.  Figures are kept if what
    comes after them, a profile, takes too long or fails.
    """
    limit = min(left, options.row_s)
    process = READY.pop(row.name, None) or started(row, options)
    if following is not None and following.name not in READY:
        READY[following.name] = started(following, options)
    began = time.perf_counter()
    fault, late = "", False
    try:
        out, said = process.communicate("go\n", timeout=limit)
    except subprocess.TimeoutExpired:
        out, said = ended(process)
        fault, late = f"took over {limit:g} s", True
    took = round(time.perf_counter() - began, 1)
    if process.returncode and not late:
        with (options.out / "failures.txt").open("a", encoding="utf-8") as file:
            file.write(f"== {row.name}\n{said}\n")
        last = (said.strip().splitlines() or [f"exit {process.returncode}, no message"])[-1]
        fault = last[:300]
    figures = last_figures(out)
    if figures is not None:
        notes = [line for line in said.splitlines() if "waits at" in line]
        notes += [f"no profile: {fault}"] if fault else []
        return {**figures, "took_s": took, "notes": notes}
    if late and limit < options.row_s:
        return None
    return {"failed": fault or "printed no figures", "took_s": took}


def last_figures(printed: str) -> dict[str, Any] | None:
    """The figures of a row in the last line that its process printed, if they are there."""
    with contextlib.suppress(ValueError, IndexError):
        found = json.loads(printed.splitlines()[-1])
        if isinstance(found, dict):
            return found
    return None


def aims_of(made: Mapping[str, Any]) -> list[str]:
    """What was aimed at, and what came of it, of the rows that are there."""
    found = {
        key: made.get(Row(kind, batch=512, how=how).name, {})
        for key, kind, how in (("ours", "ours", "compiled"), ("eager", "ours", "eager"),
                               ("classic", "classic", "fp16"), ("run", "run", "compiled"))
    }  # fmt: skip
    lines = []
    ours = max((found["ours"], found["eager"]), key=lambda row: row.get("images_per_s", 0.0))
    if "matrix_share" in ours:
        lines.append(f"share of the matrix rate: {ours['matrix_share']:.1%} (aim: 40 %)")
        if "images_per_s" in found["classic"]:
            ratio = ours["images_per_s"] / found["classic"]["images_per_s"]
            lines.append(f"against the classic float16 pipeline: {ratio:.2f} times (aim: 5)")
    if "market_minutes" in found["run"]:
        minutes = found["run"]["market_minutes"]
        lines.append(f"a training of Market-1501's size: {minutes:.2f} minutes (aim: 3)")
    return lines


def table_of(results: Mapping[str, Any], every: list[Row]) -> str:
    """Markdown."""
    made = results["rows"]
    head = results["about"]
    lines = [
        f"{head['device']}, torch {head['torch']}, CUDA {head['cuda']}, {head['processors']} "
        f"processors; {head['size'][0]}x{head['size'][1]}, {head['pictures']:,} pictures of "
        f"{head['people']} people.",
        "",
        "```",
        *dict.fromkeys(results["commands"]),
        "```",
        "",
        *(f"- {aim}" for aim in aims_of(made)),
        "",
    ]
    columns = ("training", "network", "batch", "how", "img/s", "ratio", "of matrix rate",
               "matrix TFLOP/s", "GFLOP/img", "MB", "data img/s", "syncs",
               "Market, 60 epochs, min")  # fmt: skip
    lines += [f"| {' | '.join(columns)} |", "|---|---|--:|---" + "|--:" * (len(columns) - 4) + "|"]
    for row in every:
        found = made.get(row.name)
        if row.kind == "retrieval":
            continue
        start = [row.label if row.kind == "ours" else f"{row.kind}: {row.label}", row.network,
                 str(row.batch), row.how]  # fmt: skip
        if found is None or "failed" in found:
            why = "" if found is None else f"failed: {found['failed']}"
            lines.append(f"| {' | '.join([*start, why, *[''] * (len(columns) - 5)])} |")
            continue
        classic_row = Row("classic", network=row.network, batch=row.batch, how="fp16")
        reference = made.get(classic_row.name, {}).get("images_per_s")
        speed = found["images_per_s"]
        cells = [
            f"{speed:,.0f}",
            f"{speed / reference:.2f}" if reference else "",
            f"{found['matrix_share']:.1%}" if "matrix_share" in found else "",
            f"{found['matrix_tflops']:.1f}" if "matrix_tflops" in found else "",
            f"{found['gflop_per_image']:.2f}" if "gflop_per_image" in found else "",
            f"{found['memory_mb']:,.0f}" if found.get("memory_mb") else "",
            f"{found['data_images_per_s']:,.0f}" if "data_images_per_s" in found else "",
            f"{found['syncs_per_step']:g}" if found.get("syncs_per_step") is not None else "",
            f"{found['market_minutes']:.1f}",
        ]
        lines.append(f"| {' | '.join([*start, *cells])} |")
    lines += ["", "| evaluation | device | s | first call, s | mAP |", "|---|---|--:|--:|--:|"]
    for row in every:
        if row.kind != "retrieval":
            continue
        found = made.get(row.name)
        cells = [""] * 3
        if found is not None and "failed" in found:
            cells[0] = f"failed: {found['failed']}"
        elif found is not None:
            cells = [
                f"{found['seconds']:.2f}",
                f"{found['first_call_s']:.2f}",
                f"{found['mAP']:.4f}",
            ]
        lines.append(f"| {row.method} | {row.how} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def save(results: Mapping[str, Any], options: argparse.Namespace) -> None:
    for name, text in (("results.json", json.dumps(results, indent=1) + "\n"),
                       ("table.md", table_of(results, options.rows))):  # fmt: skip
        temporary = options.out / f".{name}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(options.out / name)


def setting(word: str) -> tuple[str, Any]:
    key, _, value = word.partition("=")
    return key, ast.literal_eval(value)


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/train_gpu"),
                        help="folder of results.json and table.md (%(default)s)")  # fmt: skip
    parser.add_argument("--work", type=Path, help="folder of pictures (default: OUT/work)")
    parser.add_argument("--only", nargs="+", metavar="TEXT",
                        help="only rows whose name has one of these texts")  # fmt: skip
    parser.add_argument("--budget-s", type=float, default=540.0, help="seconds (%(default)g)")
    parser.add_argument("--row-s", type=float, default=240.0, help="most of a row (%(default)g)")
    parser.add_argument("--again", action="store_true", help="also rows that failed before")
    parser.add_argument("--list", action="store_true", help="name the rows, measure nothing")
    parser.add_argument("--profile", nargs="*", metavar="TEXT",
                        help="what a step of our rows (whose name has TEXT) spends its time on, "
                        "to OUT/profile.txt; only of rows that are measured now")  # fmt: skip
    parser.add_argument("--inductor", nargs="+", type=setting, default=[], metavar="KEY=VALUE",
                        help="of torch._inductor.config, for compiled rows: "
                        "conv_1x1_as_mm=True")  # fmt: skip
    parser.add_argument("--sync", choices=("count", "error"), default="count",
                        help="count the waits of a step, or fail at the first")  # fmt: skip
    parser.add_argument("--device", default="cuda", help="(%(default)s)")
    parser.add_argument("--pictures", type=int, default=MARKET["pictures"])
    parser.add_argument("--people", type=int, default=MARKET["people"])
    parser.add_argument("--epochs", type=int, default=10, help="of the row run (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.5, help="timed, at least (%(default)g)")
    parser.add_argument("--steps", type=int, default=20, help="timed, at least (%(default)s)")
    parser.add_argument("--warmup", type=int, default=6, help="untimed steps (%(default)s)")
    parser.add_argument("--matrix", type=int, default=8192, help="side (%(default)s)")
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1),
                        help="of the classic pipeline (%(default)s)")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="everything on a CPU, at toy size")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    if "--tiny" in words:
        parser.set_defaults(device="cpu", pictures=48, people=12, epochs=1, seconds=0.0, steps=1,
                            warmup=1, matrix=256, workers=0)  # fmt: skip
    options = parser.parse_args(words)
    options.words = words
    options.size, options.width, options.market = (256, 128), 1.0, (3368, 15913, 750)
    if options.tiny:
        options.size, options.width, options.market = (32, 16), 0.125, (40, 200, 20)
    options.rows = tiny_rows("cpu") if options.tiny else all_rows()
    options.work = options.work or options.out / "work"
    options.pictures_at = options.work / f"market-{options.pictures}-{options.people}"
    return options


def main() -> None:
    options = parsed(sys.argv[1:])
    if options.list:
        print("\n".join(row.name for row in options.rows))
        return
    if options.one is not None:
        if options.tiny:
            torch.set_num_threads(1)
        if not sys.stdin.readline():
            return  # who should have told us is gone
        print(json.dumps(measure(options.rows[options.one], options)))
        return
    began = time.perf_counter()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU here: run this where there is one, or with --tiny.")
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.json"
    results: dict[str, Any] = {"about": about(options), "commands": [], "rows": {}}
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["about"] != results["about"]:
            raise SystemExit(f"{path} was measured elsewhere or otherwise: take another --out.")
        results = found
    results["commands"].append(
        f"python benchmarks/train_gpu.py {shlex.join(options.words)}".strip()
    )
    draw_pictures(options.pictures_at, options.pictures, options.people)
    todo = []
    for row in options.rows:
        known = results["rows"].get(row.name)
        done = known is not None and not ("failed" in known and options.again)
        if not done and (not options.only or chosen(row, options.only)):
            todo.append(row)
    try:
        for row, following in zip_longest(todo, todo[1:]):
            left = options.budget_s - (time.perf_counter() - began)
            if left < row.least_s:
                continue  # a quicker one may still fit
            figures = child(row, options, left, following)
            if figures is None:
                continue
            results["rows"][row.name] = figures
            save(results, options)
            speed = figures.get("images_per_s") or figures.get("seconds")
            what = figures.get("failed") or f"{speed:,.1f}"
            notes = "".join(f"; {note}" for note in figures.get("notes", ()))
            print(f"{row.name}: {what} ({figures.get('took_s', 0):g} s){notes}", flush=True)
    finally:
        for process in READY.values():
            ended(process)
        READY.clear()
    save(results, options)
    missing = [row.name for row in options.rows if row.name not in results["rows"]]
    print(f"\n{table_of(results, options.rows)}")
    if missing:
        print(f"{len(missing)} rows are missing; the same command goes on with them.")


if __name__ == "__main__":
    sys.exit(told(main))
