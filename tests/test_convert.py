"""Weights of other toolkits: features equal those of the network written down as it is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from crosscam import embedder
from crosscam.convert import convert
from crosscam.errors import CheckpointError, InputError
from crosscam.image import Preprocess
from crosscam.nn import backbones

State = dict[str, Tensor]
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), dtype=np.uint8)
IMAGES = torch.from_numpy(Preprocess(size=(64, 32)).normalize(PICTURES))


def resnet18(prefix: str, seed: int = 0) -> State:
    """The state of a ResNet-18 under ``prefix``, its normalizations away from their defaults."""
    torch.manual_seed(seed)
    state = backbones.build("resnet18").state_dict()
    for name, value in state.items():
        if "running_var" in name or (name.endswith("weight") and value.ndim == 1):
            value.uniform_(0.5, 1.5)
        elif "running_mean" in name or name.endswith("bias"):
            value.normal_(0.0, 0.3)
    return {prefix + name: value for name, value in state.items()}


def norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.batch_norm(
        x, state[f"{name}.running_mean"], state[f"{name}.running_var"],
        state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5,
    )  # fmt: skip


def run_resnet18(
    state: State, prefix: str, x: Tensor, *, relu: bool, ceil: bool, last_stride: int
) -> Tensor:
    """A ResNet-18 operation by operation, with the stem of a toolkit."""
    get: Callable[[str], Tensor] = lambda name: state[prefix + name]  # noqa: E731
    x = norm(state, f"{prefix}bn1", F.conv2d(x, get("conv1.weight"), stride=2, padding=3))
    x = x.relu() if relu else x
    x = F.max_pool2d(x, 3, 2, padding=0 if ceil else 1, ceil_mode=ceil)
    for layer, first in ((1, 1), (2, 2), (3, 2), (4, last_stride)):
        for block in (0, 1):
            name, stride = f"layer{layer}.{block}", first if block == 0 else 1
            y = F.conv2d(x, get(f"{name}.conv1.weight"), stride=stride, padding=1)
            y = norm(state, f"{prefix}{name}.bn1", y).relu()
            y = F.conv2d(y, get(f"{name}.conv2.weight"), padding=1)
            y = norm(state, f"{prefix}{name}.bn2", y)
            if f"{prefix}{name}.downsample.0.weight" in state:
                x = F.conv2d(x, get(f"{name}.downsample.0.weight"), stride=stride)
                x = norm(state, f"{prefix}{name}.downsample.1", x)
            x = (x + y).relu()
    return x


def embedded(run: Path) -> Tensor:
    found = embedder.load(run, device="cpu")
    return torch.from_numpy(found.function(PICTURES))


def bn(name: str, width: int) -> State:
    return {
        f"{name}.weight": torch.rand(width) + 0.5,
        f"{name}.bias": torch.zeros(width),
        f"{name}.running_mean": torch.randn(width) * 0.1,
        f"{name}.running_var": torch.rand(width) + 0.5,
    }


def test_strong_baseline_has_no_relu_in_its_stem(tmp_path: Path) -> None:
    state = resnet18("base.") | bn("bottleneck", 512) | {"classifier.weight": torch.randn(9, 512)}
    torch.save(state, tmp_path / "w.pth")
    found = convert(tmp_path / "w.pth", tmp_path / "run", size=(64, 32), trained_on="toys")
    assert found.toolkit == "strong-baseline"
    assert found.unused == ("classifier.weight",)
    x = run_resnet18(state, "base.", IMAGES, relu=False, ceil=False, last_stride=1)
    expected = F.normalize(norm(state, "bottleneck", x.mean((2, 3))))
    torch.testing.assert_close(embedded(tmp_path / "run"), expected, rtol=1e-4, atol=1e-5)
    with_relu = run_resnet18(state, "base.", IMAGES, relu=True, ceil=False, last_stride=1)
    wrong = F.normalize(norm(state, "bottleneck", with_relu.mean((2, 3))))
    assert (wrong - expected).abs().max() > 1e-3  # a hundred tolerances: the option is not idle


def test_fast_reid_pools_without_padding_and_may_have_gem(tmp_path: Path) -> None:
    state = resnet18("backbone.") | bn("heads.bottleneck.0", 512)
    state |= {"heads.weight": torch.randn(7, 512), "heads.pool_layer.p": torch.tensor([2.5])}
    state |= {"pixel_mean": torch.tensor([123.675, 116.28, 103.53]).reshape(1, 3, 1, 1),
              "pixel_std": torch.tensor([58.395, 57.12, 57.375]).reshape(1, 3, 1, 1)}  # fmt: skip
    torch.save({"model": state, "iteration": 3}, tmp_path / "w.pth")
    found = convert(tmp_path / "w.pth", tmp_path / "run", size=(64, 32))
    assert found.toolkit == "fast-reid"
    x = run_resnet18(state, "backbone.", IMAGES, relu=True, ceil=True, last_stride=1)
    pooled = x.clamp(min=1e-6).pow(2.5).mean((2, 3)).pow(1 / 2.5)
    expected = F.normalize(norm(state, "heads.bottleneck.0", pooled))
    torch.testing.assert_close(embedded(tmp_path / "run"), expected, rtol=1e-4, atol=1e-5)


def test_torchreid_resnet_ends_at_stride_32(tmp_path: Path) -> None:
    state = resnet18("") | {
        "classifier.weight": torch.randn(5, 512),
        "classifier.bias": torch.ones(5),
    }
    save_file({f"module.{k}": v for k, v in state.items()}, tmp_path / "w.safetensors")
    found = convert(tmp_path / "w.safetensors", tmp_path / "run", size=(64, 32))
    assert found.toolkit == "torchreid"
    x = run_resnet18(state, "", IMAGES, relu=True, ceil=False, last_stride=2)
    expected = F.normalize(x.mean((2, 3)))
    torch.testing.assert_close(embedded(tmp_path / "run"), expected, rtol=1e-4, atol=1e-5)
    convert(tmp_path / "w.safetensors", tmp_path / "other", size=(64, 32), last_stride=1)
    x = run_resnet18(state, "", IMAGES, relu=True, ceil=False, last_stride=1)
    torch.testing.assert_close(
        embedded(tmp_path / "other"), F.normalize(x.mean((2, 3))), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("ibn", [False, True])
def test_torchreid_osnet(ibn: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = backbones.build("osnet_x0_25", ibn=ibn, embedding=True).eval()
    state = net.state_dict() | {"classifier.weight": torch.randn(4, 512)}
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 1},
               tmp_path / "w.pth.tar")  # fmt: skip
    found = convert(tmp_path / "w.pth.tar", tmp_path / "run", size=(64, 32))
    assert "method.backbone.name=osnet_x0_25" in found.settings
    with torch.no_grad():
        expected = F.normalize(net.fc(net(IMAGES).mean((2, 3))))
    torch.testing.assert_close(embedded(tmp_path / "run"), expected, rtol=1e-4, atol=1e-5)


def test_the_card_says_what_it_is(tmp_path: Path) -> None:
    state = resnet18("base.") | {"classifier.weight": torch.randn(9, 512)}
    torch.save(state, tmp_path / "w.pth")
    convert(tmp_path / "w.pth", tmp_path / "run", trained_on="Market-1501", license="MIT")
    found = embedder.load(tmp_path / "run", device="cpu")
    assert found.card is not None
    assert found.card["converted_from"]["toolkit"] == "strong-baseline"
    assert found.card["trained_on"]["title"] == "Market-1501"
    assert found.card["license"] == "MIT"


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numbers_of_numpy_beside_the_weights_are_read(core: str, tmp_path: Path) -> None:
    """torchreid's own checkpoints hold rank-1 as NumPy's, whichever version wrote them."""
    state = resnet18("base.") | {"classifier.weight": torch.randn(9, 512)}
    path = tmp_path / "w.pth.tar"
    figures = {"rank1": np.float32(0.5), "mAP": np.float64(0.25), "epoch": np.int64(3)}
    torch.save({"state_dict": state, **figures}, path, _use_new_zipfile_serialization=False)
    # As the other version of NumPy calls it; a name that is pickled by its length stays in step.
    here = np.float64(0).__reduce__()[0].__module__.encode()
    text = path.read_bytes().replace(here, f"numpy.{core}.multiarray".encode())
    path.write_bytes(text)
    assert f"numpy.{core}.multiarray".encode() in text
    assert convert(path, tmp_path / "run").toolkit == "strong-baseline"


def test_onnx_is_sent_to_the_command_that_takes_it(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(CheckpointError, match="crosscam wrap"):
        convert(tmp_path / "model.onnx", tmp_path / "run")


class _Object:
    """Something that a pickle would have to run code for."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": _Object()}, r"runs code from the file.*It asks for test_convert\._Object"),
        ({"epoch": 3}, "no tensors"),
        (torch.ones(3), "mapping of names"),
        ({"stem.weight": torch.ones(3)}, "no toolkit"),
    ],
)
def test_files_that_are_no_weights(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(tmp_path / "w.pth", tmp_path / "run")
    assert "weights_only" not in str(caught.value)  # PyTorch's advice is to switch safety off
    assert not (tmp_path / "run").exists()


def _without(state: State, name: str) -> State:
    return {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: _without(s, "base.layer2.0.conv1.weight"), "1 missing"),
        (lambda s: s | {"base.layer1.0.conv1.weight": torch.ones(3, 3)}, "of another shape"),
        (lambda s: s | {"base.extra": torch.ones(3)}, "1 unknown"),
        (lambda s: s | {"base.bn1.bias": torch.full((64,), torch.nan)}, "not finite"),
        (lambda s: {k: v for k, v in s.items() if "layer4.1" not in k}, "blocks per stage"),
    ],
)
def test_partly_loaded_weights_are_refused(
    change: Callable[[State], State], message: str, tmp_path: Path
) -> None:
    torch.save(change(resnet18("base.")), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "w.pth", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_faults(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights at"):
        convert(tmp_path / "none.pth", tmp_path / "run")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(CheckpointError, match=r"not a readable PyTorch file|runs code"):
        convert(tmp_path / "cut.pth", tmp_path / "run")
    torch.save(resnet18("base."), tmp_path / "w.pth")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InputError, match="not empty"):
        convert(tmp_path / "w.pth", tmp_path / "full")
    nl = resnet18("backbone.") | {
        "backbone.NL_2.0.g.weight": torch.ones(2),
        "heads.weight": torch.ones(2, 2),
    }
    torch.save(nl, tmp_path / "nl.pth")
    with pytest.raises(CheckpointError, match="non-local"):
        convert(tmp_path / "nl.pth", tmp_path / "run")
