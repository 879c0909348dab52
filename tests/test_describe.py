"""Costs against hand counts, published figures and torch's own counter."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from crosscam.describe import describe
from crosscam.errors import InputError
from crosscam.nn import backbones
from crosscam.nn.layers import BNNeck, global_avg_pool


class Tiny(nn.Module):
    """One of everything that is counted, small enough to count by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)  # on 16 x 8: 8 x 8 x 4 cells
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 6)
        self.neck = BNNeck(6)
        self.classifier = nn.Linear(6, 100)
        self.aside = nn.Conv2d(8, 8, 1)  # only in training

    def embed(self, images: Tensor) -> Tensor:
        x = self.depthwise(self.conv(images))  # [B, 8, 8, 4]
        x = self.norm(self.up(x))  # [B, 4, 16, 8]
        y = self.neck(self.linear(global_avg_pool(x)))  # [B, 6]
        gram = y[:, :, None] @ y[:, None, :]  # [B, 6, 6]
        return F.normalize(torch.bmm(gram, y[:, :, None])[..., 0], dim=1)

    def losses(self, images: Tensor) -> Tensor:
        return self.classifier(self.embed(images)).sum() + self.aside(self.conv(images)).sum()


def test_by_hand() -> None:
    d = describe(Tiny(), (16, 8))
    conv = 8 * 8 * 4 * 3 * 9
    depthwise = 8 * 8 * 4 * 9
    up = 8 * 8 * 4 * 2 * 4  # every input cell meets a 2 x 2 filter of 4 / 2 outputs
    linear = 4 * 6
    products = 6 * 6 * 1 + 6 * 6
    assert d.macs == conv + depthwise + up + linear + products
    read = (8 * 27 + 8) + 8 * 9 + 8 * 2 * 4 + 2 * 4 + (4 * 6 + 6) + 2 * 6
    assert d.params_deploy == read
    assert d.params_train == read + (6 * 100 + 100) + (8 * 8 + 8)
    assert d.feature_dim == 6
    assert d.input_size == (16, 8)


def test_agrees_with_the_gradient_and_with_torch() -> None:
    method = Tiny().eval()
    d = describe(method, (16, 8))
    for p in method.parameters():
        p.requires_grad_()  # the neck's bias is frozen, but read
    images = torch.randn(2, 3, 16, 8)
    method.embed(images)[:, 0].sum().backward()
    touched = sum(p.numel() for p in method.parameters() if p.grad is not None)
    assert d.params_deploy == touched
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        method.embed(images)
    assert counter.get_total_flops() == 2 * 2 * d.macs  # two pictures, two operations each


def test_attention() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 12))

        def embed(self, images: Tensor) -> Tensor:
            x = images.flatten(2).transpose(1, 2) @ self.weight  # [1, 32, 12]
            q = x.view(1, 32, 3, 4).transpose(1, 2)  # [1, 3, 32, 4]
            return F.scaled_dot_product_attention(q, q, q).sum((2, 3))

    # The projection, then for 3 heads and 32 x 32 pairs 4 products each for score and mixture.
    assert describe(Attention(), (8, 4)).macs == 32 * 3 * 12 + 2 * 3 * 32 * 32 * 4


class Pooled(nn.Module):
    def __init__(self, net: backbones.Backbone, head: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.head = head

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.head(global_avg_pool(self.net(images))), dim=1)


@pytest.mark.slow
def test_resnet50_with_512_head() -> None:
    """24.56 M parameters and 2.67 GMAC at 256x128 (MSFL's baseline); last stride 1: 4.1."""
    head = nn.Sequential(nn.Linear(2048, 512), nn.BatchNorm1d(512), nn.ReLU())
    d = describe(Pooled(backbones.build("resnet50", last_stride=2), head))
    assert d.params_deploy == d.params_train == 23_508_032 + 2048 * 512 + 512 + 2 * 512
    assert round(d.params_deploy / 1e6, 2) == 24.56
    assert round(d.macs / 1e9, 2) == 2.67
    assert d.feature_dim == 512
    d = describe(Pooled(backbones.build("resnet50"), head))
    assert round(d.macs / 1e9, 1) == 4.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published", "mids"),
    [
        ("osnet_x1_0", 978_878_352, (64, 96, 128)),
        ("osnet_x0_75", 571_754_536, (48, 72, 96)),
        ("osnet_x0_5", 272_901_064, (32, 48, 64)),
        ("osnet_x0_25", 82_316_000, (16, 24, 32)),
    ],
)
def test_osnet_to_the_last_product(name: str, published: int, mids: tuple[int, ...]) -> None:
    net = backbones.build(name, embedding=True)
    assert net.fc is not None
    macs = describe(Pooled(net, net.fc)).macs
    # The authors' figure counts an addition per bias: gates of 4 streams in 2 blocks, and fc.
    biases = sum(2 * 4 * (m + m // 16) for m in mids) + 512
    assert macs + biases == published


def test_json_and_table() -> None:
    d = describe(Tiny(), (16, 8))
    assert json.loads(d.to_json()) == {
        "params_train": d.params_train,
        "params_deploy": d.params_deploy,
        "macs": d.macs,
        "input_size": [16, 8],
        "feature_dim": 6,
    }
    assert "16 x 8" in str(d)


def test_leaves_the_method_as_it_was() -> None:
    method = Tiny().train()
    method.norm.eval()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    describe(method, (16, 8))
    assert method.training
    assert not method.norm.training
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad is None for p in method.parameters())


def test_reads_are_seen_under_autocast_and_without_gradients() -> None:
    class Wrapped(Tiny):
        @torch.no_grad()
        def embed(self, images: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().embed(images)

    assert describe(Wrapped(), (16, 8)) == describe(Tiny(), (16, 8))


def test_bad_input() -> None:
    with pytest.raises(InputError, match="Linear"):
        describe(nn.Linear(2, 2))
    with pytest.raises(InputError, match="height, width"):
        describe(Tiny(), (0, 8))

    class Map(nn.Module):
        def embed(self, images: Tensor) -> Tensor:
            return images

    with pytest.raises(InputError, match=r"\[1, 3, 8, 4\]"):
        describe(Map(), (8, 4))
