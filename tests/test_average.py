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
from crosscam.files import sha256
from crosscam.recipe import parse
from crosscam.training import loop
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
    assert c["classifier.weight"].shape == (7, 64)
    for name, value in mean.items():
        if name in found.not_averaged:
            assert torch.equal(value, c[name])
        elif value.is_floating_point():
            torch.testing.assert_close(value, (a[name] + b[name] + c[name]) / 3)
    method = embedder.load_method(found.run)[0]
    read = sum(p.numel() for p in method.parameters()) - 2 * 7 * method.dim
    assert found.parameters == read


METHODS = [
    ["method=mpn", "method.width=8"],
    ["method=msfl", "method.width=8", "method.refine_width=8", "method.embedding=8"],
    ["method=mmga", "method.features=8"],
    ["method=san", "method.embedding=8", "method.decoder_width=0.0625"],
    ["method=parts", "method.width=8"],
]


@pytest.mark.parametrize("settings", METHODS, ids=lambda s: s[0])
def test_all_that_is_in_both_is_averaged(settings: list[str], tmp_path: Path) -> None:
    """Decoders with their statistics, and classifiers of as many people."""
    runs = [made(tmp_path / f"{k}", *settings, seed=k) for k in range(2)]
    found = average(runs, tmp_path / "mean")
    assert found.not_averaged == ()
    a, b = (load_weights(run / "weights.safetensors") for run in runs)
    for name, value in load_weights(found.run / "weights.safetensors").items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (a[name] + b[name]) / 2)
    assert embedder.load(found.run, device="cpu").function(PICTURES).shape[0] == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["method.center=0", "method.margin=soft", "optimizer.lr=1e-3"], ["method.smoothing=0.2"]),
        (["method.classifier_bias=true"], []),
        ([*METHODS[0], "method.auxiliary=0"], METHODS[0]),
        ([*METHODS[1], "method.level_id=0.5"], METHODS[1]),
        ([*METHODS[3], "method.reconstruction=0", "method.constraint=0"], METHODS[3]),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_what_differs_in_training_only_is_no_hindrance(
    one: list[str], other: list[str], turned: bool, tmp_path: Path
) -> None:
    runs = [made(tmp_path / "one", *one), made(tmp_path / "two", *other, seed=1)]
    runs = runs[::-1] if turned else runs
    found = average(runs, tmp_path / "mean")
    assert parse(found.run / "recipe.yaml") == parse(runs[-1] / "recipe.yaml")
    a, b = (load_weights(run / "weights.safetensors") for run in runs)
    mean = load_weights(found.run / "weights.safetensors")
    assert mean.keys() == b.keys()
    for name in ("backbone.conv1.weight", "backbone.layer4.1.bn2.running_var"):
        torch.testing.assert_close(mean[name], (a[name] + b[name]) / 2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["method=msfl"], r"method\.name is baseline in the first and msfl in the second"),
        (
            ["preprocess.size=[64,32]"],
            r"preprocess\.size is \(32, 16\) in the first and \(64, 32\)",
        ),
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
    with pytest.raises(InputError, match="two is there already"):
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
    digests = [sha256(run / "weights.safetensors") for run in (rendered, market)]
    assert [entry["weights_sha256"] for entry in card["averaged"]] == digests
    average([tmp_path / "mean", rendered], tmp_path / "again")
    again = json.loads((tmp_path / "again" / "card.json").read_text())
    assert again["trained_on"] == card["trained_on"]
    assert again["license"] == card["license"]
    assert again["averaged"] == card["averaged"]
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
    assert "as in the last run" not in said
    assert main(["evaluate", mean, "--data", "market1501", "--root", str(data), "--partial"]) == 0
    assert "baseline trained on rendered 0 + rendered 1" in capsys.readouterr().out
    assert main(["export", mean, encoder, "--format", "torch"]) == 0
    vectors = torch.from_numpy(Encoder.load(encoder).embed(PICTURES))
    torch.testing.assert_close(features(Path(mean)), vectors)
    assert main(["average", *runs, "--out", mean]) == 1
    assert f"{mean} is there already" in capsys.readouterr().err


def test_terms_of_sets_with_one_name_are_all_kept(tmp_path: Path) -> None:
    runs = []
    for number, terms in enumerate(["consent of 40 people", ""]):
        runs.append(made(tmp_path / f"{number}", data="csv", seed=number))
        card = json.loads((runs[-1] / "card.json").read_text())
        card["trained_on"] |= {"title": "csv list.csv", "terms": terms, "images": "many"}
        (runs[-1] / "card.json").write_text(json.dumps(card))
    average(runs, tmp_path / "mean")
    on = json.loads((tmp_path / "mean" / "card.json").read_text())["trained_on"]
    assert on["terms"] == "consent of 40 people; own pictures, terms not stated"
    assert (on["title"], on["images"]) == ("csv list.csv", 0)


def test_damaged_runs_are_refused_by_name(tmp_path: Path) -> None:
    one, two = made(tmp_path / "one"), made(tmp_path / "two", seed=1)
    weights = load_weights(two / "weights.safetensors")
    weights["neck.bias"][3] = float("nan")
    save_weights(two / "weights.safetensors", weights)
    for runs in ([one, two], [two, one]):
        with pytest.raises(
            CheckpointError, match=r"two cannot be averaged: its neck\.bias has val"
        ):
            average(runs, tmp_path / "mean")
    card = json.loads((one / "card.json").read_text())
    three = made(tmp_path / "three", seed=3)
    for broken in ("market", {}, None):
        (one / "card.json").write_text(json.dumps({**card, "trained_on": broken}))
        with pytest.raises(CheckpointError, match=r"card\.json does not say what .* trained_on"):
            average([one, three], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_vectors_of_another_length_are_another_network(tmp_path: Path) -> None:
    runs = [
        made(tmp_path / str(stripes), *METHODS[2], f"method.stripes={str(stripes).lower()}")
        for stripes in (False, True)
    ]
    for pair in (runs, runs[::-1]):
        with pytest.raises(CheckpointError, match="cannot be averaged: "):
            average(pair, tmp_path / "mean")


def test_a_mean_is_not_resumed(tmp_path: Path) -> None:
    data = write_market(tmp_path / "market", size=(32, 16))
    place = [f"data.root={data}", "data.partial=true"]
    runs = [made(tmp_path / f"{k}", *place, data="market1501", seed=k) for k in range(2)]
    average(runs, tmp_path / "mean")
    before = sha256(tmp_path / "mean" / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"no checkpoint .* averaged.*backbone\.pretrained="):
        loop.resume(tmp_path / "mean", progress=False)
    assert sha256(tmp_path / "mean" / "weights.safetensors") == before
