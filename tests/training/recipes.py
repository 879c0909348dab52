"""What training tests share: a tiny net on toy people with every kind of state, and its death."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crosscam.recipe import Recipe, parse
from crosscam.training import checkpoint, loop

SETTINGS = (
    "data.partial=true",
    "preprocess.size=[32,16]",
    "augment.pad=2",
    "sampler.people=4",
    "sampler.images=2",
    "method.backbone.name=resnet18",
    "method.backbone.width=0.125",
    "method.dropout=0.2",
    "method.center=0.0005",
    "optimizer.name=amsgrad",
    "optimizer.clip=5.0",
    "schedule.epochs=3",
    "schedule.warmup_epochs=1",
    "engine.precision=fp32",
    "engine.threads=1",
    "engine.ema=0.9",
    "engine.log_every=1",
    "engine.checkpoint_minutes=0",  # after every step
)


def toy_recipe(root: Path, *more: str) -> Recipe:
    """The recipe for the toy data set at ``root``, with further overrides."""
    return parse(None, [*SETTINGS, f"data.root={root}", *more])


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = (checkpoint.load_weights(run / "weights.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


def command(*arguments: str | Path, processes: int = 1) -> list[str]:
    """What trains quietly in a process of its own, or in several."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    python = [sys.executable, *(launcher if processes > 1 else [])]
    return [*python, "-m", "crosscam", "train", *map(str, arguments), "--quiet"]


def train_in_two_processes(settings: list[str], run: Path) -> None:
    """Train to the end."""
    done = subprocess.run(
        command(*settings, "--out", run, processes=2),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "card.json").read_text())["processes"] == 2


class _Died(Exception):
    pass


def die_and_resume(
    recipe: Recipe, run: Path, step: int, meanwhile: Callable[[], None] = lambda: None
) -> Path:
    """Train until the checkpoint of ``step`` is there, die, and go on from it to the end."""
    save = checkpoint.save

    def save_and_die(run: Path, at: int, *more: object) -> Path:
        path = save(run, at, *more)  # type: ignore[arg-type]
        if at == step:
            raise _Died
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_die)
        with pytest.raises(_Died):
            loop.train(recipe, run, progress=False)
    meanwhile()
    return loop.resume(run, progress=False)
