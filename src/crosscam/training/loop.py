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
import inspect
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

from crosscam.data import datasets
from crosscam.data.loader import TrainLoader
from crosscam.data.samplers import Sampler, make_sampler
from crosscam.data.store import ImageStore
from crosscam.errors import CheckpointError, RecipeError, TrainingError
from crosscam.files import disk_errors, write_atomically
from crosscam.methods import Method
from crosscam.nn import layers, sync
from crosscam.nn.stages import Backbone
from crosscam.priors.rows import gather
from crosscam.recipe import Recipe, parse
from crosscam.training import checkpoint
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
    engine, schedule = recipe.engine, recipe.schedule
    if engine.threads:
        torch.set_num_threads(engine.threads)
    with (
        flushed_denormals(),
        chosen_convolutions(),
        processes(pick_device(device_name)) as (me, world, device),
    ):
        # --- data -----------------------------------------------------------------------------
        dataset = datasets.load(
            recipe.data.name, recipe.data.root, partial=recipe.data.partial, **recipe.data.options
        )
        samples = dataset.require_train()
        if evaluate and engine.evaluate_every:
            dataset.require_test()  # better now than after an epoch
        labels, num_classes = class_labels(samples)
        sampler = make_sampler(
            recipe.sampler.kind, labels, recipe.sampler.people, recipe.sampler.images, recipe.seed
        )

        # --- method, optimizers, average ------------------------------------------------------
        torch.manual_seed(recipe.seed)
        try:
            start = recipe.method if last is None else recipe.method.blank
            method = start.build(num_classes).to(device)
            updates = make_optimizers(method, recipe.optimizer)
        except (ValueError, RuntimeError, TypeError) as error:
            raise RecipeError(
                f"a setting of the method or optimizer does not fit: {error}"
            ) from error
        if me == 0 and last is None:
            found = collapsing(method, recipe), comparing_nothing(recipe, num_classes), idle(recipe)
            for advice in filter(None, found):
                print(f"crosscam: warning: {advice}", file=sys.stderr)
        if recipe.priors.root and not method.needs:
            said = (
                f"priors.root={recipe.priors.root} was given, and method {recipe.method.name} "
                "learns from no priors with these settings"
            )
            if not Path(recipe.priors.root).is_dir():
                raise RecipeError(f"{said}; nor is there such a folder. Leave it out.")
            if me == 0:  # one command line may go through many methods
                print(f"crosscam: warning: {said}.", file=sys.stderr)
        if recipe.data.pairs and not method.takes_pairs:
            raise RecipeError(
                f"data.pairs was given, and method {recipe.method.name} does not learn from "
                "rendered pairs with these settings. Leave data.pairs out, or take san with "
                "method.reconstruction and method.synthetic above 0."
            )

        # --- pictures and priors --------------------------------------------------------------
        store = ImageStore.build(
            samples,
            recipe.preprocess,
            budget_bytes=int(recipe.data.budget_gb * 1e9),
            cache_dir=Path(recipe.data.cache or run / "cache"),
            progress=progress and me == 0,
        )
        priors = gather(
            method.needs,
            method.parts,
            dataset,
            folder=Path(recipe.priors.root) if recipe.priors.root else None,
            producers=recipe.priors.producers,
            cache=Path(recipe.data.cache or run / "cache"),
            size=recipe.preprocess.size,
            device=device,
        )
        if progress and me == 0 and priors.report:
            print(priors.text(), file=sys.stderr)
        loader = TrainLoader(
            store.to(device),
            labels,
            np.array([s.camid for s in samples]),
            sampler,
            recipe.augment,
            recipe.preprocess,
            seed=recipe.seed,
            device=device,
            rank=me,
            world=world,
            priors=priors.rows,
            flip_pairs=priors.flip_pairs,
            fuse=engine.compile,
        )
        pairs: Pairs | None = None
        if recipe.data.pairs:
            folder = Path(recipe.data.cache or run / "cache") / "pairs"
            pairs = load_pairs(recipe, folder, device, me, world, progress and me == 0)
        if engine.channels_last:
            method = method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if engine.sync_batchnorm and world > 1:
            sync.convert(method)
        half = use_bf16(engine.precision, device)
        if half and device.type == "cpu":
            layers.narrow_in_float32(method)
        learner: nn.Module = method
        if world > 1:
            learner = nn.parallel.DistributedDataParallel(
                method,
                device_ids=[device.index] if device.type == "cuda" else None,
                find_unused_parameters=len(updates) > 1 or schedule.frozen_epochs > 0,
            )
            keep(learner)
        if engine.compile:
            if method.regularizer is not None:
                raise RecipeError(
                    "engine.compile=true makes a step that cannot be differentiated twice, which "
                    "method.msgr needs. Leave one of them at its default."
                )
            learner = torch.compile(learner)  # type: ignore[assignment]
        plain = Plain(method, learner, half=half)
        passes: Passes = recorded(plain, device, world) if engine.graphs else plain
        optimizers = [optimizer for update in updates for optimizer in update]
        rest = Rest(method) if schedule.frozen_epochs else None
        average = Average(method, engine.ema) if engine.ema else None

        # --- where we were --------------------------------------------------------------------
        at = Position()
        learned = samples + (pairs.samples if pairs else ())
        data = {"data": fingerprint(learned)}
        if me == 0 or last is not None:  # the others of a new run neither save nor compare it
            data["pictures"] = content(learned)
        if last is not None:
            # Checkpoints of before know names and ids only.
            changed = [key for key, now in data.items() if last.state.get(key, now) != now]
            if changed:
                how = {"data": "other names or ids", "pictures": "the same names, other pictures"}
                old = "pictures" not in last.state and recipe.data.name in ("csv", "folder")
                raise CheckpointError(
                    f"the training pictures of {dataset.title} are not those that {run} was "
                    f"started with ({how[changed[0]]}). Restore them, say where they lie "
                    f"(data.root=...), or start a new run.{read_otherwise(run) if old else ''}"
                )
            if last.state.get("priors", {}) != priors.versions:
                raise CheckpointError(
                    f"the priors of {dataset.title} are not those that {run} was started with "
                    f"({last.state.get('priors', {})}). Restore them, or start a new run."
                )
            at = Position(**last.state["position"])
            method.load_state_dict(last.tensors["weights"])
            for number, optimizer in enumerate(optimizers):
                checkpoint.load_optimizer(optimizer, last.tensors.get(f"optimizer.{number}", {}))
            if average is not None:
                average.load(last.tensors["ema"])
        if me == 0:  # from here on the folder is a run that can be resumed
            write_atomically(run / "recipe.yaml", recipe.to_yaml())
            first_card(run, recipe, dataset, num_classes, method)
            if priors.report:
                update_card(run, {"priors": priors.report})

        def save() -> None:
            watch.flush()
            if me != 0:
                return
            require_finite_weights(method, at, run)
            groups = {"weights": method.state_dict()}
            for number, optimizer in enumerate(optimizers):
                groups[f"optimizer.{number}"] = checkpoint.optimizer_tensors(optimizer)
            if average is not None:
                groups["ema"] = average.tensors
            state = {"position": vars(at), **data, "priors": priors.versions}
            checkpoint.save(run, at.step, groups, state)

        # --- the loop -------------------------------------------------------------------------
        watch = Watch(run, sampler, samples, every=1 if device.type == "cpu" else engine.log_every)
        saved = time.monotonic()
        with (
            interruptible(alone=world == 1) as stop,
            Bar(progress and me == 0, schedule.epochs) as bar,
            Log(run, at.step, engine.tensorboard, me) as log,
        ):
            method.train()
            warned = False
            while at.epoch < schedule.epochs:
                if rest is not None:
                    rest(at.epoch < schedule.frozen_epochs)
                steps = sampler.steps(at.epoch)
                tick = time.monotonic()
                for batch in loader.epoch(at.epoch, at.step_in_epoch):
                    if pairs is not None:
                        batch = dataclasses.replace(batch, pairs=pairs.at(at.step))
                    done = at.epoch + at.step_in_epoch / steps  # epochs, with their fraction
                    rate = learning_rate(recipe.optimizer.lr, schedule, done)
                    for optimizer in optimizers:
                        for group in optimizer.param_groups:
                            group["lr"] = group["fixed_lr"] or rate * group["lr_factor"]
                    method.schedule(done / schedule.epochs)
                    torch.manual_seed(step_seed(recipe.seed, at.step, me))  # for dropout
                    look = functools.partial(watch.look, at)
                    terms = learn(batch, passes, updates, norm=recipe.optimizer.clip, look=look)
                    if average is not None:
                        average.update(method)
                    # From one step to the next: making a batch counts, and so does, on a GPU,
                    # which works behind, whatever waited for it.
                    now = time.monotonic()
                    at.advance(len(batch) * world, now - tick)
                    tick = now
                    ends = at.epoch + 1 == schedule.epochs and at.step_in_epoch == steps
                    if at.step % engine.log_every == 0 or ends:
                        watch.flush()
                        log.write(at, rate, terms, method.figures)
                    bar.show(at.epoch + at.step_in_epoch / steps, at, rate, terms)
                    # Asking the other processes waits for a GPU.
                    asked = world == 1 or device.type == "cpu" or at.step % engine.log_every == 0
                    stopped = asked and agree(stop(), world, device)
                    due = time.monotonic() - saved >= 60 * engine.checkpoint_minutes
                    if stopped or due:
                        save()
                        saved = tick = time.monotonic()
                    if stopped:
                        raise Interrupted(
                            f"stopped after step {at.step}. Go on with: "
                            f"crosscam train --resume {run}"
                        )
                if isinstance(passes, Recorded) and not warned and (why := passes.unplayed()):
                    warned = True
                    print(
                        f"crosscam: warning: engine.graphs=true gains nothing: no step was played "
                        f"yet, because {why}. Leave it at its default.",
                        file=sys.stderr,
                    )
                at.next_epoch()
                every = engine.evaluate_every
                if evaluate and every and (at.epoch % every == 0 or at.epoch == schedule.epochs):
                    if me == 0:
                        with averaged(method, average):
                            log.add({"step": at.step, "epoch": at.epoch, **evaluate(method)})
                    method.train()
            save()
        if me == 0:
            with averaged(method, average):
                digest = checkpoint.save_weights(run / "weights.safetensors", method.state_dict())
            entries = {
                "weights_sha256": digest,
                "precision": "bf16" if half else "fp32",
                "device": device.type,
                "processes": world,
                "peak_memory_mb": peak_memory(device),
                **at.figures(),
            }
            update_card(run, entries)
    return run


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
