"""OSNet: published sizes, the release's names, a block written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crosscam.nn import backbones
from crosscam.nn.osnet import OSBlock

# Parameters as the authors' tool prints them.  It counts a layer at every call, and the gate of a
# block is called four times, so its figure has each gate four times.
PUBLISHED = {
    "osnet_x1_0": (2_193_616, (64, 96, 128)),
    "osnet_x0_75": (1_299_224, (48, 72, 96)),
    "osnet_x0_5": (636_520, (32, 48, 64)),
    "osnet_x0_25": (203_568, (16, 24, 32)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size(name: str) -> None:
    with torch.device("meta"):
        net = backbones.build(name, embedding=True)
    total, mids = PUBLISHED[name]
    gates = sum(2 * (2 * m * (m // 16) + m + m // 16) for m in mids)  # two blocks a stage
    assert sum(p.numel() for p in net.parameters()) + 3 * gates == total


def release_names(ibn: bool) -> set[str]:
    """State names of the authors' release, without ``classifier``."""

    def norm(prefix: str) -> set[str]:
        parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return {f"{prefix}.{part}" for part in parts}

    def conv(prefix: str) -> set[str]:
        return {f"{prefix}.conv.weight"} | norm(f"{prefix}.bn")

    def lite(prefix: str) -> set[str]:
        return {f"{prefix}.conv1.weight", f"{prefix}.conv2.weight"} | norm(f"{prefix}.bn")

    names = conv("conv1") | conv("conv5")
    if ibn:
        names -= {f"conv1.bn.{k}" for k in ("running_mean", "running_var", "num_batches_tracked")}
    for stage in ("conv2", "conv3", "conv4"):
        for block in (f"{stage}.0", f"{stage}.1"):
            names |= conv(f"{block}.conv1") | conv(f"{block}.conv3") | lite(f"{block}.conv2a")
            for stream, depth in (("b", 2), ("c", 3), ("d", 4)):
                for i in range(depth):
                    names |= lite(f"{block}.conv2{stream}.{i}")
            for layer in ("fc1", "fc2"):
                names |= {f"{block}.gate.{layer}.weight", f"{block}.gate.{layer}.bias"}
            if ibn and stage == "conv2":
                names |= {f"{block}.IN.weight", f"{block}.IN.bias"}
        names |= conv(f"{stage}.0.downsample")
        if stage != "conv4":
            names |= conv(f"{stage}.2.0")
    return names | {"fc.0.weight", "fc.0.bias"} | norm("fc.1")


@pytest.mark.parametrize("ibn", [False, True])
def test_names(ibn: bool) -> None:
    with torch.device("meta"):
        net = backbones.build("osnet_x1_0", ibn=ibn, embedding=True)
        bare = backbones.build("osnet_x1_0", ibn=ibn)
    names = release_names(ibn)
    assert set(net.state_dict()) == names
    assert set(bare.state_dict()) == {n for n in names if not n.startswith("fc.")}


def test_known_shapes() -> None:
    with torch.device("meta"):
        state = backbones.build("osnet_x1_0", embedding=True).state_dict()
    for key, shape in {
        "conv1.conv.weight": [64, 3, 7, 7],
        "conv2.0.conv1.conv.weight": [64, 64, 1, 1],
        "conv2.0.conv2a.conv2.weight": [64, 1, 3, 3],
        "conv3.1.conv2d.3.conv1.weight": [96, 96, 1, 1],
        "conv4.0.gate.fc1.weight": [8, 128, 1, 1],
        "conv4.0.downsample.conv.weight": [512, 384, 1, 1],
        "conv5.conv.weight": [512, 512, 1, 1],
        "fc.0.weight": [512, 512],
    }.items():
        assert list(state[key].shape) == shape


@pytest.mark.parametrize("instance", [False, True])
def test_block_by_hand(instance: bool) -> None:
    torch.manual_seed(0)
    block = OSBlock(24, 64, instance).double().eval()
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.2 * torch.randn_like(p))
        for name, b in block.named_buffers():
            if b.is_floating_point():
                b.copy_(torch.rand_like(b) + 0.5)
            assert name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    s = block.state_dict()

    def norm(x: Tensor, at: str) -> Tensor:
        mean, var, scale, shift = (
            s[f"{at}.{k}"].view(1, -1, 1, 1)
            for k in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def lite(x: Tensor, at: str) -> Tensor:
        x = F.conv2d(x, s[f"{at}.conv1.weight"])
        rows = [F.conv2d(x[:, [c]], s[f"{at}.conv2.weight"][[c]], padding=1) for c in range(16)]
        return norm(torch.cat(rows, 1), f"{at}.bn").clamp(min=0)

    x = torch.randn(3, 24, 6, 4, dtype=torch.float64)
    y = norm(F.conv2d(x, s["conv1.conv.weight"]), "conv1.bn").clamp(min=0)
    total = torch.zeros_like(y)
    for stream, depth in (("a", 1), ("b", 2), ("c", 3), ("d", 4)):
        z = y
        for i in range(depth):
            z = lite(z, "conv2a" if stream == "a" else f"conv2{stream}.{i}")
        pooled = z.mean((2, 3))  # [B, 16]
        hidden = (pooled @ s["gate.fc1.weight"][..., 0, 0].T + s["gate.fc1.bias"]).clamp(min=0)
        logit = hidden @ s["gate.fc2.weight"][..., 0, 0].T + s["gate.fc2.bias"]
        total = total + z / (1 + torch.exp(-logit))[..., None, None]
    y = norm(F.conv2d(total, s["conv3.conv.weight"]), "conv3.bn")
    y = y + norm(F.conv2d(x, s["downsample.conv.weight"]), "downsample.bn")
    if instance:
        mean, var = y.mean((2, 3), keepdim=True), y.var((2, 3), unbiased=False, keepdim=True)
        y = (y - mean) / (var + 1e-5).sqrt()
        y = y * s["IN.weight"].view(1, -1, 1, 1) + s["IN.bias"].view(1, -1, 1, 1)
    torch.testing.assert_close(block(x), y.clamp(min=0))


def test_embedding_layers() -> None:
    net = backbones.build("osnet_x0_25", embedding=True)
    assert net.fc(torch.randn(2, 128)).shape == (2, 512)
    assert backbones.build("osnet_x0_25").fc is None
