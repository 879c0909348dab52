"""CUHK03 as its authors hand it out: pictures inside one MATLAB v7.3 file.

The pictures are written once to PNG files, named ``{pair}_{person}_{view}_{index}.png`` as the
protocol files name them; after that only the PNG files (and the small protocol files) are read.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from crosscam.data.findings import Count, Finding, Parsed, Row, count, finding, row
from crosscam.data.listing import find_home
from crosscam.errors import DataError, MissingExtraError
from crosscam.pictures import image_files
from crosscam.types import Dataset, Protocol, Sample
from crosscam.wording import counted, either

if TYPE_CHECKING:
    import h5py

__all__ = ["cuhk03", "extract"]

logger = logging.getLogger(__name__)

Boxes = Literal["labeled", "detected"]

IMAGES = {"labeled": 14_096, "detected": 14_097}  # counted in the protocol files' lists
NEW_PROTOCOL = {  # counted in the protocol files
    "labeled": {
        "train": Count(767, 7_368, 2),
        "query": Count(700, 1_400, 2),
        "gallery": Count(700, 5_328, 2),
    },
    "detected": {
        "train": Count(767, 7_365, 2),
        "query": Count(700, 1_400, 2),
        "gallery": Count(700, 5_332, 2),
    },
}
# 1,467 persons over all five camera pairs, 100 of them tested: the split of public loaders.  The
# paper's own split leaves two pairs and 100 validation persons out (1,160/100/100).
CLASSIC_TRAIN_IDS, CLASSIC_TEST_IDS, CLASSIC_SPLITS = 1_367, 100, 20

_MAT = "cuhk-03.mat"
_MARKER = "extracted.json"
_NAME = re.compile(r"(?P<pair>[1-5])_(?P<person>\d{3})_(?P<view>[12])_(?P<index>\d{2})\.png$")


def cuhk03(
    root: Path,
    *,
    protocol: Literal["new", "classic"] = "new",
    boxes: Boxes = "detected",
    split: int = 0,
    repeats: int = 100,
    extract_to: str | Path | None = None,
) -> Parsed:
    """CUHK03 (Li et al., CVPR 2014) from ``cuhk-03.mat``.

    ``protocol="new"`` is 767/700 (Zhong et al., CVPR 2017) and needs the file
    ``cuhk03_new_protocol_config_{boxes}.mat``; camera rule and metrics as on Market-1501.
    ``protocol="classic"`` is one of the 20 ``split``s with 100 test persons: one gallery image a
    person is drawn for each query, ``repeats`` times (100 in the paper, from memory; 10 in public
    loaders). The first call writes the pictures to ``images_{boxes}`` beside the release, or to the
    folder ``extract_to``; it can be broken off and goes on where it stopped.

    Person ids are the protocol's labels (new), or 1000 * pair + person (classic).
    """
    config_name = f"cuhk03_new_protocol_config_{boxes}.mat"
    images_name = f"images_{boxes}"
    release = find_home(
        "cuhk03",
        root,
        (_MAT, f"cuhk03_release/{_MAT}", images_name, config_name),
        ("cuhk03_release", "cuhk03", "CUHK03"),
    )
    if (release / "cuhk03_release").is_dir():
        home, release = release, release / "cuhk03_release"
    elif release.name == "cuhk03_release":
        home = release.parent
    else:
        home = release
    mat = release / _MAT
    folder = Path(extract_to).expanduser() if extract_to is not None else home / images_name
    if not _complete(folder, boxes):
        if not mat.is_file():
            raise DataError(
                f"cuhk03: {folder} does not hold all {IMAGES[boxes]:,} pictures and {mat} is not "
                "there to take them from. Put cuhk-03.mat there."
            )
        extract(mat, boxes, folder)
    if protocol == "classic":
        return _classic(home, mat, folder, boxes, split, repeats)
    config = next(
        (d / config_name for d in (home, release, root) if (d / config_name).exists()), None
    )
    if config is None:
        raise DataError(
            f"cuhk03: the new protocol needs {config_name} in {home}, and it is not there. It "
            "comes with the code of the protocol's authors (person-re-ranking, in "
            "evaluation/data/CUHK03); or ask for protocol=classic."
        )
    return _new_protocol(home, config, folder, boxes)


# --- pictures out of the .mat file ----------------------------------------------------------------


def _complete(folder: Path, boxes: Boxes) -> bool:
    """Whether ``folder`` holds all pictures, extracted here or by another tool."""
    marker = folder / _MARKER
    expected = IMAGES[boxes]
    if marker.is_file():
        expected = int(json.loads(marker.read_text(encoding="utf-8"))["images"])
    return folder.is_dir() and len(image_files(folder)) >= expected


def extract(mat: Path, boxes: Boxes, folder: Path) -> int:
    """Write the pictures of ``mat`` to PNG files in ``folder``; returns how many there are.

    Each file appears whole or not at all, files that are there stay, and ``extracted.json`` is
    written last: a call that was broken off is finished by the next one.  One picture at a time
    is held in memory.

    Raises ``DataError`` if ``mat`` cannot be read or ``folder`` cannot be written.
    """
    from PIL import Image
    from rich.console import Console
    from rich.progress import Progress

    logger.info("writing the %s pictures of %s to %s, once", boxes, mat, folder)
    total = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            _open(mat) as h5,
            Progress(
                console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
            ) as progress,
        ):
            task = progress.add_task(f"cuhk03 {boxes} -> {folder}", total=IMAGES[boxes])
            for name, reference in _cells(h5, boxes, mat):
                target = folder / name
                if target.exists():
                    total += 1
                    progress.advance(task)
                    continue
                pixels = np.asarray(h5[reference])
                if pixels.ndim != 3:  # an empty cell: this person has fewer images
                    continue
                temporary = folder / f".{name}.{os.getpid()}.tmp"
                try:
                    picture = Image.fromarray(np.ascontiguousarray(pixels.T))  # [h, w, 3] uint8
                    picture.save(temporary, format="PNG", compress_level=1)
                    temporary.replace(target)
                finally:
                    temporary.unlink(missing_ok=True)
                total += 1
                progress.advance(task)
        marker = folder / f".{_MARKER}.{os.getpid()}.tmp"
        marker.write_text(json.dumps({"source": mat.name, "boxes": boxes, "images": total}))
        marker.replace(folder / _MARKER)
    except OSError as error:
        raise DataError(
            f"cuhk03: writing the pictures of {mat} to {folder} stopped: {error}. Make room there, "
            "or name another folder with extract_to=FOLDER; the next call goes on where this one "
            "stopped."
        ) from error
    return total


def _open(mat: Path) -> h5py.File:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError(
            'cuhk-03.mat is an HDF5 file and needs h5py: pip install "crosscam[cuhk03]".'
        ) from error
    try:
        return h5py.File(mat, "r")
    except OSError as error:
        raise DataError(
            f"cuhk03: {mat} cannot be opened as a MATLAB v7.3 (HDF5) file ({error}). It may be cut "
            "off: unpack the release again."
        ) from error


def _cells(h5: h5py.File, boxes: Boxes, mat: Path) -> Iterator[tuple[str, Any]]:
    """(file name, reference) of every cell: 5 pairs, M persons, 10 images, views 1 and 2."""
    if boxes not in h5:
        raise DataError(
            f"cuhk03: {mat} has no '{boxes}' in it, but {sorted(h5)}. Take cuhk-03.mat as released."
        )
    # MATLAB writes arrays column by column, so every array arrives transposed.
    for pair, pair_reference in enumerate(np.asarray(h5[boxes]).ravel(), start=1):
        persons = np.asarray(h5[pair_reference]).T  # [M, 10] references
        for person, images in enumerate(persons, start=1):
            for index, reference in enumerate(images, start=1):
                view = 1 if index <= 5 else 2
                yield f"{pair}_{person:03d}_{view}_{index:02d}.png", reference


def _test_sets(mat: Path) -> list[npt.NDArray[np.int64]]:
    """The 20 classic test sets, each [100, 2]: camera pair and person, both from 1."""
    if not mat.is_file():
        raise DataError(
            f"cuhk03: the classic splits are inside {mat}, and it is not there. Put cuhk-03.mat "
            "there, or ask for protocol=new."
        )
    with _open(mat) as h5:
        return [np.asarray(h5[r]).T.astype(np.int64) for r in np.asarray(h5["testsets"]).ravel()]


# --- protocols ------------------------------------------------------------------------------------


def _named(folder: Path, findings: list[Finding]) -> dict[str, re.Match[str]]:
    """The picture files of ``folder`` by name."""
    files = [p.name for p in image_files(folder)]
    matches = {name: m for name in files if (m := _NAME.match(name))}
    unknown = [name for name in files if name not in matches]
    if unknown:
        findings.append(
            finding(
                "error",
                "unknown-name",
                f"{counted(len(unknown), 'file')} in {folder} {either(len(unknown), 'is', 'are')} "
                "not named as CUHK03 pictures are.",
                "Names look like 1_001_1_01.png (pair 1-5, person, view 1-2, image 1-10).",
                "Move them away.",
                unknown,
            )
        )
    return matches


def _classic(home: Path, mat: Path, folder: Path, boxes: Boxes, split: int, repeats: int) -> Parsed:
    test_sets = _test_sets(mat)
    if not 0 <= split < len(test_sets):
        raise DataError(
            f"cuhk03: split={split} was asked for, but splits run from 0 to {len(test_sets) - 1}."
        )
    if repeats < 1:
        raise DataError(f"cuhk03: repeats={repeats} was asked for; draw at least once.")
    tested = {(int(pair), int(person)) for pair, person in test_sets[split]}
    findings: list[Finding] = []
    train: list[Sample] = []
    test: list[Sample] = []
    for name, m in _named(folder, findings).items():
        pair, person = int(m["pair"]), int(m["person"])
        side = test if (pair, person) in tested else train
        side.append(Sample(folder / name, 1000 * pair + person, int(m["view"])))
    everything = count((*train, *test))
    # Query and gallery are the same images; the camera rule makes one view answer the other.
    return Parsed(
        Dataset(
            "cuhk03",
            home,
            tuple(train),
            tuple(test),
            tuple(test),
            Protocol(gallery_shots=1, shots_per="query", repeats=repeats),
            f"{boxes}, classic split {split} of {len(test_sets)}, single gallery shot",
        ),
        (
            Row(
                "all",
                everything,
                Count(CLASSIC_TRAIN_IDS + CLASSIC_TEST_IDS, IMAGES[boxes], 2),
                str(folder),
            ),
            row("train", train, Count(CLASSIC_TRAIN_IDS)),
            row("query", test, Count(CLASSIC_TEST_IDS)),
            row("gallery", test, Count(CLASSIC_TEST_IDS)),
        ),
        tuple(findings),
        range(1, 3),
    )


def _new_protocol(home: Path, config: Path, folder: Path, boxes: Boxes) -> Parsed:
    fields = _config(config)
    names = [str(np.ravel(cell)[0]) for cell in np.ravel(fields["filelist"])]
    labels = np.ravel(fields["labels"]).astype(int)
    cameras = np.ravel(fields["camId"]).astype(int)
    findings: list[Finding] = []
    there = _named(folder, findings)
    missing: set[str] = set()
    expected = NEW_PROTOCOL[boxes]
    parts: dict[str, tuple[Sample, ...]] = {}
    for split in ("train", "query", "gallery"):
        rows = np.ravel(fields[f"{split}_idx"]).astype(int) - 1  # MATLAB counts from 1
        if rows.size and (rows.min() < 0 or rows.max() >= len(names)):
            raise DataError(
                f"cuhk03: {config} points outside its own list of {len(names):,} files. Take the "
                "file as the protocol's authors hand it out."
            )
        missing.update(names[i] for i in rows if names[i] not in there)
        parts[split] = tuple(
            Sample(folder / names[i], int(labels[i]), int(cameras[i]))
            for i in rows
            if names[i] in there
        )
    if missing:
        findings.append(
            finding(
                "error",
                "missing-file",
                f"{counted(len(missing), 'picture')} that {config.name} names "
                f"{either(len(missing), 'is', 'are')} not in {folder}.",
                "Every listed picture is needed.",
                f"Delete {folder} and read the set again to write the pictures anew.",
                sorted(missing),
            )
        )
    return Parsed(
        Dataset(
            "cuhk03",
            home,
            parts["train"],
            parts["query"],
            parts["gallery"],
            variant=f"{boxes}, new protocol 767/700",
        ),
        tuple(row(s, parts[s], expected[s], str(folder)) for s in parts),
        tuple(findings),
        range(1, 3),
    )


def _config(path: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingExtraError(
            f'{path.name} is a MATLAB file and needs scipy: pip install "crosscam[cuhk03]".'
        ) from error
    try:
        fields: dict[str, Any] = loadmat(path)
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise DataError(
            f"cuhk03: {path} cannot be read as a MATLAB file ({error}). Take the file as the "
            "protocol's authors hand it out."
        ) from error
    needed = ("filelist", "labels", "camId", "train_idx", "query_idx", "gallery_idx")
    lacking = [k for k in needed if k not in fields]
    if lacking:
        raise DataError(
            f"cuhk03: {path} has no {', '.join(lacking)}. Take the file as the protocol's authors "
            "hand it out."
        )
    return fields
