"""The names of body parts, and the channels a method may ask for.

A *label map* says for every cell which part it shows.  Producers use the labels they can tell
apart (a parsing network knows hair from face, a skeleton does not); a *channel* is a set of
labels, so that ``whole`` or ``arms`` can be asked of any of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from crosscam.errors import DataError

__all__ = ["CHANNELS", "SEMANTIC", "channel_table", "mirrored", "shrink"]

_HEAD = ("head", "face", "hair", "hat")
_CLOTHES = ("torso", "top")
_ARMS = ("arm", "left arm", "right arm", "left hand", "right hand", "glove")
_HIPS = ("bottom", "thigh", "left thigh", "right thigh")
_LEGS = ("leg", "left leg", "right leg", "socks")
_FEET = ("shoes", "left shoe", "right shoe", "left foot", "right foot")

CHANNELS: dict[str, tuple[str, ...]] = {
    "upper": (*_HEAD, *_CLOTHES, *_ARMS),
    "lower": (*_HIPS, *_LEGS, *_FEET),
    "head": _HEAD,
    "upper clothes": _CLOTHES,
    "arms": _ARMS,
    "lower clothes": _HIPS,
    "legs": _LEGS,
    "shoes": _FEET,
}
"""Labels of every channel; besides, ``whole`` is all labels but the background, and each label
is a channel of its own name where no channel has that name."""

SEMANTIC = ("head", "upper clothes", "arms", "lower clothes", "legs", "shoes")
"""Six parts that do not overlap; with bags they are the whole person."""


def channel_table(labels: Sequence[str], parts: Sequence[str]) -> npt.NDArray[np.uint8]:
    """[len(labels), len(parts)] uint8: 255 where a channel shows a label, else 0.

    Args:
        labels: what the values of a label map mean; the first is the background.
        parts: channels asked for.

    Raises:
        DataError: a part that these labels cannot show.
    """
    table = np.zeros((len(labels), len(parts)), np.uint8)
    for column, part in enumerate(parts):
        members = set(labels[1:]) if part == "whole" else set(CHANNELS.get(part, (part,)))
        rows = [i for i, label in enumerate(labels) if i and label in members]
        if not rows:
            can = ["whole", *(c for c, m in CHANNELS.items() if set(m) & set(labels))]
            can += [label for label in labels[1:] if label not in can]
            raise DataError(
                f"these masks do not show '{part}'. They show: {', '.join(can)}. Make masks with "
                "another producer, or ask for other parts."
            )
        table[rows, column] = 255
    return table


def mirrored(names: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of indices that a mirror exchanges: "left x" and "right x"."""
    index = {name: i for i, name in enumerate(names)}
    return [
        (i, index["right" + name[4:]])
        for name, i in index.items()
        if name.startswith("left") and "right" + name[4:] in index
    ]


def shrink(labels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A label map [h, w] at ``size``: every cell takes the label that covers most of it.

    Ties go to the smaller label.
    """
    if labels.shape == tuple(size):
        return labels
    present = np.unique(labels)
    down = _shares(labels.shape[0], size[0])
    across = _shares(labels.shape[1], size[1])
    # Rounded, so that a tie is one whatever order the products were summed in.
    covered = np.rint([down @ (labels == p) @ across.T * 1e6 for p in present])
    most: npt.NDArray[np.uint8] = present[covered.argmax(0)]
    return most


def _shares(cells: int, wanted: int) -> npt.NDArray[np.float64]:
    """[wanted, cells]: which share of a wanted cell each given one covers."""
    edges = np.arange(wanted + 1) * (cells / wanted)
    low, high = edges[:-1, None], edges[1:, None]
    at = np.arange(cells)
    inside = np.clip(np.minimum(high, at + 1) - np.maximum(low, at), 0, 1)
    shares: npt.NDArray[np.float64] = inside / (high - low)
    return shares
