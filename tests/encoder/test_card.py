"""The card and the folder it describes: what is missing or changed is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crosscam.card import CARD, Card, TrainedOn, is_encoder
from crosscam.encoder import Encoder
from crosscam.errors import CheckpointError
from crosscam.image import Preprocess


def _edit(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / CARD).read_text())
    for key, value in changes.items():
        if value is None:
            del values[key]
        else:
            values[key] = value
    (folder / CARD).write_text(json.dumps(values))


def test_a_card_survives_writing_and_reading(card: Card, tmp_path: Path) -> None:
    whole = replace(card, parts={"upper": (0, 32), "lower": (32, 64)}, limits=("One.", "Two."))
    whole.write(tmp_path)
    again = Card.read(tmp_path)
    assert again == whole
    assert again.hash == whole.hash
    assert isinstance(again.preprocess, Preprocess)


def test_a_card_says_what_a_user_must_know(card: Card) -> None:
    text = card.text()
    assert "baseline trained on market1501 (48 images of 8 identities)" in card.describe()
    for word in ("research only", "RGB 32x16, bicubic", "mirrored", "64 numbers", card.hash):
        assert word in text
    assert card.paper in text
    assert card.trained_on.start == "random weights"
    assert any("Not measured" in limit for limit in card.limits)
    assert "root" not in card.recipe["data"]  # no paths of the machine that trained


@pytest.mark.parametrize("key", ["name", "method", "trained_on", "license", "dim", "preprocess",
                                 "format", "precision", "files"])  # fmt: skip
def test_a_missing_field_is_named(copied: Path, key: str) -> None:
    _edit(copied, **{key: None})
    with pytest.raises(CheckpointError, match=f"lacks {key}"):
        Encoder.load(copied)


ON = {"title": "x", "terms": "y"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"card": 99}, "layout 99.*newer crosscam"),
        ({"surprise": 1}, "unknown surprise"),
        ({"dim": "64"}, "dim is '64'"),
        ({"dim": 0}, "dim must be 1"),
        ({"format": "tensorrt"}, "format must be one of onnx, openvino, torch"),
        ({"metric": "hamming"}, "metric must be one of"),
        ({"preprocess": {"size": [32, 16]}}, "preprocessing card needs the keys"),
        ({"trained_on": {"title": "x"}}, "trained_on lacks terms"),
        ({"trained_on": 3}, "trained_on must be an object"),
        ({"trained_on": {**ON, "images": "many"}}, "trained_on, images .*whole number.*'many'"),
        ({"trained_on": {**ON, "identities": -1}}, "trained_on, identities .*got -1"),
        ({"trained_on": {**ON, "cameras": True}}, "trained_on, cameras .*got True"),
        ({"trained_on": {**ON, "images": 2.5}}, "trained_on, images .*got 2.5"),
        ({"trained_on": {**ON, "start": None}}, "title, terms and start are texts"),
        ({"files": {}}, "files lacks encoder.onnx"),
        ({"files": {"encoder.onnx": {"bytes": 1}}}, "bytes and sha256"),
        ({"parts": {"upper": 3}}, "parts must map"),
        ({"limits": "none"}, "limits must be a list"),
        ({"figures": [1]}, "every figure is an object"),
    ],
)
def test_a_wrong_field_is_named(copied: Path, changes: dict[str, Any], message: str) -> None:
    _edit(copied, **changes)
    with pytest.raises(CheckpointError, match=message):
        Encoder.load(copied)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a\\..\\b"])
def test_files_outside_the_folder_are_refused(copied: Path, name: str) -> None:
    files = json.loads((copied / CARD).read_text())["files"]
    _edit(copied, files={**files, name: files["encoder.onnx"]})
    with pytest.raises(CheckpointError, match="names inside the folder"):
        Encoder.load(copied)


def test_the_card_says_what_precision_costs(card: Card) -> None:
    figure = {"data": "market1501", "rank1": 0.5, "mAP": 0.4, "ap": "rank-precision",
              "n_queries": 3368, "precision": "int8",
              "rank1_change": -0.0123, "mAP_change": 0.0045}  # fmt: skip
    cosines = {"on": "market1501", "mean": 0.99, "least": 0.97}
    text = replace(
        card, figures=(figure,), proof={**card.proof, "cosine_to_network": cosines}
    ).text()
    assert "mAP 40.0% (rank-precision, int8, 3,368 queries, " in text
    assert "rank-1 -1.23%, mAP +0.45% from the network in float32" in text
    assert "on market1501: mean cosine 0.99, least 0.97" in text


def test_unknown_training_data_are_called_so(card: Card) -> None:
    theirs = replace(card, name="x", method="m.onnx, made elsewhere",
                     trained_on=TrainedOn("not stated", "unknown"))  # fmt: skip
    assert theirs.describe() == "x: m.onnx, made elsewhere, trained on data that are not stated"


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"card"'])
def test_a_card_that_is_no_json_object_is_refused(copied: Path, text: str) -> None:
    (copied / CARD).write_text(text)
    assert not is_encoder(copied)
    with pytest.raises(CheckpointError, match=r"card\.json"):
        Encoder.load(copied)


def test_a_folder_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not an encoder"):
        Encoder.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"nothing is not there.*models list"):
        Encoder.load(tmp_path / "nothing")


def test_a_changed_byte_is_noticed(copied: Path) -> None:
    path = copied / "encoder.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        Encoder.load(copied)


def test_a_cut_or_missing_file_is_noticed(copied: Path) -> None:
    path = copied / "encoder.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="incomplete or another file"):
        Encoder.load(copied)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"encoder\.onnx is missing"):
        Encoder.load(copied)


def test_the_hash_tells_what_decides_the_features(card: Card) -> None:
    pre = card.preprocess
    others = [
        replace(card, flip=not card.flip),
        replace(card, precision="fp16"),
        replace(card, preprocess=replace(pre, interpolation="bilinear")),
        replace(card, files={"encoder.onnx": {"bytes": 1, "sha256": "0" * 64}}),
    ]
    assert len({card.hash, *(o.hash for o in others)}) == 5
    same = replace(card, name="another", limits=(), figures=())
    assert same.hash == card.hash
