"""The contract of a method, and how one is found.

A method is one file that reads like its paper.  It holds exactly one public subclass of
``Method``; its name is the file's name.  ``available()`` lists the files of this folder,
``find("mpn")`` imports one of them, and ``find("./mine.py")`` imports a file of your own, which
then trains, evaluates and searches like the rest.  ``find("mpn+texture")`` is MPN under a teacher
(``_teachers``).
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import pkgutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from crosscam.errors import RecipeError
from crosscam.nn import backbones
from crosscam.nn.msgr import GradientRegularizer
from crosscam.nn.stages import Backbone
from crosscam.types import Batch, Prior
from crosscam.wording import did_you_mean

__all__ = [
    "Adam",
    "BackboneSettings",
    "Method",
    "Update",
    "available",
    "find",
    "require_margin",
    "require_share",
    "unit",
]


@dataclass(frozen=True)
class BackboneSettings:
    """Which network a method stands on; every method has one as its keyword ``backbone``.

    Args:
        name: resnet18, resnet34, resnet50, resnet101, osnet_x1_0, ..., or timm:NAME.
        last_stride: stride of the last stage, 1 or 2 (OSNets: 1).
        ibn: instance normalization beside batch normalization in the early stages (IBN-a).
        width: factor on all channel counts.
        stem: standard; no-relu and ceil-pool are those of weights from reid-strong-baseline and
            fast-reid (ResNets).
        pretrained: weights that come with this package (people: resnet18 at width 0.75 with ibn;
            people-small: at width 0.5; people-plain: at width 0.5 without ibn), safetensors file
            (optionally path#sha256=HEX) or hub:REPO/FILE@REVISION; none trains from scratch.
    """

    name: str = "resnet50"
    last_stride: int = 1
    ibn: bool = False
    width: float = 1.0
    stem: Literal["standard", "no-relu", "ceil-pool"] = "standard"
    pretrained: str | None = None

    def build(self) -> backbones.Backbone:
        """The network, with its weights loaded."""
        none = self.pretrained is None or self.pretrained.lower() in ("", "none", "null")
        return backbones.build(
            self.name,
            last_stride=self.last_stride,
            ibn=self.ibn,
            width=self.width,
            stem=self.stem,
            pretrained=None if none else self.pretrained,
        )


@dataclass(frozen=True)
class Adam:
    """An Adam without decay, that a method keeps for some parameters of one of its updates.

    Args:
        parameters: what it moves, as ``nn.Module.parameters``.
        lr: its rate.
        betas: decay rates of its moments.
        scheduled: the rate follows the schedule of the recipe, with ``lr`` at the peak; else it
            is constant.
    """

    parameters: Callable[[], Iterable[nn.Parameter]]
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    scheduled: bool = False


@dataclass(frozen=True)
class Update:
    """One of the optimizer steps that a batch makes.

    Args:
        losses: what it minimizes, as ``Method.losses``; names differ between updates.
        parameters: everything it moves, as ``nn.Module.parameters``; the rest stays as it is.
        adams: who moves some of them; the others are moved by the optimizer of the recipe.
    """

    losses: Callable[[Batch], dict[str, Tensor]]
    parameters: Callable[[], Iterable[nn.Parameter]]
    adams: tuple[Adam, ...] = ()


class Method(nn.Module, ABC):
    """A way to learn features that tell people apart.

    The constructor takes ``num_classes`` (training identities) first and everything else as
    keywords whose defaults are the paper's values.  It ends with ``**regularizer: Any``, which
    it hands to this class: the keywords below, for every method.  Two functions are all the rest
    of the package calls: ``embed`` for use and ``losses`` for learning.  Neither looks at
    ``self.training``; batch normalization is the only layer that does.

    Args:
        msgr: weight lambda of the multi-scale gradient regularizer (its paper: 0.01); 0 is off.
        msgr_stages: where it acts: 0 the input, 1 to 4 the stages of the backbone.
        msgr_norm: norm q of the gradients: 1, 2 or inf.
        msgr_square: penalize the squared norm.
        msgr_scale: take the gradient of each picture's own loss ("sample"), or of the mean over
            the batch ("batch").
        msgr_relative: measure perturbations by the maps they move, so that larger maps do not
            lower the penalty (ours).
        msgr_adversarial: instead of the penalty, learn from stage maps that are moved by the
            worst perturbation of length msgr.
    """

    paper: ClassVar[str]
    """Title, venue and identifier of the paper."""

    needs: frozenset[Prior] = frozenset()
    """The priors ``losses`` reads from a batch.  ``embed`` never sees one.

    A constructor may narrow what its class says, where an option does without.
    """

    parts: tuple[str, ...] = ()
    """What the channels of ``Prior.MASKS`` show, in order, if ``losses`` reads masks."""

    takes_pairs: bool = False
    """Whether it learns from the rendered pictures that ``data.pairs`` sends along.

    A constructor may narrow this too.
    """

    recipe: ClassVar[Mapping[str, Any]] = {}
    """Training settings of the paper, by dotted recipe key; a recipe file starts from them."""

    dim: int
    """Length D of the vector that ``embed`` returns."""

    slices: Mapping[str, slice] = {}
    """Which entries of that vector describe which body part, top to bottom; empty if none do."""

    figures: Mapping[str, Tensor]
    """What else the last batch gave the log: scalars that are not losses."""

    def __init__(
        self,
        *,
        msgr: float = 0.0,
        msgr_stages: tuple[int, ...] = (1, 2),
        msgr_norm: Literal[1, 2, "inf"] = 2,
        msgr_square: bool = False,
        msgr_scale: Literal["sample", "batch"] = "sample",
        msgr_relative: bool = False,
        msgr_adversarial: bool = False,
    ) -> None:
        super().__init__()
        self.figures = {}
        self.regularizer = (
            GradientRegularizer(
                msgr,
                msgr_stages,
                msgr_norm,
                square=msgr_square,
                scale=msgr_scale,
                relative=msgr_relative,
                adversarial=msgr_adversarial,
            )
            if msgr
            else None
        )

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] (float32, RGB, normalized) to unit vectors [B, D] float32.

        In evaluation mode a row does not depend on the other rows of its batch.
        """

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named, already weighted scalars in float32; their sum is what training minimizes."""

    def updates(self) -> tuple[Update, ...]:
        """The optimizer steps that a batch makes, in order; one, of everything, by default."""
        return (Update(self.losses, self.parameters),)

    def forward(self, batch: Batch, update: int = 0) -> dict[str, Tensor]:
        """The losses of one update, the first of them regularized: what training calls."""
        losses = self.updates()[update].losses
        if update or self.regularizer is None:
            return losses(batch)
        backbone = getattr(self, "backbone", None)
        terms, self.figures = self.regularizer(losses, batch, backbone, self)
        return terms

    def stage_maps(self, images: Tensor) -> dict[str, Tensor]:
        """The maps [B, C, h, w] that ``embed`` makes of pictures [B, 3, H, W] on its way, by name.

        Shallow to deep; by default those of the backbone's stages.
        """
        backbone = getattr(self, "backbone", None)
        if not isinstance(backbone, Backbone):
            return {}
        return {f"stage {number}": x for number, x in enumerate(backbone.stages(images), 1)}

    def maps(self, images: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """What there is to see of how pictures [B, 3, H, W] are read, besides ``stage_maps``.

        By name, maps [B, h, w] of 0 and more that are laid over the pictures, or pictures
        [B, 3, h, w] in [0, 1].  Called in evaluation mode, without gradients.
        """
        return {}

    def schedule(self, progress: float) -> None:
        """Told before every step how much of training is done, in [0, 1).

        For losses that join late.  It must depend on ``progress`` alone, so that a resumed run
        is the same run, and set plain numbers: ``engine.graphs`` sees those change and nothing
        else (no tensors, no objects of one's own, nor what a loss draws on the host).
        """


def available() -> list[str]:
    """Names of the methods in this package, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def find(name: str) -> type[Method]:
    """The method called ``name``, or the one in the file ``name`` if that ends in ``.py``.

    With ``+guidance`` or ``+texture`` behind it, under that teacher.

    Raises ``RecipeError`` for an unknown name (with the nearest known one) or for a file that
    does not hold exactly one public ``Method``.
    """
    base, *teachers = name.split("+")
    if name.endswith(".py"):
        module = _import_file(Path(name))
    elif teachers:
        from crosscam.methods import _teachers

        return _teachers.compose(find(base), teachers)
    elif name in available():
        module = importlib.import_module(f"{__name__}.{name}")
    else:
        raise RecipeError(
            f"unknown method '{name}'.{did_you_mean(name, available())} Known: "
            f"{', '.join(available())}; or give the path of a .py file with a method of your own."
        )
    found = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
        and not key.startswith("_")
    ]
    if len(found) != 1:
        names = ", ".join(c.__name__ for c in found) or "none"
        raise RecipeError(
            f"{module.__file__} must hold exactly one public subclass of crosscam.methods.Method, "
            f"found: {names}."
        )
    return found[0]


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise RecipeError(f"no method file at {path}: give the path of an existing .py file.")
    module_name = f"crosscam_method_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    loader = spec.loader if spec else None
    if spec is None or loader is None:
        raise RecipeError(f"{path} cannot be imported as a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        loader.exec_module(module)
    except Exception as error:  # whatever a file of the user's does
        raise RecipeError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def require_share(**settings: float) -> None:
    """Refuse settings of a method, by name, that are not in [0, 1): ``RecipeError``."""
    for name, value in settings.items():
        if not 0.0 <= value < 1.0:
            raise RecipeError(f"method.{name} must be in [0, 1), got {value}.")


def require_margin(**settings: float | str) -> None:
    """Refuse margins of a method, by name, that are no finite number of 0 or more."""
    for name, value in settings.items():
        if not isinstance(value, str) and not 0 <= value < math.inf:
            raise RecipeError(f"method.{name} must be a number of 0 or more, got {value}.")


def unit(features: Tensor) -> Tensor:
    """Rows of [B, D] scaled to length one, in float32 (what ``embed`` returns)."""
    return torch.nn.functional.normalize(features.float(), dim=1)
