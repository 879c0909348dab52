"""Every ablation row of the methods: train what is missing, evaluate, print the table.

    python benchmarks/ablations.py cumulative --data name=csv root=market1501/holdout.csv
    python benchmarks/ablations.py fusion pyramid msgr --seeds 0 1 2 --data name=cuhk03-np \
        root=cuhk03-np "options={boxes: detected}" --out runs/ablations-cuhk
    python benchmarks/ablations.py cumulative --size full --set \
        method.backbone.pretrained=resnet50.safetensors --data root=market1501
    python benchmarks/ablations.py --size full --rows strong msfl --epochs 60 --minutes 8 \
        --set engine.compile=true schedule.kind=cosine --data name=csv root=holdout.csv
    python benchmarks/ablations.py --list

Size "cpu" is a ResNet-18 at half width on 128x64 crops, one schedule for all rows (the recipe
"cpu", shortened); "full" is the ResNet-50 and the training settings of the paper that a table is
from.  Runs lie in OUT/SIZE/ROW/seed-N.  Stopped, whatever way, the script goes on from where it
was: finished runs are kept, interrupted ones resumed.  After --minutes it stops by itself: a run
that is under way is saved, and what is left is named.  A run that other settings made is an error.
With --jobs several runs go on side by side, as many as a machine has room for (each with
--set engine.threads=1 on a CPU; on a GPU small batches leave room for three or four).
The tables have mean and standard deviation (n - 1) over the seeds at hand, rank-1, mAP and mINP in
percent; "paper" stands beside for orientation and is of another data set, size and start.  MPN's
mAP is by the trapezoid rule there (as its test script has it); of CSIP's two, 79.8 and 79.3 (its
tables I and IV), the first stands here.  With "?" it is known from memory or from lists of results
only (SAN), or it is our guess which of the paper's rows this one is (MSGR).  They are also written
to OUT/SIZE, with every figure of every run as JSON beside them.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crosscam.cli import told
from crosscam.describe import describe
from crosscam.methods import find
from crosscam.recipe import Recipe, parse
from crosscam.training.process import stop_signals


@dataclass(frozen=True)
class Row:
    """One way to train.

    ``settings`` hold for both sizes, ``cpu`` and ``full`` for one; ``paper`` names the method
    whose training settings the full size takes (its own, if empty).
    """

    method: str
    settings: tuple[str, ...] = ()
    cpu: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    paper: str = ""
    published: str = ""  # rank-1 / mAP on Market-1501, where known; ? where not sure (see above)
    pairs: bool = False  # learns from rendered pairs too: --set data.pairs=FOLDER


def cpu_settings(epochs: int) -> list[str]:
    """What all rows of size "cpu" share."""
    return [
        "method.backbone.name=resnet18",
        "method.backbone.width=0.5",
        "preprocess.size=[128,64]",
        "augment.flip=0.5",
        "augment.pad=5",
        "augment.resize_crop=0",
        "augment.erase=0",
        "sampler.kind=grouped",
        "sampler.people=16",
        "sampler.images=4",
        "optimizer.name=adamw",
        "optimizer.lr=1.5e-3",
        "optimizer.weight_decay=5e-3",
        "optimizer.backbone_lr=1",
        f"schedule.epochs={epochs}",
        "schedule.kind=cosine",
        "schedule.every=step",
        "schedule.warmup=linear",
        f"schedule.warmup_epochs={epochs / 12:g}",
        "test.flip=true",
        "test.interpolation=same",
        "test.metric=cosine",
    ]


# --- the rows -----------------------------------------------------------------------------------

# MSFL's baseline: last stride 2, one embedding layer, plain cross-entropy, triplet on the feature;
# a classifier with biases, as MSFL's own has.
PLAIN = (
    "method.backbone.last_stride=2",
    "method.bnneck=false",
    "method.classifier_bias=true",
    "method.smoothing=0",
    "method.center=0",
)
# The small net's stages have an eighth of the channels of a ResNet-50; so has its pyramid, and
# the four levels together are as wide as the last stage, as at full size.  From scratch the triplet
# on plain distances pulls the features of these heads together, which keeps identities apart from
# being learned: it compares features of length one.
PLAIN_CPU = ("method.embedding=256", "method.normalize=true")
SAN_CPU = (
    *PLAIN_CPU,
    "method.decoder_width=0.25",
    "method.encoder_lr=1e-4",
    "method.decoder_lr=1e-3",
    "method.scheduled=true",
)
MSFL_CPU = (*PLAIN_CPU, "method.width=64", "method.refine_width=16")


def plain(*settings: str, published: str = "") -> Row:
    return Row(
        "baseline", (*PLAIN, *settings), PLAIN_CPU, ("method.embedding=512",), "msfl", published
    )


def msfl(*settings: str, published: str = "") -> Row:
    return Row("msfl", settings, MSFL_CPU, published=published)


# MPN sums the identity losses of all parts, main and auxiliary: in a short training they drown the
# one triplet until the end, so it weighs as much as the parts do.
MPN_CPU = ("method.width=128", "method.triplet=6")


def mpn(*settings: str, published: str = "") -> Row:
    return Row("mpn", settings, MPN_CPU, published=published)


def san(*settings: str, pairs: bool = False, published: str = "") -> Row:
    off = () if pairs else ("method.synthetic=0",)
    # At the rates of this size the constraints' full weight drowns the textures.  The paper's form
    # is a mean of triplets where the release's is a sum over 15.
    weight = 1.5 if "method.constraint_form=paper" in settings else 0.1
    cpu = SAN_CPU if NO_TR in settings else (*SAN_CPU, f"method.constraint={weight}")
    return Row("san", (*settings, *off), cpu, published=published, pairs=pairs)


# On unit features at a margin of 0.3 MMGA's triplet is a quarter of what it is at 1.2, and beside
# the identity losses a mask loss of weight 1 does not reach the maps.
MMGA_CPU = (
    "method.features=128",
    "method.margin=0.3",
    "method.normalize=true",
    "method.triplet=4",
    "method.masks=10",
)


def mmga(*settings: str, published: str = "") -> Row:
    return Row("mmga", settings, MMGA_CPU, published=published)


def mpn_under(*teachers: str, settings: tuple[str, ...] = ()) -> Row:
    cpu = (*MPN_CPU, *(["method.texture_width=0.25"] if "texture" in teachers else []))
    return Row("+".join(["mpn", *teachers]), settings, cpu)


def msgr(weight: float, *stages: int, norm: str = "2", published: str = "") -> Row:
    return plain(
        f"method.msgr={weight:g}",
        f"method.msgr_stages={list(stages)}",
        f"method.msgr_norm={norm}",
        published=published,
    )


NO_MSFF = "method.refine=[]"
NO_REC, NO_TR = "method.reconstruction=0", "method.constraint=0"
STRONG = Row("baseline", ("method.center=0",), ("method.margin=soft",))

ROWS: dict[str, Row] = {
    # References.
    "plain": plain(published="90.4 / 78.3"),
    "plain, last stride 1": plain("method.backbone.last_stride=1", published="91.3 / 79.8"),
    "strong": STRONG,
    # MSFL, table I: how stages are fused (our reading of its stripped column ticks).
    "direct 3-4": msfl(
        "method.fusion=direct", "method.levels=[3,4]", NO_MSFF, published="90.7 / 78.6"
    ),
    "direct 1-4": msfl("method.fusion=direct", NO_MSFF, published="87.1 / 75.9"),
    "top-down": msfl("method.fusion=top-down", NO_MSFF, published="90.3 / 78.3"),
    "csip": msfl(NO_MSFF, published="91.5 / 79.8"),
    "msfl": msfl(published="92.3 / 81.9"),
    # MSFL, what its text leaves open.
    "levels 2-4": msfl("method.levels=[2,3,4]"),
    "levels 1-3": msfl("method.levels=[1,2,3]"),
    "aa none": msfl("method.aa_kernel=0"),
    "aa 3x3": msfl("method.aa_kernel=3"),
    "bn-fc-relu": msfl("method.head=bn-fc-relu"),
    "level losses": msfl("method.level_id=0.5"),
    # MSGR, table III on the plain baseline (its stages are our reading).
    "l1 input": msgr(1e-2, 0, norm="1", published="85.1 / 70.1 ?"),
    "l2 input": msgr(1e-2, 0, published="91.7 / 80.1 ?"),
    "linf input": msgr(1e-2, 0, norm="inf", published="88.2 / 72.2 ?"),
    "l2 input 0.1": msgr(1e-1, 0, published="90.7 / 79.4 ?"),
    "l2 input 0.001": msgr(1e-3, 0, published="91.2 / 80.0 ?"),
    "l2 stage 1": msgr(1e-2, 1, published="92.1 / 80.4 ?"),
    "l2 stage 4": msgr(1e-2, 4, published="90.2 / 78.3 ?"),
    "l2 stages 0-1": msgr(1e-2, 0, 1, published="92.5 / 80.3 ?"),
    "l2 stages 1-2": msgr(1e-2, 1, 2, published="92.7 / 80.1 ?"),
    "l2 stages 0-2": msgr(1e-2, 0, 1, 2, published="92.5 / 80.1 ?"),
    "l2 stages 0-4": msgr(1e-2, 0, 1, 2, 3, 4, published="92.4 / 79.8 ?"),
    # MSGR, conventions that its text leaves open, and what it stands in for.
    "squared": plain("method.msgr=0.01", "method.msgr_square=true"),
    "batch mean": plain("method.msgr=0.01", "method.msgr_scale=batch"),
    "batch mean squared": plain(
        "method.msgr=0.01", "method.msgr_scale=batch", "method.msgr_square=true"
    ),
    "relative": plain("method.msgr=0.01", "method.msgr_relative=true"),
    "relative, 0.1": plain("method.msgr=0.1", "method.msgr_relative=true"),
    "stages 1-2, 0.1": msgr(1e-1, 1, 2),
    "stages 1-2, 1": msgr(1.0, 1, 2),
    "adversarial": plain("method.msgr=0.01", "method.msgr_adversarial=true"),
    "adversarial 0.1": plain("method.msgr=0.1", "method.msgr_adversarial=true"),
    "adversarial 1": plain("method.msgr=1", "method.msgr_adversarial=true"),
    # MSFL with MSGR, and compositions of our own.
    "msfl + msgr": msfl("method.msgr=0.01", published="93.7 / 83.6"),
    "strong + msgr": Row("baseline", (*STRONG.settings, "method.msgr=0.01"), STRONG.cpu),
    "mpn + msgr": mpn("method.msgr=0.01"),
    "mpn on the pyramid": Row("mpn", ("method.neck=msfl",), (*MPN_CPU, "method.neck_width=64")),
    "mpn on the pyramid + msgr": Row(
        "mpn",
        ("method.neck=msfl", "method.msgr=0.01"),
        (*MPN_CPU, "method.neck_width=64"),
    ),
    # MPN: alignment, step by step, and its options.
    "main tasks": mpn("method.auxiliary=0"),
    "auxiliary, own layers": mpn("method.sharing=false", "method.align=0"),
    "auxiliary, shared layers": mpn("method.align=0"),
    "own layers, aligned": mpn("method.sharing=false"),
    "mpn": mpn(published="96.0 / 89.2 (trapezoid)"),
    "mpn + attention": mpn("method.attention=true", published="96.1 / 89.4 (trapezoid)"),
    "mpn extent": mpn("method.prior=extent"),
    "mpn extent, split statistics": mpn("method.prior=extent", "method.statistics=split"),
    "mpn extent + attention": mpn("method.prior=extent", "method.attention=true"),
    "mpn parsing": mpn("method.prior=parsing"),
    "mpn parsing 2 parts": mpn(
        "method.prior=parsing", "method.num_parts=2", "method.regions=[upper,lower]"
    ),
    "mpn by sample": mpn("method.align_by=sample"),
    "mpn, no triplet": mpn("method.triplet=0"),
    "mpn split statistics": mpn("method.statistics=split"),
    **{f"mpn {k} parts": mpn(f"method.num_parts={k}") for k in (2, 4, 8)},
    # SAN: its variants, its controls (priors.root and data.pairs by --set).
    "san-off": san(NO_REC, NO_TR, published="94.1 / 83.2 ?"),
    "san-basic": san(NO_TR, published="95.1 / 85.8 ?"),
    "san-tr": san(published="95.4 / 86.9 ?"),
    "san-synthetic": san(NO_TR, pairs=True, published="95.7 / 86.8 ?"),
    "san-all": san(pairs=True, published="96.1 / 88.0 ?"),
    "san-joint": san("method.alternate=false"),
    "san-constraint": san(NO_REC),
    "san-constraint, paper": san("method.constraint_form=paper"),
    # The paper's head, weights and distances, as far as they are known (docs/methods/san.md).
    "san-paper": san(
        "method.identity=0.5",
        "method.triplet=1.5",
        "method.reconstruction=1",
        "method.constraint=1",
        "method.embedding=0",
        "method.constraint_form=paper",
        "method.skips=false",
    ),
    "san-picture": san(NO_TR, "method.target=picture"),
    "san-no-skips": san(NO_TR, "method.skips=false"),
    "san-frozen": san(NO_TR, "method.encoder_lr=0"),  # the decoder learns, the encoder does not
    # MMGA: which maps there are, and what guides them (all of it reconstructed).
    "mmga, no attention": mmga("method.attention=[]", "method.masks=0"),
    "mmga, no masks": mmga("method.masks=0"),
    "mmga, whole": mmga("method.attention=[scale1,whole]"),
    "mmga, upper and lower": mmga("method.attention=[upper,lower]"),
    "mmga, scale 1": mmga("method.attention=[scale1]"),
    "mmga, scale 2": mmga("method.attention=[whole,upper,lower]"),
    "mmga": mmga(published="95.0 / 87.2"),
    "san-basic + msgr": san(NO_TR, "method.msgr=0.01"),
    "mmga + msgr": mmga("method.msgr=0.01"),
    "mmga 0.1": mmga("method.masks=0.1"),
    "mmga 0.5": mmga("method.masks=0.5"),
    "mmga 1": mmga("method.masks=1"),
    "mmga 2": mmga("method.masks=2"),
    "mmga, bce": mmga("method.guidance=bce"),
    "mmga, no stripes": mmga("method.stripes=false"),
    "mmga, own reductions": mmga("method.shared_reduction=false"),
    # Teachers of one method under another.
    "strong + guidance": Row("baseline+guidance", STRONG.settings, STRONG.cpu),
    "mpn + guidance": mpn_under("guidance"),
    "mpn extent + guidance": mpn_under("guidance", settings=("method.prior=extent",)),
    "mpn + texture": mpn_under("texture"),
    "mpn + guidance + texture": mpn_under("guidance", "texture"),
}

TABLES: dict[str, tuple[str, ...]] = {
    "cumulative": ("plain", "csip", "msfl", "msfl + msgr", "strong"),
    "fusion": ("plain", "direct 3-4", "direct 1-4", "top-down", "csip", "msfl"),
    "pyramid": (
        "plain",
        "plain, last stride 1",
        "msfl",
        "levels 2-4",
        "levels 1-3",
        "aa none",
        "aa 3x3",
        "bn-fc-relu",
        "level losses",
    ),
    "msgr": (
        "plain",
        "l1 input",
        "l2 input",
        "linf input",
        "l2 input 0.1",
        "l2 input 0.001",
        "l2 stage 1",
        "l2 stage 4",
        "l2 stages 0-1",
        "l2 stages 1-2",
        "l2 stages 0-2",
        "l2 stages 0-4",
    ),
    "conventions": (
        "plain",
        "l2 stages 1-2",
        "squared",
        "batch mean",
        "batch mean squared",
        "relative",
        "relative, 0.1",
        "stages 1-2, 0.1",
        "stages 1-2, 1",
        "adversarial",
        "adversarial 0.1",
        "adversarial 1",
    ),
    "mpn": (
        "strong",
        "main tasks",
        "auxiliary, own layers",
        "auxiliary, shared layers",
        "own layers, aligned",
        "mpn",
        "mpn + attention",
        "mpn by sample",
        "mpn, no triplet",
        "mpn split statistics",
        "mpn 2 parts",
        "mpn 4 parts",
        "mpn 8 parts",
    ),
    "mpn-priors": (
        "mpn",
        "mpn extent",
        "mpn extent, split statistics",
        "mpn extent + attention",
        "mpn parsing",
        "mpn parsing 2 parts",
    ),
    "san": (
        "strong",
        "san-off",
        "san-basic",
        "san-tr",
        "san-joint",
        "san-synthetic",
        "san-all",
    ),
    "san-controls": (
        "san-off",
        "san-frozen",
        "san-picture",
        "san-constraint",
        "san-constraint, paper",
        "san-paper",
        "san-no-skips",
        "san-basic",
    ),
    "mmga": (
        "strong",
        "mmga, no attention",
        "mmga, no masks",
        "mmga, whole",
        "mmga, upper and lower",
        "mmga, scale 1",
        "mmga, scale 2",
        "mmga",
    ),
    "mmga-options": (
        "mmga 0.1",
        "mmga 0.5",
        "mmga 1",
        "mmga 2",
        "mmga",
        "mmga, bce",
        "mmga, no stripes",
        "mmga, own reductions",
    ),
    "teachers": (
        "strong",
        "strong + guidance",
        "mpn",
        "mpn + guidance",
        "mpn extent",
        "mpn extent + guidance",
        "mpn + texture",
        "mpn + guidance + texture",
    ),
    "compositions": (
        "strong",
        "strong + msgr",
        "mpn",
        "mpn + msgr",
        "mpn on the pyramid",
        "mpn on the pyramid + msgr",
        "san-basic",
        "san-basic + msgr",
        "mmga",
        "mmga + msgr",
    ),
}


def settings_of(row: Row, size: str, epochs: int | None) -> list[str]:
    """What a row says of the method and its training; the later of two wins."""
    if size == "full":
        paper = find(row.paper or row.method).recipe
        shared = [f"{key}={value}" for key, value in paper.items()]
        shared += [f"schedule.epochs={epochs}"] if epochs else []
        return [*shared, *row.full, *row.settings]
    return [*cpu_settings(epochs or 24), *row.cpu, *row.settings]


def recipe_of(row: Row, options: argparse.Namespace, seed: int) -> Recipe:
    """Every setting of one run."""
    settings = [f"method={row.method}", f"seed={seed}"]
    settings += settings_of(row, options.size, options.epochs)
    settings += [*(f"data.{d}" for d in options.data), *options.set]
    settings += [] if row.pairs else ["data.pairs="]  # a row beside those that learn from them
    recipe = parse(None, settings)
    if row.pairs and not recipe.data.pairs:
        raise SystemExit("these rows learn from rendered pairs too: add --set data.pairs=FOLDER.")
    return recipe


# --- doing it -----------------------------------------------------------------------------------


CROSSCAM = (sys.executable, "-m", "crosscam")


class OutOfTime(Exception):
    """The minutes are over, or another run has failed; what was under way has been saved."""


@dataclass
class Limit:
    """When to stop: at a time (``time.monotonic``), or as soon as someone says so."""

    until: float = math.inf
    stopped: threading.Event = field(default_factory=threading.Event)

    def over(self) -> bool:
        return self.stopped.is_set() or time.monotonic() >= self.until


def crosscam(*words: str | Path, limit: Limit) -> None:
    """A command of crosscam, asked to save and stop when the limit is over."""
    if limit.over():
        raise OutOfTime
    # In a session of its own, or Ctrl-C would reach it twice, of which the second does not save.
    process = subprocess.Popen([*CROSSCAM, *map(str, words)], start_new_session=True)
    try:
        while process.poll() is None:
            if limit.over():
                process.send_signal(signal.SIGINT)
                process.wait()
                raise OutOfTime
            limit.stopped.wait(0.2)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode:
        raise SystemExit(process.returncode)


def stop_as_by_ctrl_c() -> None:
    """Has ``kill`` and a closed terminal do what Ctrl-C does: trainings save, then all ends."""
    for number in stop_signals():
        signal.signal(number, signal.default_int_handler)


def evaluated(run: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The figures of a finished run on its own data; it may have been tried on other data too."""
    for path in sorted(run.glob("evaluation/*/evaluation.json")):  # its own was the first
        figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        root = Path(figures["root"]).resolve()  # a folder below the data set's, for some of them
        own = figures["data"] == recipe.data.name
        if own and root.is_relative_to(Path(recipe.data.root).resolve()):
            return figures
    return None


def make(run: Path, recipe: Recipe, quiet: bool, rerank: bool, limit: Limit) -> None:
    """Train and evaluate what is not there yet; no training goes on when the limit is over."""
    text = recipe.to_yaml()
    if (run / "recipe.yaml").is_file():
        if (run / "recipe.yaml").read_text(encoding="utf-8") != text:
            raise SystemExit(f"{run} was made by other settings: take another --out.")
        found = evaluated(run, recipe)
        if found is not None and (not rerank or found.get("reranked")):
            return
    elif run.exists():  # stopped before there was anything to resume
        shutil.rmtree(run)
    flags = ["--quiet"] if quiet else []
    if not (run / "weights.safetensors").is_file():
        if (run / "recipe.yaml").is_file():
            crosscam("train", "--resume", run, *flags, limit=limit)
        else:
            with tempfile.TemporaryDirectory() as folder:
                source = Path(folder) / "recipe.yaml"
                source.write_text(text, encoding="utf-8")
                crosscam("train", source, "--out", run, *flags, limit=limit)
    untimed = Limit(stopped=limit.stopped)  # an evaluation is soon done, whatever the time
    crosscam("evaluate", run, *flags, *(["--rerank"] if rerank else []), limit=untimed)


def make_all(
    runs: dict[tuple[str, int], Path],
    recipes: dict[tuple[str, int], Recipe],
    options: argparse.Namespace,
) -> list[str]:
    """Make all runs, ``options.jobs`` at a time; returns what the limit left undone."""
    limit = Limit(time.monotonic() + 60 * options.minutes)
    quiet = options.quiet or options.jobs > 1  # bars of several would write over each other

    def one(key: tuple[str, int]) -> str:
        said = f"{key[0]}, seed {key[1]}"
        try:
            print(f"== {said}", flush=True)
            make(runs[key], recipes[key], quiet, options.rerank, limit)
        except OutOfTime:
            return said
        except BaseException:
            limit.stopped.set()
            raise
        return ""

    with ThreadPoolExecutor(options.jobs) as pool:
        under_way = [pool.submit(one, key) for key in runs]
        try:
            return [left for f in under_way if (left := f.result())]
        except BaseException:
            limit.stopped.set()  # no more begin; those under way are asked to save
            raise


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def lines_of(name: str, rows: Sequence[str], folder: Path, options: argparse.Namespace) -> str:
    """A table of Markdown over the runs that are there."""
    head = ["row", "rank-1", "mAP", "mAP, trapezoid", "mINP"]
    head += ["rank-1, re-ranked", "mAP, re-ranked"] if options.rerank else []
    head += ["seeds", "minutes", "images/s", "MB"]
    head += ["deployed M", "GMAC", "paper"]
    lines = [f"| {' | '.join(head)} |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for row_name in rows:
        recipe = recipe_of(ROWS[row_name], options, options.seeds[0])
        runs = [folder / slug(row_name) / f"seed-{seed}" for seed in options.seeds]
        finished = [(run, f) for run in runs if (f := evaluated(run, recipe)) is not None]
        if not finished:
            lines.append(f"| {row_name} |" + " |" * (len(head) - 1))
            continue
        figures = [f for _, f in finished]
        cards = [json.loads((run / "card.json").read_text("utf-8")) for run, _ in finished]
        cost = describe(recipe.method.build(cards[0]["num_classes"]), recipe.preprocess.size)
        cells = [row_name]
        keys = ("rank1", "mAP", "mAP_trapezoid", "mINP")
        cells += [spread([100 * f[k] for f in figures]) for k in keys]
        if options.rerank:
            again = [f["reranked"] for f in figures if f.get("reranked")]
            cells += [spread([100 * f[k] for f in again]) for k in ("rank1", "mAP")]
        cells.append(str(len(figures)))
        cells += [spread([c["training_minutes"] for c in cards])]
        cells += [spread([c["images_per_second"] for c in cards], 0)]
        cells.append(str(max(c["peak_memory_mb"] or 0 for c in cards)))
        cells += [f"{cost.params_deploy / 1e6:.2f}", f"{cost.macs / 1e9:.3f}"]
        lines.append(f"| {' | '.join([*cells, ROWS[row_name].published])} |")
    return "\n".join([f"**{name}**, {options.size}, {' '.join(options.data)}", "", *lines])


def slug(name: str) -> str:
    return name.replace(" + ", "+").replace(", ", "-").replace(" ", "-")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--list", action="store_true", help="show all rows, do nothing")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows")
    parser.add_argument("--size", choices=("cpu", "full"), default="cpu")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="default: 24 (cpu), the paper's (full)")
    parser.add_argument("--data", nargs="+", default=[], metavar="KEY=VALUE",
                        help="settings of the data, as name=csv root=holdout.csv")  # fmt: skip
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE",
                        help="further settings, for all rows")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--rerank", action="store_true", help="also measured re-ranked")
    parser.add_argument("--minutes", type=float, default=math.inf, metavar="LIMIT",
                        help="after which no training goes on (default: none)")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, metavar="N",
                        help="runs side by side (default: 1)")  # fmt: skip
    parser.add_argument("--table-only", action="store_true", help="train nothing")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    if options.list:
        for table, names in TABLES.items():
            print(f"{table}")
            for name in names:
                row = ROWS[name]
                print(f"  {name:26} {row.method} {' '.join(row.settings)}")
        return
    unknown = [t for t in options.tables if t not in TABLES]
    unknown += [r for r in options.rows or () if r not in ROWS]
    if unknown or not (options.tables or options.rows):
        parser.error(f"name tables ({', '.join(TABLES)}) or --rows; unknown: {unknown}")
    if options.jobs < 1:
        parser.error(f"--jobs must be 1 or more, got {options.jobs}")
    chosen = {t: TABLES[t] for t in options.tables} or {"rows": tuple(options.rows)}
    if options.tables and options.rows:
        chosen = {t: tuple(n for n in names if n in options.rows) for t, names in chosen.items()}
    names = list(dict.fromkeys(name for row_names in chosen.values() for name in row_names))
    folder = options.out / options.size
    recipes = {(n, s): recipe_of(ROWS[n], options, s) for n in names for s in options.seeds}
    # All rows once, before any a second time.
    runs = {(n, s): folder / slug(n) / f"seed-{s}" for s in options.seeds for n in names}
    left = [] if options.table_only else make_all(runs, recipes, options)
    texts = [lines_of(table, rows, folder, options) for table, rows in chosen.items()]
    print("\n\n".join(texts))
    stem = folder / ("-".join(chosen) if options.tables else "rows")
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    found = {
        name: {
            str(seed): evaluated(runs[name, seed], recipes[name, seed]) for seed in options.seeds
        }
        for name in names
    }
    stem.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if left:
        print(f"\n{options.minutes:g} minutes are over; the same command goes on with: "
              f"{'; '.join(left)}.")  # fmt: skip


if __name__ == "__main__":
    stop_as_by_ctrl_c()
    sys.exit(told(main))
