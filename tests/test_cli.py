"""The command line as a user meets it: train, evaluate, search, score, describe, data."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import BENCHMARKS, benchmark
from toy import write_market

from crosscam import embedder, evaluate
from crosscam.cli import SPIN, main
from crosscam.data import datasets
from crosscam.encoder import Encoder
from crosscam.errors import CheckpointError
from crosscam.image import decode
from crosscam.models import resolve
from crosscam.recipe import parse
from crosscam.retrieval import RerankSettings, evaluate_distances, rerank

SETTINGS = [
    "data.partial=true",
    "preprocess.size=[64,32]",
    "augment.pad=2",
    "sampler.people=4",
    "sampler.images=4",
    "method.backbone.name=resnet18",
    "method.backbone.width=0.125",
    "method.center=0",
    "optimizer.lr=0.003",
    "schedule.epochs=6",
    "schedule.warmup=none",
    "schedule.kind=cosine",
    "engine.precision=fp32",
]


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("cli") / "market", shots=3)


@pytest.fixture(scope="module")
def run(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    arguments = ["train", *SETTINGS, f"data.root={toys}", "--out", str(out), "--quiet"]
    assert main(arguments) == 0
    return out


def test_evaluate_prints_and_writes(
    run: Path, toys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--quiet"]) == 0
    printed = capsys.readouterr().out
    for word in ("rank-1", "rank-20", "rank-precision", "trapezoid", "mINP", "queries"):
        assert word in printed
    folder = run / "evaluation" / "market1501"  # the title of the data set
    written = json.loads((folder / "evaluation.json").read_text())
    assert written["n_queries"] == 18
    assert written["n_gallery"] == 36
    assert 0 <= written["mAP"] <= 1
    # How it was made: what every figure must be read with.
    recipe = parse(run / "recipe.yaml")
    assert written["test"] == {
        "size": list(recipe.preprocess.size),
        "interpolation": "bilinear",
        "flip": recipe.test.flip,
        "metric": recipe.test.metric,
        "seed": 0,
    }
    assert written["trained"] == {"seed": recipe.seed, "epochs": recipe.schedule.epochs}
    assert (folder / "ranked.html").stat().st_size > 10_000
    assert str(folder / "ranked.html") in printed


def test_other_lists_and_rules_have_figures_of_their_own(
    run: Path, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["path,pid,camid,split"]
    for split, folder in (("query", "query"), ("gallery", "bounding_box_test")):
        for path in sorted((toys / folder).glob("*.jpg")):
            pid, cam = path.name.split("_")[:2]
            lines.append(f"{path},{pid},{cam[:2]},{split}")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "list.csv").write_text("\n".join(lines))
    pages = []
    for words in (["a"], ["a", "--option", "same_camera=keep"], ["b"], ["a"]):
        root = str(tmp_path / words[0] / "list.csv")
        command = ["evaluate", str(run), "--quiet", "--data", "csv", "--root", root, *words[1:]]
        assert main(command) == 0
        printed = capsys.readouterr().out
        keep = len(words) > 1
        assert ("no camera rule" if keep else "own camera left out") in printed
        pages.append(printed.splitlines()[-1].split()[-1])
    assert pages[0] == pages[3]
    written = json.loads((Path(pages[1]).parent / "evaluation.json").read_text())
    assert written["title"] == "csv list.csv"  # whatever the folder is called
    assert [Path(p).parent.name for p in pages[:3]] == [
        "csv-list.csv",
        "csv-list.csv-2",
        "csv-list.csv-3",
    ]


def test_learned_beats_chance_on_people_never_seen(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--quiet", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["rank1"] > 0.5  # chance is 1 in 6


def test_evaluate_is_the_definition(run: Path, toys: Path) -> None:
    """The figures equal a stable sort over plain cosine similarities of single pictures."""
    model = embedder.load(run)
    dataset = datasets.load("market1501", toys, partial=True)
    result = evaluate.evaluate(model, dataset)
    vectors = {
        s.path: model.function(model.preprocess.load(s.path)[None])[0].astype(np.float64)
        for s in (*dataset.query, *dataset.gallery)
    }
    precisions, first = [], []
    for q in dataset.query:
        scores = [-float(vectors[q.path] @ vectors[g.path]) for g in dataset.gallery]
        ranked = [dataset.gallery[i] for i in np.argsort(scores, kind="stable")]
        kept = [g for g in ranked if not (g.pid == q.pid and g.camid == q.camid)]
        right = [i for i, g in enumerate(kept) if g.pid == q.pid]
        precisions.append(np.mean([(k + 1) / (i + 1) for k, i in enumerate(right)]))
        first.append(right[0] == 0)
    assert result.metrics.rank1 == pytest.approx(np.mean(first), abs=1e-12)
    assert result.metrics.mAP == pytest.approx(np.mean(precisions), abs=1e-9)


def test_a_model_that_sees_no_difference_is_warned_of(
    run: Path, toys: Path, tmp_path: Path
) -> None:
    dataset = datasets.load("market1501", toys, partial=True)
    sound = evaluate.evaluate(embedder.load(run), dataset)
    g = sound.gallery_features.astype(np.float64)
    pairs = [g[i] @ g[j] for i in range(len(g)) for j in range(i)]
    assert sound.likeness == pytest.approx(np.median(pairs), abs=1e-6)
    assert not any("collapsed" in warning for warning in sound.warnings)
    nearly = np.ones_like(sound.gallery_features) + 0.01 * sound.gallery_features
    nearly[:4] = sound.gallery_features[:4]  # few pictures that differ do not make it a sound one
    collapsed = dataclasses.replace(sound, gallery_features=nearly)
    assert "training has collapsed" in collapsed.text()
    page = collapsed.write(tmp_path, lists=1, top=2)
    assert "training has collapsed" in page.read_text(encoding="utf-8")
    written = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert written["median_cosine"] > evaluate.COLLAPSED


def test_describing_for_no_classes_is_refused_without_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["describe", "baseline", "--num-classes", "0"]) == 1
    assert "--num-classes must be 1 or more, got 0" in capsys.readouterr().err


def test_small_test_sets_are_warned_of(run: Path, toys: Path, tmp_path: Path) -> None:
    dataset = datasets.load("market1501", toys, partial=True)
    small = evaluate.evaluate(embedder.load(run), dataset)
    (warning,) = small.warnings  # 18 queries of 6 people
    assert "queries that count: 18, people they show: 6" in warning
    assert "moves rank-1 by 5.6%" in warning
    assert warning in small.text()
    assert warning in small.write(tmp_path, lists=1, top=2).read_text(encoding="utf-8")

    pid = dataset.query[0].pid
    alone = dataclasses.replace(
        dataset,
        query=tuple(s for s in dataset.query if s.pid == pid),
        gallery=tuple(s for s in dataset.gallery if s.pid == pid),
    )
    one = evaluate.evaluate(embedder.load(run), alone)
    # Pictures of one person are alike; that is no collapse.
    one = dataclasses.replace(one, gallery_features=np.ones_like(one.gallery_features))
    assert one.likeness > evaluate.COLLAPSED
    (warning,) = one.warnings
    assert "single person" in warning


def test_lists_leave_out_what_the_protocol_leaves_out(
    run: Path, toys: Path, tmp_path: Path
) -> None:
    root = tmp_path / "market"
    shutil.copytree(toys, root)
    junk = next((root / "bounding_box_test").iterdir())
    shutil.copy(junk, junk.with_name("-1_c1s1_000000_00.jpg"))
    model = embedder.load(run)
    for rule in ("drop", "keep"):
        dataset = datasets.load("market1501", root, partial=True, same_camera=rule)
        rows = evaluate.evaluate(model, dataset).rows(lists=3, top=36)
        pictures = {s.path: s for s in (*dataset.query, *dataset.gallery)}
        for row in rows:
            query, hits = pictures[row.query], [pictures[h.path] for h in row.hits]
            own = [h for h in hits if (h.pid, h.camid) == (query.pid, query.camid)]
            assert all(h.pid != -1 for h in hits)
            assert len(own) == (0 if rule == "drop" else 2)


def test_flip_adds_the_mirrored_features(run: Path, toys: Path, tmp_path: Path) -> None:
    flipped = tmp_path / "run"
    shutil.copytree(run, flipped)
    text = (flipped / "recipe.yaml").read_text().replace("flip: false", "flip: true")
    (flipped / "recipe.yaml").write_text(text)
    plain, both = embedder.load(run), embedder.load(flipped)
    picture = plain.preprocess.load(next((toys / "query").iterdir()))
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    expected = plain.function(picture[None]) + plain.function(mirrored[None])
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(both.function(picture[None]), expected, atol=1e-6)


def test_classic_descriptors_evaluate(toys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("hsv", "pixels"):
        arguments = ["evaluate", name, "--data", "market1501", "--root", str(toys), "--partial"]
        assert main([*arguments, "--quiet", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["n_valid_queries"] == 18


def test_search_ranks_a_folder_without_ids(
    run: Path, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery = tmp_path / "bilder ä"
    gallery.mkdir()
    for number, file in enumerate(sorted((toys / "bounding_box_test").iterdir())):
        shutil.copy(file, gallery / f"{number}.jpg")
    query = next((toys / "query").iterdir())
    page = tmp_path / "found.html"
    arguments = ["search", str(query), "--gallery", str(gallery), "--model", str(run), "--quiet"]
    assert main([*arguments, "--top", "5", "--out", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    scores = [m["score"] for m in found[0]["matches"]]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert page.read_text().count("<figure") == 6
    picture = tmp_path / "new" / "found.JPG"
    assert main([*arguments, "--top", "5", "--out", str(picture)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"picture  {picture}"
    with Image.open(picture) as drawn:
        assert drawn.format == "JPEG"
        assert drawn.size == (6 * 148 + 30, 256 + 48)  # the query and five matches


def test_a_query_that_lies_in_the_gallery_is_left_out(
    run: Path, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = sorted((toys / "query").iterdir())[0]
    arguments = ["search", str(query), "--gallery", str(toys / "query"), "--model", str(run)]
    assert main([*arguments, "--quiet", "--json", "--out", str(tmp_path / "p.html")]) == 0
    paths = [m["path"] for m in json.loads(capsys.readouterr().out)[0]["matches"]]
    assert len(paths) == 10
    assert str(query) not in paths


def test_searching_with_odd_pictures_works(run: Path, toys: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "odd"
    gallery.mkdir()
    for mode in ("L", "CMYK", "RGB"):
        Image.new(mode, (1, 1)).save(gallery / f"{mode}.jpg")
    Image.new("RGBA", (40, 90), (10, 20, 30, 128)).save(gallery / "alpha.png")
    Image.fromarray(np.full((20, 10), 30_000, np.uint16)).save(gallery / "deep.png")
    query = next((toys / "query").iterdir())
    arguments = ["search", str(query), "--gallery", str(gallery), "--model", str(run), "--quiet"]
    assert main([*arguments, "--out", str(tmp_path / "p.html")]) == 0


def test_score_reads_features_of_any_model(
    run: Path, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = embedder.load(run)
    dataset = datasets.load("market1501", toys, partial=True)
    result = evaluate.evaluate(model, dataset)
    arrays = {}
    for side, samples, features in (
        ("query", dataset.query, result.query_features),
        ("gallery", dataset.gallery, result.gallery_features),
    ):
        arrays[f"{side}_features"] = features
        arrays[f"{side}_pids"] = np.array([s.pid for s in samples])
        arrays[f"{side}_camids"] = np.array([s.camid for s in samples])
    np.savez(tmp_path / "f.npz", **arrays)
    assert main(["score", str(tmp_path / "f.npz"), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["mAP"] == result.metrics.mAP
    assert scored["rank1"] == result.metrics.rank1
    assert main(["score", str(tmp_path / "f.npz")]) == 0
    assert "mINP" in capsys.readouterr().out


def test_re_ranking_takes_the_settings_that_are_given(
    run: Path, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    people = np.repeat(np.arange(4), 3)
    centers = generator.normal(size=(4, 8))
    arrays = {
        f"{side}_features": (centers[people] + generator.normal(size=(12, 8))).astype(np.float32)
        for side in ("query", "gallery")
    }
    labels = {f"{side}_pids": people for side in ("query", "gallery")}
    labels |= {"query_camids": people, "gallery_camids": people + 4}  # of different cameras all
    np.savez(tmp_path / "f.npz", **arrays, **labels)
    score = ["score", str(tmp_path / "f.npz"), "--rerank", "--json"]
    assert main([*score, "--k1", "24"]) == 1
    said = capsys.readouterr().err
    assert "Use k1 of at most 23 and k2 of at most 24 (on the command line --k1 and --k2)" in said
    assert main([*score, "--k1", "5", "--k2", "2", "--lambda", "0.1"]) == 0
    distances = rerank(*arrays.values(), RerankSettings(5, 2, 0.1))
    want = evaluate_distances(distances, people, people, people, people + 4).to_json()
    assert json.loads(capsys.readouterr().out)["mAP"] == pytest.approx(want["mAP"])
    assert main([*score, "--lambda", "3"]) == 1
    assert "must be in [0, 1], got 3.0 (on the command line --lambda)" in capsys.readouterr().err
    assert main(["score", str(tmp_path / "f.npz"), "--k1", "5"]) == 1
    assert "belong to --rerank" in capsys.readouterr().err
    measure = ["evaluate", str(run), "--quiet", "--json", "--rerank", "--k1", "7", "--out"]
    assert main([*measure, str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["test"]["rerank"]["k1"] == 7


@pytest.mark.parametrize(
    ("said", "found"),
    [({}, SPIN), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_waiting_threads_give_way_unless_the_environment_says_otherwise(
    said: dict[str, str], found: str
) -> None:
    code = (
        "import os, sys; from crosscam.cli import main; before = 'torch' in sys.modules; "
        "main(['data', 'list']); print(before, os.environ.get('GOMP_SPINCOUNT'))"
    )
    openmp = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {k: v for k, v in os.environ.items() if k not in openmp} | said
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert out.stdout.splitlines()[-1] == f"False {found}"


@pytest.mark.parametrize("world", [1, 2])
def test_one_of_several_processes_ends_without_waiting_for_threads(world: int) -> None:
    code = (
        "import atexit, sys; atexit.register(print, 'waited'); from crosscam.cli import main; "
        "sys.exit(main(['train', '--help']))"
    )
    environment = {**os.environ, "WORLD_SIZE": str(world)}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert "schedule.epochs" in out.stdout
    assert out.stdout.endswith("waited\n") == (world == 1)


def test_describe(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["describe", "baseline", "--num-classes", "751", "--json"]
    assert main([*arguments, "method.center=0", "method.backbone.last_stride=2"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["feature_dim"] == 2048
    assert described["input_size"] == [256, 128]
    # ResNet-50 without its classifier, the neck's weight and frozen bias
    assert described["params_deploy"] == 23_508_032 + 2 * 2048
    assert described["params_train"] == described["params_deploy"] + 751 * 2048
    assert described["macs"] == pytest.approx(2.67e9, rel=0.005)


def test_describe_takes_recipes_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "finetune", "--json", "method.backbone.width=0.125"]) == 0
    described = json.loads(capsys.readouterr().out)  # without the weights of width 0.5
    assert (described["feature_dim"], described["input_size"]) == (64, [128, 64])
    (tmp_path / "own.yaml").write_text("preprocess: {size: [64, 32]}\nmethod: mpn\n")
    small = ["method.backbone.name=resnet18", "method.backbone.width=0.125"]
    assert main(["describe", str(tmp_path / "own.yaml"), "--json", *small]) == 0
    assert json.loads(capsys.readouterr().out)["input_size"] == [64, 32]
    assert main(["describe", "strong-basline"]) == 1
    said = capsys.readouterr().err
    assert "neither a method nor a recipe. Did you mean 'strong-baseline'?" in said


def test_data_check_and_list(toys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "market1501", str(toys)]) == 1
    assert main(["data", "check", "market1501", str(toys), "--partial"]) == 0
    capsys.readouterr()
    assert main(["data", "list", "--json"]) == 0
    assert "market1501" in {entry["name"] for entry in json.loads(capsys.readouterr().out)}


def test_train_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    printed = capsys.readouterr().out
    for key in ("optimizer.lr", "method.margin", "method.backbone.name", "augment.erase_area"):
        assert f"\n  {key}\n" in printed


def test_train_help_shows_the_values_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mpn", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "settings of recipe mpn, method mpn (" in printed
    assert "default sgd)" in printed
    assert "\n  method.num_parts\n" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["train", "cpu", "--epochs", "3"],
            "--epochs. Settings stand without dashes, as schedule.epochs=3 (",
        ),
        (["train", "--optimizer.lr=1e-3"], "without dashes, as optimizer.lr=1e-3 ("),
        (["train", "cpu", "--batch-size"], "dashes (crosscam train --help lists them)\n"),
        (["train", "--epochs", "3"], "without dashes, as schedule.epochs=3 ("),
        (["train", "--epochs", "--quiet"], "without dashes, as schedule.epochs=... ("),
        (["train", "mpn", "--method.prior=extent"], "as method.prior=extent ("),
        (["train", "mpn", "--method.num_parts", "4"], "as method.num_parts=4 ("),
        (["train", "method=mpn", "--method.num-parts", "4"], "as method.num_parts=4 ("),
        (["train", "--method=mpn", "seed=1"], "as method.name=mpn ("),
        (["train", "--method.num_parts", "4"], "dashes (crosscam"),
        (["train", "--root", "/x"], "as data.root=/x ("),
        (["train", "cpu", "--data.options.split=3"], "as data.options.split=3 ("),
        (["train", "san", "--synthetic", "2"], "as method.synthetic=2 ("),
        (["train", "no-such", "--seed", "2"], "as seed=2 ("),
        (["describe", "mpn", "--num_parts", "2"], "as method.num_parts=2 (crosscam train --help"),
        (["describe", "strong-baseline", "--margin=soft"], "as method.margin=soft ("),
        (["describe", "nothing", "--lr=2"], "as optimizer.lr=2 ("),
        (["data", "list", "--epochs"], "unknown arguments: --epochs\n"),
    ],
)
def test_a_setting_with_dashes_is_told_how_it_is_written(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert said in capsys.readouterr().err


def test_methods_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    assert "baseline" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "optimizer.lrr=1"], "Did you mean 'optimizer.lr'"),
        (["train", "data.root=/nowhere"], "/nowhere"),
        (["train", "--resume", "/nowhere"], "/nowhere is not a run folder"),
        (["train", "--resume", "/nowhere", "--out", "/x"], "keeps its recipe"),
        (["train", "cpu", "--resume", "/nowhere"], "keeps its recipe"),
        (["train", "--device", "mps"], "not supported"),
        (["train", "--device", "gpu7"], "unknown device"),
        (["train", "optimizer.lr=-1"], "optimizer.lr must be above 0"),
        (["train", "optimizer.betas=[0.9,2]"], "optimizer.betas must be in [0, 1)"),
        (["train", "schedule.epochs=0"], "schedule.epochs must be 1 or more"),
        (["train", "engine.ema=1.5"], "engine.ema must be in [0, 1)"),
        (["train", "engine.log_every=0"], "engine.log_every must be 1 or more"),
        (["describe", "baseline", "method.dropout=2"], "method.dropout must be in [0, 1)"),
        (["describe", "baseline", "method.embedding=-5"], "method.embedding 0 or more"),
        (["evaluate", "hsv", "--option", "split=3"], "belong to --data"),
        (
            ["describe", "baseline", "method.backbone.name=osnet_x0_25", "preprocess.size=[1,1]"],
            "pictures of 1 x 1 pixels do not fit",
        ),
        (["describe", "finetune", "preprocess.size=[8,4]"], "preprocess.size=[32,16] is enough"),
        (["evaluate", "/nowhere"], "not a run folder"),
        (["evaluate", "peopel"], "hsv, pixels, people, people-small. Did you mean 'people'?"),
        (["calibrate", "peopel", "--pairs", "/x"], "Did you mean 'people'?"),
        (["export", str(resolve("people")), "/x"], "is an encoder: the network alone"),
        (["evaluate", "hsv"], "give --data and --root"),
        (["evaluate", "hsv", "--data", "market1501"], "--data needs --root"),
        (["evaluate", "hsv", "--data", "market1502", "--root", "/x"], "market1501"),
        (["search", "/q.jpg", "--gallery", "/g", "--model", "hsv"], "no query picture"),
        (["search", __file__, "--gallery", "/g", "--model", "hsv"], "no gallery folder"),
        (["describe", "basline"], "Did you mean 'baseline'"),
        (["data", "check", "nothing", "/x"], "nothing"),
    ],
)
def test_errors_are_one_clear_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if arguments[0] == "train" and "--resume" not in arguments:
        arguments = [*arguments, "--out", str(tmp_path / "run")]
    assert main(arguments) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("crosscam: ")
    assert said in printed
    assert "Traceback" not in printed


def test_a_picture_that_is_none_is_named(
    run: Path, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery = tmp_path / "g"
    gallery.mkdir()
    (gallery / "half.jpg").write_bytes(next((toys / "query").iterdir()).read_bytes()[:300])
    query = next((toys / "query").iterdir())
    arguments = ["search", str(query), "--gallery", str(gallery), "--model", str(run), "--quiet"]
    assert main(arguments) == 1
    assert "half.jpg" in capsys.readouterr().err


def test_weights_that_do_not_fit_are_named(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    text = (other / "recipe.yaml").read_text().replace("width: 0.125", "width: 0.25")
    (other / "recipe.yaml").write_text(text)
    with pytest.raises(CheckpointError, match="does not fit"):
        embedder.load(other)
    (other / "weights.safetensors").unlink()
    (other / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    with pytest.raises(CheckpointError, match="no weights"):
        embedder.load(other)


def test_evaluation_sees_the_pixels_that_training_sees(run: Path, toys: Path) -> None:
    """One image module: what embeds files equals normalizing decoded pixels by hand."""
    model = embedder.load(run)
    assert model.recipe is not None
    file = next((toys / "query").iterdir())
    picture = torch.from_numpy(decode(file).copy())[None]
    by_hand = (picture.permute(0, 3, 1, 2).float() / 255 - torch.tensor(
        model.preprocess.mean).view(1, 3, 1, 1)) / torch.tensor(
        model.preprocess.std).view(1, 3, 1, 1)  # fmt: skip
    np.testing.assert_allclose(
        model.preprocess.normalize(picture.numpy()), by_hand.numpy(), atol=1e-6
    )
    np.testing.assert_array_equal(
        model.files([file])[0], model.function(model.preprocess.load(file)[None])[0]
    )


@pytest.mark.slow
def test_rendered_people_train_and_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people, out = tmp_path / "people", tmp_path / "run"
    size = ["--ids", "8", "--cameras", "2", "--shots", "2", "--workers", "1"]
    assert main(["synth", str(people), *size, "--quiet"]) == 0
    assert "crosscam train demo data.name=rendered" in capsys.readouterr().out
    assert main(["data", "check", "rendered", str(people)]) == 0
    settings = [s for s in SETTINGS if not s.startswith("data.")]
    arguments = [*settings, "data.name=rendered", f"data.root={people}", "schedule.epochs=1"]
    assert main(["train", *arguments, "--out", str(out), "--quiet"]) == 0
    assert main(["evaluate", str(out), "--quiet", "--json"]) == 0
    text = capsys.readouterr().out
    assert json.loads(text[text.index("{") :])["n_valid_queries"] > 0


def test_a_failed_start_leaves_the_folder_free(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run"), "--quiet"]
    assert main(["train", *SETTINGS, "data.root=/nowhere", *out]) == 1
    assert main(["train", *SETTINGS, f"data.root={toys}", "schedule.epochs=1", *out]) == 0


def test_places_that_cannot_be_written_are_named(
    run: Path, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    query = str(next((toys / "query").iterdir()))
    search = ["search", query, "--gallery", str(toys / "query"), "--model", str(run), "--quiet"]
    for arguments in (
        ["train", *SETTINGS, f"data.root={toys}", "--out", str(file / "run"), "--quiet"],
        ["evaluate", str(run), "--out", str(file / "page"), "--quiet"],
        [*search, "--out", str(file / "page.html")],
    ):
        assert main(arguments) == 1
        said = capsys.readouterr().err
        assert said.startswith("crosscam: ")
        assert "file" in said


def test_places_are_looked_at_before_the_work(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    query = str(next((toys / "query").iterdir()))
    own = ["--data", "market1501", "--root", str(toys), "--partial"]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(embedder, "load", never)
    monkeypatch.setattr(Encoder, "load", never)
    for arguments in (
        ["evaluate", "hsv", *own, "--out", str(file)],
        ["search", query, "--gallery", str(toys), "--model", "hsv", "--out", str(file / "a.html")],
        ["embed", str(toys), "--model", "people-small", "-o", str(file / "f.npz")],
        ["calibrate", "people-small", *own, "--out", str(file)],
    ):
        assert main(arguments) == 1
        assert str(file) in capsys.readouterr().err


def test_figures_are_said_before_the_page_is_written(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluate.Evaluation, "write", full)
    words = ["evaluate", "hsv", "--data", "market1501", "--root", str(toys), "--partial", "--quiet"]
    assert main([*words, "--out", str(tmp_path / "page")]) == 1
    printed = capsys.readouterr()
    assert "rank-1" in printed.out
    assert "No space left" in printed.err


def test_a_search_may_leave_out_what_cannot_be_read(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery = tmp_path / "mixed"
    gallery.mkdir()
    (gallery / "a.jpg").write_bytes(b"none")  # before those that can be read
    pictures = sorted((toys / "query").glob("*.jpg"))[:3]
    for name, picture in zip("bcd", pictures, strict=True):
        shutil.copy(picture, gallery / f"{name}.jpg")
    words = ["search", str(pictures[1]), "--model", "hsv", "--out", str(tmp_path / "p.html")]
    words += ["--json", "--quiet", "--gallery"]
    assert main([*words, str(gallery)]) == 1
    assert "Or leave those of the gallery out: --skip-bad." in capsys.readouterr().err
    assert main([*words, str(gallery), "--skip-bad"]) == 0
    printed = capsys.readouterr()
    assert "left out, since they cannot be used: 1\n  " in printed.err
    assert "a.jpg" in printed.err
    matches = json.loads(printed.out)[0]["matches"]
    assert Path(matches[0]["path"]).name == "c.jpg"
    assert len(matches) == 3
    words[1] = str(gallery / "a.jpg")
    assert main([*words, str(gallery), "--skip-bad"]) == 1
    assert "a query picture cannot be used: " in capsys.readouterr().err
    for name in "bcd":
        (gallery / f"{name}.jpg").unlink()
    words[1] = str(pictures[1])
    assert main([*words, str(gallery), "--skip-bad"]) == 1
    assert "no picture of the gallery can be used: " in capsys.readouterr().err


@pytest.mark.parametrize("model", ["hsv", "people-small"])
def test_search_and_evaluation_go_without_pytorch(model: str, toys: Path, tmp_path: Path) -> None:
    data = ["--data", "market1501", "--root", str(toys), "--partial"]
    query = str(next((toys / "query").iterdir()))
    page = str(tmp_path / "p.html")
    for words in (
        ["evaluate", model, *data, "--quiet"],
        ["search", query, "--gallery", str(toys / "query"), "--model", model, "--out", page],
    ):
        done = without_pytorch(words)
        assert done.returncode == 0, done.stderr
    assert Path(page).is_file()


@pytest.mark.parametrize(
    "words", [["methods"], ["describe", "mpn"], ["train", "cpu", "data.root=/x"],
              ["train", "cpu", "--lr", "1"], ["export", "run", "out"]],
)  # fmt: skip
def test_what_needs_pytorch_says_so(words: list[str]) -> None:
    done = without_pytorch(words)
    assert done.returncode == 1
    assert done.stderr == "crosscam: PyTorch is needed for this: pip install torch\n"


def without_pytorch(words: list[str]) -> subprocess.CompletedProcess[str]:
    """A command where PyTorch cannot be imported."""
    code = (
        "import sys; sys.modules['torch'] = None; from crosscam.cli import main; sys.exit(main())"
    )
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


def test_hidden_files_of_a_gallery_are_passed_over(
    run: Path, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery = tmp_path / "g"
    gallery.mkdir()
    query = next((toys / "query").iterdir())
    shutil.copy(query, gallery / "a.jpg")
    (gallery / "._a.jpg").write_bytes(b"resource fork")
    arguments = ["search", str(query), "--gallery", str(gallery), "--model", str(run), "--quiet"]
    assert main([*arguments, "--out", str(tmp_path / "p.html")]) == 0


def test_a_run_works_from_another_folder(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "data").symlink_to(toys)
    monkeypatch.chdir(tmp_path)
    settings = ["data.partial=true", "preprocess.size=[32,16]", "augment.pad=0"]
    settings += ["sampler.people=4", "sampler.images=2", "schedule.epochs=1", "data.root=data"]
    assert main(["train", "method=mine.py", *settings, "--out", "run", "--quiet"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["evaluate", "../run", "--quiet"]) == 0


def test_a_run_whose_data_are_not_there_asks_for_them(
    run: Path, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved, ignore=shutil.ignore_patterns("checkpoints", "cache"))
    recipe = moved / "recipe.yaml"
    text = recipe.read_text()
    asked = (
        ("/gone", "not at /gone any more: say where they are with --root."),
        ("''", "was not trained on a data set: give --data and --root."),
    )
    for root, said in asked:
        recipe.write_text(text.replace(f"root: {toys.resolve()}", f"root: {root}"))
        assert main(["evaluate", str(moved), "--quiet"]) == 1
        assert said in capsys.readouterr().err
        assert main(["evaluate", str(moved), "--root", str(toys), "--quiet"]) == 0
        capsys.readouterr()


def test_a_page_is_not_written_over_a_folder(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = sorted((toys / "query").glob("*.jpg"))[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "found").mkdir()
    for out in (".", "found"):
        words = ["search", str(picture), "--gallery", str(toys / "query"), "--model", "hsv"]
        assert main([*words, "--out", out, "--quiet"]) == 1
        assert f"{out} is a folder, and a file is written" in capsys.readouterr().err


def test_own_pictures_that_are_not_enough_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(4):
        path = Path(f"one/anna/{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 64), (i, 0, 0)).save(path)
    words = ["train", "cpu", "data.name=folder", "data.root=one", "--out", "run", "--quiet"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "no training images" in said
    assert "two persons or more" in said
    Path("list.csv").write_text("path,pid\nx.jpg,1\n")
    assert main(["data", "check", "csv", "list.csv"]) == 1
    assert str(tmp_path.resolve()) in capsys.readouterr().out.replace("\n", "").replace(" ", "")


def test_a_score_of_one_camera_names_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = {"features": np.eye(2, dtype=np.float32), "pids": np.arange(2), "camids": [1, 1]}
    both = {f"{side}_{k}": v for side in ("query", "gallery") for k, v in some.items()}
    np.savez(tmp_path / "f.npz", **both)
    assert main(["score", str(tmp_path / "f.npz")]) == 1
    assert "--same-camera keep" in capsys.readouterr().err
    assert main(["score", str(tmp_path / "f.npz"), "--same-camera", "keep"]) == 0


@pytest.mark.parametrize(
    ("size", "line", "status"),
    [((64, 128), 5_000, 0), ((8_001, 8_000), 40_000_000, 1)],  # Pillow warns of both
)
def test_a_picture_beyond_the_bound_is_said_once_and_pillows_bound_never(
    size: tuple[int, int],
    line: int,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", line)
    Image.new("1", size).save(tmp_path / "large.png")
    (tmp_path / "gallery").mkdir()
    Image.new("RGB", (32, 64)).save(tmp_path / "gallery" / "small.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        words = ["search", str(tmp_path / "large.png"), "--gallery", str(tmp_path / "gallery")]
        words += ["--model", "hsv", "--out", str(tmp_path / "x.html"), "--quiet"]
        assert main(words) == status
    said = capsys.readouterr().err
    assert said.count("at most 64,000,000 are decoded") == status
    assert "bomb" not in said
    assert bool(said) == bool(status)


def test_benchmarks_say_errors_as_the_command_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of them ends in ``told``; two are tried."""
    nothing = str(tmp_path / "nothing")
    for name, words in (
        ("priors", ["market1501", nothing, nothing, nothing]),
        ("parts", ["market1501", nothing, nothing, nothing]),
    ):
        monkeypatch.setattr(sys, "argv", [name, *words])
        with benchmark(name) as module:
            assert module.told(module.main) == 1
        said = capsys.readouterr().err
        assert said.startswith("crosscam: market1501: there is no folder"), said
    ends = {p.stem: p.read_text().rstrip().splitlines()[-1] for p in BENCHMARKS.glob("*.py")}
    assert not [name for name, end in ends.items() if end.strip() == "main()"]


MINE = '''"""Mine."""
from torch import nn
from crosscam.methods import Method, unit


class Mine(Method):
    """Mean colors."""

    paper = "nobody, nowhere, never"

    def __init__(self, num_classes):
        super().__init__()
        self.dim = 3
        self.classifier = nn.Linear(3, num_classes)

    def embed(self, images):
        return unit(images.mean((2, 3)))

    def losses(self, batch):
        logits = self.classifier(batch.images.mean((2, 3)))
        return {"id": nn.functional.cross_entropy(logits.float(), batch.pids)}
'''
