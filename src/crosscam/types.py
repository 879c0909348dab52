"""The nouns everything else is written in.

``Sample`` is one labeled picture, ``Dataset`` the splits of a benchmark, ``Protocol`` how a
ranking on it is judged, ``Batch`` what a method learns from, ``Ranking`` what a search returns.
Nothing here imports torch at run time.

Letters used for shapes: B batch, N images, Q queries, G gallery, D feature size, K parts,
J joints, H W image height and width in pixels, h w cells of a map.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from crosscam.errors import DataError, InputError

if TYPE_CHECKING:
    import torch

__all__ = ["Batch", "Dataset", "Prior", "Protocol", "Ranking", "Sample"]

JUNK_PID = -1
"""Person id of boxes that are neither right nor wrong; they are dropped before ranking."""

DISTRACTOR_PID = 0
"""Person id of Market-1501 distractors: they stay in the gallery and match nobody."""

BODY_PARTS = (
    "background",
    "head",
    "torso",
    "left arm",
    "right arm",
    "left hand",
    "right hand",
    "left leg",
    "right leg",
    "left foot",
    "right foot",
    "hair",
    "top",
    "bottom",
    "shoes",
    "bag",
    "hat",
)
"""Labels of a part map by number; 1 to 10 are bare skin, and the parts of an IUV map."""

COCO17 = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder",
    "left elbow", "right elbow", "left wrist", "right wrist", "left hip", "right hip",
    "left knee", "right knee", "left ankle", "right ankle",
)  # fmt: skip
"""The 17 joints of COCO, in order."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labeled picture."""

    path: Path
    pid: int  # person (or vehicle) id as the data set writes it; -1 junk
    camid: int = 0  # camera id as the data set writes it; 0 where cameras are unknown
    track: int = -1  # track id where the data set has tracks, else -1


@dataclass(frozen=True, slots=True)
class Protocol:
    """How rankings on a data set are judged (what is junk, what is drawn, what is averaged).

    ``same_camera="drop"`` removes gallery images of the query's own person *and* camera from
    that query's ranking (Market-1501 rule); ``"keep"`` has no camera rule (partial sets, data
    without cameras).  ``gallery_shots=None`` ranks the whole gallery; a number N draws N gallery
    images per person, ``repeats`` times, and averages.  ``shots_per`` says when the draw is made:
    once for all queries (``"set"``, partial sets) or per query (``"query"``, CUHK03 classic).
    ``multi_query`` pools the features of all images of the query's person and camera.
    ``by_track`` ranks gallery tracks, a track's distance being its nearest image's (VeRi-776).
    """

    same_camera: Literal["drop", "keep"] = "drop"
    gallery_shots: int | None = None
    shots_per: Literal["set", "query"] = "set"
    repeats: int = 1
    multi_query: Literal["mean", "max"] | None = None
    by_track: bool = False

    def text(self) -> str:
        """The rules in words, as "own camera left out"."""
        rules = ["own camera left out" if self.same_camera == "drop" else "no camera rule"]
        if self.gallery_shots is not None:
            per = " for each query" if self.shots_per == "query" else ""
            rules.append(f"{self.gallery_shots} gallery a person{per}, {self.repeats} draws")
        if self.multi_query:
            rules.append(f"multi-query, {self.multi_query}")
        if self.by_track:
            rules.append("gallery of tracks")
        return ", ".join(rules)


@dataclass(frozen=True)
class Dataset:
    """The splits of a benchmark.  ``train`` ids and test ids never meet.

    ``train`` may be empty (test-only sets), ``query`` and ``gallery`` may be empty (sets given
    for training only).  ``multi_query`` holds the extra query images of Market's ``gt_bbox``.
    ``variant`` names version and split ("detected, new protocol 767/700").
    """

    name: str
    root: Path
    train: tuple[Sample, ...] = ()
    query: tuple[Sample, ...] = ()
    gallery: tuple[Sample, ...] = ()
    protocol: Protocol = field(default_factory=Protocol)
    variant: str = ""
    multi_query: tuple[Sample, ...] = ()

    @property
    def title(self) -> str:
        """Name and variant; of a user's own or rendered data, its folder or file."""
        own = self.root.name if self.name in ("csv", "folder", "rendered") else self.variant
        return f"{self.name} {own}".rstrip() if own != self.name else self.name

    def require_train(self) -> tuple[Sample, ...]:
        """The training samples, or a ``DataError`` that says the set has none."""
        if not self.train:
            raise DataError(
                f"{self.name} ({self.root}) has no training images. Train on another set and "
                "evaluate here; pictures of your own need two persons or more, some of them to "
                "train on (train_fraction, or train in the column split)."
            )
        return self.train

    def require_test(self) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
        """(query, gallery), or a ``DataError`` that says which of them is empty."""
        for split, samples in (("query", self.query), ("gallery", self.gallery)):
            if not samples:
                raise DataError(
                    f"{self.name} ({self.root}) has no {split} images, and evaluation needs both "
                    "query and gallery. Use a data set with both, or a CSV with a split column."
                )
        return self.query, self.gallery


class Prior(enum.Enum):
    """What may guide training next to the picture, and is thrown away at test."""

    MASKS = "masks"  # [B, K, H, W] float in [0, 1], one channel a part
    KEYPOINTS = "keypoints"  # [B, J, 3] x and y in pixels of the image, visibility in [0, 1]
    SURFACE = "surface"  # [B, 3, h, w] place on the body at rest in meters, NaN where none is
    TEXTURE = "texture"  # [B, 3, T, T] float in [-1, 1], UV texture of the whole body


@dataclass(frozen=True)
class Batch:
    """What a method learns from: pictures, who they show, and the priors it asked for."""

    images: torch.Tensor  # [B, 3, H, W] float32, RGB, normalized
    pids: torch.Tensor  # [B] int64, class labels 0..num_classes-1
    camids: torch.Tensor  # [B] int64, camera ids as the data set writes them
    priors: Mapping[Prior, torch.Tensor] = field(default_factory=dict)
    pairs: Batch | None = None  # rendered pictures with exact priors that come along
    labels: Sequence[int] | None = None  # pids once more, on the host, for what is drawn by them

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3:
            raise InputError(
                f"Batch.images must be [B, 3, H, W], got {list(self.images.shape)}. "
                "Stack RGB pictures of one size."
            )
        n = self.images.shape[0]
        for name in ("pids", "camids"):
            shape = list(getattr(self, name).shape)
            if shape != [n]:
                raise InputError(f"Batch.{name} must be [{n}] to match images, got {shape}.")
        for prior, value in self.priors.items():
            if value.shape[0] != n:
                raise InputError(
                    f"Batch.priors[{prior.name}] must have {n} rows to match images, "
                    f"got {value.shape[0]}."
                )

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def listed_pids(self) -> list[int]:
        """``pids`` on the host; if they did not come along there, reading them waits for a GPU."""
        listed: list[int] = list(self.labels) if self.labels is not None else self.pids.tolist()
        return listed

    def require(self, prior: Prior) -> torch.Tensor:
        """The tensor of ``prior``, or a ``DataError`` naming what is missing."""
        if prior not in self.priors:
            have = ", ".join(p.value for p in self.priors) or "none"
            raise DataError(
                f"this method learns from the prior '{prior.value}', but the batch has: {have}. "
                "Give the data set that prior, or choose a method that does not need it."
            )
        return self.priors[prior]


@dataclass(frozen=True)
class Ranking:
    """What a search returns: for every query the gallery, best first, cut at k.

    ``scores`` are what the ranking was sorted by and ``higher_is_better`` says which way.  Rows
    that have fewer than k candidates are filled with index -1 and a score of NaN.
    """

    indices: npt.NDArray[np.int64]  # [Q, k] rows of the gallery, -1 where there is none
    scores: npt.NDArray[np.float32]  # [Q, k]
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if self.indices.ndim != 2 or self.indices.shape != self.scores.shape:
            raise InputError(
                "Ranking needs indices and scores of one shape [Q, k], got "
                f"{list(self.indices.shape)} and {list(self.scores.shape)}."
            )

    def __len__(self) -> int:
        return int(self.indices.shape[0])
