"""Recipes: order of sources, types, suggestions, round trip."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from crosscam.errors import RecipeError
from crosscam.methods import available, find
from crosscam.recipe import describe_settings, parse, shipped

SMALL = ("method.backbone.name=resnet18", "method.backbone.width=0.125")


def test_defaults_are_the_papers() -> None:
    recipe = parse()
    assert recipe.method.name == "baseline"
    assert recipe.optimizer.lr == 3.5e-4
    assert recipe.schedule.milestones == (40, 70)
    assert recipe.preprocess.size == (256, 128)
    assert recipe.method.options["backbone"].name == "resnet50"


def test_command_line_beats_file_beats_method(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "method: {name: baseline, margin: soft, backbone: {name: resnet18}}\n"
        "optimizer: {lr: 1e-3, weight_decay: 0.01}\n"
        "data: {name: cuhk03, options: {boxes: detected}}\n"
    )
    recipe = parse(file, ["optimizer.lr=2e-3", "data.options.split=3", "method.backbone.width=0.5"])
    assert recipe.optimizer.lr == 2e-3
    assert recipe.optimizer.weight_decay == 0.01
    assert recipe.schedule.epochs == 120
    assert recipe.method.options["margin"] == "soft"
    assert recipe.method.options["backbone"].name == "resnet18"
    assert recipe.method.options["backbone"].width == 0.5
    assert recipe.data.options == {"boxes": "detected", "split": 3}


def test_test_pictures_may_be_resized_another_way() -> None:
    recipe = parse(None, ["preprocess.size=[96,48]"])
    assert recipe.test_preprocess == recipe.preprocess
    recipe = parse(None, ["preprocess.size=[96,48]", "test.interpolation=bicubic"])
    assert recipe.preprocess.interpolation == "bilinear"
    assert recipe.test_preprocess.interpolation == "bicubic"
    assert recipe.test_preprocess.size == (96, 48)


def test_method_may_be_written_as_a_word(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("method: baseline\nseed: 7\n")
    assert parse(file).seed == 7
    assert parse(None, ["method=baseline"]).method.name == "baseline"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.lrr=1e-3", "Did you mean 'optimizer.lr'"),
        ("lr=1e-3", "Did you mean 'optimizer.lr'"),
        ("method.bnnek=false", "Did you mean 'method.bnneck'"),
        ("method.num_parts=4", "'method.num_parts' in the command line. `crosscam train"),
        ("data.option.split=3", "Did you mean 'data.options.split'"),
        ("method.backbone.nam=resnet18", "Did you mean 'method.backbone.name'"),
        ("method.backbone=resnet18", "Did you mean 'method.backbone.name'"),
        ("optimizer=adam", "Did you mean 'optimizer.name'"),
        ("optimizer.lr=quick", "optimizer.lr"),
        ("optimizer.name=adan", "adamw"),
        ("schedule.epochs=3.5", "schedule.epochs"),
        ("preprocess.size=[256]", "preprocess.size"),
        ("preprocess.size=[0,128]", "preprocess.size must be"),
        ("augment.flip=1.5", "augment.flip is a probability"),
        ("method=baselin", "Did you mean 'baseline'"),
        ("optimizer.lr", "write key=value"),
        ("=3", "write key=value"),
        (
            "preprocess.size=128x64",
            "preprocess.size must be a list of 2 whole numbers, got 128x64. "
            "As preprocess.size=[256,128].",
        ),
        (
            "schedule.milestones=40",
            "a list of whole numbers, got 40. As schedule.milestones=[40,70]",
        ),
        (
            "data.options={split:3}",
            "data.options must be a mapping, got {split:3}. Give each of its "
            "settings for itself, as data.options.split=3.",
        ),
        ("schedule.epochs=3.5", "schedule.epochs must be a whole number, got 3.5."),
        ("method.margin=hard", "method.margin must be a number or soft, got hard."),
        ("test.flip=maybe", "test.flip must be true or false, got maybe."),
        ("optimizer.name=adan", "must be one of sgd, adam, amsgrad, adamw, got adan."),
        ("seed=-1", "seed must be 0 to 18446744073709551615, got -1"),
        ("seed=18446744073709551616", "seed must be 0 to 18446744073709551615"),
    ],
)
def test_a_wrong_setting_is_named(override: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(None, [override])
    assert said in str(caught.value)


@pytest.mark.parametrize("overrides", [["x", "2"], ["2", "x"], ["2", "x", "3"], ["x", "y", "2"]])
def test_of_a_setting_given_twice_the_wrong_value_is_named(overrides: list[str]) -> None:
    with pytest.raises(RecipeError, match=r"must be a whole number, got x\."):
        parse(None, [f"engine.threads={value}" for value in overrides])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimizer: {learning: 3}\n", "unknown setting 'optimizer.learning'"),
        ("- a\n- b\n", "must be a YAML mapping"),
        ("a: [1\n", "not valid YAML"),
        ("seed: x\n", "seed"),
        (
            "optimizer: {lr: 1e-3}\nseed: 1\noptimizer:\n  weight_decay: 0.1\n",
            "r.yaml has the key 'optimizer' in line 1 and again in line 3",
        ),
        (
            "method:\n  name: mpn\n  backbone:\n    width: 1\n    width: 0.5\n",
            "'width' in line 4 and again in line 5",
        ),
        ("optimizer: {lr: 1, lr: 2}\n", "'lr' in line 1"),
        ("data: {options: {x: [{a: 1,\n a: 2}]}}\n", "'a' in line 1 and again in line 2"),
    ],
)
def test_a_wrong_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        parse(file)
    assert said in str(caught.value)


def test_anchors_that_are_merged_are_no_keys_that_stand_twice(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "data: {options: {x: &b {<<: &a {lr: 1}, lr: 2}}}\noptimizer: {<<: *b, <<: *a}\n"
    )
    recipe = parse(file)
    assert recipe.optimizer.lr == 2
    assert recipe.data.options == {"x": {"lr": 2}}


@pytest.mark.parametrize("key", ["mean", "std"])
def test_colors_counted_to_255_are_refused(key: str) -> None:
    with pytest.raises(RecipeError, match=f"preprocess.{key} is of colors between 0 and 1.*255"):
        parse(None, [*SMALL, f"preprocess.{key}=[58.4,57.1,57.4]"])


def test_a_missing_file_lists_what_is_shipped(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(tmp_path / "nothing.yaml")
    assert all(name in str(caught.value) for name in shipped())


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_round_trip(name: str, tmp_path: Path) -> None:
    recipe = parse(name)
    file = tmp_path / "r.yaml"
    file.write_text(recipe.to_yaml())
    assert parse(file) == recipe


PAPERS = ("ide", "mmga", "mpn", "msfl", "msfl-msgr", "san", "san_pg", "strong-baseline")


@pytest.mark.parametrize("name", PAPERS)
def test_every_value_of_a_papers_recipe_says_where_it_comes_from(name: str) -> None:
    text = resources.files("crosscam.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    value = re.compile(r" *[\w]+: [^#]*[^# ] *(?:# *(\w+)|$)")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    sources = {line: found[1] for line in lines if (found := value.match(line))}
    sources.pop(f"  name: {parse(name).method.name}")  # which paper's it is
    assert len(sources) > 15
    known = {"text", "release", "author", "memory", "assumed", "ours"}
    assert {line for line, source in sources.items() if source not in known} == set()


# Of these no paper says anything, and they are off.
UNSAID = {
    "method.backbone.ibn": False,
    "method.backbone.width": 1.0,
    "method.backbone.stem": "standard",
    "method.backbone.pretrained": None,  # is given when training starts
    "method.msgr": 0.0,
    "method.msgr_relative": False,
    "method.neck": "none",
    "method.triplet_from": 0.0,
}
# What a value is of: nothing need be said of it where that is off.
PART_OF = {
    "method.slope": "method.embedding",
    "method.embedding_init": "method.embedding",
    "method.margin": "method.triplet",
    "method.normalize": "method.triplet",
    "method.center_lr": "method.center",
    "method.neck_width": "method.neck",
    **{f"method.msgr_{key}": "method.msgr" for key in ("stages", "norm", "square", "scale")},
    "method.msgr_adversarial": "method.msgr",
    "augment.zoom": "augment.resize_crop",
    "augment.erase_area": "augment.erase",
    "augment.erase_aspect": "augment.erase",
    "augment.erase_fill": "augment.erase",
    "augment.erase_order": "augment.erase",
    "schedule.warmup_epochs": "schedule.warmup",
    "schedule.warmup_start": "schedule.warmup",
}
COMMON = {
    *(f"preprocess.{key}" for key in ("size", "interpolation", "mean", "std")),
    *(f"augment.{key}" for key in ("flip", "pad", "erase")),
    *(f"sampler.{key}" for key in ("kind", "people", "images")),
    *(f"optimizer.{key}" for key in ("name", "lr", "weight_decay")),
    *(f"schedule.{key}" for key in ("epochs", "kind", "warmup")),
}


def _leaves(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, dict) and value
        found |= _leaves(value, f"{above}{key}.") if inner else {above + key: value}
    return found


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_recipe_leaves_no_value_to_the_defaults(name: str) -> None:
    recipe = parse(name)
    text = resources.files("crosscam.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    values, written = _leaves(yaml.safe_load(recipe.to_yaml())), _leaves(yaml.safe_load(text))
    asked = {key for key in values if key.startswith("method.")} | COMMON | set(PART_OF)
    asked |= set(find(recipe.method.name).recipe)
    if recipe.schedule.kind == "step":
        asked |= {"schedule.milestones", "schedule.gamma"}
    if recipe.optimizer.name == "sgd":
        asked |= {"optimizer.momentum", "optimizer.nesterov"}
    if name not in ("ide", "san_pg"):  # steps on the way, which no paper measures
        asked |= {"test.flip", "test.ap", "test.metric"}
    off = {key for key, whole in PART_OF.items() if values.get(whole) in (None, 0, "none")}
    unsaid = {key for key, value in UNSAID.items() if values.get(key) == value}
    assert (asked & set(values)) - set(written) - off - unsaid == set()


@pytest.mark.parametrize("method", available())
def test_every_setting_is_explained(method: str) -> None:
    settings = describe_settings(None, [f"method={method}"])
    silent = [key for key, _, _, meaning in settings if not meaning]
    assert not silent


@pytest.mark.parametrize("method", ["baseline", "msfl", "san"])
@pytest.mark.parametrize("value", ["1", "1.5", "-0.1"])
def test_smoothing_out_of_range_is_refused_when_the_recipe_is_read(method: str, value: str) -> None:
    with pytest.raises(RecipeError, match=r"method.smoothing must be in \[0, 1\)"):
        parse(None, [f"method={method}", *SMALL, f"method.smoothing={value}"])


def test_what_a_method_refuses_is_refused_when_the_recipe_is_read(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    with pytest.raises(RecipeError, match="weights, 0 or more"):
        parse(None, [*SMALL, "method.center=-1"])
    with pytest.raises(RecipeError, match="last_stride"):
        parse(None, ["method=san", *SMALL, "method.backbone.last_stride=2"])
    missing = tmp_path / "weights.safetensors"  # is read when training starts
    recipe = parse(None, [*SMALL, f"method.backbone.pretrained={missing}"])
    assert recipe.method.options["backbone"].pretrained == str(missing)
    assert torch.equal(torch.get_rng_state(), state)
