"""SAN against its definition: constraints, updates, what each of them moves."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from crosscam.describe import describe
from crosscam.errors import InputError, RecipeError
from crosscam.methods import BackboneSettings, find
from crosscam.methods.san import SAN, drawn_triplets, triplet_constraint, triplets
from crosscam.methods.san_pg import SANPG
from crosscam.nn import losses
from crosscam.nn.texture_decoder import texture_loss
from crosscam.recipe import OptimizerSettings
from crosscam.training.optim import make_optimizers
from crosscam.types import Batch, Prior

SMALL = BackboneSettings("resnet18", last_stride=1, width=0.125)
SIZE = (32, 16)
FORMS: tuple[Literal["release", "paper"], ...] = ("release", "paper")


def build(**settings: Any) -> SAN:
    torch.manual_seed(0)
    return SAN(4, **{"backbone": SMALL, "embedding": 16, "decoder_width": 0.0625, **settings})


def batch(people: int = 4, images: int = 2, seed: int = 1, pairs: bool = False) -> Batch:
    random = torch.Generator().manual_seed(seed)
    n = people * images
    pids = torch.arange(people).repeat_interleave(images)
    return Batch(
        torch.randn(n, 3, *SIZE, generator=random),
        pids,
        torch.zeros_like(pids),
        {Prior.TEXTURE: torch.rand(n, 3, 32, 32, generator=random) * 2 - 1},
        batch(2, 2, seed + 1) if pairs else None,
    )


def changed(before: dict[str, Tensor], method: SAN) -> set[str]:
    return {k for k, v in method.state_dict().items() if not torch.equal(before[k], v)}


def state(method: SAN) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in method.state_dict().items()}


def step(method: SAN, number: int, data: Batch) -> None:
    """One of the updates of a batch, as the training loop makes it."""
    optimizers = make_optimizers(method, OptimizerSettings("amsgrad"))[number]
    method.zero_grad()
    sum(method(data, number).values()).backward()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["fixed_lr"] or 3.5e-4 * group["lr_factor"]
        optimizer.step()


# --- triplets ---------------------------------------------------------------------------------


def test_the_releases_literal_indices_at_16_by_4() -> None:
    starts = range(0, 60, 4)
    expected = [
        (list(starts), [i + 1 for i in starts], [i + 4 for i in starts]),
        ([i + 1 for i in starts], [i + 2 for i in starts], [i + 5 for i in starts]),
        ([i + 2 for i in starts], [i + 3 for i in starts], [i + 6 for i in starts]),
        ([i + 3 for i in starts], list(starts), [i + 4 for i in starts]),
    ]
    pids = [p for p in range(100, 116) for _ in range(4)]
    assert triplets(pids, "release") == expected


@pytest.mark.parametrize("form", ["release", "paper"])
@pytest.mark.parametrize("shape", [(16, 4), (5, 2), (3, 3), (4, 7)])
def test_triplets_are_an_identity_and_another(
    form: Literal["release", "paper"], shape: tuple[int, int]
) -> None:
    people, images = shape
    random = torch.Generator().manual_seed(people)
    pids = torch.arange(people).repeat_interleave(images)
    pids = pids[torch.randperm(len(pids), generator=random)].tolist()  # in any order
    levels = triplets(pids, form)
    assert len(levels) == 4
    for anchors, positives, negatives in levels:
        count = people - 1 if form == "release" else people * images
        assert len(anchors) == len(positives) == len(negatives) == count
        for a, p, n in zip(anchors, positives, negatives, strict=True):
            assert a != p
            assert pids[a] == pids[p] != pids[n]
        if form == "paper":
            assert sorted(anchors) == sorted(positives) == sorted(negatives) == [*range(len(pids))]


def test_identities_with_one_picture_are_left_out() -> None:
    assert triplets([3, 5, 5, 7], "release")[0] == ([1], [2], [3])
    assert triplets([1, 2, 3], "paper")[0] == ([], [], [])
    assert triplets([1, 1], "paper")[0] == ([], [], [])


def test_the_releases_constraint_is_a_sum_of_hinges_on_mean_squares() -> None:
    random = torch.Generator().manual_seed(0)
    maps = torch.randn(8, 5, 4, 2, generator=random)
    expected = 0.0
    for i in (0, 2, 4):  # three identities of two that have a next one, level 0
        near = sum((x - y) ** 2 for x, y in zip(*flat(maps, i, i + 1), strict=True)) / 40
        far = sum((x - y) ** 2 for x, y in zip(*flat(maps, i, i + 2), strict=True)) / 40
        expected += max(0.0, near - far + 0.3)
    level = triplets([0, 0, 1, 1, 2, 2, 3, 3], "release")[0]
    found = triplet_constraint(maps, level, "release", 0.3)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def flat(maps: Tensor, *rows: int) -> list[list[float]]:
    return [maps[row].flatten().tolist() for row in rows]


def test_the_papers_constraint_is_a_mean_of_hinges_on_distances_of_cells() -> None:
    random = torch.Generator().manual_seed(0)
    maps = torch.randn(6, 5, 4, 2, generator=random)

    def distance(i: int, j: int) -> float:
        cells = [
            sum((float(maps[i, c, y, x]) - float(maps[j, c, y, x])) ** 2 for c in range(5)) ** 0.5
            for y in range(4)
            for x in range(2)
        ]
        return sum(cells) / 8

    partner = {0: (1, 2), 1: (0, 3), 2: (3, 4), 3: (2, 5), 4: (5, 0), 5: (4, 1)}
    hinges = [max(0.0, distance(a, p) - distance(a, n) + 0.3) for a, (p, n) in partner.items()]
    level = triplets([0, 0, 1, 1, 2, 2], "paper")[0]
    found = triplet_constraint(maps, level, "paper", 0.3)
    assert float(found) == pytest.approx(sum(hinges) / 6, rel=1e-5)


@pytest.mark.parametrize("form", ["release", "paper"])
def test_gradients_of_the_constraints(form: Literal["release", "paper"]) -> None:
    random = torch.Generator().manual_seed(0)
    maps = torch.randn(6, 2, 3, 2, generator=random, dtype=torch.float64, requires_grad=True)
    level = triplets([0, 0, 1, 1, 2, 2], form)[1]
    assert torch.autograd.gradcheck(lambda x: triplet_constraint(x, level, form, 0.3), maps)


def test_the_constraint_weighs_the_same_on_any_number_of_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gradients are averaged over processes: the mean of theirs is that of the whole batch."""
    random = torch.Generator().manual_seed(0)
    maps = torch.randn(12, 5, 4, 2, generator=random)
    # Three identities of two for each process; of one process, none follows into the other's.
    for form in FORMS:
        level = triplets([0, 0, 1, 1, 2, 2], form)[0]
        shifted = tuple([row + 6 for row in rows] for rows in level)
        both = tuple([*a, *b] for a, b in zip(level, shifted, strict=True))
        whole = triplet_constraint(maps, both, form, 0.3)  # type: ignore[arg-type]
        monkeypatch.setattr("crosscam.nn.sync.world_size", lambda: 2)
        halves = [triplet_constraint(m, level, form, 0.3) for m in maps.split(6)]
        monkeypatch.undo()
        torch.testing.assert_close(sum(halves) / 2, whole)


def test_triplets_are_drawn_from_labels_on_the_host_where_there_are_some() -> None:
    data = batch()
    listed = dataclasses.replace(data, labels=[0, 0, 0, 0, 1, 1, 1, 1])
    for form in FORMS:
        assert drawn_triplets(data, form).tolist() == [
            [*map(list, level)] for level in triplets(data.pids.tolist(), form)
        ]
        assert drawn_triplets(listed, form).tolist() == [
            [*map(list, level)] for level in triplets([0] * 4 + [1] * 4, form)
        ]
    maps = torch.randn(8, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    for level, rows in zip(triplets(data.pids.tolist(), "release"), drawn_triplets(data, "release"),
                           strict=True):  # fmt: skip
        assert torch.equal(
            triplet_constraint(maps, rows, "release", 0.3),
            triplet_constraint(maps, level, "release", 0.3),
        )


def test_without_triplets_the_constraint_is_zero_and_has_a_graph() -> None:
    maps = torch.randn(3, 2, 2, 2, requires_grad=True)
    loss = triplet_constraint(maps, ([], [], []), "release", 0.3)
    loss.backward()
    assert loss == 0


# --- the terms --------------------------------------------------------------------------------


def test_the_joint_update_minimizes_exactly_these_terms() -> None:
    weights = {"identity": 0.5, "triplet": 1.5, "reconstruction": 2.0, "constraint": 0.25}
    method, data = build(**weights, alternate=False, synthetic=3.0), batch(pairs=True)
    other = copy.deepcopy(method)
    terms = method.train()(data)
    maps = other.train().backbone.stages(data.images)
    v = other.embedding(maps[-1].mean((2, 3)))
    texture, levels = other.decoder(maps)
    expected = {
        "id": 0.5 * losses.cross_entropy(other.classifier(v), data.pids, 0.1),
        "triplet": 1.5 * losses.batch_hard_triplet(v, data.pids, 0.3),
        "texture": 2.0 * texture_loss(texture, data.require(Prior.TEXTURE)),
        "constraint": 0.25
        * sum(
            triplet_constraint(m, t, "release", 0.3)
            for m, t in zip(levels, triplets(data.pids.tolist(), "release"), strict=True)
        ),
    }
    assert data.pairs is not None
    texture = other.decoder(other.backbone.stages(data.pairs.images)).texture
    expected["synthetic"] = 3.0 * texture_loss(texture, data.pairs.require(Prior.TEXTURE))
    assert set(terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    assert len(method.updates()) == 1


def test_alternating_updates_have_the_same_terms() -> None:
    method, data = build().train(), batch()
    first, second = copy.deepcopy(method)(data, 0), copy.deepcopy(method)(data, 1)
    together = method.losses(data)
    assert set(first) == {"id", "triplet"}
    assert set(second) == {"texture", "constraint"}
    for name, value in (first | second).items():
        torch.testing.assert_close(value, together[name])


def test_pictures_without_a_texture_get_no_reconstruction() -> None:
    method, data = build(constraint=0.0).train(), batch()
    data.priors[Prior.TEXTURE][2:] = torch.nan  # type: ignore[index]
    other = copy.deepcopy(method)
    texture = other.decoder(other.backbone.stages(data.images)).texture
    expected = (texture[:2] - data.require(Prior.TEXTURE)[:2]).abs().mean()
    torch.testing.assert_close(method(data, 1)["texture"], expected)
    data.priors[Prior.TEXTURE][:] = torch.nan  # type: ignore[index]
    assert method(data, 1)["texture"] == 0


def test_what_is_switched_off_is_gone() -> None:
    bare = build(reconstruction=0.0, constraint=0.0).train()
    assert bare.decoder is None
    assert bare.needs == frozenset()
    assert set(bare(dataclasses.replace(batch(), priors={}))) == {"id", "triplet"}
    assert len(bare.updates()) == 1
    with pytest.raises(InputError, match="without a decoder"):
        bare.predict(batch().images)
    assert set(build(constraint=0.0)(batch(), 1)) == {"texture"}
    untaught = build(reconstruction=0.0)
    assert untaught.needs == frozenset()
    with pytest.raises(InputError, match=r"without reconstruction .* cannot paint"):
        untaught.predict(batch().images)
    assert untaught.maps(batch().images) == {}
    assert set(untaught(dataclasses.replace(batch(), priors={}), 1)) == {"constraint"}


def test_the_picture_as_a_target_needs_no_texture() -> None:
    control = build(target="picture", constraint=0.0).train()
    assert control.needs == frozenset()
    data = dataclasses.replace(batch(), priors={})
    other = copy.deepcopy(control)
    texture = other.decoder(other.backbone.stages(data.images)).texture
    square = torch.nn.functional.interpolate(data.images / 2, (32, 32), mode="bilinear")
    torch.testing.assert_close(control(data, 1)["texture"], (texture - square).abs().mean())


def test_pairs_are_taken_where_something_is_learned_from_them() -> None:
    assert build().takes_pairs
    assert not build(synthetic=0.0).takes_pairs
    assert not build(reconstruction=0.0).takes_pairs


def test_settings_out_of_range() -> None:
    with pytest.raises(RecipeError, match=r"method.smoothing must be in \[0, 1\), got 1.5"):
        build(smoothing=1.5)
    with pytest.raises(RecipeError, match="0 or more"):
        build(reconstruction=-1.0)
    with pytest.raises(RecipeError, match="last_stride=1"):
        build(backbone=dataclasses.replace(SMALL, last_stride=2))


# --- what each update moves -------------------------------------------------------------------


def test_update_a_moves_encoder_and_head() -> None:
    method, data = build().train(), batch()
    before = state(method)
    step(method, 0, data)
    moved = changed(before, method)
    learned = {n for n, _ in method.named_parameters() if not n.startswith("decoder.")}
    running = {k for k in before if "running" in k or "num_batches" in k}
    assert moved == learned | {k for k in running if not k.startswith("decoder.")}


def test_update_b_moves_encoder_and_decoder_and_not_one_bit_of_the_head() -> None:
    method, data = build(encoder_lr=1e-3, decoder_lr=1e-3).train(), batch(pairs=True)
    before = state(method)
    step(method, 1, data)
    moved = changed(before, method)
    assert not {k for k in moved if k.startswith(("embedding.", "classifier."))}
    learned = {n for n, _ in method.named_parameters() if n.startswith(("backbone.", "decoder."))}
    assert moved >= learned


@pytest.mark.parametrize("number", [0, 1])
def test_gradients_are_where_they_should_be_and_nowhere_else(number: int) -> None:
    method = build().train()
    sum(method(batch(), number).values()).backward()
    reached = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    moved = {id(p) for p in method.updates()[number].parameters()}
    assert reached == {n for n, p in method.named_parameters() if id(p) in moved}


def test_rates_of_update_b() -> None:
    method = build(encoder_lr=1e-5, decoder_lr=2e-5)
    _, [adam] = make_optimizers(method, OptimizerSettings("amsgrad", lr=8e-4))
    encoder, decoder = adam.param_groups
    assert (encoder["fixed_lr"], decoder["fixed_lr"]) == (1e-5, 2e-5)
    for group in (encoder, decoder):
        assert group["betas"] == (0.5, 0.999)
        assert group["weight_decay"] == 0
        assert not group["amsgrad"]
    assert {id(p) for p in encoder["params"]} == {id(p) for p in method.backbone.parameters()}
    follow = build(encoder_lr=1e-5, decoder_lr=2e-5, scheduled=True)
    _, [adam] = make_optimizers(follow, OptimizerSettings("amsgrad", lr=8e-4))
    assert [g["fixed_lr"] for g in adam.param_groups] == [0.0, 0.0]
    rates = [8e-4 * g["lr_factor"] for g in adam.param_groups]
    assert rates == pytest.approx([1e-5, 2e-5], rel=1e-12)


def test_an_encoder_that_update_b_leaves_alone() -> None:
    method, data = build(encoder_lr=0.0, decoder_lr=1e-3).train(), batch()
    before = state(method)
    step(method, 1, data)
    moved = {k for k in changed(before, method) if "running" not in k and "num_batches" not in k}
    assert moved == {n for n, _ in method.named_parameters() if n.startswith("decoder.")}


def test_rendered_pictures_leave_running_statistics_alone() -> None:
    alone, along = build().train(), build().train()
    with torch.no_grad():
        alone(batch(), 1)
        along(batch(pairs=True), 1)
    for name, buffer in alone.named_buffers():
        if "running" in name:
            assert torch.equal(buffer, dict(along.named_buffers())[name])


def test_what_paints_rests_where_nothing_is_painted() -> None:
    method = build(reconstruction=0.0, alternate=False).train()
    sum(method(dataclasses.replace(batch(), priors={})).values()).backward()
    trained = {n for n, p in method.named_parameters() if p.requires_grad}
    assert {n for n, p in method.named_parameters() if p.grad is not None} == trained
    assert not {n for n in trained if n.startswith("decoder.paint")}


def test_rendered_pictures_leave_the_statistics_of_a_teacher_alone() -> None:
    def guided(data: Batch) -> dict[str, Tensor]:
        torch.manual_seed(0)
        options = {"backbone": SMALL, "embedding": 16, "decoder_width": 0.0625, "guidance": 0.0}
        method = find("san+guidance")(4, **options).train()
        with torch.no_grad():
            method(data, 1)
        return {n: b for n, b in method.named_buffers() if "running" in n}

    alone, along = guided(batch()), guided(batch(pairs=True))
    assert any(n.startswith("guide.") for n in alone)
    for name, buffer in alone.items():
        assert torch.equal(buffer, along[name]), name


# --- what is deployed -------------------------------------------------------------------------


def test_embed_does_not_see_textures_and_the_decoder_is_not_deployed() -> None:
    method, data = build().eval(), batch()
    features = method.embed(data.images)
    with torch.no_grad():
        for parameter in method.decoder.parameters():
            parameter.fill_(torch.nan)
    data.priors[Prior.TEXTURE][:] = torch.nan  # type: ignore[index]
    assert torch.equal(features, method.embed(data.images))
    cost = describe(method, SIZE)
    gone = (*method.decoder.parameters(), *method.classifier.parameters())
    assert cost.params_train - cost.params_deploy == sum(p.numel() for p in gone)


def test_the_head_of_the_release_and_of_the_paper() -> None:
    with torch.device("meta"):
        release, paper = SAN(751), SAN(751, embedding=0)
    assert (release.dim, paper.dim) == (512, 2048)
    head = 2048 * 512 + 512 + 2 * 512 + 512 * 751 + 751
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in release.named_children()}
    assert count["embedding"] + count["classifier"] == head
    assert count["backbone"] == 23_508_032  # ResNet-50 without its classifier
    assert count["decoder"] == 9_071_075


def test_predicted_textures() -> None:
    data = batch()
    for method in (build().eval(), SANPG(4, backbone=SMALL, decoder_width=0.0625).eval()):
        textures = method.predict(data.images)
        assert textures.shape == (8, 3, 32, 32)
        assert float(textures.detach().abs().max()) <= 1
        shown = method.maps(data.images)["texture"]
        torch.testing.assert_close(shown, textures / 2 + 0.5)


def test_the_generator_minimizes_the_error_of_textures_alone() -> None:
    torch.manual_seed(0)
    method = SANPG(4, backbone=SMALL, decoder_width=0.0625).train()
    other, data = copy.deepcopy(method), batch()
    texture = other.decoder(other.backbone.stages(data.images)).texture
    terms = method(data)
    assert set(terms) == {"texture"}
    torch.testing.assert_close(
        terms["texture"], (texture - data.require(Prior.TEXTURE)).abs().mean()
    )
