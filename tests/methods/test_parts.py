"""The part network: its labels are the renderer's, its loss is cross-entropy with shares."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from crosscam.errors import InputError, RecipeError
from crosscam.methods import BackboneSettings
from crosscam.methods.parts import Parts, label_shares
from crosscam.priors.labels import channel_table
from crosscam.types import BODY_PARTS, Batch, Prior

SMALL = BackboneSettings("resnet18", last_stride=2, width=0.25)


def build() -> Parts:
    torch.manual_seed(0)
    return Parts(3, backbone=SMALL, width=16, edges=8)


def of_labels(labels: torch.Tensor) -> torch.Tensor:
    """Masks [B, 16, h, w] as the store makes them of label maps [B, h, w]."""
    table = torch.from_numpy(channel_table(BODY_PARTS, Parts.parts))
    return table[labels].permute(0, 3, 1, 2).float() / 255


def batch(size: tuple[int, int] = (64, 32)) -> Batch:
    random = torch.Generator().manual_seed(3)
    labels = torch.randint(0, len(BODY_PARTS), (6, *size), generator=random)
    pids = torch.arange(3).repeat_interleave(2)
    images = torch.randn(6, 3, *size, generator=random)
    return Batch(images, pids, torch.zeros_like(pids), {Prior.MASKS: of_labels(labels)})


def test_the_labels_are_the_renderers() -> None:
    assert Parts.labels == BODY_PARTS
    assert Parts.parts == BODY_PARTS[1:]


def test_shares_give_back_the_labels_that_masks_were_made_of() -> None:
    labels = torch.arange(len(BODY_PARTS)).view(1, 1, -1)
    shares = label_shares(of_labels(labels))
    assert torch.equal(shares[0, :, 0], torch.eye(len(BODY_PARTS)))


def test_shares_of_mixed_cells_sum_to_one() -> None:
    masks = torch.nn.functional.avg_pool2d(batch().priors[Prior.MASKS], 4)
    shares = label_shares(masks)
    assert shares.min() >= 0
    torch.testing.assert_close(shares.sum(1), torch.ones(6, 16, 8))


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (96, 40)])
def test_cells_are_half_the_picture(size: tuple[int, int]) -> None:
    logits = build().eval().predict(torch.randn(2, 3, *size))
    assert logits.shape == (2, 17, size[0] // 2, size[1] // 2)


def test_the_loss_is_the_mean_cross_entropy_over_cells_of_rows_with_masks() -> None:
    given = batch()
    masks = given.priors[Prior.MASKS]
    masks[4:] = 0
    net = build().eval()
    logits = net.predict(given.images).detach().numpy().astype(np.float64)
    shares = label_shares(masks).view(6, 17, 32, 2, 16, 2).mean((3, 5)).numpy()
    terms = []
    for b, y, x in itertools.product(range(4), range(32), range(16)):
        z = logits[b, :, y, x]
        log_p = z - np.log(np.exp(z).sum())
        terms.append(-(shares[b, :, y, x] * log_p).sum())
    assert float(net.losses(given)["parts"].detach()) == pytest.approx(np.mean(terms), rel=1e-5)


def test_a_batch_without_masks_teaches_nothing() -> None:
    given = batch()
    empty = dataclasses.replace(given, priors={Prior.MASKS: torch.zeros(6, 16, 64, 32)})
    net = build().train()
    loss = net.losses(empty)["parts"]
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


def test_nobody_is_told_apart() -> None:
    given = batch()
    other = dataclasses.replace(given, pids=given.pids.flip(0))
    assert torch.equal(build().losses(given)["parts"], build().losses(other)["parts"])


def test_what_is_shown_is_the_likeliest_label_and_the_person() -> None:
    net = build().eval()
    images = batch().images
    shown = net.maps(images)
    person = 1 - net.predict(images).softmax(1)[:, 0]
    torch.testing.assert_close(shown["person"], person)
    assert shown["parts"].shape == (6, 3, 32, 16)
    likeliest = net.predict(images).argmax(1)
    background = shown["parts"].sum(1) == 0
    assert torch.equal(background, likeliest == 0)


# --- places on the body -----------------------------------------------------------------------


def build_placed(weight: float = 0.5) -> Parts:
    torch.manual_seed(0)
    return Parts(3, backbone=SMALL, width=16, edges=8, surface=weight)


def placed_batch() -> Batch:
    given = batch()
    random = torch.Generator().manual_seed(5)
    places = torch.randn(6, 3, 64, 32, generator=random)
    nowhere = torch.rand(6, 1, 64, 32, generator=random) < 0.4
    places = places.masked_fill(nowhere, torch.nan)
    places[4] = torch.nan
    return dataclasses.replace(given, priors={**given.priors, Prior.SURFACE: places})


def test_places_are_learned_only_if_asked_for() -> None:
    plain, placed = build(), build_placed()
    assert plain.needs == {Prior.MASKS}
    assert placed.needs == {Prior.MASKS, Prior.SURFACE}
    kept = {k for k in placed.state_dict() if not k.startswith("place.")}
    assert kept == set(plain.state_dict())  # runs without places load as before
    with pytest.raises(InputError, match="has not learned places"):
        plain.locate(batch().images)
    with pytest.raises(RecipeError, match="surface is a weight"):
        build_placed(-1.0)


def test_places_stand_beside_the_labels() -> None:
    logits, points = build_placed().eval().locate(batch().images)
    assert logits.shape == (6, 17, 32, 16)
    assert points.shape == (6, 3, 32, 16)
    assert torch.equal(logits, build_placed().eval().predict(batch().images))


def test_places_cost_the_mean_l1_of_the_cells_that_have_one() -> None:
    given = placed_batch()
    net = build_placed(0.5).eval()
    points = net.locate(given.images)[1].detach().numpy().astype(np.float64)
    places = given.priors[Prior.SURFACE].numpy().astype(np.float64)
    terms = []
    for b, y, x in itertools.product(range(6), range(64), range(32)):
        if not np.isnan(places[b, 0, y, x]):
            terms.append(np.abs(points[b, :, y // 2, x // 2] - places[b, :, y, x]).sum())
    losses = net.losses(given)
    assert float(losses["surface"].detach()) == pytest.approx(0.5 * np.mean(terms), rel=1e-5)
    assert torch.equal(losses["parts"], build().eval().losses(given)["parts"])


def test_a_batch_without_places_still_teaches_parts() -> None:
    given = placed_batch()
    nowhere = torch.full((6, 3, 64, 32), torch.nan)
    net = build_placed().train()
    losses = net.losses(dataclasses.replace(given, priors={**given.priors, Prior.SURFACE: nowhere}))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert float(losses["surface"].detach()) == 0.0
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in net.parameters())


def test_places_are_shown_where_the_body_is() -> None:
    net = build_placed().eval()
    images = batch().images
    shown = net.maps(images)
    assert list(shown) == ["parts", "person", "surface"]
    logits, points = net.locate(images)
    left = ((points[:, 0] / 0.8) / 2 + 0.5).clamp(0, 1)
    up = (points[:, 2] / 1.8).clamp(0, 1)
    label = logits.argmax(1)
    body = (label != 0) & (label != BODY_PARTS.index("bag"))
    for channel, share in ((0, left), (2, up)):
        torch.testing.assert_close(shown["surface"][:, channel], (40 + 215 * share) / 255 * body)


@pytest.mark.slow
def test_learns_two_colors() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (6, 4, 2), generator=random)
    labels = torch.where(labels == 1, BODY_PARTS.index("top"), BODY_PARTS.index("bottom"))
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    images = torch.where(labels[:, None] == BODY_PARTS.index("top"), 1.0, -1.0).expand(
        -1, 3, -1, -1
    )
    pids = torch.zeros(6, dtype=torch.int64)
    given = Batch(images.contiguous(), pids, pids, {Prior.MASKS: of_labels(labels)})
    net = build().train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        net.losses(given)["parts"].backward()
        optimizer.step()
    right = net.predict(given.images).argmax(1) == labels[:, ::2, ::2]
    assert float(right.float().mean()) > 0.97
