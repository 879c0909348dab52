"""Priors on disk: one file set for each data set, kind and producer.

A folder holds the priors of one data set.  ``masks.skeleton.json`` says what made them, with which
parameters; the files that it names hold the values (``.npy``, memory-mapped) and which row belongs
to which picture (``.txt``).  A new version is written under names of its own and the JSON replaced
last, so a crash at any moment leaves the version that was there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam import __version__
from crosscam.errors import DataError
from crosscam.files import disk_errors, replacing, write_atomically
from crosscam.types import Prior, Sample
from crosscam.wording import either

__all__ = ["Plan", "PriorSet", "find", "open_set", "picture_names", "read_all", "write"]

_FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """What a set of priors will be; equal plans give equal files.

    Args:
        kind: masks, keypoints, surface or texture.
        producer: what makes it: a word of letters, digits, _ and -.
        parameters: everything that decides the values, as JSON can hold it (hashes of files too).
        dataset: title of the data set.
        pictures: names, from :func:`picture_names`.
        names: what the values of a label map, or the joints of keypoints, are.
        shape: of one row.
        dtype: of the values: float16 (keypoints) or uint8 (the others).
        rows: [N] row of each picture, -1 for none; None gives every picture its own.
    """

    kind: Prior
    producer: str
    parameters: Mapping[str, Any]
    dataset: str
    pictures: tuple[str, ...]
    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    rows: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """Rows of values."""
        return len(self.pictures) if self.rows is None else max(self.rows, default=-1) + 1

    @property
    def stem(self) -> str:
        return f"{self.kind.value}.{self.producer}"

    @property
    def version(self) -> str:
        """A hash of all of it."""
        said = [self.kind.value, self.producer, self.parameters, self.names, self.shape,
                self.dtype, self.pictures, self.rows, _FORMAT]  # fmt: skip
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class PriorSet:
    """Priors that lie on disk.

    ``values`` is [R, ...], memory-mapped: masks uint8 [R, h, w] of labels, keypoints float16
    [R, J, 3] (x and y as shares of width and height, 0 and 1 being the edges of the picture, and
    visibility in [0, 1]), surfaces uint8 [R, h, w, 3] of places (:mod:`crosscam.priors.surface`),
    textures uint8 [R, T, T, 3] RGB, or [R, T, T, 4] with a last channel of 255 where a texel is
    known and 0 elsewhere.
    """

    kind: Prior
    about: Mapping[str, Any]
    values: npt.NDArray[Any]
    rows: Mapping[str, int]  # picture -> row, -1 where it has none

    @property
    def producer(self) -> str:
        return str(self.about["producer"])

    @property
    def names(self) -> tuple[str, ...]:
        """Labels of masks, or joints of keypoints."""
        return tuple(self.about["names"])

    def labels(self) -> npt.NDArray[np.uint8]:
        """The label maps of masks, each value of which has a name.

        Raises:
            DataError: a value beyond the names.
        """
        step = 1024  # rows, to not have all of a memory-mapped file in memory
        blocks = range(0, len(self.values), step)
        highest = max((int(self.values[i : i + step].max(initial=0)) for i in blocks), default=0)
        if highest >= len(self.names):
            raise DataError(
                f"a label map by {self.producer} has the value {highest}, and its set names only "
                f"0 to {len(self.names) - 1} ({', '.join(self.names)}). Delete the set and make it "
                "again."
            )
        return self.values

    def find(self, samples: Sequence[Sample], root: Path) -> npt.NDArray[np.int64]:
        """[N] row of each sample's prior, -1 where the set has none.

        A picture is known by its path below the data set's root; where the set was made from
        another folder, by its file name, if only one picture of the set is called so.
        """
        short: dict[str, int | None] = {}
        for name, row in self.rows.items():
            last = PurePosixPath(name).name
            short[last] = None if last in short else row
        found = np.full(len(samples), -1, np.int64)
        for i, name in enumerate(picture_names(samples, root)):
            known = self.rows.get(name, short.get(PurePosixPath(name).name))
            found[i] = -1 if known is None else known
        return found

    def require(self, samples: Sequence[Sample], root: Path) -> npt.NDArray[np.int64]:
        """As :meth:`find`, or a ``DataError`` if not one picture has a prior."""
        found = self.find(samples, root)
        if not (found >= 0).any():
            none = f"none of the {len(samples):,} pictures has"
            raise DataError(
                f"{either(len(samples), 'the one picture has no', none)} {self.kind.value} in the "
                f"set that was made of {self.about['dataset']} by {self.producer}. Give the folder "
                "with the priors of this data set, or make them (crosscam prior --help)."
            )
        return found


def picture_names(samples: Sequence[Sample], root: Path) -> list[str]:
    """What pictures are called in a set: the path below the data set's root, with slashes."""
    home = (root.parent if root.is_file() else root).absolute()
    names = []
    for sample in samples:
        path = sample.path.absolute()
        names.append(path.relative_to(home).as_posix() if home in path.parents else path.name)
    return names


def write(folder: Path, plan: Plan, blocks: Iterable[npt.NDArray[Any]]) -> PriorSet:
    """Write the set that ``plan`` describes, its rows given in order, block by block.

    A set that is there already in this version is opened and ``blocks`` is not touched; of an
    older version the files are removed after the new one is complete.

    Args:
        folder: of the data set's priors; made if needed.
        plan: what the blocks are.
        blocks: arrays [n, *plan.shape], together ``plan.count`` rows.

    Raises:
        DiskError: the disk is full; what was there before is untouched.
    """
    about_path = folder / f"{plan.stem}.json"
    if about_path.is_file():
        there = _about(about_path)
        if there["version"] == plan.version:
            return open_set(about_path)
    stem = f"{plan.stem}.{plan.version}"
    values = folder / f"{stem}.npy"
    last = "the set that was there" if about_path.exists() else "none"
    with disk_errors(values, last):
        folder.mkdir(parents=True, exist_ok=True)
    with replacing(values, last) as temporary:
        count = _append(temporary, plan, blocks)
        if count != plan.count:
            raise DataError(f"{plan.stem} needs {plan.count} rows, its producer made {count}.")
    rows = plan.rows if plan.rows is not None else range(len(plan.pictures))
    listed = "".join(f"{row} {name}\n" for row, name in zip(rows, plan.pictures, strict=True))
    write_atomically(folder / f"{stem}.txt", listed)
    about = {
        "format": _FORMAT,
        "kind": plan.kind.value,
        "producer": plan.producer,
        "parameters": dict(plan.parameters),
        "dataset": plan.dataset,
        "version": plan.version,
        "pictures": len(plan.pictures),
        "rows": plan.count,
        "names": list(plan.names),
        "files": stem,
        "crosscam": __version__,
    }
    write_atomically(about_path, json.dumps(about, indent=1) + "\n")
    for left in folder.glob(f"{plan.stem}.*"):
        old = left.suffix in (".npy", ".txt") and left.name.removesuffix(left.suffix) != stem
        if old:
            left.unlink(missing_ok=True)
    return open_set(about_path)


def _append(path: Path, plan: Plan, blocks: Iterable[npt.NDArray[Any]]) -> int:
    """Write rows one after the other: a full disk is then an error, and no signal."""
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(plan.dtype)),
        "fortran_order": False,
        "shape": (plan.count, *plan.shape),
    }
    count = 0
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            if block.shape[1:] != plan.shape or block.dtype != plan.dtype:
                raise DataError(
                    f"{plan.stem} takes rows {plan.dtype} {list(plan.shape)}, its producer made "
                    f"{block.dtype} {list(block.shape[1:])}."
                )
            file.write(np.ascontiguousarray(block).data)
            count += len(block)
    return count


def open_set(about_path: Path) -> PriorSet:
    """The set that a JSON file of a prior folder describes.

    Raises:
        DataError: files of it are missing, cut or of another kind.
    """
    about = _about(about_path)
    stem = about_path.with_name(str(about["files"]))
    data, text = stem.with_name(stem.name + ".npy"), stem.with_name(stem.name + ".txt")
    try:
        values = np.load(data, mmap_mode="c", allow_pickle=False)
        lines = text.read_text(encoding="utf-8").splitlines()
        pairs = [line.split(" ", 1) for line in lines]
        rows = {name: int(row) for row, name in pairs}
    except (OSError, ValueError) as error:
        raise DataError(
            f"{about_path} cannot be used: {stem.name}.npy or .txt is missing or cut ({error}). "
            "Delete the three files and make the set again."
        ) from error
    if len(values) != about["rows"] or max(rows.values(), default=-1) >= len(values):
        raise DataError(
            f"{about_path} says {about['rows']} rows, {data.name} has {len(values)}. "
            "Delete the three files and make the set again."
        )
    return PriorSet(Prior(about["kind"]), about, values, rows)


def _about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["format"] != _FORMAT:
            raise DataError(
                f"{path} has format {about['format']}; this version reads {_FORMAT}. Make the set "
                "again."
            )
        Prior(about["kind"])
        for key in ("producer", "parameters", "dataset", "version", "pictures", "rows", "names"):
            about[key]
        if Path(str(about["files"])).name != about["files"]:
            raise ValueError("files must lie beside it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} does not describe a set of priors ({error!r}).") from error
    return dict(about)


def read_all(folder: Path) -> list[PriorSet]:
    """All sets of a folder, by kind and producer."""
    if not folder.is_dir():
        raise DataError(f"no folder of priors at {folder}. Make one: crosscam prior --help.")
    kinds = tuple(f"{kind.value}." for kind in Prior)
    return [open_set(p) for p in sorted(folder.glob("*.json")) if p.name.startswith(kinds)]


def find(folder: Path, kind: Prior, producer: str = "") -> PriorSet | None:
    """The set of a kind, or None where the folder has none.

    Args:
        folder: of the data set's priors.
        kind: masks, keypoints, surface or texture.
        producer: needed where the folder has several of the kind.

    Raises:
        DataError: no folder, several sets, or none by that producer.
    """
    if not folder.is_dir():
        raise DataError(f"no folder of priors at {folder}. Make one: crosscam prior --help.")
    there = sorted(folder.glob(f"{kind.value}.*.json"))
    makers = [p.name.removeprefix(f"{kind.value}.").removesuffix(".json") for p in there]
    if not there:
        return None
    if producer and producer not in makers:
        raise DataError(
            f"{folder} has no {kind.value} made by '{producer}'. It has: {', '.join(makers)}."
        )
    if not producer and len(there) > 1:
        raise DataError(
            f"{folder} has {kind.value} of several producers: {', '.join(makers)}. Choose one: "
            f"priors.{kind.value}={makers[0]} in a recipe, --{kind.value} {makers[0]} on the "
            "command line."
        )
    return open_set(there[makers.index(producer) if producer else 0])
