"""What training tests share: a tiny net on toy people with every kind of state, and its death."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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
