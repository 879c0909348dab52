"""``crosscam doctor``: is an encoder whole, fed rightly, and of any use?

    report = examine("models/people")
    print(report.text())

Each check measures something and says what it means and what to do.  The pictures are those of a
folder, or rendered people that come with the package; where it is known who is on them, feeding
the encoder in other ways (channels swapped, other numbers, another size) shows whether one of
these suits it better than what its card says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crosscam import models, probe
from crosscam.card import BOUNDS, CARD, NATIVE_BOUND, Card, is_encoder
from crosscam.classic import DESCRIPTORS
from crosscam.doctor import weights as layers
from crosscam.doctor.feeding import Feeder, feeder, resized
from crosscam.doctor.pictures import Crops, of_folder, rendered
from crosscam.encoder import Encoder
from crosscam.encoder.runtimes import installed, of_unit_length
from crosscam.errors import CheckpointError, InputError
from crosscam.files import sha256
from crosscam.image import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from crosscam.retrieval import evaluate
from crosscam.wording import counted, either

__all__ = ["Finding", "Report", "examine"]

Status = Literal["OK", "WARN", "FAIL", "SKIP"]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        check: what was looked at.
        status: OK, WARN, FAIL, or SKIP where it could not be looked at.
        measured: the numbers.
        meaning: what they say about the encoder.
        advice: what to do; empty where nothing is to be done.
    """

    check: str
    status: Status
    measured: str
    meaning: str
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """All findings about one encoder, and what to expect of it on new cameras."""

    model: str
    hash: str
    pictures: str
    findings: tuple[Finding, ...]
    expect: tuple[str, ...]

    @property
    def status(self) -> Status:
        """The worst of the findings."""
        found = {f.status for f in self.findings}
        return "FAIL" if "FAIL" in found else "WARN" if "WARN" in found else "OK"

    def __getitem__(self, check: str) -> Finding:
        return next(f for f in self.findings if f.check == check)

    def text(self) -> str:
        """Lines for a terminal."""
        lines = [f"model     {self.model}", f"pictures  {self.pictures}", ""]
        for f in self.findings:
            lines.append(f"{f.status:4s}  {f.check:13s} {f.measured}")
            if f.status != "OK":
                lines += [f"{'':20s}{text}" for text in (f.meaning, f.advice) if text]
        if self.expect:
            lines += ["", "On new cameras", *(f"  {text}" for text in self.expect)]
        counts = [f"{sum(f.status == s for f in self.findings)} {s}" for s in ("FAIL", "WARN")]
        return "\n".join([*lines, "", f"{self.status}: {', '.join(counts)}"])

    def to_json(self) -> str:
        """The same, for programs."""
        return json.dumps({"status": self.status, **asdict(self)}, indent=1)


def examine(
    model: str | Path,
    *,
    images: Path | None = None,
    run: Path | None = None,
    runtime: Literal["auto", "openvino", "onnxruntime", "torch"] = "auto",
    only: Collection[str] = (),
) -> Report:
    """Make all checks on an encoder or a run.

    Args:
        model: folder or name of an encoder, or a run.
        images: folder of pictures of people; better with names as in Market-1501 or a folder for
            each person.  Rendered people otherwise.
        run: the run that the encoder was exported from, to compare with.
        runtime: what computes.
        only: names of checks, as the report gives them; empty makes all.

    Raises:
        CheckpointError: there is no such model.
        DataError: ``images`` cannot be used.
        InputError: there is no check of a name in ``only``.
    """
    unknown = sorted(set(only) - set(_CHECKS))
    if unknown:
        raise InputError(f"no check is called {unknown[0]!r}; there are {', '.join(_CHECKS)}.")
    folder = models.resolve(model)
    if folder.suffix == ".onnx":
        raise InputError(
            f"{folder} is an ONNX file without a card, which does not say how it is fed. Make an "
            "encoder of it first (crosscam wrap; docs/convert.md)."
        )
    exported = is_encoder(folder)
    if not exported and not (folder / "recipe.yaml").is_file():
        if (folder / CARD).is_file():
            Card.read(folder)  # says what is wrong with it
        raise CheckpointError(
            f"{folder} is neither an encoder (no card.json) nor a run (no recipe.yaml): give the "
            "folder that `crosscam export` or `crosscam train` wrote, or a name of `crosscam "
            "models list`."
        )
    crops = rendered() if images is None else of_folder(images)
    try:
        encoder = Encoder.load(folder, runtime=runtime, device="cpu")
        digest = _digest_of_run(folder) if not exported else ""
    except CheckpointError as error:
        files = Finding(
            "files", "FAIL", str(error), "The encoder is incomplete or was changed.",
            "Copy or fetch it again; nothing else was looked at.",
        )  # fmt: skip
        return Report(str(model), "", crops.title, (files,), ())
    patient = _Patient(folder, encoder, crops, run, exported, digest)
    chosen = [check for name, check in _CHECKS.items() if name in only or not only]
    findings = tuple(f for check in chosen for f in check(patient))
    return Report(
        encoder.describe(), encoder.hash, crops.title, findings, tuple(_expect(encoder.card))
    )


@dataclass
class _Patient:
    """What the checks look at; features are computed once."""

    folder: Path
    encoder: Encoder
    crops: Crops
    run: Path | None
    exported: bool
    digest: str  # what is wrong with the weights of a run

    def __post_init__(self) -> None:
        self.card = self.encoder.card
        self.same = BOUNDS[self.card.precision]
        self.pictures = resized(self.crops.pictures, self.encoder.preprocess)
        self.vectors = self.run_on(self.pictures)
        self.useful = bool(np.isfinite(self.vectors).all())

    def run_on(self, pictures: npt.NDArray[np.uint8]) -> Vectors:
        """Vectors of resized pictures, sixteen at a time."""
        parts = [self.encoder.pictures(pictures[i : i + 16]) for i in range(0, len(pictures), 16)]
        return np.concatenate(parts)

    @cached_property
    def feed(self) -> Feeder:
        """Vectors of pictures fed in any way."""
        return feeder(self.encoder, self.folder, run=not self.exported)

    def units(self) -> Vectors:
        """The vectors, of unit length whether or not the encoder made them so."""
        return of_unit_length(self.vectors)

    def others(self) -> npt.NDArray[np.float64]:
        """Cosines of all pairs of pictures of different people (as far as that is known)."""
        units = self.units()
        cosines = (units @ units.T).astype(np.float64)
        people = self.crops.people
        different = (people[:, None] != people[None]) | (people[:, None] < 0)
        return np.asarray(cosines[np.triu(different, 1)])


# --- is it whole? ---------------------------------------------------------------------------------


def _digest_of_run(run: Path) -> str:
    """What is wrong with a run's weights file, if its card knows the hash."""
    stated = json.loads((run / "card.json").read_text(encoding="utf-8")).get("weights_sha256")
    found = sha256(run / "weights.safetensors")
    if stated and stated != found:
        return f"weights.safetensors is {found[:16]}..., and the run wrote {stated[:16]}..."
    return ""


def _files(p: _Patient) -> Iterator[Finding]:
    if p.digest:
        yield Finding(
            "files", "FAIL", p.digest, "The weights were changed after training.",
            "Copy the run again, or train it again.",
        )  # fmt: skip
        return
    yield Finding(
        "files", "OK", f"{counted(len(p.card.files), 'file')}, with the hashes of the card", ""
    )


def _weights(p: _Patient) -> Iterator[Finding]:
    if p.card.format == "onnx" and find_spec("onnx") is None:
        yield Finding(
            "weights", "SKIP", "the package onnx is not installed",
            "Whether all weights were loaded cannot be seen.", "pip install onnx",
        )  # fmt: skip
        return
    unread: list[str] = []
    if not p.exported:
        from crosscam import deployed, embedder

        method, recipe, _ = embedder.load_method(p.folder)
        unread = deployed.training_only(method, recipe.test_preprocess.size)
    found = layers.suspects(layers.read(p.folder, p.card, unread))
    before = "running statistics of 0 and 1, as before training"
    drawn = "distributed as PyTorch or Glorot's rule draw weights, before training"
    faults = [
        (found.broken, "holds numbers that are not finite", "hold numbers that are not finite"),
        (found.constant, "holds one number throughout", "hold one number throughout"),
        (found.untouched, f"has {before}", f"have {before}"),
        (found.uniform, f"is {drawn}", f"are {drawn}"),
    ]
    said = "; ".join(
        f"{counted(len(names), one, many)}: {_some(names)}" for names, one, many in faults if names
    )
    norms = counted(found.statistics, "batch normalization")
    counts = f"{counted(found.products, 'product')}, {norms}"
    if not said:
        yield Finding("weights", "OK", f"{counts}: all of them trained, as far as can be told", "")
        return
    yield Finding(
        "weights", "FAIL", f"of {counts}, {said}",
        "Part of the network (a head, a stage) was not loaded or never trained.",
        "Load the weights with all names matched (`crosscam convert` refuses to miss any), then "
        "export again.",
    )  # fmt: skip


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _numbers(p: _Patient) -> Iterator[Finding]:
    height, width = p.encoder.preprocess.size
    flat = [np.full((height, width, 3), v, np.uint8) for v in (0, 255, 127)]
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    odd = p.run_on(np.stack([*flat, noise]))
    bad = int((~np.isfinite(p.vectors)).any(1).sum())
    names = [
        n
        for n, v in zip(("black", "white", "gray", "noise"), odd, strict=True)
        if not np.isfinite(v).all()
    ]
    if bad or names:
        also = f", and of {', '.join(names)} pictures" if names else ""
        vectors = counted(len(p.vectors), "vector")
        yield Finding(
            "numbers", "FAIL", f"{bad} of {vectors} {either(bad, 'is', 'are')} not finite{also}",
            "Such a vector ranks anything anywhere.",
            "Half precision overflows in some networks: export in fp32. Otherwise the weights are "
            "broken.",
        )  # fmt: skip
        return
    yield Finding("numbers", "OK", "all vectors are finite, of black, white and noise too", "")


def _length(p: _Patient) -> Iterator[Finding]:
    if not p.useful:
        yield _skipped("length")
        return
    lengths = np.linalg.norm(p.vectors, axis=1)
    measured = f"lengths {lengths.min():.4g} to {lengths.max():.4g}"
    if not (np.abs(lengths - 1) < 1e-3).all():
        yield Finding(
            "length", "FAIL", measured,
            "Vectors are not normalized: inner products are no cosines, and bright or sharp "
            "pictures score high with everybody.",
            "Divide by the length inside the encoder (`crosscam export` does, and so does "
            "crosscam wrap).",
        )  # fmt: skip
        return
    yield Finding("length", "OK", measured, "")


def _batches(p: _Patient) -> Iterator[Finding]:
    some = p.pictures[:17]
    alone = np.concatenate([p.encoder.pictures(some[i : i + 1]) for i in range(len(some))])
    apart = {}
    for count in (2, 17):
        together = p.encoder.pictures(some[:count])
        apart[f"batch {count}"] = _apart(together, alone[:count])
    backwards = p.encoder.pictures(np.ascontiguousarray(some[::-1]))[::-1]
    apart["another order"] = _apart(backwards, alone)
    worst = max(apart.values())
    measured = ", ".join(f"{k} {v:.1g}" for k, v in apart.items()) + " away from one at a time"
    if worst > p.same:
        yield Finding(
            "batches", "FAIL", measured,
            "A vector depends on the pictures that happen to be computed with it.",
            "The file was made for one batch size, or normalizes over the batch (training mode). "
            "Export it again in evaluation mode with a free batch.",
        )  # fmt: skip
        return
    yield Finding("batches", "OK", measured, "")


def _apart(a: Vectors, b: Vectors) -> float:
    """The largest distance between two rows; infinite if one is not finite."""
    largest = float(np.linalg.norm(a.astype(np.float64) - b, axis=1).max())
    return largest if np.isfinite(largest) else float("inf")


# --- does it still do what it did? ----------------------------------------------------------------


def _kept(p: _Patient) -> Iterator[Finding]:
    name = "kept vectors"
    try:
        known = probe.read(p.folder, p.card) if p.exported else None
    except CheckpointError as error:
        yield Finding(name, "FAIL", str(error), "The encoder is not as it was exported.",
                      "Copy the folder again.")  # fmt: skip
        return
    if known is None:
        yield Finding(
            name, "SKIP", "none are kept with it",
            "Whether this machine computes what was computed at export cannot be seen."
            if p.exported else "A run keeps no vectors.",
            "Export it again." if p.exported else "",
        )  # fmt: skip
        return
    apart, native = {}, {}
    for runtime in installed(p.card.format):
        encoder = Encoder.load(p.folder, runtime=runtime, device="cpu")
        apart[runtime] = _apart(encoder(known.pictures), known.vectors)
        if p.card.precision == "fp16":
            encoder = Encoder.load(p.folder, runtime=runtime, device="cpu", precision="native")
            numbers = encoder.runtime.precision
            if numbers != "float32":
                native[f"{runtime} in {numbers}"] = _apart(encoder(known.pictures), known.vectors)
    measured = ", ".join(f"{k} {v:.1g}" for k, v in apart.items())
    measured += f" away from what the network gave at export (same: {p.same:g})"
    if native:
        measured += "; " + ", ".join(f"{k} {v:.1g}" for k, v in native.items())
        measured += f" (same: {NATIVE_BOUND:g})"
    if max(apart.values()) > p.same or max(native.values(), default=0.0) > NATIVE_BOUND:
        yield Finding(
            name, "FAIL", measured,
            "The same pictures do not give the same vectors any more: decoding, resizing, the "
            "runtime or the processor differs from when it was exported.",
            "Compare versions (crosscam, Pillow, the runtime) with the machine it was exported "
            "on; vectors of both do not mix.",
        )  # fmt: skip
        return
    yield Finding(name, "OK", measured, "")


def _skew(p: _Patient) -> Iterator[Finding]:
    name = "train/serve"
    if p.run is None:
        yield Finding(
            name, "SKIP", "no run was given",
            "Whether the encoder is the one that was evaluated cannot be seen.",
            "Give --run with the run it was exported from." if p.exported else "",
        )  # fmt: skip
        return
    trained = Encoder.load(models.resolve(p.run), device="cpu")
    differ = [
        f"{key} {mine!r} here, {theirs!r} there"
        for key, mine, theirs in (
            ("preprocessing", p.card.preprocess.to_dict(), trained.preprocess.to_dict()),
            ("flip", p.card.flip, trained.card.flip),
            ("metric", p.card.metric, trained.card.metric),
        )
        if mine != theirs
    ]
    if p.card.dim != trained.dim:
        differ.append(f"{p.card.dim} numbers here, {trained.dim} there")
        largest = float("inf")
    else:
        some = p.crops.pictures[:32]
        largest = _apart(p.encoder(some), trained(some))
    measured = f"vectors are {largest:.1g} apart (same: {p.same:g})"
    if differ or largest > p.same:
        yield Finding(
            name, "FAIL", "; ".join([measured, *differ]),
            f"The encoder is not the network of {p.run}: what was measured there does not hold "
            "here.",
            "Export the run again.",
        )  # fmt: skip
        return
    yield Finding(name, "OK", measured, "")


# --- is it of use? --------------------------------------------------------------------------------


def _spread(p: _Patient) -> Iterator[Finding]:
    if not p.useful:
        yield _skipped("spread")
        return
    cosines = p.others()
    low, middle, high = np.quantile(cosines, [0.05, 0.5, 0.95])
    measured = f"cosines of different people: median {middle:.2f}, 90 % in {low:.2f} to {high:.2f}"
    if low > 0.9:
        yield Finding(
            "spread", "FAIL", measured,
            "Everybody scores high with everybody: the features have collapsed.",
            "Wrong feeding (see below), a head that was not loaded, or training that collapsed; "
            "a threshold cannot repair it.",
        )  # fmt: skip
    elif low > 0.75:
        yield Finding(
            "spread", "WARN", measured,
            "Scores are crowded near one: small differences decide, and thresholds are delicate.",
            "Set thresholds by `crosscam calibrate` and not by habit; features behind a BNNeck "
            "spread better.",
        )  # fmt: skip
    else:
        yield Finding("spread", "OK", measured, "")


def _dimensions(p: _Patient) -> Iterator[Finding]:
    if not p.useful:
        yield _skipped("dimensions")
        return
    units = p.units().astype(np.float64)
    deviation = units.std(axis=0)
    still = float((deviation < 1e-6).mean())
    power = np.linalg.svd(units - units.mean(0), compute_uv=False) ** 2
    share = power / max(power.sum(), 1e-30)
    rank = float(np.exp(-(share * np.log(np.maximum(share, 1e-30))).sum()))
    measured = f"{still:.0%} of {p.card.dim} numbers never change; effective rank {rank:.1f}"
    if still > 0.5 or rank < 2:
        yield Finding(
            "dimensions", "FAIL", measured, "Most of the vector says nothing about the picture.",
            "A head was not loaded, or training collapsed.",
        )  # fmt: skip
    elif still > 0.1 or rank < 4:
        yield Finding(
            "dimensions", "WARN", measured, "Part of the vector says nothing about the picture.",
            "A head was perhaps not loaded whole.",
        )  # fmt: skip
    else:
        yield Finding("dimensions", "OK", measured, "")


def _small_changes(p: _Patient) -> Iterator[Finding]:
    name = "small changes"
    if not p.useful:
        yield _skipped(name)
        return
    units = p.units()[:96]
    pictures = p.pictures[: len(units)]
    others = float(np.median(np.sqrt(np.maximum(2 - 2 * p.others(), 0))))
    ratios = {}
    for change, changed in _changed(pictures).items():
        moved = np.linalg.norm(of_unit_length(p.run_on(changed)) - units, axis=1)
        ratios[change] = float(np.median(moved)) / max(others, 1e-12)
    measured = "moved by " + ", ".join(f"{k} {v:.2f}" for k, v in ratios.items())
    measured += " of the distance between people"
    worst = max(ratios.values())
    if worst >= 1:
        yield Finding(
            name, "FAIL", measured,
            "A picture changed a little is further from itself than from other people.",
            "The network is not trained, or not fed as in training.",
        )  # fmt: skip
    elif worst >= 0.75:
        yield Finding(
            name, "WARN", measured, "Small changes of a picture move its vector far.",
            "Train with augmentation (flip, padding, color jitter) if your cameras vary so.",
        )  # fmt: skip
    else:
        yield Finding(name, "OK", measured, "")


def _changed(pictures: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.uint8]]:
    height, width = pictures.shape[1:3]
    step = max(1, width // 32)
    half = (max(8, height * 3 // 4), max(4, width * 3 // 4))
    small = [resized([p], Preprocess(half))[0] for p in pictures]
    return {
        "mirroring": np.ascontiguousarray(pictures[:, :, ::-1]),
        "a shift": np.roll(pictures, step, axis=2),
        "light": np.clip(pictures * np.float32(1.15), 0, 255).astype(np.uint8),
        "resizing": resized(small, Preprocess((height, width))),
    }


def _matching(p: _Patient) -> Iterator[Finding]:
    if not p.crops.labeled or not p.useful:
        yield Finding(
            "matching", "SKIP", "nobody knows who is on the pictures" if p.useful else "no vectors",
            "How well it finds people, and whether other feeding suits it better, was not tried.",
            "Name pictures as in Market-1501 (0002_c1_17.jpg: person 2, camera 1), or give each "
            "person a folder." if p.useful else "",
        )  # fmt: skip
        return
    own = _precision(p.units(), p.crops)
    hues = DESCRIPTORS["hsv"](resized(p.crops.pictures, Preprocess((128, 64))))
    colors = _precision(hues, p.crops)
    mine, theirs = _mean(own), _mean(colors)
    measured = f"mAP {mine:.1%} on these pictures; color histograms, which learn nothing, "
    measured += f"{theirs:.1%}"
    gain, error = _gain(own, colors)
    if gain < -3 * error and gain < -0.05:
        yield Finding(
            "matching", "WARN", measured,
            "Histograms of colors find these people better.",
            "Not trained enough, not fed rightly (see below), or these pictures are too unlike "
            "its training data.",
        )  # fmt: skip
    else:
        yield Finding("matching", "OK", measured, "")


def _precision(vectors: Vectors, crops: Crops) -> dict[int, float]:
    """Person -> mean average precision of their pictures, each searched among all others.

    Pictures of the query's own person and camera (with it, the query) are left out.
    """
    known = crops.people >= 0
    people, cameras = crops.people[known], crops.cameras[known]
    units = of_unit_length(vectors[known])
    result = evaluate(units, people, cameras, units, people, cameras).per_query
    return {
        int(person): float(result.ap[result.valid & (people == person)].mean())
        for person in np.unique(people)
        if (result.valid & (people == person)).any()
    }


def _mean(precision: dict[int, float]) -> float:
    return float(np.mean(list(precision.values())))


def _gain(a: dict[int, float], b: dict[int, float]) -> tuple[float, float]:
    """Mean of a - b over people, and its standard error."""
    differences = np.array([a[person] - b[person] for person in a])
    return float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(differences)))


# --- is it fed rightly? ---------------------------------------------------------------------------


def _range(p: _Patient) -> Iterator[Finding]:
    """What black and white become; nothing is run."""
    pre = p.encoder.preprocess
    black = [(0 - m) / s for m, s in zip(pre.mean, pre.std, strict=True)]
    white = [(1 - m) / s for m, s in zip(pre.mean, pre.std, strict=True)]
    measured = f"black is fed as {min(black):.3g}, white as {max(white):.3g}"
    pixels = max(map(abs, pre.mean)) > 2 or max(pre.std) > 2
    contrast = min(w - b for w, b in zip(white, black, strict=True))
    if pixels or contrast < 0.1:
        yield Finding(
            "mean and std", "FAIL", f"{measured} (mean {list(pre.mean)}, std {list(pre.std)})",
            "Mean and std are those of pixels from 0 to 255, and the card's are of [0, 1]: every "
            "picture looks gray to the network.",
            "Divide both by 255 and make the encoder again.",
        )  # fmt: skip
        return
    if pre.size[0] <= pre.size[1]:
        yield Finding(
            "mean and std", "WARN", f"{measured}; size {pre.size[0]}x{pre.size[1]}",
            "Pictures are fed wider than tall, and people are taller than wide.",
            "Sizes are height x width: 256x128, not 128x256.",
        )  # fmt: skip
        return
    yield Finding("mean and std", "OK", measured, "")


def _channels(p: _Patient) -> Iterator[Finding]:
    pre = p.encoder.preprocess
    along = replace(pre, mean=pre.mean[::-1], std=pre.std[::-1])
    others = {"red and blue swapped": (pre, True)}
    if along != pre:
        others["red and blue swapped, with their mean and std"] = (along, True)
    yield from _other_feeding(
        p, "channels", others, False,
        "The network was trained on BGR pictures (as OpenCV reads them) and is fed RGB.",
        "Export with the channels swapped inside (crosscam wrap --channels bgr).",
    )  # fmt: skip


def _normalization(p: _Patient) -> Iterator[Finding]:
    pre = p.encoder.preprocess
    ways = {
        "mean and std of ImageNet": (IMAGENET_MEAN, IMAGENET_STD),
        "[-1, 1]": ((0.5,) * 3, (0.5,) * 3),
        "[0, 1]": ((0.0,) * 3, (1.0,) * 3),
        "0 to 255": ((0.0,) * 3, (1 / 255,) * 3),
    }
    others: dict[str, tuple[Preprocess, bool]] = {
        f"normalized to {name}": (replace(pre, mean=mean, std=std), False)
        for name, (mean, std) in ways.items()
        if not np.allclose([pre.mean, pre.std], [mean, std], atol=0.05)
    }
    yield from _other_feeding(
        p, "normalization", others, False,
        "The network was trained with another mean and std than the card states.",
        "Look up how it was trained, and make the encoder again with that.",
    )  # fmt: skip


def _size(p: _Patient) -> Iterator[Finding]:
    pre = p.encoder.preprocess
    height, width = pre.size
    sizes = {
        (256, 128), (128, 64), (2 * height, 2 * width), (height // 2, width // 2), (width, height),
    }  # fmt: skip
    others = {
        f"at {h}x{w}": (replace(pre, size=(h, w)), False)
        for h, w in sorted(sizes - {(height, width)})
        if min(h, w) >= 16 and max(h, w) <= 512
    }
    yield from _other_feeding(
        p, "size", others, True,
        "The network was trained with pictures of another size than the card states.",
        "Look up how it was trained, and make the encoder again with that.",
    )  # fmt: skip


def _other_feeding(
    p: _Patient,
    check: str,
    others: dict[str, tuple[Preprocess, bool]],
    much: bool,
    meaning: str,
    advice: str,
) -> Iterator[Finding]:
    """Whether one of several other ways to feed the encoder finds people clearly better.

    Clearly better is a gain in mAP of more than 0.03 and three standard errors (over people); a
    little better is half of that and two errors.  With ``much`` (a larger size may help without
    being a fault) it must also be half as good again, or halve what is missing to 1.
    """
    if not p.crops.labeled or not p.useful:
        yield Finding(check, "SKIP", "needs pictures of people that are known", "")
        return
    feed = p.feed
    declared = feed(p.crops.pictures, p.encoder.preprocess)
    if declared is None or not np.isfinite(declared).all():
        yield Finding(check, "SKIP", "the file cannot be fed in another way", "")
        return
    own = _precision(declared, p.crops)
    said, better = [], []
    for name, (preprocess, swapped) in others.items():
        pictures = [np.ascontiguousarray(c[..., ::-1]) if swapped else c for c in p.crops.pictures]
        vectors = feed(pictures, preprocess)
        if vectors is None or not np.isfinite(vectors).all():
            said.append(f"{name} not possible")
            continue
        other = _precision(vectors, p.crops)
        gain, error = _gain(other, own)
        said.append(f"{name} {_mean(other):.1%}")
        before, after = _mean(own), _mean(other)
        if much and after < 1.5 * before and 1 - after > 0.5 * (1 - before):
            continue
        clearly = gain > max(0.03, 3 * error)
        if clearly or gain > max(0.015, 2 * error):
            better.append((clearly, gain, name))
    measured = f"mAP as the card says {_mean(own):.1%}, {', '.join(said)}"
    clear = [name for clearly, _, name in sorted(better, reverse=True) if clearly]
    if clear:
        yield Finding(
            check, "FAIL", f"{measured}: clearly better is {' or '.join(clear)}", meaning, advice
        )  # fmt: skip
    elif better:
        yield Finding(
            check, "WARN", f"{measured}: a little better is {max(better)[2]}",
            f"Perhaps: {meaning[0].lower()}{meaning[1:]}",
            "Repeat with more pictures of your own (--images).",
        )  # fmt: skip
    else:
        yield Finding(check, "OK", measured, "")


def _skipped(check: str) -> Finding:
    return Finding(check, "SKIP", "vectors are not finite", "")


_CHECKS: dict[str, Callable[[_Patient], Iterator[Finding]]] = {
    "files": _files,
    "weights": _weights,
    "numbers": _numbers,
    "length": _length,
    "batches": _batches,
    "kept vectors": _kept,
    "train/serve": _skew,
    "spread": _spread,
    "dimensions": _dimensions,
    "small changes": _small_changes,
    "matching": _matching,
    "mean and std": _range,
    "channels": _channels,
    "normalization": _normalization,
    "size": _size,
}


# --- what to expect -------------------------------------------------------------------------------


def _expect(card: Card) -> Iterator[str]:
    """What the card's figures say about cameras that the encoder has not seen."""
    home = card.trained_on.title
    measured = [f for f in card.figures if isinstance(f.get("rank1"), (int, float))]
    away = [f for f in measured if str(f.get("data", "")) not in home]
    for figure in away:
        yield f"trained on {home}, measured on {_title(figure)}: {_values(figure)}."
    if away:
        yield (
            "Expect something like this on cameras of your own, and measure: data sets differ much "
            "among themselves."
        )
    for figure in measured:
        if figure not in away:
            yield f"on cameras of its training data ({_title(figure)}): {_values(figure)}."
    if measured and not away:
        yield (
            "It was not measured on other cameras. There, figures are usually far lower: label "
            "some pictures of yours and run `crosscam evaluate`."
        )
    if not measured:
        yield (
            "The card has no measured figures: nothing is known. Label some pictures of yours and "
            "run `crosscam evaluate`."
        )
    if home.startswith("rendered"):
        yield "It learned from rendered people; real ones are another domain."


def _title(figure: Any) -> str:
    if figure.get("title"):
        return str(figure["title"])
    return " ".join(str(v) for v in (figure.get("data", "?"), figure.get("variant")) if v)


def _values(figure: Any) -> str:
    values = [
        f"{name} {figure[key]:.1%}"
        for key, name in (("rank1", "rank-1"), ("mAP", "mAP"))
        if isinstance(figure.get(key), (int, float))
    ]
    counts = (
        f", {counted(figure['n_queries'], 'query', 'queries')}"
        if isinstance(figure.get("n_queries"), int)
        else ""
    )
    return f"{', '.join(values)} ({figure.get('ap', '?')} AP{counts})"
