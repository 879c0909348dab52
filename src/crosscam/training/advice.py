"""What a training is told of settings that are allowed and hardly meant."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from crosscam.errors import RecipeError
from crosscam.methods import Method
from crosscam.nn.stages import Backbone
from crosscam.recipe import Recipe

__all__ = ["advise", "require_use", "warn"]


def warn(advice: str) -> None:
    print(f"crosscam: warning: {advice}", file=sys.stderr)


def advise(method: Method, recipe: Recipe, num_classes: int) -> None:
    """Warn of settings that are allowed and hardly meant."""
    found = (
        collapsing(method, recipe),
        comparing_nothing(recipe, num_classes),
        idle(recipe),
        rising(recipe),
    )
    for advice in filter(None, found):
        warn(advice)


def require_use(method: Method, recipe: Recipe, *, said: bool) -> None:
    """Refuse pairs, and priors that are not there, where ``method`` does not learn from them.

    Priors that are there are only spoken of, where that is to be ``said``: one command line may go
    through many methods.
    """
    if recipe.priors.root and not method.needs:
        unread = (
            f"priors.root={recipe.priors.root} was given, and method {recipe.method.name} "
            "learns from no priors with these settings"
        )
        if not Path(recipe.priors.root).is_dir():
            raise RecipeError(f"{unread}; nor is there such a folder. Leave it out.")
        if said:
            warn(f"{unread}.")
    if recipe.data.pairs and not method.takes_pairs:
        raise RecipeError(
            f"data.pairs was given, and method {recipe.method.name} does not learn from "
            "rendered pairs with these settings. Leave data.pairs out, or take san with "
            "method.reconstruction and method.synthetic above 0."
        )


def collapsing(method: Method, recipe: Recipe) -> str:
    """What to do where a triplet will most likely pull all features together; else "".

    One on plain distances does, from the first step on a network that knows nothing: a hinge
    always, a soft margin where no BNNeck stands behind it (docs/LOG.md).
    """
    options = recipe.method.options
    neck = bool(options.get("bnneck"))
    backbone = getattr(method, "backbone", None)
    scratch = isinstance(backbone, Backbone) and backbone.report is None
    triplet = options.get("triplet")  # in a method of the user's own it may be anything
    at_once = isinstance(triplet, (int, float)) and triplet > 0 and not options.get("triplet_from")
    plain = options.get("normalize") is False
    if not (scratch and at_once and plain) or (neck and options.get("margin") == "soft"):
        return ""
    return (
        f"a triplet on plain distances (method.margin={options.get('margin')}) starts from random "
        "weights, which mostly makes all features one. Start from trained weights "
        "(method.backbone.pretrained=..., docs/convert.md), or take "
        f"method.{'margin=soft' if neck else 'normalize=true'}."
    )


def comparing_nothing(recipe: Recipe, num_classes: int) -> str:
    """What to do where batches lack what a triplet compares; else ""."""
    triplet, sampler = recipe.method.options.get("triplet"), recipe.sampler
    if not isinstance(triplet, (int, float)) or triplet <= 0:
        return ""
    size = sampler.people * sampler.images
    if sampler.kind == "shuffle":
        lack = "hardly two pictures of one person" if size <= num_classes else ""
    elif sampler.images == 1:
        lack = "no two pictures of one person"
    else:
        lack = "no two people" if sampler.people == 1 else ""
    if not lack:
        return ""
    return (
        f"a batch of {sampler.people} x {sampler.images} pictures (sampler.kind={sampler.kind}) "
        f"has {lack}, and method.triplet={triplet:g} compares both with each other. Set "
        "sampler.kind=grouped and sampler.people and sampler.images to 2 or more, or "
        "method.triplet=0."
    )


def idle(recipe: Recipe) -> str:
    """What to do where a regularizer that is off has settings; else ""."""
    options = recipe.method.options
    usual = inspect.signature(Method.__init__).parameters
    said = [
        name
        for name, value in options.items()
        if name.startswith("msgr_") and name in usual and value != usual[name].default
    ]
    if options.get("msgr") or not said:
        return ""
    return (
        f"{', '.join(f'method.{name}' for name in said)}: nothing is regularized while method.msgr "
        "is 0. Its paper's weight is method.msgr=0.01."
    )


def rising(recipe: Recipe) -> str:
    """What to do where the learning rate rises until the end; else ""."""
    schedule = recipe.schedule
    if schedule.warmup == "none" or schedule.warmup_epochs < schedule.epochs:
        return ""
    return (
        f"the learning rate rises for schedule.warmup_epochs={schedule.warmup_epochs:g} epochs, as "
        f"long as the training or longer (schedule.epochs={schedule.epochs}), and never arrives. "
        f"Set schedule.warmup_epochs={schedule.epochs / 12:.2g}, or schedule.warmup=none."
    )
