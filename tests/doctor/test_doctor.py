"""Every check of the doctor against an encoder in which exactly that is broken."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patients import SIZE, by_hand, changed_onnx, changed_run, train_on_bgr, write_people
from PIL import Image

from crosscam.card import Card
from crosscam.cli import main
from crosscam.doctor import Report, examine
from crosscam.doctor.pictures import of_folder, rendered
from crosscam.doctor.weights import is_uniform
from crosscam.errors import CheckpointError, DataError, InputError
from crosscam.export import export
from crosscam.image import Preprocess

UNSEEN = range(40, 64)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("doctor")


@pytest.fixture(scope="session")
def run(work: Path) -> Path:
    return train_on_bgr(work)


@pytest.fixture(scope="session")
def bgr(work: Path) -> Path:
    return write_people(work / "bgr", UNSEEN, swapped=True)


@pytest.fixture(scope="session")
def rgb(work: Path) -> Path:
    return write_people(work / "rgb", UNSEEN, swapped=False)


@pytest.fixture(scope="session")
def encoder(run: Path, work: Path) -> Path:
    export(run, work / "encoder", format="onnx")
    return work / "encoder"


@pytest.fixture(scope="session")
def cells(work: Path) -> Report:
    return examine(by_hand(work / "cells"))


def failures(report: Report) -> list[str]:
    return [f.check for f in report.findings if f.status == "FAIL"]


# --- nothing broken -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_trained_encoder_has_no_faults(encoder: Path, run: Path, bgr: Path) -> None:
    report = examine(encoder, images=bgr, run=run)
    assert failures(report) == []
    assert report["kept vectors"].status == "OK"
    assert report["train/serve"].status == "OK"
    assert "96 pictures of 24 people" in report.pictures


def test_a_bare_but_honest_encoder_has_no_faults(cells: Report) -> None:
    assert failures(cells) == []
    assert {f.check for f in cells.findings if f.status == "SKIP"} == {
        "kept vectors",
        "train/serve",
    }


def test_the_pictures_of_the_package_are_24_people_by_4_cameras() -> None:
    crops = rendered()
    assert len(crops.pictures) == 96
    assert {p.shape for p in crops.pictures} == {(128, 64, 3)}
    assert np.bincount(crops.people).tolist() == [4] * 24
    assert np.bincount(crops.cameras).tolist() == [24] * 4
    # the same person looks more alike than others do: the labels stand at the right pictures
    colors = np.stack([p.reshape(8, 16, 64, 3).mean((1, 2)).ravel() for p in crops.pictures])
    apart = np.linalg.norm(colors[:, None] - colors[None], axis=2)
    same = crops.people[:, None] == crops.people[None]
    away = crops.cameras[:, None] != crops.cameras[None]
    assert apart[same & away].mean() < 0.8 * apart[~same & away].mean()


# --- is it whole? ---------------------------------------------------------------------------------


def test_a_changed_file(work: Path) -> None:
    folder = by_hand(work / "flipped")
    data = bytearray((folder / "encoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "encoder.onnx").write_bytes(data)
    report = examine(folder)
    assert [f.check for f in report.findings] == ["files"]
    assert report.status == "FAIL"
    assert "SHA-256" in report["files"].measured


@pytest.mark.slow
def test_weights_changed_after_training(run: Path, tmp_path: Path) -> None:
    other = changed_run(run, tmp_path / "run", lambda w: w["backbone.conv1.weight"].fill(0.1))
    card = json.loads((run / "card.json").read_text())
    (other / "card.json").write_text(json.dumps(card))
    assert examine(other, only=["files"])["files"].status == "FAIL"


def _fresh_statistics(weights: dict[str, Any]) -> None:
    weights["neck.running_mean"].fill(0)
    weights["neck.running_var"].fill(1)


def _fresh_layer(weights: dict[str, Any]) -> None:
    weight = weights["backbone.layer4.1.conv1.weight"]
    bound = 1 / math.sqrt(weight[0].size)
    weight[...] = np.random.default_rng(0).uniform(-bound, bound, weight.shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_fresh_statistics, "1 has running statistics of 0 and 1, as before training: neck"),
        (_fresh_layer, "1 is distributed as PyTorch"),
        (lambda w: w["backbone.layer3.0.conv2.weight"].fill(0), "1 holds one number throughout"),
        (lambda w: w["backbone.layer3.0.conv2.weight"].__setitem__(0, np.nan), "not finite"),
    ],
)
def test_partly_loaded_weights(change: Any, said: str, run: Path, tmp_path: Path) -> None:
    other = changed_run(run, tmp_path / "run", change)
    found = examine(other, only=["weights"])["weights"]
    assert found.status == "FAIL"
    assert said in found.measured


@pytest.mark.slow
def test_a_head_that_was_not_loaded_shows_in_onnx_too(encoder: Path, tmp_path: Path) -> None:
    dim = Card.read(encoder).dim
    fresh = {
        "method.neck.running_mean": np.zeros(dim, np.float32),
        "method.neck.running_var": np.ones(dim, np.float32),
    }
    report = examine(changed_onnx(encoder, tmp_path / "e", **fresh), only=["weights"])
    assert "as before training: method.neck" in report["weights"].measured


def test_uniform_weights_are_told_from_trained_ones() -> None:
    rng = np.random.default_rng(1)
    shape, inputs, outputs = (64, 32, 3, 3), 32 * 9, 64 * 9
    bound = 1 / math.sqrt(inputs)
    fresh = rng.uniform(-bound, bound, shape).astype(np.float32)
    assert is_uniform(fresh, inputs, outputs)
    glorot = math.sqrt(6 / (inputs + outputs))
    assert is_uniform(rng.uniform(-glorot, glorot, shape), inputs, outputs)
    assert not is_uniform(fresh * 1.01, inputs, outputs)
    assert not is_uniform(fresh * 0.99, inputs, outputs)  # decayed by 1 %
    assert not is_uniform(rng.normal(0, bound / math.sqrt(3), shape), inputs, outputs)
    stepped = fresh + 0.001 * rng.choice([-1, 1], shape)  # one step of Adam
    assert not is_uniform(stepped, inputs, outputs)


def test_vectors_that_are_not_finite(work: Path) -> None:
    # with mean 0, black is all zeros, and without a bound the length divides zero by zero
    bare = Preprocess(SIZE, mean=(0, 0, 0), std=(1, 1, 1))
    zero = {"least": np.array(0, np.float32)}
    report = examine(by_hand(work / "zero", preprocess=bare, constants=zero))
    assert failures(report) == ["numbers"]
    assert "of black pictures" in report["numbers"].measured
    broken = [("Sqrt", ["cells"], ["last"], {})]
    report = examine(by_hand(work / "sqrt", *broken))  # of negative numbers
    assert "96 of 96 vectors are not finite" in report["numbers"].measured
    assert report["matching"].status == "SKIP"


def test_vectors_of_any_length(work: Path) -> None:
    assert failures(examine(by_hand(work / "long", unit=False))) == ["length"]


def test_vectors_that_depend_on_the_batch(work: Path) -> None:
    nodes = [
        ("ReduceMean", ["cells", "rows"], ["mean"], {"keepdims": 1}),
        ("Mul", ["mean", "half"], ["some"], {}),
        ("Sub", ["cells", "some"], ["last"], {}),
    ]
    constants = {"rows": np.array([0], np.int64), "half": np.array(0.5, np.float32)}
    report = examine(by_hand(work / "batch", *nodes, constants=constants))
    assert failures(report) == ["batches"]


# --- does it still do what it did? ----------------------------------------------------------------


@pytest.mark.slow
def test_what_is_computed_differs_from_the_export(encoder: Path, run: Path, tmp_path: Path) -> None:
    """The file's own hash is right, so only the vectors can tell."""
    _, scale = Card.read(encoder).preprocess.shift_and_scale()
    other = changed_onnx(encoder, tmp_path / "e", scale=scale * np.float32(1.1))
    report = examine(other, run=run, only=["files", "kept vectors", "train/serve"])
    assert report["files"].status == "OK"
    assert {"kept vectors", "train/serve"} <= set(failures(report))
    card = Card.read(other)
    replace(card, preprocess=replace(card.preprocess, interpolation="bicubic")).write(other)
    report = examine(other, run=run, only=["train/serve"])
    assert "bicubic" in report["train/serve"].measured


@pytest.mark.slow
def test_kept_vectors_of_another_encoder(encoder: Path, tmp_path: Path) -> None:
    other = changed_onnx(encoder, tmp_path / "e")
    data = bytearray((other / "probe.npz").read_bytes())
    data[-1] ^= 1
    (other / "probe.npz").write_bytes(data)
    found = examine(other, only=["kept vectors"])["kept vectors"]
    assert found.status == "FAIL"
    assert "not the file that the card" in found.measured


# --- is it of use? --------------------------------------------------------------------------------


def test_everybody_scores_097(work: Path) -> None:
    constants = {"much": np.array(20, np.float32)}
    nodes = [("Add", ["cells", "much"], ["last"], {})]
    report = examine(by_hand(work / "crowd", *nodes, constants=constants))
    assert failures(report) == ["spread"]
    assert "Everybody scores high" in report["spread"].meaning


def test_a_vector_that_is_mostly_still(work: Path) -> None:
    constants = {"mask": (np.arange(96) < 40).astype(np.float32)}
    nodes = [("Mul", ["cells", "mask"], ["last"], {})]
    report = examine(by_hand(work / "still", *nodes, constants=constants))
    assert failures(report) == ["dimensions"]
    assert "58% of 96 numbers never change" in report["dimensions"].measured


def test_a_vector_that_small_changes_throw_about(work: Path) -> None:
    nodes = [
        ("Mul", ["cells", "wild"], ["angles"], {}),
        ("Sin", ["angles"], ["last"], {}),
    ]
    constants = {"wild": np.array(3000, np.float32)}
    report = examine(by_hand(work / "wild", *nodes, constants=constants))
    assert "small changes" in failures(report)
    assert report["matching"].status == "WARN"  # color histograms are better


# --- is it fed rightly? ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_network_of_bgr_that_is_fed_rgb(run: Path, encoder: Path, rgb: Path, bgr: Path) -> None:
    for model in (run, encoder):
        assert examine(model, images=bgr, only=["channels"])["channels"].status == "OK"
        found = examine(model, images=rgb, only=["channels"])["channels"]
        assert found.status == "FAIL"
        assert "clearly better is red and blue swapped" in found.measured


@pytest.mark.slow
def test_the_wrong_normalization(run: Path, bgr: Path, tmp_path: Path) -> None:
    other = changed_run(run, tmp_path / "run", lambda w: None)
    recipe = (other / "recipe.yaml").read_text()
    for name, value in (("0.485", "0.0"), ("0.456", "0.0"), ("0.406", "0.0"),
                        ("0.229", "0.004"), ("0.224", "0.004"), ("0.225", "0.004")):  # fmt: skip
        recipe = recipe.replace(f"- {name}\n", f"- {value}\n")
    (other / "recipe.yaml").write_text(recipe)
    found = examine(other, images=bgr, only=["normalization"])["normalization"]
    assert found.status == "FAIL"
    assert "mean and std of ImageNet" in found.measured.partition("clearly better is")[2]


def test_the_wrong_size(rgb: Path, work: Path) -> None:
    """A network that knows the stripes of 64 rows, by filters of 3 to 15 cycles."""
    rows = np.arange(32)[:, None]
    waves = 2 * np.pi * np.arange(3, 16) * rows / 64
    bank = np.concatenate([np.sin(waves), np.cos(waves)], 1).T  # [26, 32]
    bank = (bank - bank.mean(1, keepdims=True)) * np.hanning(34)[1:-1]
    filters = np.zeros((26, 3, 32, 1), np.float32)
    filters[:, 0, :, 0] = bank
    nodes = [
        ("Conv", ["planes", "filters"], ["waves"], {"pads": [16, 0, 16, 0]}),
        ("Mul", ["waves", "waves"], ["power"], {}),
        ("GlobalAveragePool", ["power"], ["mean"], {}),
        ("Flatten", ["mean"], ["energy"], {}),
        ("Sqrt", ["energy"], ["last"], {}),
    ]
    sizes = {}
    for size in ((64, 32), (32, 16)):
        folder = by_hand(
            work / f"stripes{size[0]}", *nodes, dim=26, cells=False,
            preprocess=Preprocess(size), constants={"filters": filters},
        )  # fmt: skip
        sizes[size] = examine(folder, images=rgb, only=["size"])["size"]
    assert sizes[64, 32].status == "OK"
    assert sizes[32, 16].status == "FAIL"
    assert "clearly better is at 64x32" in sizes[32, 16].measured


def test_mean_and_std_of_pixels(work: Path) -> None:
    pixels = Preprocess(SIZE, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    assert "mean and std" in failures(examine(by_hand(work / "pixels", preprocess=pixels)))


def test_wider_than_tall(work: Path) -> None:
    found = examine(by_hand(work / "wide", preprocess=Preprocess((16, 32))))["mean and std"]
    assert found.status == "WARN"
    assert "16x32" in found.measured


# --- pictures, report, command --------------------------------------------------------------------


def test_pictures_of_people_in_folders(tmp_path: Path) -> None:
    for person in "abcdefgh":
        (tmp_path / person).mkdir()
        for shot in range(6):
            Image.new("RGB", (8, 16), (ord(person), shot, 0)).save(
                tmp_path / person / f"{shot}.png"
            )
    crops = of_folder(tmp_path)
    assert crops.labeled
    assert np.bincount(crops.people).tolist() == [4] * 8
    assert [int(p[0, 0, 0]) for p in crops.pictures] == [ord(c) for c in "abcdefgh" for _ in "1234"]


def test_pictures_of_nobody_known(work: Path, tmp_path: Path) -> None:
    for i in range(20):
        noise = np.random.default_rng(i).integers(0, 256, (16, 8, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"x{i}.png")
    report = examine(by_hand(work / "unknown"), images=tmp_path)
    assert report.pictures == "20 pictures of unknown people"
    for check in ("matching", "channels", "normalization", "size"):
        assert report[check].status == "SKIP"
    (tmp_path / "x0.png").unlink()
    for i in range(1, 4):
        (tmp_path / f"x{i}.png").unlink()
    with pytest.raises(DataError, match="17 or more"):
        of_folder(tmp_path)


def test_what_to_expect(cells: Report, work: Path) -> None:
    assert "no measured figures" in cells.expect[0]
    assert "On new cameras" in cells.text()
    assert "On new cameras" not in replace(cells, expect=()).text()
    figures = (
        {"data": "nothing", "rank1": 0.9, "mAP": 0.8, "ap": "rank-precision"},
        {"data": "elsewhere", "rank1": 0.2, "mAP": 0.1, "ap": "rank-precision"},
    )
    report = examine(by_hand(work / "measured", figures=figures), only=["files"])
    assert report.expect[0].startswith("trained on nothing, measured on elsewhere: rank-1 20.0%")
    report = examine(by_hand(work / "home", figures=figures[:1]), only=["files"])
    assert "not measured on other cameras" in report.expect[1]


def test_the_command(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = by_hand(work / "good"), by_hand(work / "bad", unit=False)
    assert main(["doctor", str(good)]) == 0
    assert ": 0 FAIL, " in capsys.readouterr().out
    assert main(["doctor", str(bad), "--json", "--check", "length", "--check", "files"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["status"] == "FAIL"
    assert [f["check"] for f in printed["findings"] if f["status"] == "FAIL"] == ["length"]


def test_what_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no check is called 'teeth'; there are files, weights"):
        examine(tmp_path, only=["teeth"])
    with pytest.raises(CheckpointError, match="neither an encoder"):
        examine(tmp_path / "nowhere")
    (tmp_path / "x.onnx").touch()
    with pytest.raises(InputError, match="without a card"):
        examine(tmp_path / "x.onnx")
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "card.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"card\.json cannot be read"):
        examine(torn)


def test_an_onnx_encoder_is_examined_without_torch(work: Path) -> None:
    folder = by_hand(work / "light")
    code = (
        "import sys; from crosscam.doctor import examine; "
        f"r = examine({str(folder)!r}); "
        "print([f.check for f in r.findings if f.status == 'FAIL'], 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["[]", "False"]
