"""Toy people: colored clothes before noise, seen by tinted cameras.  For tests only.

They can be told apart by shirt and trousers, so a small net learns them in seconds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["person", "write_market"]


def person(
    pid: int, camid: int, shot: int, size: tuple[int, int] = (64, 32)
) -> npt.NDArray[np.uint8]:
    """One picture [H, W, 3] uint8 of person ``pid``, the same for the same arguments."""
    look = np.random.default_rng([7, pid])
    shirt, trousers = look.uniform(20, 235, (2, 3))
    skin = look.uniform(0.3, 1.0) * np.array([240, 200, 170])
    view = np.random.default_rng([8, pid, camid, shot])
    tint = np.random.default_rng([9, camid]).uniform(0.75, 1.2, 3)
    h, w = size
    picture = view.uniform(60, 190, 3) + view.normal(0, 18, (h, w, 3))
    left = int(w * (0.28 + 0.08 * view.uniform(-1, 1)))
    right = left + int(w * 0.44)
    top = int(h * 0.06 * view.uniform(0, 1))
    picture[top : top + h // 6, left + w // 9 : right - w // 9] = skin
    picture[top + h // 6 : h // 2, left:right] = shirt
    picture[h // 2 : int(h * 0.96), left + 1 : right - 1] = trousers
    picture += view.normal(0, 6, picture.shape)
    return np.clip(picture * tint, 0, 255).astype(np.uint8)


def write_market(
    folder: Path,
    *,
    train_ids: int = 8,
    test_ids: int = 6,
    cameras: int = 3,
    shots: int = 2,
    size: tuple[int, int] = (64, 32),
) -> Path:
    """Write a Market-1501-style data set of toy people; returns ``folder``.

    Test persons have one query per camera; all other test pictures are the gallery.
    """
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        (folder / split).mkdir(parents=True)
    for pid in range(1, train_ids + test_ids + 1):
        for camid in range(1, cameras + 1):
            for shot in range(shots):
                split = "bounding_box_train"
                if pid > train_ids:
                    split = "query" if shot == 0 else "bounding_box_test"
                name = f"{pid:04d}_c{camid}s1_{shot:06d}_00.jpg"
                picture = Image.fromarray(person(pid, camid, shot, size))
                picture.save(folder / split / name, quality=92)
    return folder
