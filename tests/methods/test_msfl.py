"""MSFL: the paper's figures, the top-down path against a loop, and every ablation axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crosscam.describe import describe
from crosscam.errors import InputError, RecipeError
from crosscam.methods import BackboneSettings
from crosscam.methods.baseline import Baseline
from crosscam.methods.msfl import MSFL
from crosscam.nn.pyramid import CSIP, MSFF
from crosscam.types import Batch

SMALL = BackboneSettings("resnet18", last_stride=2, width=0.125)
NARROW: dict[str, Any] = {"backbone": SMALL, "width": 16, "refine_width": 8, "embedding": 12}


def batch(size: tuple[int, int] = (64, 32)) -> Batch:
    torch.manual_seed(2)
    return Batch(torch.randn(8, 3, *size), torch.arange(4).repeat(2), torch.zeros(8))


def own(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- sizes and costs at 256x128, 751 identities -------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "aa_kernel", "without", "with_embedding", "gmac"),
    [
        ((2, 3, 4), 0, 27.03, 27.81, 3.41),
        ((2, 3, 4), 1, 27.55, 28.34, 3.58),
        ((2, 3, 4), 3, 31.75, 32.54, 4.92),
        ((1, 2, 3, 4), 0, 27.16, 28.21, 5.21),
        ((1, 2, 3, 4), 1, 27.95, 29.00, 5.91),
        ((1, 2, 3, 4), 3, 34.24, 35.29, 11.55),
    ],
)
def test_sizes_and_costs(
    levels: tuple[int, ...], aa_kernel: Any, without: float, with_embedding: float, gmac: float
) -> None:
    with torch.device("meta"):
        method = MSFL(751, levels=levels, aa_kernel=aa_kernel)
    cost = describe(method, (256, 128))
    assert cost.params_deploy == cost.params_train - own(method.classifier)
    assert cost.params_deploy / 1e6 == pytest.approx(with_embedding, abs=0.0051)
    assert (cost.params_deploy - own(method.embedding)) / 1e6 == pytest.approx(without, abs=0.0051)
    assert cost.macs / 1e9 == pytest.approx(gmac, abs=0.0051)
    assert cost.feature_dim == 512


def test_stages_behind_the_last_level_are_neither_run_nor_learned() -> None:
    with torch.device("meta"):
        method = MSFL(751, levels=(1, 2, 3))
    cost = describe(method, (256, 128))
    unused = own(method.backbone.stage(4))
    assert unused == 14_964_736
    assert cost.params_train - own(method.classifier) == pytest.approx(27.42e6, abs=5100)
    assert cost.params_deploy == cost.params_train - own(method.classifier) - unused
    assert not any(p.requires_grad for p in method.backbone.stage(4).parameters())
    stage4 = 0.5249e9  # 5.84 GMAC would be with them
    assert cost.macs + stage4 == pytest.approx(5.84e9, rel=1e-3)


@pytest.mark.parametrize(("last_stride", "gmac"), [(2, 2.67), (1, 4.1)])
def test_its_baseline(last_stride: int, gmac: float) -> None:
    with torch.device("meta"):
        method = Baseline(
            751,
            backbone=BackboneSettings(last_stride=last_stride),
            embedding=512,
            bnneck=False,
            center=0,
        )
    cost = describe(method, (256, 128))
    assert cost.params_deploy / 1e6 == pytest.approx(24.56, abs=0.0051)
    assert cost.macs / 1e9 == pytest.approx(gmac, abs=0.051)


# --- CSIP and MSFF ------------------------------------------------------------------------------


def nearest(x: Tensor) -> Tensor:
    """Twice the cells, each repeated, by hand."""
    b, c, h, w = x.shape
    return torch.stack(
        [x[:, :, i // 2, j // 2] for i in range(2 * h) for j in range(2 * w)], -1
    ).reshape(b, c, 2 * h, 2 * w)


@pytest.mark.parametrize("aa_kernel", [0, 1, 3])
@pytest.mark.parametrize("lateral", [True, False])
def test_the_top_down_path_against_a_loop(aa_kernel: int, lateral: bool) -> None:
    torch.manual_seed(0)
    channels = (4, 6, 5)
    csip = CSIP(channels, 7, aa_kernel=aa_kernel, lateral=lateral).eval()
    for norm in (m for m in csip.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    maps = [torch.randn(2, c, 8 // 2**i, 4 // 2**i) for i, c in enumerate(channels)]

    def conv_norm(pair: nn.Module, x: Tensor) -> Tensor:
        conv, norm = pair[0], pair[1]  # type: ignore[index]
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        y = nn.functional.conv2d(x, conv.weight, padding=conv.weight.shape[-1] // 2)
        return (y - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[
            :, None, None
        ]

    p3 = conv_norm(csip.lateral[-1], maps[2])
    expected = [p3]
    for i in (1, 0):
        passed = nearest(expected[0])
        passed = conv_norm(csip.smooth[i], passed) if aa_kernel else passed
        expected.insert(0, conv_norm(csip.lateral[i], maps[i]) + passed if lateral else passed)
    for found, wanted in zip(csip(maps), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_levels_of_one_size_are_added_cell_by_cell() -> None:
    csip = CSIP((4, 4), 4, aa_kernel=0).eval()
    maps = [torch.randn(1, 4, 5, 3), torch.randn(1, 4, 5, 3)]
    shallow, deep = csip(maps)
    torch.testing.assert_close(shallow, csip.lateral[0](maps[0]) + deep)


def test_msff_has_its_blocks_and_starts_near_its_input() -> None:
    msff = MSFF(8, (3, 2, 1, 0), 4)
    assert [len(level) for level in msff.levels] == [3, 2, 1, 0]
    for block in (b for level in msff.levels for b in level):
        nn.init.zeros_(block.expand[1].weight)  # then a block is its identity, and a ReLU
    maps = [torch.randn(2, 8, 4, 2) for _ in range(4)]
    for found, x in zip(msff(maps)[:3], maps, strict=False):
        torch.testing.assert_close(found, x.relu())
    assert torch.equal(msff(maps)[3], maps[3])


@pytest.mark.parametrize(("channels", "kernel"), [((), 1), ((3,), 2)])
def test_pyramids_that_are_none_are_refused(channels: tuple[int, ...], kernel: int) -> None:
    with pytest.raises(InputError, match="one level or more and aa_kernel 0, 1 or 3"):
        CSIP(channels, aa_kernel=kernel)


# --- the method -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"fusion": "direct", "levels": (3, 4), "refine": ()},
        {"fusion": "direct", "refine": ()},
        {"fusion": "top-down", "refine": ()},
        {"refine": ()},
        {},
        {"levels": (1, 2, 3)},
        {"levels": (4,)},
        {"aa_kernel": 3},
        {"head": "bn-fc-relu", "level_id": 0.5},
        {"backbone": BackboneSettings("resnet18", last_stride=1, width=0.125)},
        {"backbone": BackboneSettings("osnet_x0_25")},
    ],
    ids=str,
)
def test_every_axis_learns_everywhere(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    method = MSFL(4, **{**NARROW, **options}, msgr=0.01).train()
    terms = method(batch())
    torch.stack(list(terms.values())).sum().backward()
    learned = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    trained = {n for n, p in method.named_parameters() if p.requires_grad}
    # A gate of OSNet x0.25 has one hidden unit, which may start dead.
    assert {n for n in trained - learned if ".gate." not in n} == set()
    names = {f"level{n}" for n in (1, 2, 3, 4)} if "level_id" in options else set()
    assert set(terms) == {"id", "triplet", "msgr"} | names
    assert method.eval().embed(batch().images).shape == (8, 12)


def test_the_feature_is_made_of_pooled_levels() -> None:
    method = MSFL(4, **NARROW).eval()
    images = batch().images
    maps = method.msff(method.csip(method.backbone.stages(images)))
    pooled = torch.cat([x.mean((2, 3)) for x in maps], 1)
    assert pooled.shape == (8, 4 * 16)
    linear, norm = method.embedding[0], method.embedding[1]
    v = (pooled @ linear.weight.T + linear.bias) / np.sqrt(1 + norm.eps)  # fresh statistics
    v = v.relu()
    torch.testing.assert_close(method.embed(images), v / v.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("fusion", ["csip", "top-down", "direct"])
def test_each_fusion_is_what_its_name_says(fusion: Any) -> None:
    torch.manual_seed(0)
    method = MSFL(4, **NARROW, fusion=fusion, refine=()).eval()
    levels = method.backbone.stages(batch().images)
    if fusion != "direct":
        lateral, smooth = method.csip.lateral, method.csip.smooth
        stages, levels = levels, [lateral[-1](levels[-1])]
        for i in (2, 1, 0):
            passed = smooth[i](nearest(levels[0]))
            levels.insert(0, passed + lateral[i](stages[i]) if fusion == "csip" else passed)
    v = method.embedding(torch.cat([x.mean((2, 3)) for x in levels], 1))
    found = method.embed(batch().images)
    torch.testing.assert_close(found, v / v.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("head", ["fc-bn-relu", "bn-fc-relu"])
def test_each_head_has_its_layers_in_its_order(head: Any) -> None:
    torch.manual_seed(0)
    method = MSFL(4, **NARROW, head=head).eval()
    (linear,) = (m for m in method.embedding if isinstance(m, nn.Linear))
    (norm,) = (m for m in method.embedding if isinstance(m, nn.BatchNorm1d))
    for values in (norm.running_mean, norm.weight, norm.bias):
        nn.init.uniform_(values, -1, 1)
    nn.init.uniform_(norm.running_var, 0.5, 2)

    def normal(x: Tensor) -> Tensor:
        deviation = (norm.running_var + norm.eps).sqrt()
        return (x - norm.running_mean) / deviation * norm.weight + norm.bias

    x = torch.randn(5, 4 * 16)
    if head == "fc-bn-relu":
        v = normal(x @ linear.weight.T + linear.bias)
    else:
        v = normal(x) @ linear.weight.T
    assert bool((v < 0).any())
    torch.testing.assert_close(method.embedding(x), v.clamp(min=0))


def test_its_losses_are_those_written_out() -> None:
    torch.manual_seed(0)
    method = MSFL(4, **NARROW, smoothing=0.1, margin=0.3, triplet=2.0, level_id=0.5).eval()
    for classifier in (method.classifier, *method.level_classifiers):
        nn.init.normal_(classifier.weight)  # classes that smoothing tells apart
    data = batch()
    pooled = [x.mean((2, 3)) for x in method.msff(method.csip(method._stages(data.images)))]
    v = method.embedding(torch.cat(pooled, 1))

    def identity(classifier: nn.Module, x: Tensor) -> Tensor:
        log_p = classifier(x).log_softmax(1)
        true = torch.stack([log_p[i, pid] for i, pid in enumerate(data.pids)])
        return -(0.9 * true + 0.1 * log_p.mean(1)).mean()

    hinges = []
    for i, pid in enumerate(data.pids):
        d = (v[i] - v).square().sum(1).sqrt()
        hinges.append(d[data.pids == pid].max() - d[data.pids != pid].min() + 0.3)
    naive = {
        "id": identity(method.classifier, v),
        "triplet": 2 * torch.stack(hinges).clamp(min=0).mean(),
    }
    for level, (classifier, x) in enumerate(zip(method.level_classifiers, pooled, strict=True), 1):
        naive[f"level{level}"] = 0.5 * identity(classifier, x)
    found = method.losses(data)
    assert set(found) == set(naive)
    for name, loss in found.items():
        torch.testing.assert_close(loss, naive[name])


def test_classifiers_start_near_zero() -> None:
    torch.manual_seed(0)
    method = MSFL(2000, **NARROW, level_id=0.5).requires_grad_(False)
    assert len(method.level_classifiers) == 4
    for layer in (method.classifier, *method.level_classifiers):
        assert layer.weight.numel() >= 12 * 2000
        assert float(layer.weight.std()) == pytest.approx(0.001, rel=0.023)  # five sigma
        assert torch.equal(layer.bias, torch.zeros(2000))


def test_its_maps_are_the_levels() -> None:
    method = MSFL(4, **NARROW).eval()
    shown = method.maps(batch().images)
    assert {name: tuple(x.shape) for name, x in shown.items()} == {
        "M1": (8, 16, 8),
        "M2": (8, 8, 4),
        "M3": (8, 4, 2),
        "M4": (8, 2, 1),
    }
    assert all(bool((x >= 0).all()) for x in shown.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"levels": ()}, "rising order"),
        ({"levels": (2, 1)}, "rising order"),
        ({"levels": (1, 5)}, "rising order"),
        ({"refine": (1, -1)}, "0 or more"),
        ({"fusion": "direct"}, "empty with fusion=direct"),
        ({"width": 0}, "1 or more"),
        ({"refine_width": 0}, "1 or more"),
        ({"embedding": 0}, "1 or more"),
        ({"triplet": -1.0}, "0 or more"),
        ({"level_id": -0.5}, "0 or more"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        MSFL(4, **{**NARROW, **options})
