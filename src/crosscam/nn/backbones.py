"""The networks methods stand on, behind one interface of four stage maps.

    net = build("resnet50", last_stride=1)
    c1, c2, c3, c4 = net.stages(images)      # strides net.strides, channels net.channels
    x = net.stage1(net.stem(images))         # or step by step, to change a map on its way
    branch = copy.deepcopy(net.stage4)       # or copy a stage

The stage maps are nodes of the graph that leads to the last map, so a loss can be differentiated
with respect to them, twice if need be.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from crosscam.errors import CheckpointError, InputError, MissingExtraError, RecipeError
from crosscam.nn import osnet, resnet
from crosscam.nn import pretrained as weights
from crosscam.nn.stages import Backbone
from crosscam.wording import counted, did_you_mean, either

__all__ = ["Backbone", "available", "build"]


def available() -> list[str]:
    """Names that ``build`` knows; besides them it takes ``timm:NAME``."""
    return [*resnet.DEPTHS, *osnet.WIDTHS]


def build(
    name: str,
    *,
    last_stride: int = 1,
    ibn: bool = False,
    width: float = 1.0,
    stem: resnet.Stem = "standard",
    pretrained: str | None = None,
    embedding: bool = False,
) -> Backbone:
    """The backbone called ``name``.

    Args:
        name: one of ``available()``, or ``timm:NAME`` (extra ``timm``).
        last_stride: 1 or 2, the stride of the last stage of networks that end at stride 32.  1
            makes the last map twice as large, which person re-identification gains from.
        ibn: instance normalization beside batch normalization in the early stages: IBN-a for
            ResNets, OSNet-IBN for OSNets.
        width: factor on all channel counts (rounded to multiples of 8, at least 8).
        stem: "standard", or the stem that weights of another toolkit were trained with (ResNets).
        pretrained: None (from scratch) or a source as ``nn.pretrained`` reads it.
        embedding: also build the network's own 512-d embedding layers as ``.fc`` (OSNets only),
            which published weights contain.  ``forward`` does not use them.

    Raises:
        RecipeError: unknown name, or an option this network does not have.
        MissingExtraError: ``timm:`` without timm.
        CheckpointError: weights that cannot be read or do not fit.
    """
    if last_stride not in (1, 2):
        raise RecipeError(f"last_stride must be 1 or 2, got {last_stride}.")
    if not 0.0 < width <= 8.0:
        raise RecipeError(f"width must be in (0, 8], got {width}.")
    if name.startswith("timm:"):
        refused = {
            "ibn": ibn,
            "width": width != 1.0,
            "stem": stem != "standard",
            "embedding": embedding,
        }
        for option in (key for key, value in refused.items() if value):
            raise RecipeError(f"{name} has no option '{option}': leave it at its default.")
        return TimmBackbone(name.removeprefix("timm:"), last_stride, pretrained)
    net: Backbone
    if name in resnet.DEPTHS:
        if embedding:
            raise RecipeError(f"{name} has no embedding layers of its own: leave embedding=False.")
        net = resnet.ResNet(name, last_stride=last_stride, ibn=ibn, width=width, stem=stem)
    elif name in osnet.WIDTHS:
        if last_stride != 1:
            raise RecipeError(f"{name} ends at stride 16 by design: leave last_stride=1.")
        if stem != "standard":
            raise RecipeError(f"{name} has one stem: leave stem=standard.")
        net = osnet.OSNet(name, ibn=ibn, width=width, embedding=embedding)
    else:
        known = available()
        raise RecipeError(
            f"unknown backbone '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}, "
            "timm:NAME."
        )
    if pretrained is not None:
        net.report = weights.load(net, pretrained)
    return net


class TimmBackbone(Backbone):
    """The last four feature maps of a network of the timm library (extra ``timm``).

    Only ``stages`` works: where a stem ends and a stage begins is not part of timm's interface.
    ``last_stride=1`` asks timm for an output stride of 16, which it reaches by dilating the last
    stage; networks that cannot are refused.
    """

    def __init__(self, name: str, last_stride: int, pretrained: str | None) -> None:
        super().__init__()
        self.name = name
        timm = _import_timm()
        if not timm.is_model(name):
            hint = did_you_mean(name, timm.list_models(), "timm:")
            raise RecipeError(f"timm {timm.__version__} has no network '{name}'.{hint}")
        options: dict[str, Any] = {"features_only": True}
        net = _create(timm, name, options)
        levels = len(net.feature_info.channels())
        if levels < 4:
            raise RecipeError(
                f"timm:{name} has {counted(levels, 'feature map')}, and four are needed. Take a "
                "network with four or more."
            )
        if levels > 4:
            options["out_indices"] = tuple(range(levels - 4, levels))
        if last_stride == 1 and net.feature_info.reduction()[-1] > 16:
            options["output_stride"] = 16
        try:
            net = _create(timm, name, options)
        except RecipeError as error:
            raise RecipeError(
                f"timm:{name} cannot end at stride 16 (last_stride=1): use last_stride=2."
            ) from error
        if pretrained is not None:
            source = weights.fetch(pretrained)
            overlay = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(source.path)}}
            try:
                net = _create(timm, name, options | overlay)
            except RecipeError as error:
                raise CheckpointError(
                    f"the weights in {source.name} do not fit the network: {error}"
                ) from error
            self.report = _verify(net, source)
        self.net = net
        self.channels = tuple(net.feature_info.channels())
        self.strides = tuple(net.feature_info.reduction())

    def stem(self, images: Tensor) -> Tensor:  # noqa: ARG002
        raise self._no_steps()

    def stage(self, number: int) -> nn.Module:  # noqa: ARG002
        raise self._no_steps()

    def _no_steps(self) -> InputError:
        return InputError(
            f"timm:{self.name} gives its stage maps (stages) but not the steps between them. "
            f"For this method use one of: {', '.join(available())}."
        )

    def stages(self, images: Tensor) -> list[Tensor]:
        h, w = images.shape[-2:]
        maps = []
        for x, stride in zip(self.net(images), self.strides, strict=True):
            cells = (-(-h // stride), -(-w // stride))
            # Some transformers give channels last as shape, [B, h, w, C].
            last = x.shape[2:] != cells and x.shape[1:3] == cells
            maps.append(x.permute(0, 3, 1, 2) if last else x)
        return maps


def _create(timm: ModuleType, name: str, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, **options)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError, OSError) as error:
        raise RecipeError(f"timm cannot build '{name}' with {options}: {error}") from error


def _verify(net: nn.Module, source: weights.Source) -> weights.Report:
    """What timm took from the file; it passes over tensors that it does not find there."""
    # timm renames "stages.0" to "stages_0" when it cuts a network into stages.
    given = {key.replace(".", "_"): (key, value) for key, value in weights.read(source).items()}
    loaded, used, absent = [], set(), []
    for name, own in net.state_dict().items():
        key, value = given.get(name.removeprefix("model.").replace(".", "_"), (None, None))
        if value is not None and value.shape == own.shape and torch.equal(value.to(own), own):
            loaded.append(name)
            used.add(key)
        elif not name.endswith("num_batches_tracked"):
            absent.append(name)
    if absent:
        raise CheckpointError(
            f"the weights in {source.name} do not fit the network: {len(absent)} of "
            f"{counted(len(absent) + len(loaded), 'tensor')} {either(len(absent), 'was', 'were')} "
            f"not set, the first is {absent[0]}. Check that the file is of this network."
        )
    ignored = sorted(key for key, _ in given.values() if key not in used)
    return weights.Report(source.name, source.sha256, tuple(loaded), tuple(ignored))


def _import_timm() -> ModuleType:
    try:
        _repair_torchvision()
        import timm
    except ImportError as error:
        raise MissingExtraError(
            "a timm: backbone needs timm and the torchvision that fits your torch: "
            "pip install 'crosscam[timm]'."
        ) from error
    module: ModuleType = timm
    return module


def _repair_torchvision() -> None:
    """Lets torchvision be imported where its compiled operators do not fit this torch.

    A torchvision built for CUDA fails on a CPU-only torch while it registers shape rules for
    operators that are missing.  Declaring two of them is enough; timm's networks use neither.
    """
    try:
        import torchvision  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)


_LIBRARIES: list[Any] = []  # a library's operators end with its object
