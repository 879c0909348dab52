"""Which pictures make a batch: P identities with K pictures each.

Every sampler is a function of (labels, P, K, seed) and the epoch's number: ``epoch(e)`` gives the
same rows whenever it is asked, on every process.  Pictures of one identity stand side by side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from crosscam.errors import DataError, RecipeError
from crosscam.wording import counted

__all__ = ["Sampler", "make_sampler"]

Rows = npt.NDArray[np.int64]


class Sampler(ABC):
    """Rows of the training set, batch by batch.

    Args:
        labels: [N] class label of every training picture.
        people: identities per batch, P.
        images: pictures per identity, K.
        seed: of all draws.

    Raises:
        DataError: fewer identities than P, where a batch is made of identities.
    """

    by_person: ClassVar[bool] = True
    """Whether a batch is made of P identities."""

    def __init__(self, labels: Rows, people: int, images: int, seed: int) -> None:
        if people < 1 or images < 1:
            raise RecipeError(
                f"sampler.people and sampler.images must be 1 or more, got {people} and {images}."
            )
        if seed < 0:
            raise RecipeError(f"the seed must be 0 or more, got {seed}.")
        self.labels, self.people, self.images, self.seed = labels, people, images, seed
        order = np.argsort(labels, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
        self.groups = [part for part in parts if len(part)]  # no labels leave one empty part
        if self.by_person and len(self.groups) < people:
            raise DataError(
                f"a batch needs {people} identities (sampler.people) and the training set has "
                f"{len(self.groups)}. Set sampler.people={len(self.groups)} or less."
            )
        self._cached: tuple[int, Rows] | None = None

    @property
    def filled(self) -> int:
        """Identities with fewer than K pictures, whose pictures repeat within a batch."""
        return sum(len(group) < self.images for group in self.groups)

    def steps(self, epoch: int) -> int:
        """Batches of an epoch."""
        return len(self.epoch(epoch))

    def epoch(self, epoch: int) -> Rows:
        """Row numbers [steps, P * K] of epoch ``epoch`` (0, 1, ...)."""
        if self._cached is None or self._cached[0] != epoch:
            rows = self._draw(epoch)
            if len(rows) == 0:
                raise DataError(
                    counted(len(self.labels), "training picture does", "training pictures do")
                    + f" not fill one batch of {self.people} x {self.images}. "
                    "Lower sampler.people or sampler.images."
                )
            self._cached = (epoch, rows)
        return self._cached[1]

    @abstractmethod
    def _draw(self, epoch: int) -> Rows: ...

    def _random(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, 1, epoch])

    def _batches(self, chunks: Rows) -> Rows:
        """[n, K] chunks to [n // P, P * K] batches; an incomplete last one is dropped."""
        whole = len(chunks) // self.people
        return chunks[: whole * self.people].reshape(whole, self.people * self.images)


class Grouped(Sampler):
    """Every identity's pictures are cut into groups of K; a batch is groups of P identities.

    The torchreid sampler: identities with fewer than K pictures are filled by drawing with
    replacement, the rest of a division is left out of the epoch, and the epoch ends when fewer
    than P identities have a group left.
    """

    def _draw(self, epoch: int) -> Rows:
        random = self._random(epoch)
        left = []
        for group in self.groups:
            if len(group) < self.images:
                group = random.choice(group, self.images)
            whole = len(group) // self.images * self.images
            left.append(list(random.permutation(group)[:whole].reshape(-1, self.images)))
        alive = list(range(len(left)))
        batches = []
        while len(alive) >= self.people:
            chosen = random.choice(len(alive), self.people, replace=False)
            batches.append(np.concatenate([left[alive[i]].pop() for i in chosen]))
            alive = [i for i in alive if left[i]]
        return np.array(batches, np.int64).reshape(-1, self.people * self.images)


class Balanced(Sampler):
    """P identities drawn afresh for every batch, each giving its next K pictures.

    The sampler of MPN's release: every identity has a shuffled list and a cursor that outlives
    the epoch; as soon as fewer than K are left the list is shuffled again, and the leftovers are
    skipped.  Identities with fewer than K pictures give K drawn with replacement.  An epoch has
    as many batches as stay below the size of the training set.
    """

    def __init__(self, labels: Rows, people: int, images: int, seed: int) -> None:
        super().__init__(labels, people, images, seed)
        self._rewind()

    def _rewind(self) -> None:
        start = np.random.default_rng([self.seed, 0])
        self._lists = [start.permutation(group) for group in self.groups]
        self._cursors = [0] * len(self.groups)
        self._next = 0  # the epoch that lists and cursors stand before

    def _draw(self, epoch: int) -> Rows:
        if epoch < self._next:
            self._rewind()
        while self._next < epoch:
            self._advance()
        return self._advance()

    def _advance(self) -> Rows:
        random = self._random(self._next)
        size = self.people * self.images
        batches: list[Rows] = []
        while (len(batches) + 1) * size < len(self.labels):
            parts = []
            for person in random.choice(len(self.groups), self.people, replace=False):
                group = self.groups[person]
                if len(group) < self.images:
                    parts.append(random.choice(group, self.images))
                    continue
                cursor = self._cursors[person]
                parts.append(self._lists[person][cursor : cursor + self.images])
                cursor += self.images
                if len(group) - cursor < self.images:
                    self._lists[person], cursor = random.permutation(group), 0
                self._cursors[person] = cursor
            batches.append(np.concatenate(parts))
        self._next += 1
        return np.array(batches, np.int64).reshape(-1, size)


class IdentityOnce(Sampler):
    """Every identity once per epoch, with K of its pictures (open-reid, MGN)."""

    def _draw(self, epoch: int) -> Rows:
        random = self._random(epoch)
        chunks = [
            random.choice(self.groups[i], self.images, replace=len(self.groups[i]) < self.images)
            for i in random.permutation(len(self.groups))
        ]
        return self._batches(np.array(chunks, np.int64))


class Leading(Sampler):
    """Every identity leads one batch per epoch; its P - 1 companions are drawn at random.

    MSFL's sampler: as many batches as identities, each picture drawn afresh for its batch.
    """

    def _draw(self, epoch: int) -> Rows:
        random = self._random(epoch)
        n, k = len(self.groups), self.images
        batches = []
        for leader in random.permutation(n):
            others = random.choice(n - 1, self.people - 1, replace=False)
            people = [leader, *(others + (others >= leader))]
            batches.append(
                np.concatenate(
                    [
                        random.choice(g, k, replace=len(g) < k)
                        for g in (self.groups[i] for i in people)
                    ]
                )
            )
        return np.array(batches, np.int64)


class Shuffle(Sampler):
    """Single pictures in random order; identities do not stand side by side."""

    by_person = False

    def _draw(self, epoch: int) -> Rows:
        size = self.people * self.images
        order = self._random(epoch).permutation(len(self.labels)).astype(np.int64)
        return order[: len(order) // size * size].reshape(-1, size)


_KINDS: dict[str, type[Sampler]] = {
    "grouped": Grouped,
    "balanced": Balanced,
    "identity-once": IdentityOnce,
    "leading": Leading,
    "shuffle": Shuffle,
}


def make_sampler(kind: str, labels: Rows, people: int, images: int, seed: int) -> Sampler:
    """The sampler called ``kind``: grouped, balanced, identity-once, leading or shuffle."""
    if kind not in _KINDS:
        raise RecipeError(f"unknown sampler '{kind}'; known: {', '.join(_KINDS)}.")
    return _KINDS[kind](labels, people, images, seed)
