"""MMGA against its definition: maps, stripes, guidance and what each term moves."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crosscam.data.augment import Augment
from crosscam.errors import InputError, RecipeError
from crosscam.methods import BackboneSettings
from crosscam.methods.mmga import BRANCHES, MAPS, MMGA, mask_distance, stripe_max, usable
from crosscam.nn.attention import ChannelGate, SpatialMap, attend
from crosscam.types import Batch, Prior

SMALL = BackboneSettings("resnet18", last_stride=1, width=0.25)


def build(**settings: Any) -> MMGA:
    torch.manual_seed(0)
    settings = {"backbone": SMALL, "features": 16, **settings}
    return MMGA(4, **settings)


def batch(people: int = 4, size: tuple[int, int] = (64, 32), parts: int = 3) -> Batch:
    random = torch.Generator().manual_seed(3)
    n = 2 * people
    masks = torch.rand(n, parts, *size, generator=random)
    pids = torch.arange(people).repeat_interleave(2)
    images = torch.randn(n, 3, *size, generator=random)
    return Batch(images, pids, torch.zeros_like(pids), {Prior.MASKS: masks})


# --- shapes ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_sizes_of_the_reconstruction() -> None:
    with torch.device("meta"):
        full = MMGA(751)
        found, logits = full.eval()._branches(torch.empty(2, 3, 384, 128))
        features = torch.cat(full._reduced(found), 1)
    assert {k: tuple(v.shape) for k, v in found.items()} == dict.fromkeys(
        BRANCHES, (2, 2048, 24, 8)
    )
    assert tuple(logits["scale1"].shape) == (2, 48, 16)
    assert {tuple(logits[b].shape) for b in BRANCHES} == {(2, 24, 8)}
    assert features.shape == (2, 2048)
    assert full.dim == 8 * 256
    assert build(stripes=False, features=256).dim == 3 * 256


def test_three_copies_start_from_the_same_weights_and_are_apart() -> None:
    net = build()
    own = nn.Sequential(net.backbone.stage3[1:], net.backbone.stage4)
    for name in ("upper", "lower"):
        copied = net.backbone.get_submodule(f"copies.{name}")
        pairs = list(zip(own.parameters(), copied.parameters(), strict=True))
        assert pairs
        assert all(torch.equal(a, b) and a is not b for a, b in pairs)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "osnet_x0_25"])
def test_the_split_leaves_the_path_of_the_backbone_as_it_was(name: str) -> None:
    width = 0.125 if name == "resnet50" else 0.5
    net = build(backbone=BackboneSettings(name, width=width), attention=(), masks=0.0).eval()
    images = batch().images
    found, logits = net._branches(images)
    assert not logits
    plain = net.backbone(images)
    for branch in BRANCHES:  # nothing has been learned, so the copies agree
        assert torch.equal(found[branch], plain)


def test_a_network_whose_middle_is_unknown_is_refused() -> None:
    class Unknown(nn.Module):
        stage3 = stage4 = nn.Identity()

    class Settings(BackboneSettings):
        def build(self) -> Any:
            return Unknown()

    with pytest.raises(RecipeError, match="ResNets and OSNets and not for Unknown"):
        build(backbone=Settings())


# --- attention ---------------------------------------------------------------------------------


def test_attention_is_gate_times_one_plus_map() -> None:
    maps, gate = torch.rand(2, 3, 4, 2), torch.rand(2, 3)
    logits = torch.randn(2, 4, 2)
    found = attend(maps, gate, logits)
    for b, c, y, x in itertools.product(range(2), range(3), range(4), range(2)):
        s = 1 / (1 + np.exp(-float(logits[b, y, x])))
        expected = float(maps[b, c, y, x]) * float(gate[b, c]) * (1 + s)
        assert float(found[b, c, y, x]) == pytest.approx(expected, rel=1e-5)


def test_a_gate_sees_only_the_mean_of_its_map() -> None:
    torch.manual_seed(0)
    gate = ChannelGate(16, 24)
    maps = torch.randn(3, 16, 4, 2)
    flat = maps.mean((2, 3), keepdim=True).expand_as(maps)
    torch.testing.assert_close(gate(maps), gate(flat))
    hidden = torch.relu(maps.mean((2, 3)) @ gate.layers[0].weight.T + gate.layers[0].bias)
    expected = 1 / (1 + torch.exp(-(hidden @ gate.layers[2].weight.T + gate.layers[2].bias)))
    torch.testing.assert_close(gate(maps), expected)


@pytest.mark.parametrize(("channels", "inner"), [(256, (32, 4)), (1024, (128, 16)), (16, (8, 4))])
def test_a_map_has_the_channels_of_the_formula(channels: int, inner: tuple[int, int]) -> None:
    cells = SpatialMap(channels)
    assert (cells.squeeze[0].out_channels, cells.refine[0].out_channels) == inner
    assert cells(torch.rand(2, channels, 8, 4), (4, 2)).shape == (2, 4, 2)


@pytest.mark.parametrize("channels", [16, 256, 1024])
def test_a_map_starts_at_one_half_and_can_be_learned(channels: int) -> None:
    torch.manual_seed(0)
    cells = SpatialMap(channels)
    logits = cells(torch.randn(4, channels, 8, 4).relu(), (8, 4))
    assert logits.abs().max().item() < 0.05
    losses = mask_distance(logits, torch.ones(4, 8, 4), torch.ones(4), "mse")
    losses.backward()
    for name, parameter in cells.named_parameters():
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize(
    "attention",
    [(), ("scale1",), ("whole", "upper", "lower"), ("scale1", "whole"), ("upper", "lower"), MAPS],
)
def test_every_row_of_the_ablation_has_its_maps_and_its_masks(attention: tuple[Any, ...]) -> None:
    net = build(attention=attention).train()
    given = batch(parts=len(net.parts))
    assert tuple(net.maps(given.images)) == attention
    assert ("masks" in net.losses(given)) == bool(attention) == bool(net.needs)
    wanted = {"whole" if a == "scale1" else a for a in attention}
    assert net.parts == tuple(b for b in BRANCHES if b in wanted)


def test_attention_without_masks_needs_none() -> None:
    net = build(masks=0.0)
    assert net.needs == frozenset()
    assert net.parts == ()
    bare = dataclasses.replace(batch(), priors={})
    assert set(net.losses(bare)) == {"id", "triplet"}
    assert set(net.maps(bare.images)) == set(MAPS)


@pytest.mark.parametrize("wrong", [("head",), ("whole", "whole")])
def test_attention_that_there_is_not_is_refused(wrong: Any) -> None:
    with pytest.raises(RecipeError, match=r"method\.attention"):
        build(attention=wrong)


@pytest.mark.parametrize("wrong", ["masks", "identity", "triplet", "features"])
def test_weights_below_zero_are_refused(wrong: str) -> None:
    with pytest.raises(RecipeError, match=f"method.{wrong}"):
        build(**{wrong: -1})


# --- stripes -----------------------------------------------------------------------------------


def test_stripes_are_slices() -> None:
    maps = torch.rand(2, 5, 24, 8)
    for count, rows in ((1, 24), (2, 12), (3, 8)):
        for i in range(count):
            expected = maps[:, :, i * rows : (i + 1) * rows].numpy().max((2, 3))
            assert np.array_equal(stripe_max(maps, i, count).numpy(), expected)


@pytest.mark.parametrize(("height", "slices"), [(8, [(0, 3), (2, 6), (5, 8)]), (2, [(0, 1)])])
def test_stripes_of_rows_that_do_not_divide_share_one(
    height: int, slices: list[tuple[int, int]]
) -> None:
    maps = torch.rand(1, 3, height, 4)
    for i, (start, stop) in enumerate(slices):
        assert torch.equal(stripe_max(maps, i, 3), maps[:, :, start:stop].amax((2, 3)))


def test_the_vector_is_eight_reduced_maxima() -> None:
    net = build().eval()
    images = batch().images
    found, _ = net._branches(images)
    rows = [found[b].amax((2, 3)) for b in BRANCHES]
    rows += [found["upper"][:, :, :2].amax((2, 3)), found["upper"][:, :, 2:].amax((2, 3))]
    thirds = ((0, 2), (1, 3), (2, 4))  # of four rows
    rows += [found["lower"][:, :, a:b].amax((2, 3)) for a, b in thirds]
    expected = torch.cat([net.reductions[0](r) for r in rows], 1)
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(net.embed(images), expected)


def test_reductions_can_be_each_their_own() -> None:
    assert len(build(shared_reduction=False).reductions) == 8
    assert len(build().reductions) == 1


# --- guidance ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [(48, 16), (24, 8)])
def test_targets_are_masks_averaged_over_the_area_of_a_cell(cells: tuple[int, int]) -> None:
    height, width = 384, 128
    mask = np.random.default_rng(0).random((2, height, width)).astype(np.float32)
    h, w = cells
    blocks = mask.reshape(2, h, height // h, w, width // w).mean((2, 4))
    logits = torch.zeros(2, h, w)  # a map of one half everywhere
    found = mask_distance(logits, torch.from_numpy(mask), torch.ones(2), "mse")
    assert float(found) == pytest.approx(((0.5 - blocks) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize("form", ["mse", "bce"])
def test_guidance_is_the_mean_over_cells_and_rows_that_count(form: Literal["mse", "bce"]) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 2, generator=random)
    masks = torch.rand(3, 4, 2, generator=random)
    counted = torch.tensor([1.0, 0.0, 1.0])
    terms = []
    for b, y, x in itertools.product((0, 2), range(4), range(2)):
        s = 1 / (1 + np.exp(-float(logits[b, y, x])))
        m = float(masks[b, y, x])
        terms.append((s - m) ** 2 if form == "mse" else -m * np.log(s) - (1 - m) * np.log(1 - s))
    found = mask_distance(logits, masks, counted, form)
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-5)
    nobody = mask_distance(logits.requires_grad_(), masks, torch.zeros(3), form)
    assert float(nobody.detach()) == 0.0
    nobody.backward()
    assert float(logits.grad.abs().sum()) == 0.0


def test_a_picture_without_masks_adds_nothing_and_takes_no_share() -> None:
    given = batch()
    masks = given.priors[Prior.MASKS].clone()
    masks[3:] = 0
    assert usable(masks).tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    net = build().eval()  # batch statistics would mix the rows
    few = dataclasses.replace(given, priors={Prior.MASKS: masks})
    three = Batch(given.images[:3], given.pids[:3], given.camids[:3], {Prior.MASKS: masks[:3]})
    torch.testing.assert_close(net.losses(few)["masks"], net.losses(three)["masks"])


def test_the_mask_term_is_the_mean_over_the_maps() -> None:
    given = batch()
    net = build(masks=0.5).eval()
    masks = given.priors[Prior.MASKS]
    _, logits = net._branches(given.images)
    channel = {"scale1": 0, "whole": 0, "upper": 1, "lower": 2}
    each = [mask_distance(x, masks[:, channel[k]], torch.ones(8), "mse") for k, x in logits.items()]
    assert len(each) == 4
    torch.testing.assert_close(net.losses(given)["masks"], 0.5 * sum(each) / 4)


def test_a_flipped_batch_has_flipped_targets() -> None:
    masks = {Prior.MASKS: torch.rand(4, 3, 32, 16)}
    size = (32, 16)
    flip = Augment(flip=1.0, pad=0, erase=0.0)
    plain = Augment(flip=0.0, pad=0, erase=0.0)
    moved = flip.apply_priors(masks, flip.draw(0, 0, 0, 4, size), size, {})[Prior.MASKS]
    still = plain.apply_priors(masks, plain.draw(0, 0, 0, 4, size), size, {})[Prior.MASKS]
    logits = torch.randn(4, 8, 4)
    counted = torch.ones(4)
    for channel in range(3):
        torch.testing.assert_close(
            mask_distance(logits, still[:, channel], counted, "mse"),
            mask_distance(logits.flip(2), moved[:, channel], counted, "mse"),
        )


# --- identity ----------------------------------------------------------------------------------


def test_identity_is_twice_the_mean_and_the_triplet_is_of_the_whole_features() -> None:
    net = build().eval()
    given = batch()
    features = net._reduced(net._branches(given.images)[0])
    entropy = []
    for classifier, f in zip(net.classifiers, features, strict=True):
        logits = (f @ classifier.weight.T + classifier.bias).detach().numpy().astype(np.float64)
        for row, pid in zip(logits, given.pids.tolist(), strict=True):
            entropy.append(np.log(np.exp(row).sum()) - row[pid])
    hinge = []
    for f in features[:3]:
        rows = f.detach().numpy().astype(np.float64)
        d = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(2))
        same = given.pids.numpy()[:, None] == given.pids.numpy()[None]
        hinge += [
            max(0.0, d[i][same[i]].max() - d[i][~same[i]].min() + 1.2) for i in range(len(rows))
        ]
    terms = net.losses(given)
    assert float(terms["id"].detach()) == pytest.approx(2 * np.mean(entropy), rel=1e-4)
    assert float(terms["triplet"].detach()) == pytest.approx(np.mean(hinge), rel=1e-4)


# --- what learns from what ---------------------------------------------------------------------


def moved_by(net: MMGA, term: Tensor) -> set[str]:
    net.zero_grad()
    term.backward(retain_graph=True)
    return {
        name
        for name, p in net.named_parameters()
        if p.grad is not None and float(p.grad.abs().sum()) > 0
    }


def test_masks_move_the_maps_and_what_is_before_them_and_nothing_else() -> None:
    net = build().train()
    moved = moved_by(net, net.losses(batch())["masks"])
    maps = {f"cells.{n}" for n, _ in net.cells.named_parameters()}
    before = {
        f"backbone.{n}"
        for n, _ in net.backbone.named_parameters()
        if n.startswith(("conv1", "bn1", "layer1", "layer2", "layer3.0"))
    }
    gate = {f"gates.{n}" for n, _ in net.gates.named_parameters() if n.startswith("scale1")}
    assert moved == maps | before | gate  # scale 1 decides what scale 2 sees


def test_identity_moves_all_but_nothing_is_moved_by_a_mask_alone() -> None:
    net = build().train()
    terms = net.losses(batch())
    every = {name for name, _ in net.named_parameters()}
    assert moved_by(net, terms["id"]) == every
    heads = {f"classifiers.{n}" for n, _ in net.classifiers.named_parameters()}
    assert not moved_by(net, terms["triplet"]) & heads


def test_embed_does_not_depend_on_priors() -> None:
    given = batch()
    other = dataclasses.replace(given, priors={Prior.MASKS: 1 - given.priors[Prior.MASKS]})
    found, terms = [], []
    for some in (given, other):
        net = build().train()
        terms.append(net.losses(some))  # moves the running statistics
        found.append(net.eval().embed(given.images))
    assert not torch.equal(terms[0]["masks"], terms[1]["masks"])
    assert torch.equal(terms[0]["id"], terms[1]["id"])
    assert torch.equal(found[0], found[1])


def test_masks_of_another_shape_are_refused() -> None:
    given = batch()
    wrong = dataclasses.replace(given, priors={Prior.MASKS: given.priors[Prior.MASKS][:, :2]})
    with pytest.raises(InputError, match="whole, upper, lower"):
        build().losses(wrong)
