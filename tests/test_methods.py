"""One body of tests for every method: adding a file adds its tests."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from toy import person

from crosscam.errors import DataError, RecipeError
from crosscam.image import Preprocess
from crosscam.methods import Method, available, find
from crosscam.recipe import OptimizerSettings
from crosscam.training.optim import make_optimizers
from crosscam.types import Batch, Prior

SIZE = (64, 32)
CLASSES = 8

NARROW: dict[str, dict[str, Any]] = {
    "msfl": {"width": 64, "refine_width": 16},
    "san": {"decoder_width": 0.125},
    "san_pg": {"decoder_width": 0.125},
}
"""Widths behind the backbone that would take most of the tests' time."""


def build(name: str, seed: int = 0, **regularizer: Any) -> Method:
    """The method with a small backbone and otherwise its own defaults."""
    torch.manual_seed(seed)
    cls = find(name)
    default = inspect.signature(cls).parameters["backbone"].default
    small = dataclasses.replace(default, name="resnet18", width=0.25)
    return cls(CLASSES, backbone=small, **NARROW.get(name, {}), **regularizer)


def toy_batch(method: Method, people: int = CLASSES, images: int = 4) -> Batch:
    """Toy people, normalized, with whatever priors the method asks for."""
    pictures = np.stack([person(p, k % 2, k, SIZE) for p in range(people) for k in range(images)])
    x = torch.from_numpy(Preprocess(size=SIZE).normalize(pictures))
    n = people * images
    random = torch.Generator().manual_seed(1)
    shapes = {
        Prior.KEYPOINTS: (n, 17, 3),
        Prior.SURFACE: (n, 3, 64, 32),
        Prior.TEXTURE: (n, 3, 64, 64),
    }
    priors = {p: torch.rand(shape, generator=random) for p, shape in shapes.items()}
    bands = torch.zeros(n, len(method.parts), *SIZE)  # parts, from top to bottom of the middle
    for k, band in enumerate(bands.unbind(1)):
        band[:, k * SIZE[0] // bands.shape[1] : (k + 1) * SIZE[0] // bands.shape[1], 8:24] = 1
    priors = {p: v for p, v in (priors | {Prior.MASKS: bands}).items() if p in method.needs}
    pids = torch.arange(people).repeat_interleave(images)
    return Batch(x, pids, torch.zeros(n, dtype=torch.int64), priors)


@pytest.fixture(params=available())
def method(request: pytest.FixtureRequest) -> Method:
    return build(request.param)


def test_says_what_it_is(method: Method) -> None:
    assert len(method.paper) > 20
    assert type(method).__doc__
    assert inspect.getmodule(type(method)).__doc__


def test_embed_gives_unit_vectors(method: Method) -> None:
    features = method.eval().embed(toy_batch(method).images)
    assert features.shape == (32, method.dim)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(32))


def test_embed_of_a_row_does_not_depend_on_its_batch(method: Method) -> None:
    method.eval()
    images = toy_batch(method).images[:5]
    together = method.embed(images)
    alone = torch.cat([method.embed(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_embed_sees_only_pictures(method: Method) -> None:
    assert list(inspect.signature(type(method).embed).parameters) == ["self", "images"]


def test_losses_are_named_finite_scalars(method: Method) -> None:
    terms = method.train().losses(toy_batch(method))
    assert terms
    for name, term in terms.items():
        assert name.isidentifier()
        assert term.shape == ()
        assert term.dtype == torch.float32
        assert term.isfinite()


def test_losses_stay_float32_under_autocast(method: Method) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        terms = method.train().losses(toy_batch(method))
    assert {t.dtype for t in terms.values()} == {torch.float32}


def test_losses_do_not_change_the_batch(method: Method) -> None:
    batch = toy_batch(method)
    before = batch.images.clone(), batch.pids.clone()
    method.train().losses(batch)
    assert torch.equal(batch.images, before[0])
    assert torch.equal(batch.pids, before[1])


def test_every_parameter_learns(method: Method) -> None:
    method.train()
    method.schedule(0.99)  # whatever joins late has joined
    sum(method.losses(toy_batch(method)).values()).backward()
    dead = [
        name
        for name, p in method.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)
    ]
    assert not dead


def test_updates_move_everything_and_name_their_losses_apart(method: Method) -> None:
    method.train()
    batch, names, moved = toy_batch(method), [], set()
    for number, update in enumerate(method.updates()):
        names += method(batch, number)
        moved |= set(update.parameters())
    assert len(names) == len(set(names))
    assert moved >= {p for p in method.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", available())
def test_every_method_takes_the_gradient_regularizer(name: str) -> None:
    regularized = build(name, msgr=0.01).train()
    batch = toy_batch(regularized)
    terms = regularized(batch)
    plain = build(name).train()(batch)
    assert set(terms) == {*plain, "msgr"}
    for key in plain:
        torch.testing.assert_close(terms[key], plain[key])
    assert terms["msgr"].dtype == torch.float32
    torch.testing.assert_close(terms["msgr"].detach(), 0.01 * regularized.figures["msgr_gradient"])
    terms["msgr"].backward()
    assert all(float(p.grad.norm()) > 0 for p in regularized.backbone.stage(3).parameters())


@pytest.mark.parametrize("name", available())
def test_every_method_trains_against_the_worst_perturbation(name: str) -> None:
    moved = build(name, msgr=0.5, msgr_adversarial=True).train()
    batch = toy_batch(moved)
    terms, plain = moved(batch), build(name).train()(batch)
    assert set(terms) == set(plain)
    assert sum(t.item() for t in terms.values()) > sum(t.item() for t in plain.values())


def test_a_missing_prior_is_named(method: Method) -> None:
    batch = dataclasses.replace(toy_batch(method), priors={})
    if method.needs:
        with pytest.raises(DataError, match="prior"):
            method.losses(batch)
    else:
        assert method.losses(batch)


def test_state_round_trips_exactly(method: Method, tmp_path: Path) -> None:
    method.train().losses(toy_batch(method))  # moves the running statistics
    save_file(method.state_dict(), tmp_path / "w.safetensors")
    other = build(type(method).__module__.rpartition(".")[2], seed=5)
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    images = toy_batch(method).images[:3]
    assert torch.equal(method.eval().embed(images), other.eval().embed(images))


@pytest.mark.slow
def test_learns_eight_toy_people(method: Method) -> None:
    method.train()
    batch = toy_batch(method)
    optimizers = make_optimizers(method, OptimizerSettings("adam", lr=3e-3, weight_decay=0))
    totals = []
    for step in range(25):
        method.schedule(step / 25)
        total = 0.0
        for number, update in enumerate(method.updates()):
            loss = sum(update.losses(batch).values())
            method.zero_grad()
            loss.backward()
            for optimizer in optimizers[number]:
                optimizer.step()
            total += float(loss.detach())
        totals.append(total)
    assert totals[-1] < 0.7 * totals[0]


@pytest.mark.slow
def test_embed_exports_and_agrees(method: Method) -> None:
    class Deployed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.method = method.eval()

        def forward(self, images: Tensor) -> Tensor:
            return self.method.embed(images)

    images = toy_batch(method).images[:4]
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Deployed(), (images,), dynamic_shapes=({0: batch},))
    for n in (1, 2, 4):
        torch.testing.assert_close(program.module()(images[:n]), method.embed(images[:n]))


@pytest.mark.parametrize("weight", ["triplet", "center"])
def test_the_baseline_has_no_weights_below_zero(weight: str) -> None:
    with pytest.raises(RecipeError, match=f"method.{weight}"):
        build("baseline", **{weight: -1.0})


def test_an_own_file_is_a_method(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    cls = find(str(file))
    assert cls.__name__ == "Mine"
    assert cls(3).embed(torch.rand(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("x = 1\n", "found: none"),
        ("from crosscam.methods.baseline import Baseline\n", "found: none"),
    ],
)
def test_a_file_without_a_method_is_refused(body: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "empty_method.py"
    file.write_text(body)
    with pytest.raises(RecipeError, match=said):
        find(str(file))


def test_an_unknown_method_suggests_the_right_one() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'baseline'"):
        find("basline")
    with pytest.raises(RecipeError, match="no method file"):
        find("./nowhere.py")


OWN = '''"""Mine."""
import torch
from torch import Tensor, nn
from crosscam.methods import Method, unit
from crosscam.types import Batch


class Mine(Method):
    """Mean colors and a linear classifier."""

    paper = "nobody, nowhere, never"
    recipe = {"optimizer.lr": 0.01}

    def __init__(self, num_classes: int, *, scale: float = 1.0) -> None:
        """Args:
            scale: factor.
        """
        super().__init__()
        self.dim = 3
        self.scale = scale
        self.classifier = nn.Linear(3, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        return unit(images.mean((2, 3)) * self.scale)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.classifier(batch.images.mean((2, 3)))
        return {"id": nn.functional.cross_entropy(logits.float(), batch.pids)}
'''
