"""A recipe: every setting of a training run, in one frozen tree.

Settings are read in this order, the later winning: the defaults below, the method's own
``recipe`` (its paper's values), a YAML file, ``key=value`` overrides.  Keys are dotted
(``optimizer.lr=1e-3``, ``method.backbone.name=osnet_x0_25``).  An unknown key or a value of the
wrong type is a ``RecipeError`` that names the nearest right one.  Parsing and type checks are
jsonargparse's; the settings of a method are the keywords of its constructor.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.resources
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import torch
import yaml

from crosscam.data import datasets
from crosscam.data.augment import Augment
from crosscam.errors import CrosscamError, InputError, RecipeError
from crosscam.image import Preprocess
from crosscam.methods import BackboneSettings, Method, find
from crosscam.types import Dataset, Prior
from crosscam.wording import did_you_mean

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

__all__ = ["Recipe", "as_setting", "parse", "shipped"]


@dataclass(frozen=True)
class DataSettings:
    """Which data set, and where it is.

    Relative paths are kept as absolute ones, so that a run can be used from anywhere.

    Args:
        name: a name that `crosscam data list` prints; "csv" and "folder" are your own images.
        root: folder of the data set, or the CSV file.
        partial: accept a subset of a benchmark (counts are not checked).
        options: options of that data set's parser, such as {split: 3}.
        budget_gb: decoded images beyond this many gigabytes go to a memory-mapped cache on disk.
        cache: folder of that cache; empty means a folder "cache" inside the run.
        pairs: rendered set (crosscam synth --pairs) of which half a batch of pictures with exact
            textures comes along with every batch; for methods that learn from such.
    """

    name: str = "market1501"
    root: str = ""
    partial: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    budget_gb: float = 4.0
    cache: str = ""
    pairs: str = ""

    def __post_init__(self) -> None:
        for key in ("root", "cache", "pairs"):
            value = getattr(self, key)
            if value:
                object.__setattr__(self, key, str(Path(value).expanduser().absolute()))
        _require("data.budget_gb", self.budget_gb, self.budget_gb >= 0, "0 or more")

    def load(self, root: str = "") -> Dataset:
        """The data set, read from ``root`` where it lies elsewhere now; see ``datasets.load``."""
        return datasets.load(self.name, root or self.root, partial=self.partial, **self.options)


@dataclass(frozen=True)
class PriorSettings:
    """Where the masks, keypoints, surfaces or textures of a method that needs some are.

    Args:
        root: folder that `crosscam prior` wrote for this data set; rendered people need none.
        masks: producer of the masks, where the folder has those of several.
        keypoints: producer of the keypoints, likewise.
        surface: producer of the places on the body, likewise.
        texture: producer of the textures, likewise.
    """

    root: str = ""
    masks: str = ""
    keypoints: str = ""
    surface: str = ""
    texture: str = ""

    def __post_init__(self) -> None:
        if self.root:
            object.__setattr__(self, "root", str(Path(self.root).expanduser().absolute()))

    @property
    def producers(self) -> dict[Prior, str]:
        """The producers that were named, by kind."""
        return {kind: getattr(self, kind.value) for kind in Prior}


@dataclass(frozen=True)
class SamplerSettings:
    """What a batch is made of.

    Args:
        kind: "grouped" (torchreid), "balanced" (MPN), "identity-once" (MGN) or "leading" (MSFL)
            draw P x K batches, "shuffle" draws single images.
        people: identities per batch, P.
        images: images per identity, K; the batch has P * K.
    """

    kind: Literal["grouped", "balanced", "identity-once", "leading", "shuffle"] = "grouped"
    people: int = 16
    images: int = 4


@dataclass(frozen=True)
class OptimizerSettings:
    """How weights move.

    Args:
        name: sgd, adam, amsgrad or adamw (decoupled decay).
        lr: learning rate at its peak, per step.
        weight_decay: L2 penalty (adamw: decoupled), per step.
        decay_all: decay normalization weights and biases too.
        momentum: momentum of sgd, in [0, 1).
        nesterov: Nesterov momentum of sgd.
        betas: decay rates of the moments of adam, amsgrad and adamw.
        backbone_lr: factor on the learning rate of the backbone (1 = as the rest).
        clip: largest allowed norm of the whole gradient; 0 does not clip.
    """

    name: Literal["sgd", "adam", "amsgrad", "adamw"] = "adam"
    lr: float = 3.5e-4
    weight_decay: float = 5e-4
    decay_all: bool = True
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    backbone_lr: float = 1.0
    clip: float = 0.0

    def __post_init__(self) -> None:
        _require("optimizer.lr", self.lr, self.lr > 0, "above 0")
        _require("optimizer.weight_decay", self.weight_decay, self.weight_decay >= 0, "0 or more")
        _require("optimizer.momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        _require("optimizer.betas", self.betas, all(0 <= b < 1 for b in self.betas), "in [0, 1)")
        _require("optimizer.backbone_lr", self.backbone_lr, self.backbone_lr >= 0, "0 or more")
        _require("optimizer.clip", self.clip, self.clip >= 0, "0 or more")


@dataclass(frozen=True)
class ScheduleSettings:
    """How long training is and how the learning rate goes.

    Args:
        epochs: passes over the data, as the sampler counts them.
        kind: "step" (times gamma at each milestone), "cosine" (to floor) or "constant".
        every: whether the rate changes with each "step" or each "epoch".
        warmup: "linear" or "exponential" rise from warmup_start, or "none".
        warmup_epochs: length of the rise, in epochs.
        warmup_start: factor on the learning rate at the start of the rise, in (0, 1].
        milestones: epochs at which "step" multiplies by gamma.
        gamma: that factor.
        floor: factor on the learning rate that "cosine" ends at.
        frozen_epochs: epochs at the start in which the backbone rests, its running statistics
            included, and only what stands on it learns: a trained backbone waits until heads that
            start from nothing know something.
    """

    epochs: int = 120
    kind: Literal["step", "cosine", "constant"] = "step"
    every: Literal["step", "epoch"] = "epoch"
    warmup: Literal["none", "linear", "exponential"] = "linear"
    warmup_epochs: float = 10.0
    warmup_start: float = 0.01
    milestones: tuple[int, ...] = (40, 70)
    gamma: float = 0.1
    floor: float = 0.0
    frozen_epochs: int = 0

    def __post_init__(self) -> None:
        _require("schedule.epochs", self.epochs, self.epochs >= 1, "1 or more")
        _require("schedule.frozen_epochs", self.frozen_epochs, self.frozen_epochs >= 0, "0 or more")
        _require("schedule.warmup_epochs", self.warmup_epochs, self.warmup_epochs >= 0, "0 or more")
        _require(
            "schedule.warmup_start", self.warmup_start, 0 < self.warmup_start <= 1, "in (0, 1]"
        )
        _require("schedule.gamma", self.gamma, self.gamma > 0, "above 0")
        _require("schedule.floor", self.floor, 0 <= self.floor <= 1, "in [0, 1]")


@dataclass(frozen=True)
class EngineSettings:
    """How training runs; nothing here is part of a method.

    Args:
        precision: "bf16" (autocast), "fp32", or "auto": bf16 where the hardware computes it.
        channels_last: keep maps in NHWC memory order.
        compile: torch.compile the training step (needs a C++ compiler on CPU) and, on a GPU, the
            making of batches.
        graphs: on a GPU, send forward and backward passes once, as a CUDA graph, and play it again
            (for small batches, which wait for the host; one process).  Losses that read labels on
            the host (SAN's constraint) are computed as ever.
        ema: decay per step of an exponential moving average of the weights, which is then what
            is evaluated and exported; 0 keeps none.
        sync_batchnorm: batch statistics over all processes of a distributed run.
        threads: CPU threads; 0 leaves PyTorch's choice.
        checkpoint_minutes: minutes between checkpoints (one is also written at the end).
        evaluate_every: epochs between evaluations in training, which metrics.jsonl keeps; the last
            epoch has one too. 0 leaves it all to crosscam evaluate.
        log_every: steps between lines of metrics.jsonl; the last step has one too.
        tensorboard: also write TensorBoard events (extra crosscam[tensorboard]).
    """

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    channels_last: bool = True
    compile: bool = False
    graphs: bool = False
    ema: float = 0.0
    sync_batchnorm: bool = False
    threads: int = 0
    checkpoint_minutes: float = 5.0
    evaluate_every: int = 0
    log_every: int = 20
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _require("engine.ema", self.ema, 0 <= self.ema < 1, "in [0, 1)")
        _require("engine.threads", self.threads, self.threads >= 0, "0 or more")
        _require("engine.log_every", self.log_every, self.log_every >= 1, "1 or more")
        _require(
            "engine.evaluate_every", self.evaluate_every, self.evaluate_every >= 0, "0 or more"
        )
        minutes = self.checkpoint_minutes
        _require("engine.checkpoint_minutes", minutes, minutes >= 0, "0 or more")


@dataclass(frozen=True)
class TestSettings:
    """How the trained model is measured.

    Args:
        flip: add the unit vector of the mirrored picture, and bring the sum to length one.
        interpolation: of the resize at test, if it differs from training.
        ap: the AP rule that is called mAP; both are always reported by name.
        metric: distance between features.
    """

    flip: bool = False
    interpolation: Literal["same", "bilinear", "bicubic"] = "same"
    ap: Literal["rank-precision", "trapezoid"] = "rank-precision"
    metric: Literal["cosine", "euclidean"] = "cosine"

    __test__ = False  # not a test class, whatever its name looks like to pytest


@dataclass(frozen=True)
class MethodSettings:
    """The method and the keywords of its constructor, all of them spelled out."""

    name: str
    options: Mapping[str, Any]

    def build(self, num_classes: int) -> Method:
        """An untrained method for ``num_classes`` training identities."""
        make: Callable[..., Method] = find(self.name)
        return make(num_classes, **self.options)

    @property
    def blank(self) -> MethodSettings:
        """The same for weights that are at hand: none are read from where training once began."""
        network = self.options.get("backbone")
        if not isinstance(network, BackboneSettings):
            return self
        blank = dataclasses.replace(network, pretrained=None)
        return MethodSettings(self.name, {**self.options, "backbone": blank})


def _require(key: str, value: object, holds: bool, need: str) -> None:
    if not holds:
        raise RecipeError(f"{key} must be {need}, got {value}.")


_SECTIONS: dict[str, type] = {
    "data": DataSettings,
    "priors": PriorSettings,
    "preprocess": Preprocess,
    "augment": Augment,
    "sampler": SamplerSettings,
    "optimizer": OptimizerSettings,
    "schedule": ScheduleSettings,
    "engine": EngineSettings,
    "test": TestSettings,
}


@dataclass(frozen=True)
class Recipe:
    """Every setting of a run.  Made by :func:`parse`, kept as ``recipe.yaml`` in the run."""

    seed: int
    method: MethodSettings
    data: DataSettings
    priors: PriorSettings
    preprocess: Preprocess
    augment: Augment
    sampler: SamplerSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    engine: EngineSettings
    test: TestSettings

    @property
    def test_preprocess(self) -> Preprocess:
        """The preprocessing of what is deployed."""
        if self.test.interpolation == "same":
            return self.preprocess
        return dataclasses.replace(self.preprocess, interpolation=self.test.interpolation)

    def to_yaml(self) -> str:
        """All settings as YAML that :func:`parse` reads back to an equal recipe."""
        tree: dict[str, Any] = {"seed": self.seed}
        tree["method"] = {"name": self.method.name, **_plain(self.method.options)}
        for section in _SECTIONS:
            tree[section] = _plain(dataclasses.asdict(getattr(self, section)))
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = importlib.resources.files("crosscam") / "recipes"
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))


def parse(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file (or shipped name), with ``key=value`` overrides.

    Args:
        source: path of a YAML file, the name of a shipped recipe, or None for defaults only.
        overrides: strings like ``"optimizer.lr=1e-3"``; the later of two wins.

    Raises:
        RecipeError: unknown key, wrong type, unreadable file; the message names the nearest
            right key or what was expected.
    """
    cls, parser, config = _configured(source, overrides)
    try:
        built = parser.instantiate(config)
    except (InputError, ValueError, TypeError) as error:
        raise RecipeError(f"a setting does not fit: {error}") from error
    seed = built["seed"]
    _require("seed", seed, 0 <= seed < 2**64, f"0 to {2**64 - 1}")
    for key in ("mean", "std"):  # an encoder of others may have them so; the doctor tells
        values = getattr(built["preprocess"], key)
        if max(values) > 1:
            raise RecipeError(
                f"preprocess.{key} is of colors between 0 and 1, got {list(values)}. Divide by 255 "
                "what is of colors between 0 and 255."
            )
    options = dict(vars(built["method"]))
    name = options.pop("name")
    _try(cls, options)
    if name.endswith(".py"):
        name = str(Path(name).expanduser().absolute())
    return Recipe(
        seed=seed,
        method=MethodSettings(name, options),
        **{section: built[section] for section in _SECTIONS},
    )


def _try(cls: type[Method], options: Mapping[str, Any]) -> None:
    """Refuse settings that the method would refuse, before any picture is read.

    It is built on no device, which takes no memory and draws no number.
    """
    options = MethodSettings("", options).blank.options
    make: Callable[..., Method] = cls
    try:
        with torch.device("meta"):
            make(2, **options)
    except InputError:
        raise
    except Exception:  # a method that must have memory to be built is judged when it has
        return


def describe_settings(
    source: str | Path | None = None, overrides: Sequence[str] = ()
) -> Iterator[tuple[str, str, str, str]]:
    """(key, type, value, meaning) of every setting of the recipe that :func:`parse` would read."""
    _, parser, config = _configured(source, overrides)
    for key, action in _settings(parser).items():
        hint = getattr(action, "_typehint", None) or action.type
        text = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        yield key, text, str(config[key]), " ".join((action.help or "").split())


def _configured(
    source: str | Path | None, overrides: Sequence[str]
) -> tuple[type[Method], ArgumentParser, Namespace]:
    """The method of a recipe, its parser, and every setting as text was read into it."""
    tree = {} if source is None else _without_empty(_read(source))
    pairs = [_split(o) for o in overrides]
    method = _method_name(tree, pairs)
    cls = find(method)
    parser = _parser(cls)
    known = set(_settings(parser))
    config = _merge(parser, known, _unflatten(cls.recipe), f"the recipe of method {method}", None)
    config = _merge(parser, known, tree, str(source), config)
    return cls, parser, _apply(parser, known, pairs, config)


def _parser(cls: type[Method]) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="crosscam train", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=0, help="seed of every random draw, 0 or more")
    parser.add_argument("--method.name", type=str, default="baseline", help="method, or a .py file")
    parser.add_class_arguments(cls, "method", skip={"num_classes"}, instantiate=False)
    for section, settings in _SECTIONS.items():
        parser.add_class_arguments(settings, section)
    return parser


def _settings(parser: ArgumentParser) -> dict[str, Any]:
    """Dotted key -> argparse action of every setting (groups and help left out)."""
    return {
        a.dest: a
        for a in parser._actions
        if a.option_strings
        and a.dest not in ("help", "print_shtab")
        and "Config" not in type(a).__name__
    }


def _read(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if not path.is_file() and str(source) in shipped():
        resource = importlib.resources.files("crosscam") / "recipes" / f"{source}.yaml"
        text = resource.read_text(encoding="utf-8")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            hint = did_you_mean(str(source), shipped())
            raise RecipeError(
                f"cannot read the recipe '{source}' ({error.__class__.__name__}).{hint} Give a "
                f"YAML file or one of the shipped recipes: {', '.join(shipped())}."
            ) from error
    try:
        loader = yaml.SafeLoader(text)
        loader.name = str(source)  # for its messages
        node = loader.get_single_node()
        _each_key_once(node, str(source), set())
        tree = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is not valid YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{source} must be a YAML mapping of settings, got {type(tree).__name__}."
        )
    return tree


def _each_key_once(node: yaml.Node | None, source: str, seen: set[int]) -> None:
    """Refuse a key that stands twice, of which YAML would keep the last and say nothing.

    Of the nodes as they were written: merging (<<) puts keys into those that it merges.
    """
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:  # an anchor comes again
        return
    seen.add(id(node))
    inner = node.value
    if isinstance(node, yaml.MappingNode):
        inner = [value for _, value in node.value]
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines and key.tag != "tag:yaml.org,2002:merge":
                raise RecipeError(
                    f"{source} has the key '{name}' in line {lines[name]} and again in line "
                    f"{line}, and would keep the last only. Put what belongs under it in one place."
                )
            lines[name] = line
    for value in inner:
        _each_key_once(value, source, seen)


def _split(override: str) -> tuple[str, str]:
    key, equals, value = override.removeprefix("--").partition("=")
    if not equals or not key:
        raise RecipeError(
            f"'{override}' is not an override; write key=value, as optimizer.lr=1e-3."
        )
    return {"method": "method.name"}.get(key, key), value


def _method_name(tree: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> str:
    named = tree.get("method", {})
    if not isinstance(named, (str, Mapping)):
        raise RecipeError(f"method must be a name or a mapping of settings, got {named!r}.")
    name = named if isinstance(named, str) else named.get("name", "baseline")
    for key, value in pairs:
        if key == "method.name":
            name = value
    return str(name)


def _merge(
    parser: ArgumentParser,
    known: set[str],
    tree: Mapping[str, Any],
    where: str,
    config: Namespace | None,
) -> Namespace:
    """``config`` (or the defaults) with the settings of ``tree`` over it."""
    if isinstance(tree.get("method"), str):
        tree = {**tree, "method": {"name": tree["method"]}}
    flat = dict(_flatten(tree, known))
    for key in flat:
        _check_key(key, known, where)
    # jsonargparse reads command lines most strictly, so that is the road every value takes.
    pairs = [(k, v if isinstance(v, str) else _dumped(v)) for k, v in flat.items()]
    return _apply(parser, known, pairs, config)


def _apply(
    parser: ArgumentParser,
    known: set[str],
    pairs: Sequence[tuple[str, str]],
    config: Namespace | None,
) -> Namespace:
    arguments = []
    for key, value in pairs:
        _check_key(key, known, "the command line")
        arguments.append(f"--{key}={value}")
    try:
        return parser.parse_args(arguments, namespace=config)
    except Exception as error:  # jsonargparse and argparse raise several types of their own
        said = " ".join(str(error).split())
        named = re.search(r'Parser key "([^"]+)"', said)
        key = named[1] if named else ""
        values = [v for k, v in pairs if k == key]
        if not values or key not in known:
            raise RecipeError(f"a setting has a wrong value: {said}") from error
        wrong = next((v for v in values[:-1] if not _fits(parser, key, v)), values[-1])
        action = _settings(parser)[key]
        hint = getattr(action, "_typehint", None) or action.type
        raise RecipeError(
            f"{key} must be {_form(hint)}, got {wrong}.{_example(key, hint, action.default)}"
        ) from error


def _fits(parser: ArgumentParser, key: str, value: str) -> bool:
    """Whether a setting can be read, to find the one that cannot of several of one key."""
    try:
        parser.parse_args([f"--{key}={value}"])
    except Exception:  # as in _apply
        return False
    return True


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text",
          type(None): "none"}  # fmt: skip


def _form(hint: Any) -> str:
    """What a setting of a type is, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}" if len(inner) > 1 else str(inner[0])
    if origin is tuple:
        count = "" if inner[-1] is ... else f"{len(inner)} "
        one = _form(inner[0]).removeprefix("a ")
        return f"a list of {count}{one}s" if inner[0] in (int, float) else f"a list ({one})"
    if origin is dict:
        return "a mapping"
    if inner:
        return " or ".join(map(_form, inner))
    return _WORDS.get(hint, str(hint))


def _example(key: str, hint: Any, default: Any) -> str:
    """How a list or a mapping is written."""
    if get_origin(hint) is dict:
        return f" Give each of its settings for itself, as {key}.split=3."
    if get_origin(hint) is tuple and default:
        return f" As {key}={_dumped(list(default)).replace(' ', '')}."
    return ""


def _check_key(key: str, known: set[str], where: str) -> None:
    if key in known or any(key.startswith(f"{k}.") for k in ("data.options",)):
        return
    near = _nearest(key, known)
    hint = f" Did you mean '{near}'?" if near else ""
    raise RecipeError(
        f"unknown setting '{key}' in {where}.{hint} `crosscam train --help` lists every setting."
    )


def _nearest(key: str, known: set[str]) -> str:
    """The setting that is most likely meant by ``key``, or ""."""
    if f"{key}.name" in known:
        return f"{key}.name"
    section, _, last = key.rpartition(".")
    if difflib.get_close_matches(section, ["data.options"], cutoff=0.8):
        return f"data.options.{last}"
    # A section that is the same makes no settings alike whose own names are not.
    names = {k.rpartition(".")[2]: k for k in sorted(known)}
    close = difflib.get_close_matches(last, names, n=len(names))
    whole = difflib.get_close_matches(key, sorted(known), n=len(known))
    near = [k for k in whole if k.rpartition(".")[2] in close]
    close = difflib.get_close_matches(last, names, cutoff=0.8 if section else 0.6)
    near += [names[name] for name in close]
    return near[0] if near else ""


def as_setting(
    word: str, value: str = "", source: str | None = None, overrides: Sequence[str] = ()
) -> str:
    """``--epochs`` and its value as the setting that is meant, ``schedule.epochs=3``; or "".

    Args:
        word: what was given with dashes, with or without ``=`` and a value.
        value: what stood after it.
        source: the recipe that was named, which says of which method the settings are.
        overrides: what else was given; of it only the method counts.
    """
    of_method = [o for o in overrides if re.match("(--)?method(.name)?=", o)]
    try:
        _, parser, _ = _configured(source, of_method)
    except CrosscamError:  # is told when the dashes are gone
        parser = _parser(find("baseline"))
    known = set(_settings(parser))
    name, equals, own = word.lstrip("-").partition("=")
    key = name.replace("-", "_")
    if name.startswith("data.options."):
        key = name
    elif key not in known:
        key = _nearest(key, known)
    return f"{key}={own if equals else value or '...'}" if key else ""


def _flatten(
    tree: Mapping[str, Any], known: set[str], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and dotted not in known:
            yield from _flatten(value, known, f"{dotted}.")
        else:
            yield dotted, value


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def _dumped(value: Any) -> str:
    """``value`` as the command line would say it (PyYAML ends a lone scalar with three dots)."""
    return str(yaml.safe_dump(value, default_flow_style=True)).removesuffix("...\n").strip()


def _without_empty(tree: Mapping[str, Any]) -> dict[str, Any]:
    """``tree`` without keys that have no value: they keep their default."""
    return {
        k: _without_empty(v) if isinstance(v, Mapping) else v
        for k, v in tree.items()
        if v is not None
    }


def _plain(value: Any) -> Any:
    """``value`` with dataclasses, tuples and mappings turned into what YAML can write."""
    if dataclasses.is_dataclass(value) and not inspect.isclass(value):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
