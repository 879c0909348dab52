"""Batches for training: rows of the store, augmented on their device."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crosscam.data.augment import Augment, FlipPairs
from crosscam.data.samplers import Sampler
from crosscam.errors import InputError, RecipeError
from crosscam.image import Preprocess
from crosscam.types import Batch, Prior

__all__ = ["Rows", "TrainLoader"]


class Rows(Protocol):
    """N rows of a prior, taken by index; a tensor [N, ...] is one."""

    @property
    def device(self) -> torch.device:
        """Where the rows come from, and where the index must be."""

    def __len__(self) -> int: ...

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        """Rows ``index`` [B] of dimension 0, as a tensor on ``device``."""


class TrainLoader:
    """Training batches, a function of (seed, epoch, step).

    With several processes each takes its share of every global batch: the shares put side by
    side are the batch that one process would see.

    Args:
        images: uint8 [N, H, W, 3], in host or device memory.
        labels: [N] class labels.
        camids: [N] camera ids.
        sampler: which rows make a batch.
        augment: what happens to them.
        preprocess: normalization.
        seed: of the augmentation.
        device: where batches are wanted.
        rank: number of this process.
        world: number of processes.
        priors: by kind, N rows that go along with the pictures.
        flip_pairs: what a mirror exchanges in them.
        fuse: on a GPU, compile what makes a batch.

    Raises:
        RecipeError: P identities cannot be shared evenly by ``world`` processes.
    """

    def __init__(
        self,
        images: Tensor,
        labels: npt.NDArray[np.int64],
        camids: npt.NDArray[np.int64],
        sampler: Sampler,
        augment: Augment,
        preprocess: Preprocess,
        *,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        priors: Mapping[Prior, Rows] | None = None,
        flip_pairs: FlipPairs | None = None,
        fuse: bool = False,
    ) -> None:
        n = len(images)
        counts = {"labels": len(labels), "camids": len(camids)}
        counts.update({f"{kind.value} (prior)": len(v) for kind, v in (priors or {}).items()})
        for name, count in counts.items():
            if count != n:
                raise InputError(f"{n} pictures need {n} {name}, got {count}.")
        if len(sampler.labels) != n:
            raise InputError(f"a sampler of {len(sampler.labels)} pictures does not fit {n}.")
        if not 0 <= rank < world:
            raise InputError(f"process {rank} of {world} does not exist.")
        if sampler.people % world:
            raise RecipeError(
                f"sampler.people={sampler.people} cannot be shared by {world} processes; "
                "choose a multiple."
            )
        self.images, self.sampler, self.augment, self.preprocess = (
            images,
            sampler,
            augment,
            preprocess,
        )
        self.host_labels = np.array(labels, np.int64)
        self.labels = torch.from_numpy(self.host_labels).to(device)
        self.camids = torch.from_numpy(np.array(camids, np.int64)).to(device)
        self.device = self.labels.device  # with its number, as "cuda:0" where "cuda" was asked
        self.seed, self.rank, self.world = seed, rank, world
        self.priors, self.flip_pairs = dict(priors or {}), flip_pairs
        self.buffers = _Buffers()
        self.fuse = fuse and self.device.type == "cuda"

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``epoch`` from step ``start`` on."""
        rows = self.sampler.epoch(epoch)
        for step in range(start, len(rows)):
            yield self.batch(rows[step], epoch, step)

    def batch(self, rows: npt.NDArray[np.int64], epoch: int, step: int) -> Batch:
        """This process's share of the global batch ``rows`` of (epoch, step)."""
        size = (int(self.images.shape[1]), int(self.images.shape[2]))
        draws = self.augment.draw(self.seed, epoch, step, len(rows), size)
        share = len(rows) // self.world
        draws = draws.part(self.rank * share, (self.rank + 1) * share)
        mine = rows[self.rank * share : (self.rank + 1) * share]
        index = self._send(torch.from_numpy(mine))
        if self.images.device == self.device:  # the batch is taken and augmented in one pass
            out = self.buffers.take((share, *size, 3)) if self.device.type == "cpu" else None
            pictures = self.augment.apply(
                self.images, draws, self.preprocess, mine, out=out, fuse=self.fuse
            )
        else:
            pictures = self._send(self.images.index_select(0, torch.from_numpy(mine)))
            pictures = self.augment.apply(pictures, draws, self.preprocess, fuse=self.fuse)
        priors = {
            kind: values.index_select(0, index)
            if values.device == self.device
            else self._send(values.index_select(0, torch.from_numpy(mine)))
            for kind, values in self.priors.items()
        }
        return Batch(
            pictures,
            self.labels.index_select(0, index),
            self.camids.index_select(0, index),
            self.augment.apply_priors(priors, draws, size, self.flip_pairs),
            labels=self.host_labels[mine].tolist(),
        )

    def _send(self, tensor: Tensor) -> Tensor:
        """To the device; a GPU goes on working meanwhile."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


class _Buffers:
    """Memory for batches, used again as soon as nobody holds the batch that lay there.

    Fresh memory costs the system more time, page by page, than the augmentation takes.  Kept are
    as many batches as were held at the same time, which in training are two.
    """

    def __init__(self) -> None:
        self.free: list[npt.NDArray[np.float32]] = []

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """An uninitialized float32 tensor."""
        size = math.prod(shape)
        memory = self.free.pop() if self.free else np.empty(size, np.float32)
        if memory.size != size:
            memory = np.empty(size, np.float32)
        # The tensor's storage keeps this view alive, through all tensors that share it.
        view = memory.reshape(shape)
        weakref.finalize(view, self.free.append, memory).atexit = False
        return torch.from_numpy(view)
