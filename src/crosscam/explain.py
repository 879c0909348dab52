"""What trained models look at: a sheet of maps laid over pictures.

For every run and picture: the maps on the way to the vector, which for most methods are those of
the backbone's four stages (sum of absolute values over channels), then what the method itself has
to show: where each part of MPN took its features from, MMGA's attention, the textures that SAN
decodes.  Each map is scaled for itself, from its least cell to its largest, so colors compare
places within a map and not heights between maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crosscam import viz
from crosscam.embedder import Embedder
from crosscam.errors import DataError, InputError
from crosscam.image import Picture
from crosscam.methods import Method

__all__ = ["explain", "maps_of"]

_BATCH = 16
_ROWS = 200


def explain(models: Sequence[Embedder], pictures: Sequence[Path], out: Path) -> Path:
    """Write the sheet of some models, side by side, on some pictures; returns ``out``.

    Args:
        models: trained runs, as :func:`crosscam.embedder.load` reads them.
        pictures: files, each a row.
        out: PNG or JPEG file.

    Raises:
        InputError: no picture or more than 200, a model that has nothing to show, or a file name
            that is neither PNG nor JPEG.
        ImageError: a picture cannot be decoded.
    """
    if not 1 <= len(pictures) <= _ROWS:
        raise InputError(
            f"a sheet has a row for each of 1 to {_ROWS} pictures, got {len(pictures)}."
        )
    if out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise InputError(f"the sheet must be a .jpg or .png file, got {out.name}.")
    folders = [p for p in pictures if p.is_dir()]
    if folders:
        raise DataError(
            f"{folders[0]} is a folder, and not of a run: give the pictures themselves, as "
            f"{folders[0]}/*.jpg."
        )
    missing = [str(p) for p in pictures if not p.is_file()]
    if missing:
        raise DataError(
            f"no picture at {', '.join(missing[:3])}: give runs first, and then image files."
        )
    blocks: list[viz.Block] = []
    for model in models:
        if model.method is None:
            raise InputError(f"'{model.name}' was not learned: there is nothing to look at.")
        shown = [model.preprocess.load(path) for path in pictures]
        if not blocks:
            blocks.append(viz.Block("", [""], [[picture] for picture in shown]))
        columns: list[str] = []
        rows: list[list[Picture]] = []
        for start in range(0, len(shown), _BATCH):
            some = shown[start : start + _BATCH]
            where = next(model.method.parameters()).device
            images = model.preprocess.normalize_tensor(torch.from_numpy(np.stack(some)).to(where))
            maps = maps_of(model.method, images)
            if not maps:
                raise InputError(f"'{model.name}' has no backbone and no maps to show.")
            columns = list(maps)
            drawn = {name: value.float().cpu().numpy() for name, value in maps.items()}
            for i, picture in enumerate(some):
                rows.append([_cell(picture, value[i]) for value in drawn.values()])
        blocks.append(viz.Block(model.name, columns, rows))
    return viz.sheet(out, blocks)


@torch.no_grad()
def maps_of(method: Method, images: Tensor) -> dict[str, Tensor]:
    """What there is to see of how ``method`` reads pictures [B, 3, H, W], by name.

    First those of ``Method.stage_maps`` (``stage 1`` to ``stage 4`` of the backbone, if a method
    does not say otherwise) as [B, h, w]: the sum over channels of absolute values, divided by the
    length of the map.  The rest is ``Method.maps``.
    """
    was_training = method.training
    method.eval()
    found = {}
    for name, x in method.stage_maps(images).items():
        total = x.float().abs().sum(1)
        length = total.flatten(1).norm(dim=1).clamp(min=1e-12)
        found[name] = total / length[:, None, None]
    found |= method.maps(images)
    method.train(was_training)
    return found


def _cell(picture: Picture, value: npt.NDArray[np.float32]) -> Picture:
    if value.ndim == 2:
        return viz.overlay(picture, value)
    return (255 * value.clip(0, 1)).round().astype(np.uint8).transpose(1, 2, 0)
