"""A whole data set of rendered people, in the layout of Market-1501 with ground truth beside it.

    OUT/bounding_box_train/PPPP_cCsS_FFFFFF_BB.jpg   and query/, bounding_box_test/ (pairs/)
    OUT/labels/<split>/<same name>.png               visible part, and the person behind occluders
    OUT/labels/<split>/<same name>.iuv.png           place of each pixel on the texture, half size
    OUT/labels/annotations.npz                       one row an image: joints, yaw, occlusion, ...
    OUT/textures/PPPP.jpg, valid.png                 256 x 256, and the chart all of them share
    OUT/identities.jsonl, OUT/manifest.json          who was drawn, and all it was drawn with

One task renders one person (or a batch of distractors) and ends by writing a shard of rows under
``OUT/.shards``; a run that was broken off goes on with the tasks whose shard is missing.  Every
picture comes from its own seed, so the bytes do not depend on workers, order or interruptions.
Memory: about 300 MB a worker, whatever the size of the set.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from crosscam import __version__
from crosscam.errors import DataError, InputError
from crosscam.files import write_atomically
from crosscam.synth.camera import Camera, draw_camera
from crosscam.synth.closet import LICENSE as ASSET_LICENSE
from crosscam.synth.closet import Closet, open_closet
from crosscam.synth.identity import Identity, draw_identity
from crosscam.synth.person import Person, make_person, texture_mask
from crosscam.synth.render import Look, Shot, encode, passer, render_shot
from crosscam.types import BODY_PARTS, COCO17
from crosscam.wording import counted

__all__ = [
    "LICENSE",
    "PRESETS",
    "Labels",
    "Preset",
    "read_annotations",
    "read_labels",
    "read_texture",
    "synthesize",
]

Array = npt.NDArray[Any]

LICENSE = (
    "Rendered by crosscam (Apache-2.0) from the MakeHuman base mesh, shape targets, rig and UV "
    "chart (CC0 1.0). No picture of a real person and no trained model was used. The images, "
    "labels and textures of this set are dedicated to the public domain (CC0 1.0)."
)

BATCH = 40  # distractors a task


@dataclass(frozen=True)
class Preset:
    """What kind of benchmark a set is."""

    note: str
    train: Look = field(default_factory=Look)
    query: Look = field(default_factory=Look)
    gallery: Look = field(default_factory=Look)
    two_families: bool = False  # other cameras and looks for the test identities
    outfits: int = 1
    distractors: float = 0.2  # per gallery image
    junk: float = 0.05


_CLEAN = Look(occluder=0.0, neighbors=(0.6, 0.4, 0.0), neighbor_front=0.0, misalign=0.6, cut=0.0)

PRESETS: dict[str, Preset] = {
    "market-like": Preset("street cameras, detector boxes, distractors and junk"),
    "occluded": Preset(
        "occluded queries, whole gallery, as in Occluded-Duke",
        train=Look(occluder=0.45, occluder_cover=(0.2, 0.6), neighbor_front=0.3),
        query=Look(occluder=0.85, occluder_cover=(0.3, 0.65), neighbors=(0.3, 0.5, 0.2),
                   neighbor_front=0.7, cut=0.0),
        gallery=_CLEAN,
        distractors=0.0,
        junk=0.0,
    ),
    "partial": Preset(
        "queries show a part of the body, gallery the whole, as in Partial-REID",
        train=Look(cut=0.25),
        query=Look(partial=(0.35, 0.7), occluder=0.0, neighbor_front=0.0),
        gallery=_CLEAN,
        distractors=0.0,
        junk=0.0,
    ),
    "cross-domain": Preset(
        "soft cameras for training, harsh ones for the test", two_families=True
    ),
    "cloth-change": Preset(
        "two outfits a person; queries wear the second, the gallery the first",
        outfits=2,
        distractors=0.0,
        junk=0.0,
    ),
}  # fmt: skip

_PAIR_LOOK = Look(
    occluder=0.0, neighbors=(0.7, 0.3, 0.0), neighbor_front=0.0, misalign=0.4, cut=0.0
)


@dataclass(frozen=True)
class _Plan:
    """All that decides the bytes of a set."""

    ids: int
    cameras: int
    shots: int
    preset: str
    seed: int
    pairs: int
    families: float
    train_share: float
    distractors: int
    junk: int
    assets: str = ""  # folder of garments and hair
    seen: int = 0  # cameras that see a person; 0 is all

    @property
    def closet(self) -> Closet | None:
        """The garments people wear beside our own."""
        return open_closet(Path(self.assets)) if self.assets else None

    def person(self, index: int, outfit: int = 0) -> Person:
        """One of the people of the set."""
        return make_person(self.who(index, outfit), self.closet)

    def who(self, index: int, outfit: int = 0) -> Identity:
        """Who that is."""
        return draw_identity(self.seed, index, outfit, self.families, self.closet)

    @property
    def train_ids(self) -> int:
        return round(self.ids * self.train_share)

    def tasks(self) -> list[tuple[str, int]]:
        """(kind, number) of every piece of work."""
        people = [("person", i) for i in range(self.ids)]
        return people + [
            (kind, i)
            for kind, count in (("distractor", self.distractors), ("junk", self.junk))
            for i in range(-(-count // BATCH))
        ]


@dataclass(frozen=True)
class Labels:
    """Ground truth of one image, pixel by pixel."""

    part: Array  # [256, 128] uint8, 0..16 (names: ``crosscam.types.BODY_PARTS``)
    person: Array  # [256, 128] bool, amodal: also where something stands before the person
    iuv: Array  # [128, 64, 3] uint8: body part 1..10 (0 none), column, row of the texture


def synthesize(
    out: Path | str,
    ids: int = 100,
    cameras: int = 6,
    shots: int = 4,
    preset: str = "market-like",
    seed: int = 0,
    workers: int = 1,
    pairs: int = 0,
    families: float = 0.3,
    train_share: float = 0.5,
    distractors: int | None = None,
    junk: int | None = None,
    assets: Path | str | None = None,
    seen: int = 0,
    progress: bool = True,
) -> Path:
    """Render a data set into ``out`` and return that folder.

    Each of ``ids`` people is seen by each of ``cameras`` cameras ``shots`` times, or by ``seen``
    of them, drawn for each person (0: by all); the first ``train_share`` of the people are for
    training.  ``pairs`` more pictures a training identity, whole
    and unoccluded, go to ``pairs/`` (pairs of picture and texture, as SAN's decoder is trained
    on).  ``families`` is the share of people in groups of near-identical outfits.  ``distractors``
    and ``junk`` are counts of gallery boxes (default: the preset's share).  ``assets`` is
    a copy of MakeHuman's asset folder, whose garments and hair most people then wear.  The same
    arguments give the same bytes; a folder begun with other arguments is an error.
    """
    plan = _check(
        ids, cameras, shots, preset, seed, pairs, families, train_share, distractors, junk, assets,
        seen,
    )  # fmt: skip
    root = Path(out)
    manifest = _manifest(plan)
    path = root / "manifest.json"
    if path.exists():
        if path.read_text() != manifest:
            raise DataError(
                f"{root} holds a rendered set made with other settings (see its manifest.json). "
                "Choose another folder, or delete this one."
            )
        if (root / "labels" / "annotations.npz").exists():
            return root
    elif root.exists() and any(root.iterdir()):
        raise DataError(
            f"{root} is not empty and holds no rendered set. Give an empty or a new folder."
        )
    for split in _splits(plan):
        (root / split).mkdir(parents=True, exist_ok=True)
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
    (root / "textures").mkdir(exist_ok=True)
    (root / ".shards").mkdir(exist_ok=True)
    valid = Image.fromarray(texture_mask().astype(np.uint8) * 255)
    valid.save(root / "textures" / "valid.png")
    write_atomically(path, manifest)
    todo = [t for t in plan.tasks() if not _shard(root, *t).exists()]
    for _ in _track(_run(root, plan, todo, max(1, workers)), len(todo), progress):
        pass
    _merge(root, plan)
    return root


def _check(
    ids: int,
    cameras: int,
    shots: int,
    preset: str,
    seed: int,
    pairs: int,
    families: float,
    train_share: float,
    distractors: int | None,
    junk: int | None,
    assets: Path | str | None,
    seen: int,
) -> _Plan:
    if preset not in PRESETS:
        raise InputError(f"there is no preset '{preset}'. Choose from: {', '.join(PRESETS)}.")
    for name, value, least in (
        ("ids", ids, 1), ("cameras", cameras, 1), ("shots", shots, 1), ("pairs", pairs, 0),
        ("seed", seed, 0), ("distractors", distractors or 0, 0), ("junk", junk or 0, 0),
        ("seen", seen, 0),
    ):  # fmt: skip
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}.")
    if seen > cameras:
        raise InputError(
            f"seen={seen} of {counted(cameras, 'camera')} cannot be: give at most the number of "
            "cameras, or 0 for all of them."
        )
    for name, share in (("families", families), ("train_share", train_share)):
        if not 0 <= share <= 1:
            raise InputError(f"{name} is a share and must be in 0..1, got {share}.")
    if ids > 999_999:
        raise InputError(f"at most 999,999 people fit the seeds of one set, got ids={ids}.")
    kind = PRESETS[preset]
    gallery = (ids - round(ids * train_share)) * (seen or cameras) * max(shots - 1, 1)
    return _Plan(
        ids, cameras, shots, preset, seed, pairs, families, train_share,
        round(gallery * kind.distractors) if distractors is None else distractors,
        round(gallery * kind.junk) if junk is None else junk,
        "" if assets is None else str(Path(assets).resolve()), seen,
    )  # fmt: skip


def _splits(plan: _Plan) -> list[str]:
    return ["bounding_box_train", "query", "bounding_box_test"] + ["pairs"] * (plan.pairs > 0)


def _cameras(plan: _Plan) -> list[tuple[str, Camera]]:
    """(which identities it sees: train, test or all; camera)."""
    if not PRESETS[plan.preset].two_families:
        return [("all", draw_camera(plan.seed, n + 1)) for n in range(plan.cameras)]
    return [
        (use, draw_camera(plan.seed, first + n, family))
        for use, first, family in (("train", 1, 0), ("test", plan.cameras + 1, 1))
        for n in range(plan.cameras)
    ]


def _manifest(plan: _Plan) -> str:
    cameras = []
    for use, camera in _cameras(plan):
        cameras.append({"use": use, **dataclasses.asdict(camera), "matrix": camera.matrix.tolist()})
    settings = dataclasses.asdict(plan)
    del settings["assets"]  # where the folder lies decides nothing, what is in it does
    if not plan.seen:
        del settings["seen"]  # a set begun before there was a choice goes on
    closet = plan.closet
    content = {
        "format": 2,
        "generator": f"crosscam {__version__}",
        "license": LICENSE,
        "settings": settings,
        "assets": None
        if closet is None
        else {
            "license": ASSET_LICENSE,
            "sha256": closet.digest,
            "garments": {g.name: g.kind for g in closet.garments.values()},
        },
        "preset": dataclasses.asdict(PRESETS[plan.preset]),
        "parts": list(BODY_PARTS),
        "keypoints": list(COCO17),
        "cameras": cameras,
    }
    return json.dumps(content, indent=1) + "\n"


def _shard(root: Path, kind: str, number: int) -> Path:
    return root / ".shards" / f"{kind}-{number:06d}.npz"


def _run(
    root: Path, plan: _Plan, todo: list[tuple[str, int]], workers: int
) -> Iterator[tuple[str, int]]:
    jobs = [(str(root), plan, *task) for task in todo]
    if workers == 1 or len(jobs) < 2:
        yield from map(_work, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool:
        yield from pool.imap_unordered(_work, jobs)


def _track(steps: Iterator[tuple[str, int]], total: int, show: bool) -> Iterator[tuple[str, int]]:
    if not show or not total:
        yield from steps
        return
    from rich.progress import track

    yield from track(steps, "rendering people", total)


@dataclass
class _Row:
    name: str
    pid: int
    camid: int
    outfit: int
    family: int
    shot: Shot


def _work(job: tuple[str, _Plan, str, int]) -> tuple[str, int]:
    """Render one task and write its files; runs in a worker."""
    root, plan, kind, number = Path(job[0]), job[1], job[2], job[3]
    rows = (
        _render_person(root, plan, number)
        if kind == "person"
        else _render_boxes(root, plan, kind, number)
    )
    arrays = {
        "name": np.array([r.name for r in rows]),
        "pid": np.array([r.pid for r in rows], np.int32),
        "camid": np.array([r.camid for r in rows], np.int16),
        "outfit": np.array([r.outfit for r in rows], np.uint8),
        "family": np.array([r.family for r in rows], np.int32),
        "scene": np.array([r.shot.scene for r in rows], np.uint8),
        "keypoints": np.array([r.shot.keypoints for r in rows], np.float16).reshape(-1, 17, 3),
        "yaw": np.array([r.shot.yaw for r in rows], np.float16),
        "occlusion": np.array([r.shot.occlusion for r in rows], np.float16),
        "native": np.array([r.shot.native for r in rows], np.float16),
        "pose": np.array([r.shot.pose for r in rows]),
    }
    path = _shard(root, kind, number)
    scratch = path.with_suffix(".tmp.npz")
    np.savez(scratch, allow_pickle=False, **arrays)
    scratch.replace(path)
    return kind, number


def _write(root: Path, split: str, stem: str, shot: Shot) -> str:
    files = encode(shot)
    (root / split / f"{stem}.jpg").write_bytes(files["jpg"])
    (root / "labels" / split / f"{stem}.png").write_bytes(files["png"])
    (root / "labels" / split / f"{stem}.iuv.png").write_bytes(files["iuv"])
    return f"{split}/{stem}.jpg"


def _write_texture(root: Path, stem: str, person: Person) -> None:
    color, _ = person.texture()
    coded = simplejpeg.encode_jpeg(color, quality=90, colorsubsampling="444")
    (root / "textures" / f"{stem}.jpg").write_bytes(coded)


def _render_person(root: Path, plan: _Plan, index: int) -> list[_Row]:
    preset = PRESETS[plan.preset]
    train = index < plan.train_ids
    pid = index + 1
    people = [plan.person(index, o) for o in range(preset.outfits)]
    whos = [person.who for person in people]
    for o, person in enumerate(people):
        _write_texture(root, f"{pid:04d}" + (f"_{o}" if preset.outfits > 1 else ""), person)
    rows = []
    cameras = _cameras_of(plan, index)
    for place, camera in enumerate(cameras):
        for shot in range(plan.shots):
            if train:
                split, look, outfit = "bounding_box_train", preset.train, shot % preset.outfits
            elif shot == 0 and (plan.shots > 1 or place == index % len(cameras)):
                split, look, outfit = "query", preset.query, preset.outfits - 1
            else:
                split, look, outfit = "bounding_box_test", preset.gallery, 0
            picture = render_shot(people[outfit], camera, shot, look)
            stem = f"{pid:04d}_c{camera.number}s{picture.scene + 1}_{shot:06d}_00"
            name = _write(root, split, stem, picture)
            rows.append(_Row(name, pid, camera.number, outfit, whos[outfit].family, picture))
    for k in range(plan.pairs if train else 0):
        camera = cameras[k % len(cameras)]
        picture = render_shot(people[0], camera, 10_000 + k, _PAIR_LOOK)
        stem = f"{pid:04d}_c{camera.number}s{picture.scene + 1}_{10_000 + k:06d}_00"
        name = _write(root, "pairs", stem, picture)
        rows.append(_Row(name, pid, camera.number, 0, whos[0].family, picture))
    return rows


def _cameras_of(plan: _Plan, index: int) -> list[Camera]:
    """The cameras that see a person, by number."""
    use = "train" if index < plan.train_ids else "test"
    cameras = [c for whose, c in _cameras(plan) if whose in ("all", use)]
    if not plan.seen:
        return cameras
    drawn = np.random.default_rng([plan.seed, 32, index]).permutation(len(cameras))[: plan.seen]
    return [cameras[k] for k in np.sort(drawn)]


def _render_boxes(root: Path, plan: _Plan, kind: str, number: int) -> list[_Row]:
    """Gallery boxes that match nobody: distractors (id 0) and junk (id -1)."""
    total = plan.distractors if kind == "distractor" else plan.junk
    cameras = [c for use, c in _cameras(plan) if use in ("all", "test")]
    rows = []
    people: dict[int, Person] = {}
    for k in range(number * BATCH, min((number + 1) * BATCH, total)):
        rng = np.random.default_rng([plan.seed, 30 if kind == "distractor" else 31, k])
        camera = cameras[int(rng.integers(len(cameras)))]
        if kind == "distractor":
            person = passer(plan.seed, int(rng.integers(1000)))
            sort = rng.random()
            look = (
                Look(absent=True, misalign=3.0)
                if sort < 0.4
                else Look(misalign=6.0, cut=0.1)
                if sort < 0.8
                else Look()
            )
        else:  # a bad box of someone who is in the gallery
            first = min(plan.train_ids, plan.ids - 1)
            who = first + int(rng.integers(plan.ids - first)) // 8 * 8 % (plan.ids - first)
            if who not in people:
                people[who] = plan.person(who)
            person, look = people[who], Look(misalign=6.0, cut=0.1)
        shot = 20_000 + k
        picture = render_shot(person, camera, shot, look)
        pid, tag = (0, "0000") if kind == "distractor" else (-1, "-1")
        stem = f"{tag}_c{camera.number}s{picture.scene + 1}_{shot:06d}_00"
        name = _write(root, "bounding_box_test", stem, picture)
        rows.append(_Row(name, pid, camera.number, 0, -1, picture))
    return rows


def _merge(root: Path, plan: _Plan) -> None:
    """Join the shards in the order of names, and list who was drawn."""
    parts = []
    for task in plan.tasks():
        with np.load(_shard(root, *task), allow_pickle=False) as data:
            parts.append({k: data[k] for k in data.files})
    joined = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    order = np.argsort(joined["name"], kind="stable")
    np.savez_compressed(
        root / "labels" / "annotations.npz",
        allow_pickle=False,
        **{k: v[order] for k, v in joined.items()},
    )
    with (root / "identities.jsonl").open("w") as file:
        for index in range(plan.ids):
            for outfit in range(PRESETS[plan.preset].outfits):
                line = {"pid": index + 1, **dataclasses.asdict(plan.who(index, outfit))}
                file.write(json.dumps(line) + "\n")
    shutil.rmtree(root / ".shards")


def read_labels(root: Path | str, name: str) -> Labels:
    """Ground truth of the image ``name``, as annotations write it (``query/0007_c1s2_....jpg``)."""
    stem = Path(root) / "labels" / name.removesuffix(".jpg")
    paths = [stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".iuv.png")]
    for path in paths:
        if not path.is_file():
            raise DataError(f"no labels {path}: '{name}' is not an image of the set in {root}.")
    with Image.open(paths[0]) as labels, Image.open(paths[1]) as iuv:
        packed = np.asarray(labels)
        return Labels(packed & 31, (packed & 32) > 0, np.asarray(iuv))


def read_texture(root: Path | str, pid: int, outfit: int | None = None) -> tuple[Array, Array]:
    """(color [256, 256, 3] uint8, valid [256, 256] bool) of person ``pid``.

    ``outfit`` is needed where people have several.  Texels that are not valid are off the body.
    """
    folder = Path(root) / "textures"
    path = folder / (f"{pid:04d}.jpg" if outfit is None else f"{pid:04d}_{outfit}.jpg")
    if not path.is_file():
        raise DataError(
            f"no texture {path}. Person ids are in labels/annotations.npz; sets with several "
            "outfits a person need the outfit's number."
        )
    with Image.open(folder / "valid.png") as mask:
        valid = np.asarray(mask) > 0
    return simplejpeg.decode_jpeg(path.read_bytes()), valid


def read_annotations(root: Path | str) -> dict[str, Array]:
    """All rows of ``labels/annotations.npz``: name, pid, camid, outfit, family, scene,
    keypoints [N, 17, 3] (pixels, visibility 0 outside, 1 hidden, 2 seen), yaw (degrees),
    occlusion (share), native (pixels), pose."""
    path = Path(root) / "labels" / "annotations.npz"
    if not path.is_file():
        raise DataError(
            f"{root} holds no finished rendered set (no labels/annotations.npz). "
            "Run the same synth command again: it goes on where it stopped."
        )
    with np.load(path, allow_pickle=False) as data:
        return {k: data[k] for k in data.files}
