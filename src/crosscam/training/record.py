"""What a run leaves behind and shows while it goes: the card, metrics.jsonl, its progress."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import crosscam
from crosscam.errors import CheckpointError, InputError, MissingExtraError
from crosscam.files import disk_errors, write_atomically
from crosscam.methods import Method
from crosscam.recipe import Recipe
from crosscam.training import checkpoint
from crosscam.types import Dataset

__all__ = [
    "Bar",
    "Log",
    "Position",
    "first_card",
    "read_card",
    "require_new_folder",
    "run_card",
    "update_card",
    "write_run",
]


@dataclass
class Position:
    """Where training stands."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0  # over all epochs
    images: int = 0  # seen so far, over all processes
    seconds: float = 0.0  # spent in steps so far

    def advance(self, images: int, seconds: float) -> None:
        """Count one step."""
        self.step += 1
        self.step_in_epoch += 1
        self.images += images
        self.seconds += seconds

    def next_epoch(self) -> None:
        self.epoch, self.step_in_epoch = self.epoch + 1, 0

    @property
    def speed(self) -> float:
        """Images per second so far."""
        return self.images / max(self.seconds, 1e-9)

    def figures(self) -> dict[str, float]:
        """What the card keeps of it."""
        return {
            "epochs": self.epoch,
            "steps": self.step,
            "images_per_second": round(self.speed, 1),
            "training_minutes": round(self.seconds / 60, 2),
        }


class Log:
    """metrics.jsonl, and TensorBoard events if asked for.  Only process 0 writes."""

    def __init__(self, run: Path, step: int, tensorboard: bool, rank: int) -> None:
        self.path = run / "metrics.jsonl"
        self.writer: Any = None
        if rank != 0:
            self.file = None
            return
        if self.path.exists():  # what was logged after the checkpoint will be logged again
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [x for x in lines if _step_of(x) <= step]
            write_atomically(self.path, "".join(f"{x}\n" for x in kept))
        self.file = self.path.open("a", encoding="utf-8", buffering=1)
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingExtraError(
                    "engine.tensorboard=true needs TensorBoard: pip install 'crosscam[tensorboard]'"
                ) from error
            self.writer = SummaryWriter(run / "tensorboard", purge_step=step + 1)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
        if self.writer is not None:
            self.writer.close()

    def write(
        self,
        at: Position,
        rate: float,
        terms: Mapping[str, Tensor],
        figures: Mapping[str, Tensor],
    ) -> None:
        """Log learning rate, speed, the loss terms of the step just made and other figures."""
        if self.file is None:
            return
        values = {name: float(term) for name, term in terms.items()}
        self.add(
            {
                "step": at.step,
                "epoch": at.epoch,
                "lr": rate,
                "images_per_second": round(at.speed, 1),
                "loss": sum(values.values()),
                **values,
                **{name: float(figure) for name, figure in figures.items()},
            }
        )

    def add(self, entry: Mapping[str, float]) -> None:
        """Log any figures; ``step`` must be among them."""
        if self.file is None:
            return
        with disk_errors(self.path, "the last checkpoint", "resume"):
            self.file.write(json.dumps(dict(entry)) + "\n")
        if self.writer is not None:
            for name, value in entry.items():
                if name not in ("step", "epoch"):
                    self.writer.add_scalar(name, value, int(entry["step"]))


def first_card(
    run: Path, recipe: Recipe, dataset: Dataset, num_classes: int, method: Method
) -> None:
    """Write the card of a run: what is trained on what, and with which software.

    A card that is there stays, unless it cannot be read: then it is made anew.
    """
    with contextlib.suppress(CheckpointError):
        read_card(run)
        return
    trained_on = {
        "name": dataset.name,
        "variant": dataset.variant,
        "title": dataset.title,
        "images": len(dataset.train),
        "identities": num_classes,
        "cameras": len({s.camid for s in dataset.train}),
    }
    card = run_card(
        recipe,
        method,
        num_classes,
        trained_on,
        torch=torch.__version__,
        numpy=np.__version__,
        python=platform.python_version(),
        commit=_commit(),
    )
    write_atomically(run / "card.json", json.dumps({**card, "seed": recipe.seed}, indent=1))


def run_card(
    recipe: Recipe,
    method: Method,
    num_classes: int,
    trained_on: Mapping[str, Any],
    **software: str,
) -> dict[str, Any]:
    """What the card of every run says, trained here or not.

    Args:
        recipe: its settings.
        method: its network.
        num_classes: people that its classifiers tell apart.
        trained_on: the data, with their sizes.
        software: versions beside crosscam's.
    """
    return {
        "crosscam": crosscam.__version__,
        **software,
        "method": recipe.method.name,
        "paper": method.paper,
        "feature_dim": method.dim,
        "num_classes": num_classes,
        "trained_on": trained_on,
    }


def read_card(run: Path) -> dict[str, Any]:
    """The card of a run, with a whole number under ``num_classes``.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = run / "card.json"
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card, dict):
            raise TypeError("it is no JSON object")
        card["num_classes"] = int(card["num_classes"])
    except KeyError as error:
        raise CheckpointError(f"{path} does not say {error}. {_WRITE_AGAIN.format(run)}") from error
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}). {_WRITE_AGAIN.format(run)}"
        ) from error
    return card


_WRITE_AGAIN = "`crosscam train --resume {}` writes it again."


def update_card(run: Path, entries: Mapping[str, Any]) -> None:
    """Add entries to the card of a run.

    Raises:
        CheckpointError: the card cannot be read.
    """
    card = {**read_card(run), **entries}
    write_atomically(run / "card.json", json.dumps(card, indent=1))


def require_new_folder(run: Path) -> None:
    """Refuse a folder that holds something, or a file, for a run that is made without training.

    Raises:
        InputError: something is there.
    """
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise InputError(f"{run} is there already and not empty: name a new folder.")


def write_run(
    run: Path, recipe: Recipe, card: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """The folder of a finished run that nothing was trained for: weights, recipe and card.

    The card gets the digest of the weights.

    Raises:
        DiskError: the files cannot be written.
    """
    digest = checkpoint.save_weights(run / "weights.safetensors", weights)
    write_atomically(run / "recipe.yaml", recipe.to_yaml())
    write_atomically(run / "card.json", json.dumps({**card, "weights_sha256": digest}, indent=1))


def _commit() -> str:
    """Commit of the source checkout this package runs from; "" if it was installed otherwise."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _step_of(line: str) -> float:
    """The step of a logged line; infinite for one that a crash cut."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Bar:
    """Loss terms, learning rate, images per second and time left, on standard error.

    On a terminal a bar.  Elsewhere (a file, a cluster's log) a line after an epoch, with the loss
    terms averaged over the steps since the line before: after the first epoch, the last, and those
    between that end ten seconds or more after the last line.
    """

    def __init__(self, visible: bool, epochs: int) -> None:
        self.epochs, self.shown = epochs, -math.inf
        self.progress: Any = None
        self.lines = visible and not sys.stderr.isatty()
        self.start: tuple[float, float] | None = None  # epochs done and the time, at the first step
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        if not visible or self.lines:
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(10),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}"),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
        )
        self.task = self.progress.add_task("train", total=epochs, epoch=f"0/{epochs}", text="")

    def __enter__(self) -> Bar:
        if self.progress is not None:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def show(self, done: float, at: Position, rate: float, terms: Mapping[str, Tensor]) -> None:
        """Show the state after a step.

        Args:
            done: epochs, with their fraction; exactly ``at.epoch + 1`` after the last step of one.
            at: where training stands.
            rate: the learning rate of the step.
            terms: the loss terms of the step; read twice a second at most, since reading waits.
        """
        now = time.monotonic()
        if self.lines:
            self._line(done, now, at, rate, terms)
        if self.progress is None or (now - self.shown < 0.5 and done < self.epochs):
            return
        self.shown = now
        text = "  ".join(f"{name} {float(t):.2f}" for name, t in terms.items())
        self.progress.update(
            self.task,
            completed=done,
            epoch=f"{min(at.epoch + 1, self.epochs)}/{self.epochs}",
            text=f"{text}  {at.speed:.0f} img/s",
        )

    def _line(
        self, done: float, now: float, at: Position, rate: float, terms: Mapping[str, Tensor]
    ) -> None:
        if self.start is None:
            # The first step compiles and warms up, so that the clock starts after it.
            self.start = (done, now)
        for name, term in terms.items():
            self.sums[name] = self.sums[name] + term if self.steps else term
        self.steps += 1
        if done != at.epoch + 1 or (now - self.shown < _BETWEEN_LINES and done < self.epochs):
            return
        means = {name: float(total) / self.steps for name, total in self.sums.items()}
        first, since = self.start
        pace = (now - since) / (done - first) if done > first else at.seconds / done
        losses = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        print(
            f"epoch {at.epoch + 1}/{self.epochs}  loss {sum(means.values()):.3f} ({losses})  "
            f"lr {rate:.1e}  {at.speed:.0f} images/s  "
            f"left {datetime.timedelta(seconds=round(pace * (self.epochs - done)))}",
            file=sys.stderr,
            flush=True,
        )
        self.shown, self.sums, self.steps = now, {}, 0


_BETWEEN_LINES = 10.0  # seconds
