"""``crosscam wrap``: an ONNX file of somebody else's, from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crosscam.cli import main
from crosscam.encoder import Encoder
from crosscam.image import Preprocess, decode, resize

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def stripes(path: Path) -> Path:
    """A network whose features are the means of four stripes of the normalized picture."""
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 12])
    nodes = [
        helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[8, 16], strides=[8, 16]),
        helper.make_node("Flatten", ["p"], ["y"], axis=1),
    ]
    graph = helper.make_graph(nodes, "stripes", [x], [y])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def test_a_wrapped_network_is_an_encoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["wrap", str(stripes(tmp_path / "s.onnx")), str(tmp_path / "out"), "--size", "32x16"]
    words += ["--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25"]
    words += ["--name", "stripes", "--license", "CC0-1.0", "--terms", "nothing was learned"]
    assert main([*words, "--quiet"]) == 0
    assert "CC0-1.0" in capsys.readouterr().out
    picture = np.random.default_rng(0).integers(0, 256, (50, 30, 3), dtype=np.uint8)
    small = resize(decode(picture), (32, 16))
    how = Preprocess(size=(32, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
    x = how.normalize(small[None])[0]  # [3, 32, 16]
    expected = x.reshape(3, 4, 8, 16).mean((2, 3)).ravel()
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(Encoder.load(tmp_path / "out")([picture])[0], expected, atol=1e-5)


def test_what_is_wrong_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = ["--name", "n", "--license", "l", "--terms", "t", "--quiet"]
    missing = ["wrap", str(tmp_path / "none.onnx"), str(tmp_path / "o"), "--size", "32x16"]
    assert main([*missing, *rest]) == 1
    assert "no ONNX file" in capsys.readouterr().err
    file = str(stripes(tmp_path / "s.onnx"))
    assert main(["wrap", file, str(tmp_path / "o"), "--size", "32by16", *rest]) == 1
    assert "HEIGHTxWIDTH" in capsys.readouterr().err
