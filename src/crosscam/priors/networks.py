"""Pose and parsing networks of others, from a file that the user names.

OpenVINO reads ONNX and TFLite alike (``pip install 'crosscam[prior]'``); one thread.  What a
network wants and gives is read off its shapes:

    input    [1, 3, H, W]           RGB, normalized with ImageNet's mean and deviation
             [1, H, W, 3]           RGB, 0 to 255
    pose     [..., 17, 3]           (y, x, score), shares of the input (MoveNet)
             [1, 17, h, w]          heat maps (HRNet, ViTPose, SimpleBaseline)
             [1, 17, n], [1, 17, m] a distribution for x and one for y (SimCC, RTMPose)
    parsing  [1, L, h, w]           logits of 20 (LIP), 18 (ATR) or 7 (Pascal) labels
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.errors import InputError, MissingExtraError
from crosscam.image import IMAGENET_MEAN, IMAGENET_STD, Picture, resize
from crosscam.optional import import_onnxruntime, import_openvino
from crosscam.wording import counted

__all__ = ["PARSING", "Parser", "pose"]

Array = npt.NDArray[Any]
Pose = Callable[[Picture], npt.NDArray[np.float64]]
"""Picture [h, w, 3] to [17, 3]: x and y as shares of width and height, score in [0, 1]."""

_DYNAMIC = (256, 192)  # height and width where a network takes any
_MEAN, _STD = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
_MARGIN = 1.25  # side of what is shown over side of the picture, as top-down networks learn it

_LIP = (
    "background", "hat", "hair", "glove", "face", "top", "dress", "top", "socks", "bottom",
    "dress", "scarf", "bottom", "face", "left arm", "right arm", "left leg", "right leg",
    "left shoe", "right shoe",
)  # fmt: skip
_ATR = (
    "background", "hat", "hair", "face", "top", "bottom", "bottom", "dress", "bottom",
    "left shoe", "right shoe", "face", "left leg", "right leg", "left arm", "right arm", "bag",
    "scarf",
)  # fmt: skip
_PASCAL = ("background", "head", "torso", "arm", "arm", "thigh", "leg")

PARSING: dict[int, tuple[str, ...]] = {20: _LIP, 18: _ATR, 7: _PASCAL}
"""By number of classes, the part each class is (assumed, as a whole); ``dress`` is cut at the
waist, ``scarf`` worn with the upper clothes.  LIP's sunglasses are face, its jumpsuits dress, ATR's
belt is bottom."""


class _Network:
    """A network on one thread, its input given as a picture of the right size."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"no network at {path}: give an ONNX or TFLite file.")
        core = import_openvino().Core()
        try:
            model = core.read_model(str(path))
            if len(model.inputs) != 1:
                raise InputError(f"{path} has {len(model.inputs)} inputs; one picture is given.")
            shape = [d.get_length() if d.is_static else -1 for d in model.input(0).partial_shape]
            channel = self._channel(path, shape)
            sides = [i for i in (1, 2, 3) if i != channel]
            for i, side in zip(sides, _DYNAMIC, strict=True):
                shape[i] = side if shape[i] < 1 else shape[i]
            shape[0], shape[channel] = 1, 3
            model.reshape(shape)
            threads = {"INFERENCE_NUM_THREADS": 1}
            self.compiled = core.compile_model(model, "CPU", threads)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[-1]
            raise InputError(f"{path} cannot be read as a network: {first}") from error
        self.path, self.size = path, (shape[sides[0]], shape[sides[1]])
        self.planes = channel == 1
        self.dtype = np.dtype(self.compiled.input(0).get_element_type().to_dtype())

    @staticmethod
    def _channel(path: Path, shape: list[int]) -> int:
        if len(shape) == 4 and 3 in (shape[1], shape[3]):
            return 1 if shape[1] == 3 else 3
        raise InputError(
            f"{path} wants an input of shape {shape}; [1, 3, H, W] or [1, H, W, 3] is given."
        )

    def __call__(self, picture: Picture) -> list[Array]:
        values: npt.NDArray[np.float32] = picture.astype(np.float32)
        if self.planes:
            values = ((values / 255 - _MEAN) / _STD).astype(np.float32)
            values = values.transpose(2, 0, 1)
        # A copy: the runtime gives views of memory that the next picture overwrites.
        found = self.compiled(np.ascontiguousarray(values[None].astype(self.dtype)))
        return [np.array(v) for v in found.values()]


def pose(model: str) -> Pose:
    """The pose network in the file ``model``, or one of rtmlib's.

    ``rtmlib:lightweight``, ``rtmlib:balanced`` or ``rtmlib:performance`` is a network that rtmlib
    downloads (``pip install 'crosscam[rtmlib]'``).

    Raises:
        InputError: no such file, or its shapes are of none of the known forms.
        MissingExtraError: OpenVINO or rtmlib is not installed.
    """
    if model.split(":")[0] == "rtmlib":
        return _rtmlib(model.partition(":")[2] or "balanced")
    network = _Network(Path(model))

    def find(picture: Picture) -> npt.NDArray[np.float64]:
        canvas, origin, scale = _centered(picture, network.size)
        points = _decoded(network(canvas), network)
        # shares of the canvas -> its pixels -> pixels of the picture -> shares of the picture
        at = (points[:, :2] * network.size[::-1] - origin) / scale
        shares = at / [picture.shape[1], picture.shape[0]]
        return np.concatenate([shares, np.clip(points[:, 2:], 0, 1)], 1)

    return find


def _centered(picture: Picture, size: tuple[int, int]) -> tuple[Picture, Array, Array]:
    """The picture in the middle of a black one, with its corner (x, y) there and its scale."""
    height, width = picture.shape[:2]
    fit = min(size[0] / height, size[1] / width) / _MARGIN
    inner = max(1, round(height * fit)), max(1, round(width * fit))
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas = np.zeros((*size, 3), np.uint8)
    canvas[top : top + inner[0], left : left + inner[1]] = resize(picture, inner)
    return canvas, np.array([left, top]), np.array([inner[1] / width, inner[0] / height])


def _decoded(outputs: list[Array], network: _Network) -> Array:
    """[17, 3]: x, y as shares of the input, score."""
    shapes = [o.shape for o in outputs]
    if len(outputs) == 1 and shapes[0][-2:] == (17, 3) and outputs[0].size == 51:
        found = outputs[0].reshape(17, 3)
        return found[:, [1, 0, 2]].astype(np.float64)
    if len(outputs) == 1 and len(shapes[0]) == 4 and shapes[0][1] == 17:
        return _peaks(outputs[0][0].astype(np.float64))
    if len(outputs) == 2 and all(len(s) == 3 and s[1] == 17 for s in shapes):
        height, width = network.size
        x, y = (o[0].astype(np.float64) for o in outputs)
        if x.shape[1] * height != y.shape[1] * width:  # as many bins a pixel along both
            x, y = y, x
        at = [(v.argmax(1) + 0.5) / v.shape[1] for v in (x, y)]
        return np.stack([*at, np.minimum(x.max(1), y.max(1))], 1)
    raise InputError(
        f"{network.path} gives {', '.join(str(list(s)) for s in shapes)}, which is no known form "
        "of COCO's 17 joints: [..., 17, 3], [1, 17, h, w], or [1, 17, n] with [1, 17, m]."
    )


def _peaks(maps: Array) -> Array:
    """Maxima of heat maps, a quarter of a cell towards the higher neighbor (Newell et al. 2016)."""
    joints, height, width = maps.shape
    y, x = np.divmod(maps.reshape(joints, -1).argmax(1), width)
    which = np.arange(joints)

    def lean(down: int, right: int) -> Array:
        def beside(sign: int) -> Array:
            row, column = y + sign * down, x + sign * right
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            value = maps[which, row.clip(0, height - 1), column.clip(0, width - 1)]
            return np.where(inside, value, np.nan)

        leaning: Array = np.nan_to_num(0.25 * np.sign(beside(1) - beside(-1)))
        return leaning

    at_x, at_y = (x + 0.5 + lean(0, 1)) / width, (y + 0.5 + lean(1, 0)) / height
    return np.stack([at_x, at_y, maps[which, y, x]], 1)


def _rtmlib(mode: str) -> Pose:
    try:
        import_onnxruntime()  # before rtmlib does
        from rtmlib import Body, RTMPose
    except ImportError as error:
        raise MissingExtraError(
            "rtmlib's networks need rtmlib: pip install 'crosscam[rtmlib]'"
        ) from error
    if mode not in Body.MODE:
        raise InputError(f"rtmlib has no mode '{mode}'. Choose from: {', '.join(Body.MODE)}.")
    chosen = Body.MODE[mode]
    network = RTMPose(
        chosen["pose"], model_input_size=chosen["pose_input_size"], backend="onnxruntime"
    )

    def find(picture: Picture) -> npt.NDArray[np.float64]:
        points, scores = network(np.ascontiguousarray(picture[..., ::-1]))  # it takes BGR
        height, width = picture.shape[:2]
        shares = (points[0] + 0.5) / [width, height]
        return np.concatenate([shares, np.clip(scores[0], 0, 1)[:, None]], 1)

    return find


class Parser:
    """A human-parsing network.

    Attributes:
        labels: what the values of a map mean.
    """

    def __init__(self, path: Path) -> None:
        self.network = _Network(path)
        probe = self._logits(np.zeros((*self.network.size, 3), np.uint8))
        if len(probe) not in PARSING:
            raise InputError(
                f"{path} tells {counted(len(probe), 'class', 'classes')} apart; known are those of "
                "LIP (20), ATR (18) and Pascal person parts (7)."
            )
        classes = PARSING[len(probe)]
        parts = dict.fromkeys("top" if c == "scarf" else c for c in classes)
        self.labels = tuple(p for p in parts if p != "dress")
        self.classes = classes

    def __call__(self, picture: Picture) -> npt.NDArray[np.uint8]:
        """The label map [h, w] of a picture, at the resolution of the network."""
        found = self._logits(resize(picture, self.network.size)).argmax(0)
        return self.merged(found)

    def merged(self, found: Array) -> npt.NDArray[np.uint8]:
        """Classes of the network [h, w] to ``labels``, dresses cut at the waist.

        The waist is the lowest row of tops and coats, else the middle of the body's height
        (assumed: no paper that learns from such masks says where it cuts).
        """
        names = np.array([self.labels.index(_PLAIN.get(c, c)) for c in self.classes], np.uint8)
        merged: npt.NDArray[np.uint8] = names[found]
        dress = np.isin(found, [i for i, c in enumerate(self.classes) if c == "dress"])
        if dress.any():
            tops = np.isin(found, [i for i, c in enumerate(self.classes) if c == "top"])
            rows = np.flatnonzero(tops.any(1))
            body = np.flatnonzero((found > 0).any(1))
            waist = rows[-1] + 1 if len(rows) else (body[0] + body[-1] + 1) // 2
            dress[:waist] = False
            merged[dress] = self.labels.index("bottom")
        return merged

    def _logits(self, picture: Picture) -> Array:
        maps = [o for o in self.network(picture) if o.ndim == 4]
        if not maps:
            raise InputError(f"{self.network.path} gives no [1, L, h, w] of logits.")
        logits: Array = max(maps, key=lambda o: o.shape[2])[0]
        return logits


_PLAIN = {"dress": "top", "scarf": "top"}
