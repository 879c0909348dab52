"""Videos to sightings: sample frames, detect people, follow them, keep the best crops of each.

    detector = OnnxDetector("yolox_s.onnx")
    items = from_video(Path("gate.mp4"), detector, camera="gate", start=parse_time("2026-05-04"))
    gallery.add(items)

Decoding is PyAV's, following is ByteTrack (Zhang et al., ECCV 2022) of the package ``trackers``;
people are found by a detector whose ONNX file the user names.  Everything is deterministic, so an
interrupted video can be added again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from crosscam.errors import DataError, InputError, MissingExtraError
from crosscam.files import sha256
from crosscam.gallery.gallery import Item
from crosscam.image import IMAGENET_MEAN, IMAGENET_STD, resize
from crosscam.optional import import_onnxruntime
from crosscam.wording import counted

__all__ = [
    "VIDEO_EXTENSIONS",
    "ByteTrack",
    "Detections",
    "Detector",
    "Frame",
    "HogDetector",
    "OnnxDetector",
    "Sampling",
    "Tracker",
    "frames",
    "from_video",
    "overlap",
]

VIDEO_EXTENSIONS = frozenset({".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".ts", ".mpg"})

Boxes = npt.NDArray[np.float32]  # [n, 4] left, top, right, bottom in pixels
Picture = npt.NDArray[np.uint8]
Kind = Literal["auto", "yolox", "rtdetr", "detr"]


@dataclass(frozen=True)
class Sampling:
    """What is kept of a video.

    Args:
        every: seconds between frames that are looked at.
        crops: at most so many sightings of a track.
        apart: seconds between two of them, at least.
        shortest: tracks with fewer detections are dropped, as false alarms mostly are.
        smallest: boxes lower than so many pixels are passed over.
    """

    every: float = 0.2
    crops: int = 4
    apart: float = 1.0
    shortest: int = 3
    smallest: int = 32

    def __post_init__(self) -> None:
        for name, low in (("every", 0.001), ("crops", 1), ("apart", 0), ("shortest", 1),
                          ("smallest", 1)):  # fmt: skip
            if not getattr(self, name) >= low:
                raise InputError(f"{name} must be {low} or more, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Detections:
    """People on a frame: ``boxes`` [n, 4] in pixels, ``scores`` [n] in 0..1."""

    boxes: Boxes
    scores: npt.NDArray[np.float32]


class Detector(Protocol):
    """Finds people on a frame."""

    def detect(self, frame: Picture) -> Detections:
        """People on ``frame``, uint8 [H, W, 3], RGB."""


class Tracker(Protocol):
    """Says which detections of successive frames are one person."""

    def update(self, detections: Detections) -> npt.NDArray[np.int64]:
        """Track numbers [n] of the detections of the next frame; -1 belongs to none (yet)."""


@dataclass(frozen=True)
class Frame:
    """A frame: its number among those decoded, seconds since the start, and its pixels."""

    number: int
    seconds: float
    picture: Picture


def frames(path: Path, every: float) -> Iterator[Frame]:
    """Frames of a video, at least ``every`` seconds apart, upright; broken ones are passed over.

    Raises:
        DataError: not there, not a video, or no frame of it can be decoded.
    """
    av = _av()
    if not path.is_file():
        raise DataError(f"no video at {path}: check the path.")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"{path} cannot be read as a video ({error}).") from error
    with container:
        if not container.streams.video:
            raise DataError(f"{path} has no pictures in it, only sound or text.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        due, first = 0.0, None
        for number, frame in enumerate(_decoded(av, container, stream)):
            at = frame.time if frame.time is not None else number / float(stream.average_rate or 25)
            first = at if first is None else first
            seconds = at - first
            if seconds + 1e-6 >= due:
                turned = np.rot90(frame.to_ndarray(format="rgb24"), int(frame.rotation) // 90 % 4)
                yield Frame(number, seconds, np.ascontiguousarray(turned))
                due = (seconds // every + 1) * every
    if first is None:
        raise DataError(f"no frame of {path} can be decoded: the file is damaged or cut off.")


def from_video(
    path: Path,
    detector: Detector,
    *,
    camera: str = "",
    start: float | None = None,
    sampling: Sampling = Sampling(),
    tracker: Tracker | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Iterator[Item]:
    """The best crops of every person who was followed through a video.

    Items come when their track has ended.  Each says its track, its box, its quality, and the
    frame it was cut from, so that nobody is found twice in one frame.

    A crop's quality is its detection score, times its height over 128 (at most 1), times its share
    that no other box covers, and halved where it touches the border of the frame.  The best crop
    of a track is kept, then the next best that is ``sampling.apart`` seconds from those kept.

    Args:
        path: the video.
        detector: finds the people.
        camera: its name.
        start: when its first frame was taken, seconds since 1970 UTC; None leaves the time of the
            sightings unknown.
        sampling: what is kept.
        tracker: what follows people; ByteTrack by default.
        progress: called with the seconds of video just done.
    """
    if not path.is_file():
        raise DataError(f"no video at {path}: check the path.")
    key = sha256(path)[:12]
    tracker = tracker or ByteTrack(1 / sampling.every)
    open_tracks: dict[int, _Track] = {}
    before = 0.0
    for frame in frames(path, sampling.every):
        found = detector.detect(frame.picture)
        found = _inside(found, frame.picture.shape[:2], sampling.smallest)
        numbers = tracker.update(found)
        quality = _quality(found, frame.picture.shape[:2])
        for i, number in enumerate(numbers):
            if number >= 0:
                track = open_tracks.setdefault(int(number), _Track())
                track.see(frame, found.boxes[i], float(quality[i]), sampling)
        ended = [n for n, t in open_tracks.items() if frame.seconds - t.last > _PATIENCE]
        for number in ended:
            yield from open_tracks.pop(number).items(path, key, number, camera, start, sampling)
        progress(frame.seconds - before)
        before = frame.seconds
    for number in sorted(open_tracks):
        yield from open_tracks[number].items(path, key, number, camera, start, sampling)


_PATIENCE = 8.0  # seconds after which a track that was not seen again has ended; > ByteTrack's


@dataclass(frozen=True)
class _Crop:
    frame: int
    seconds: float
    box: tuple[float, float, float, float]
    quality: float
    picture: Picture


class _Track:
    """The candidates of one person, few at any time."""

    def __init__(self) -> None:
        self.last = 0.0
        self.seen = 0
        self._crops: list[_Crop] = []

    def see(self, frame: Frame, box: Boxes, quality: float, sampling: Sampling) -> None:
        self.last = frame.seconds
        self.seen += 1
        left, top, right, bottom = (float(v) for v in box)
        rows = slice(int(top), max(int(np.ceil(bottom)), int(top) + 1))
        columns = slice(int(left), max(int(np.ceil(right)), int(left) + 1))
        crop = _Crop(frame.number, frame.seconds, (left, top, right, bottom), quality,
                     frame.picture[rows, columns].copy())  # fmt: skip
        self._crops.append(crop)
        if len(self._crops) > 8 * sampling.crops:
            self._crops = self._best(sampling, 4 * sampling.crops)

    def _best(self, sampling: Sampling, count: int) -> list[_Crop]:
        kept: list[_Crop] = []
        for crop in sorted(self._crops, key=lambda c: (-c.quality, c.seconds)):
            if all(abs(crop.seconds - k.seconds) >= sampling.apart - 1e-6 for k in kept):
                kept.append(crop)
            if len(kept) == count:
                break
        return kept

    def items(
        self,
        path: Path,
        key: str,
        number: int,
        camera: str,
        start: float | None,
        sampling: Sampling,
    ) -> Iterator[Item]:
        if self.seen < sampling.shortest:
            return
        for crop in sorted(self._best(sampling, sampling.crops), key=lambda c: c.seconds):
            yield Item(
                crop.picture,
                camera=camera,
                time=None if start is None else round(start + crop.seconds, 6),
                frame=f"{key}:{crop.frame}",
                track=f"{key}:{number}",
                source=f"{path}#t={crop.seconds:.3f}",
                box=crop.box,
                quality=round(crop.quality, 4),
            )


# --- finding people -------------------------------------------------------------------------------


class OnnxDetector:
    """A person detector in an ONNX file, run by onnxruntime on the CPU.

    Three kinds of files are understood, told apart by their inputs and outputs:

    - ``yolox``: one output [1, N, 5 + classes] as YOLOX exports it (grid offsets not yet applied,
      or applied with ``--decode_in_inference``); input 0..255, BGR, letterboxed with gray 114.
    - ``rtdetr``: inputs ``images`` and ``orig_target_sizes``, outputs ``labels``, ``boxes`` and
      ``scores``, as RT-DETR and D-FINE export; input 0..1, RGB, stretched.
    - ``detr``: two outputs, logits [1, N, classes] and boxes [1, N, 4] (center and size as shares
      of the frame), as RF-DETR and Hugging Face exports of RT-DETR give.  ``normalize`` says
      whether the input is normalized by ImageNet's mean and deviation (RF-DETR) or 0..1.

    Args:
        path: the file.
        threshold: least score of a person.
        person: index of the class "person": 0 in most files, 1 in RF-DETR's.
        kind: one of the above, or told from the file.
        normalize: see ``detr``.
        threads: of onnxruntime; 0 lets it choose.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        threshold: float = 0.5,
        person: int = 0,
        kind: Kind = "auto",
        normalize: bool = False,
        threads: int = 0,
    ) -> None:
        try:
            ort = import_onnxruntime()
        except MissingExtraError as error:
            raise MissingExtraError(
                "a detector needs onnxruntime: pip install 'crosscam[video]'."
            ) from error
        if not 0 < threshold < 1:
            raise InputError(f"a detector's threshold is between 0 and 1, got {threshold}.")
        if not Path(path).is_file():
            raise DataError(
                f"no detector at {path}: give the ONNX file of a YOLOX, RT-DETR or RF-DETR."
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has an exception per status
            raise DataError(f"{path} is not an ONNX file that runs here ({error}).") from error
        self.path, self.threshold, self.person, self.normalize = path, threshold, person, normalize
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._names = [i.name for i in inputs]
        self._output_names = [o.name for o in outputs]
        self.kind = kind if kind != "auto" else self._tell()
        shape = inputs[0].shape
        height, width = (v if isinstance(v, int) else 640 for v in shape[2:4])
        self.size = (height, width)

    def detect(self, frame: Picture) -> Detections:
        """People on ``frame``, uint8 [H, W, 3], RGB."""
        run = {"yolox": self._yolox, "rtdetr": self._rtdetr, "detr": self._detr}[self.kind]
        boxes, scores = run(frame)
        keep = scores >= self.threshold
        return Detections(boxes[keep].astype(np.float32), scores[keep].astype(np.float32))

    def _tell(self) -> Literal["yolox", "rtdetr", "detr"]:
        if len(self._names) == 2 and len(self._output_names) == 3:
            return "rtdetr"
        if len(self._names) == 1 and len(self._output_names) == 1:
            return "yolox"
        if len(self._names) == 1 and len(self._output_names) >= 2:
            return "detr"
        raise DataError(
            f"{self.path} has the inputs {self._names} and outputs {self._output_names}; that is "
            "none of YOLOX, RT-DETR or RF-DETR. Use a detector of your own through "
            "crosscam.gallery.video.Detector."
        )

    def _run(self, feed: dict[str, Any], need: int) -> list[npt.NDArray[Any]]:
        try:
            results = self._session.run(None, feed)
        except Exception as error:
            raise DataError(f"{self.path} does not run as a {self.kind} ({error}).") from error
        if len(results) < need:
            raise DataError(
                f"{self.path} gives {counted(len(results), 'output')}; a {self.kind} has {need}."
            )
        return [np.asarray(r) for r in results]

    def _yolox(self, frame: Picture) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        height, width = self.size
        scale = min(height / frame.shape[0], width / frame.shape[1])
        fitted = resize(
            frame, (max(1, round(frame.shape[0] * scale)), max(1, round(frame.shape[1] * scale)))
        )
        padded = np.full((height, width, 3), 114, np.uint8)
        padded[: fitted.shape[0], : fitted.shape[1]] = fitted
        tensor = padded[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)
        (raw,) = self._run({self._names[0]: tensor}, 1)[:1]
        if raw.ndim != 3 or raw.shape[2] < 6 + self.person or raw.shape[0] != 1:
            raise DataError(
                f"{self.path} gives {list(raw.shape)}; a YOLOX gives [1, N, 5 + classes]."
            )
        rows = raw[0].astype(np.float64)
        center, size = rows[:, :2], rows[:, 2:4]
        grid, stride = _grid(height, width)
        if len(rows) == len(grid) and not _in_pixels(size):
            center = (center + grid) * stride[:, None]
            size = np.exp(np.minimum(size, 20)) * stride[:, None]
        boxes = np.concatenate([center - size / 2, center + size / 2], 1) / scale
        scores = rows[:, 4] * rows[:, 5 + self.person]
        keep = np.flatnonzero(scores >= self.threshold)
        keep = keep[_suppress(boxes[keep], scores[keep], 0.45)]
        return boxes[keep], scores[keep]

    def _rtdetr(self, frame: Picture) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        size = np.array([[frame.shape[1], frame.shape[0]]], np.int64)
        feed = {self._names[0]: self._stretched(frame), self._names[1]: size}
        results = dict(zip(self._output_names, self._run(feed, 3), strict=False))
        if not {"labels", "boxes", "scores"} <= set(results):
            raise DataError(
                f"{self.path} has the outputs {self._output_names}; an RT-DETR has labels, boxes "
                "and scores."
            )
        scores = np.where(results["labels"][0] == self.person, results["scores"][0], 0)
        return results["boxes"][0], scores

    def _detr(self, frame: Picture) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        results = self._run({self._names[0]: self._stretched(frame)}, 2)
        boxes = next((r for r in results if r.ndim == 3 and r.shape[2] == 4), None)
        logits = next(
            (r for r in results if r.ndim == 3 and r.shape[2] > max(4, self.person)), None
        )
        if boxes is None or logits is None:
            raise DataError(
                f"{self.path} gives {[list(r.shape) for r in results]}; a DETR gives boxes "
                "[1, N, 4] and logits [1, N, classes]."
            )
        scores = 1 / (1 + np.exp(-logits[0, :, self.person].astype(np.float64)))
        center, size = boxes[0, :, :2], boxes[0, :, 2:]
        shares = np.concatenate([center - size / 2, center + size / 2], 1)
        return shares * np.array(frame.shape[1::-1] * 2), scores

    def _stretched(self, frame: Picture) -> npt.NDArray[np.float32]:
        x = resize(frame, self.size).astype(np.float32) / 255
        if self.normalize:
            x = (x - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
        return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


class HogDetector:
    """OpenCV's people detector: oriented gradients and a linear SVM (Dalal, Triggs, CVPR 2005).

    It comes with OpenCV, so there is nothing to find and download, and it is weak: it knows people
    who stand or walk upright, are whole on the picture and at least some 100 pixels high, misses
    many of them, and takes some posts and trees for people.  Use it to try things out.

    Its scores are the logistic function of the SVM's margin, no probabilities.

    Args:
        threshold: least score, in [0.5, 1).
    """

    # Its windows have a margin around the person.
    _MARGIN = np.array([0.15, 0.1, -0.15, -0.1])

    def __init__(self, *, threshold: float = 0.5) -> None:
        try:
            import cv2
        except ImportError as error:
            raise MissingExtraError(
                "the detector hog needs OpenCV: pip install 'crosscam[video]'."
            ) from error
        make: Any = getattr(cv2, "HOGDescriptor", None)
        if make is None:
            raise MissingExtraError(
                f"OpenCV {cv2.__version__} has no people detector any more: "
                "pip install 'opencv-python<5'."
            )
        if not 0.5 <= threshold < 1:
            raise InputError(
                f"the threshold of the detector hog is at least 0.5 and below 1, got {threshold}."
            )
        self._cv2: Any = cv2
        self._hog = make()
        self._hog.setSVMDetector(make.getDefaultPeopleDetector())
        self.threshold = threshold

    def detect(self, frame: Picture) -> Detections:
        """People on ``frame``, uint8 [H, W, 3], RGB."""
        if frame.shape[0] < 128 or frame.shape[1] < 64:  # smaller than a window
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        gray = self._cv2.cvtColor(frame, self._cv2.COLOR_RGB2GRAY)
        found, margins = self._hog.detectMultiScale(
            gray, winStride=(8, 8), padding=(16, 16), scale=1.05
        )
        left_top = np.asarray(found, np.float64).reshape(-1, 4)
        size = left_top[:, 2:].copy()
        boxes = np.concatenate([left_top[:, :2], left_top[:, :2] + size], 1)
        boxes += np.concatenate([size, size], 1) * self._MARGIN
        scores = 1 / (1 + np.exp(-np.asarray(margins, np.float64).reshape(-1)))
        keep = np.flatnonzero(scores >= self.threshold)
        keep = keep[_suppress(boxes[keep], scores[keep], 0.45)]
        return Detections(boxes[keep].astype(np.float32), scores[keep].astype(np.float32))


def _grid(height: int, width: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Cell corners [N, 2] (x, y) and strides [N] of YOLOX's three maps, finest first."""
    cells, strides = [], []
    for stride in (8, 16, 32):
        y, x = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack([x.ravel(), y.ravel()], 1))
        strides.append(np.full(x.size, stride))
    return np.concatenate(cells), np.concatenate(strides)


def _in_pixels(size: npt.NDArray[Any]) -> bool:
    """Whether sizes are pixels already; as logarithms of cells they are small or negative."""
    return bool(len(size)) and float(size.min()) >= 0 and float(size.max()) > 12


def _suppress(
    boxes: npt.NDArray[Any], scores: npt.NDArray[Any], threshold: float
) -> npt.NDArray[np.int64]:
    """Non-maximum suppression: the rows that stay, best first."""
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        order = rest[overlap(boxes[best][None], boxes[rest])[0] <= threshold]
    return np.array(kept, np.int64)


def overlap(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes [n, 4] and [m, 4], as [n, m]; 0 for empty boxes."""
    inter = _shared(a, b)
    area_a, area_b = (np.prod(np.maximum(x[:, 2:] - x[:, :2], 0), 1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - inter
    share: npt.NDArray[np.float64] = np.divide(
        inter, union, out=np.zeros(inter.shape), where=union > 0
    )
    return share


def _shared(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared: npt.NDArray[np.float64] = np.prod(np.maximum(high - low, 0), 2, dtype=np.float64)
    return shared


def _inside(found: Detections, size: tuple[int, ...], smallest: int) -> Detections:
    """Boxes cut at the frame's border; what is too small or not a number is dropped."""
    height, width = size
    boxes = np.asarray(found.boxes, np.float32).reshape(-1, 4)
    keep = np.isfinite(boxes).all(1)
    boxes = np.clip(np.where(np.isfinite(boxes), boxes, 0), 0, [width, height, width, height])
    keep &= (boxes[:, 3] - boxes[:, 1] >= smallest) & (boxes[:, 2] - boxes[:, 0] >= 4)
    return Detections(boxes[keep].astype(np.float32), np.asarray(found.scores)[keep])


def _quality(found: Detections, size: tuple[int, ...]) -> npt.NDArray[np.float64]:
    boxes = found.boxes.astype(np.float64)
    height, width = size
    share = np.minimum((boxes[:, 3] - boxes[:, 1]) / 128, 1)
    area = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-9)
    covered = _shared(boxes, boxes)
    np.fill_diagonal(covered, 0)
    free = np.clip(1 - covered.sum(1) / area, 0, 1)
    edge = (
        (boxes[:, 0] <= 1) | (boxes[:, 1] <= 1) | (boxes[:, 2] >= width - 1)
        | (boxes[:, 3] >= height - 1)
    )  # fmt: skip
    quality: npt.NDArray[np.float64] = found.scores * share * free * np.where(edge, 0.5, 1)
    return quality


# --- following them -------------------------------------------------------------------------------


class ByteTrack:
    """ByteTrack of the package ``trackers`` (Apache-2.0).

    Args:
        rate: frames a second that will be given.
        patience: seconds that a person may be out of sight and keep their number.
    """

    def __init__(self, rate: float, patience: float = 2.0) -> None:
        try:
            import supervision
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise MissingExtraError(
                "following people needs trackers: pip install 'crosscam[video]'."
            ) from error
        self._detections: Any = supervision.Detections
        # The buffer is counted in frames of a 30 Hz video and scaled by the rate.
        self._tracker: Any = ByteTrackTracker(
            lost_track_buffer=max(1, round(30 * patience)),
            frame_rate=rate,
            track_activation_threshold=0.5,
            minimum_consecutive_frames=1,
        )

    def update(self, detections: Detections) -> npt.NDArray[np.int64]:
        """Track numbers [n] of the detections of the next frame; -1 belongs to none (yet)."""
        count = len(detections.boxes)
        given = self._detections(
            xyxy=detections.boxes.reshape(-1, 4),
            confidence=np.asarray(detections.scores, np.float32),
            class_id=np.arange(count),  # the tracker may change the order
        )
        tracked = self._tracker.update(given)
        numbers = np.full(count, -1, np.int64)
        if tracked.tracker_id is not None and len(tracked.tracker_id):
            numbers[tracked.class_id] = tracked.tracker_id
        return numbers


def _decoded(av: Any, container: Any, stream: Any) -> Iterable[Any]:
    """Frames in order; a damaged packet costs its frames only."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.EOFError):
            return
        except av.error.FFmpegError:  # cut off: there is no way to go on
            return
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            continue


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("videos need PyAV: pip install 'crosscam[video]'.") from error
    return av
