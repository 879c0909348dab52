"""The shipped recipes of papers hold the papers' numbers.

Where each comes from stands in the recipes.  What is assumed there is our choice, and guarded all
the same.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest

from crosscam.recipe import Recipe, parse

IMAGENET = {
    "preprocess.mean": (0.485, 0.456, 0.406),
    "preprocess.std": (0.229, 0.224, 0.225),
    "method.backbone.name": "resnet50",
}
STEP = {
    "schedule.kind": "step",  # a tenth at every milestone, nothing between
    "schedule.gamma": 0.1,
    "schedule.every": "epoch",
}
ERASING = {
    "augment.erase": 0.5,
    "augment.erase_area": (0.02, 0.4),
    "augment.erase_aspect": (0.3, 1 / 0.3),
    "augment.erase_order": "after",  # on the normalized picture
}

NUMBERS: dict[str, dict[str, Any]] = {
    "mpn": {
        **IMAGENET,
        **STEP,
        **ERASING,
        "method.backbone.last_stride": 1,
        "method.prior": "uniform",
        "method.num_parts": 6,
        "method.width": 512,
        "method.sharing": True,
        "method.statistics": "mixed",
        "method.attention": False,  # not used by the released script
        "method.auxiliary": 1.0,  # the sum of four, each of weight 1
        "method.align": 1.0,
        "method.align_by": "class",
        "method.triplet": 1.0,
        "method.margin": 0.4,
        "method.msgr": 0.0,
        "sampler.kind": "balanced",
        "sampler.people": 6,
        "sampler.images": 8,
        "optimizer.name": "sgd",
        "optimizer.lr": 0.01,
        "optimizer.backbone_lr": 1.0,  # one rate for all layers
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": True,
        "optimizer.weight_decay": 5e-4,
        "schedule.epochs": 70,
        "schedule.milestones": (20, 40, 60),
        "schedule.warmup": "none",
        "preprocess.size": (384, 128),
        "preprocess.interpolation": "bilinear",
        "augment.flip": 0.5,
        "augment.pad": 0,
        "augment.resize_crop": 0.0,
        "augment.jitter": 0.0,  # exists but is off
        "augment.erase_fill": (0.4914, 0.4822, 0.4465),
        "augment.erase_priors": False,  # erasing is not applied to the mask
        "test.interpolation": "bicubic",
        "test.flip": True,
        "test.metric": "cosine",
    },
    "ide": {  # "Backbone initialisation"
        **IMAGENET,
        **STEP,
        "method.backbone.last_stride": 1,
        "method.pool": "avg",
        "method.embedding": 512,
        "method.slope": 0.1,
        "method.embedding_init": "kaiming",
        "method.bnneck": False,
        "method.dropout": 0.5,
        "method.classifier_bias": True,
        "method.smoothing": 0.0,
        "method.triplet": 0.0,
        "method.center": 0.0,
        "sampler.kind": "shuffle",
        "sampler.people": 32,  # a batch of 32 to 64
        "sampler.images": 1,
        "optimizer.name": "sgd",
        "optimizer.lr": 0.1,  # new layers
        "optimizer.backbone_lr": 0.1,  # 0.01 for the backbone
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": True,
        "optimizer.weight_decay": 5e-4,
        "schedule.epochs": 60,
        "schedule.milestones": (40,),
        "schedule.warmup": "none",
        "preprocess.size": (384, 128),
        "augment.flip": 0.5,
        "augment.pad": 0,
        "augment.erase": 0.5,
        "augment.erase_fill": (0.4914, 0.4822, 0.4465),
    },
    "strong-baseline": {
        **IMAGENET,
        **STEP,
        **ERASING,
        "method.backbone.last_stride": 1,
        "method.pool": "avg",
        "method.embedding": 0,
        "method.bnneck": True,
        "method.classifier_bias": False,
        "method.dropout": 0.0,
        "method.smoothing": 0.1,
        "method.triplet": 1.0,
        "method.triplet_from": 0.0,
        "method.normalize": False,
        "method.margin": 0.3,
        "method.center": 5e-4,
        "method.center_lr": 0.5,
        "method.msgr": 0.0,
        "sampler.kind": "grouped",  # torchreid's
        "sampler.people": 16,
        "sampler.images": 4,
        "optimizer.name": "adam",
        "optimizer.lr": 3.5e-4,
        "optimizer.backbone_lr": 1.0,
        "optimizer.weight_decay": 5e-4,
        "optimizer.decay_all": True,
        "schedule.epochs": 120,
        "schedule.milestones": (40, 70),
        "schedule.warmup": "linear",
        "schedule.warmup_epochs": 10.0,
        "schedule.warmup_start": 0.01,
        "preprocess.size": (256, 128),
        "preprocess.interpolation": "bilinear",
        "augment.flip": 0.5,
        "augment.pad": 10,
        "augment.resize_crop": 0.0,
        "augment.erase_fill": (0.485, 0.456, 0.406),
        "test.flip": False,
    },
    "msfl": {
        **IMAGENET,
        **STEP,
        "method.backbone.last_stride": 2,
        "method.embedding": 512,
        "method.head": "fc-bn-relu",
        "method.levels": (1, 2, 3, 4),
        "method.aa_kernel": 1,
        "method.width": 512,
        "method.fusion": "csip",
        "method.refine": (3, 2, 1),
        "method.refine_width": 128,
        "method.level_id": 0.0,
        "method.smoothing": 0.0,
        "method.triplet": 1.0,
        "method.margin": 0.3,
        "method.normalize": False,
        "method.msgr": 0.0,
        "sampler.kind": "leading",
        "sampler.people": 16,
        "sampler.images": 4,
        "augment.resize_crop": 1.0,
        "augment.zoom": 1.125,  # 288x144 of 256x128
        "augment.flip": 0.5,
        "augment.pad": 0,
        "augment.erase": 0.0,
        "preprocess.size": (256, 128),
        "optimizer.name": "adam",
        "optimizer.lr": 3.5e-4,
        "optimizer.backbone_lr": 1.0,
        "optimizer.weight_decay": 5e-4,
        "schedule.epochs": 120,
        "schedule.milestones": (40, 70),
        "schedule.warmup": "none",
        "engine.sync_batchnorm": True,
        "test.metric": "euclidean",
        "test.flip": False,
    },
}
NUMBERS["msfl-msgr"] = {
    **NUMBERS["msfl"],
    "method.msgr": 0.01,
    "method.msgr_stages": (1, 2),
    "method.msgr_norm": 2,
    "method.msgr_square": False,
    "method.msgr_scale": "sample",
}


def value(recipe: Recipe, key: str) -> Any:
    section, first, *rest = key.split(".")
    if section == "method":
        return reduce(getattr, rest, recipe.method.options[first])
    return reduce(getattr, rest, getattr(getattr(recipe, section), first))


@pytest.mark.parametrize("name", NUMBERS)
def test_the_numbers_are_the_papers(name: str) -> None:
    recipe = parse(name)
    assert {key: value(recipe, key) for key in NUMBERS[name]} == NUMBERS[name]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mpn", ["method=mpn"]),
        ("strong-baseline", ["method=baseline"]),
        ("msfl", ["method=msfl"]),
        ("msfl-msgr", ["method=msfl", "method.msgr=0.01"]),
    ],
)
def test_the_shipped_recipes_are_the_papers(name: str, settings: list[str]) -> None:
    """The file says nothing that the method's own recipe and keywords do not."""
    assert parse(name) == parse(None, settings)
