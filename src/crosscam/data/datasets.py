"""The benchmarks: a parser is a function from a folder to what it holds.

``load`` is the way in.  Every parser takes the root and keyword options, reads names and lists
but opens no picture, and returns ``Parsed``: the data set, and the counts it found beside those
it should have found.  Where a count comes from stands beside it:

    [list]   counted in the official list or protocol files
    [readme] stated by the set's own readme or paper
    [loader] stated by widely used public loaders of the set

Person ids stay as the set writes them, with one exception: 0 and -1 mean distractor and junk here,
so sets that call a real person 0 (MSMT17, VIPeR) are numbered one higher.  Class labels for
training are not made here; they come from sorting the ids.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect as signatures
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from crosscam.data.cuhk03 import NEW_PROTOCOL, cuhk03
from crosscam.data.findings import Count, Finding, Parsed, finding, inspect, row
from crosscam.data.listing import (
    find_home,
    named_samples,
    read_lines,
    shuffled,
    split_folder,
)
from crosscam.data.own import from_csv, from_folder
from crosscam.errors import DataError
from crosscam.pictures import MARKET_NAME, image_files, image_names
from crosscam.types import DISTRACTOR_PID, JUNK_PID, Dataset, Protocol, Sample
from crosscam.wording import any_of, counted, either

__all__ = ["DatasetInfo", "available", "load", "options_from_text", "parse"]

SameCamera = Literal["auto", "drop", "keep"]


def load(
    name: str,
    root: str | Path,
    partial: bool = False,
    same_camera: SameCamera = "auto",
    **options: Any,
) -> Dataset:
    """Read the data set ``name`` from the folder ``root``; no picture is opened.

    ``root`` may be the set's own folder or the one around it.  ``partial=True`` accepts a subset,
    whose counts need not match.  ``same_camera`` is an option of every set: it replaces the rule
    for gallery images of the query's own person and camera (see ``Protocol``).  ``options`` are
    the set's own, listed by ``available`` and in docs/data.md.

    Raises ``DataError`` for an unknown name or option, a missing folder, a file that does not
    belong, a wrong count, an id in train and test, or queries none of which has a match.
    """
    parsed = parse(name, root, same_camera=same_camera, **options)
    errors = [f for f in inspect(parsed, partial=partial) if f.level == "error"]
    if errors:
        listed = "\n".join(f"  - {f}" for f in errors)
        raise DataError(
            f"{name} in {parsed.dataset.root} cannot be used as it is:\n{listed}\n"
            f"`crosscam data check {name} {root}` prints all counts."
        )
    return parsed.dataset


def parse(
    name: str, root: str | Path, *, same_camera: SameCamera = "auto", **options: Any
) -> Parsed:
    """Read ``name`` from ``root`` without judging it: what ``load`` and the check start from."""
    parser = _find(name).parser
    _require_known(name, parser, options)
    _fits("same_camera", same_camera, SameCamera)
    parsed = parser(Path(root).expanduser(), **options)
    if same_camera == "auto":
        return parsed
    protocol = dataclasses.replace(parsed.dataset.protocol, same_camera=same_camera)
    return dataclasses.replace(
        parsed, dataset=dataclasses.replace(parsed.dataset, protocol=protocol)
    )


class DatasetInfo(NamedTuple):
    """A data set that can be read: its name, a line about it, its options with their defaults."""

    name: str
    summary: str
    options: tuple[str, ...]


def available() -> list[DatasetInfo]:
    """Every data set that ``load`` reads."""
    return [
        DatasetInfo(
            name, e.summary, tuple(f"{k}={v.default!r}" for k, v in _options(e.parser).items())
        )
        for name, e in _SETS.items()
    ]


# --- Market-1501 and the sets laid out like it ----------------------------------------------------

_MARKET = {
    "train": Count(751, 12_936, 6),  # [readme] and counted
    "query": Count(750, 3_368, 6),  # [readme]
    # [loader] 19,732 files less 3,819 junk boxes (2,798 of the rest are distractors, id 0000: from
    # memory, and not checked)
    "gallery": Count(750, 15_913, 6),
    "gt_bbox": Count(1_501, 25_259, 6),  # [readme]
}
_DUKE = {
    "train": Count(702, 16_522, 8),  # [readme]
    "query": Count(702, 2_228, 8),  # [readme]
    "gallery": Count(1_110, 17_661, 8),  # [readme] 702 + 408 persons who are in no query
}
_OCCLUDED_DUKE = {
    "train": Count(702, 15_618, 8),  # [list]
    "query": Count(519, 2_210, 8),  # [list]
    "gallery": Count(1_110, 17_661, 8),  # [list]
}
_MARKET_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
_SPLITS = ("train", "query", "gallery")


def _market_like(
    name: str,
    home: Path,
    expected: Mapping[str, Count],
    cameras: range,
    form: str,
    variant: str = "",
) -> Parsed:
    findings: list[Finding] = []
    train, query, gallery = (
        named_samples(home / f, MARKET_NAME, form, findings) for f in _MARKET_FOLDERS
    )
    return Parsed(
        Dataset(name, home, train, query, gallery, variant=variant),
        tuple(
            row(split, samples, expected[split], str(home / folder))
            for split, samples, folder in zip(
                _SPLITS, (train, query, gallery), _MARKET_FOLDERS, strict=True
            )
        ),
        tuple(findings),
        cameras,
    )


def market1501(
    root: Path,
    *,
    multi_query: Literal["mean", "max"] | None = None,
    distractors: bool = False,
) -> Parsed:
    """Market-1501 (Zheng et al., ICCV 2015).

    ``multi_query`` pools the features of all hand-drawn boxes (``gt_bbox``) of the query's person
    and camera.  ``distractors`` adds the folder ``images`` (about 500,000) to the gallery, id 0.
    """
    home = find_home("market1501", root, _MARKET_FOLDERS, ("Market-1501-v15.09.15", "market1501"))
    parsed = _market_like(
        "market1501", home, _MARKET, range(1, 7), "0002_c1s1_000451_03.jpg (id, camera 1-6, ...)"
    )
    ds, rows, findings = parsed.dataset, list(parsed.rows), list(parsed.findings)
    junk = sum(s.pid == JUNK_PID for s in ds.gallery)
    if ds.gallery and junk != 3_819:  # [loader] 19,732 - 15,913
        findings.append(
            finding(
                "info",
                "junk-count",
                f"gallery: {counted(junk, 'junk box', 'junk boxes')} (id -1).",
                "The original folder has 3,819.",
                "Nothing to do: junk is left out of every ranking.",
            )
        )
    if distractors:
        extra = tuple(Sample(p, DISTRACTOR_PID, 0) for p in image_files(home / "images"))
        if not extra:
            raise DataError(
                f"market1501: distractors=True needs the distractor images in {home / 'images'}, "
                "and there are none. Unpack the 500k pack there, or leave the option out."
            )
        ds = dataclasses.replace(
            ds, gallery=ds.gallery + extra, variant=f"with {counted(len(extra), 'distractor')}"
        )
        parsed = dataclasses.replace(parsed, cameras=range(7))
    if multi_query is not None:
        boxes = named_samples(home / "gt_bbox", MARKET_NAME, "0001_c1s1_001051_00.jpg", findings)
        rows.append(row("gt_bbox", boxes, _MARKET["gt_bbox"], str(home / "gt_bbox")))
        asked = {(s.pid, s.camid) for s in ds.query}
        pooled = tuple(s for s in boxes if (s.pid, s.camid) in asked)
        missing = asked - {(s.pid, s.camid) for s in pooled}
        pooled += tuple(s for s in ds.query if (s.pid, s.camid) in missing)
        if missing:
            findings.append(
                finding(
                    "warning",
                    "query-without-boxes",
                    f"{counted(len(missing), 'query has', 'queries have')} no box of the same "
                    "person and camera in gt_bbox.",
                    "Multi-query pools these images.",
                    "Unpack gt_bbox again, or leave it: these queries stand for themselves.",
                    (f"id {pid} camera {cam}" for pid, cam in sorted(missing)),
                )
            )
        ds = dataclasses.replace(
            ds,
            multi_query=pooled,
            protocol=Protocol(multi_query=multi_query),
            variant=", ".join(filter(None, (ds.variant, f"multi-query ({multi_query})"))),
        )
    return dataclasses.replace(parsed, dataset=ds, rows=tuple(rows), findings=tuple(findings))


def rendered(root: Path, *, pairs: bool = False) -> Parsed:
    """People rendered by ``crosscam synth``: Market-1501's layout, any number of cameras.

    ``pairs`` takes the pictures that were rendered to be paired with a texture (``--pairs``) as
    the training set; query and gallery are then empty.
    """
    form = "0001_c1s1_000000_00.jpg (id, camera, scene, shot)"
    if pairs:
        home = find_home("rendered", root, ("pairs",), ())
        findings: list[Finding] = []
        train = named_samples(home / "pairs", MARKET_NAME, form, findings)
        line = row("train", train, Count(), str(home / "pairs"))
        return Parsed(Dataset("rendered", home, train, variant="pairs"), (line,), tuple(findings))
    home = find_home("rendered", root, _MARKET_FOLDERS, ())
    parsed = _market_like("rendered", home, dict.fromkeys(_SPLITS, Count()), range(1, 10_000), form)
    return dataclasses.replace(parsed, cameras=None)


def dukemtmc(root: Path) -> Parsed:
    """DukeMTMC-reID (Zheng et al., ICCV 2017), withdrawn by its owners; see docs/data.md."""
    home = find_home("dukemtmc", root, _MARKET_FOLDERS, ("DukeMTMC-reID", "dukemtmc-reid"))
    form = "0005_c2_f0046985.jpg (id, camera 1-8, frame)"
    return _market_like("dukemtmc", home, _DUKE, range(1, 9), form)


def occluded_duke(root: Path) -> Parsed:
    """Occluded-Duke (Miao et al., ICCV 2019), as its converter writes it."""
    home = find_home(
        "occluded-duke", root, _MARKET_FOLDERS, ("Occluded_Duke", "Occluded-DukeMTMC-Dataset")
    )
    form = "0005_c2_f0046985.jpg (id, camera 1-8, frame)"
    return _market_like("occluded-duke", home, _OCCLUDED_DUKE, range(1, 9), form)


def cuhk03_np(root: Path, *, boxes: Literal["labeled", "detected"] | None = None) -> Parsed:
    """CUHK03 in the new protocol (Zhong et al., CVPR 2017), extracted to Market-style folders.

    ``boxes`` may be left out where only one of the two is there.
    """
    both = ("labeled", "detected")
    needs = (*both, *_MARKET_FOLDERS)
    home = find_home("cuhk03-np", root, needs, ("cuhk03-np", "cuhk03-np-release", "CUHK03-NP"))
    there = [b for b in both if (home / b).is_dir()]
    if there:
        chosen = boxes or there[0]
        if boxes is None and len(there) > 1:
            raise DataError(
                f"cuhk03-np: {home} holds labeled and detected boxes. Say which with "
                "boxes=labeled or boxes=detected."
            )
        if chosen not in there:
            raise DataError(
                f"cuhk03-np: boxes={chosen} was asked for, but {home} holds only {there[0]}. "
                f"Unpack the {chosen} boxes there, or ask for boxes={there[0]}."
            )
        home = home / chosen
    else:  # pointed at the inner folder, whose name tells
        by_name = [b for b in both if b in home.resolve().name.lower()]
        if boxes is None and not by_name:
            raise DataError(
                f"cuhk03-np: the name of {home} does not tell which boxes these are. Say so with "
                "boxes=labeled or boxes=detected."
            )
        if boxes is not None and by_name and boxes not in by_name:
            raise DataError(
                f"cuhk03-np: boxes={boxes} was asked for, but the folder is called {home}. "
                f"Give the folder of the {boxes} boxes."
            )
        chosen = boxes or by_name[0]
    return _market_like(
        "cuhk03-np",
        home,
        NEW_PROTOCOL[chosen],
        range(1, 3),
        "0003_c1_01.png (id, camera 1-2, number)",
        f"{chosen}, new protocol 767/700",
    )


# --- MSMT17 ---------------------------------------------------------------------------------------

_MSMT17_TRAIN_IDS = 1_041  # [list] ids 0..1040 in the train lists, 0..3059 in the test lists
_MSMT17 = {
    # [readme] of both lists together; that they have 30,248 and 2,373 is from memory, not checked
    "train": Count(ids=1_041),
    "train + val": Count(1_041, 32_621, 15),
    "query": Count(3_060, 11_659, 15),  # [readme]
    "gallery": Count(3_060, 82_161, 15),  # [readme]
}
_MSMT17_FOLDERS = {"v1": ("train", "test"), "v2": ("mask_train_v2", "mask_test_v2")}


def msmt17(
    root: Path, *, version: Literal["v1", "v2"] | None = None, train_val: bool = False
) -> Parsed:
    """MSMT17 (Wei et al., CVPR 2018); V2 has the faces blurred.

    ``version`` may be left out where only one is there.  ``train_val`` trains on list_train and
    list_val together (32,621 images); papers do either.  The folders hold more pictures than the
    lists name; only listed ones count.  Ids here are those of the lists plus one for training and
    plus 1,042 for test, because the lists start both at 0 although the persons differ.
    """
    needs = ("list_train.txt", "list_query.txt")
    wrappers = {"v1": "MSMT17_V1", "v2": "MSMT17_V2"}
    if version is None:
        there = [v for v, w in wrappers.items() if (root / w).is_dir()]
        if len(there) > 1:
            raise DataError(
                f"msmt17: {root} holds V1 and V2. Say which with version=v1 or version=v2."
            )
        tried = tuple(wrappers[v] for v in there)
    else:
        tried = (wrappers[version],)
    home = find_home("msmt17", root, needs, tried)
    found = [v for v, (train, test) in _MSMT17_FOLDERS.items() if (home / train).is_dir()]
    if version is not None and version not in found:
        raise DataError(
            f"msmt17: version={version} was asked for, but {home} has no folder "
            f"{_MSMT17_FOLDERS[version][0]}. Give the folder of {wrappers[version]}"
            + (f", or version={found[0]}." if found else ".")
        )
    if len(found) != 1:
        raise DataError(
            f"msmt17: {home} needs either train and test (V1) or mask_train_v2 and mask_test_v2 "
            f"(V2), and has {'both' if found else 'neither'}. Unpack one version per folder."
        )
    chosen = version or found[0]
    train_folder, test_folder = (home / f for f in _MSMT17_FOLDERS[chosen])
    findings: list[Finding] = []
    there_in = {f: frozenset(image_names(f, deep=True)) for f in (train_folder, test_folder)}
    parts = {
        split: _msmt17_list(home / f"list_{split}.txt", folder, there_in[folder], offset, findings)
        for split, folder, offset in (
            ("train", train_folder, 1),
            ("val", train_folder, 1),
            ("query", test_folder, 1 + _MSMT17_TRAIN_IDS),
            ("gallery", test_folder, 1 + _MSMT17_TRAIN_IDS),
        )
    }
    train = parts["train"] + parts["val"] if train_val else parts["train"]
    variant = f"{chosen.upper()}, trained on {'train + val' if train_val else 'train without val'}"
    return Parsed(
        Dataset("msmt17", home, train, parts["query"], parts["gallery"], variant=variant),
        tuple(
            row(split, samples, _MSMT17.get(split), str(home / f"list_{split.split()[-1]}.txt"))
            for split, samples in {**parts, "train + val": parts["train"] + parts["val"]}.items()
        ),
        tuple(findings),
        range(1, 16),
    )


_MSMT17_NAME = re.compile(r"\d+_\d+_(?P<cam>\d\d)_")


def _msmt17_list(
    path: Path, folder: Path, there: frozenset[str], offset: int, findings: list[Finding]
) -> tuple[Sample, ...]:
    if not path.exists():
        return ()
    samples, unknown, missing = [], [], []
    for line in read_lines(path):
        relative, _, pid = line.rpartition(" ")
        m = _MSMT17_NAME.match(relative.rpartition("/")[2])
        if m is None or not pid.isdecimal():
            unknown.append(line)
            continue
        if relative in there:
            samples.append(Sample(folder / relative, int(pid) + offset, int(m["cam"])))
        else:
            missing.append(relative)
    if unknown:
        findings.append(
            finding(
                "error",
                "unknown-name",
                f"{counted(len(unknown), 'line')} of {path} {either(len(unknown), 'does', 'do')} "
                "not say who is shown and by which camera.",
                "A line looks like 0000/0000_000_01_0303morning_0015_0.jpg 0.",
                "Take the list as it came with the set.",
                unknown,
            )
        )
    if missing:
        findings.append(_missing(path, folder, missing))
    return tuple(samples)


def _missing(path: Path, folder: Path, missing: Sequence[str]) -> Finding:
    return finding(
        "error",
        "missing-file",
        f"{counted(len(missing), 'image')} that {path.name} names "
        f"{either(len(missing), 'is', 'are')} not in {folder}.",
        "Every listed image is needed.",
        "Unpack the images again; check that it ran to the end.",
        missing,
    )


# --- sets without cameras: a damaged query against whole persons ----------------------------------


def _partial_like(
    name: str,
    home: Path,
    folders: tuple[Path, Path],
    expected: Count,
    form: str,
    gallery_shots: int | None,
    repeats: int,
) -> Parsed:
    if gallery_shots is not None and gallery_shots < 1:
        raise DataError(
            f"{name}: gallery_shots={gallery_shots} was asked for, but a gallery needs at least 1 "
            "image a person. Leave it out to rank all of them."
        )
    if repeats < 1:
        raise DataError(f"{name}: repeats={repeats} was asked for; draw at least once.")
    findings: list[Finding] = []
    pattern = re.compile(r"(?P<pid>\d+)(?:_|\.)")
    query, gallery = (
        # Query camera 0, gallery camera 1: the number in the name counts images, not cameras.
        named_samples(folder, pattern, form, findings, camid=camid, deep=True)
        for camid, folder in enumerate(folders)
    )
    if any(s.pid == DISTRACTOR_PID for s in (*query, *gallery)):
        query, gallery = _from_one(query), _from_one(gallery)
    protocol = Protocol(
        same_camera="keep",
        gallery_shots=gallery_shots,
        shots_per="set",
        repeats=1 if gallery_shots is None else repeats,
    )
    shots = "all gallery images" if gallery_shots is None else f"{gallery_shots} per person"
    return Parsed(
        Dataset(name, home, (), query, gallery, protocol, variant=f"{shots}, no camera rule"),
        (
            row("query", query, expected, str(folders[0])),
            row("gallery", gallery, expected, str(folders[1])),
        ),
        tuple(findings),
    )


def _from_one(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    return tuple(dataclasses.replace(s, pid=s.pid + 1) for s in samples)


def partial_reid(root: Path, *, gallery_shots: int | None = None, repeats: int = 10) -> Parsed:
    """Partial-REID (Zheng et al., ICCV 2015): 60 persons, test only.

    ``gallery_shots`` draws that many whole-body images a person, ``repeats`` times, and averages.
    """
    folders = ("partial_body_images", "whole_body_images")
    home = find_home("partial-reid", root, folders, ("Partial_REID", "PartialREID", "partial_reid"))
    return _partial_like(
        "partial-reid",
        home,
        (home / folders[0], home / folders[1]),
        Count(60, 300),  # [readme] 5 partial and 5 whole images of each person
        "001_003.jpg (id, number)",
        gallery_shots,
        repeats,
    )


def partial_ilids(root: Path) -> Parsed:
    """Partial-iLIDS (Zheng et al., CVPR 2011; He et al., CVPR 2018): 119 persons, test only."""
    queries = ("query", "Probe", "probe", "partial_body_images")
    galleries = ("gallery", "Gallery", "whole_body_images")
    home = find_home(
        "partial-ilids", root, queries, ("PartialiLIDS", "Partial_iLIDS", "Partial-iLIDS")
    )
    return _partial_like(
        "partial-ilids",
        home,
        (split_folder(home, queries), split_folder(home, galleries)),
        Count(119, 119),  # [readme] one partial and one whole image of each person
        "001.jpg or 001_01.jpg (id, number)",
        None,
        1,
    )


def occluded_reid(root: Path) -> Parsed:
    """Occluded-REID (Zhuo et al., ICME 2018): 200 persons, test only."""
    queries = ("occluded_body_images", "query")
    galleries = ("whole_body_images", "gallery")
    wrappers = ("Occluded_REID", "Occluded_ReID", "OccludedREID")
    home = find_home("occluded-reid", root, queries, wrappers)
    return _partial_like(
        "occluded-reid",
        home,
        (split_folder(home, queries), split_folder(home, galleries)),
        Count(200, 1_000),  # [readme] 5 occluded and 5 whole images of each person
        "001_01.tif (id, number)",
        None,
        1,
    )


# --- VeRi-776 -------------------------------------------------------------------------------------

_VERI = {
    "train": Count(576, 37_778, 20),  # [readme]
    "query": Count(200, 1_678),  # [readme]
    "gallery": Count(200, 11_579),  # [readme]
}
_VERI_FOLDERS = ("image_train", "image_query", "image_test")


def veri776(root: Path, *, by_track: bool = False) -> Parsed:
    """VeRi-776 (Liu et al., ECCV 2016): vehicles, 20 cameras.

    ``by_track`` ranks the gallery's tracks (test_track.txt), the set's original protocol; without
    it images are ranked.  Query pictures also lie in image_test; the camera rule leaves them out.
    """
    home = find_home("veri776", root, _VERI_FOLDERS, ("VeRi", "VeRi_with_plate", "veri776"))
    pattern = re.compile(r"(?P<pid>\d+)_c(?P<cam>\d{3})_")
    form = "0001_c001_00016450_0.jpg (vehicle, camera 1-20, time, flag)"
    findings: list[Finding] = []
    train, query, gallery = (
        named_samples(home / f, pattern, form, findings) for f in _VERI_FOLDERS
    )
    if by_track:
        gallery = _with_tracks(home / "test_track.txt", gallery, findings)
    return Parsed(
        Dataset(
            "veri776",
            home,
            train,
            query,
            gallery,
            Protocol(by_track=by_track),
            "image to track" if by_track else "image to image",
        ),
        (
            row("train", train, _VERI["train"], str(home / "image_train")),
            row("query", query, _VERI["query"], str(home / "image_query")),
            row("gallery", gallery, _VERI["gallery"], str(home / "image_test")),
        ),
        tuple(findings),
        range(1, 21),
    )


def _with_tracks(
    path: Path, gallery: tuple[Sample, ...], findings: list[Finding]
) -> tuple[Sample, ...]:
    track_of: dict[str, int] = {}
    for track, line in enumerate(read_lines(path)):
        # A line is the track's name (with or without .jpg) and its images; a name that is also
        # an image of the track says nothing new.
        for token in line.split():
            if token.lower().endswith((".jpg", ".jpeg", ".png")):
                track_of.setdefault(token, track)
    lost = [s.path.name for s in gallery if s.path.name not in track_of]
    if lost:
        findings.append(
            finding(
                "error",
                "image-without-track",
                f"{counted(len(lost), 'gallery image is', 'gallery images are')} in no track of "
                f"{path}.",
                "by_track ranks tracks, so every gallery image needs one.",
                "Take test_track.txt as it came with the set, or leave by_track out.",
                lost,
            )
        )
    return tuple(dataclasses.replace(s, track=track_of.get(s.path.name, -1)) for s in gallery)


# --- small sets with random splits ----------------------------------------------------------------


def _two_views(
    name: str,
    home: Path,
    views: tuple[tuple[Sample, ...], tuple[Sample, ...]],
    test_ids: int,
    split: int,
    direction: Literal["ab", "ba"],
) -> Dataset:
    """Split the persons of two views at random; ``split`` is the seed."""
    if not 0 <= split < 10:
        raise DataError(f"{name}: split={split} was asked for, but splits run from 0 to 9.")
    ids = sorted({s.pid for view in views for s in view})
    order = shuffled((f"{pid:06d}" for pid in ids), split)
    test = {int(pid) for pid in order[:test_ids]}
    query, gallery = (
        tuple(s for s in view if s.pid in test)
        for view in (views if direction == "ab" else views[::-1])
    )
    train = tuple(s for view in views for s in view if s.pid not in test)
    way = "A to B" if direction == "ab" else "B to A"
    variant = f"random split {split}, {len(ids) - len(test)}/{len(test)} ids, {way}"
    return Dataset(name, home, train, query, gallery, variant=variant)


def viper(root: Path, *, split: int = 0, direction: Literal["ab", "ba"] = "ab") -> Parsed:
    """VIPeR (Gray et al., PETS 2007): 632 persons, one image in each of two views.

    ``split`` 0..9 are this package's own random halves; average all ten in both directions.
    """
    home = find_home("viper", root, ("cam_a", "cam_b"), ("VIPeR", "VIPeR.v1.0"))
    pattern = re.compile(r"(?P<pid>\d+)_\d+")
    form = "000_45.bmp (id, angle)"
    findings: list[Finding] = []
    a, b = (
        _from_one(named_samples(home / f"cam_{v}", pattern, form, findings, camid=camid))
        for camid, v in enumerate("ab", start=1)
    )
    half = len({s.pid for s in (*a, *b)}) // 2
    ds = _two_views("viper", home, (a, b), half, split, direction)
    return Parsed(
        ds,
        (
            row("cam_a", a, Count(632, 632, 1), str(home / "cam_a")),  # [readme]
            row("cam_b", b, Count(632, 632, 1), str(home / "cam_b")),  # [readme]
            row("train", ds.train),
            row("query", ds.query),
            row("gallery", ds.gallery),
        ),
        tuple(findings),
    )


def cuhk01(
    root: Path,
    *,
    split: int = 0,
    direction: Literal["ab", "ba"] = "ab",
    test_ids: Literal[486, 100] = 486,
) -> Parsed:
    """CUHK01 (Li et al., ACCV 2012): 971 persons, two images in each of two views.

    ``split`` 0..9 are this package's own random splits, 485/486 or (``test_ids=100``) 871/100.
    """
    home = find_home("cuhk01", root, ("campus",), ("CUHK01", "cuhk01"))
    pattern = re.compile(r"(?P<pid>\d{4})(?P<cam>\d{3})\.")
    form = "0001001.png (id in four digits, image 1-4 in three)"
    findings: list[Finding] = []
    # Images 1 and 2 are view A, 3 and 4 view B.
    every = tuple(
        dataclasses.replace(s, camid=(s.camid + 1) // 2)
        for s in named_samples(home / "campus", pattern, form, findings)
    )
    a, b = (tuple(s for s in every if s.camid == view) for view in (1, 2))
    ds = _two_views("cuhk01", home, (a, b), test_ids, split, direction)
    return Parsed(
        ds,
        (
            row("all", every, Count(971, 3_884, 2), str(home / "campus")),  # [readme]
            row("train", ds.train),
            row("query", ds.query),
            row("gallery", ds.gallery),
        ),
        tuple(findings),
        range(1, 3),
    )


# --- names and options ----------------------------------------------------------------------------


class _Set(NamedTuple):
    parser: Callable[..., Parsed]
    summary: str


_SETS: dict[str, _Set] = {
    "market1501": _Set(market1501, "Market-1501: 1,501 persons, 6 cameras, 32,668 images"),
    "msmt17": _Set(msmt17, "MSMT17 V1 or V2: 4,101 persons, 15 cameras, 126,441 images"),
    "cuhk03": _Set(
        cuhk03, "CUHK03 from cuhk-03.mat: new protocol 767/700 or the 20 classic splits"
    ),
    "cuhk03-np": _Set(cuhk03_np, "CUHK03 new protocol, extracted to Market-style folders"),
    "occluded-duke": _Set(occluded_duke, "Occluded-Duke: all queries occluded (see dukemtmc)"),
    "partial-reid": _Set(partial_reid, "Partial-REID: 60 persons, test only"),
    "partial-ilids": _Set(partial_ilids, "Partial-iLIDS: 119 persons, test only"),
    "occluded-reid": _Set(occluded_reid, "Occluded-REID: 200 persons, test only"),
    "veri776": _Set(veri776, "VeRi-776: 776 vehicles, 20 cameras, image to image or to track"),
    "cuhk01": _Set(cuhk01, "CUHK01: 971 persons, two views, ten random splits"),
    "viper": _Set(viper, "VIPeR: 632 persons, two views, ten random splits"),
    "dukemtmc": _Set(dukemtmc, "DukeMTMC-reID: withdrawn by its owners; read if you have it"),
    "rendered": _Set(rendered, "people rendered by crosscam synth"),
    "folder": _Set(from_folder, "your own pictures: one folder per person"),
    "csv": _Set(from_csv, "your own pictures: a list with the columns path,pid,camid,split"),
}


def _find(name: str) -> _Set:
    if name in _SETS:
        return _SETS[name]
    raise DataError(
        f"there is no data set called {name!r}.{_suggest(name, list(_SETS))} "
        f"Known: {', '.join(_SETS)}."
    )


def _suggest(word: str, known: Sequence[str]) -> str:
    plain = {re.sub(r"[^a-z0-9]", "", k.lower()): k for k in known}
    close = difflib.get_close_matches(re.sub(r"[^a-z0-9]", "", word.lower()), plain, 1, 0.5)
    return f" Did you mean {plain[close[0]]!r}?" if close else ""


def _options(parser: Callable[..., Parsed]) -> dict[str, signatures.Parameter]:
    parameters = signatures.signature(parser).parameters
    return {k: p for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _require_known(name: str, parser: Callable[..., Parsed], options: Mapping[str, Any]) -> None:
    known = _options(parser)
    hints = typing.get_type_hints(parser)
    for key, value in options.items():
        if key not in known:
            takes = [*known, "same_camera"]
            raise DataError(
                f"the data set {name} has no option {key!r}.{_suggest(key, takes)} It takes: "
                f"{', '.join(takes)}."
            )
        _fits(key, value, hints[key])


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the hint itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _fits(key: str, value: Any, hint: Any) -> None:
    words: list[str] = []
    for kind in _alternatives(hint):
        if typing.get_origin(kind) is Literal:
            if any(value == v and type(value) is type(v) for v in typing.get_args(kind)):
                return
            words += [repr(v) for v in typing.get_args(kind)]
        elif kind is types.NoneType:
            if value is None:
                return
            words.append("None")
        elif kind is float and type(value) in (int, float):
            return
        elif kind is bool or kind is int:
            if type(value) is kind:
                return
            words.append("true or false" if kind is bool else "a whole number")
        elif isinstance(value, kind):
            return
        else:
            words.append("a number" if kind is float else f"a {kind.__name__}")
    known = [w.strip("'") for w in words if w.startswith("'")]
    hint_text = _suggest(value, known) if isinstance(value, str) else ""
    raise DataError(f"option {key}={value!r} cannot be used.{hint_text} Needed: {any_of(words)}.")


def options_from_text(name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Options of the data set ``name`` from ``key=value`` words of a command line.

    ``["split=3", "boxes=labeled"]`` becomes ``{"split": 3, "boxes": "labeled"}``.
    """
    parser = _find(name).parser
    hints = typing.get_type_hints(parser) | {"same_camera": SameCamera}
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise DataError(f"{pair!r} is no option of a data set. Write key=value: split=3.")
        known = key in _options(parser) or key == "same_camera"
        options[key] = _from_text(text, hints[key]) if known else text
    _require_known(name, parser, {k: v for k, v in options.items() if k != "same_camera"})
    _fits("same_camera", options.get("same_camera", "auto"), SameCamera)
    return options


def _from_text(text: str, hint: Any) -> Any:
    kinds = _alternatives(hint)
    if types.NoneType in kinds and text.lower() in ("none", "null", ""):
        return None
    if bool in kinds and text.lower() in ("true", "yes", "false", "no"):
        return text.lower() in ("true", "yes")
    values = [v for k in kinds if typing.get_origin(k) is Literal for v in typing.get_args(k)]
    for kind in (int, float):
        if kind in kinds or any(type(v) is kind for v in values):
            try:
                return kind(text)
            except ValueError:
                continue
    return Path(text) if Path in kinds else text
