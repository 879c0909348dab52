"""``crosscam prior``: make the priors of a data set's training pictures, list and show them.

    keypoints   ground truth of rendered people, a table, or a pose network
    masks       ground truth, keypoints, a parsing network, or a trained run (``train parts``)
    surface     ground truth, or a trained run (``train parts`` with ``method.surface``)
    texture     ground truth, or a trained run: ``train san_pg`` paints them, ``train parts`` with
                ``method.surface`` unwraps the picture

All of them read one picture after the other and write block by block, so memory does not grow
with the data set.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from crosscam import embedder
from crosscam.data import datasets
from crosscam.errors import DataError, InputError
from crosscam.files import sha256
from crosscam.image import Picture, Preprocess, decode
from crosscam.methods.parts import PLACED
from crosscam.priors import labels, networks, rendered, sheet, skeleton, store
from crosscam.priors import surface as chart
from crosscam.training.process import pick_device
from crosscam.types import COCO17, Dataset, Prior, Sample
from crosscam.wording import counted

__all__ = ["Run", "keypoints", "masks", "run", "show", "surface", "texture"]

_BLOCK = 256  # pictures between writes
_BATCH = 32  # pictures a trained run sees together

T = TypeVar("T")


def keypoints(
    dataset: Dataset,
    folder: Path,
    *,
    model: str = "",
    table: Path | None = None,
    progress: bool = False,
) -> store.PriorSet:
    """Keypoints of the training pictures.

    Args:
        dataset: whose pictures.
        folder: of its priors.
        model: pose network: a file, or ``rtmlib:MODE``.
        table: CSV of keypoints instead (:func:`crosscam.priors.skeleton.read_csv`).
        progress: show a progress bar on a terminal.

    Raises:
        InputError: neither is given and the people are not rendered, or both are.
    """
    samples = dataset.require_train()
    names = store.picture_names(samples, dataset.root)
    if model and table:
        raise InputError("keypoints come from a network or from a table: give one of the two.")
    if table:
        points, joints = skeleton.read_csv(table, samples, names)
        said = {"table": table.name, "sha256": sha256(table)}
        plan = _plan(Prior.KEYPOINTS, table.stem, said, dataset, names, joints, points.shape[1:])
        return store.write(folder, plan, [points])
    if not model:
        return _truth(dataset, folder, Prior.KEYPOINTS, "--model POSE.onnx or --csv TABLE.csv")
    find = networks.pose(model)
    theirs = model.startswith("rtmlib")
    network = {"model": model} if theirs else _file(Path(model))
    producer = model if theirs else Path(model).stem
    plan = _plan(
        Prior.KEYPOINTS,
        producer,
        network,
        dataset,
        names,
        COCO17,
        (len(COCO17), 3),
    )
    each = _each(samples, lambda s: find(decode(s.path)).astype(np.float16), progress, "poses")
    return store.write(folder, plan, each)


def masks(
    dataset: Dataset,
    folder: Path,
    *,
    model: str = "",
    source: str = "",
    least: float = 0.2,
    device: str = "auto",
    progress: bool = False,
) -> store.PriorSet:
    """Part masks of the training pictures, from the keypoints in ``folder`` or from ``model``.

    Args:
        dataset: whose pictures.
        folder: of its priors.
        model: an ONNX file of a parsing network, or the folder of a run that predicts parts.
        source: producer of the keypoints, where the folder has those of several.
        least: joints of less visibility count as missing, in [0, 1].
        device: where a run computes.
        progress: show a progress bar on a terminal.
    """
    samples = dataset.require_train()
    names = store.picture_names(samples, dataset.root)
    if not 0 <= least <= 1:
        raise InputError(f"visibility is in [0, 1], got --least {least}.")
    if model and Path(model).is_dir():
        return _run_masks(dataset, folder, Path(model), device, progress)
    size = rendered.SIZE
    if model:
        parser = networks.Parser(Path(model))
        said = {**_file(Path(model)), "size": list(size)}
        plan = _plan(Prior.MASKS, Path(model).stem, said, dataset, names, parser.labels, size)
        each = _each(
            samples,
            lambda s: labels.shrink(parser(decode(s.path)), size),
            progress,
            "parts",
        )
        return store.write(folder, plan, each)
    points = store.find(folder, Prior.KEYPOINTS, source) if folder.is_dir() else None
    if points is None:
        what = f"--model PARSER.onnx or --model RUN, or make keypoints in {folder} first"
        return _truth(dataset, folder, Prior.MASKS, what)
    rows = points.require(samples, dataset.root)
    drawn: dict[str, object] = {
        "keypoints": f"{points.producer} {points.about['version']}",
        "least": least,
        "size": list(size),
        "drawing": skeleton.VERSION,
    }
    plan = _plan(Prior.MASKS, "skeleton", drawn, dataset, names, skeleton.LABELS, size)
    return store.write(folder, plan, _skeletons(points, rows, size, least))


def surface(
    dataset: Dataset,
    folder: Path,
    *,
    model: str = "",
    device: str = "auto",
    progress: bool = False,
) -> store.PriorSet:
    """Places on the body of the training pictures, from a run of ``parts`` that learned them.

    Rendered people have theirs, and need no ``model``.
    """
    if not model:
        what = "--model RUN (crosscam train parts method.surface=2)"
        return _truth(dataset, folder, Prior.SURFACE, what)
    samples = dataset.require_train()
    names = store.picture_names(samples, dataset.root)
    run = Run(Path(model), device)
    run.located(run.blank, rendered.SIZE)  # refuses before anything is written
    said = {**run.said, "chart": rendered.CHART, "size": list(rendered.SIZE)}
    shape = (*rendered.SIZE, 3)
    plan = _plan(Prior.SURFACE, run.name, said, dataset, names, (), shape)

    def found(pictures: Picture) -> npt.NDArray[np.uint8]:
        return run.located(pictures, rendered.SIZE)

    return store.write(folder, plan, _batches(samples, run.preprocess, found, progress, "places"))


def texture(
    dataset: Dataset,
    folder: Path,
    *,
    model: str = "",
    mirror: bool = False,
    device: str = "auto",
    progress: bool = False,
) -> store.PriorSet:
    """Textures of the training pictures, one a picture, from a run that paints or unwraps them.

    Rendered people have theirs, one a person and outfit, and need no ``model``.

    Args:
        dataset: whose pictures.
        folder: of its priors.
        model: folder of a run of ``san_pg``, or of ``parts`` that learned places on the body.
        mirror: color what an unwrapped picture does not show like the other side of the body.
        device: where the run computes.
        progress: show a progress bar on a terminal.
    """
    if not model:
        what = "--model RUN (crosscam train san_pg, or train parts method.surface=2)"
        if mirror:
            raise InputError(f"--mirror fills in what a picture does not show: give {what}.")
        return _truth(dataset, folder, Prior.TEXTURE, what)
    samples = dataset.require_train()
    names = store.picture_names(samples, dataset.root)
    run = Run(Path(model), device)
    said = dict(run.said)
    if hasattr(run.method, "locate"):
        run.located(run.blank, run.preprocess.size)  # refuses before anything is written
        side = chart.side_of(run.preprocess.size[0])
        said |= {"chart": rendered.CHART, "mirror": mirror, "reach": chart.REACH,
                 "unwrapping": chart.VERSION}  # fmt: skip
        plan = _plan(Prior.TEXTURE, run.name, said, dataset, names, (), (side, side, 4))

        def unwrapped(pictures: Picture) -> npt.NDArray[np.uint8]:
            found = chart.points(run.located(pictures, run.preprocess.size))
            made = [chart.unwrap(*one, side) for one in zip(pictures, found, strict=True)]
            return np.stack([chart.fill(one) if mirror else one for one in made])

        each = _batches(samples, run.preprocess, unwrapped, progress, "textures")
        return store.write(folder, plan, each)
    if mirror:
        raise InputError(
            f"{model} paints whole textures; --mirror is for runs of `crosscam train parts`, which "
            "leave texels unknown."
        )
    if run.learned == rendered.PRODUCER:
        said["chart"] = rendered.CHART
    probe = run("predict", run.blank)
    if probe.ndim != 4 or probe.shape[1] != 3 or probe.shape[2] != probe.shape[3]:
        raise InputError(
            f"{model} predicts {list(probe.shape)}; a texture is [B, 3, T, T]. Give a run of "
            "`crosscam train san_pg`."
        )

    def colors(pictures: Picture) -> npt.NDArray[np.uint8]:
        values = (run("predict", pictures).float().clamp(-1, 1) + 1) * 127.5
        result: npt.NDArray[np.uint8] = values.round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return result

    shape = (int(probe.shape[2]), int(probe.shape[3]), 3)
    plan = _plan(Prior.TEXTURE, run.name, said, dataset, names, (), shape)
    each = _batches(samples, run.preprocess, colors, progress, "textures")
    return store.write(folder, plan, each)


def show(
    dataset: Dataset,
    folder: Path | None,
    out: Path,
    *,
    count: int = 24,
    seed: int = 0,
    kinds: Sequence[Prior] = tuple(Prior),
    producers: dict[Prior, str] | None = None,
) -> Path:
    """A contact sheet of random training pictures with their priors.

    Args:
        dataset: whose pictures.
        folder: of its priors; None takes the ground truth of rendered people.
        out: picture to write.
        count: pictures.
        seed: of their choice.
        kinds: what to show, where it is there.
        producers: by kind, where the folder has several.
    """
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise InputError(f"a sheet is a .png, .jpg or .webp file, got {out.name}.")
    if count < 1 or seed < 0:
        raise InputError(f"a sheet needs --count 1 or more and --seed 0 or more, got {count} and "
                         f"{seed}.")  # fmt: skip
    samples = dataset.require_train()
    chosen = np.random.default_rng(seed).permutation(len(samples))[:count]
    some = [samples[i] for i in sorted(chosen)]
    with tempfile.TemporaryDirectory() as scratch:
        sets: dict[Prior, tuple[store.PriorSet, npt.NDArray[np.int64]]] = {}
        for kind in kinds:
            found = (
                _truth(dataset, Path(scratch), kind, "--priors FOLDER", some)
                if folder is None
                else store.find(folder, kind, (producers or {}).get(kind, ""))
            )
            if found is not None:
                sets[kind] = found, found.require(some, dataset.root)
        if not sets:
            raise DataError(f"{folder} has none of: {', '.join(k.value for k in kinds)}.")
        return sheet.draw(out, some, sets, columns=max(2, 12 // (len(sets) + 1)))


# --- the command ------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """``crosscam prior VERB ...``."""
    if options.verb == "list":
        folder = options.priors or options.folder
        sets = store.read_all(folder)
        if not sets:
            raise DataError(
                f"{folder} holds no priors. Give the folder that `crosscam prior ... --out` wrote."
            )
        for found in sets:
            about = found.about
            size = found.values.nbytes / max(1, int(about["pictures"]))
            print(
                f"{found.kind.value:10s} {found.producer:24s} "
                f"{counted(about['pictures'], 'picture'):>16} of {about['dataset']}, {size:,.0f} "
                f"bytes each, version {about['version']}"
            )
        return 0
    extra = datasets.options_from_text(options.name, options.option)
    dataset = datasets.load(options.name, options.root, partial=options.partial, **extra)
    if options.verb == "show":
        chosen = {kind: getattr(options, kind.value) for kind in Prior}
        kinds = [Prior(options.kind)] if options.kind else list(Prior)
        page = show(
            dataset, options.priors, options.out, count=options.count, seed=options.seed,
            kinds=kinds, producers=chosen,
        )  # fmt: skip
        print(page)
        return 0
    progress = not options.quiet
    if options.verb == "keypoints":
        made = keypoints(
            dataset, options.out, model=options.model, table=options.csv, progress=progress
        )
    elif options.verb == "masks":
        made = masks(
            dataset, options.out, model=options.model, source=options.keypoints,
            least=options.least, device=options.device, progress=progress,
        )  # fmt: skip
    elif options.verb == "surface":
        made = surface(
            dataset, options.out, model=options.model, device=options.device, progress=progress
        )
    else:
        made = texture(
            dataset, options.out, model=options.model, mirror=options.mirror,
            device=options.device, progress=progress,
        )  # fmt: skip
    print(f"{made.kind.value} by {made.producer}: {counted(made.about['pictures'], 'picture')} "
          f"of {dataset.title} in {options.out}")  # fmt: skip
    seen = f"{options.name} --root {options.root} --priors {options.out}"
    print(f"next:   crosscam prior show {seen} --out sheet.png")
    return 0


# --- pieces -----------------------------------------------------------------------------------


def _truth(
    dataset: Dataset, folder: Path, kind: Prior, needs: str, samples: Sequence[Sample] = ()
) -> store.PriorSet:
    if dataset.name != "rendered":
        raise InputError(
            f"{dataset.title} has no ground truth of {kind.value}, as rendered people do: give "
            f"{needs}."
        )
    return rendered.make(folder, dataset, samples or dataset.require_train(), kind)


def _plan(
    kind: Prior,
    producer: str,
    said: Mapping[str, object],
    dataset: Dataset,
    pictures: Sequence[str],
    names: Sequence[str],
    shape: Sequence[int],
) -> store.Plan:
    return store.Plan(
        kind,
        re.sub(r"[^\w-]+", "-", producer).strip("-") or "unnamed",
        said,
        dataset.title,
        tuple(pictures),
        tuple(names),
        tuple(shape),
        "float16" if kind is Prior.KEYPOINTS else "uint8",
    )


def _file(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise InputError(f"no network at {path}: give an ONNX or TFLite file, or a run folder.")
    return {"model": path.name, "sha256": sha256(path)}


def _each(
    samples: Sequence[Sample],
    function: Callable[[Sample], npt.NDArray[np.generic]],
    progress: bool,
    text: str,
) -> Iterator[npt.NDArray[np.generic]]:
    """What ``function`` gives for every sample, stacked block by block."""
    block = []
    for sample in _bar(samples, progress, text):
        block.append(function(sample))
        if len(block) == _BLOCK:
            yield np.stack(block)
            block = []
    if block:
        yield np.stack(block)


def _skeletons(
    points: store.PriorSet, rows: npt.NDArray[np.int64], size: tuple[int, int], least: float
) -> Iterator[npt.NDArray[np.uint8]]:
    for start in range(0, len(rows), _BLOCK):
        some = rows[start : start + _BLOCK]
        found = np.asarray(points.values[np.maximum(some, 0)], np.float64)
        found[some < 0] = 0
        yield skeleton.part_maps(found, points.names, size, least)


class Run:
    """A trained run that predicts something of pictures.

    Raises:
        InputError: a run of a method that predicts neither parts nor textures.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.method, recipe, card = embedder.load_method(path)
        if not hasattr(self.method, "predict"):
            raise InputError(
                f"{path} is a run of method {recipe.method.name}, which predicts neither parts nor "
                "textures. Give a run of `crosscam train parts` or `crosscam train san_pg`."
            )
        self.where = pick_device(device)
        self.method.to(self.where).eval()
        self.name, self.preprocess = path.name, recipe.test_preprocess
        self.learned = card.get("priors", {}).get(Prior.TEXTURE.value, {}).get("producer", "")
        weights = str(card.get("weights_sha256", ""))
        self.said: dict[str, object] = {"run": path.name, "weights": weights}
        self.blank = np.zeros((1, *self.preprocess.size, 3), np.uint8)

    @torch.inference_mode()
    def __call__(self, function: str, pictures: Picture) -> Any:
        """What a function of the method makes of pictures [B, H, W, 3]."""
        images = torch.from_numpy(self.preprocess.normalize(pictures)).to(self.where)
        return getattr(self.method, function)(images)

    def points(
        self, pictures: Picture, size: tuple[int, int]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Labels [B, *size], and points [B, *size, 3] on the body for every cell, on it or not.

        Raises:
            InputError: a run that does not predict places.
        """
        if not hasattr(self.method, "locate"):
            raise InputError(
                f"{self.name} does not predict places on the body. Give a run of `crosscam train "
                "parts method.surface=2`."
            )
        logits, points = (_sized(v.float(), size) for v in self("locate", pictures))
        found: npt.NDArray[np.uint8] = logits.argmax(1).byte().cpu().numpy()
        return found, points.permute(0, 2, 3, 1).cpu().numpy()

    def located(self, pictures: Picture, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Places [B, *size, 3], none where a cell shows the background or a bag."""
        found, points = self.points(pictures, size)
        on_body = np.isin(found, PLACED)[..., None]
        return chart.places(np.where(on_body, points, np.float32(np.nan)))


def _sized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _run_masks(
    dataset: Dataset, folder: Path, run: Path, device: str, progress: bool
) -> store.PriorSet:
    samples = dataset.require_train()
    trained = Run(run, device)
    names = getattr(trained.method, "labels", None)
    if not names or names[0] != "background":
        raise InputError(
            f"{run} does not predict parts: its method has no labels that begin with the "
            "background. Give a run of `crosscam train parts`."
        )
    size = rendered.SIZE
    said = {**trained.said, "learned": trained.learned, "size": list(size)}
    pictures = store.picture_names(samples, dataset.root)
    plan = _plan(Prior.MASKS, run.name, said, dataset, pictures, names, size)

    def maps(pictures: Picture) -> npt.NDArray[np.uint8]:
        found = trained("predict", pictures).argmax(1).byte().cpu().numpy()
        return np.stack([labels.shrink(one, size) for one in found])

    return store.write(folder, plan, _batches(samples, trained.preprocess, maps, progress, "parts"))


def _batches(
    samples: Sequence[Sample],
    preprocess: Preprocess,
    function: Callable[[Picture], npt.NDArray[np.uint8]],
    progress: bool,
    text: str,
) -> Iterator[npt.NDArray[np.uint8]]:
    starts = range(0, len(samples), _BATCH)
    for start in _bar(starts, progress, text):
        pictures = [preprocess.load(s.path) for s in samples[start : start + _BATCH]]
        yield function(np.stack(pictures))


def _bar(items: Sequence[T], progress: bool, text: str) -> Iterator[T]:
    if not progress or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console

    yield from track(items, text, console=Console(stderr=True), transient=True)
