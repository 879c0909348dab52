"""The weights of several runs averaged to one network, as quick as each of them.

Wortsman et al., "Model soups", ICML 2022.  It works for runs that began from the same weights, or
from each other's, and are still close: between networks that learned apart, the mean of two
weights computes nothing of what either does.  Measure the result: ``crosscam evaluate``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crosscam import embedder
from crosscam.deployed import card_of_run, parts_of, training_only
from crosscam.errors import CheckpointError, InputError
from crosscam.files import sha256
from crosscam.methods import Method
from crosscam.recipe import Recipe
from crosscam.training.record import require_new_folder, run_card, write_run
from crosscam.wording import counted

__all__ = ["Averaged", "average"]


@dataclass(frozen=True)
class Averaged:
    """The run that came out."""

    run: Path
    of: tuple[Path, ...]
    parameters: int  # that were averaged
    not_averaged: tuple[str, ...]  # parameters that are not in all runs, or not in one shape

    def text(self) -> str:
        """Lines for a terminal."""
        left = f"; as in the last run: {', '.join(self.not_averaged)}" if self.not_averaged else ""
        return (
            f"{self.run}: the mean of {', '.join(map(str, self.of))}, "
            f"{counted(self.parameters, 'parameter')}{left}"
        )


@dataclass(frozen=True)
class _Run:
    folder: Path
    method: Method
    recipe: Recipe
    card: dict[str, Any]


def average(runs: Sequence[Path], out: Path) -> Averaged:
    """Makes the run folder ``out``, whose weights are the mean of those of ``runs``.

    Tensors that only training reads may be missing in some runs or differ in shape, as classifiers
    of other people do: those stay the last run's, whose recipe the new run takes too.  Running
    statistics are averaged as the weights are.  A run made here cannot be resumed, but training can
    start from it.

    Args:
        runs: finished run folders of one method with the same network, two or more.
        out: folder to create.

    Raises:
        InputError: fewer than two runs, one of them twice, or ``out`` is not empty.
        CheckpointError: a run that cannot be read or has another network or other pictures, or
            weights that are not finite.
        RecipeError: a recipe of a run does not fit this version.
        DiskError: the files cannot be written.
    """
    if len(runs) < 2 or len({run.resolve() for run in runs}) < len(runs):
        raise InputError(
            f"an average is of two or more different runs, got {', '.join(map(str, runs))}."
        )
    require_new_folder(out)
    found = [_Run(run, *embedder.load_method(run)) for run in runs]
    for run in found:
        _require_finite(run)
    last = found[-1]
    unread = set().union(*map(_unread, found))
    for run in found[:-1]:
        _require_same_network(run, last, unread)
    states = [run.method.state_dict() for run in found]
    state = states[-1]
    shared = {
        name
        for name, value in state.items()
        if all(name in other and other[name].shape == value.shape for other in states)
    }
    means = {
        name: torch.stack([other[name].double() for other in states]).mean(0).to(state[name].dtype)
        for name in shared
        if state[name].is_floating_point()
    }
    write_run(out, last.recipe, _card(found), {**state, **means})
    sizes = {name: p.numel() for name, p in last.method.named_parameters()}
    count = sum(size for name, size in sizes.items() if name in shared)
    return Averaged(out, tuple(runs), count, tuple(sorted(sizes.keys() - shared)))


def _unread(run: _Run) -> set[str]:
    """Names of the tensors of a run that ``embed`` does not read.

    Of the statistics that are no parameters, those of modules of which it reads no parameter.
    """
    parameters = set(training_only(run.method, run.recipe.preprocess.size))
    found = set(parameters)
    for name, module in run.method.named_modules():
        own = {f"{name}.{key}" for key, _ in module.named_parameters()}
        if name and own and own <= parameters:
            found |= {f"{name}.{key}" for key, _ in module.named_buffers()}
    return found


def _require_finite(run: _Run) -> None:
    for name, value in run.method.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"{run.folder} cannot be averaged: its {name} has values that are not finite."
            )


@torch.no_grad()
def _require_same_network(run: _Run, other: _Run, unread: set[str]) -> None:
    """With the same weights both must compute the same of the same pictures."""
    pair = f"{run.folder} and {other.folder} cannot be averaged"
    ours, theirs = _settings(run.recipe), _settings(other.recipe)
    for name, value in ours.items():
        if value != theirs[name]:
            raise CheckpointError(
                f"{pair}: {name} is {value} in the first and {theirs[name]} in the second."
            )
    one, two = run.method.state_dict(), other.method.state_dict()
    read = {name for name in {*one, *two} - unread if not name.endswith("num_batches_tracked")}
    misfit = sorted(name for name in read if _shape(one, name) != _shape(two, name))
    if misfit:
        raise CheckpointError(
            f"{pair}: they are different networks, which do not share, or not in the same shape, "
            f"{counted(len(misfit), 'tensor')} ({', '.join(misfit[:4])})."
        )
    same = copy.deepcopy(other.method)
    same.load_state_dict({name: one[name] for name in read}, strict=False)
    draw = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, 3, *other.recipe.preprocess.size, generator=draw)
    a, b = run.method.eval().embed(pictures), same.eval().embed(pictures)
    if a.shape != b.shape or not torch.allclose(a, b, atol=1e-5):
        raise CheckpointError(
            f"{pair}: with the same weights they compute different features, so a setting of "
            "their networks differs (stride, pooling). Compare their recipe.yaml."
        )


def _settings(recipe: Recipe) -> dict[str, object]:
    """What must be the same beside the network."""
    preprocess = asdict(recipe.test_preprocess).items()
    return {
        "method.name": recipe.method.name,
        **{f"preprocess.{key}": value for key, value in preprocess},
        "test.flip": recipe.test.flip,
        "test.metric": recipe.test.metric,
    }


def _shape(state: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return state[name].shape if name in state else None


def _card(found: Sequence[_Run]) -> dict[str, Any]:
    """The card of an average: the data, terms and licenses of all that is in it."""
    last = found[-1]
    sources = {json.dumps(entry): entry for run in found for entry in _sources(run)}
    learned: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in sources.values():
        learned[tuple(entry[key] for key in ("trained_on", "terms", *_COUNTS))] = entry
    sizes = {key: [int(entry[key] or 0) for entry in learned.values()] for key in _COUNTS}

    def listed(key: str, separator: str) -> str:
        return separator.join(dict.fromkeys(str(entry[key]) for entry in learned.values()))

    trained_on = {
        "name": listed("data", " + "),
        "variant": "",
        "title": listed("trained_on", " + "),
        "terms": listed("terms", "; "),
        "images": sum(sizes["images"]),
        "identities": sum(sizes["identities"]),
        "cameras": max(sizes["cameras"]),
    }
    classes = last.card["num_classes"]
    return {
        **run_card(last.recipe, last.method, classes, trained_on, torch=torch.__version__),
        "license": "; ".join(dict.fromkeys(str(e["license"]) for e in sources.values())),
        "averaged": list(sources.values()),
    }


_COUNTS = ("images", "identities", "cameras")


def _sources(run: _Run) -> list[dict[str, Any]]:
    """What a run is made of, as its card will list it: itself, or the runs that it is the mean of.

    Raises:
        CheckpointError: the card does not say what the run learned from.
    """
    on = run.card.get("trained_on")
    if not isinstance(on, dict) or not on.get("title"):
        raise CheckpointError(
            f"{run.folder / 'card.json'} does not say what the run learned from: it needs "
            "trained_on, with a title."
        )
    inner = run.card.get("averaged")
    if isinstance(inner, list) and all(isinstance(e, dict) and e.keys() == _KEYS for e in inner):
        return inner
    sizes = {key: on.get(key) if isinstance(on.get(key), int) else None for key in _COUNTS}
    method, recipe = run.method, run.recipe
    known = {**run.card, "trained_on": {**on, **sizes}}
    card = card_of_run(run.folder, recipe, known, method.dim, parts_of(method))
    return [
        {
            "run": run.folder.resolve().name,
            "data": str(on.get("name", recipe.data.name)),
            "trained_on": card.trained_on.title,
            "terms": card.trained_on.terms,
            "license": card.license,
            **sizes,
            "weights_sha256": sha256(run.folder / "weights.safetensors"),
        }
    ]


_KEYS = {"run", "data", "trained_on", "terms", "license", *_COUNTS, "weights_sha256"}
