"""Rendered pictures with exact textures that come along with every batch (``data.pairs``).

Half a batch of them a step, each picture once before any comes again.  Which ones, and how they
are augmented, depends on the seed and the number of steps made, so that a resumed run goes on
with the same ones.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from crosscam.data import datasets
from crosscam.data.loader import TrainLoader
from crosscam.data.samplers import make_sampler
from crosscam.data.store import ImageStore
from crosscam.errors import DataError, RecipeError
from crosscam.priors.rows import gather
from crosscam.recipe import Recipe
from crosscam.types import Batch, Prior, Sample
from crosscam.wording import counted

__all__ = ["Pairs", "load_pairs"]


@dataclass(frozen=True)
class Pairs:
    """The rendered pictures of ``data.pairs``."""

    loader: TrainLoader
    samples: tuple[Sample, ...]

    def at(self, step: int) -> Batch:
        """This process's share of the pairs that go with step ``step`` of the whole training."""
        per_epoch = self.loader.sampler.steps(0)
        epoch, number = divmod(step, per_epoch)
        return self.loader.batch(self.loader.sampler.epoch(epoch)[number], epoch, number)


def load_pairs(
    recipe: Recipe,
    cache: Path,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    progress: bool = False,
) -> Pairs:
    """The pairs of ``recipe.data.pairs``, decoded.

    Raises:
        DataError: no rendered set there, or one without pairs, or with fewer than half a batch.
        RecipeError: half a batch cannot be shared evenly by ``world`` processes.
    """
    dataset = datasets.load("rendered", recipe.data.pairs, pairs=True)
    samples = dataset.require_train()
    half = recipe.sampler.people * recipe.sampler.images // 2
    if half < 1 or half % world:
        raise RecipeError(
            f"data.pairs sends {half} pictures along with a batch (half of sampler.people x "
            f"sampler.images), which {world} processes cannot share. Choose another "
            "sampler.people."
        )
    if len(samples) < half:
        raise DataError(
            f"{recipe.data.pairs} has {counted(len(samples), 'pair')}, and {half} come along with "
            "every batch (half of sampler.people x sampler.images). Render more (crosscam synth)."
        )
    store = ImageStore.build(
        samples,
        recipe.preprocess,
        budget_bytes=int(recipe.data.budget_gb * 1e9),
        cache_dir=cache,
        progress=progress,
    )
    # Another stream of draws than the batches', of the same seed.
    seed = int(np.random.SeedSequence([recipe.seed, 2]).generate_state(1)[0])
    each = np.arange(len(samples))  # every picture for itself
    _, people = np.unique([s.pid for s in samples], return_inverse=True)
    textures = gather(
        frozenset({Prior.TEXTURE}),
        (),
        dataset,
        folder=None,
        producers={},
        cache=cache,
        size=recipe.preprocess.size,
        device=device,
    )
    loader = TrainLoader(
        store.to(device),
        people.astype(np.int64),
        np.array([s.camid for s in samples]),
        make_sampler("shuffle", each, half, 1, seed),
        # A texture is of the body's own left and right: a mirrored picture has another one.
        dataclasses.replace(recipe.augment, flip=0.0),
        recipe.preprocess,
        seed=seed,
        device=device,
        rank=rank,
        world=world,
        priors=textures.rows,
    )
    return Pairs(loader, samples)
