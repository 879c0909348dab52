"""Training: resuming exactly, stopping politely, several processes, losses that explode."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import (
    SETTINGS,
    assert_same_weights,
    command,
    die_and_resume,
    toy_recipe,
    train_in_two_processes,
)
from toy import write_market

from crosscam import embedder
from crosscam.errors import CheckpointError, DataError, RecipeError, TrainingError
from crosscam.methods import BackboneSettings
from crosscam.methods.msfl import MSFL
from crosscam.recipe import MethodSettings, parse
from crosscam.training import checkpoint, loop
from crosscam.training.advice import collapsing, comparing_nothing, idle, rising
from crosscam.training.passes import Recorded
from crosscam.types import Batch, Sample


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("toys") / "market", size=(32, 16))


@pytest.fixture(scope="module")
def whole(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    return loop.train(toy_recipe(toys), tmp_path_factory.mktemp("whole") / "run", progress=False)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(run / "weights.safetensors")


def test_a_missing_folder_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.root is missing.*data\.root=FOLDER"):
        loop.train(parse("cpu"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_leaves_everything_behind(whole: Path) -> None:
    names = {p.name for p in whole.iterdir()}
    assert names >= {"recipe.yaml", "card.json", "metrics.jsonl", "checkpoints"}
    card = json.loads((whole / "card.json").read_text())
    assert card["trained_on"]["identities"] == 8
    assert card["trained_on"]["images"] == 48
    assert card["epochs"] == 3
    assert card["precision"] == "fp32"
    assert 50 < card["peak_memory_mb"] < 20_000
    assert len(card["weights_sha256"]) == 64
    lines = [json.loads(x) for x in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == list(range(1, card["steps"] + 1))
    assert {"loss", "id", "triplet", "center", "lr", "images_per_second"} <= set(lines[0])
    assert lines[0]["loss"] == pytest.approx(
        lines[0]["id"] + lines[0]["triplet"] + lines[0]["center"]
    )


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        (["method=baseline"], "method.margin=soft"),
        (["method=baseline", "method.margin=soft"], ""),
        (["method=baseline", "method.triplet=0"], ""),
        (["method=baseline", "method.triplet_from=0.3"], ""),
        (["method=baseline", "method.normalize=true"], ""),
        (["method=msfl", "method.margin=soft"], "method.normalize=true"),
        (["method=msfl", "method.normalize=true"], ""),
        (["method=mpn"], ""),  # compares features of length one
        (["method=baseline", "method.backbone.ibn=true", "method.backbone.width=0.5",
          "method.backbone.pretrained=people-small"], ""),
    ],
)  # fmt: skip
def test_a_triplet_that_will_collapse_is_warned_of(settings: list[str], advice: str) -> None:
    small = ["method.backbone.name=resnet18", "method.backbone.width=0.125"]
    recipe = parse(None, [*small, *settings])
    said = collapsing(recipe.method.build(8), recipe)
    assert said.endswith(f"or take {advice}." if advice else "")
    assert bool(said) == bool(advice)


@pytest.mark.parametrize(
    ("settings", "people", "lack"),
    [
        (["sampler.people=8", "sampler.images=1"], 100, "no two pictures of one person"),
        (["sampler.people=1", "sampler.images=8"], 100, "no two people"),
        (["sampler.kind=shuffle"], 100, "hardly two pictures of one person"),
        (["sampler.kind=shuffle"], 8, ""),  # 16 x 4 of 8 people: some seven others of one's own
        (["sampler.people=2", "sampler.images=2"], 100, ""),
        (["sampler.kind=shuffle", "method.triplet=0"], 100, ""),
    ],
)
def test_a_triplet_that_has_nothing_to_compare_is_warned_of(
    settings: list[str], people: int, lack: str
) -> None:
    said = comparing_nothing(parse(None, settings), people)
    assert (f" has {lack}, and method.triplet=1 " in said) if lack else said == ""


@pytest.mark.parametrize(
    "setting",
    ["stages=[0]", "norm=1", "square=true", "scale=batch", "relative=true", "adversarial=true"],
)
def test_settings_of_a_regularizer_that_is_off_are_warned_of(setting: str) -> None:
    said = idle(parse(None, [f"method.msgr_{setting}"]))
    assert said.startswith(f"method.msgr_{setting.partition('=')[0]}: nothing is regularized")
    assert idle(parse(None, [f"method.msgr_{setting}", "method.msgr=0.1"])) == ""
    assert idle(parse(None, ["method=mpn"])) == ""


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["schedule.epochs=3", "schedule.warmup_epochs=4"], True),
        (["schedule.epochs=4", "schedule.warmup_epochs=4"], True),
        (["schedule.epochs=5", "schedule.warmup_epochs=4"], False),
        (["schedule.epochs=3", "schedule.warmup_epochs=4", "schedule.warmup=none"], False),
    ],
)
def test_a_learning_rate_that_never_arrives_is_warned_of(settings: list[str], told: bool) -> None:
    said = rising(parse(None, settings))
    assert ("schedule.warmup_epochs=4" in said and "never arrives" in said) == told
    assert bool(said) == told


def test_a_triplet_of_ones_own_that_is_no_number_is_none() -> None:
    recipe = parse(None, ["method.backbone.name=resnet18", "method.backbone.width=0.125"])
    built = recipe.method.build(8)
    own = MethodSettings("mine.py", {**recipe.method.options, "triplet": None})
    assert collapsing(built, recipe)
    assert collapsing(built, dataclasses.replace(recipe, method=own)) == ""


def test_the_warning_comes_once(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = toy_recipe(toys, "schedule.epochs=1", "schedule.warmup=none")
    run = loop.train(recipe, tmp_path / "run", progress=False)
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith("crosscam: warning: a triplet on plain") for line in said] == [True]
    loop.resume(run, progress=False)
    assert capsys.readouterr().err == ""


def test_graphs_that_are_never_played_are_told_of_once(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Never(Recorded):
        def __call__(self, batch: Batch, update: int) -> dict[str, torch.Tensor]:
            return self.plain(batch, update)

        def unplayed(self) -> str:
            return "the moon changes"

    monkeypatch.setattr(loop, "recorded", lambda plain, device, world: Never(plain))
    recipe = toy_recipe(toys, "engine.graphs=true", "method.margin=soft", "schedule.epochs=2")
    loop.train(recipe, tmp_path / "run", progress=False)
    assert capsys.readouterr().err == (
        "crosscam: warning: engine.graphs=true gains nothing: no step was played yet, because the "
        "moon changes. Leave it at its default.\n"
    )


def test_priors_that_nobody_needs_are_told_of(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = toy_recipe(toys, f"priors.root={tmp_path / 'none'}")
    with pytest.raises(RecipeError, match=r"method baseline learns from no priors.* Leave it out"):
        loop.train(recipe, tmp_path / "run", progress=False)
    recipe = toy_recipe(toys, f"priors.root={tmp_path}", "schedule.epochs=1")
    loop.train(recipe, tmp_path / "run", progress=False)
    assert "learns from no priors with these settings." in capsys.readouterr().err


def test_the_same_seed_gives_the_same_weights(whole: Path, toys: Path, tmp_path: Path) -> None:
    again = loop.train(toy_recipe(toys), tmp_path / "run", progress=False)
    assert_same_weights(whole, again)


def test_another_seed_gives_other_weights(whole: Path, toys: Path, tmp_path: Path) -> None:
    other = loop.train(toy_recipe(toys, "seed=1"), tmp_path / "run", progress=False)
    a, b = weights(whole), weights(other)
    assert not torch.equal(a["classifier.weight"], b["classifier.weight"])


@pytest.mark.slow
def test_the_last_step_is_logged(toys: Path, tmp_path: Path) -> None:
    recipe = toy_recipe(toys, "engine.log_every=1000", "schedule.epochs=2")
    run = loop.train(recipe, tmp_path / "run", progress=False)
    steps = json.loads((run / "card.json").read_text())["steps"]
    lines = [json.loads(x)["step"] for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == [steps]


@pytest.mark.parametrize(
    ("number", "after"),
    [(signal.SIGKILL, 1), (signal.SIGKILL, 8), (signal.SIGINT, 5), (signal.SIGHUP, 3)],
)
def test_a_stopped_run_goes_on_to_the_same_weights(
    number: signal.Signals, after: int, whole: Path, toys: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(f"data.root={toys}", *SETTINGS, "--out", run),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and checkpoint.latest_name(run) < f"step-{after:08d}":
        time.sleep(0.002)
    assert process.poll() is None, "training was over before it could be stopped"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if number is not signal.SIGKILL:
        assert process.returncode == 130
        assert f"crosscam train --resume {run}" in said
    assert not (run / "weights.safetensors").exists()
    last = checkpoint.latest(run)
    assert last is not None
    assert last.state["step"] >= after
    subprocess.run(command("--resume", run), check=True)
    assert_same_weights(whole, run)
    lines = [json.loads(x)["step"] for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, len(lines) + 1))


def test_a_run_that_died_after_saving_goes_on_to_the_same_weights(
    whole: Path, toys: Path, tmp_path: Path
) -> None:
    assert_same_weights(whole, die_and_resume(toy_recipe(toys), tmp_path / "run", 7))


@pytest.mark.parametrize("method", ["baseline", "san", "mmga"])
def test_a_backbone_rests_while_what_stands_on_it_learns(
    method: str, toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_method = {
        "baseline": [],
        "san": ["method.target=picture", "method.decoder_width=0.1", "data.pairs="],
        "mmga": ["method.masks=0"],
    }[method]
    settings = [s for s in SETTINGS if not s.startswith(("method.dropout", "method.center"))]
    settings += [f"method={method}", *of_method, "schedule.frozen_epochs=2", "engine.ema=0"]
    kept: list[dict[str, torch.Tensor]] = []  # weights after every step
    save = checkpoint.save

    def look(run: Path, step: int, groups: Any, state: Any) -> Path:
        kept.append({k: v.clone() for k, v in groups["weights"].items()})
        return save(run, step, groups, state)

    monkeypatch.setattr(checkpoint, "save", look)
    loop.train(parse(None, [*settings, f"data.root={toys}"]), tmp_path / "run", progress=False)
    epoch = len(kept) // 3
    first, rested, last = kept[0], kept[2 * epoch - 1], kept[-1]
    moved = {k for k in first if not torch.equal(first[k], rested[k])}
    assert not any(k.startswith("backbone.") for k in moved)
    assert any(k.startswith("classifier") for k in moved)
    moved = {k for k in first if not torch.equal(rested[k], last[k])}
    for name, value in first.items():
        if name.startswith("backbone.stage1") and value.ndim:
            assert name in moved


@pytest.mark.parametrize("step", [3, 9])  # while the backbone rests, and after that
def test_a_run_that_died_around_a_rest_goes_on_to_the_same_weights(
    step: int, toys: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe(toys, "schedule.frozen_epochs=1")
    whole = loop.train(recipe, tmp_path / "whole", progress=False)
    assert_same_weights(whole, die_and_resume(recipe, tmp_path / "run", step))


def test_what_never_learns_does_not_start_to_after_a_rest() -> None:
    backbone = BackboneSettings("resnet18", width=0.125)
    method = MSFL(8, backbone=backbone, levels=(1, 2, 3))
    still = [n for n, p in method.backbone.named_parameters() if not p.requires_grad]
    assert still
    rest = loop.Rest(method)
    rest(True)
    assert not any(p.requires_grad for p in method.backbone.parameters())
    assert not any(m.training for m in method.backbone.modules())
    rest(False)
    assert [n for n, p in method.backbone.named_parameters() if not p.requires_grad] == still
    assert all(m.training for m in method.backbone.modules())


def test_a_method_without_a_backbone_has_nothing_that_could_rest() -> None:
    with pytest.raises(RecipeError, match="no network of that name"):
        loop.Rest(torch.nn.Linear(1, 1))  # type: ignore[arg-type]


def test_resuming_with_other_pictures_is_refused(toys: Path, tmp_path: Path) -> None:
    root = tmp_path / "market"
    shutil.copytree(toys, root)
    recipe = toy_recipe(root, "schedule.epochs=1")
    run = loop.train(recipe, tmp_path / "run", progress=False)
    next((root / "bounding_box_train").iterdir()).unlink()
    with pytest.raises(CheckpointError, match="are not those that"):
        loop.resume(run, progress=False)


def test_resuming_with_other_pictures_of_the_same_names_is_refused(
    toys: Path, tmp_path: Path
) -> None:
    root = tmp_path / "market"
    shutil.copytree(toys, root)  # with times of their own
    run = loop.train(toy_recipe(toys, "schedule.epochs=1"), tmp_path / "run", progress=False)
    loop.resume(run, [f"data.root={root}"], progress=False)  # a copy has the same pictures
    assert parse(run / "recipe.yaml").data.root == str(root)
    one, other = sorted((root / "bounding_box_train").iterdir())[:2]
    shutil.copy(one, other)
    with pytest.raises(CheckpointError, match="the same names, other pictures"):
        loop.resume(run, progress=False)
    for file in run.glob("checkpoints/*/state.json"):  # as they were written before
        state = json.loads(file.read_text())
        del state["pictures"]
        file.write_text(json.dumps(state))
    loop.resume(run, progress=False)


def test_pictures_are_looked_at_together_and_in_order(tmp_path: Path) -> None:
    samples, want = [], hashlib.sha256()
    for number in range(1_100):  # more than are taken at once, the first beyond what is looked at
        raw = bytes([number % 256]) * (100_000 if number == 0 else number)
        (tmp_path / f"{number}.jpg").write_bytes(raw)
        samples.append(Sample(tmp_path / f"{number}.jpg", number, 1))
        want.update(f"{len(raw)}\0".encode() + raw[: 1 << 16])
    readers = set()

    class Watched(type(tmp_path)):  # type: ignore[misc]
        def open(self, *arguments: Any, **more: Any) -> Any:
            readers.add(threading.get_ident())
            time.sleep(0.001)
            return super().open(*arguments, **more)

    watched = tuple(dataclasses.replace(s, path=Watched(s.path)) for s in samples)
    assert loop.content(watched) == want.hexdigest()
    assert len(readers) > 1
    (tmp_path / "7.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"7\.jpg"):
        loop.content(tuple(samples))


def test_a_run_that_read_its_own_data_otherwise_is_told_so(toys: Path, tmp_path: Path) -> None:
    rows = [f"{p},{p.name[:4]},{p.name[6]}" for p in (toys / "bounding_box_train").iterdir()]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["path,pid,camid,split", *(f"{row},train" for row in rows)]))
    recipe = toy_recipe(table, "data.name=csv", "schedule.epochs=1")
    run = loop.train(recipe, tmp_path / "run", progress=False)
    for file in run.glob("checkpoints/*/state.json"):
        state = json.loads(file.read_text()) | {"data": "as another version numbers cameras"}
        file.write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="other names or ids") as caught:
        loop.resume(run, progress=False)
    assert "older version" not in str(caught.value)  # this one reads as it does
    for file in run.glob("checkpoints/*/state.json"):
        state = json.loads(file.read_text())
        del state["pictures"]
        file.write_text(json.dumps(state))
    card = json.loads((run / "card.json").read_text())
    with pytest.raises(CheckpointError, match="reads cameras and repeated rows") as caught:
        loop.resume(run, progress=False)
    assert f"began it (crosscam {card['crosscam']}, commit {card['commit']})" in str(caught.value)
    (run / "card.json").unlink()
    with pytest.raises(CheckpointError, match="with the version that began it, or start"):
        loop.resume(run, progress=False)


def test_a_run_whose_data_moved_goes_on_to_the_same_weights(
    whole: Path, toys: Path, tmp_path: Path
) -> None:
    """From other weights too than the file it began with, which may be gone."""
    root, elsewhere = tmp_path / "here", tmp_path / "there"
    shutil.copytree(toys, root)
    begin = tmp_path / "begin.safetensors"
    shutil.copy(whole / "weights.safetensors", begin)
    recipe = toy_recipe(root, f"method.backbone.pretrained={begin}")
    want = loop.train(recipe, tmp_path / "want", progress=False)

    def move() -> None:
        root.rename(elsewhere)
        begin.unlink()

    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match=f"--resume {run} data.root=..."):
        die_and_resume(recipe, run, 7, meanwhile=move)
    loop.resume(run, [f"data.root={elsewhere}", "engine.checkpoint_minutes=5"], progress=False)
    assert_same_weights(want, run)


def test_the_pictures_taken_out_of_cuhk03_may_lie_elsewhere(tmp_path: Path) -> None:
    options = ["data.name=cuhk03", f"data.root={tmp_path}", "data.options.split=3"]
    recipe = parse("cpu", [*options, "data.options.extract_to=/gone"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    again = loop.resumed(tmp_path, [f"data.options.extract_to={tmp_path}"])
    assert again.data.options == {"split": 3, "extract_to": str(tmp_path)}
    with pytest.raises(RecipeError, match=r"data\.options\.split=4' would change it"):
        loop.resumed(tmp_path, ["data.options.split=4"])


def test_a_resumed_run_needs_its_data(whole: Path) -> None:
    with pytest.raises(CheckpointError, match=f"data of {whole} are not at ''"):
        loop.resume(whole, ["data.root="], progress=False)


@pytest.mark.parametrize("setting", ["schedule.epochs=9", "--optimizer.lr=1", "data.name=csv"])
def test_a_resumed_run_learns_nothing_else(setting: str, whole: Path) -> None:
    said = rf"would change it. Only data.root, .*pretrained={whole / 'weights.safetensors'}"
    with pytest.raises(RecipeError, match=said):
        loop.resume(whole, [setting], progress=False)


def test_bfloat16_learns(toys: Path, tmp_path: Path) -> None:
    recipe = toy_recipe(toys, "engine.precision=bf16", "optimizer.lr=3e-3", "schedule.epochs=12")
    run = loop.train(recipe, tmp_path / "run", progress=False)
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert json.loads((run / "card.json").read_text())["precision"] == "bf16"
    assert lines[-1]["id"] < 0.9 * lines[0]["id"]


def test_bfloat16_on_a_cpu_leaves_maps_one_cell_wide_to_float32(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN's own sums take memory that nobody wrote: losses that are not finite, or unlike."""
    learned: list[Any] = []
    learn = loop.learn

    def spy(batch: Any, passes: Any, *rest: Any, **more: Any) -> Any:
        learned.append(passes.method)
        return learn(batch, passes, *rest, **more)

    monkeypatch.setattr(loop, "learn", spy)
    recipe = toy_recipe(toys, "engine.precision=bf16", "schedule.epochs=1")
    loop.train(recipe, tmp_path / "run", progress=False)
    convolution = learned[0].backbone.layer3[0].conv1  # 4x2 cells to 2x1
    maps = torch.randn(8, 16, 4, 2, generator=torch.Generator().manual_seed(0))
    want = torch.nn.functional.conv2d(maps, convolution.weight, stride=2, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(convolution(maps), want.bfloat16())


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on(toys: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [f"data.root={toys}", *SETTINGS, "schedule.epochs=400"]
    process = subprocess.Popen(
        command(*settings, "--out", run, processes=2),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and checkpoint.latest_name(run) < "step-00000003":
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: everyone gets it
    _, said = process.communicate(timeout=120)
    assert "stopped after step" in said
    last = checkpoint.latest(run)
    assert last is not None
    assert f"stopped after step {last.state['step']}." in said


def test_a_finished_run_resumes_to_itself(whole: Path) -> None:
    before = weights(whole)
    loop.resume(whole, progress=False)
    after = weights(whole)
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("text", ["", '{"method": "base', "[]", "{}", None])
def test_resuming_writes_a_broken_card_again(text: str | None, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    card = run / "card.json"
    card.unlink() if text is None else card.write_text(text)
    with pytest.raises(CheckpointError, match=f"crosscam train --resume {run}` writes it again"):
        embedder.load(run)
    loop.resume(run, progress=False)
    again, before = (json.loads((r / "card.json").read_text()) for r in (run, whole))
    # A training of a few steps may take no hundredth of a minute.
    least = {"peak_memory_mb": 1, "training_minutes": 0, "images_per_second": 0.1}
    for key, value in least.items():
        assert again.pop(key) >= value
        del before[key]
    assert again.keys() == before.keys()
    del again["commit"], before["commit"]  # of the source, to which somebody may commit meanwhile
    assert again == before
    embedder.load(run)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(toys: Path, tmp_path: Path) -> None:
    """With batch statistics over both, a mean of halves is the mean of the whole.

    Plain SGD and the identity loss alone: batch-hard mining looks at one process's share.
    """
    settings = [
        f"data.root={toys}",
        *SETTINGS,
        "method.triplet=0",
        "method.center=0",
        "method.dropout=0",
        "optimizer.name=sgd",
        "optimizer.momentum=0",
        "optimizer.lr=0.01",  # more, and roundings of 1e-7 grow within the epoch
        "optimizer.clip=0",
        "engine.ema=0",
        "engine.sync_batchnorm=true",
        "schedule.epochs=1",
        "schedule.warmup=none",
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run(command(*settings, "--out", one), check=True)
    train_in_two_processes(settings, two)
    a, b = weights(one), weights(two)
    for name in a:
        torch.testing.assert_close(a[name].float(), b[name].float(), rtol=1e-4, atol=1e-5)


EXPLODING = '''"""Explodes."""
import torch
from crosscam.methods import BackboneSettings
from crosscam.methods.baseline import Baseline


class Exploding(Baseline):
    """The baseline, whose id loss is nan from half of training on."""

    def schedule(self, progress):
        self.late = progress >= 0.5

    def losses(self, batch):
        terms = super().losses(batch)
        if self.late:
            terms["id"] = terms["id"] * float("nan")
        return terms
'''


def test_a_nan_loss_stops_and_keeps_the_last_good_checkpoint(toys: Path, tmp_path: Path) -> None:
    (tmp_path / "exploding.py").write_text(EXPLODING)
    recipe = toy_recipe(toys, f"method.name={tmp_path / 'exploding.py'}")
    run = tmp_path / "run"
    with pytest.raises(TrainingError) as caught:
        loop.train(recipe, run, progress=False)
    said = str(caught.value)
    assert "id = nan" in said
    assert "at epoch 1, batch" in said
    assert "pictures 0" in said
    last = checkpoint.latest(run)
    assert last is not None
    assert f"Last good checkpoint: {last.path.name}" in said
    assert all(t.isfinite().all() for t in last.tensors["weights"].values())
    assert not (run / "weights.safetensors").exists()


def test_weights_that_are_not_finite_are_never_saved(toys: Path, tmp_path: Path) -> None:
    recipe = toy_recipe(toys, "optimizer.name=sgd", "optimizer.lr=1e38", "optimizer.clip=0")
    with pytest.raises(TrainingError, match="finite"):
        loop.train(recipe, tmp_path / "run", progress=False)
    last = checkpoint.latest(tmp_path / "run")
    assert last is None or all(t.isfinite().all() for t in last.tensors["weights"].values())


def test_fewer_identities_than_a_batch_needs(toys: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Set sampler\.people=8 or less"):
        loop.train(toy_recipe(toys, "sampler.people=9"), tmp_path / "run", progress=False)


def test_an_identity_with_one_image_is_learned_too(toys: Path, tmp_path: Path) -> None:
    root = tmp_path / "market"
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        (root / split).mkdir(parents=True)
        for file in (toys / split).iterdir():
            (root / split / file.name).write_bytes(file.read_bytes())
    for file in sorted((root / "bounding_box_train").glob("0001_*"))[1:]:
        file.unlink()
    run = loop.train(toy_recipe(root, "schedule.epochs=1"), tmp_path / "run", progress=False)
    assert json.loads((run / "card.json").read_text())["num_classes"] == 8


def test_a_folder_in_use_is_refused(whole: Path, toys: Path) -> None:
    with pytest.raises(TrainingError, match=r"is not empty\. Resume it"):
        loop.train(toy_recipe(toys), whole, progress=False)


def test_resuming_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run folder"):
        loop.resume(tmp_path)


def test_pictures_beyond_the_budget_train_from_a_cache_file(
    whole: Path, toys: Path, tmp_path: Path
) -> None:
    cached = loop.train(toy_recipe(toys, "data.budget_gb=0"), tmp_path / "run", progress=False)
    assert [p.suffix for p in (cached / "cache").iterdir()] == [".u8"]
    assert_same_weights(whole, cached)


@pytest.mark.parametrize(("every", "epochs"), [(0, []), (1, [1, 2, 3]), (2, [2, 3])])
def test_evaluation_during_training_is_logged_and_changes_nothing(
    every: int, epochs: list[int], whole: Path, toys: Path, tmp_path: Path
) -> None:
    seen = []

    def evaluate(method: object) -> dict[str, float]:
        seen.append(method)
        return {"rank1": 0.25}

    recipe = toy_recipe(toys, f"engine.evaluate_every={every}")
    run = loop.train(recipe, tmp_path / "run", progress=False, evaluate=evaluate)
    assert len(seen) == len(epochs)
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert [x["epoch"] for x in lines if "rank1" in x] == epochs
    assert_same_weights(whole, run)


@pytest.mark.slow
def test_tensorboard_events_are_written(toys: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    recipe = toy_recipe(toys, "engine.tensorboard=true", "schedule.epochs=1")
    run = loop.train(recipe, tmp_path / "run", progress=False)
    assert list((run / "tensorboard").glob("events.*"))
