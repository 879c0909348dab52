"""Checkpoints: exact, atomic, and honest about damage."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crosscam.errors import CheckpointError, DiskError
from crosscam.training import checkpoint

GROUPS = {
    "weights": {"a.b": torch.arange(6.0).view(2, 3).T, "count": torch.tensor(3)},
    "optimizer.0": {"0.step": torch.tensor(1.0)},
}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 12, GROUPS, {"position": {"epoch": 1}})
    last = checkpoint.latest(tmp_path)
    assert last is not None
    assert last.state["position"] == {"epoch": 1}
    assert last.state["step"] == 12
    for group, tensors in GROUPS.items():
        for name, tensor in tensors.items():
            assert torch.equal(last.tensors[group][name], tensor)
            assert last.tensors[group][name].dtype == tensor.dtype


@pytest.mark.skipif(os.name == "nt", reason="no modes there")
def test_files_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        saved = checkpoint.save(tmp_path, 1, GROUPS, {})
        checkpoint.save_weights(tmp_path / "weights.safetensors", GROUPS["weights"])
    finally:
        os.umask(before)
    for file in (*saved.iterdir(), tmp_path / "weights.safetensors"):
        assert (file.name, oct(file.stat().st_mode & 0o777)) == (file.name, "0o640")


def test_weights_that_may_not_be_read_are_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights.safetensors"
    checkpoint.save_weights(file, GROUPS["weights"])

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, who may all
    with pytest.raises(CheckpointError, match=r"may not be read \(Permission denied\)"):
        checkpoint.load_weights(file)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        checkpoint.save(tmp_path, step, GROUPS, {})
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000015", "step-00000020"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest_name(tmp_path) == "none"


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_a_damaged_one_is_passed_over(file: str, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, GROUPS, {})
    newest = checkpoint.save(tmp_path, 2, GROUPS, {})
    data = bytearray((newest / file).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (newest / file).write_bytes(data[:-1])
    last = checkpoint.latest(tmp_path)
    assert last is not None
    assert last.state["step"] == 1


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, GROUPS, {})
    data = bytearray((path / "tensors.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "tensors.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* can be read"):
        checkpoint.latest(tmp_path)


def test_a_half_written_one_does_not_count(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, GROUPS, {})
    half = tmp_path / "checkpoints" / ".writing-00000002"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"x" * 10)
    last = checkpoint.latest(tmp_path)
    assert last is not None
    assert last.state["step"] == 1
    checkpoint.save(tmp_path, 2, GROUPS, {})
    assert not half.exists()


FULL = """
import resource, sys, torch
from pathlib import Path
from crosscam.errors import DiskError
from crosscam.training import checkpoint

run = Path(sys.argv[1])
groups = {"weights": {"w": torch.ones(50_000)}}
checkpoint.save(run, 1, groups, {})
checkpoint.save_weights(run / "weights.safetensors", groups["weights"])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for attempt in (lambda: checkpoint.save(run, 2, groups, {}),
                lambda: checkpoint.save_weights(run / "weights.safetensors", groups["weights"])):
    try:
        attempt()
    except DiskError as error:
        print(error)
"""


def test_a_full_disk_leaves_the_last_state(tmp_path: Path) -> None:
    """The system refuses to write more than 100 kB to a file: what a full disk looks like."""
    out = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(out) == 2
    assert all("the disk is full" in line and "Free some space" in line for line in out)
    assert out[0].endswith("Last good state: step-00000001. Free some space and resume.")
    assert out[1].endswith(
        "Last good state: the file that was there. Free some space and try again."
    )
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000001"]
    last = checkpoint.latest(tmp_path)
    assert last is not None
    assert torch.equal(last.tensors["weights"]["w"], torch.ones(50_000))
    kept = checkpoint.load_weights(tmp_path / "weights.safetensors")
    assert torch.equal(kept["w"], torch.ones(50_000))
    assert not list(tmp_path.glob(".*writing*"))


def test_a_read_only_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DiskError, match="could not write"):
        checkpoint.save(tmp_path / "file", 1, GROUPS, {})


def test_weights_that_are_not_there_or_not_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights at"):
        checkpoint.load_weights(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"PK\x03\x04 this is no safetensors file")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        checkpoint.load_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["adam", "sgd", "adamw"])
def test_an_optimizer_goes_on_exactly(name: str, tmp_path: Path) -> None:
    def make() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        p = torch.nn.Parameter(torch.linspace(-1, 1, 7))
        return p, {
            "adam": lambda: torch.optim.Adam([p], 0.1, amsgrad=True),
            "adamw": lambda: torch.optim.AdamW([p], 0.1),
            "sgd": lambda: torch.optim.SGD([p], 0.1, momentum=0.9),
        }[name]()

    def step(p: torch.nn.Parameter, optimizer: torch.optim.Optimizer, k: int) -> None:
        optimizer.zero_grad()
        ((p - k) ** 3).sum().backward()
        optimizer.step()

    p, optimizer = make()
    for k in range(3):
        step(p, optimizer, k)
    checkpoint.save(tmp_path, 3, {"w": {"p": p}, "o": checkpoint.optimizer_tensors(optimizer)}, {})
    q, other = make()
    last = checkpoint.latest(tmp_path)
    assert last is not None
    q.data.copy_(last.tensors["w"]["p"])
    checkpoint.load_optimizer(other, last.tensors["o"])
    for k in range(3, 6):
        step(p, optimizer, k)
        step(q, other, k)
    assert torch.equal(p, q)


def test_state_is_plain_json(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, GROUPS, {"position": {"epoch": 0}})
    assert set(json.loads((path / "state.json").read_text())) == {"position", "step", "tensors"}
    assert {p.suffix for p in path.iterdir()} == {".json", ".safetensors"}


def test_an_optimizers_state_keeps_the_memory_order_of_its_parameter() -> None:
    """A kernel that walks raw memory would pair moments with other weights."""

    def make() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        value = torch.arange(24.0).view(2, 3, 2, 2).to(memory_format=torch.channels_last)
        parameter = torch.nn.Parameter(value)
        return parameter, torch.optim.AdamW([parameter], 0.1, fused=True)

    p, optimizer = make()
    (p * torch.arange(24.0).view(2, 3, 2, 2)).sum().backward()
    p.grad = p.grad.contiguous(memory_format=torch.channels_last)
    optimizer.step()
    saved = {
        k: v.clone(memory_format=torch.contiguous_format)
        for k, v in checkpoint.optimizer_tensors(optimizer).items()
    }
    q, other = make()
    checkpoint.load_optimizer(other, saved)
    for name, tensor in optimizer.state[p].items():
        assert torch.equal(tensor, other.state[q][name])
        assert tensor.stride() == other.state[q][name].stride()
