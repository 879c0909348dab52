"""Checkpoints and weights that survive a crash, and unpickle nothing.

A checkpoint is a folder ``checkpoints/step-00001234`` of two files: ``tensors.safetensors``
(weights, optimizer state, average) and ``state.json`` (counters, and the size and SHA-256 of the
other file).  No generator state is kept: every draw is a function of the counters.  A checkpoint
is written under another name, flushed to the disk and renamed, so a folder of that name is
complete; the last two are kept, and one that is damaged all the same is passed over for the one
before it.
"""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosscam.errors import CheckpointError
from crosscam.files import disk_errors, flush, flush_folder, replacing, sha256

__all__ = ["Checkpoint", "latest", "latest_name", "load_weights", "save", "save_weights"]

_KEEP = 2
_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: tensors by group and name, and plain state."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save(
    run: Path, step: int, groups: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write ``run/checkpoints/step-{step}`` atomically and drop all but the last two.

    Args:
        run: run folder.
        step: steps taken so far.
        groups: named groups of named tensors ("weights", "ema", "optimizer.0", ...).
        state: whatever JSON can hold.

    Raises:
        DiskError: the disk is full or cannot be written; earlier checkpoints are untouched.
    """
    folder = run / "checkpoints"
    final = folder / f"step-{step:08d}"
    temporary = folder / f".writing-{step:08d}"
    with disk_errors(final, latest_name(run), "resume"):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            tensors = temporary / _TENSORS
            _write(_flat(groups), tensors)
            flush(tensors)
            entry = {"bytes": tensors.stat().st_size, "sha256": sha256(tensors)}
            text = json.dumps({**state, "step": step, "tensors": entry}, indent=1)
            (temporary / _STATE).write_text(text, encoding="utf-8")
            flush(temporary / _STATE)
            if final.exists():  # saving the same step again, after a resume that did no step
                shutil.rmtree(final)
            temporary.rename(final)
            flush_folder(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    for old in _complete(run)[:-_KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest(run: Path) -> Checkpoint | None:
    """The newest checkpoint of ``run`` that is undamaged, or None if there is none at all.

    Raises:
        CheckpointError: there are checkpoints, but every one of them is damaged.
    """
    problems = []
    for path in reversed(_complete(run)):
        try:
            return _load(path)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            problems.append(f"{path.name}: {error}")
    if problems:
        raise CheckpointError(
            f"no checkpoint of {run} can be read ({'; '.join(problems)}). "
            "Start the run again in a new folder."
        )
    return None


def latest_name(run: Path) -> str:
    """Name of the newest checkpoint folder, or "none"."""
    complete = _complete(run)
    return complete[-1].name if complete else "none"


def save_weights(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write named tensors to a safetensors file atomically; returns its SHA-256.

    Raises:
        DiskError: the disk is full or cannot be written; an earlier file is untouched.
    """
    with disk_errors(path, "none"):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        whole = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
        _write(whole, temporary, {})  # an empty entry, for the hash of the same weights to stay
        return sha256(temporary)


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: the file is missing, may not be read or is not a complete safetensors file.
    """
    try:
        path.open("rb").close()  # safetensors calls whatever it may not open missing
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no weights at {path}. A finished run has weights.safetensors; resume or train it."
        ) from error
    except PermissionError as error:
        raise CheckpointError(
            f"{path} may not be read ({error.strerror}): its owner can let you (chmod)."
        ) from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}). Copy or train it again."
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer as named tensors: ``"{parameter number}.{name}"``."""
    tensors: dict[str, Tensor] = {}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"{number}.{name}"] = torch.as_tensor(value)
    return tensors


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer back the state that :func:`optimizer_tensors` took from it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        parameter = parameters[int(number)]
        if value.shape == parameter.shape:  # in the parameter's memory order, as it was
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _load(path: Path) -> Checkpoint:
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    tensors = path / _TENSORS
    expected = state["tensors"]
    if tensors.stat().st_size != expected["bytes"] or sha256(tensors) != expected["sha256"]:
        raise ValueError(f"{_TENSORS} is not the file that was written")
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(tensors).items():
        group, name = key.split("/", 1)
        groups.setdefault(group, {})[name] = value
    return Checkpoint(path, groups, state)


def _write(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """``save_file``, and the file may be read by whom the umask lets read new files.

    Left to itself safetensors 0.8 makes files that only their owner can read.
    """
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(tensors, path, metadata)
    path.chmod(mode)


def _flat(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    # A copy per tensor: safetensors refuses tensors that share memory or are not contiguous.
    return {
        f"{group}/{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for group, tensors in groups.items()
        for name, tensor in tensors.items()
    }


def _complete(run: Path) -> list[Path]:
    return sorted(p for p in (run / "checkpoints").glob("step-*") if p.is_dir())
