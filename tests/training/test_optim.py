"""Learning rates against the papers' formulas, optimizers, the average of the weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from crosscam.methods import BackboneSettings
from crosscam.methods.baseline import Baseline
from crosscam.recipe import OptimizerSettings, ScheduleSettings
from crosscam.training import optim
from crosscam.training.optim import (
    Average,
    averaged,
    learning_rate,
    make_optimizers,
    straighten,
)


def small(**options: object) -> Baseline:
    return Baseline(5, backbone=BackboneSettings("resnet18", width=0.125), **options)  # type: ignore[arg-type]


def test_strong_baseline_schedule() -> None:
    """Linear from 1 % over ten epochs, then a tenth at 40 and again at 70 (arXiv 1903.07071)."""
    schedule = ScheduleSettings()
    expected = {0: 3.5e-6, 5: 3.5e-4 * 0.505, 10: 3.5e-4, 39.9: 3.5e-4, 40: 3.5e-5, 70: 3.5e-6}
    for epoch, rate in expected.items():
        assert learning_rate(3.5e-4, schedule, epoch) == pytest.approx(rate, rel=1e-12)
    assert learning_rate(1.0, schedule, 5.9) == learning_rate(1.0, schedule, 5.0)


def test_exponential_warm_up_is_sans() -> None:
    """8e-6 times 1.259 per epoch for 20 epochs, reaching 8e-4 (release of SAN)."""
    schedule = ScheduleSettings(warmup="exponential", warmup_epochs=20, kind="constant")
    for epoch in range(20):
        expected = 8e-6 * (100 ** (1 / 20)) ** epoch
        assert learning_rate(8e-4, schedule, epoch) == pytest.approx(expected, rel=1e-12)
    assert pytest.approx(1.259, abs=1e-3) == 100 ** (1 / 20)
    assert learning_rate(8e-4, schedule, 20) == 8e-4


def test_cosine_starts_at_the_peak_and_ends_at_the_floor() -> None:
    schedule = ScheduleSettings(
        epochs=12, kind="cosine", every="step", warmup_epochs=2, floor=0.1, warmup_start=0.5
    )
    assert learning_rate(1.0, schedule, 0) == 0.5
    assert learning_rate(1.0, schedule, 1) == 0.75
    assert learning_rate(1.0, schedule, 2) == 1.0
    assert learning_rate(1.0, schedule, 7) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate(1.0, schedule, 12) == pytest.approx(0.1)
    expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.125))
    assert learning_rate(1.0, schedule, 3.25) == pytest.approx(expected)


def test_no_warm_up() -> None:
    schedule = ScheduleSettings(warmup="none", milestones=(1, 2), gamma=0.5)
    assert [learning_rate(1.0, schedule, e) for e in (0, 1, 2, 3)] == [1.0, 0.5, 0.25, 0.25]


def test_every_parameter_is_in_exactly_one_group() -> None:
    method = small(center=0.001)
    [optimizers] = make_optimizers(method, OptimizerSettings(decay_all=False, backbone_lr=0.1))
    grouped = [p for o in optimizers for g in o.param_groups for p in g["params"]]
    trainable = [p for p in method.parameters() if p.requires_grad]
    assert len(grouped) == len({id(p) for p in grouped})
    assert {id(p) for p in grouped} == {id(p) for p in trainable}


def test_groups_follow_the_settings() -> None:
    method = small(center=0.001, center_lr=0.4)
    [[main, centers]] = make_optimizers(
        method, OptimizerSettings("sgd", decay_all=False, backbone_lr=0.1, weight_decay=0.03)
    )
    place = {id(p): g for g in main.param_groups for p in g["params"]}
    assert place[id(method.backbone.conv1.weight)]["weight_decay"] == 0.03  # type: ignore[union-attr]
    assert place[id(method.backbone.conv1.weight)]["lr_factor"] == 0.1  # type: ignore[union-attr]
    assert place[id(method.backbone.bn1.weight)]["weight_decay"] == 0.0  # type: ignore[union-attr]
    assert place[id(method.classifier.weight)]["lr_factor"] == 1.0
    assert centers.param_groups[0]["fixed_lr"] == 0.4
    assert centers.param_groups[0]["weight_decay"] == 0


def test_centers_move_by_plain_sgd_on_the_unweighted_gradient() -> None:
    """d/dc of mean |f - c|^2 is 2 (c - f) / B per member, whatever the weight of the loss."""
    method = small(center=0.001, center_lr=0.5, triplet=0.0)
    assert method.centers is not None
    [[_, optimizer]] = make_optimizers(method, OptimizerSettings())
    features = torch.randn(4, method.dim)
    labels = torch.tensor([0, 0, 2, 3])
    before = method.centers.centers.detach().clone()
    (method.center * method.centers(features, labels)).backward()
    optimizer.step()
    expected = before.clone()
    for feature, label in zip(features, labels, strict=True):
        expected[label] -= 0.5 * 2 * (before[label] - feature) / 4
    torch.testing.assert_close(method.centers.centers.detach(), expected)


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adamw", "sgd"])
def test_fused_steps_are_the_plain_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: weights in channels-last order, and gradients in whatever order they came."""

    def learned(fused: bool) -> Baseline:
        monkeypatch.setattr(optim, "_on_gpu", lambda _: True if fused else None)
        torch.manual_seed(0)
        method = small().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        [optimizers] = make_optimizers(method, OptimizerSettings(name, lr=0.01))
        adams = [o for o in optimizers if not isinstance(o, torch.optim.SGD)]
        assert len(adams) == (name != "sgd")
        assert all(g["fused"] is (True if fused else None) for o in adams for g in o.param_groups)
        for _ in range(3):
            for p in method.parameters():
                gradient = torch.randn(p.shape)
                p.grad = gradient if fused else torch.empty_like(p).copy_(gradient)
            moved = [p for o in optimizers for g in o.param_groups for p in g["params"]]
            straighten(moved)
            assert all(p.grad is not None and p.grad.stride() == p.stride() for p in moved)
            for optimizer in optimizers:
                optimizer.step()
        found: Baseline = method
        return found

    for plain, fused in zip(learned(False).parameters(), learned(True).parameters(), strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)


def test_on_a_cpu_steps_are_not_fused() -> None:
    for name in ("adam", "amsgrad", "adamw", "sgd"):
        [optimizers] = make_optimizers(small(), OptimizerSettings(name))  # type: ignore[arg-type]
        assert not any(g["fused"] for o in optimizers for g in o.param_groups)


def test_average_is_the_recursion() -> None:
    method = small(center=0.0)
    average = Average(method, 0.5)
    weight = method.classifier.weight
    expected = weight.detach().clone()
    for step in range(4):
        with torch.no_grad():
            weight.add_(1.0)
        average.update(method)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    torch.testing.assert_close(average.tensors["classifier.weight"], expected)


def test_averaged_lends_the_average_and_gives_the_weights_back() -> None:
    method = small(center=0.0).train()
    average = Average(method, 0.9)
    with torch.no_grad():
        method.classifier.weight.zero_()
    with averaged(method, average):
        assert not method.training
        assert method.classifier.weight.abs().sum() > 0
    assert method.training
    assert method.classifier.weight.abs().sum() == 0


def test_averaged_without_an_average_only_changes_the_mode() -> None:
    method: nn.Module = small(center=0.0).train()
    with averaged(method, None):  # type: ignore[arg-type]
        assert not method.training
    assert method.training
