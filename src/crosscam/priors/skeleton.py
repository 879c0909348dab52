"""Part masks from keypoints: limbs as capsules, the torso as a polygon, the head as a disc.

A capsule is all that lies within a radius of a segment.  Radii are shares of the length of the
torso (shoulders to hips), measured on bodies in everyday clothes.  What is drawn later covers what
was drawn before: shins, feet, thighs, torso, arms, head.  The hips cut upper from lower: of the
torso, what lies below the line through the hips belongs to the lower clothes.

Joints may be missing: a limb needs both its ends, the torso takes the hull of the shoulders and
hips there are, and its length, where it cannot be measured, follows from the limbs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crosscam.errors import DataError
from crosscam.image import decode
from crosscam.priors import compiled
from crosscam.table import read_table
from crosscam.types import Sample
from crosscam.wording import either

__all__ = ["LABELS", "MARKET14", "VERSION", "part_maps", "read_csv"]

Floats = npt.NDArray[np.float64]

MARKET14 = (
    "head", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow",
    "left wrist", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
)  # fmt: skip
"""Joints of the public list for Market-1501; ``head`` is the top of the head."""

LABELS = (
    "background", "head", "torso", "left arm", "right arm", "bottom", "left thigh", "right thigh",
    "left leg", "right leg", "left foot", "right foot",
)  # fmt: skip
"""What the values of the maps mean."""

VERSION = 1
"""Counts changes of what is drawn, so that masks of an older drawing are made again."""

# Shares of the length of the torso.
_ARM, _THIGH, _SHIN, _FOOT = 0.12, 0.17, 0.13, 0.13
_TORSO, _SPINE, _HEAD, _NECK = 0.13, 0.22, 0.26, 0.12
_TOES = 0.12  # how far a foot reaches beyond the ankle
_LIMBS = {  # length of a limb
    ("shoulder", "elbow"): 0.58, ("elbow", "wrist"): 0.50,
    ("hip", "knee"): 0.85, ("knee", "ankle"): 0.83,
}  # fmt: skip


def part_maps(
    points: npt.NDArray[np.floating],
    joints: Sequence[str],
    size: tuple[int, int],
    least: float = 0.2,
) -> npt.NDArray[np.uint8]:
    """Label maps [N, h, w] uint8 (``LABELS``) of keypoints [N, J, 3].

    Args:
        points: x and y as shares of width and height (0 and 1 are the edges), and visibility.
        joints: names of the J joints, ``types.COCO17`` or ``MARKET14``.
        size: height and width of the maps.
        least: joints of less visibility count as missing.
    """
    body = _Body(points, joints, size, least)
    maps = np.zeros((len(points), *size), np.uint8)

    def limb(label: str, a: Floats, b: Floats, radius: float | Floats) -> None:
        compiled.capsules(maps, a, b, radius * body.unit, LABELS.index(label))

    for side in ("left", "right"):
        knee, ankle = body.at(f"{side} knee"), body.at(f"{side} ankle")
        limb(f"{side} leg", knee, ankle, _SHIN)
        down = np.where(np.isnan(knee), [0.0, 1.0], _direction(ankle - knee))
        limb(f"{side} foot", ankle, ankle + down * _TOES * body.unit[:, None], _FOOT)
    for side in ("left", "right"):
        limb(f"{side} thigh", body.at(f"{side} hip"), body.at(f"{side} knee"), _THIGH)
    corners = [body.at(f"{side} {j}") for j in ("shoulder", "hip") for side in ("left", "right")]
    torso = LABELS.index("torso")
    for a, b in combinations(corners, 2):
        limb("torso", a, b, _TORSO)
    for a, b, c in combinations(corners, 3):  # together they fill the hull
        compiled.triangles(maps, a, b, c, torso)
    shoulders = body.middle("left shoulder", "right shoulder")
    hips = body.middle("left hip", "right hip")
    limb("torso", shoulders, hips, _SPINE)
    down = np.where(np.isnan(hips - shoulders), [0.0, 1.0], hips - shoulders)
    compiled.halves(maps, hips, down, torso, LABELS.index("bottom"))
    for side in ("left", "right"):
        elbow = body.at(f"{side} elbow")
        limb(f"{side} arm", body.at(f"{side} shoulder"), elbow, _ARM)
        limb(f"{side} arm", elbow, body.at(f"{side} wrist"), _ARM)
    neck = np.where(np.isnan(body.at("neck")), shoulders, body.at("neck"))
    for center, radius in body.heads():
        limb("head", neck, center, _NECK)
        limb("head", center, center, radius)
    return maps


class _Body:
    """Joints of N people in cells of their maps; missing ones are NaN."""

    def __init__(
        self,
        points: npt.NDArray[np.floating],
        joints: Sequence[str],
        size: tuple[int, int],
        least: float,
    ) -> None:
        self.joints = {name: i for i, name in enumerate(joints)}
        height, width = size
        self.points = np.asarray(points, np.float64)[..., :2] * [width, height]
        self.points[~(np.asarray(points)[..., 2] >= max(least, 1e-6))] = np.nan
        self.unit = self._torso_length(height)  # [N]

    def at(self, name: str) -> Floats:
        """[N, 2], NaN where missing (or where the joints have no such name)."""
        if name not in self.joints:
            return np.full((len(self.points), 2), np.nan)
        found: Floats = self.points[:, self.joints[name]]
        return found

    def middle(self, *names: str) -> Floats:
        """The mean of those joints that are there."""
        return _mean([self.at(name) for name in names])

    def _torso_length(self, height: int) -> Floats:
        shoulders = self.middle("left shoulder", "right shoulder")
        hips = self.middle("left hip", "right hip")
        # Foreshortened limbs are too short and never too long, so an upper quartile.
        guesses = [
            np.linalg.norm(self.at(f"{side} {a}") - self.at(f"{side} {b}"), axis=1) / share
            for side in ("left", "right")
            for (a, b), share in _LIMBS.items()
        ]
        limbs = _quartile(np.array(guesses))
        length = np.linalg.norm(shoulders - hips, axis=1)
        # A torso bent towards the camera is short; limbs tell how long it would be.
        length = np.fmax(length, 0.6 * limbs)
        length = np.where(np.isnan(length), 0.3 * height, length)
        return np.clip(length, 0.08 * height, 0.6 * height)

    def heads(self) -> list[tuple[Floats, Floats]]:
        """Center and radius, in torsos, of discs: top of the head to neck, and the face."""
        top, neck = self.at("head"), self.at("neck")
        radius = np.linalg.norm(top - neck, axis=1) / 2 / self.unit
        ears = self.middle("left ear", "right ear")
        face = self.middle("nose", "left eye", "right eye")
        return [
            ((top + neck) / 2, np.clip(radius, 0.7 * _HEAD, 1.3 * _HEAD)),
            (np.where(np.isnan(ears), face, ears), np.full(len(radius), _HEAD)),
        ]


def _mean(points: Sequence[Floats]) -> Floats:
    """Mean of points [N, 2], over those that are there."""
    stack = np.stack(points)
    there = ~np.isnan(stack)
    total = np.where(there, stack, 0).sum(0) / np.maximum(there.sum(0), 1)
    return np.where(there.any(0), total, np.nan)


def _quartile(values: Floats) -> Floats:
    """Upper quartile over the first axis, of what is not NaN; NaN where nothing is."""
    ordered = np.sort(values, axis=0)  # NaN last
    count = (~np.isnan(values)).sum(0)
    which = np.maximum(np.ceil(0.75 * count).astype(np.int64) - 1, 0)
    found: Floats = np.take_along_axis(ordered, which[None], 0)[0]
    return found


def _direction(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Floats = vectors / np.maximum(length, 1e-9)
    return unit


def read_csv(
    path: Path, samples: Sequence[Sample], pictures: Sequence[str]
) -> tuple[npt.NDArray[np.float16], tuple[str, ...]]:
    """Keypoints [N, J, 3] of pictures from a table with columns ``file, JOINT_x, JOINT_y, ...``.

    Coordinates are pixels of the picture, the center of the first being (0, 0); an empty or
    negative one is a joint that is missing, and so are all joints of a picture without a row.  A
    column ``JOINT_visibility`` in [0, 1] may follow.

    Args:
        path: the table.
        samples: the pictures, whose size is needed.
        pictures: their names; a row is found by this name or by the file name alone.

    Returns:
        The keypoints, x and y as shares of width and height, and the names of the joints.

    Raises:
        DataError: the table cannot be read, or has none of the pictures.
    """
    table = read_table(path)
    columns = table.columns
    joints = tuple(c[:-2] for c in columns if c.endswith("_x"))
    complete = all(f"{j}_y" in columns for j in joints)
    if not len(table) or "file" not in columns or not joints or not complete:
        raise DataError(
            f"{path} must have the columns file, JOINT_x, JOINT_y for every joint and at least one "
            f"row; it has: {', '.join(columns) or 'nothing'}."
        )
    by_file = {row["file"]: row for _, row in table}
    points = np.zeros((len(pictures), len(joints), 3), np.float16)
    found = 0
    for i, name in enumerate(pictures):
        row = by_file.get(name) or by_file.get(name.rsplit("/", 1)[-1])
        if row is None:
            continue
        found += 1
        height, width = decode(samples[i].path).shape[:2]
        for j, joint in enumerate(joints):
            try:
                x, y = (float(row[f"{joint}_{axis}"] or "nan") for axis in "xy")
                seen = float(row.get(f"{joint}_visibility") or 1)
            except (TypeError, ValueError) as error:
                raise DataError(f"{path}: {joint} of {row['file']} is no number.") from error
            if x >= 0 and y >= 0:
                points[i, j] = (x + 0.5) / width, (y + 0.5) / height, min(max(seen, 0.0), 1.0)
    if not found:
        none = either(
            len(pictures), "no row for the one picture", f"none of the {len(pictures):,} pictures"
        )
        raise DataError(
            f"{path} has {none}; its first file is "
            f"'{next(iter(by_file))}', the first picture '{pictures[0]}'."
        )
    return points, tuple(joint.replace("_", " ") for joint in joints)
