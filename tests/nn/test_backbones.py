"""Every backbone against one body of tests: shapes, names, graph, formats, errors."""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosscam.errors import CheckpointError, InputError, MissingExtraError, RecipeError
from crosscam.nn import backbones

SMALL = {"width": 0.25}
NETS = [(name, ibn) for name in ("resnet18", "resnet50", "osnet_x1_0") for ibn in (False, True)]
NAMES = ["resnet18", "resnet34", "resnet50", "resnet101"] + [
    f"osnet_x{size}" for size in ("1_0", "0_75", "0_5", "0_25")
]


def images(n: int = 2, h: int = 64, w: int = 32) -> Tensor:
    return torch.randn(n, 3, h, w, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=NETS, ids=[f"{n}{'-ibn' if i else ''}" for n, i in NETS])
def net(request: pytest.FixtureRequest) -> backbones.Backbone:
    torch.manual_seed(0)
    name, ibn = request.param
    return backbones.build(name, ibn=ibn, **SMALL)


def test_available() -> None:
    assert backbones.available() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_channels_and_strides_at_full_width(name: str) -> None:
    with torch.device("meta"):
        net = backbones.build(name)
        maps = net.stages(torch.empty(2, 3, 384, 160))
        odd = net.stages(torch.empty(2, 3, 250, 126))
    for x, channels, stride in zip(maps, net.channels, net.strides, strict=True):
        assert x.shape == (2, channels, 384 // stride, 160 // stride)
    # 250 -> 125 -> 63, then halved up by convolutions and down by poolings.
    assert [x.shape[2] for x in odd] == ([63, 32, 16, 16] if name[0] == "r" else [63, 31, 15, 15])
    factor = {"osnet_x0_75": 0.75, "osnet_x0_5": 0.5, "osnet_x0_25": 0.25}.get(name, 1.0)
    want = {"r": (64, 128, 256, 512), "o": (256, 384, 512, 512)}[name[0]]
    if name in ("resnet50", "resnet101"):
        want = (256, 512, 1024, 2048)
    assert net.channels == tuple(int(c * factor) for c in want)
    assert net.strides == (4, 8, 16, 16)


def test_maps(net: backbones.Backbone) -> None:
    x = images()
    net.eval()
    maps = net.stages(x)
    assert [m.shape[1] for m in maps] == list(net.channels)
    assert [m.shape[2:] for m in maps] == [(64 // s, 32 // s) for s in net.strides]
    assert torch.equal(net(x), maps[-1])
    # Step by step is the same computation.
    step = net.stem(x)
    for module, want in zip((net.stage1, net.stage2, net.stage3, net.stage4), maps, strict=True):
        step = module(step)
        assert torch.equal(step, want)


def test_a_row_does_not_depend_on_its_batch(net: backbones.Backbone) -> None:
    x = images(3, 32, 32).double()
    net.double().eval()
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]))


def test_stages_hold_every_parameter_once(net: backbones.Backbone) -> None:
    stem = [p for n, p in net.named_parameters() if n.split(".")[0] in ("conv1", "bn1")]
    staged = [p for k in range(1, 5) for p in net.stage(k).parameters()]
    held = [id(p) for p in stem + staged]
    assert sorted(held) == sorted(id(p) for p in net.parameters())


def test_copy_of_a_stage_is_a_branch_of_its_own(net: backbones.Backbone) -> None:
    branch = copy.deepcopy(net.stage3)
    assert not {id(p) for p in branch.parameters()} & {id(p) for p in net.parameters()}
    whole = copy.deepcopy(net)
    own = {id(p) for p in whole.parameters()}
    assert all(id(p) in own for k in range(1, 5) for p in whole.stage(k).parameters())


def test_every_parameter_gets_a_gradient(net: backbones.Backbone) -> None:
    net(images()).square().mean().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name


def test_second_derivative_agrees_with_finite_differences(net: backbones.Backbone) -> None:
    # R = |dL/dC1|^2 + |dL/dC2|^2, the quantity of a gradient regularizer: its derivative along a
    # random direction of the parameters, by double back-propagation and by central difference.
    net.double().eval()  # running statistics, so that the function is the same on both sides
    x = images(2, 32, 32).double()

    def penalty(create_graph: bool) -> Tensor:
        maps = net.stages(x)
        loss = maps[-1].mean((2, 3)).tanh().square().sum()
        grads = torch.autograd.grad(loss, maps[:2], create_graph=create_graph)
        return torch.stack([g.square().sum() for g in grads]).sum()

    params = list(net.parameters())
    rng = torch.Generator().manual_seed(1)
    direction = [
        torch.randn(p.shape, generator=rng, dtype=p.dtype) * p.detach().abs().mean().clamp(min=0.01)
        for p in params
    ]
    grads = torch.autograd.grad(penalty(True), params, allow_unused=True)
    want = sum((g * d).sum().item() for g, d in zip(grads, direction, strict=True) if g is not None)
    h = 1e-7
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(params, direction, strict=True):
                p.add_(d, alpha=sign * h)
            with torch.enable_grad():
                values.append(penalty(False).item())
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(want, rel=1e-3)
    assert want != 0


def test_bf16_autocast_channels_last_twice_differentiable(net: backbones.Backbone) -> None:
    net.to(memory_format=torch.channels_last)
    x = images(4).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        maps = net.stages(x)
    assert all(m.dtype == torch.bfloat16 for m in maps)
    loss = maps[-1].float().square().mean()
    grads = torch.autograd.grad(loss, maps[:2], create_graph=True)
    total = loss + sum(g.float().flatten(1).norm(dim=1).mean() for g in grads)
    total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_memory_format_changes_no_value(net: backbones.Backbone) -> None:
    x = images(4)
    net.eval()
    want = net(x)
    got = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_traces_whole(net: backbones.Backbone) -> None:
    x = images()
    net.eval()

    def step_by_step(x: Tensor) -> Tensor:
        return net.stage2(net.stage1(net.stem(x)))

    want = net.stages(x)
    whole = torch.compile(net, fullgraph=True, backend="eager")
    assert torch.equal(whole(x), want[-1])
    stepped = torch.compile(step_by_step, fullgraph=True, backend="eager")
    assert torch.equal(stepped(x), want[1])
    torch._dynamo.reset()


def test_sync_batch_norm_conversion_reaches_the_stages(net: backbones.Backbone) -> None:
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    for module in (net.stage(k) for k in range(1, 5)):
        assert not any(isinstance(m, nn.BatchNorm2d) for m in module.modules())


def test_last_stride() -> None:
    net = backbones.build("resnet18", last_stride=2, **SMALL)
    assert net.strides == (4, 8, 16, 32)
    assert net(images(1)).shape[2:] == (2, 1)


def test_width_rounds_to_eight() -> None:
    assert backbones.build("resnet18", width=0.3).channels == (16, 40, 80, 152)
    assert backbones.build("resnet18", width=0.01).channels == (8, 8, 8, 8)
    assert backbones.build("osnet_x1_0", width=0.25).channels == (64, 96, 128, 128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet5"}, "Did you mean 'resnet50'"),
        ({"name": "vgg"}, "Known: resnet18"),
        ({"name": "resnet50", "last_stride": 4}, "last_stride must be 1 or 2, got 4"),
        ({"name": "resnet50", "width": 0.0}, "width"),
        ({"name": "resnet50", "embedding": True}, "embedding"),
        ({"name": "osnet_x1_0", "last_stride": 2}, "stride 16 by design"),
        ({"name": "timm:resnet18", "ibn": True}, "option 'ibn'"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        backbones.build(**arguments)


def test_timm_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"crosscam\[timm\]"):
        backbones.build("timm:resnet18")


class FeatureInfo:
    def __init__(self, reductions: list[int]) -> None:
        self.reductions = reductions

    def channels(self) -> list[int]:
        return [4 * r for r in self.reductions]

    def reduction(self) -> list[int]:
        return self.reductions


class FakeNet(nn.Module):
    """Stands in for a timm network of features only: one 1x1 convolution a map."""

    def __init__(self, out_indices: tuple[int, ...] = (0, 1, 2, 3, 4), output_stride: int = 32):
        super().__init__()
        self.feature_info = FeatureInfo([min(2 << i, output_stride) for i in out_indices])
        self.convs = nn.ModuleList(nn.Conv2d(3, c, 1) for c in self.feature_info.channels())

    def forward(self, x: Tensor) -> list[Tensor]:
        pairs = zip(self.convs, self.feature_info.reduction(), strict=True)
        maps = [conv(x[..., ::r, ::r]) for conv, r in pairs]
        return [*maps[:-1], maps[-1].permute(0, 2, 3, 1)]  # the last one with channels last


@pytest.fixture
def fake_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(
        name: str, features_only: bool, pretrained: bool = False, **options: Any
    ) -> nn.Module:
        assert features_only
        overlay = options.pop("pretrained_cfg_overlay", None)
        if name == "fixed" and "output_stride" in options:
            raise NotImplementedError("no dilation here")
        net = FakeNet(**options)
        if pretrained:
            from safetensors.torch import load_file

            net.load_state_dict(load_file(overlay["file"]), strict=False)
        return net

    timm = types.ModuleType("timm")
    timm.__dict__.update(
        create_model=create_model,
        is_model=lambda name: name in ("some", "fixed"),
        list_models=lambda: ["some", "fixed"],
        __version__="1.0",
    )
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "timm", timm)


@pytest.mark.usefixtures("fake_timm")
class TestTimm:
    def test_last_four_maps(self) -> None:
        net = backbones.build("timm:some", last_stride=2)
        assert net.strides == (4, 8, 16, 32)
        assert net.channels == (16, 32, 64, 128)
        shapes = [tuple(m.shape) for m in net.stages(torch.zeros(2, 3, 250, 126))]
        assert shapes == [(2, 16, 63, 32), (2, 32, 32, 16), (2, 64, 16, 8), (2, 128, 8, 4)]
        assert net(torch.zeros(1, 3, 64, 32)).shape == (1, 128, 2, 1)

    def test_last_stride(self) -> None:
        assert backbones.build("timm:some").strides == (4, 8, 16, 16)
        with pytest.raises(RecipeError, match="use last_stride=2"):
            backbones.build("timm:fixed")

    def test_unknown(self) -> None:
        with pytest.raises(RecipeError, match="Did you mean 'timm:some'"):
            backbones.build("timm:sme")

    def test_no_steps(self) -> None:
        net = backbones.build("timm:some")
        with pytest.raises(InputError, match="not the steps between"):
            net.stem(images())
        with pytest.raises(InputError, match="resnet50"):
            _ = net.stage2

    def test_weights_are_verified(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        torch.manual_seed(1)
        full = FakeNet((1, 2, 3, 4))
        path = tmp_path / "full.safetensors"
        save_file({**full.state_dict(), "head.weight": torch.ones(2)}, path)
        net = backbones.build("timm:some", last_stride=2, pretrained=str(path))
        assert net.report is not None
        assert len(net.report.loaded) == 8
        assert net.report.ignored == ("head.weight",)
        part = tmp_path / "part.safetensors"
        state = full.state_dict()
        del state["convs.2.bias"]
        save_file(state, part)
        with pytest.raises(CheckpointError, match=r"1 of 8 tensors .* convs\.2\.bias"):
            backbones.build("timm:some", last_stride=2, pretrained=str(part))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # another library's import
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_same_as_timm(name: str, tmp_path: Path) -> None:
    """Our ResNet with timm's weights gives timm's maps, an implementation of its own."""
    try:
        timm = backbones._import_timm()
    except MissingExtraError:
        pytest.skip("timm is not installed")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    theirs = timm.create_model(name).eval()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    source = str(tmp_path / "w.safetensors")
    ours = backbones.build(name, last_stride=2, pretrained=source).eval()
    assert ours.report is not None
    assert ours.report.ignored == ("fc.bias", "fc.weight")
    with torch.no_grad():
        torch.testing.assert_close(ours(images()), theirs.forward_features(images()))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "osnet_x0_25"])
def test_the_least_size_of_instance_normalization_is_the_one_that_is_said(name: str) -> None:
    net = backbones.build(name, ibn=True).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 32, 16)).shape[2] >= 1
        with pytest.raises(RecipeError, match=r"preprocess\.size=\[32,16\] is enough"):
            net(torch.zeros(1, 3, 4, 2))
