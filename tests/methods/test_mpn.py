"""MPN against loops over its definition: part by part, task by task, class by class."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from crosscam.describe import describe
from crosscam.errors import DataError, RecipeError
from crosscam.methods import BackboneSettings, mpn
from crosscam.methods.mpn import MPN
from crosscam.nn import sync
from crosscam.recipe import parse
from crosscam.types import Batch, Prior

SMALL = BackboneSettings("resnet18", width=0.125)
CLASSES, WIDTH = 3, 8
PIDS = torch.tensor([0, 0, 1, 1, 2, 2])
SIZE = (96, 48)  # a map of 6 x 3 cells


def build(**options: Any) -> MPN:
    torch.manual_seed(0)
    return MPN(CLASSES, backbone=SMALL, **{"width": WIDTH, "num_parts": 3, **options}).train()


def batch(method: MPN, masks: Tensor | None = None) -> Batch:
    torch.manual_seed(1)
    images = torch.randn(6, 3, *SIZE)
    if masks is None and method.parts:
        masks = (torch.rand(6, len(method.parts), *SIZE) > 0.3).float()
    priors = {Prior.MASKS: masks} if masks is not None else {}
    return Batch(images, PIDS, torch.zeros(6, dtype=torch.int64), priors)


def body(rows: dict[str, tuple[int, int]], height: int = 100, width: int = 20) -> Tensor:
    """Masks [1, 5, height, width] with rows a to b - 1 of each part, over the middle columns."""
    masks = torch.zeros(1, 5, height, width)
    for name, (a, b) in rows.items():
        masks[:, mpn.EXTENT.index(name), a:b, 4:16] = 1
    masks[:, 0] = masks[:, 1:].amax(1)
    return masks


# --- the release, written out -------------------------------------------------------------------


class Release(nn.Module):
    """The simplified release: K modules a layer, the two tasks in two loops.

    With the module of its channel attention in front of them, if the method has it: each task's
    gate sees the region of that task.
    """

    def __init__(self, method: MPN) -> None:
        super().__init__()
        k, width = method.num_parts, WIDTH
        main = method.main
        self.first, self.second = nn.ModuleList(), nn.ModuleList()
        self.gate = nn.ModuleList()
        self.classify: dict[str, list[nn.Linear]] = {"main": [], "auxiliary": []}
        for part in range(k):
            self.gate.append(_gate(main.attention, part))
            rows = slice(part * width, (part + 1) * width)
            first = nn.Conv2d(main.first.in_channels, width, 1)
            second = nn.Conv2d(width, width, 1)
            first.weight.data, first.bias.data = main.first.weight[rows], main.first.bias[rows]
            second.weight.data = main.second.weight[part].T[:, :, None, None]
            second.bias.data = main.second.bias[rows]
            self.first.append(nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU()))
            self.second.append(nn.Sequential(second, nn.BatchNorm2d(width), nn.ReLU()))
            for name, layer in (
                ("main", method.main_classifiers),
                ("auxiliary", method.auxiliary_classifiers),
            ):
                linear = nn.Linear(width, CLASSES)
                linear.weight.data = layer.weight[part].T
                linear.bias.data = layer.bias[part * CLASSES : (part + 1) * CLASSES]
                self.classify[name].append(linear)

    def task(self, regions: list[Tensor]) -> list[Tensor]:
        found = []
        for gate, first, second, region in zip(
            self.gate, self.first, self.second, regions, strict=True
        ):
            pooled = F.max_pool2d(first(gate(region) * region), region.shape[2:])
            found.append(second(pooled).flatten(1))
        return found


def _gate(attention: mpn.ChannelAttention | None, part: int) -> nn.Module:
    """Weights [B, C, 1, 1] of a part's channels from [B, C, h, w]; all 1 without attention."""
    if attention is None:
        return _Ones()
    _, channels, hidden = attention.squeeze.weight.shape
    squeeze, excite = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
    for conv, layer in ((squeeze, attention.squeeze), (excite, attention.excite)):
        conv.weight.data = layer.weight[part].T[:, :, None, None]
        conv.bias.data = layer.bias.view(len(layer.weight), -1)[part]  # type: ignore[union-attr]
    first, last = nn.BatchNorm2d(hidden), nn.BatchNorm2d(channels)
    return nn.Sequential(
        nn.AdaptiveMaxPool2d(1), squeeze, first, nn.ReLU(), excite, last, nn.Sigmoid()
    )


class _Ones(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x[:, :, :1, :1])


@pytest.mark.parametrize("attention", [False, True])
def test_tasks_losses_and_mixed_statistics_are_those_of_the_release(attention: bool) -> None:
    method, twin = build(attention=attention), build(attention=attention)
    release = Release(twin)
    data = batch(method)
    terms = method.losses(data)
    maps = twin.backbone(data.images)
    assert maps.shape[2:] == (6, 3)
    s = release.task([maps] * 3)
    t = release.task([maps[:, :, 0:2], maps[:, :, 2:4], maps[:, :, 4:6]])
    for name, features, key in (("id", s, "main"), ("at", t, "auxiliary")):
        naive = sum(
            F.cross_entropy(classify(f), PIDS)
            for classify, f in zip(release.classify[key], features, strict=True)
        )
        torch.testing.assert_close(terms[name], naive)
    torch.testing.assert_close(terms["align"], naive_alignment(s, t, PIDS, torch.ones(6, 3)))
    torch.testing.assert_close(terms["triplet"], naive_triplet(torch.cat(s, 1), PIDS, 0.4))
    for norm, index in ((method.main.first_norm.main, 0), (method.main.second_norm.main, 1)):
        layers = (release.first, release.second)[index]
        for key in ("running_mean", "running_var"):
            naive_running = torch.cat([getattr(layer[1], key) for layer in layers])
            torch.testing.assert_close(getattr(norm, key), naive_running)
        assert int(norm.num_batches_tracked) == 2


def test_gradients_are_those_of_the_release() -> None:
    method, twin = build(), build()
    release = Release(twin)
    data = batch(method)
    sum(method.losses(data).values()).backward()
    maps = twin.backbone(data.images)
    s = release.task([maps] * 3)
    t = release.task([maps[:, :, 0:2], maps[:, :, 2:4], maps[:, :, 4:6]])
    # Alignment pulls both tasks: neither side of it stands still for the other.
    total = naive_alignment(s, t, PIDS, torch.ones(6, 3))
    total = total + naive_triplet(torch.cat(s, 1), PIDS, 0.4)
    for key, features in (("main", s), ("auxiliary", t)):
        for classify, f in zip(release.classify[key], features, strict=True):
            total = total + F.cross_entropy(classify(f), PIDS)
    total.backward()
    naive = torch.cat([layer[0].weight.grad for layer in release.first])
    torch.testing.assert_close(method.main.first.weight.grad, naive, rtol=1e-4, atol=1e-6)
    naive = torch.stack([layer[0].weight.grad[:, :, 0, 0].T for layer in release.second])
    torch.testing.assert_close(method.main.second.weight.grad, naive, rtol=1e-4, atol=1e-6)
    mine, others = method.backbone.conv1.weight.grad, twin.backbone.conv1.weight.grad
    torch.testing.assert_close(mine, others, rtol=1e-3, atol=1e-5)


def test_split_statistics_are_of_each_task_alone() -> None:
    method, twin = build(statistics="split"), build(statistics="split")
    data = batch(method)
    method.losses(data)
    release, alone = Release(twin), Release(twin)
    maps = twin.backbone(data.images)
    release.task([maps] * 3)
    alone.task([maps[:, :, 0:2], maps[:, :, 2:4], maps[:, :, 4:6]])
    norm = method.main.first_norm
    for mine, layers in ((norm.main, release.first), (norm.auxiliary, alone.first)):
        for key in ("running_mean", "running_var"):
            naive = torch.cat([getattr(layer[1], key) for layer in layers])
            torch.testing.assert_close(getattr(mine, key), naive)


def test_split_and_mixed_statistics_learn_the_same_and_deploy_another() -> None:
    mixed, split = build(), build(statistics="split")
    data = batch(mixed)
    a, b = mixed.losses(data), split.losses(data)
    for name in a:
        torch.testing.assert_close(a[name], b[name])
    assert not torch.allclose(mixed.eval().embed(data.images), split.eval().embed(data.images))


@pytest.mark.parametrize("options", [{}, {"statistics": "split", "attention": True}])
def test_statistics_over_processes_are_the_same_in_one(
    options: dict[str, Any], tmp_path: Path
) -> None:
    plain = build(**options)
    converted = copy.deepcopy(plain)
    sync.convert(converted)
    data = batch(plain)
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        a, b = plain.losses(data), converted.losses(data)
    finally:
        torch.distributed.destroy_process_group()
    for name in a:
        torch.testing.assert_close(a[name], b[name])
    state = converted.state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(state[name], value)


# --- losses -------------------------------------------------------------------------------------


def naive_alignment(
    s: list[Tensor], t: list[Tensor], classes: Tensor, present: Tensor
) -> torch.Tensor:
    terms = []
    for person in sorted(set(classes.tolist())):
        rows = [i for i in range(len(classes)) if classes[i] == person]
        c_s, c_t = [], []
        for k in range(len(s)):
            own = [i for i in rows if present[i, k] > 0]
            if own:
                c_s.append(sum(s[k][i] for i in own) / len(own))
                c_t.append(sum(t[k][i] for i in own) / len(own))
        if c_s:
            a, b = torch.cat(c_s), torch.cat(c_t)
            terms.append(1 - a @ b / (a.norm() * b.norm()))
    return sum(terms) / len(terms)


def naive_hinges(features: Tensor, pids: Tensor, margin: float) -> list[Tensor]:
    """Of every anchor, before it is cut at zero."""
    unit = [f / f.norm() for f in features]
    found = []
    for i in range(len(unit)):
        positives = [(unit[i] - unit[j]).square().sum() for j in range(len(unit))
                     if pids[j] == pids[i] and j != i]  # fmt: skip
        negatives = [(unit[i] - unit[j]).square().sum() for j in range(len(unit))
                     if pids[j] != pids[i]]  # fmt: skip
        found.append(max(positives) - min(negatives) + margin)
    return found


def naive_triplet(features: Tensor, pids: Tensor, margin: float) -> Tensor:
    active = [hinge for hinge in naive_hinges(features, pids, margin) if hinge > 0]
    return sum(active) / len(active)


@pytest.mark.parametrize("by", ["class", "sample"])
def test_alignment_is_the_loop_over_its_definition(by: str) -> None:
    torch.manual_seed(0)
    s, t = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    present = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 1, 1.0]])
    classes = PIDS if by == "class" else torch.arange(6)
    got = mpn.alignment(s, t, present, classes)
    naive = naive_alignment(list(s.unbind(1)), list(t.unbind(1)), classes, present)
    torch.testing.assert_close(got, naive)


@pytest.mark.parametrize("by", ["class", "sample"])
def test_the_method_aligns_by_class_or_by_sample(by: str) -> None:
    method, twin = build(align_by=by), build(align_by=by)
    release = Release(twin)
    data = batch(method)
    maps = twin.backbone(data.images)
    s = release.task([maps] * 3)
    t = release.task([maps[:, :, 0:2], maps[:, :, 2:4], maps[:, :, 4:6]])
    classes = PIDS if by == "class" else torch.arange(6)
    naive = naive_alignment(s, t, classes, torch.ones(6, 3))
    torch.testing.assert_close(method.losses(data)["align"], naive)


def test_the_triplet_is_the_mean_over_active_anchors() -> None:
    margin = 0.05
    method, twin = build(margin=margin), build(margin=margin)
    data = batch(method)
    pictures = data.images.clone()
    pictures[1] = pictures[0]  # anchors whose positive is nearer than any negative by more
    data = dataclasses.replace(data, images=pictures)
    s = torch.cat(Release(twin).task([twin.backbone(pictures)] * 3), 1)
    active = [bool(hinge > 0) for hinge in naive_hinges(s, PIDS, margin)]
    assert active == [False, False, True, True, True, True]
    torch.testing.assert_close(method.losses(data)["triplet"], naive_triplet(s, PIDS, margin))


def test_alignment_gradients() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(2, 6, 2, 3, dtype=torch.float64, requires_grad=True).unbind()
    present = torch.tensor([[1, 1], [0, 1], [0, 0], [0, 0], [1, 0], [1, 1.0]])
    s, t = s.detach().requires_grad_(), t.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mpn.alignment(a, b, present, PIDS), (s, t))
    mpn.alignment(s, t, present, PIDS).backward()
    assert s.grad is not None
    assert t.grad is not None
    missing = present == 0
    assert not s.grad[missing].any()
    assert not t.grad[missing].any()
    assert s.grad[~missing].abs().sum() > 0
    assert t.grad[~missing].abs().sum() > 0


def test_nothing_present_is_zero_with_a_graph() -> None:
    s, t = (torch.randn(6, 2, 3, requires_grad=True) for _ in range(2))
    loss = mpn.alignment(s, t, torch.zeros(6, 2), PIDS)
    assert float(loss.detach()) == 0
    loss.backward()
    assert s.grad is not None
    assert not s.grad.any()
    assert s.grad.isfinite().all()


def test_identity_loss_of_parts_leaves_missing_ones_out() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 3, CLASSES, requires_grad=True)
    present = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1.0]])
    got = mpn.part_identity(logits, PIDS, present)
    naive = sum(
        present[i, k] * F.cross_entropy(logits[i, k][None], PIDS[i][None]) / 6
        for i in range(6)
        for k in range(3)
    )
    torch.testing.assert_close(got, naive)
    got.backward()
    assert not logits.grad[present == 0].any()  # type: ignore[index]


def test_weights_scale_their_terms() -> None:
    plain, weighted = build(), build(auxiliary=0.5, align=2.0, triplet=3.0)
    a, b = plain.losses(batch(plain)), weighted.losses(batch(weighted))
    for name, factor in (("id", 1.0), ("at", 0.5), ("align", 2.0), ("triplet", 3.0)):
        torch.testing.assert_close(b[name], factor * a[name])


# --- sharing and what is deployed ---------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {},
    {"sharing": False},
    {"statistics": "split"},
    {"attention": True},
    {"attention": True, "statistics": "split", "prior": "extent"},
    {"attention": True, "sharing": False, "prior": "parsing", "regions": ("head", "arms", "legs")},
    {"prior": "extent"},
    {"prior": "extent", "fallback": False},
    {"prior": "parsing", "regions": ("head", "arms", "legs")},
    {"auxiliary": 0.0},
    {"align_by": "sample", "triplet": 0.0},
    {"num_parts": 8},
    {"num_parts": 4},
    {"num_parts": 1},
    {"neck": "msfl", "neck_width": 16},
    {"neck": "msfl", "neck_width": 16, "prior": "extent", "attention": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_parameter_learns_under_every_option(options: dict[str, Any]) -> None:
    method = build(**options)
    sum(method.losses(batch(method)).values()).backward()
    dead = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


@pytest.mark.parametrize("options", [{}, {"prior": "extent"}, {"attention": True}])
def test_shared_layers_learn_from_either_task_alone(options: dict[str, Any]) -> None:
    method = build(**options)
    terms = method.losses(batch(method))
    shared = dict(method.main.named_parameters())
    assert not hasattr(method, "auxiliary")
    grads = {}
    for task in ("id", "at"):
        found = torch.autograd.grad(terms[task], list(shared.values()), retain_graph=True)
        grads[task] = dict(zip(shared, found, strict=True))
        assert all(g.any() for g in found)
    (terms["id"] + terms["at"]).backward()
    for name, parameter in shared.items():
        total = grads["id"][name] + grads["at"][name]
        torch.testing.assert_close(parameter.grad, total, rtol=1e-4, atol=1e-6)


def test_unshared_layers_learn_from_their_own_task_only() -> None:
    method = build(sharing=False)
    terms = method.losses(batch(method))
    for task, own, other in (
        ("id", method.main, method.auxiliary),
        ("at", method.auxiliary, method.main),
    ):
        for module, learns in ((own, True), (other, False)):
            found = torch.autograd.grad(
                terms[task], list(module.parameters()), retain_graph=True, allow_unused=True
            )
            assert all((g is not None and bool(g.any())) is learns for g in found)


@pytest.mark.parametrize("options", [o for o in OPTIONS if "num_parts" not in o])
def test_deployed_are_the_main_tasks_alone(options: dict[str, Any]) -> None:
    method = build(**options).eval()
    data = batch(method)
    before = method.embed(data.images)
    cost = describe(method, SIZE)
    deployed = [*method.backbone.parameters(), *method.main.parameters()]
    if method.neck is not None:
        deployed += method.neck.parameters()
    assert cost.params_deploy == sum(p.numel() for p in deployed)
    assert cost.feature_dim == method.dim == 3 * WIDTH
    for name in ("auxiliary", "auxiliary_classifiers", "main_classifiers"):
        if hasattr(method, name):
            delattr(method, name)
    assert torch.equal(method.embed(data.images), before)  # without priors, without ATs


def test_the_prior_leaves_no_trace_in_what_is_deployed() -> None:
    uniform, extent = build().eval(), build(prior="extent").eval()
    extent.load_state_dict(uniform.state_dict())
    images = batch(uniform).images
    assert torch.equal(uniform.embed(images), extent.embed(images))


def test_the_vector_is_its_parts() -> None:
    method = build().eval()
    images = batch(method).images
    s, _ = method._main(method.main.reduce(method.backbone(images)))
    vector = method.embed(images)
    assert list(method.slices) == ["part 1", "part 2", "part 3"]
    for k, entries in enumerate(method.slices.values()):
        part = F.normalize(vector[:, entries], dim=1)
        torch.testing.assert_close(part, F.normalize(s[:, k], dim=1))


def test_maps_say_where_the_maxima_came_from() -> None:
    method = build().eval()
    images = batch(method).images
    maps = method.maps(images)
    x = method.main.activate(method.main.reduce(method.backbone(images)), auxiliary=False)
    for k, found in enumerate(maps.values()):
        naive = torch.zeros(6, 6, 3)
        for i in range(6):
            for channel in x[i, k]:
                naive[i].view(-1)[int(channel.argmax())] += channel.max().detach()
        torch.testing.assert_close(found, naive)


# --- regions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "parts", "rows"),
    [
        (24, 6, [(0, 4), (4, 8), (8, 12), (12, 16), (16, 20), (20, 24)]),
        (8, 6, [(0, 2), (1, 3), (2, 4), (4, 6), (5, 7), (6, 8)]),
        (8, 3, [(0, 3), (2, 5), (5, 8)]),
        (4, 6, [(0, 1), (0, 1), (1, 2), (2, 3), (2, 3), (3, 4)]),
        (5, 1, [(0, 5)]),
    ],
)
def test_stripes_are_slices(height: int, parts: int, rows: list[tuple[int, int]]) -> None:
    maps = torch.arange(2 * parts * 3 * height * 2.0).view(2, parts, 3, height, 2)
    cut = mpn.stripes(maps)
    for k, (a, b) in enumerate(rows):
        assert torch.equal(cut[:, k], maps[:, k, :, a:b])
    start, stop = mpn.stripe_rows(height, parts, torch.device("cpu"))
    assert list(zip(start.tolist(), stop.tolist(), strict=True)) == rows
    covered = {row for a, b in rows for row in range(a, b)}
    assert covered == set(range(height))


def test_extent_rows_by_hand() -> None:
    top, bottom = torch.tensor([0.0, 0.1, -0.25, 0.0]), torch.tensor([1.0, 0.6, 0.75, 2.0])
    start, stop = mpn.extent_rows(top, bottom, 4, 24)
    # top + k (bottom - top) / K in rows: 0 6 12 18 24; 2.4 5.4 8.4 11.4 14.4; -6 0 6 12 18;
    # 0 12 24 36 48: the last two stripes are below the map.
    assert start.tolist() == [[0, 6, 12, 18], [2, 5, 8, 11], [0, 0, 6, 12], [0, 12, 24, 24]]
    assert stop.tolist() == [[6, 12, 18, 24], [5, 8, 11, 14], [0, 6, 12, 18], [12, 24, 24, 24]]


def test_a_short_body_gives_every_part_a_row() -> None:
    start, stop = mpn.extent_rows(torch.tensor([0.5]), torch.tensor([0.6]), 4, 20)
    # rows 10, 10.5, 11, 11.5, 12, halves up
    assert start.tolist() == [[10, 11, 11, 12]]
    assert stop.tolist() == [[11, 12, 12, 13]]


WHOLE = {"head": (10, 20), "upper clothes": (20, 47), "lower": (47, 90), "shoes": (86, 90)}


@pytest.mark.parametrize(
    ("rows", "top", "bottom"),
    [
        # everything shows: rows 10 to 90
        (WHOLE, 0.1, 0.9),
        # cut at the knees: head at 0.1 and hip at 0.47 are 0.47 of the body
        (
            {"head": (10, 20), "upper clothes": (20, 57), "lower": (57, 100)},
            0.1,
            0.1 + (0.57 - 0.1) / 0.47,
        ),
        # cut at the chest: hip at 0.4 and sole at 1 are 0.53 of the body
        (
            {"upper clothes": (0, 40), "lower": (40, 100), "shoes": (95, 100)},
            1 - 0.6 / 0.53,
            1.0,
        ),
        # head and trunk, taken to reach the hip
        ({"head": (0, 26), "upper clothes": (26, 94)}, 0.0, 0.94 / 0.47),
        # legs without shoes, taken to reach from hip to ankle
        ({"lower": (2, 100)}, 0.02 - 0.47 * 0.98 / 0.49, 1 + 0.04 * 0.98 / 0.49),
        # trunk and legs
        (
            {"upper clothes": (17, 60), "lower": (60, 100)},
            0.17 - 0.13 * 0.83 / 0.83,
            1 + 0.04 * 0.83 / 0.83,
        ),
    ],
)
def test_a_cut_body_reaches_out_of_the_picture(
    rows: dict[str, tuple[int, int]], top: float, bottom: float
) -> None:
    got = mpn.body_extent(body(rows))
    torch.testing.assert_close(got[0], torch.tensor([top]), rtol=0, atol=1e-5)
    torch.testing.assert_close(got[1], torch.tensor([bottom]), rtol=0, atol=1e-5)
    assert got[2].tolist() == [True]


def test_masks_without_a_body_or_without_parts() -> None:
    masks = torch.zeros(2, 5, 100, 20)
    masks[1, 0, 30:80] = 1  # a silhouette that no part explains
    top, bottom, known = mpn.body_extent(masks)
    torch.testing.assert_close(top, torch.tensor([0.0, 0.3]))
    torch.testing.assert_close(bottom, torch.tensor([1.0, 0.8]))
    assert known.tolist() == [False, True]


@pytest.mark.parametrize("fallback", [True, False])
def test_extent_is_the_loop_over_its_definition(fallback: bool) -> None:
    method = build(prior="extent", fallback=fallback)
    cut = {"head": (10, 20), "upper clothes": (20, 57), "lower": (57, 100)}
    pictures = [body(WHOLE), body(cut), torch.zeros(1, 5, 100, 20), body(WHOLE).flip(3)]
    masks = torch.cat([*pictures, body(cut), body(WHOLE)])
    data = batch(method, masks)
    maps = method.backbone(data.images)
    reduced = method.main.reduce(maps)
    s, pooled = method._main(reduced)
    before = copy.deepcopy(method)
    t, present = method._auxiliary(maps, reduced, pooled, data)

    cells = F.adaptive_avg_pool2d(masks[:, 0], (6, 3))
    if fallback:
        cells[2] = 1.0
    x = before.main.activate(before.main.reduce(maps * cells[:, None]), auxiliary=True)
    expected, there = pooled.detach().clone(), torch.zeros(6, 3)
    # Rows of three parts on six rows: the whole body from 0.6 to 5.4, the cut one from 0.6 to 6.6.
    rows = {"whole": [(1, 2), (2, 4), (4, 5)], "cut": [(1, 3), (3, 5), (5, 6)]}
    rows["none"] = [(0, 2), (2, 4), (4, 6)]
    for i, kind in enumerate(["whole", "cut", "none", "whole", "cut", "whole"]):
        for k, (a, b) in enumerate(rows[kind]):
            if cells[i, a:b].max() >= 0.25:
                there[i, k] = 1
                expected[i, k] = x[i, k, :, a:b].amax((1, 2))
    assert torch.equal(present, there)
    assert present[2].tolist() == ([1.0] * 3 if fallback else [0.0] * 3)
    torch.testing.assert_close(t, before.main.refine(expected, auxiliary=True))
    assert s.shape == t.shape


def test_a_part_below_the_picture_has_no_auxiliary_task() -> None:
    method = build(prior="extent")
    masks = body({"head": (0, 26), "upper clothes": (26, 94)}).expand(6, -1, -1, -1)  # to the hips
    data = batch(method, masks)
    maps = method.backbone(data.images)
    reduced = method.main.reduce(maps)
    _, pooled = method._main(reduced)
    _, present = method._auxiliary(maps, reduced, pooled, data)
    # The body would end at 2.0 pictures: parts of 4 rows, of which the map has 6.
    assert present.tolist() == [[1.0, 1.0, 0.0]] * 6


def test_parsing_is_the_loop_over_its_definition() -> None:
    method = build(prior="parsing", regions=("head", "arms", "legs"))
    torch.manual_seed(3)
    masks = torch.rand(6, 3, 24, 12)
    masks[1, 1] = 0.2  # below what counts as seen
    masks[2] = 0  # no prior
    data = batch(method, masks)
    maps = method.backbone(data.images)
    reduced = method.main.reduce(maps)
    _, pooled = method._main(reduced)
    before = copy.deepcopy(method)
    t, present = method._auxiliary(maps, reduced, pooled, data)
    x = before.main.activate(reduced, auxiliary=True)
    expected, there = pooled.detach().clone(), torch.ones(6, 3)
    for i in range(6):
        for k in range(3):
            weights = torch.stack(
                [
                    torch.stack([masks[i, k, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4].mean()
                                 for c in range(3)])
                    for r in range(6)
                ]
            )  # fmt: skip
            if weights.max() < 0.25:
                there[i, k] = 0
            else:
                expected[i, k] = (x[i, k] * weights).amax((1, 2))
    assert torch.equal(present, there)
    assert there[1].tolist() == [1, 0, 1]
    assert there[2].tolist() == [0, 0, 0]
    torch.testing.assert_close(t, before.main.refine(expected, auxiliary=True))


def test_channel_attention_looks_at_the_region() -> None:
    method = build(attention=True).eval()
    data = batch(method)
    maps = method.backbone(data.images)
    where = torch.zeros(1, 3, 6, 1)
    where[0, 0, 0:2] = where[0, 1, 2:4] = where[0, 2, 4:6] = 1
    attention = method.main.attention
    assert attention is not None
    found = attention(maps, where)
    for k in range(3):
        pooled = maps[:, :, 2 * k : 2 * k + 2].amax((2, 3))
        squeezed = pooled @ attention.squeeze.weight[k] + attention.squeeze.bias.view(3, -1)[k]
        norm = attention.squeeze_norm.main
        squeezed = F.relu(squeezed / (norm.running_var.view(3, -1)[k] + norm.eps).sqrt())
        gate = squeezed @ attention.excite.weight[k] + attention.excite.bias.view(3, -1)[k]
        gate = torch.sigmoid(gate / (1 + norm.eps) ** 0.5)
        torch.testing.assert_close(found[:, k], maps * gate[:, :, None, None])
    everywhere = attention(maps, torch.ones(1, 3, 1, 1))
    torch.testing.assert_close(attention(maps, None), everywhere)


def test_a_batch_without_any_prior_teaches_the_auxiliary_tasks_nothing() -> None:
    method = build(prior="parsing", regions=("head", "arms", "legs"))
    terms = method.losses(batch(method, torch.zeros(6, 3, 24, 12)))
    assert float(terms["at"].detach()) == 0
    assert float(terms["align"].detach()) == 0
    (terms["at"] + terms["align"]).backward()
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    assert grads
    assert not any(g.any() for g in grads)


def test_a_missing_part_teaches_nothing_through_its_picture() -> None:
    """The vector that stands in for a missing part passes no gradient to the picture's map."""
    method = build(prior="parsing", regions=("head", "arms", "legs")).eval()
    # With fixed statistics the vector would reach no one else's loss.  In those of the batch, as
    # in training, it does, and what it brings there must not go on to the picture's map.
    method.main.second_norm.train()
    masks = torch.ones(6, 3, 24, 12)
    masks[4] = 0
    data = batch(method, masks)
    maps = method.backbone(data.images).detach().requires_grad_()
    reduced = method.main.reduce(maps)
    _, pooled = method._main(reduced)
    t, present = method._auxiliary(maps, reduced, pooled, data)
    identity = mpn.part_identity(method.auxiliary_classifiers(t), PIDS, present)
    (gradient,) = torch.autograd.grad(identity, maps)
    assert not gradient[4].any()
    assert gradient[3].any()
    assert gradient[5].any()


def test_a_missing_prior_is_named() -> None:
    method = build(prior="extent")
    with pytest.raises(DataError, match="masks"):
        method.losses(dataclasses.replace(batch(method), priors={}))


def test_without_auxiliary_tasks_no_prior_is_needed() -> None:
    method = build(prior="extent", auxiliary=0.0)
    assert method.needs == frozenset()
    assert method.parts == ()
    assert set(method.losses(batch(method))) == {"id", "triplet"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_parts": 0}, "num_parts"),
        ({"prior": "parsing", "num_parts": 4}, "regions"),
        ({"prior": "parsing", "regions": ("head", "legs", "head")}, "each mask once"),
        ({"auxiliary": -1.0}, "weights"),
    ],
)
def test_settings_out_of_range_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        build(**options)


def test_the_pyramid_is_one_map_of_the_maxima_of_its_levels() -> None:
    method = build(neck="msfl", neck_width=16).eval()
    stages = method.backbone.stages(batch(method).images)
    assert method.neck is not None
    assert [len(level) for level in method.neck.msff.levels] == [3, 2, 1, 0]  # refined as MSFL's
    found = method.neck(stages)
    levels = method.neck.msff(method.neck.csip(stages))
    assert found.shape == (6, 64, 6, 3)
    assert [x.shape[2:] for x in levels] == [(24, 12), (12, 6), (6, 3), (6, 3)]
    for number, factor in enumerate((4, 2, 1, 1)):
        naive = F.max_pool2d(levels[number], factor)
        assert torch.equal(found[:, 16 * number : 16 * number + 16], naive)


def test_the_gradient_regularizer_reaches_the_backbone_through_parts() -> None:
    method = build(msgr=0.1, prior="extent")
    terms = method(batch(method))
    terms["msgr"].backward()
    gradient = method.main.first.weight.grad
    assert gradient is not None
    assert gradient.any()


# --- first weights and paper size ---------------------------------------------------------------


def test_first_weights() -> None:
    """Classifiers N(0, 0.001) and zero; the layers of parts as PyTorch's convolutions."""
    torch.manual_seed(0)
    method = MPN(400, backbone=SMALL, width=64, num_parts=2).requires_grad_(False)
    for layer in (method.main_classifiers, method.auxiliary_classifiers):
        assert layer.weight.numel() == 2 * 64 * 400
        assert float(layer.weight.std()) == pytest.approx(0.001, rel=0.016)  # five sigma
        assert torch.equal(layer.bias, torch.zeros(2 * 400))
    assert method.backbone.channels[-1] == 64
    bound = 64**-0.5
    plain = nn.Conv2d(64, 128, 1).requires_grad_(False)
    for conv in (method.main.first, method.main.second, plain):
        for values in (conv.weight, conv.bias):
            # The largest of 128 falls 10 % short once in a million.
            assert 0.9 * bound < float(values.abs().max()) <= bound


def test_channel_attention_is_a_quarter_as_wide_inside() -> None:
    with torch.device("meta"):
        method = MPN(751, attention=True)
    gate = (2048 * 512 + 512) + 2 * 512 + (512 * 2048 + 2048) + 2 * 2048
    plain = 23_508_032 + (2048 * 3072 + 3 * 3072) + (6 * 512 * 512 + 3 * 3072)
    cost = describe(method, (384, 128))
    assert cost.params_deploy == plain + 6 * gate == 44_019_776


def test_the_pyramid_is_as_large_as_msfls() -> None:
    with torch.device("meta"):
        neck = mpn.Pyramid((256, 512, 1024, 2048), 512)
    resnet50 = 23_508_032
    size = resnet50 + sum(p.numel() for p in neck.parameters())
    assert size / 1e6 == pytest.approx(27.95, abs=0.0051)  # MSFL's without its embedding


@pytest.mark.slow
def test_paper_size() -> None:
    method = MPN(751).eval()
    with torch.no_grad():
        assert method.backbone(torch.zeros(1, 3, 384, 128)).shape == (1, 2048, 24, 8)
    cost = describe(method, (384, 128))
    assert cost.feature_dim == 3072
    resnet50 = 23_508_032
    first, second = 2048 * 3072 + 3072 + 2 * 3072, 6 * 512 * 512 + 3072 + 2 * 3072
    assert cost.params_deploy == resnet50 + first + second
    assert cost.params_train == cost.params_deploy + 2 * 6 * (512 * 751 + 751)


def test_ide_has_the_first_weights_of_the_release() -> None:
    small = ["method.backbone.name=resnet18", "method.backbone.width=0.125"]
    torch.manual_seed(0)
    ide: Any = parse("ide", small).method.build(50).requires_grad_(False)
    linear, norm, _ = ide.embedding  # 64 to 512; five sigma of each deviation below
    assert float(linear.weight.std()) == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert float(norm.weight.std()) == pytest.approx(0.02, rel=0.16)
    assert float(norm.weight.mean()) == pytest.approx(1.0, abs=0.005)
    assert float(ide.classifier.weight.std()) == pytest.approx(0.001, rel=0.025)
    for layer in (linear, norm, ide.classifier):
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
    plain = parse("ide", [*small, "method.embedding_init=normal", "method.classifier_bias=false"])
    other: Any = plain.method.build(50).requires_grad_(False)
    assert float(other.embedding[0].weight.std()) == pytest.approx(0.01, rel=0.02)
    assert torch.equal(other.embedding[1].weight, torch.ones(512))
    assert other.classifier.bias is None


def test_starts_from_the_backbone_of_an_ide_run(tmp_path: Path) -> None:
    recipe = parse("ide", ["method.backbone.name=resnet18", "method.backbone.width=0.125"])
    ide = recipe.method.build(5)
    images = batch(build()).images
    f = ide.eval().embedding[1](ide.embedding[0](ide.pool(ide.backbone(images))))  # type: ignore[index,operator]
    naive = F.normalize(torch.where(f > 0, f, 0.1 * f), dim=1)  # as the snapshot's own head
    torch.testing.assert_close(ide.embed(images), naive)
    assert set(ide.train().losses(batch(build()))) == {"id"}
    save_file(ide.state_dict(), tmp_path / "weights.safetensors")
    start = dataclasses.replace(SMALL, pretrained=str(tmp_path / "weights.safetensors"))
    method = MPN(CLASSES, backbone=start, width=WIDTH)
    for key, value in ide.backbone.state_dict().items():
        assert torch.equal(method.backbone.state_dict()[key], value)
    report = method.backbone.report
    assert report is not None
    assert set(report.ignored) == {k for k in ide.state_dict() if not k.startswith("backbone.")}
