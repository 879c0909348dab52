"""Forward and backward passes of a step: made one operation after the other, or played again.

A GPU is fed operation by operation, and small batches are done before the host has sent the next
one.  :class:`Recorded` sends a step once, as a CUDA graph, and has it played with the pictures of
later steps.  Optimizers stay outside: learning rates change, and a fused step is one operation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from crosscam.errors import TrainingError
from crosscam.methods import Method
from crosscam.training.optim import straighten
from crosscam.types import Batch

__all__ = ["Passes", "Plain", "Recorded"]

T = TypeVar("T")

Passes = Callable[[Batch, int], dict[str, Tensor]]
"""Of a batch and the number of an update: its terms, detached.  Gradients then lie in ``.grad``."""

Capture = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]


class Plain:
    """The passes, made anew for every batch.

    Args:
        method: what learns.
        learner: the method, or what wraps it (other processes, a compiler).
        half: compute in bfloat16 where autocast does.
    """

    def __init__(self, method: Method, learner: nn.Module, *, half: bool = False) -> None:
        self.method, self.learner, self.half = method, learner, half

    def __call__(self, batch: Batch, update: int) -> dict[str, Tensor]:
        self.method.zero_grad(set_to_none=True)
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.half):
            terms: dict[str, Tensor] = self.learner(batch, update)
        total = torch.stack(list(terms.values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        # What computed them would live as long as they do, and a recording of the next step would
        # find parts of it that belong to another stream.
        return {name: term.detach() for name, term in terms.items()}


class Recorded:
    """The passes as CUDA graphs, one for each update of the method.

    The first ``WARM`` steps are made as they come, in which libraries choose their algorithms; the
    next one is recorded.  Whatever a graph cannot know is looked at before it is played: the sizes
    of the batch, which parameters rest, and all numbers that the method and its parts hold as
    attributes or in lists and dictionaries (``Method.schedule`` sets some).  Where one has changed,
    steps are made as they come and the next one is recorded again; where one changes at every step,
    no step is.  Nor is an update whose losses read the labels that are on the host.  What else a
    loss does on the host, drawing numbers say, is done once.

    A graph holds the memory of its step for good: as much as a step takes, for each update.

    Args:
        plain: the passes; on a GPU, in one process.
        capture: how they are recorded (tests have no GPU).
    """

    WARM = 3

    def __init__(self, plain: Plain, capture: Capture | None = None) -> None:
        self.plain, self.method = plain, plain.method
        self.parts = [vars(module) for module in self.method.modules()]
        self.parts += [vars(self.method.regularizer)] if self.method.regularizer else []
        self.parameters = list(self.method.parameters())
        self.capture = capture or functools.partial(captured, device=self.parameters[0].device)
        self.tapes: dict[int, _Tape] = {}

    def __call__(self, batch: Batch, update: int) -> dict[str, Tensor]:
        tape = self.tapes.setdefault(update, _Tape())
        tape.steps += 1
        seen = self._what_a_graph_cannot_know(batch)
        if tape.seen != seen:
            tape.clear(seen)
        if tape.made < self.WARM or tape.reads_labels:
            return self._warm(tape, batch, update)
        if tape.replay is None:
            self._record(tape, batch, update)
        else:
            for there, new in zip(_tensors(tape.batch), _tensors(batch), strict=True):
                there.copy_(new)
        assert tape.replay is not None
        tape.replay()
        tape.played = True
        for parameter, gradient in zip(self.parameters, tape.gradients, strict=True):
            parameter.grad = gradient
        # The next step is played into the same memory; these may be looked at later.
        return dict(zip(tape.names, tape.terms.clone().unbind(), strict=True))

    def unplayed(self) -> str:
        """Why not one step has been played, after many; empty if one has, or there were few."""
        tapes = self.tapes.values()
        if any(tape.played for tape in tapes) or max((t.steps for t in tapes), default=0) < 30:
            return ""
        if all(tape.reads_labels for tape in tapes):
            return "its losses read labels that are on the host"
        return "a size, or a number of the method, keeps changing"

    def _warm(self, tape: _Tape, batch: Batch, update: int) -> dict[str, Tensor]:
        readers: list[_Watched] = []
        if not tape.made:
            batch, readers = _watched(batch)
        elif not tape.reads_labels:  # as it will be recorded: compilers look at what is in a batch
            batch = _each(batch, lambda tensor: tensor)
        terms = self.plain(batch, update)
        tape.reads_labels |= any(labels.read for labels in readers)
        tape.made += 1
        return terms

    def _record(self, tape: _Tape, batch: Batch, update: int) -> None:
        tape.batch = _each(batch, torch.clone)

        def run() -> tuple[Tensor, list[str]]:
            terms = self.plain(tape.batch, update)
            straighten(self.parameters)
            return torch.stack([term.float() for term in terms.values()]), list(terms)

        self.method.zero_grad(set_to_none=True)
        try:
            (tape.terms, tape.names), tape.replay = self.capture(run)
        except torch.OutOfMemoryError as error:  # a RuntimeError too
            raise TrainingError(
                f"the GPU has no memory left to record a step ({error}). A recorded step keeps all "
                "its memory: take smaller batches, or leave engine.graphs at its default."
            ) from error
        except RuntimeError as error:
            raise TrainingError(
                "a step of this method cannot be recorded, because it waits for the GPU or does "
                f"something else that a CUDA graph cannot hold ({error}). Leave engine.graphs at "
                "its default."
            ) from error
        tape.gradients = [p.grad for p in self.parameters]

    def _what_a_graph_cannot_know(self, batch: Batch) -> tuple[object, ...]:
        sizes = tuple((t.shape, t.dtype, t.stride()) for t in _tensors(batch))
        learning = tuple(p.requires_grad for p in self.parameters)
        numbers: list[object] = []
        for part in self.parts:
            _collect((v for k, v in part.items() if k not in _OF_ANY_MODULE), numbers)
        return sizes, learning, tuple(numbers)


def captured(run: Callable[[], T], device: torch.device) -> tuple[T, Callable[[], None]]:
    """What ``run`` returns, and how to have it computed, now and again, into the same memory."""
    graph = torch.cuda.CUDAGraph()
    # Not the current device's stream: work on another one would not be recorded, nor missed.
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream):
        result = run()
    return result, graph.replay


_NUMBERS = (bool, int, float, str, np.generic)
_OF_ANY_MODULE = vars(nn.Module()).keys() - {"training"}


def _collect(values: Iterable[object], numbers: list[object]) -> None:
    for value in values:
        if isinstance(value, _NUMBERS):
            numbers.append(value)
        elif isinstance(value, dict):
            _collect(value.values(), numbers)
        elif isinstance(value, (list, tuple, set, frozenset)):
            _collect(value, numbers)


class _Tape:
    """What is known of one update: until ``replay`` is there, only how often it was ``made``.

    ``steps`` and ``played`` are of all its steps, the rest is since something changed.
    """

    def __init__(self) -> None:
        self.steps, self.played = 0, False
        self.clear(())

    def clear(self, seen: tuple[object, ...]) -> None:
        self.seen = seen
        self.made, self.reads_labels = 0, False
        self.replay: Callable[[], None] | None = None
        self.batch: Any = None  # the memory that later batches are copied into
        self.terms: Any = None
        self.names: list[str] = []
        self.gradients: list[Tensor | None] = []


class _Watched(Sequence[int]):
    """Labels that remember whether somebody read them."""

    def __init__(self, labels: Sequence[int]) -> None:
        self.labels, self.read = labels, False

    def __getitem__(self, index: Any) -> Any:
        self.read = True
        return self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)


def _watched(batch: Batch) -> tuple[Batch, list[_Watched]]:
    readers: list[_Watched] = []

    def watch(part: Batch) -> Batch:
        pairs = None if part.pairs is None else watch(part.pairs)
        labels = None if part.labels is None else _Watched(part.labels)
        if labels is not None:
            readers.append(labels)
        return dataclasses.replace(part, labels=labels, pairs=pairs)

    return watch(batch), readers


def _tensors(batch: Batch) -> Iterator[Tensor]:
    yield from (batch.images, batch.pids, batch.camids, *batch.priors.values())
    if batch.pairs is not None:
        yield from _tensors(batch.pairs)


def _each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with every tensor changed, and without the labels that are on the host."""
    return Batch(
        change(batch.images),
        change(batch.pids),
        change(batch.camids),
        {kind: change(prior) for kind, prior in batch.priors.items()},
        None if batch.pairs is None else _each(batch.pairs, change),
    )
