"""Weights from a file or a hub into a backbone, all or nothing.

A source is one string:

    people, people-small, people-plain               weights that come with this package, trained
                                                     on rendered people (networks: SHIPPED)
    weights/resnet50.safetensors                     a local file
    weights/resnet50.safetensors#sha256=HEX          the same, refused unless its hash is HEX
    hub:OWNER/NAME/FILE.safetensors@REVISION         from the Hugging Face hub (extra ``hub``)
    hub:OWNER/NAME/FILE.safetensors@REVISION#sha256=HEX

Only safetensors files are read: reading a pickle (.pth, .pt) runs code that its author chose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from crosscam.errors import CheckpointError, MissingExtraError
from crosscam.files import sha256
from crosscam.wording import counted

__all__ = ["Report", "Source", "fetch", "load", "read"]


@dataclass(frozen=True)
class Shipped:
    """Weights that come with this package."""

    network: tuple[str, ...]  # settings of the backbone they are of
    sha256: str


SHIPPED = {
    "people": Shipped(
        ("name=resnet18", "width=0.75", "ibn=true"),
        "c5e1bb346dac2a7fb939e725f4525757cce05953e1160c2c75b52872d794b3cc",
    ),
    "people-plain": Shipped(
        ("name=resnet18", "width=0.5", "ibn=false"),
        "9454121e00de60ae3ee1048b608b132039e0ce35590168c2dd111eb623e26b55",
    ),
    "people-small": Shipped(
        ("name=resnet18", "width=0.5", "ibn=true"),
        "f5f2a70a4fe41aa21534957a59f4b550bbcf60d25d1acab6b2d345185623a16f",
    ),
}

CLASSIFIERS = ("fc.", "classifier.", "head.")
"""Beginnings of state names that belong to the task the weights were trained for."""

_SUFFIX = re.compile(r"#sha256=(?P<sha>[0-9a-fA-F]*)$")
_HUB = re.compile(r"(?P<repo>[^/@]+/[^/@]+)/(?P<file>[^@]+)@(?P<revision>[^@]+)")


@dataclass(frozen=True)
class Source:
    """A weights file at hand: what it was called, where it lies, its hash."""

    name: str
    path: Path
    sha256: str  # 64 hexadecimal digits


@dataclass(frozen=True)
class Report:
    """What a network was given."""

    source: str
    sha256: str  # 64 hexadecimal digits
    loaded: tuple[str, ...]  # state names of the network that were set
    ignored: tuple[str, ...]  # state names of the file that were not used

    def __str__(self) -> str:
        ignored = f", ignored {_some(self.ignored)}" if self.ignored else ""
        tensors = counted(len(self.loaded), "tensor")
        return f"{self.source} (sha256 {self.sha256[:12]}): {tensors} set{ignored}"


def fetch(source: str) -> Source:
    """The file that ``source`` names, downloaded if it is on the hub and checked by its hash.

    Raises ``CheckpointError`` (missing, not a safetensors file, wrong hash) or
    ``MissingExtraError`` (hub without huggingface_hub).
    """
    match = _SUFFIX.search(source)
    wanted = match["sha"].lower() if match else None
    name = source[: match.start()] if match else source
    if wanted is not None and len(wanted) != 64:
        raise CheckpointError(
            f"{source}: a sha256 has 64 hexadecimal digits, got {len(wanted)}. "
            "`sha256sum FILE` prints it."
        )
    if name not in SHIPPED and re.fullmatch(r"[\w-]+", name):  # imagenet, true: a word, no file
        raise CheckpointError(
            f"no weights called {name} come with this package, and none of ImageNet. It has "
            f"{', '.join(SHIPPED)}; of others give a .safetensors file or its place on the hub, as "
            "hub:timm/resnet50.tv_in1k/model.safetensors@main for ImageNet's ResNet-50 "
            "(docs/convert.md says how to get them)."
        )
    known = name in SHIPPED or name.endswith(".safetensors")
    if not known and not re.search(r"\.safetensors@[^@]+$", name):
        raise CheckpointError(
            f"{name}: weights are read from .safetensors files only, because reading a pickle "
            "(.pth, .pt, .bin) runs code from the file. Convert it once, where you trust it: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'NAME.safetensors'). "
            f"Weights that come with this package: {', '.join(SHIPPED)}."
        )
    if name in SHIPPED:
        path = Path(str(resources.files("crosscam") / "weights" / name / "weights.safetensors"))
    else:
        path = _download(name) if name.startswith("hub:") else Path(name).expanduser()
    if not path.is_file():
        raise CheckpointError(f"no weights file at {path}: give the path of a .safetensors file.")
    found = sha256(path)
    if wanted is None and name in SHIPPED:
        wanted = SHIPPED[name].sha256
    if wanted is not None and found != wanted:
        how = "Get it again, or correct the hash" if match else "Install the package again"
        raise CheckpointError(
            f"{name} has sha256 {found}, but {wanted} was asked for: it is another file, or was "
            f"damaged. {how}."
        )
    return Source(name, path, found)


def read(at: Source) -> dict[str, Tensor]:
    """The tensors of a fetched file by name, or a ``CheckpointError`` if it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(at.path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{at.name} cannot be read as safetensors ({error}). It may be cut off: get it again."
        ) from error


def load(net: nn.Module, source: str) -> Report:
    """Sets the whole state of ``net`` from ``source`` (see the module's docstring).

    The file must hold every tensor of the network in its shape; ``num_batches_tracked`` counters
    may be missing.  Of the rest only classifiers (``fc.``, ``classifier.``, ``head.``) are
    ignored.  In the weights of a whole method of this package the part under ``backbone.`` is
    used and everything else ignored; a leading ``module.`` is dropped.  Nothing is changed unless
    everything fits.  Memory: the file once, beside the network.

    Raises ``CheckpointError`` naming the tensors that are missing, unexpected, of the wrong shape
    or kind, or not finite.
    """
    at = fetch(source)
    given = {key.removeprefix("module."): value for key, value in read(at).items()}
    ignored = []
    if any(key.startswith("backbone.") for key in given):
        ignored = [key for key in given if not key.startswith("backbone.")]
        given = {
            key.removeprefix("backbone."): value
            for key, value in given.items()
            if key.startswith("backbone.")
        }
    state: dict[str, Tensor] = net.state_dict()
    ignored += [key for key in given if key not in state and key.startswith(CLASSIFIERS)]
    _require_fit(at.name, {k: v for k, v in given.items() if k not in ignored}, state)
    loaded = [key for key in state if key in given]
    with torch.no_grad():
        for key in loaded:
            state[key].copy_(given[key])
    return Report(at.name, at.sha256, tuple(loaded), tuple(sorted(ignored)))


def _require_fit(name: str, given: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    missing = [k for k in state if k not in given and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in given if k not in state]
    both = [k for k in state if k in given]
    shapes = [
        f"{k} is {list(given[k].shape)} and must be {list(state[k].shape)}"
        for k in both
        if given[k].shape != state[k].shape
    ]
    kinds = [k for k in both if given[k].is_floating_point() != state[k].is_floating_point()]
    broken = [k for k in both if not bool(torch.isfinite(given[k]).all())]
    faults = [
        f"{len(found)} {what}: {_some(found)}"
        for what, found in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of the wrong shape", shapes),
            ("integer where float is needed or the reverse", kinds),
            ("with values that are not finite", broken),
        )
        if found
    ]
    if faults:
        network = SHIPPED[name].network if name in SHIPPED else ()
        check = (
            f"They are of {' '.join(f'method.backbone.{said}' for said in network)}: take "
            f"that network, or other weights ({', '.join(o for o in SHIPPED if o != name)})."
            if name in SHIPPED
            else "Check that the file is of this network with the same options (ibn, width)."
        )
        raise CheckpointError(
            f"the weights in {name} do not fit the network. {'; '.join(faults)}. {check}"
        )


def _download(name: str) -> Path:
    match = _HUB.fullmatch(name.removeprefix("hub:"))
    if match is None:
        raise CheckpointError(
            f"{name}: write hub:OWNER/NAME/FILE.safetensors@REVISION. The revision (a commit, "
            "tag or branch) is required, so that a run can be repeated."
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingExtraError(
            "weights from the hub need huggingface_hub: pip install 'crosscam[hub]'; "
            "or download the file and give its path."
        ) from error
    try:
        return Path(hf_hub_download(match["repo"], match["file"], revision=match["revision"]))
    except (OSError, ValueError) as error:  # the hub's errors are OSErrors, bad names ValueErrors
        raise CheckpointError(
            f"{name} cannot be downloaded ({error}). Check name, revision and network, or "
            "download the file yourself and give its path."
        ) from error


def _some(items: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return ", ".join(items[:5]) + more
