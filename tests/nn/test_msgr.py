"""The gradient regularizer: closed forms, finite differences, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed, multiprocessing, nn

from crosscam.errors import InputError, RecipeError
from crosscam.methods import BackboneSettings, Method, unit
from crosscam.methods.baseline import Baseline
from crosscam.methods.msfl import MSFL
from crosscam.nn import sync
from crosscam.nn.msgr import GradientRegularizer, worst_perturbation
from crosscam.nn.stages import Backbone
from crosscam.training import process
from crosscam.types import Batch

SMALL = BackboneSettings("resnet18", width=0.125)
INF = math.inf


class Smooth(Backbone):
    """Four stages of convolution, normalization and tanh, with derivatives of every order."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (3, 3, 3, 3), (1, 1, 1, 1)
        self.first = nn.Conv2d(3, 3, 1)
        self.rest = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh())
            for _ in range(4)
        )

    def stem(self, images: Tensor) -> Tensor:
        x: Tensor = self.first(images)
        return x

    def stage(self, number: int) -> nn.Module:
        return self.rest[number - 1]


class Tiny(Method):
    """A method on that backbone, in whatever precision its weights have."""

    paper = "none"

    def __init__(self, num_classes: int = 3, **regularizer: Any) -> None:
        super().__init__(**regularizer)
        self.backbone, self.dim = Smooth(), 3
        self.drop = nn.Dropout(0.0)
        self.classifier = nn.Linear(3, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        return unit(self.backbone(images).mean((2, 3)))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        v = self.drop(self.backbone(batch.images).mean((2, 3)))
        terms = {"id": nn.functional.cross_entropy(self.classifier(v), batch.pids)}
        return terms | {"norm": 0.1 * v.square().mean()}


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def tiny(**regularizer: Any) -> tuple[Tiny, Batch]:
    torch.manual_seed(3)
    method = Tiny(**regularizer).double()
    images = torch.randn(4, 3, 5, 4, dtype=torch.float64)
    return method, Batch(images, torch.tensor([0, 1, 2, 0]), torch.zeros(4, dtype=torch.int64))


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


# --- the worst perturbation -------------------------------------------------------------------


@pytest.mark.parametrize(("p", "q"), [(1, INF), (2, 2), (INF, 1), (3, 1.5), (1.25, 5)])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    eps=st.sampled_from([1e-3, 0.5, 7.0]),
    size=st.sampled_from([1e-30, 1e-6, 1.0, 1e6]),
)
def test_the_worst_perturbation_has_its_length_and_reaches_the_dual_norm(
    p: float, q: float, seed: int, eps: float, size: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    g = size * torch.randn(3, 2, 4, 5, generator=random, dtype=torch.float64)
    r = worst_perturbation(g, eps, p)
    assert r.shape == g.shape
    for one_r, one_g in zip(r, g, strict=True):
        torch.testing.assert_close(
            torch.linalg.vector_norm(one_r, p), torch.tensor(eps, dtype=torch.float64)
        )
        reached, bound = (one_r * one_g).sum(), eps * torch.linalg.vector_norm(one_g, q)
        torch.testing.assert_close(reached / size, bound / size)
        other = torch.randn(one_g.shape, generator=random, dtype=torch.float64)
        other *= eps / torch.linalg.vector_norm(other, p)
        assert float((other * one_g).sum()) <= float(bound) * (1 + 1e-12)


def test_the_three_usual_perturbations_by_hand() -> None:
    g = torch.tensor([[3.0, -4.0, 0.0]])
    assert worst_perturbation(g, 0.5, INF).tolist() == [[0.5, -0.5, 0.0]]
    torch.testing.assert_close(worst_perturbation(g, 0.5, 2), torch.tensor([[0.3, -0.4, 0.0]]))
    assert worst_perturbation(g, 0.5, 1).tolist() == [[0.0, -0.5, 0.0]]
    assert worst_perturbation(torch.tensor([[2.0, 2.0]]), 1.0, 1).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("p", [1, 2, 3, INF])
def test_no_gradient_no_perturbation(p: float) -> None:
    assert worst_perturbation(torch.zeros(2, 3), 1.0, p).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize(("eps", "p"), [(-1.0, 2.0), (1.0, 0.5), (math.nan, 2.0)])
def test_a_length_or_norm_that_is_none_is_refused(eps: float, p: float) -> None:
    with pytest.raises(InputError, match="eps >= 0 and p >= 1"):
        worst_perturbation(torch.ones(1, 2), eps, p)


# --- the penalty ------------------------------------------------------------------------------


@pytest.mark.parametrize(("q", "norm"), [(1, 7.0), (2, 5.0), ("inf", 4.0)])
def test_the_penalty_of_a_linear_loss_is_the_norm_of_its_weights(q: Any, norm: float) -> None:
    """L = mean over pictures of <w, x>: every picture's own gradient is w, whatever B is."""
    w = torch.tensor([3.0, -4.0, 0.0])[:, None, None]

    def losses(batch: Batch) -> dict[str, Tensor]:
        return {"linear": (batch.images * w).sum((1, 2, 3)).mean()}

    batch = Batch(torch.rand(8, 3, 1, 1), torch.zeros(8), torch.zeros(8))
    plain = losses(batch)["linear"]

    def figure(**options: Any) -> tuple[float, float]:
        regularizer = GradientRegularizer(0.01, [0], q, **options)
        terms, figures = regularizer(losses, batch, None)
        torch.testing.assert_close(figures["msgr_ratio"], figures["msgr_gradient"] / plain)
        torch.testing.assert_close(terms["linear"].detach(), plain)
        return float(figures["msgr_gradient"]), float(terms["msgr"].detach())

    assert figure() == pytest.approx((norm, 0.01 * norm))
    assert figure(square=True) == pytest.approx((norm**2, 0.01 * norm**2))
    assert figure(scale="batch") == pytest.approx((norm / 8, 0.01 * norm / 8))
    moved, _ = GradientRegularizer(0.5, [0], q, adversarial=True)(losses, batch, None)
    assert float(moved["linear"].detach() - plain) == pytest.approx(0.5 * norm)
    assert set(moved) == {"linear"}


def test_the_penalty_is_the_sum_over_stages_of_mean_norms() -> None:
    method, batch = tiny(msgr=0.3, msgr_stages=(0, 2, 4))
    method(batch)
    x0 = batch.images.clone().requires_grad_()
    x2 = method.backbone.rest[1](method.backbone.rest[0](method.backbone.stem(x0)))
    x4 = method.backbone.rest[3](method.backbone.rest[2](x2))
    v = x4.mean((2, 3))
    loss = nn.functional.cross_entropy(method.classifier(v), batch.pids)
    gradients = torch.autograd.grad(loss + 0.1 * v.square().mean(), [x0, x2, x4])
    expected = sum(
        sum(math.sqrt(sum(float(e) ** 2 for e in (4 * g[i]).flatten())) for i in range(4)) / 4
        for g in gradients
    )
    assert float(method.figures["msgr_gradient"]) == pytest.approx(expected, rel=1e-10)


def test_larger_maps_lower_the_penalty_but_not_the_relative_one() -> None:
    """c F in front of convolution and batch normalization: the same loss, R / c, the same |F| R."""
    found = {}
    for relative in (False, True):
        for c in (1.0, 4.0):
            method, batch = tiny(msgr=1.0, msgr_stages=(1,), msgr_relative=relative)
            for norm in method.backbone.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    norm.eps = 0.0  # what keeps the loss from being exactly the same
            method.backbone.rest[0].append(Times(c))
            terms = method(batch)
            size = float(method.figures["msgr_map"])
            found[relative, c] = terms["id"].item(), terms["msgr"].item(), size
    for relative in (False, True):
        assert found[relative, 4.0][0] == pytest.approx(found[relative, 1.0][0], rel=1e-12)
        assert found[relative, 4.0][2] == pytest.approx(4 * found[relative, 1.0][2])
    assert found[False, 4.0][1] == pytest.approx(found[False, 1.0][1] / 4)
    assert found[True, 4.0][1] == pytest.approx(found[True, 1.0][1])


def test_the_relative_penalty_is_length_times_norm_picture_by_picture() -> None:
    method, batch = tiny(msgr=1.0, msgr_norm=1, msgr_stages=(2,), msgr_relative=True)
    method(batch)
    x = method.backbone.rest[1](method.backbone.rest[0](method.backbone.stem(batch.images)))
    v = method.backbone.rest[3](method.backbone.rest[2](x)).mean((2, 3))
    loss = nn.functional.cross_entropy(method.classifier(v), batch.pids)
    (g,) = torch.autograd.grad(loss + 0.1 * v.square().mean(), [x])
    each = [
        max(abs(f.item()) for f in x[i].flatten()) * sum(abs(4 * e.item()) for e in g[i].flatten())
        for i in range(4)
    ]
    assert float(method.figures["msgr_gradient"]) == pytest.approx(sum(each) / 4, rel=1e-10)
    squares = sum(f.item() ** 2 for f in x.flatten()) / x.numel()
    assert float(method.figures["msgr_map"]) == pytest.approx(math.sqrt(squares))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"msgr_norm": 1},
        {"msgr_norm": "inf"},
        {"msgr_square": True},
        {"msgr_scale": "batch"},
        {"msgr_relative": True, "msgr_stages": (0, 2, 4)},
        {"msgr_relative": True, "msgr_square": True},
        {"msgr_stages": (0, 3, 4)},
    ],
    ids=str,
)
def test_its_gradient_agrees_with_finite_differences(options: dict[str, Any]) -> None:
    """The whole objective, by every parameter, along random directions, through batch norm."""
    method, batch = tiny(msgr=0.7, **options)
    total(method(batch)).backward()
    for name, parameter in method.named_parameters():
        torch.manual_seed(len(name))
        direction, h = torch.randn_like(parameter), 1e-5
        values = []
        for step in (-h, h):
            with torch.no_grad():
                parameter += step * direction
            values.append(total(method(batch)).item())
            with torch.no_grad():
                parameter -= step * direction
        slope = (values[1] - values[0]) / (2 * h)
        expected = float((parameter.grad * direction).sum())
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("q", [1, 2, "inf"])
def test_the_penalty_is_the_slope_of_the_loss_along_the_worst_perturbation(
    q: Any, relative: bool
) -> None:
    """L(F + r) - L(F) -> eps R: the first-order step of the paper's derivation."""
    options = {"msgr_norm": q, "msgr_stages": (0, 1, 3), "msgr_relative": relative}
    penalized, batch = tiny(msgr=1.0, **options)
    plain = total(penalized.losses(batch)).item()
    penalized(batch)
    slope = float(penalized.figures["msgr_gradient"])
    errors = []
    for eps in (1e-3, 1e-4):
        moved, _ = tiny(msgr=eps, **options, msgr_adversarial=True)
        errors.append((total(moved(batch)).item() - plain) / eps - slope)
        assert float(moved.figures["msgr_gradient"]) == pytest.approx(slope)
    assert abs(errors[1]) < 0.01 * slope
    assert abs(errors[1]) < 0.2 * abs(errors[0])  # what is left is of second order


def test_both_passes_of_adversarial_training_drop_the_same_inputs() -> None:
    moved, batch = tiny(msgr=1e-12, msgr_adversarial=True)
    moved.drop.p = 0.5
    torch.manual_seed(1)
    terms = moved(batch)
    torch.manual_seed(1)
    torch.testing.assert_close(terms, moved.losses(batch))


def test_the_first_pass_of_adversarial_training_leaves_running_statistics_alone() -> None:
    """They move once a step, by the maps that are learned from."""
    batch = real_batch()

    def after(update: bool, **regularizer: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        method = Baseline(4, backbone=SMALL, center=0.0, **regularizer).train()
        (method if update else method.losses)(batch)
        return {k: v for k, v in method.named_buffers() if "running" in k}

    once = after(False)
    moved = after(True, msgr=1e-12, msgr_adversarial=True)
    assert len(once) > 2
    torch.testing.assert_close(moved, once)
    before = Baseline(4, backbone=SMALL, center=0.0).state_dict()
    assert not any(torch.equal(once[k], before[k]) for k in once)


def test_the_centers_of_the_center_loss_do_not_learn_from_the_penalty() -> None:
    batch = real_batch()

    def gradient(**regularizer: Any) -> Tensor:
        torch.manual_seed(0)
        method = Baseline(4, backbone=SMALL, center=0.0005, **regularizer).train()
        total(method(batch)).backward()
        assert method.centers is not None
        assert method.centers.centers.grad is not None
        return method.centers.centers.grad

    torch.testing.assert_close(gradient(msgr=0.5), gradient())


# --- what it stands on ------------------------------------------------------------------------


def real_batch(size: tuple[int, int] = (32, 16)) -> Batch:
    torch.manual_seed(2)
    return Batch(torch.randn(8, 3, *size), torch.arange(4).repeat(2), torch.zeros(8))


def test_frozen_stages_are_regularized_too() -> None:
    method = Baseline(4, backbone=SMALL, msgr=0.1, msgr_stages=(1, 2))
    for part in (method.backbone.conv1, method.backbone.bn1, method.backbone.layer1):
        part.requires_grad_(False)
    method(real_batch())["msgr"].backward()
    assert float(method.figures["msgr_gradient"]) > 0
    assert float(method.backbone.layer2[0].conv1.weight.grad.norm()) > 0


def test_no_hook_stays_behind() -> None:
    method = Baseline(4, backbone=SMALL, msgr=0.1)
    method(real_batch())
    with pytest.raises(InputError, match="labels must be"):
        method(dataclasses.replace(real_batch(), pids=torch.full((8,), 9)))
    assert not any(m._forward_hooks for m in method.modules())


def test_only_the_first_update_is_regularized() -> None:
    class Two(Tiny):
        def updates(self) -> tuple[Any, ...]:
            (one,) = super().updates()
            return one, dataclasses.replace(one, losses=lambda b: {"late": self.losses(b)["id"]})

    method, batch = Two(msgr=0.1).double(), tiny()[1]
    assert set(method(batch, 0)) == {"id", "norm", "msgr"}
    assert set(method(batch, 1)) == {"late"}


def test_bfloat16_keeps_the_penalty_in_float32_and_close() -> None:
    method = Baseline(4, backbone=SMALL, msgr=0.1, margin="soft")
    batch = real_batch((64, 32))  # maps one cell wide would meet a fault of oneDNN's
    method(batch)
    exact = float(method.figures["msgr_gradient"])
    with torch.autocast("cpu", torch.bfloat16):
        terms = method(batch)
    assert terms["msgr"].dtype == torch.float32
    assert float(method.figures["msgr_gradient"]) == pytest.approx(exact, rel=0.05)
    total(terms).backward()
    for name, p in method.named_parameters():
        assert not p.requires_grad or bool(p.grad.isfinite().all()), name


def test_bfloat16_teaches_nearly_what_float32_teaches() -> None:
    def gradients(half: bool) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            terms = method(batch)
        weights = [p for p in method.parameters() if p.requires_grad]
        of_losses = sum(v for k, v in terms.items() if k != "msgr")
        both = {"penalty": terms["msgr"], "losses": of_losses}
        return {
            name: torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(
                        value, weights, retain_graph=True, allow_unused=True, materialize_grads=True
                    )
                ]
            )
            for name, value in both.items()
        }

    torch.manual_seed(0)
    method, batch = Baseline(4, backbone=SMALL, msgr=0.1, margin="soft"), real_batch((64, 32))
    exact, half = gradients(False), gradients(True)
    cosine = {name: float(torch.cosine_similarity(exact[name], half[name], 0)) for name in exact}
    assert cosine["penalty"] > 0.9
    assert cosine["penalty"] > cosine["losses"] - 0.05
    assert float(half["penalty"].norm() / exact["penalty"].norm()) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"msgr": -1.0}, "method.msgr must be 0"),
        ({"msgr": INF}, "method.msgr must be 0"),
        ({"msgr": 0.1, "msgr_stages": ()}, "must name stages 1 to 4"),
        ({"msgr": 0.1, "msgr_stages": (1, 5)}, "must name stages 1 to 4"),
        ({"msgr": 0.1, "msgr_stages": (2, 2)}, "must name stages 1 to 4"),
        ({"msgr": 0.1, "msgr_norm": 3}, "must be 1, 2 or inf"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Tiny(**options)


def test_a_stage_that_the_loss_does_not_use_is_named() -> None:
    options = {"levels": (1, 2), "width": 16, "refine": (), "embedding": 8}
    method = MSFL(4, backbone=SMALL, **options, msgr=0.1, msgr_stages=(2, 4))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="does not depend on stage 4"):
        method(real_batch((64, 32)))


def test_a_method_without_backbone_can_be_regularized_at_its_input_only() -> None:
    class Colors(Tiny):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            v = batch.images.mean((2, 3))
            return {"id": nn.functional.cross_entropy(self.classifier(v), batch.pids)}

    def build(*stages: int) -> Method:
        method = Colors(4, msgr=0.1, msgr_stages=stages)
        del method.backbone
        return method

    assert set(build(0)(real_batch())) == {"id", "msgr"}
    with pytest.raises(RecipeError, match=r"set method\.msgr_stages=\[0\]"):
        build(0, 1)(real_batch())


OPTIONS: list[dict[str, Any]] = [
    {"msgr": 0.7},
    {"msgr": 0.7, "msgr_scale": "batch", "msgr_square": True},
    {"msgr": 0.7, "msgr_adversarial": True},
]


def _half(rank: int, folder: str) -> None:
    """Gradients of half a batch each, averaged by DistributedDataParallel."""
    distributed.init_process_group(
        "gloo", f"file://{folder}/meet", timedelta(minutes=2), rank=rank, world_size=2
    )
    for number, options in enumerate(OPTIONS):
        method, whole = tiny(**options)
        half = slice(2 * rank, 2 * rank + 2)
        batch = Batch(whole.images[half], whole.pids[half], whole.camids[half])
        sync.convert(method)
        learner = nn.parallel.DistributedDataParallel(method)
        total(learner(batch)).backward()
        found = [p.grad for p in method.parameters()]
        torch.save(found, f"{folder}/{number}-{rank}")
    distributed.barrier()  # nobody leaves while the other still talks
    distributed.destroy_process_group()
    process.leave(0)


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    """Batch statistics over both, differentiated twice, and means of halves."""
    multiprocessing.spawn(_half, (str(tmp_path),), nprocs=2)
    for number, options in enumerate(OPTIONS):
        method, batch = tiny(**options)
        total(method(batch)).backward()
        for rank in range(2):
            found = torch.load(tmp_path / f"{number}-{rank}", weights_only=True)
            for (name, p), other in zip(method.named_parameters(), found, strict=True):
                assert p.grad is not None
                torch.testing.assert_close(other, p.grad, msg=lambda m, n=name: f"{n}: {m}")
