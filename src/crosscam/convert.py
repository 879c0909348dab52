"""Weights of other toolkits as a run of this one.

    torchreid              OSNets (with and without IBN), ResNets with or without ``fc``
    fast-reid              ResNets with or without IBN, average or GeM pooling, BNNeck
    reid-strong-baseline   ResNet-50, with or without BNNeck

The network is rebuilt as it was *there*, which is not always what the names suggest:
reid-strong-baseline has no ReLU behind its first normalization, and fast-reid pools its stem
without padding since version 1.0.  Files are read without running code from them: safetensors,
or a PyTorch file that holds nothing but tensors and plain values.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from crosscam.errors import CheckpointError, InputError
from crosscam.files import sha256
from crosscam.methods import Method
from crosscam.nn.resnet import DEPTHS
from crosscam.recipe import Recipe, parse
from crosscam.training.record import require_new_folder, run_card, write_run

__all__ = ["Converted", "Toolkit", "convert"]

Toolkit = Literal["torchreid", "fast-reid", "strong-baseline"]

State = dict[str, Tensor]


@dataclass(frozen=True)
class Converted:
    """The run that came out, and what of the file was not used."""

    run: Path
    toolkit: Toolkit
    settings: tuple[str, ...]  # of the recipe, as key=value
    unused: tuple[str, ...]  # names of the file that a deployed encoder does not need

    def text(self) -> str:
        """Lines for a terminal."""
        unused = ", ".join(self.unused) or "nothing"
        return "\n".join(
            [
                f"{self.toolkit} weights, now the run {self.run}",
                *(f"  {setting}" for setting in self.settings),
                f"left out (used in training only): {unused}",
            ]
        )


@dataclass
class _Plan:
    """How a foreign state becomes one of ours."""

    settings: list[str]
    state: State = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    classes: int = 1


def convert(
    file: Path,
    out: Path,
    *,
    toolkit: Toolkit | Literal["auto"] = "auto",
    last_stride: int | None = None,
    stem: Literal["standard", "no-relu", "ceil-pool"] | None = None,
    size: tuple[int, int] = (256, 128),
    trained_on: str = "unknown",
    terms: str = "unknown",
    license: str = "unknown",
) -> Converted:
    """Makes the run folder ``out`` from the weights in ``file``.

    Args:
        file: ``.safetensors``, or a PyTorch file of tensors (``.pth``, ``.pt``, ``.pth.tar``).
        out: folder to create.
        toolkit: where the weights come from; "auto" tells by the names.
        last_stride: stride of the last stage (ResNets), which weights do not tell.  Default 1,
            but 2 for torchreid's ResNets without ``fc``, as there.
        stem: see ``nn.resnet``.  Default what the toolkit has.
        size: height and width that the network was trained with.
        trained_on: the data, in words; goes into the card.
        terms: what its owners allow.
        license: license of the weights.

    Raises:
        CheckpointError: a file that cannot be read without running code from it, that is none of
            these networks, or that misses some of its weights.
        InputError: ``out`` is not empty.
    """
    require_new_folder(out)
    state = _read(file)
    found = _toolkit_of(state, file) if toolkit == "auto" else toolkit
    if found not in get_args(Toolkit):
        raise InputError(
            f"unknown toolkit {found!r}; choose one of: auto, {', '.join(get_args(Toolkit))}."
        )
    plan = _PLANS[found](state, file)
    recipe = _recipe(plan, last_stride, stem, size)
    method = recipe.method.build(plan.classes)
    _load(method, plan, file)
    learned = {
        "name": "foreign",
        "variant": "",
        "title": trained_on,
        "terms": terms,
        "images": 0,
        "identities": plan.classes,
        "cameras": 0,
    }
    card = {
        **run_card(recipe, method, plan.classes, learned),
        "license": license,
        "converted_from": {"toolkit": found, "file": file.name, "sha256": sha256(file)},
    }
    write_run(out, recipe, card, method.state_dict())
    return Converted(out, found, tuple(plan.settings), tuple(sorted(plan.unused)))


# --- reading ----------------------------------------------------------------------------------


def _read(file: Path) -> State:
    if not file.is_file():
        raise CheckpointError(f"no weights at {file}: give the path of a file.")
    if file.suffix == ".onnx":
        raise CheckpointError(
            f"{file} is a network in ONNX, not weights: make an encoder of it with crosscam wrap."
        )
    if file.suffix == ".safetensors":
        try:
            return _unwrapped(load_file(file), file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} cannot be read as safetensors ({error}). Get it again."
            ) from error
    try:
        with torch.serialization.safe_globals(_numbers()):
            tree = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))  # the rest advises to switch it off
        raise CheckpointError(
            f"{file} holds more than tensors and plain values (a whole model object, perhaps), "
            "and reading that runs code from the file. Where you trust it, in the toolkit it "
            "comes from: torch.save(model.state_dict(), 'weights.pth'), and convert that."
            + (f" (It asks for {asked[1]}.)" if asked else "")
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{file} is not a readable PyTorch file ({type(error).__name__}: {error}). "
            "Get it again."
        ) from error
    return _unwrapped(tree, file)


def _numbers() -> list[Any]:
    """What a NumPy number is read by, which runs nothing of the file: torchreid keeps rank-1 so.

    Under the names of NumPy 1 and 2, whichever wrote the file.
    """
    scalar = np.float64(0).__reduce__()[0]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    kinds = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    return [np.dtype, *sorted(kinds, key=str), *((scalar, name) for name in names)]


def _unwrapped(tree: Any, file: Path) -> State:
    """The tensors of a checkpoint, whatever it is wrapped in; ``module.`` is dropped."""
    for key in ("state_dict", "model", "net"):
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
    if not isinstance(tree, Mapping):
        raise CheckpointError(
            f"{file} holds a {type(tree).__name__}, and a mapping of names to tensors is needed."
        )
    state = {str(k).removeprefix("module."): v for k, v in tree.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{file} holds no tensors.")
    return state


def _toolkit_of(state: State, file: Path) -> Toolkit:
    if "backbone.conv1.weight" in state and any(k.startswith("heads.") for k in state):
        return "fast-reid"
    if "base.conv1.weight" in state:
        return "strong-baseline"
    if "conv1.conv.weight" in state or (
        "conv1.weight" in state and "layer1.0.conv1.weight" in state
    ):
        return "torchreid"
    some = ", ".join(sorted(state)[:5])
    raise CheckpointError(
        f"{file} has the names of no toolkit that is known here ({some}, ...). Known are "
        f"{', '.join(get_args(Toolkit))}. An ONNX file of any network can be wrapped instead."
    )


# --- what there becomes what here ---------------------------------------------------------------


def _torchreid(state: State, file: Path) -> _Plan:
    osnet = "conv1.conv.weight" in state
    plan = _Plan(["method=baseline", "method.bnneck=false", "method.pool=avg"])
    for name, value in state.items():
        if name.startswith("classifier."):
            plan.unused.append(name)
            plan.classes = len(value)
        elif name.startswith("fc."):
            plan.state[name.replace("fc.", "embedding.", 1)] = value
        else:
            plan.state[f"backbone.{name}"] = value
    if any(re.match(r"fc\.[3-9]", name) for name in state):
        raise CheckpointError(f"{file} has more than one layer behind the pooling.")
    width = len(state["fc.0.weight"]) if "fc.0.weight" in state else 0
    plan.settings.append(f"method.embedding={width}")
    if osnet:
        first = len(state["conv1.conv.weight"])
        names = {64: "osnet_x1_0", 48: "osnet_x0_75", 32: "osnet_x0_5", 16: "osnet_x0_25"}
        if first not in names:
            raise CheckpointError(f"{file}: no OSNet begins with {first} channels.")
        ibn = "conv1.bn.running_mean" not in state
        plan.settings += [f"method.backbone.name={names[first]}"]
        plan.settings += [f"method.backbone.ibn={str(ibn).lower()}"]
        plan.settings += ["method.backbone.last_stride=1"]
    else:
        plan.settings += _resnet_of(state, file)
        plan.settings.append(f"method.backbone.last_stride={1 if width else 2}")
    return plan


def _fast_reid(state: State, file: Path) -> _Plan:
    plan = _Plan(["method=baseline", "method.backbone.stem=ceil-pool"])
    backbone = {
        name.removeprefix("backbone."): value
        for name, value in state.items()
        if name.startswith("backbone.")
    }
    for kind, title in (("NL_", "non-local blocks"), (".se.", "squeeze and excitation")):
        if any(kind in name for name in backbone):
            raise CheckpointError(f"{file} has {title}, which the networks here do not have.")
    plan.settings += [*_resnet_of(backbone, file), "method.backbone.last_stride=1"]
    plan.state = {f"backbone.{name}": value for name, value in backbone.items()}
    neck = False
    pool = "avg"
    for name, value in state.items():
        if name.startswith("backbone."):
            continue
        if name in ("heads.pool_layer.p", "heads.pool_layer.0.p"):
            pool = "gem"
            plan.state["pool.p"] = value.reshape(())
        elif match := re.fullmatch(r"heads\.(?:bottleneck\.0|bnneck)\.(\w+)", name):
            neck = True
            if value.ndim > 1:
                raise CheckpointError(f"{file} reduces the feature before its BNNeck.")
            plan.state[f"neck.{match[1]}"] = value
        elif name in ("pixel_mean", "pixel_std"):
            numbers = [round(float(v) / 255, 6) for v in value.flatten()]
            key = "mean" if name == "pixel_mean" else "std"
            plan.settings.append(f"preprocess.{key}={numbers}")
        else:
            plan.unused.append(name)
            if name in ("heads.weight", "heads.classifier.weight"):
                plan.classes = len(value)
    plan.settings += [f"method.pool={pool}", f"method.bnneck={str(neck).lower()}"]
    plan.settings.append("preprocess.interpolation=bicubic")
    return plan


def _strong_baseline(state: State, file: Path) -> _Plan:
    plan = _Plan(["method=baseline", "method.pool=avg", "method.backbone.stem=no-relu"])
    backbone = {n.removeprefix("base."): v for n, v in state.items() if n.startswith("base.")}
    plan.settings += [*_resnet_of(backbone, file), "method.backbone.last_stride=1"]
    plan.state = {f"backbone.{name}": value for name, value in backbone.items()}
    neck = False
    for name, value in state.items():
        if name.startswith("bottleneck."):
            neck = True
            plan.state[name.replace("bottleneck.", "neck.", 1)] = value
        elif name.startswith("classifier."):
            plan.unused.append(name)
            plan.classes = len(value)
        elif not name.startswith("base."):
            plan.unused.append(name)
    plan.settings.append(f"method.bnneck={str(neck).lower()}")
    return plan


_PLANS = {
    "torchreid": _torchreid,
    "fast-reid": _fast_reid,
    "strong-baseline": _strong_baseline,
}


def _resnet_of(state: State, file: Path) -> list[str]:
    """Settings of the ResNet whose state this is."""
    blocks = tuple(
        1 + max((int(m[1]) for n in state if (m := re.match(rf"layer{i}\.(\d+)\.", n))), default=-1)
        for i in (1, 2, 3, 4)
    )
    bottleneck = "layer1.0.conv3.weight" in state
    for name, (block, depths) in DEPTHS.items():
        if depths == blocks and (block.expansion == 4) == bottleneck:
            ibn = "layer1.0.bn1.IN.weight" in state
            return [f"method.backbone.name={name}", f"method.backbone.ibn={str(ibn).lower()}"]
    raise CheckpointError(
        f"{file} has {blocks} blocks per stage, and none of {', '.join(DEPTHS)} does."
    )


def _recipe(
    plan: _Plan,
    last_stride: int | None,
    stem: str | None,
    size: tuple[int, int],
) -> Recipe:
    resnet = not any("name=osnet" in setting for setting in plan.settings)
    for key, value in (("last_stride", last_stride), ("stem", stem)):
        if value is None:
            continue
        if not resnet:
            raise InputError(f"OSNets have no option {key}: leave it out.")
        plan.settings = [s for s in plan.settings if not s.startswith(f"method.backbone.{key}=")]
        plan.settings.append(f"method.backbone.{key}={value}")
    plan.settings += ["method.center=0", f"preprocess.size=[{size[0]},{size[1]}]"]
    return parse(None, plan.settings)


def _load(method: Method, plan: _Plan, file: Path) -> None:
    own: State = method.state_dict()
    trained = ("classifier.",)
    missing = [
        name
        for name in own
        if name not in plan.state
        and not name.startswith(trained)
        and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in plan.state if name not in own]
    shapes = [
        f"{name} is {list(value.shape)} and must be {list(own[name].shape)}"
        for name, value in plan.state.items()
        if name in own and own[name].shape != value.shape
    ]
    broken = [n for n, v in plan.state.items() if not bool(torch.isfinite(v).all())]
    faults = [
        f"{len(names)} {what} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        for what, names in (
            ("missing", missing),
            ("unknown", unexpected),
            ("of another shape", shapes),
            ("with values that are not finite", broken),
        )
        if names
    ]
    if faults:
        raise CheckpointError(
            f"the weights in {file} do not fit the network that their names suggest: "
            f"{'; '.join(faults)}."
        )
    with torch.no_grad():
        for name, value in plan.state.items():
            own[name].copy_(value)
        for name, value in own.items():
            if name.startswith(trained):  # no encoder reads it
                value.zero_()
