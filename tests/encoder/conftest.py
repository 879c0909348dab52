"""A tiny network trained on toy people, and its encoders, made once."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from recipes import toy_recipe
from toy import person, write_market

from crosscam import export as exporting
from crosscam.card import Card
from crosscam.training import loop


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("toy") / "data")


@pytest.fixture(scope="session")
def toy_run(toy_data: Path) -> Path:
    """Trained for two epochs, with the flip rule on and an interpolation of its own at test."""
    recipe = toy_recipe(
        toy_data, "schedule.epochs=2", "test.flip=true", "test.interpolation=bicubic"
    )
    return loop.train(recipe, toy_data.parent / "run", device="cpu")


@pytest.fixture(scope="session")
def written(toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy network's float32 graph: writing it takes seconds, and it is always the same."""
    from crosscam import deployed, embedder

    method, recipe, _ = embedder.load_method(toy_run)
    path = tmp_path_factory.mktemp("graph") / "encoder.onnx"
    network = deployed.Deployed(method, recipe).eval()
    exporting._write_onnx(network, recipe.preprocess.size, path)
    return path


@pytest.fixture
def quick(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``export`` takes the graph that is written already."""
    monkeypatch.setattr(exporting, "_write_onnx", lambda _n, _s, path: shutil.copy(written, path))


@pytest.fixture(scope="session")
def onnx_folder(toy_run: Path, written: Path) -> Path:
    """A whole encoder in ONNX format, made of the written graph."""
    out = toy_run.parent / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_write_onnx", lambda _n, _s, path: shutil.copy(written, path))
        exporting.export(toy_run, out)
    return out


@pytest.fixture(scope="session")
def torch_folder(toy_run: Path) -> Path:
    out = toy_run.parent / "torch"
    exporting.export(toy_run, out, format="torch")
    return out


@pytest.fixture(scope="session")
def crops() -> list[npt.NDArray[np.uint8]]:
    """Toy people at sizes that are not the network's."""
    rng = np.random.default_rng(3)
    sizes = [(int(h), int(h * 0.45)) for h in rng.integers(20, 90, 21)]
    return [person(n, 1, 0, size) for n, size in enumerate(sizes, 1)]


@pytest.fixture
def copied(onnx_folder: Path, tmp_path: Path) -> Path:
    """An encoder that a test may break."""
    return Path(shutil.copytree(onnx_folder, tmp_path / "model"))


@pytest.fixture
def card(onnx_folder: Path) -> Card:
    return Card.read(onnx_folder)
