"""The weights that come with the package: whole, licensed, and better than colors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from crosscam import embedder, evaluate
from crosscam.data import datasets
from crosscam.encoder import Encoder
from crosscam.errors import CheckpointError
from crosscam.models import resolve, verify
from crosscam.nn import pretrained
from crosscam.recipe import parse
from crosscam.synth import synthesize

SHIPPED = {"people": 16_000_000, "people-small": 4_000_000}  # bytes at most


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_says_what_they_are(name: str) -> None:
    card = verify(resolve(name))
    assert card.license == "Apache-2.0"
    assert "rendered" in card.trained_on.title
    assert {f["data"].split()[0] for f in card.figures} >= {"Market-1501", "CUHK03-NP"}
    assert card.bytes < SHIPPED[name]


@pytest.mark.parametrize(("name", "least_cosine"), [("people", 0.9999), ("people-small", 0.955)])
def test_training_can_start_from_what_the_encoder_was_made_of(
    name: str, least_cosine: float
) -> None:
    pytest.importorskip("onnxruntime")
    network = [f"method.backbone.{said}" for said in pretrained.SHIPPED[name].network]
    cpu = parse("cpu", [f"method.backbone.pretrained={name}", *network])
    method = cpu.method.build(3)
    report = method.backbone.report
    assert report.source == name
    assert all(key.startswith("neck.") for key in report.ignored)
    given = load_file(pretrained.fetch(name).path)
    neck = {k.removeprefix("neck."): v for k, v in given.items() if k.startswith("neck.")}
    assert not method.neck.load_state_dict(neck, strict=False).unexpected_keys

    encoder = Encoder.load(name, threads=1)
    rng = np.random.default_rng(0)
    # 8 bits are fitted to pictures, not to noise; their bound is the export's.
    coarse = rng.integers(0, 256, (4, 8, 4, 3), np.uint8)
    pictures = coarse.repeat(16, axis=1).repeat(16, axis=2)
    ours = embedder.of_method(method, cpu, device="cpu").function(pictures)
    cosine = (ours * encoder.embed(list(pictures))).sum(1)
    assert cosine.min() > least_cosine


@pytest.mark.parametrize("name", pretrained.SHIPPED)
def test_shipped_weights_say_which_network_they_are_of(name: str) -> None:
    options = [f"method.backbone.{said}" for said in pretrained.SHIPPED[name].network]
    start = [f"method.backbone.pretrained={name}", *options]
    assert parse("cpu", start).method.build(3).backbone.report.loaded
    other = parse("cpu", [*start, "method.backbone.width=0.25"])
    with pytest.raises(CheckpointError) as error:
        other.method.build(3)
    assert f"They are of {' '.join(options)}: take that network" in str(error.value)


def test_shipped_weights_that_were_changed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = pretrained.Shipped((), "0" * 64)
    monkeypatch.setitem(pretrained.SHIPPED, "people-small", other)
    with pytest.raises(CheckpointError, match=r"small has sha256 f5f2.*Install the package"):
        pretrained.fetch("people-small")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_they_tell_unseen_rendered_people_apart(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    synthesize(tmp_path / "set", ids=16, cameras=3, shots=2, seed=4242, train_share=0.0, workers=1)
    dataset = datasets.load("rendered", tmp_path / "set")
    learned = evaluate.evaluate(Encoder.load(name, threads=1).embedder(), dataset)
    colors = evaluate.evaluate(embedder.load("hsv"), dataset)
    assert learned.metrics.mAP > 1.3 * colors.metrics.mAP
