"""``crosscam export`` and ``embed``, from the command line, and the file that ``score`` reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from crosscam import embedder
from crosscam.cli import main
from crosscam.data import datasets
from crosscam.encoder import Encoder
from crosscam.evaluate import evaluate
from crosscam.retrieval.score import read_features, score_file


@pytest.mark.parametrize("data", ["auto", "market1501"])
def test_score_reads_what_embed_writes(
    toy_data: Path, toy_run: Path, onnx_folder: Path, tmp_path: Path, data: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "features.npz"
    more = [] if data == "auto" else ["--data", data, "--partial"]
    assert main(["embed", str(toy_data), "--model", str(onnx_folder), "-o", str(out), *more]) == 0
    assert f"crosscam score {out}" in capsys.readouterr().out
    arrays = read_features(out)
    assert sorted(set(arrays["query_pids"].tolist())) == list(range(9, 15))
    dataset = datasets.load("market1501", toy_data, partial=True)
    expected = evaluate(embedder.load(toy_run, device="cpu"), dataset).metrics
    got = score_file(out)
    assert (got.rank1, got.mAP) == pytest.approx((expected.rank1, expected.mAP), abs=1e-9)
    assert main(["score", str(out)]) == 0


def test_any_folder_of_pictures(
    toy_data: Path, onnx_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "deep"
    shutil.copytree(toy_data / "query", folder / "a" / "b")
    out = tmp_path / "f.npz"
    assert main(["embed", str(folder), "--model", str(onnx_folder), "-o", str(out)]) == 0
    with np.load(out) as arrays:
        paths, features, model = arrays["paths"], arrays["features"], str(arrays["model"])
    encoder = Encoder.load(onnx_folder)
    assert model == encoder.hash
    assert len(paths) == 18
    assert paths[0].startswith("a/b/")
    np.testing.assert_allclose(features, encoder([folder / p for p in paths]), atol=2e-6)
    assert main(["score", str(out)]) == 1
    assert "lacks query_features" in capsys.readouterr().err


def test_bad_pictures_stop_it_or_are_left_out(
    toy_data: Path, onnx_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "some"
    shutil.copytree(toy_data / "query", folder)
    first = sorted(folder.iterdir())[0]
    first.write_bytes(b"")
    out = tmp_path / "f.npz"
    arguments = ["embed", str(folder), "--model", str(onnx_folder), "-o", str(out)]
    assert main(arguments) == 1
    assert "1 of 18 pictures cannot be used" in capsys.readouterr().err
    assert not out.exists()
    assert main([*arguments, "--skip-bad"]) == 0
    assert f"{first} is empty" in capsys.readouterr().out
    with np.load(out) as arrays:
        assert len(arrays["paths"]) == len(arrays["features"]) == 17
        assert first.name not in arrays["paths"]


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda p: None, "not there"), (Path.mkdir, "has no pictures"), (Path.touch, "a file")],
)
def test_folders_that_cannot_be_embedded(
    onnx_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make, message: str
) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "x")
    assert main(["embed", str(tmp_path / "x"), "--model", str(onnx_folder)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_export_from_the_command_line(
    toy_run: Path, toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m"
    data = ["--data", "market1501", "--root", str(toy_data), "--partial"]
    assert main(["export", str(toy_run), str(out), "--license", "MIT", "--limit", "Toys only.",
                 *data]) == 0  # fmt: skip
    text = capsys.readouterr().out
    assert "license   MIT" in text
    assert "limit     Toys only." in text
    assert "measured  market1501: rank-1" in text
    assert main(["evaluate", str(out), *data, "--quiet"]) == 0
    assert not (out / "evaluation").exists()  # an encoder is passed on; pages show people
    assert main(["export", str(toy_run), str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["export", str(toy_run), str(tmp_path / "n"), "--partial"]) == 1
    assert "belong to --data" in capsys.readouterr().err
