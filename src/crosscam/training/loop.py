"""The training loop, top to bottom.

``train(recipe, run)`` reads a data set, learns a method on it and leaves a run folder:

    recipe.yaml            every setting
    card.json              what was trained on what, versions, commit, time, figures
    metrics.jsonl          one line per ``engine.log_every`` steps, and for the last
    checkpoints/           the last two states; an interrupted run goes on from there, exactly
    weights.safetensors    what was learned (the averaged weights if ``engine.ema`` > 0)

Every random draw is a function of (seed, epoch, step), so a run that was killed and resumed
ends with the same weights, bit for bit on one CPU, as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crosscam.data.loader import TrainLoader
from crosscam.data.samplers import Sampler, make_sampler
from crosscam.data.store import ImageStore
from crosscam.errors import CheckpointError, RecipeError, TrainingError
from crosscam.files import disk_errors, write_atomically
from crosscam.methods import Method
from crosscam.nn import layers, sync
from crosscam.priors.rows import gather
from crosscam.recipe import Recipe, parse
from crosscam.training import checkpoint
from crosscam.training.advice import advise, require_use, warn
from crosscam.training.optim import (
    Average,
    averaged,
    learning_rate,
    make_optimizers,
    straighten,
)
from crosscam.training.pairs import Pairs, load_pairs
from crosscam.training.passes import Passes, Plain, Recorded
from crosscam.training.process import (
    agree,
    interruptible,
    keep,
    peak_memory,
    pick_device,
    processes,
    rank,
    use_bf16,
)
from crosscam.training.record import Bar, Log, Position, first_card, read_card, update_card
from crosscam.types import Batch, Sample

__all__ = ["Interrupted", "resume", "train"]

Evaluate = Callable[[Method], Mapping[str, float]]


class Interrupted(Exception):
    """Training was stopped by the user; the run folder can be resumed."""


def train(
    recipe: Recipe,
    run: Path,
    *,
    device: str = "auto",
    progress: bool = True,
    evaluate: Evaluate | None = None,
) -> Path:
    """Learn ``recipe`` and leave the result in the folder ``run``, which must be new or empty.

    Args:
        recipe: every setting (:func:`crosscam.recipe.parse`).
        run: folder to create.
        device: "cpu", "cuda", "cuda:1", or "auto" for a GPU if there is one.
        progress: show a progress bar on a terminal, and elsewhere a line after an epoch, both on
            standard error.
        evaluate: called with the method (averaged weights) every ``engine.evaluate_every``
            epochs and after the last; what it returns is logged.

    Raises:
        RecipeError: ``data.root`` is missing, or a setting does not fit.
        TrainingError: a loss stopped being finite, or the folder is not empty.
        DiskError: the disk is full; the last checkpoint is untouched.
        Interrupted: Ctrl-C; :func:`resume` goes on from the last step.
    """
    pick_device(device)  # what cannot be is refused before there is a folder
    if not recipe.data.root:
        raise RecipeError(
            f"data.root is missing: say where {recipe.data.name} lies (data.root=FOLDER, or the "
            "CSV file of data.name=csv). Other sets: data.name=NAME, see crosscam data list."
        )
    if rank() == 0:
        if run.exists() and any(run.iterdir()):
            raise TrainingError(
                f"{run} is not empty. Resume it (crosscam train --resume {run}) or choose a new "
                "folder (--out)."
            )
        with disk_errors(run, "none"):
            run.mkdir(parents=True, exist_ok=True)
    return _train(recipe, run, None, device, progress, evaluate)


def resume(
    run: Path,
    settings: Sequence[str] = (),
    *,
    device: str = "auto",
    progress: bool = True,
    evaluate: Evaluate | None = None,
) -> Path:
    """Go on with the run in ``run`` from its last checkpoint (from the start if it has none).

    Args:
        run: its folder.
        settings: changes to its recipe, as ``resumed`` takes them.
        device: as of ``train``, like the rest.
        progress: see there.
        evaluate: see there.
    """
    return _train(resumed(run, settings), run, checkpoint.latest(run), device, progress, evaluate)


MOVABLE = (
    "data.root",
    "data.cache",
    "data.budget_gb",
    "data.pairs",
    "data.options.extract_to",
    "priors.root",
    "engine.threads",
    "engine.checkpoint_minutes",
    "engine.evaluate_every",
    "engine.log_every",
    "engine.tensorboard",
)
"""Settings that may change when a run is resumed: where things lie and how it is watched, not what
is learned.  That data and priors are the same in another place is looked at."""


def resumed(run: Path, settings: Sequence[str] = ()) -> Recipe:
    """The recipe of a run, with changes ``key=value`` to where things lie.

    Raises:
        CheckpointError: no run folder, one without checkpoints (converted, averaged), or its data
            are not where they were.
        RecipeError: a change to what is learned.
    """
    if not (run / "recipe.yaml").is_file():
        raise CheckpointError(
            f"{run} is not a run folder: it has no recipe.yaml. Give the folder of a run."
        )
    if not (run / "checkpoints").is_dir() and (run / "weights.safetensors").is_file():
        raise CheckpointError(
            f"{run} has weights and no checkpoint to go on from: it was converted or averaged, or "
            "its checkpoints were removed. Start a new run from what it has learned: "
            f"method.backbone.pretrained={run / 'weights.safetensors'}."
        )
    other = [s for s in settings if s.partition("=")[0] not in MOVABLE]
    if other:
        raise RecipeError(
            f"a resumed run keeps its recipe, and '{other[0]}' would change it. Only "
            f"{', '.join(MOVABLE)} may differ. To learn more, or something else, start a new run "
            "from what this one has learned: "
            f"method.backbone.pretrained={run / 'weights.safetensors'}."
        )
    recipe = parse(run / "recipe.yaml", settings)
    if not recipe.data.root or not Path(recipe.data.root).exists():
        raise CheckpointError(
            f"the data of {run} are not at '{recipe.data.root}'. Say where they are now: "
            f"crosscam train --resume {run} data.root=..."
        )
    return recipe


def _train(
    recipe: Recipe,
    run: Path,
    last: checkpoint.Checkpoint | None,
    device_name: str,
    progress: bool,
    evaluate: Evaluate | None,
) -> Path:
    if recipe.engine.threads:
        torch.set_num_threads(recipe.engine.threads)
    with (
        flushed_denormals(),
        chosen_convolutions(),
        processes(pick_device(device_name)) as (me, world, device),
    ):
        training = Training(
            recipe,
            run,
            me,
            world,
            device,
            fresh=last is None,
            evaluated=evaluate is not None,
            shown=progress and me == 0,
        )
        if last is not None:
            training.go_on_from(last)
        training.begin()
        _loop(training, evaluate)
        training.finish()
    return run


def _loop(training: Training, evaluate: Evaluate | None) -> None:
    """Step after step, from where ``training`` stands to the end, which is saved.

    Raises:
        TrainingError: a loss or weight is not finite.
        Interrupted: somebody asked to stop; the last step is saved.
    """
    run, world, device = training.run, training.world, training.device
    engine, schedule = training.recipe.engine, training.recipe.schedule
    at, method, passes = training.at, training.method, training.passes
    saved = time.monotonic()
    with (
        interruptible(alone=world == 1) as stop,
        Bar(training.shown, schedule.epochs) as bar,
        Log(run, at.step, engine.tensorboard, training.me) as log,
    ):
        method.train()
        warned = False
        while at.epoch < schedule.epochs:
            if training.rest is not None:
                training.rest(at.epoch < schedule.frozen_epochs)
            steps = training.sampler.steps(at.epoch)
            tick = time.monotonic()
            for batch in training.loader.epoch(at.epoch, at.step_in_epoch):
                rate, terms = training.step(batch, at.epoch + at.step_in_epoch / steps)
                # From one step to the next: making a batch counts, and so does, on a GPU, which
                # works behind, whatever waited for it.
                now = time.monotonic()
                at.advance(len(batch) * world, now - tick)
                tick = now
                ends = at.epoch + 1 == schedule.epochs and at.step_in_epoch == steps
                if at.step % engine.log_every == 0 or ends:
                    training.watch.flush()
                    log.write(at, rate, terms, method.figures)
                bar.show(at.epoch + at.step_in_epoch / steps, at, rate, terms)
                # Asking the other processes waits for a GPU.
                asked = world == 1 or device.type == "cpu" or at.step % engine.log_every == 0
                stopped = asked and agree(stop(), world, device)
                due = time.monotonic() - saved >= 60 * engine.checkpoint_minutes
                if stopped or due:
                    training.save()
                    saved = tick = time.monotonic()
                if stopped:
                    raise Interrupted(
                        f"stopped after step {at.step}. Go on with: crosscam train --resume {run}"
                    )
            if isinstance(passes, Recorded) and not warned and (why := passes.unplayed()):
                warned = True
                warn(
                    "engine.graphs=true gains nothing: no step was played yet, because "
                    f"{why}. Leave it at its default."
                )
            at.next_epoch()
            every = engine.evaluate_every
            if evaluate and every and (at.epoch % every == 0 or at.epoch == schedule.epochs):
                training.evaluate(evaluate, log)
        training.save()


class Training:
    """All that a run works with in this process, and where it stands.

    Args:
        recipe: every setting.
        run: its folder.
        me: number of this process.
        world: of how many.
        device: of this process.
        fresh: the method starts as its recipe says; otherwise blank, for ``go_on_from``.
        evaluated: test pictures will be needed too.
        shown: progress is shown on standard error.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        me: int,
        world: int,
        device: torch.device,
        *,
        fresh: bool,
        evaluated: bool,
        shown: bool,
    ) -> None:
        self.recipe, self.run, self.shown = recipe, run, shown
        self.me, self.world, self.device = me, world, device

        # --- data -----------------------------------------------------------------------------
        self.dataset = recipe.data.load()
        samples = self.dataset.require_train()
        if evaluated and recipe.engine.evaluate_every:
            self.dataset.require_test()  # better now than after an epoch
        labels, self.num_classes = class_labels(samples)
        self.sampler = make_sampler(
            recipe.sampler.kind, labels, recipe.sampler.people, recipe.sampler.images, recipe.seed
        )

        # --- method and optimizers ------------------------------------------------------------
        torch.manual_seed(recipe.seed)
        try:
            start = recipe.method if fresh else recipe.method.blank
            self.method = start.build(self.num_classes).to(device)
            self.updates = make_optimizers(self.method, recipe.optimizer)
        except (ValueError, RuntimeError, TypeError) as error:
            raise RecipeError(
                f"a setting of the method or optimizer does not fit: {error}"
            ) from error
        self.optimizers = [optimizer for update in self.updates for optimizer in update]
        if me == 0 and fresh:
            advise(self.method, recipe, self.num_classes)
        require_use(self.method, recipe, said=me == 0)

        # --- pictures and priors --------------------------------------------------------------
        cache = Path(recipe.data.cache or run / "cache")
        store = ImageStore.build(
            samples,
            recipe.preprocess,
            budget_bytes=int(recipe.data.budget_gb * 1e9),
            cache_dir=cache,
            progress=shown,
        )
        self.priors = gather(
            self.method.needs,
            self.method.parts,
            self.dataset,
            folder=Path(recipe.priors.root) if recipe.priors.root else None,
            producers=recipe.priors.producers,
            cache=cache,
            size=recipe.preprocess.size,
            device=device,
        )
        if shown and self.priors.report:
            print(self.priors.text(), file=sys.stderr)
        self.loader = TrainLoader(
            store.to(device),
            labels,
            np.array([s.camid for s in samples]),
            self.sampler,
            recipe.augment,
            recipe.preprocess,
            seed=recipe.seed,
            device=device,
            rank=me,
            world=world,
            priors=self.priors.rows,
            flip_pairs=self.priors.flip_pairs,
            fuse=recipe.engine.compile,
        )
        self.pairs: Pairs | None = None
        if recipe.data.pairs:
            self.pairs = load_pairs(recipe, cache / "pairs", device, me, world, shown)

        # --- passes, average ------------------------------------------------------------------
        self.half = use_bf16(recipe.engine.precision, device)
        self.passes = self._passes()
        self.rest = Rest(self.method) if recipe.schedule.frozen_epochs else None
        self.average = Average(self.method, recipe.engine.ema) if recipe.engine.ema else None

        # --- where it stands ------------------------------------------------------------------
        self.at = Position()
        learned = samples + (self.pairs.samples if self.pairs else ())
        self.data = {"data": fingerprint(learned)}  # what a resumed run must find again
        if me == 0 or not fresh:  # the others of a new run neither save nor compare it
            self.data["pictures"] = content(learned)
        every = 1 if device.type == "cpu" else recipe.engine.log_every
        self.watch = Watch(run, self.sampler, samples, every)

    def _passes(self) -> Passes:
        """Forward and backward of a step, with the method arranged for the device."""
        engine, method, device, world = self.recipe.engine, self.method, self.device, self.world
        if engine.channels_last:
            method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if engine.sync_batchnorm and world > 1:
            sync.convert(method)
        if self.half and device.type == "cpu":
            layers.narrow_in_float32(method)
        learner: nn.Module = method
        if world > 1:
            learner = nn.parallel.DistributedDataParallel(
                method,
                device_ids=[device.index] if device.type == "cuda" else None,
                find_unused_parameters=(
                    len(self.updates) > 1 or self.recipe.schedule.frozen_epochs > 0
                ),
            )
            keep(learner)
        if engine.compile:
            if method.regularizer is not None:
                raise RecipeError(
                    "engine.compile=true makes a step that cannot be differentiated twice, which "
                    "method.msgr needs. Leave one of them at its default."
                )
            learner = torch.compile(learner)  # type: ignore[assignment]
        plain = Plain(method, learner, half=self.half)
        return recorded(plain, device, world) if engine.graphs else plain

    def go_on_from(self, last: checkpoint.Checkpoint) -> None:
        """Stand where ``last`` was saved.

        Raises:
            CheckpointError: the pictures or priors are others than those of then.
        """
        # Checkpoints of before know names and ids only.
        changed = [key for key, now in self.data.items() if last.state.get(key, now) != now]
        if changed:
            how = {"data": "other names or ids", "pictures": "the same names, other pictures"}
            old = "pictures" not in last.state and self.recipe.data.name in ("csv", "folder")
            raise CheckpointError(
                f"the training pictures of {self.dataset.title} are not those that {self.run} was "
                f"started with ({how[changed[0]]}). Restore them, say where they lie "
                f"(data.root=...), or start a new run.{read_otherwise(self.run) if old else ''}"
            )
        if last.state.get("priors", {}) != self.priors.versions:
            raise CheckpointError(
                f"the priors of {self.dataset.title} are not those that {self.run} was started "
                f"with ({last.state.get('priors', {})}). Restore them, or start a new run."
            )
        self.at = Position(**last.state["position"])
        self.method.load_state_dict(last.tensors["weights"])
        for number, optimizer in enumerate(self.optimizers):
            checkpoint.load_optimizer(optimizer, last.tensors.get(f"optimizer.{number}", {}))
        if self.average is not None:
            self.average.load(last.tensors["ema"])

    def begin(self) -> None:
        """Make the folder one of a run that can be resumed."""
        if self.me != 0:
            return
        write_atomically(self.run / "recipe.yaml", self.recipe.to_yaml())
        first_card(self.run, self.recipe, self.dataset, self.num_classes, self.method)
        if self.priors.report:
            update_card(self.run, {"priors": self.priors.report})

    def step(self, batch: Batch, done: float) -> tuple[float, dict[str, Tensor]]:
        """Learn from a batch, ``done`` epochs after the start; the learning rate and all losses."""
        recipe, step = self.recipe, self.at.step
        if self.pairs is not None:
            batch = dataclasses.replace(batch, pairs=self.pairs.at(step))
        rate = learning_rate(recipe.optimizer.lr, recipe.schedule, done)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["fixed_lr"] or rate * group["lr_factor"]
        self.method.schedule(done / recipe.schedule.epochs)
        torch.manual_seed(step_seed(recipe.seed, step, self.me))  # for dropout
        look = functools.partial(self.watch.look, self.at)
        terms = learn(batch, self.passes, self.updates, norm=recipe.optimizer.clip, look=look)
        if self.average is not None:
            self.average.update(self.method)
        return rate, terms

    def save(self) -> None:
        """Write a checkpoint, unless what was learned is not finite."""
        self.watch.flush()
        if self.me != 0:
            return
        require_finite_weights(self.method, self.at, self.run)
        groups = {"weights": self.method.state_dict()}
        for number, optimizer in enumerate(self.optimizers):
            groups[f"optimizer.{number}"] = checkpoint.optimizer_tensors(optimizer)
        if self.average is not None:
            groups["ema"] = self.average.tensors
        state = {"position": vars(self.at), **self.data, "priors": self.priors.versions}
        checkpoint.save(self.run, self.at.step, groups, state)

    def evaluate(self, evaluate: Evaluate, log: Log) -> None:
        """Log what ``evaluate`` says of the averaged weights."""
        if self.me == 0:
            with averaged(self.method, self.average):
                figures = evaluate(self.method)
                log.add({"step": self.at.step, "epoch": self.at.epoch, **figures})
        self.method.train()

    def finish(self) -> None:
        """Write the weights, and what they took into the card."""
        if self.me != 0:
            return
        with averaged(self.method, self.average):
            weights = self.method.state_dict()
            digest = checkpoint.save_weights(self.run / "weights.safetensors", weights)
        entries = {
            "weights_sha256": digest,
            "precision": "bf16" if self.half else "fp32",
            "device": self.device.type,
            "processes": self.world,
            "peak_memory_mb": peak_memory(self.device),
            **self.at.figures(),
        }
        update_card(self.run, entries)


# --- what the loop calls ----------------------------------------------------------------------


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Gradients and moments that fade below 1e-38 would be computed in slow microcode."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextlib.contextmanager
def chosen_convolutions() -> Iterator[None]:
    """On a GPU, whose batches all have one size, cuDNN tries its algorithms and keeps the best."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def class_labels(samples: tuple[Sample, ...]) -> tuple[npt.NDArray[np.int64], int]:
    """Class label 0..C-1 of every sample, by sorted person id, and C."""
    classes, labels = np.unique([s.pid for s in samples], return_inverse=True)
    return labels.astype(np.int64), len(classes)


def read_otherwise(run: Path) -> str:
    """Why pictures of one's own that nobody touched may not be those of a run of before."""
    made = ""
    with contextlib.suppress(CheckpointError):
        card = read_card(run)
        made = f" (crosscam {card.get('crosscam')}, commit {card.get('commit') or 'unknown'})"
    return (
        " If nobody touched them: the run is of an older version, and this one reads cameras and "
        "repeated rows of pictures of your own otherwise. Finish the run with the version that "
        f"began it{made}, or start a new one."
    )


def fingerprint(samples: tuple[Sample, ...]) -> str:
    """SHA-256 over names and ids of the training pictures, in order."""
    lines = "".join(f"{s.path.name}\0{s.pid}\0{s.camid}\n" for s in samples)
    return hashlib.sha256(lines.encode()).hexdigest()


def content(samples: tuple[Sample, ...]) -> str:
    """SHA-256 over the files of the training pictures, in order.

    Over their sizes and first 64 KB: whole crops, and of larger pictures enough to tell them apart.
    Not over their times, which a copy changes.  Many are read at once, since on a disk of the
    network it is waiting: 13,000 crops take a third of a second from memory, as one by one, but 2
    seconds and not 28 where each is waited for 2 ms.
    """

    def some(start: int) -> bytes:
        parts = []
        for sample in samples[start : start + _TOGETHER]:
            with sample.path.open("rb") as file:
                parts += [b"%d\0" % os.fstat(file.fileno()).st_size, file.read(_LOOKED_AT)]
        return b"".join(parts)

    digest = hashlib.sha256()
    with ThreadPoolExecutor(_READERS) as pool:
        step = 4 * _READERS * _TOGETHER  # at most 64 MB are held
        for first in range(0, len(samples), step):
            starts = range(first, min(first + step, len(samples)), _TOGETHER)
            for part in pool.map(some, starts):
                digest.update(part)
    return digest.hexdigest()


_LOOKED_AT = 1 << 16  # bytes of a picture
_READERS, _TOGETHER = 16, 16  # threads, and pictures that one takes at a time


def step_seed(seed: int, step: int, process: int) -> int:
    """Seed of the draws inside a step's forward pass (dropout), different for every step."""
    words = np.random.SeedSequence([seed, step, process]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def learn(
    batch: Batch,
    passes: Passes,
    updates: Sequence[Sequence[torch.optim.Optimizer]],
    *,
    norm: float = 0.0,
    look: Callable[[Mapping[str, Tensor]], None] = lambda _: None,
) -> dict[str, Tensor]:
    """What a step does with its batch: every update of the method, in order; all their terms.

    Nothing here waits for a GPU, unless ``look`` does.

    Args:
        batch: on the device of the method.
        passes: forward and backward of one update.
        updates: the optimizers of every update.
        norm: largest norm of the gradient of an update; 0 does not clip.
        look: is shown the terms of an update before the weights move.
    """
    terms: dict[str, Tensor] = {}
    for number, update in enumerate(updates):
        own = passes(batch, number)
        look(own)
        straighten(p for o in update for group in o.param_groups for p in group["params"])
        if norm:
            clip(update, norm)
        for optimizer in update:
            optimizer.step()
        terms |= own
    return terms


def recorded(plain: Plain, device: torch.device, world: int) -> Passes:
    """The passes as CUDA graphs, where there is a GPU."""
    regularizer = plain.method.regularizer
    if regularizer is not None and regularizer.adversarial:
        other = "method.msgr_adversarial=true, whose two passes drop the same inputs"
    elif world > 1:
        other = f"{world} processes, which wait for each other"
    else:
        return Recorded(plain) if device.type == "cuda" else plain
    raise RecipeError(
        f"engine.graphs=true plays steps that were recorded once, and does not go with {other}. "
        "Leave one of them at its default."
    )


class Rest:
    """Lets the backbone of a method rest, weights and running statistics, or learn again."""

    def __init__(self, method: Method) -> None:
        backbone = getattr(method, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise RecipeError(
                f"schedule.frozen_epochs lets the backbone rest, and {type(method).__name__} has "
                "no network of that name. Set it to 0."
            )
        self.backbone = backbone
        # Some stages of some methods never learn: they do not start to after the rest.
        self.parameters = [p for p in backbone.parameters() if p.requires_grad]

    def __call__(self, resting: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(not resting)
        self.backbone.train(not resting)


def clip(optimizers: Sequence[torch.optim.Optimizer], norm: float) -> None:
    """Scale the gradient of everything ``optimizers`` move down to the length ``norm``."""
    groups = [g for o in optimizers for g in o.param_groups if g.get("clip", True)]
    moved = [p for group in groups for p in group["params"]]
    nn.utils.clip_grad_norm_(moved, norm)


def require_finite_weights(method: Method, at: Position, run: Path) -> None:
    """Refuse to save weights that are not finite, so that the last checkpoint stays a good one."""
    for name, parameter in method.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise TrainingError(
                f"the weights '{name}' are no longer finite after step {at.step}. Last good "
                f"checkpoint: {checkpoint.latest_name(run)}. {_CURE}"
            )


_CURE = "Lower optimizer.lr, set optimizer.clip, or use engine.precision=fp32, and train again."


class Watch:
    """Looks for losses that stopped being finite; on a GPU only every few steps, to not wait."""

    def __init__(
        self, run: Path, sampler: Sampler, samples: tuple[Sample, ...], every: int
    ) -> None:
        self.run, self.sampler, self.samples, self.every = run, sampler, samples, every
        self.seen: list[tuple[Position, dict[str, Tensor]]] = []

    def look(self, at: Position, terms: Mapping[str, Tensor]) -> None:
        """Remember the terms of a step, and check all remembered ones if it is time."""
        self.seen.append((Position(**vars(at)), dict(terms)))
        if len(self.seen) >= self.every:
            self.flush()

    def flush(self) -> None:
        """Check what is remembered; ``TrainingError`` names term, step and pictures."""
        if not self.seen:
            return
        # One transfer for all of them.
        values = torch.stack([v.float() for _, terms in self.seen for v in terms.values()]).tolist()
        for at, terms in self.seen:
            own = dict(zip(terms, values, strict=False))
            del values[: len(terms)]
            bad = [f"{k} = {v}" for k, v in own.items() if not math.isfinite(v)]
            if bad:
                rows = self.sampler.epoch(at.epoch)[at.step_in_epoch]
                names = [self.samples[i].path.name for i in rows]
                raise TrainingError(
                    f"a loss is not finite: {', '.join(bad)} at epoch {at.epoch}, batch "
                    f"{at.step_in_epoch} (step {at.step}), pictures {', '.join(names[:4])}, ... "
                    f"Last good checkpoint: {checkpoint.latest_name(self.run)}. {_CURE}"
                )
        self.seen.clear()
