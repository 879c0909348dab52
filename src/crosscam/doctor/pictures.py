"""The pictures that an encoder is examined with: those of a folder, or rendered people."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crosscam.errors import DataError
from crosscam.image import decode
from crosscam.pictures import MARKET_NAME, image_files
from crosscam.wording import counted

__all__ = ["Crops", "of_folder", "rendered"]

Pictures = npt.NDArray[np.uint8]

LEAST = 17
"""Pictures that the checks need: the largest batch they try."""

_PEOPLE, _EACH, _UNKNOWN = 40, 4, 96  # of a folder, at most


@dataclass(frozen=True)
class Crops:
    """Pictures as decoded, and who is on them where that is known."""

    title: str
    pictures: list[Pictures]  # each [h, w, 3], RGB
    people: npt.NDArray[np.int64]  # [N]; -1 is unknown
    cameras: npt.NDArray[np.int64]  # [N]; the picture's own number where it is unknown

    @property
    def labeled(self) -> bool:
        """Whether two or more people are known, from two cameras or pictures each."""
        return len(set(self.people.tolist()) - {-1}) >= 2


def rendered() -> Crops:
    """24 rendered people, each seen by 4 cameras."""
    sheet = decode((resources.files("crosscam") / "assets" / "doctor.jpg").read_bytes())
    rows, columns = sheet.shape[0] // 128, sheet.shape[1] // 64
    crops = [
        np.ascontiguousarray(sheet[128 * r : 128 * r + 128, 64 * c : 64 * c + 64])
        for c in range(columns)
        for r in range(rows)
    ]
    people = np.repeat(np.arange(columns), rows)
    cameras = np.tile(np.arange(rows), columns)
    return Crops(f"{len(crops)} pictures of {columns} rendered people", crops, people, cameras)


def of_folder(folder: Path) -> Crops:
    """Pictures below ``folder``, at most 160 of 40 people or 96 of unknown ones.

    People are known by names as in Market-1501 (``0002_c1s1_000451.jpg``: person 2, camera 1),
    or else where every picture lies in a folder of its person.

    Raises:
        DataError: no such folder, too few pictures, or some cannot be decoded.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: give a folder of pictures of people.")
    files = image_files(folder, deep=True)
    if len(files) < LEAST:
        raise DataError(
            f"{folder} has {counted(len(files), 'picture')}; {LEAST} or more are needed, of "
            "several people."
        )
    known = _known(folder, files)
    chosen = _chosen(known)
    if len(chosen) < LEAST:
        known = {}
        step = max(1, len(files) // _UNKNOWN)
        chosen = files[::step][:_UNKNOWN]
    people = np.array([known[f][0] if known else -1 for f in chosen], np.int64)
    cameras = np.array([known[f][1] if known else i for i, f in enumerate(chosen)], np.int64)
    who = counted(len(set(people.tolist())), "person", "people") if known else "unknown people"
    return Crops(
        f"{counted(len(chosen), 'picture')} of {who}", [decode(f) for f in chosen], people, cameras
    )


def _known(folder: Path, files: list[Path]) -> dict[Path, tuple[int, int]]:
    """Person and camera of the files that tell them."""
    found = {}
    for file in files:
        match = MARKET_NAME.match(file.name)
        if match and int(match["pid"]) > 0:  # -1 is junk and 0 a distractor
            found[file] = (int(match["pid"]), int(match["cam"]))
    if found:
        return found
    inside = [f.relative_to(folder).parts for f in files]
    if any(len(parts) < 2 for parts in inside):
        return {}
    numbers = {name: i for i, name in enumerate(sorted({parts[-2] for parts in inside}))}
    return {f: (numbers[p[-2]], i) for i, (f, p) in enumerate(zip(files, inside, strict=True))}


def _chosen(known: dict[Path, tuple[int, int]]) -> list[Path]:
    """Some pictures of some people, each from as many cameras as there are."""
    by_person: dict[int, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file, (person, camera) in known.items():
        by_person[person][camera].append(file)
    several = [person for person, cameras in sorted(by_person.items()) if len(cameras) > 1]
    if len(several) < 2:
        return []
    step = max(1, len(several) // _PEOPLE)
    chosen: list[Path] = []
    for person in several[::step][:_PEOPLE]:
        cameras = [list(files) for _, files in sorted(by_person[person].items())]
        mine: list[Path] = []
        while cameras and len(mine) < _EACH:
            mine.append(cameras[0].pop(0))
            cameras = [c for c in (*cameras[1:], cameras[0]) if c]
        chosen += mine
    return chosen
