"""Films with known people in them, and a detector that knows where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from crosscam.gallery.video import Detections

FPS = 10
SIZE = (240, 320)  # height, width
_BLOCK = 8


@dataclass(frozen=True)
class Walker:
    """A picture [h, w, 3] and mask [h, w] that walk from one place to another."""

    picture: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    start: tuple[float, float]  # left, top at the first frame
    step: tuple[float, float]  # pixels a frame
    first: int = 0
    last: int = 10**6

    def box(self, number: int) -> tuple[float, float, float, float] | None:
        if not self.first <= number <= self.last:
            return None
        left = round(self.start[0] + self.step[0] * number)
        top = round(self.start[1] + self.step[1] * number)
        return left, top, left + self.picture.shape[1], top + self.picture.shape[0]


def shoot(path: Path, walkers: Sequence[Walker], count: int, size: tuple[int, int] = SIZE) -> Path:
    """Encode ``count`` frames: a scene that scrolls, and people in front of it.

    The frame's number stands in its lowest rows, as blocks of black and white.
    """
    height, width = size
    rng = np.random.default_rng(0)
    scene = rng.integers(90, 150, (height // 8, width // 4, 3)).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        for number in range(count):
            frame = np.roll(scene, -number, axis=1)[:, :width].astype(np.uint8)
            for walker in walkers:
                box = walker.box(number)
                if box is not None:
                    _paste(frame, walker, int(box[0]), int(box[1]))
            for bit in range(10):
                columns = slice(bit * _BLOCK, (bit + 1) * _BLOCK)
                frame[-_BLOCK:, columns] = 255 * (number >> bit & 1)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def _paste(frame: npt.NDArray[np.uint8], walker: Walker, left: int, top: int) -> None:
    height, width = frame.shape[:2]
    h, w = walker.mask.shape
    rows, columns = np.arange(h)[:, None] + top, np.arange(w)[None] + left
    inside = walker.mask & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    y, x = np.nonzero(inside)
    frame[y + top, x + left] = walker.picture[y, x]


class Knowing:
    """A detector that reads a frame's number from its pixels and looks up who is there."""

    def __init__(self, walkers: Sequence[Walker], score: float = 0.9) -> None:
        self.walkers, self.score = walkers, score
        self.numbers: list[int] = []

    def detect(self, frame: npt.NDArray[np.uint8]) -> Detections:
        centers = frame[-_BLOCK // 2, _BLOCK // 2 : 10 * _BLOCK : _BLOCK].mean(1) > 127
        number = sum(1 << bit for bit, on in enumerate(centers) if on)
        self.numbers.append(number)
        boxes = [b for w in self.walkers if (b := w.box(number)) is not None]
        array = np.array(boxes, np.float32).reshape(-1, 4)
        return Detections(array, np.full(len(array), self.score, np.float32))
