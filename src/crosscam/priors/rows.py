"""Priors as the training loader takes them: rows that go along with the pictures of a batch.

Nothing is unpacked beforehand.  Held are the label maps (h * w bytes a picture: 8 KB at 128 x 64,
106 MB for Market-1501), the keypoints (102 bytes a picture), the places on the body (three times
what label maps take) and the textures (196 KB each), all of them memory-mapped, so that the system
may drop their pages; a batch of B pictures makes B * K * h * w bytes of masks, B * 12 * h * w of
points or B * 786 KB of textures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crosscam.data.augment import FlipPairs
from crosscam.data.loader import Rows
from crosscam.errors import DataError
from crosscam.priors import labels, rendered, store, surface
from crosscam.types import Dataset, Prior
from crosscam.wording import counted

__all__ = ["Gathered", "KeypointRows", "MaskRows", "SurfaceRows", "TextureRows", "gather"]


class _StoredRows:
    """Rows of N pictures in ``stored`` values [R, ...]; -1 for a picture that has none."""

    def __init__(
        self, stored: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], device: torch.device
    ) -> None:
        self.stored = _placed(stored, device)
        self.device = self.stored.device
        self.rows = torch.from_numpy(rows).to(self.device)

    def __len__(self) -> int:
        return len(self.rows)

    def _found(self, dim: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """What is stored of pictures [B]: [B, ...], and whether there is any: [B]."""
        rows = self.rows.index_select(dim, index)
        return self.stored.index_select(0, rows.clamp(min=0)), rows >= 0


class MaskRows(_StoredRows):
    """Label maps of N pictures, unpacked to the channels of a method batch by batch."""

    def __init__(
        self,
        maps: npt.NDArray[np.uint8],
        rows: npt.NDArray[np.int64],
        table: npt.NDArray[np.uint8],
        device: torch.device,
    ) -> None:
        super().__init__(maps, rows, device)
        self.table = torch.from_numpy(table).to(self.device)

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        """uint8 [B, K, h, w], 255 where a channel is; all zero for pictures without masks."""
        maps, there = self._found(dim, index)
        maps = maps * there[:, None, None]  # label 0 is the background
        return self.table[maps.int()].permute(0, 3, 1, 2)


class KeypointRows:
    """Keypoints of N pictures, in pixels of the training picture."""

    def __init__(
        self,
        points: npt.NDArray[np.float16],
        rows: npt.NDArray[np.int64],
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        height, width = size
        found = np.asarray(points[np.maximum(rows, 0)], np.float32)
        found[..., 0] = found[..., 0] * width - 0.5
        found[..., 1] = found[..., 1] * height - 0.5
        found[rows < 0] = 0
        self.points = torch.from_numpy(found).to(device)
        self.device = self.points.device

    def __len__(self) -> int:
        return len(self.points)

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        """float32 [B, J, 3]; visibility 0 for joints and pictures that have none."""
        return self.points.index_select(dim, index)


class SurfaceRows(_StoredRows):
    """Places on the body of N pictures, unpacked to points batch by batch."""

    def __init__(
        self,
        maps: npt.NDArray[np.uint8],
        rows: npt.NDArray[np.int64],
        device: torch.device,
    ) -> None:
        super().__init__(maps, rows, device)
        every = np.stack(np.broadcast_arrays(1, *np.ogrid[:256, :256][::-1]), -1)
        self.table = torch.from_numpy(surface.points(every.astype(np.uint8))).to(self.device)

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        """float32 [B, 3, h, w] in meters; NaN off the body and for pictures without places."""
        maps, there = self._found(dim, index)
        part, column, row = maps.int().unbind(3)
        points = self.table[row, column].permute(0, 3, 1, 2)
        none = (part == 0) | ~there[:, None, None]
        return points.masked_fill(none[:, None], torch.nan)


class TextureRows(_StoredRows):
    """Textures of N pictures, of which several may have the same.

    ``known`` [T, T] says which texels lie on the body; None takes all of them.  Textures may have a
    fourth channel, in which 0 is a texel that is not known.
    """

    def __init__(
        self,
        textures: npt.NDArray[np.uint8],
        known: npt.NDArray[np.bool_] | None,
        rows: npt.NDArray[np.int64],
        device: torch.device,
    ) -> None:
        super().__init__(textures, rows, device)
        self.unknown = None if known is None else torch.from_numpy(~known).to(self.device)

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        """float32 [B, 3, T, T] in [-1, 1]; NaN off the body and for pictures without a texture.

        Plane by plane in memory, as the painted ones lie with which they are compared.
        """
        found, there = self._found(dim, index)
        found = found.permute(0, 3, 1, 2)
        values = found[:, :3].to(torch.float32, memory_format=torch.contiguous_format)
        values.sub_(127.5).div_(127.5)
        if found.shape[1] == 4:
            values.masked_fill_(found[:, 3:] == 0, torch.nan)
        if self.unknown is not None:
            values.masked_fill_(self.unknown, torch.nan)
        return values.masked_fill_(~there[:, None, None, None], torch.nan)


def shrink_textures(
    textures: npt.NDArray[np.uint8], known: npt.NDArray[np.bool_] | None, side: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]:
    """Textures [R, T, T, 3 or 4] at [side, side], and what is known of them.

    A decoder paints as many rows as its picture has; averaging once what is finer saves doing it
    with every batch.  A texel is the mean of the known ones it covers.  Sides that ``side`` does
    not divide, and smaller ones, stay as they are.
    """
    full = textures.shape[1]
    if full <= side or full % side:
        return textures, known
    f = full // side
    weight = np.ones((full, full), np.float32) if known is None else known.astype(np.float32)
    small = np.empty((len(textures), side, side, textures.shape[3]), np.uint8)
    for i, texture in enumerate(textures):
        own = weight if texture.shape[2] == 3 else weight * (texture[..., 3] > 0)
        covered = own.reshape(side, f, side, f).sum((1, 3))
        sums = (texture * own[:, :, None]).reshape(side, f, side, f, -1).sum((1, 3))
        small[i] = np.rint(sums / np.maximum(covered, 1)[:, :, None])
    covered = weight.reshape(side, f, side, f).sum((1, 3))
    return small, None if known is None else covered > 0


def _placed(values: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """In device memory where a third of what is free is enough, else where they lie."""
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if tensor.numel() < free // 3:
            return tensor.to(device)
    return tensor


@dataclass(frozen=True)
class Gathered:
    """The priors of a training set."""

    rows: Mapping[Prior, Rows] = field(default_factory=dict)
    flip_pairs: FlipPairs = field(default_factory=dict)
    report: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def versions(self) -> dict[str, str]:
        """What decides the values, by kind."""
        return {kind: f"{r['producer']} {r['version']}" for kind, r in self.report.items()}

    def text(self) -> str:
        """A line for each kind: who made it, and how many pictures go without."""
        return "\n".join(
            f"{kind} by {r['producer']} ({r['version']}): {counted(r['with'], 'picture')}, "
            f"{r['without']:,} without"
            for kind, r in self.report.items()
        )


def gather(
    needs: frozenset[Prior],
    parts: Sequence[str],
    dataset: Dataset,
    *,
    folder: Path | None,
    producers: Mapping[Prior, str],
    cache: Path,
    size: tuple[int, int],
    device: torch.device,
) -> Gathered:
    """What a method needs next to the training pictures of ``dataset``.

    Args:
        needs: kinds of prior.
        parts: channels of the masks.
        dataset: its training pictures, in order, are the rows.
        folder: of the data set's priors; None if there is none, which rendered people can do
            without: their ground truth is taken.
        producers: which producer's to take where the folder has several.
        cache: folder where the ground truth of rendered people is unpacked.
        size: height and width of the training pictures.
        device: where batches are wanted.

    Raises:
        DataError: a prior is missing; the message names the command that makes it.
    """
    samples, home = dataset.require_train(), dataset.root
    rows: dict[Prior, Rows] = {}
    pairs: dict[Prior, Sequence[tuple[int, int]]] = {}
    report: dict[str, dict[str, Any]] = {}
    for kind in sorted(needs, key=lambda k: k.value):
        found = store.find(folder, kind, producers.get(kind, "")) if folder else None
        if found is None:
            if dataset.name != "rendered":
                raise DataError(_missing(kind, dataset, folder))
            digest = hashlib.sha256(str(home.absolute()).encode()).hexdigest()[:8]
            found = rendered.make(cache / f"priors-{digest}", dataset, samples, kind)
        row = found.require(samples, home)
        if kind is Prior.MASKS:
            if not parts:
                raise DataError("a method that needs masks must say of which parts (parts = ...).")
            table = labels.channel_table(found.names, parts)
            rows[kind] = MaskRows(found.labels(), row, table, device)
            pairs[kind] = labels.mirrored(parts)
            usable = _any(found.values, row)
        elif kind is Prior.KEYPOINTS:
            rows[kind] = KeypointRows(found.values, row, size, device)
            pairs[kind] = labels.mirrored(found.names)
            usable = _any(found.values[..., 2], row)
        elif kind is Prior.SURFACE:
            rows[kind] = SurfaceRows(found.values, row, device)
            usable = _any(found.values[..., 0], row)
        else:
            drawn = found.about["parameters"].get("chart") == rendered.CHART
            known = rendered.known_texels(found.values.shape[1]) if drawn else None
            rows[kind] = TextureRows(*shrink_textures(found.values, known, size[0]), row, device)
            usable = row >= 0
        if not usable.any():
            raise DataError(
                f"not one training picture of {dataset.title} has usable {kind.value} by "
                f"{found.producer}: they are all empty. Look at them: "
                f"crosscam prior show {dataset.name} --root {home} --priors "
                f"{folder or 'PRIORS'}"
            )
        report[kind.value] = {
            "producer": found.producer,
            "version": found.about["version"],
            "with": int(usable.sum()),
            "without": int((~usable).sum()),
        }
    return Gathered(rows, pairs, report)


def _any(values: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """[N] whether a picture's row has anything but zeros; read in blocks."""
    full = np.concatenate(
        [
            (values[i : i + 1024] != 0).reshape(len(values[i : i + 1024]), -1).any(1)
            for i in range(0, len(values), 1024)
        ]
    )
    usable: npt.NDArray[np.bool_] = full[np.maximum(rows, 0)] & (rows >= 0)
    return usable


def _missing(kind: Prior, dataset: Dataset, folder: Path | None) -> str:
    target = folder or Path("priors")
    what = f"{dataset.name} --root {dataset.root} --out {target}"
    keypoints = f"crosscam prior keypoints {what} --model POSE.onnx"
    ways = {
        Prior.MASKS: f"{keypoints} && crosscam prior masks {what}",
        Prior.KEYPOINTS: keypoints,
        Prior.SURFACE: f"crosscam prior surface {what} --model RUN",
        Prior.TEXTURE: f"crosscam prior texture {what} --model RUN",
    }
    where = f"{folder} has none" if folder else "priors.root names no folder"
    then = "" if folder else f"; then train with priors.root={target}"
    return (
        f"this method learns from {kind.value} of {dataset.title}, and {where}. Make them: "
        f"{ways[kind]}{then}."
    )
