"""Training with the gradient regularizer: the log and exact resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from recipes import die_and_resume, toy_recipe
from toy import write_market

from crosscam.errors import RecipeError
from crosscam.training import checkpoint, loop


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("toys") / "market", size=(32, 16))


@pytest.mark.slow
@pytest.mark.parametrize("adversarial", ["false", "true"])
def test_a_stopped_run_goes_on_to_the_same_weights(
    adversarial: str, toys: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe(
        toys,
        "method.msgr=0.05",
        f"method.msgr_adversarial={adversarial}",
        "engine.precision=bf16",
        "schedule.epochs=2",
    )
    whole = loop.train(recipe, tmp_path / "whole", progress=False)
    run = die_and_resume(recipe, tmp_path / "run", 5)
    a, b = (checkpoint.load_weights(r / "weights.safetensors") for r in (whole, run))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["msgr_gradient"] > 0
        if adversarial == "false":
            assert line["msgr"] == pytest.approx(0.05 * line["msgr_gradient"])
            plain = line["loss"] - line["msgr"]
            assert line["msgr_ratio"] == pytest.approx(line["msgr_gradient"] / plain, rel=1e-4)


def test_a_compiled_step_is_refused(toys: Path, tmp_path: Path) -> None:
    recipe = toy_recipe(toys, "method.msgr=0.01", "engine.compile=true")
    with pytest.raises(RecipeError, match="differentiated twice"):
        loop.train(recipe, tmp_path / "run", progress=False)
