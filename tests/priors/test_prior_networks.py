"""Pose and parsing networks of others, made here as tiny ONNX files."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscam.errors import InputError, MissingExtraError
from crosscam.priors import networks

pytest.importorskip("openvino")
onnx = pytest.importorskip("onnx")

SIZE = (64, 48)


def constant_network(path: Path, outputs: list[np.ndarray], shape: list[Any]) -> Path:
    """An ONNX file that gives ``outputs`` whatever it is shown."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, given, constants = [], [], []
    zero = numpy_helper.from_array(np.float32([0.0]), "zero")
    flat = numpy_helper.from_array(np.int64([-1]), "flat")
    first = numpy_helper.from_array(np.int64([0]), "first")
    nodes.append(helper.make_node("Reshape", ["image", "flat"], ["line"]))
    nodes.append(helper.make_node("Gather", ["line", "first"], ["pixel"]))
    nodes.append(helper.make_node("Mul", ["pixel", "zero"], ["nothing"]))
    for i, value in enumerate(outputs):
        constants.append(numpy_helper.from_array(value.astype(np.float32), f"c{i}"))
        nodes.append(helper.make_node("Add", [f"c{i}", "nothing"], [f"out{i}"]))
        given.append(helper.make_tensor_value_info(f"out{i}", TensorProto.FLOAT, value.shape))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "toy", [image], given, [zero, flat, first, *constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def in_picture(share: float, side: int, network: int, inner: int) -> float:
    """A share of the network's input as a share of the picture, which lies in its middle."""
    return (share * network - (network - inner) // 2) / inner


def test_the_three_forms_of_a_pose_network_say_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cell = rng.integers([4, 4], [12, 8], (17, 2))  # y, x in a 16 x 12 map
    score = rng.uniform(0.3, 0.9, 17)
    maps, along_x, along_y = (
        np.zeros((1, 17, 16, 12)),
        np.zeros((1, 17, 96)),
        np.zeros((1, 17, 128)),
    )
    direct = np.zeros((1, 1, 17, 3))
    for j, (y, x) in enumerate(cell):
        maps[0, j, y, x] = score[j]
        along_x[0, j, x * 8 + 4] = along_y[0, j, y * 8 + 4] = score[j]
        direct[0, 0, j] = (y + 0.5) / 16, (x + 0.5) / 12, score[j]
    picture = np.zeros((128, 64, 3), np.uint8)
    # 64 x 48, a margin of 1.25: the picture is 51 x 26 in its middle
    inner = round(128 * (64 / 128 / 1.25)), round(64 * (64 / 128 / 1.25))
    want_x = [in_picture((x + 0.5) / 12, 64, SIZE[1], inner[1]) for x in cell[:, 1]]
    want_y = [in_picture((y + 0.5) / 16, 128, SIZE[0], inner[0]) for y in cell[:, 0]]
    planes, pixels = [1, 3, *SIZE], [1, *SIZE, 3]
    for name, outputs, shape, within in (
        ("direct", [direct], pixels, 1e-6),
        ("heat", [maps], planes, 1e-6),
        ("simcc", [along_x, along_y], planes, 0.5 / 96 * 48 / 25),
        ("yx", [along_y, along_x], ["batch", 3, *SIZE], 0.5 / 96 * 48 / 25),
    ):
        file = constant_network(tmp_path / f"{name}.onnx", outputs, shape)
        found = networks.pose(str(file))(picture)
        assert found.shape == (17, 3)
        assert found[:, 0] == pytest.approx(want_x, abs=within), name
        assert found[:, 1] == pytest.approx(want_y, abs=within), name
        assert found[:, 2] == pytest.approx(score, abs=1e-6)


def test_a_peak_leans_towards_its_higher_neighbor() -> None:
    maps = np.zeros((3, 5, 5))
    maps[:, 2, 2] = 1
    maps[0, 2, 3] = 0.5
    maps[1, 1, 2] = 0.5
    found = networks._peaks(maps) * [5, 5, 1]
    assert found.tolist() == [[2.75, 2.5, 1], [2.5, 2.25, 1], [2.5, 2.5, 1]]


def test_a_network_sees_the_whole_picture_normalized(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, 8, 8])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["out"])], "g", [image], [out]
    )
    path = tmp_path / "same.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    (found,) = networks._Network(path)(picture)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert found[0].transpose(1, 2, 0) == pytest.approx((picture / 255 - mean) / std, abs=1e-5)


@pytest.mark.parametrize(
    ("outputs", "shape", "message"),
    [
        ([np.zeros((1, 21, 4, 4))], [1, 3, 8, 8], "no known form of COCO's 17 joints"),
        ([np.zeros((1, 17, 4, 4))], [1, 4, 8, 8], "wants an input of shape"),
    ],
)
def test_other_networks_are_refused(
    tmp_path: Path, outputs: list[np.ndarray], shape: list[int], message: str
) -> None:
    file = constant_network(tmp_path / "x.onnx", outputs, shape)
    with pytest.raises(InputError, match=message):
        networks.pose(str(file))(np.zeros((8, 8, 3), np.uint8))


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no network at"):
        networks.pose(str(tmp_path / "none.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read as a network"):
        networks.pose(str(tmp_path / "bad.onnx"))


def test_rtmlib_gets_bgr_and_its_pixels_become_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Body:
        MODE = {"balanced": {"pose": "url", "pose_input_size": (192, 256)}}  # noqa: RUF012

    class RTMPose:
        def __init__(self, model: str, **options: Any) -> None:
            seen.append((model, options))

        def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            seen.append(image)
            return np.full((1, 17, 2), [31.5, 63.5]), np.full((1, 17), 1.5)

    monkeypatch.setitem(sys.modules, "rtmlib", types.SimpleNamespace(Body=Body, RTMPose=RTMPose))
    find = networks.pose("rtmlib")
    assert seen[0] == ("url", {"model_input_size": (192, 256), "backend": "onnxruntime"})
    picture = np.zeros((128, 64, 3), np.uint8)
    picture[..., 0] = 200
    assert find(picture).tolist() == [[0.5, 0.5, 1.0]] * 17
    assert seen[1][0, 0].tolist() == [0, 0, 200]
    with pytest.raises(InputError, match="no mode 'huge'"):
        networks.pose("rtmlib:huge")
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    with pytest.raises(MissingExtraError, match=r"crosscam\[rtmlib\]"):
        networks.pose("rtmlib")


# --- parsing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [20, 18, 7])
def test_a_parsing_network_names_its_parts(tmp_path: Path, classes: int) -> None:
    want = np.random.default_rng(classes).integers(0, classes, (8, 6))
    want[0, 0] = 0
    logits = np.eye(classes)[want].transpose(2, 0, 1)[None]
    file = constant_network(tmp_path / "p.onnx", [logits[:, :, ::2, ::2], logits], [1, 3, 8, 6])
    parser = networks.Parser(file)
    assert parser.labels[0] == "background"
    assert "dress" not in parser.labels
    assert "scarf" not in parser.labels
    found = parser(np.zeros((20, 10, 3), np.uint8))
    for y, x in np.ndindex(8, 6):
        name = networks.PARSING[classes][want[y, x]]
        if name != "dress":
            assert parser.labels[found[y, x]] == {"scarf": "top"}.get(name, name)


def test_a_dress_is_cut_at_the_waist(tmp_path: Path) -> None:
    file = constant_network(tmp_path / "p.onnx", [np.zeros((1, 20, 4, 4))], [1, 3, 8, 8])
    parser = networks.Parser(file)
    found = np.zeros((10, 2), np.int64)
    found[1], found[2:8] = 13, 6  # face, dress; the body is rows 1 to 7
    names = [parser.labels[v] for v in parser.merged(found)[:, 0]]
    assert names == ["background", "face", *["top"] * 2, *["bottom"] * 4, *["background"] * 2]
    found[2:6, 1] = 7  # a coat down to row 5
    names = [parser.labels[v] for v in parser.merged(found)[:, 0]]
    assert names == ["background", "face", *["top"] * 4, *["bottom"] * 2, *["background"] * 2]


def test_an_unknown_number_of_classes_is_refused(tmp_path: Path) -> None:
    file = constant_network(tmp_path / "p.onnx", [np.zeros((1, 5, 4, 4))], [1, 3, 8, 8])
    with pytest.raises(InputError, match="tells 5 classes apart"):
        networks.Parser(file)
    file = constant_network(tmp_path / "q.onnx", [np.zeros((1, 5))], [1, 3, 8, 8])
    with pytest.raises(InputError, match="gives no"):
        networks.Parser(file)


@pytest.mark.data
def test_movenet_finds_the_joints_of_real_people(real_data: Path) -> None:
    from crosscam.image import decode
    from crosscam.priors import skeleton
    from crosscam.types import COCO17, Sample

    model = real_data / "models" / "movenet_single_pose_lightning_ptq.tflite"
    table = real_data / "market1501" / "keypoints14_train.csv"
    if not (model.is_file() and table.is_file()):
        pytest.skip("no pose network or no table of joints")
    files = sorted((real_data / "market1501" / "bounding_box_train").glob("*.jpg"))[5:13000:800]
    samples = [Sample(f, 1) for f in files]
    want, joints = skeleton.read_csv(table, samples, [f.name for f in files])
    find = networks.pose(str(model))
    found = np.array([find(decode(f)) for f in files])
    errors = []
    for joint in ("shoulder", "hip", "knee", "ankle"):
        for side in ("left", "right"):
            at = found[:, COCO17.index(f"{side} {joint}"), :2]
            errors.append((at - want[:, joints.index(f"{side} {joint}"), :2]) * [0.5, 1])
    # distance as a share of the height: most joints lie within a tenth
    assert np.median(np.linalg.norm(errors, axis=2)) < 0.06
