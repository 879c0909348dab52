"""The weights of several runs averaged to one network, as quick as each of them.

Wortsman et al., "Model soups", ICML 2022.  It works for runs that began from the same weights, or
from each other's, and are still close: between networks that learned apart, the mean of two
weights computes nothing of what either does.  Measure the result: ``crosscam evaluate``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import crosscam
from crosscam import embedder
from crosscam.deployed import card_of_run, parts_of, training_only
from crosscam.errors import CheckpointError, InputError
from crosscam.files import sha256, write_atomically
from crosscam.methods import Method
from crosscam.recipe import Recipe
from crosscam.training.checkpoint import save_weights
from crosscam.wording import counted

__all__ = ["Averaged", "average"]


@dataclass(frozen=True)
class Averaged:
    """The run that came out."""

    run: Path
    of: tuple[Path, ...]
    parameters: int  # that were averaged
    not_averaged: tuple[str, ...]  # which no encoder reads

    def text(self) -> str:
        """Lines for a terminal."""
        left = f"; not averaged, as no encoder reads them: {', '.join(self.not_averaged)}"
        return (
            f"{self.run}: the mean of {', '.join(map(str, self.of))}, "
            f"{counted(self.parameters, 'parameter')}{left if self.not_averaged else ''}"
        )


@dataclass(frozen=True)
class _Run:
    folder: Path
    method: Method
    recipe: Recipe
    card: dict[str, Any]


def average(runs: Sequence[Path], out: Path) -> Averaged:
    """Makes the run folder ``out``, whose weights are the mean of those of ``runs``.

    Parameters that only training reads (classifiers: the people of other runs are others) stay
    those of the last run, whose recipe the new one takes too.  Running statistics are averaged as
    the weights are.

    Args:
        runs: finished run folders of one method with the same settings of the network, two or more.
        out: folder to create.

    Raises:
        InputError: fewer than two runs, one of them twice, or ``out`` is not empty.
        CheckpointError: a run that cannot be read or has another network or other pictures.
    """
    if len(runs) < 2 or len({run.resolve() for run in runs}) < len(runs):
        raise InputError(
            f"an average is of two or more different runs, got {', '.join(map(str, runs))}."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty: name a new folder.")
    found = [_Run(run, *embedder.load_method(run)) for run in runs]
    last = found[-1]
    unread = set(training_only(last.method, last.recipe.preprocess.size))
    for run in found[:-1]:
        _require_same_network(run, last, unread)
    state = last.method.state_dict()
    states = [run.method.state_dict() for run in found[:-1]] + [
        {name: value.clone() for name, value in state.items()}
    ]
    for name, value in state.items():
        if name not in unread and value.is_floating_point():
            value.copy_(torch.stack([other[name].double() for other in states]).mean(0))
    card = _card(found)
    out.mkdir(parents=True, exist_ok=True)
    card["weights_sha256"] = save_weights(out / "weights.safetensors", state)
    write_atomically(out / "recipe.yaml", last.recipe.to_yaml())
    write_atomically(out / "card.json", json.dumps(card, indent=1))
    count = sum(p.numel() for name, p in last.method.named_parameters() if name not in unread)
    return Averaged(out, tuple(runs), count, tuple(sorted(unread)))


@torch.no_grad()
def _require_same_network(run: _Run, other: _Run, unread: set[str]) -> None:
    """With the same weights both must compute the same of the same pictures."""
    pair = f"{run.folder} and {other.folder}"
    settings = [
        ("method.name", run.recipe.method.name, other.recipe.method.name),
        ("preprocess", run.recipe.test_preprocess, other.recipe.test_preprocess),
        ("test.flip", run.recipe.test.flip, other.recipe.test.flip),
        ("test.metric", run.recipe.test.metric, other.recipe.test.metric),
    ]
    for name, one, two in settings:
        if one != two:
            raise CheckpointError(
                f"{pair} cannot be averaged: {name} is {one} in the first and {two} in the second."
            )
    ours, theirs = run.method.state_dict(), other.method.state_dict()
    read = {name for name in {*ours, *theirs} - unread if not _counts(name)}
    misfit = sorted(
        name
        for name in read
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape
    )
    if misfit:
        raise CheckpointError(
            f"{pair} cannot be averaged: they are different networks, which do not share, or not "
            f"in the same shape, {counted(len(misfit), 'tensor')} ({', '.join(misfit[:4])})."
        )
    same = copy.deepcopy(other.method)
    same.load_state_dict({name: ours[name] for name in read}, strict=False)
    draw = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, 3, *other.recipe.preprocess.size, generator=draw)
    if not torch.allclose(
        run.method.eval().embed(pictures), same.eval().embed(pictures), atol=1e-5
    ):
        raise CheckpointError(
            f"{pair} cannot be averaged: with the same weights they compute different features, so "
            "a setting of their networks differs (stride, pooling). Compare their recipe.yaml."
        )


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _card(found: Sequence[_Run]) -> dict[str, Any]:
    """The card of the last run, with the data of all; what its training took is not carried on."""
    last = found[-1]
    cards = [
        card_of_run(r.folder, r.recipe, r.card, r.method.dim, parts_of(r.method)) for r in found
    ]
    on = {card.trained_on.title: card.trained_on for card in cards}
    data = {entry["name"]: None for entry in (run.card["trained_on"] for run in found)}
    licenses = {card.license: None for card in cards}
    return {
        "crosscam": crosscam.__version__,
        "torch": torch.__version__,
        "method": last.card["method"],
        "paper": last.card["paper"],
        "feature_dim": last.method.dim,
        "num_classes": last.card["num_classes"],
        "trained_on": {
            "name": " + ".join(data),
            "variant": "",
            "title": " + ".join(on),
            "terms": "; ".join(dict.fromkeys(entry.terms for entry in on.values())),
            "images": sum(entry.images or 0 for entry in on.values()),
            "identities": sum(entry.identities or 0 for entry in on.values()),
            "cameras": max(entry.cameras or 0 for entry in on.values()),
        },
        "license": "; ".join(licenses),
        "averaged": [
            {
                "run": run.folder.resolve().name,
                "trained_on": run.card["trained_on"]["title"],
                "weights_sha256": sha256(run.folder / "weights.safetensors"),
            }
            for run in found
        ],
    }
