"""Weights files: what is loaded, what is ignored, what is refused, and that a refusal is whole."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from crosscam.errors import CheckpointError, MissingExtraError
from crosscam.nn import backbones, pretrained


def net(seed: int = 0) -> backbones.Backbone:
    torch.manual_seed(seed)
    return backbones.build("osnet_x0_25", width=0.5)


def save(path: Path, state: dict[str, Tensor]) -> str:
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    return str(path)


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {k: v.clone() for k, v in net(1).state_dict().items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.safetensors"


def assert_same(ours: backbones.Backbone, state: dict[str, Tensor]) -> None:
    for key, value in ours.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_round_trip(path: Path, state: dict[str, Tensor]) -> None:
    ours = net()
    report = pretrained.load(ours, save(path, state))
    assert_same(ours, state)
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.source == str(path)
    assert set(report.loaded) == set(state)
    assert report.ignored == ()


def test_build_loads_and_reports(path: Path, state: dict[str, Tensor]) -> None:
    ours = backbones.build("osnet_x0_25", width=0.5, pretrained=save(path, state))
    assert_same(ours, state)
    assert ours.report is not None
    assert ours.report.sha256[:12] in str(ours.report)
    assert net().report is None


def test_classifiers_are_ignored_and_named(path: Path, state: dict[str, Tensor]) -> None:
    extra = {"fc.0.weight": torch.ones(2), "classifier.bias": torch.ones(2)}
    report = pretrained.load(net(), save(path, state | extra))
    assert report.ignored == ("classifier.bias", "fc.0.weight")
    assert "classifier.bias" in str(report)


def test_counters_may_be_missing(path: Path, state: dict[str, Tensor]) -> None:
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    report = pretrained.load(net(), save(path, old))
    assert set(report.loaded) == set(old)


def test_wrappers_and_whole_methods(path: Path, state: dict[str, Tensor]) -> None:
    ours = net()
    pretrained.load(ours, save(path, {f"module.{k}": v for k, v in state.items()}))
    assert_same(ours, state)
    ours = net()
    method = {f"backbone.{k}": v for k, v in state.items()} | {"neck.weight": torch.ones(3)}
    report = pretrained.load(ours, save(path, method))
    assert_same(ours, state)
    assert report.ignored == ("neck.weight",)


def test_half_precision_file_into_float32(path: Path, state: dict[str, Tensor]) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    ours = net()
    pretrained.load(ours, save(path, half))
    weight = ours.state_dict()["conv1.conv.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, half["conv1.conv.weight"].float())


class TestRefusals:
    def refuse(self, path: Path, state: dict[str, Tensor], message: str) -> None:
        ours, before = net(), net().state_dict()
        with pytest.raises(CheckpointError, match=message):
            pretrained.load(ours, save(path, state))
        assert_same(ours, before)  # nothing was changed

    def test_missing(self, path: Path, state: dict[str, Tensor]) -> None:
        del state["conv5.bn.weight"]
        self.refuse(path, state, r"1 missing: conv5\.bn\.weight")

    def test_many_missing_are_counted(self, path: Path, state: dict[str, Tensor]) -> None:
        few = {k: v for k, v in state.items() if k.startswith("conv1.")}
        self.refuse(path, few, r"\d+ missing: .* and \d+ more")

    def test_unexpected(self, path: Path, state: dict[str, Tensor]) -> None:
        # A deeper network's file holds all of a shallower one's names.
        state["conv4.2.conv1.conv.weight"] = torch.ones(1)
        self.refuse(path, state, r"1 unexpected: conv4\.2\.conv1\.conv\.weight")

    def test_shape(self, path: Path, state: dict[str, Tensor]) -> None:
        state["conv1.bn.bias"] = torch.zeros(3)
        self.refuse(path, state, r"conv1\.bn\.bias is \[3\] and must be \[8\]")

    def test_kind(self, path: Path, state: dict[str, Tensor]) -> None:
        state["conv1.bn.bias"] = state["conv1.bn.bias"].long()
        self.refuse(path, state, r"integer .*conv1\.bn\.bias")

    def test_not_finite(self, path: Path, state: dict[str, Tensor]) -> None:
        state["conv1.bn.bias"][0] = torch.nan
        self.refuse(path, state, r"not finite: conv1\.bn\.bias")

    def test_other_network(self, path: Path, state: dict[str, Tensor]) -> None:
        with pytest.raises(CheckpointError, match="do not fit the network"):
            backbones.build("resnet18", width=0.25, pretrained=save(path, state))


class TestFiles:
    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"no weights file at .*none\.safetensors"):
            pretrained.fetch(str(tmp_path / "none.safetensors"))

    @pytest.mark.parametrize("word", ["imagenet", "true", "resnet50"])
    def test_a_word_is_told_what_there_is(self, word: str) -> None:
        said = f"no weights called {word} come with.*people, people-plain, people-small; .*hub:timm"
        with pytest.raises(CheckpointError, match=said):
            pretrained.fetch(word)

    def test_pickle_is_not_read(self, tmp_path: Path) -> None:
        file = tmp_path / "w.pth"
        torch.save({"a": torch.ones(1)}, file)
        with pytest.raises(
            CheckpointError, match=r"safetensors files only.* come with this package: people"
        ):
            pretrained.fetch(str(file))

    @pytest.mark.parametrize("content", [b"", b"not weights", b"\xff" * 64])
    def test_damaged(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
            pretrained.load(net(), str(path))

    def test_cut_off(self, path: Path, state: dict[str, Tensor]) -> None:
        save(path, state)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match="cut off"):
            pretrained.load(net(), str(path))

    def test_hash(self, path: Path, state: dict[str, Tensor]) -> None:
        save(path, state)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        assert pretrained.fetch(f"{path}#sha256={found.upper()}").sha256 == found
        with pytest.raises(CheckpointError, match=found):
            pretrained.fetch(f"{path}#sha256={'0' * 64}")
        with pytest.raises(CheckpointError, match="64 hexadecimal digits, got 4"):
            pretrained.fetch(f"{path}#sha256={found[:4]}")


class TestHub:
    @pytest.fixture
    def calls(
        self, monkeypatch: pytest.MonkeyPatch, path: Path, state: dict[str, Tensor]
    ) -> list[tuple[str, str, str]]:
        save(path, state)
        seen: list[tuple[str, str, str]] = []

        def hf_hub_download(repo: str, file: str, *, revision: str) -> str:
            seen.append((repo, file, revision))
            if revision == "gone":
                raise OSError("404")
            return str(path)

        hub = types.ModuleType("huggingface_hub")
        hub.__dict__["hf_hub_download"] = hf_hub_download
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
        return seen

    def test_download(self, calls: list[tuple[str, str, str]], state: dict[str, Tensor]) -> None:
        ours = net()
        report = pretrained.load(ours, "hub:some/net/deep/w.safetensors@0123abc")
        assert calls == [("some/net", "deep/w.safetensors", "0123abc")]
        assert_same(ours, state)
        assert report.source == "hub:some/net/deep/w.safetensors@0123abc"

    @pytest.mark.usefixtures("calls")
    def test_hash_of_a_download(self) -> None:
        with pytest.raises(CheckpointError, match="another file"):
            pretrained.fetch(f"hub:some/net/w.safetensors@main#sha256={'0' * 64}")

    @pytest.mark.usefixtures("calls")
    @pytest.mark.parametrize(
        "source", ["hub:some/net/w.safetensors", "hub:net/w.safetensors@main", "hub:@.safetensors"]
    )
    def test_malformed(self, source: str) -> None:
        with pytest.raises(CheckpointError, match="hub:OWNER/NAME/FILE"):
            pretrained.fetch(source)

    @pytest.mark.usefixtures("calls")
    def test_unreachable(self) -> None:
        with pytest.raises(CheckpointError, match="cannot be downloaded"):
            pretrained.fetch("hub:some/net/w.safetensors@gone")

    def test_extra_absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(MissingExtraError, match=r"crosscam\[hub\]"):
            pretrained.fetch("hub:some/net/w.safetensors@main")
