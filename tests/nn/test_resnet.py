"""ResNets: published parameter counts, torchvision's names, blocks written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crosscam.nn import backbones
from crosscam.nn.resnet import BasicBlock, Bottleneck

# Parameters of the torchvision networks, with their 1000-way classifier of (C4 + 1) * 1000.
PUBLISHED = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
}
BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}


def torchvision_names(name: str, ibn: bool = False) -> set[str]:
    """State names as torchvision (IBN: the authors' release) writes them, without ``fc``."""

    def norm(prefix: str) -> set[str]:
        parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return {f"{prefix}.{part}" for part in parts}

    convs = 2 if name in ("resnet18", "resnet34") else 3
    names = {"conv1.weight"} | norm("bn1")
    for stage, count in enumerate(BLOCKS[name], start=1):
        for i in range(count):
            block = f"layer{stage}.{i}"
            for c in range(1, convs + 1):
                names.add(f"{block}.conv{c}.weight")
                if c == 1 and ibn and stage < 4:
                    names |= {f"{block}.bn1.IN.weight", f"{block}.bn1.IN.bias"}
                    names |= norm(f"{block}.bn1.BN")
                else:
                    names |= norm(f"{block}.bn{c}")
            if i == 0 and (stage > 1 or convs == 3):
                names.add(f"{block}.downsample.0.weight")
                names |= norm(f"{block}.downsample.1")
    return names


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("ibn", [False, True])
@pytest.mark.parametrize("last_stride", [1, 2])
def test_published_size_and_names(name: str, ibn: bool, last_stride: int) -> None:
    with torch.device("meta"):
        net = backbones.build(name, ibn=ibn, last_stride=last_stride)
    fc = (net.channels[-1] + 1) * 1000
    assert sum(p.numel() for p in net.parameters()) + fc == PUBLISHED[name]
    assert set(net.state_dict()) == torchvision_names(name, ibn)


def test_known_names_and_shapes() -> None:
    with torch.device("meta"):
        state = backbones.build("resnet50").state_dict()
    assert len(state) == 318  # 320 in torchvision, with fc.weight and fc.bias
    for key, shape in {
        "conv1.weight": [64, 3, 7, 7],
        "layer1.0.downsample.0.weight": [256, 64, 1, 1],
        "layer3.5.conv2.weight": [256, 256, 3, 3],
        "layer4.0.conv2.weight": [512, 512, 3, 3],
        "layer4.2.bn3.running_var": [2048],
    }.items():
        assert list(state[key].shape) == shape


def norm(x: Tensor, state: dict[str, Tensor], prefix: str) -> Tensor:
    """Batch normalization written out, with the statistics of the batch."""
    mean = x.mean((0, 2, 3), keepdim=True)
    var = x.var((0, 2, 3), unbiased=False, keepdim=True)
    scale, shift = (state[f"{prefix}.{k}"].view(1, -1, 1, 1) for k in ("weight", "bias"))
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


@pytest.mark.parametrize("stride", [1, 2])
def test_bottleneck_by_hand(stride: int) -> None:
    torch.manual_seed(0)
    block = Bottleneck(16, 8, stride).double()
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.1 * torch.randn_like(p))
    state = block.state_dict()
    x = torch.randn(2, 16, 6, 4, dtype=torch.float64)
    y = torch.einsum("oi,bihw->bohw", state["conv1.weight"][..., 0, 0], x)
    y = norm(y, state, "bn1").clamp(min=0)
    y = norm(F.conv2d(y, state["conv2.weight"], stride=stride, padding=1), state, "bn2").clamp(0)
    y = torch.einsum("oi,bihw->bohw", state["conv3.weight"][..., 0, 0], y)
    y = norm(y, state, "bn3")
    thinned = x[..., ::stride, ::stride]  # a strided 1x1 convolution reads every second cell
    s = torch.einsum("oi,bihw->bohw", state["downsample.0.weight"][..., 0, 0], thinned)
    want = (y + norm(s, state, "downsample.1")).clamp(min=0)
    torch.testing.assert_close(block(x), want)


def test_basic_block_by_hand() -> None:
    torch.manual_seed(0)
    block = BasicBlock(8, 8, ibn=True).double()
    state = block.state_dict()
    x = torch.randn(2, 8, 6, 4, dtype=torch.float64)
    y = F.conv2d(x, state["conv1.weight"], padding=1)
    first = torch.cat([norm(row[None], state, "bn1.IN") for row in y[:, :4]])
    y = torch.cat([first, norm(y[:, 4:], state, "bn1.BN")], 1).clamp(min=0)
    y = norm(F.conv2d(y, state["conv2.weight"], padding=1), state, "bn2")
    torch.testing.assert_close(block(x), (x + y).clamp(min=0))


def test_last_stride_moves_only_the_stride() -> None:
    wide, narrow = (backbones.build("resnet50", last_stride=s, width=0.125) for s in (1, 2))
    for net, stride in ((wide, (1, 1)), (narrow, (2, 2))):
        strided = [
            (name, m.stride)
            for name, m in net.stage4.named_modules()
            if isinstance(m, torch.nn.Conv2d) and name in ("0.conv2", "0.downsample.0")
        ]
        assert strided == [("0.conv2", stride), ("0.downsample.0", stride)]
        assert net.stage4[0].conv1.stride == (1, 1)
    assert wide.state_dict().keys() == narrow.state_dict().keys()


def test_initialization() -> None:
    torch.manual_seed(0)
    weight = backbones.build("resnet18").state_dict()["layer3.1.conv1.weight"]
    # He et al., fan out: std = sqrt(2 / (256 * 9)), from 589,824 draws.
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 2304), rel=0.01)
