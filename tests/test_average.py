"""The mean of several runs: against a loop over the tensors, and as a user would go on with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import write_market

from crosscam import embedder
from crosscam.average import average
from crosscam.cli import main
from crosscam.encoder import Encoder
from crosscam.errors import CheckpointError, InputError
from crosscam.recipe import parse
from crosscam.training.checkpoint import load_weights, save_weights

SMALL = ("method.backbone.name=resnet18", "method.backbone.width=0.125", "preprocess.size=[32,16]")
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 32, 16, 3), dtype=np.uint8)


def made(
    run: Path, *settings: str, seed: int = 0, people: int = 5, data: str = "rendered", **card: str
) -> Path:
    """A finished run that never learned; its running statistics are away from their defaults."""
    recipe = parse(None, [*SMALL, f"data.name={data}", *settings])
    torch.manual_seed(seed)
    method = recipe.method.build(people)
    for name, value in method.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0.0, 0.3)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    run.mkdir()
    on = {"name": data, "variant": "", "title": f"{data} {run.name}", "images": 10 * people}
    on |= {"identities": people, "cameras": people + 1}
    known = {"method": recipe.method.name, "paper": method.paper, "num_classes": people}
    (run / "card.json").write_text(json.dumps({**known, "trained_on": on, **card}))
    (run / "recipe.yaml").write_text(recipe.to_yaml())
    save_weights(run / "weights.safetensors", method.state_dict())
    return run


def features(run: Path) -> torch.Tensor:
    return torch.from_numpy(embedder.load(run, device="cpu").function(PICTURES))


def test_the_mean_of_every_tensor_that_an_encoder_reads(tmp_path: Path) -> None:
    runs = [made(tmp_path / f"{k}", seed=k, people=5 + k) for k in range(3)]
    found = average(runs, tmp_path / "mean")
    a, b, c = (load_weights(run / "weights.safetensors") for run in runs)
    mean = load_weights(found.run / "weights.safetensors")
    assert mean.keys() == c.keys()
    assert found.not_averaged == ("centers.centers", "classifier.weight")
    for name, value in mean.items():
        if name in found.not_averaged:
            assert torch.equal(value, c[name])
        elif value.is_floating_point():
            torch.testing.assert_close(value, (a[name] + b[name] + c[name]) / 3)
    method = embedder.load_method(found.run)[0]
    read = sum(p.numel() for p in method.parameters()) - 2 * 7 * method.dim
    assert found.parameters == read


@pytest.mark.parametrize(
    "settings",
    [
        ["method=baseline"],
        ["method=mpn", "method.width=8"],
        ["method=msfl", "method.width=8", "method.refine_width=8", "method.embedding=8"],
        ["method=mmga", "method.features=8"],
        ["method=san", "method.embedding=8", "method.decoder_width=0.0625"],
    ],
)
def test_equal_networks_are_their_own_mean(settings: list[str], tmp_path: Path) -> None:
    one = made(tmp_path / "one", *settings, people=5)
    two = made(tmp_path / "two", *settings, people=7)
    weights, other = (load_weights(run / "weights.safetensors") for run in (one, two))
    fit = {k: v for k, v in weights.items() if v.shape == other[k].shape}
    save_weights(two / "weights.safetensors", {**other, **fit})
    found = average([one, two], tmp_path / "mean")
    torch.testing.assert_close(features(found.run), features(one))


def test_what_differs_in_training_only_is_no_hindrance(tmp_path: Path) -> None:
    one = made(tmp_path / "one", "method.margin=soft", "method.center=0", "optimizer.lr=1e-3")
    two = made(tmp_path / "two", "method.smoothing=0.2", seed=1)
    assert average([one, two], tmp_path / "mean").parameters > 10_000
    recipe = parse(tmp_path / "mean" / "recipe.yaml")
    assert recipe.method.options["smoothing"] == 0.2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["method=msfl"], r"method\.name is baseline in the first and msfl in the second"),
        (["preprocess.size=[64,32]"], "preprocess is "),
        (["test.flip=true"], r"test\.flip is False"),
        (["test.metric=euclidean"], r"test\.metric is cosine"),
        (
            ["method.backbone.width=0.25"],
            r"they are different networks.* 104 tensors \(backbone\.bn1\.b",
        ),
        (
            ["method.bnneck=false"],
            r"they are different networks.* 4 tensors \(neck\.bias, neck\.running",
        ),
        (
            ["method.backbone.last_stride=2"],
            "with the same weights they compute different features.*stride, pooling",
        ),
        (["method.pool=max"], "with the same weights they compute different features"),
    ],
)
def test_other_networks_are_refused(settings: list[str], said: str, tmp_path: Path) -> None:
    one, two = made(tmp_path / "one"), made(tmp_path / "two", *settings)
    with pytest.raises(CheckpointError, match=f"one and .*two cannot be averaged: {said}"):
        average([one, two], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_what_cannot_be_averaged_is_said(tmp_path: Path) -> None:
    one, two = made(tmp_path / "one"), made(tmp_path / "two", seed=1)
    with pytest.raises(InputError, match=r"two or more different runs, got .*one\."):
        average([one], tmp_path / "mean")
    with pytest.raises(InputError, match="two or more different runs"):
        average([one, two, tmp_path / "one" / ".." / "one"], tmp_path / "mean")
    with pytest.raises(InputError, match="two is not empty"):
        average([one, two], two)
    with pytest.raises(CheckpointError, match=r"no recipe\.yaml"):
        average([one, tmp_path], tmp_path / "mean")
    (two / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match="two"):
        average([one, two], tmp_path / "mean")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def test_the_card_names_all_data_and_terms(tmp_path: Path) -> None:
    rendered = made(tmp_path / "drawn", license="Apache-2.0")
    market = made(tmp_path / "real", data="market1501", people=6, seed=1)
    average([rendered, market], tmp_path / "mean")
    card = json.loads((tmp_path / "mean" / "card.json").read_text())
    assert card["trained_on"] == {
        "name": "rendered + market1501",
        "variant": "",
        "title": "rendered drawn + market1501 real",
        "terms": "rendered people, nobody is shown; no terms; "
        "for research only, on the terms of its owners",
        "images": 110,
        "identities": 11,
        "cameras": 7,
    }
    assert card["license"] == "Apache-2.0; research only, by the terms of the training data"
    assert [entry["run"] for entry in card["averaged"]] == ["drawn", "real"]
    average([tmp_path / "mean", rendered], tmp_path / "again")
    card = json.loads((tmp_path / "again" / "card.json").read_text())
    assert "research only" in card["license"]
    assert "on the terms" in card["trained_on"]["terms"]
    same = [made(tmp_path / f"same{k}", seed=k, license="Apache-2.0") for k in (0, 1)]
    average(same, tmp_path / "free")
    card = json.loads((tmp_path / "free" / "card.json").read_text())
    assert card["license"] == "Apache-2.0"
    assert card["trained_on"]["terms"] == "rendered people, nobody is shown; no terms"


def test_a_mean_is_measured_and_deployed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_market(tmp_path / "market", size=(32, 16))
    runs = [str(made(tmp_path / f"{k}", seed=k)) for k in range(2)]
    mean, encoder = str(tmp_path / "mean"), str(tmp_path / "encoder")
    assert main(["average", *runs, "--out", mean]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{mean}: the mean of {runs[0]}, {runs[1]}, ")
    assert "not averaged, as no encoder reads them: centers.centers, classifier.weight" in said
    assert main(["evaluate", mean, "--data", "market1501", "--root", str(data), "--partial"]) == 0
    assert "baseline trained on rendered 0 + rendered 1" in capsys.readouterr().out
    assert main(["export", mean, encoder, "--format", "torch"]) == 0
    vectors = torch.from_numpy(Encoder.load(encoder).embed(PICTURES))
    torch.testing.assert_close(features(Path(mean)), vectors)
    assert main(["average", *runs, "--out", mean]) == 1
    assert f"{mean} is not empty" in capsys.readouterr().err
