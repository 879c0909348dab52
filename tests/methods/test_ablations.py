"""The rows of the ablation script: each trains what its name says, and no two the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripts import benchmark
from toy import write_market

from crosscam.recipe import parse

SIZES = ("cpu", "full")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with benchmark("ablations") as module:
        yield module


def last_word(script: ModuleType, name: str, size: str) -> dict[str, str]:
    """What every key of a row is in the end."""
    row = script.ROWS[name]
    said = dict(s.split("=", 1) for s in script.settings_of(row, size, None))
    return {"method": row.method, **said, "pairs": str(row.pairs)}


@pytest.mark.parametrize("size", SIZES)
def test_nothing_overrides_what_a_row_is_about(script: ModuleType, size: str) -> None:
    for name, row in script.ROWS.items():
        said = last_word(script, name, size)
        for key, value in dict(s.split("=", 1) for s in row.settings).items():
            assert said[key] == value, f"{name}: {key}"


@pytest.mark.parametrize("size", SIZES)
def test_no_two_rows_of_a_table_are_the_same(script: ModuleType, size: str) -> None:
    for table, names in script.TABLES.items():
        assert set(names) <= set(script.ROWS), table
        for one, other in combinations(names, 2):
            assert last_word(script, one, size) != last_word(script, other, size), (one, other)


def test_every_row_is_in_a_table_and_has_a_folder_of_its_own(script: ModuleType) -> None:
    listed = {name for names in script.TABLES.values() for name in names}
    assert listed == set(script.ROWS)
    assert len({script.slug(name) for name in script.ROWS}) == len(script.ROWS)


def test_rows_at_cpu_size_share_one_schedule(script: ModuleType) -> None:
    training = ("schedule.", "sampler.", "optimizer.", "augment.", "preprocess.", "test.")
    wanted = {s for s in script.cpu_settings(24) if s.startswith(training)}
    for name in script.ROWS:
        said = last_word(script, name, "cpu")
        found = {f"{k}={v}" for k, v in said.items() if k.startswith(training)}
        assert found == wanted, name


def test_a_row_is_a_recipe(script: ModuleType) -> None:
    row = script.ROWS["san-frozen"]
    recipe = parse(None, ["method=san", *script.settings_of(row, "cpu", 12)])
    assert recipe.method.options["encoder_lr"] == 0
    assert recipe.method.options["decoder_lr"] == 1e-3
    assert recipe.schedule.epochs == 12
    assert recipe.schedule.warmup_epochs == 1


@pytest.mark.parametrize("size", SIZES)
def test_the_papers_san_has_its_head_and_weights(script: ModuleType, size: str) -> None:
    row = script.ROWS["san-paper"]
    found = parse(None, ["method=san", *script.settings_of(row, size, None)]).method.options
    weights = {k: found[k] for k in ("identity", "triplet", "reconstruction", "constraint")}
    assert weights == {"identity": 0.5, "triplet": 1.5, "reconstruction": 1, "constraint": 1}
    assert (found["embedding"], found["skips"], found["constraint_form"]) == (0, False, "paper")


def test_pairs_go_only_to_rows_that_learn_from_them(script: ModuleType, tmp_path: Path) -> None:
    options = Namespace(
        size="cpu", epochs=None, data=[f"root={tmp_path}"], set=[f"data.pairs={tmp_path}"]
    )
    pairs = {n: script.recipe_of(script.ROWS[n], options, 0).data.pairs for n in
             ("strong", "san-off", "san-basic", "san-synthetic", "san-all")}  # fmt: skip
    assert {n for n, folder in pairs.items() if folder} == {"san-synthetic", "san-all"}


def test_figures_of_a_run_are_those_of_its_own_data(script: ModuleType, tmp_path: Path) -> None:
    recipe = parse(None, ["data.name=cuhk03-np", f"data.root={tmp_path / 'cuhk'}"])
    tried = [
        ("csv", tmp_path / "cuhk" / "list.csv", 0.1),
        ("cuhk03-np", tmp_path / "cuhk" / "detected", 0.2),
        ("cuhk03-np", tmp_path / "other", 0.3),
    ]
    for number, (data, root, rank1) in enumerate(tried):
        folder = tmp_path / "run" / "evaluation" / str(number)
        folder.mkdir(parents=True)
        text = json.dumps({"data": data, "root": str(root), "rank1": rank1})
        (folder / "evaluation.json").write_text(text)
    assert script.evaluated(tmp_path / "run", recipe)["rank1"] == 0.2
    assert script.evaluated(tmp_path / "nothing", recipe) is None


WAITS = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    pathlib.Path(sys.argv[-1]).touch()
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(1)  # a second one would end it before it has saved
    pathlib.Path(sys.argv[-1]).write_text("saved")
"""


def test_a_training_under_way_is_asked_to_stop(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "CROSSCAM", (sys.executable, "-c", WAITS))
    began = time.monotonic()
    with pytest.raises(script.OutOfTime):
        script.crosscam("train", tmp_path / "late", limit=script.Limit(began))
    assert not (tmp_path / "late").exists()
    limit = script.Limit()

    def stops() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        time.sleep(0.5)
        limit.until = time.monotonic()

    other = threading.Thread(target=stops)
    other.start()
    with pytest.raises(script.OutOfTime):
        script.crosscam("train", tmp_path / "begun", limit=limit)
    other.join()
    assert (tmp_path / "begun").read_text() == "saved"
    assert time.monotonic() - began < 300
    monkeypatch.setattr(script, "CROSSCAM", (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(SystemExit, match="3"):
        script.crosscam("train", limit=script.Limit())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_whoever_stops_the_script_stops_its_training(name: str, tmp_path: Path) -> None:
    """Ctrl-C goes to everybody of the terminal's: the training hears of it once, by the script."""
    begun, out = tmp_path / "out/cpu/strong/seed-0", tmp_path / "out"
    code = f"""
import signal, sys
from scripts import benchmark
signal.signal(signal.SIGINT, signal.default_int_handler)
with benchmark("ablations") as script:
    script.CROSSCAM = (sys.executable, "-c", {WAITS!r})
    sys.argv = ["x", "--rows", "strong", "--seeds", "0", "--out", {str(out)!r}]
    sys.argv += ["--data", "name=csv", "root=list.csv"]
    script.stop_as_by_ctrl_c()
    sys.exit(script.told(script.main))
"""
    begun.parent.mkdir(parents=True)
    tests = Path(__file__).parents[1]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tests, start_new_session=True)
    try:
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        os.killpg(process.pid, getattr(signal, name))
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.wait()
    assert begun.read_text() == "saved"


def jobs(script: ModuleType, tmp_path: Path, count: int) -> tuple[dict, dict, Namespace]:
    recipe = parse(None, ["data.name=csv", f"data.root={tmp_path / 'list.csv'}"])
    keys = [("strong", seed) for seed in range(4)]
    options = Namespace(minutes=100.0, quiet=True, rerank=False, jobs=count)
    return {k: tmp_path / str(k[1]) for k in keys}, dict.fromkeys(keys, recipe), options


def test_runs_go_on_side_by_side(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two waits for the other's beginning; the time is over before the last begins."""
    both, made = threading.Barrier(2, timeout=60), []

    def make(run: Path, recipe: object, quiet: bool, rerank: bool, limit: Any) -> None:
        if limit.over():
            raise script.OutOfTime
        both.wait()
        made.append(run.name)
        if run.name == "3":
            raise script.OutOfTime  # stopped on the way

    monkeypatch.setattr(script, "make", make)
    assert script.make_all(*jobs(script, tmp_path, 2)) == ["strong, seed 3"]
    assert sorted(made) == ["0", "1", "2", "3"]
    made.clear()
    runs, recipes, options = jobs(script, tmp_path, 2)
    options.minutes = 0
    assert script.make_all(runs, recipes, options) == [f"strong, seed {s}" for s in range(4)]
    assert not made


def test_when_one_fails_the_others_save(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        """
import os, sys
if sys.argv[1] == "train":
    run = sys.argv[sys.argv.index("--out") + 1]
    if os.path.basename(run) == "1":
        other = os.path.join(os.path.dirname(run), "begun")
        while not os.path.exists(other):
            pass
        sys.exit(7)
    sys.argv.append(os.path.join(os.path.dirname(run), "begun"))
"""
        + WAITS
    )
    monkeypatch.setattr(script, "CROSSCAM", (sys.executable, "-c", code))
    with pytest.raises(SystemExit, match="7"):
        script.make_all(*jobs(script, tmp_path, 2))
    assert (tmp_path / "begun").read_text() == "saved"
    assert [p.name for p in tmp_path.iterdir()] == ["begun"]


@pytest.mark.slow
def test_rows_at_full_size_go_on_after_a_limit(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The settings of the papers on toy people, for an epoch."""
    toys = write_market(tmp_path / "market", size=(32, 16))
    words = [
        "x",
        "--size",
        "full",
        "--rows",
        "strong",
        "msfl",
        "mpn",
        "--seeds",
        "0",
        "--quiet",
        "--epochs",
        "1",
        "--data",
        f"root={toys}",
        "partial=true",
        "--out",
        str(tmp_path),
    ]
    words += ["--set", "method.backbone.name=resnet18", "method.backbone.width=0.125",
              "preprocess.size=[32,16]", "sampler.kind=grouped", "sampler.people=4",
              "sampler.images=2", "schedule.kind=cosine", "schedule.warmup=none"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [*words, "--minutes", "0"])
    script.main()
    left = "0 minutes are over; the same command goes on with: strong, seed 0; msfl, seed 0; mpn"
    assert left in capsys.readouterr().out
    assert not list((tmp_path / "full").glob("*/seed-0"))
    words.remove("strong")
    words.remove("mpn")
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    assert "goes on with" not in capsys.readouterr().out
    found = json.loads((tmp_path / "full" / "rows.json").read_text())
    assert 0 <= found["msfl"]["0"]["mAP"] <= 1
