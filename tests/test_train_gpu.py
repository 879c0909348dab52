"""The script that measures on a GPU: every kind of row at toy size, and what a call leaves."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from scripts import benchmark

from crosscam.training.passes import Plain


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with benchmark("train_gpu") as module:
        yield module


@pytest.fixture(scope="module")
def options(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    found = script.parsed(["--tiny", "--out", str(tmp_path_factory.mktemp("out"))])
    found.work.mkdir()
    return found


def test_rows_have_names_of_their_own_and_come_in_order(script: ModuleType) -> None:
    rows = script.all_rows()
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    wanted = {(row.label, row.network, row.batch) for row in rows if row.kind == "ours"}
    for batch in (64, 512):
        assert {("baseline", n, batch) for n in ("resnet50", "osnet_x1_0")} <= wanted
        methods = ("mpn", "san", "msfl", "msfl + msgr", "mmga")
        assert {(m, "resnet50", batch) for m in methods} <= wanted
    # The aims come first, and nothing that is compiled for long before every method was tried.
    assert names[:4] == [
        "ours, baseline, resnet50, 512, compiled",
        "classic, baseline, resnet50, 512, fp16",
        "ours, baseline, resnet50, 512, eager",
        "run, baseline, resnet50, 512, compiled",
    ]
    tried = max(names.index(f"ours, {m}, resnet50, 512, eager") for m in methods)
    assert not any(row.is_compiled for row in rows[4:tried])
    # Whatever has a ratio has its reference among the rows, and before the last third.
    last = len(rows) * 2 // 3
    for row in rows:
        if row.kind == "ours":
            reference = script.Row("classic", network=row.network, batch=row.batch, how="fp16")
            assert reference.name in names[:last]


@pytest.mark.slow
def test_every_kind_of_row_is_measured(script: ModuleType, options: argparse.Namespace) -> None:
    figures: dict[str, dict[str, Any]] = {}
    for row in options.rows:
        if row.how != "compiled":
            options.profile = [options.rows[0].name]
            figures[row.name] = script.measure(row, options)
    assert len(figures) == 13
    for name, found in figures.items():
        speed = found.get("images_per_s") or 1 / found["seconds"]
        assert speed > 0, name
        if name.startswith("ours"):
            rate = found["gflop_per_image"] / 1000 * found["images_per_s"]
            assert found["matrix_share"] == pytest.approx(rate / found["matrix_tflops"]), name
            assert found["market_minutes"] == pytest.approx(
                12936 * 60 / found["images_per_s"] / 60
            ), name
    # Differentiating twice costs about as many operations again.
    plain, twice = (figures[f"ours, msfl{m}, resnet18, 8, eager"] for m in ("", " + msgr"))
    assert 1.5 < twice["gflop_per_image"] / plain["gflop_per_image"] < 2.5
    profile = (options.out / "profile.txt").read_text()
    assert profile.count("== ") == 1
    assert "convolution_backward" in profile
    # And the table has all of it.
    text = script.table_of(
        {"about": script.about(options), "commands": ["x"], "rows": figures}, options.rows
    )
    cells = {tuple(c.strip() for c in line.split("|")[1:5]): line.split("|")[5:-1]
             for line in text.splitlines() if line.startswith("|")}  # fmt: skip
    reference = figures["classic, baseline, resnet18, 8, fp16"]["images_per_s"]
    for name, found in figures.items():
        if name.startswith("ours"):
            shown = cells[tuple(name.split(", ")[1:])]  # type: ignore[index]
            assert shown[0].strip() == f"{found['images_per_s']:,.0f}"
            assert shown[1].strip() == f"{found['images_per_s'] / reference:.2f}"


def test_on_a_cpu_maps_one_cell_wide_stay_in_float32(
    script: ModuleType, options: argparse.Namespace
) -> None:
    """As in training: oneDNN's own sums take memory that nobody wrote."""
    ours = script.Ours(options.rows[0], options)
    convolution = ours.method.backbone.layer3[0].conv1  # 4x2 cells to 2x1
    maps = torch.randn(8, convolution.in_channels, 4, 2)
    want = torch.nn.functional.conv2d(maps, convolution.weight, stride=2, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(convolution(maps), want.bfloat16())


@pytest.mark.slow
def test_operations_are_counted_forward_and_backward(
    script: ModuleType, options: argparse.Namespace
) -> None:
    """A linear map is one product forward, two backward; the first has no gradient to give on."""
    ours = script.Ours(options.rows[0], options)
    batch = next(ours.batches())
    with torch.no_grad():
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            ours.method.classifier(ours.method.neck(ours.method._pooled(batch.images)))
    stem = ours.method.backbone.conv1
    first = 2 * stem.weight.numel() * 16 * 8 * len(batch)  # at half of 32 x 16
    distances = ours.flops(batch) - (3 * counter.get_total_flops() - first)
    # What is left are the products of the triplet's distances: B x B x D, forward and backward.
    assert 0 <= distances <= 3 * 2 * 2 * len(batch) ** 2 * ours.method.dim


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mpn", "san", "mmga"])
def test_a_step_is_compiled_once_and_as_a_whole(
    script: ModuleType, options: argparse.Namespace, method: str
) -> None:
    """One graph an update, whatever labels come; SAN draws its triplets before it."""
    row = next(r for r in options.rows if r.kind == "ours" and r.method == method)
    ours = script.Ours(row, options)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    learner = torch.compile(ours.method, backend=backend, fullgraph=method != "san")
    batches, passes = ours.batches(), Plain(ours.method, learner, half=True)
    for _ in range(3):
        ours.step(next(batches), passes)
    assert len(graphs) == len(ours.updates)


def test_a_call_goes_on_where_the_last_one_stopped(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    awaited: list[Any] = []
    broken = {"classic, baseline, resnet18, 8, fp16"}

    def child(
        row: Any, options: argparse.Namespace, left: float, following: Any
    ) -> dict[str, Any] | None:
        if asked:
            assert row is awaited[-1]
        asked.append(row.name)
        awaited.append(following)
        assert 0 < left <= options.budget_s
        if row.name in broken:
            return {"failed": "out of memory"}
        if len(asked) == 4:
            return None  # the budget ended it
        if row.kind == "retrieval":
            return {"seconds": 1.0, "first_call_s": 2.0, "mAP": 0.5}
        return {"images_per_s": 80.0, "market_minutes": 3.0}

    def call(*words: str) -> dict[str, Any]:
        asked.clear()
        monkeypatch.setattr(sys, "argv", ["x", "--tiny", "--out", str(tmp_path), *words])
        script.main()
        found: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
        return found

    monkeypatch.setattr(script, "child", child)
    names = [row.name for row in script.tiny_rows("cpu")]
    assert call("--budget-s", "1")["rows"] == {}  # nothing is begun that cannot end
    first = call()
    assert asked == names
    assert list(first["rows"]) == [*names[:3], *names[4:]]
    table = (tmp_path / "table.md").read_text()
    assert "failed: out of memory" in table
    second = call()
    assert asked == [names[3]]
    assert set(second["rows"]) == set(names)
    assert second["commands"][-1].endswith(f"--tiny --out {tmp_path}")
    broken.clear()
    call()
    assert asked == []
    third = call("--again", "--only", "fp16")
    assert asked == [names[2]]
    assert third["rows"][names[2]]["images_per_s"] == 80.0
    assert "| 1.00 |" in (tmp_path / "table.md").read_text()
    with pytest.raises(SystemExit, match="measured elsewhere or otherwise"):
        call("--pictures", "24")


@pytest.mark.slow
def test_a_row_that_fails_leaves_the_others_their_figures(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processes of their own: our rows need the matrix rate, the classic ones do not."""
    words = ["--tiny", "--matrix", "-1", "--out", str(tmp_path), "--only", "fp32", "mmga"]
    monkeypatch.setattr(sys, "argv", ["x", *words])
    script.main()
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert list(rows) == ["classic, baseline, resnet18, 8, fp32", "ours, mmga, resnet18, 8, eager"]
    classic, mmga = rows.values()
    assert classic["images_per_s"] > 0
    assert "negative dimension" in mmga["failed"]
    assert "Traceback" in (tmp_path / "failures.txt").read_text()


FIGURES = '{"images_per_s": 80.0}'


@pytest.mark.parametrize(
    ("printed", "ends", "want"),
    [
        (f"{FIGURES}\n", "waits", {"images_per_s": 80.0, "notes": ["no profile: took over 2 s"]}),
        (f"{FIGURES}\n", "fails", {"images_per_s": 80.0, "notes": ["no profile: no memory"]}),
        (f"a word\n{FIGURES}\n", "well", {"images_per_s": 80.0, "notes": []}),
        ("", "waits", None),
        ("a word\n", "waits", None),
        ("17\n", "fails", {"failed": "no memory"}),
        ("a word\n", "well", {"failed": "printed no figures"}),
    ],
)
def test_figures_outlive_the_profile_behind_them(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    printed: str,
    ends: str,
    want: dict[str, Any] | None,
) -> None:
    """A process prints them, then profiles until it is done, fails, or the budget is over."""

    class Process:
        pid, returncode, waited = 0, {"waits": -9, "fails": 1, "well": 0}[ends], False

        def communicate(self, word: str = "", timeout: float = 0.0) -> tuple[str, str]:
            if ends == "waits" and not self.waited:
                self.waited = True
                raise subprocess.TimeoutExpired("row", timeout)
            return printed, "Traceback\nno memory\n" if ends == "fails" else ""

    monkeypatch.setattr(script, "started", lambda row, options: Process())
    monkeypatch.setattr(script.os, "killpg", lambda pid, signal: None)
    options = script.parsed(["--tiny", "--row-s", "100", "--out", str(tmp_path)])
    found = script.child(script.tiny_rows("cpu")[0], options, 2.0, None)
    assert (found is None) == (want is None)
    if found is not None:
        assert found.pop("took_s") < 2.0
        assert found == want
    assert (tmp_path / "failures.txt").exists() == (ends == "fails")


@pytest.mark.parametrize("channels", [12, 16])
def test_a_packed_convolution_gives_the_same_numbers(script: ModuleType, channels: int) -> None:
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(3, 8, 7, 2, padding=3, bias=False).double()
    packed = script.PackedConvolution(plain, channels)
    images = torch.randn(2, 3, 32, 16, dtype=torch.float64, requires_grad=True)
    toward = torch.randn(2, 8, 16, 8, dtype=torch.float64)
    wanted = torch.autograd.grad((plain(images) * toward).sum(), [images, plain.weight])
    got = torch.autograd.grad((packed(images) * toward).sum(), [images, plain.weight])
    torch.testing.assert_close(packed(images), plain(images))
    torch.testing.assert_close(got, wanted)


def test_the_rate_of_a_run_leaves_its_first_steps_out(script: ModuleType) -> None:
    """10 s for the first 20 steps of 8 pictures, then 2 s for 20: 80 a second, not 26.7."""
    lines = [{"step": 20, "images_per_second": 16.0}, {"step": 30, "images_per_second": 1.0},
             {"step": 40, "images_per_second": 320 / 12}]  # fmt: skip
    assert script.steady_rate(lines, 8) == pytest.approx(80.0)
    assert script.steady_rate(lines[:1], 8) is None


def test_the_aims_stand_over_the_table(script: ModuleType) -> None:
    made = {
        "ours, baseline, resnet50, 512, compiled": {"images_per_s": 900.0, "matrix_share": 0.42},
        "ours, baseline, resnet50, 512, eager": {"images_per_s": 600.0, "matrix_share": 0.28},
        "classic, baseline, resnet50, 512, fp16": {"images_per_s": 150.0},
        "run, baseline, resnet50, 512, compiled": {"failed": "out of memory"},
    }
    assert script.aims_of(made) == [
        "share of the matrix rate: 42.0% (aim: 40 %)",
        "against the classic float16 pipeline: 6.00 times (aim: 5)",
    ]
    made["run, baseline, resnet50, 512, compiled"] = {"market_minutes": 2.5}
    assert script.aims_of(made)[-1] == "a training of Market-1501's size: 2.50 minutes (aim: 3)"
    assert script.aims_of({}) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_no_step_waits_for_the_gpu(script: ModuleType, tmp_path: Path) -> None:
    words = ["--sync", "error", "--pictures", "512", "--people", "64", "--steps", "2"]
    words += ["--seconds", "0", "--warmup", "2", "--matrix", "256", "--out", str(tmp_path)]
    options = script.parsed(words)
    options.work.mkdir()
    for method, keywords in (("baseline", {}), *script.METHODS):
        found = script.measure(script.Row("ours", method, keywords, "resnet18"), options)
        assert found["syncs_per_step"] == 0, method
