"""Rendered pairs along with every batch, and methods that make several updates."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from recipes import assert_same_weights, command, die_and_resume, train_in_two_processes

from crosscam.errors import DataError, RecipeError
from crosscam.recipe import Recipe, parse
from crosscam.synth import read_texture, synthesize
from crosscam.training import checkpoint, loop
from crosscam.training.pairs import load_pairs
from crosscam.types import Prior

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people with two pairs each, and one picture a person besides."""
    out = tmp_path_factory.mktemp("rendered") / "pit"
    return synthesize(
        out, ids=4, cameras=1, shots=2, pairs=2, train_share=1.0, seed=3, progress=False
    )


def settings(rendered: Path) -> list[str]:
    """SAN on rendered people with their textures, and pairs; as small as it gets."""
    return [
        "method.name=san",
        "method.backbone.name=resnet18",
        "method.backbone.width=0.125",
        "method.embedding=16",
        "method.decoder_width=0.0625",
        "method.encoder_lr=1e-4",
        "method.decoder_lr=1e-3",
        "method.constraint=0.1",
        "data.name=rendered",
        f"data.root={rendered}",
        f"data.pairs={rendered}",
        "preprocess.size=[32,16]",
        "sampler.people=2",
        "sampler.images=2",
        "schedule.epochs=4",
        "schedule.warmup_epochs=1",
        "optimizer.clip=5.0",
        "engine.precision=fp32",
        "engine.threads=1",
        "engine.ema=0.9",
        "engine.log_every=1",
        "engine.checkpoint_minutes=0",
    ]


def recipe(rendered: Path, *more: str) -> Recipe:
    return parse(None, [*settings(rendered), *more])


@pytest.fixture(scope="module")
def whole(rendered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both updates that nobody interrupted."""
    return loop.train(recipe(rendered), tmp_path_factory.mktemp("whole") / "run", progress=False)


# --- pairs ------------------------------------------------------------------------------------


def test_half_a_batch_of_pairs_with_their_exact_textures(rendered: Path, tmp_path: Path) -> None:
    plain = recipe(rendered, "augment.flip=0", "augment.erase=0", "augment.resize_crop=0")
    pairs = load_pairs(plain, tmp_path, CPU)
    assert len(pairs.samples) == 8
    seen = []
    for step in range(4):  # 8 pairs, 2 a step: each once
        batch = pairs.at(step)
        assert len(batch) == 2
        for image, label, texture in zip(
            batch.images, batch.pids.tolist(), batch.require(Prior.TEXTURE), strict=True
        ):
            stored = plain.preprocess.normalize_tensor(pairs.loader.images)
            [row] = [i for i, p in enumerate(stored) if torch.equal(p, image)]
            seen.append(row)
            pid = sorted({s.pid for s in pairs.samples})[label]
            assert pairs.samples[row].pid == pid
            color, valid = read_texture(rendered, pid)
            blocks = color.reshape(32, 8, 32, 8, 3).astype(float)
            weight = valid.reshape(32, 8, 32, 8, 1).astype(float)
            with np.errstate(invalid="ignore"):
                mean = (blocks * weight).sum((1, 3)) / weight.sum((1, 3))
            expected = torch.from_numpy(mean / 127.5 - 1).permute(2, 0, 1).float()
            torch.testing.assert_close(
                texture, expected, atol=0.5 / 127.5 + 1e-5, rtol=0, equal_nan=True
            )
    assert sorted(seen) == list(range(8))


def test_pairs_are_a_function_of_seed_and_step(rendered: Path, tmp_path: Path) -> None:
    def at(step: int, *more: str) -> torch.Tensor:
        return load_pairs(recipe(rendered, *more), tmp_path, CPU).at(step).images

    assert torch.equal(at(5), at(5))
    assert not torch.equal(at(5), at(1))  # the same rows or not, augmented otherwise
    assert not torch.equal(at(5), at(5, "seed=1"))


def test_processes_share_the_pairs(rendered: Path, tmp_path: Path) -> None:
    together = load_pairs(recipe(rendered), tmp_path, CPU)
    shares = [load_pairs(recipe(rendered), tmp_path, CPU, rank, 2) for rank in (0, 1)]
    for step in (0, 3, 6):
        parts = [share.at(step).images for share in shares]
        assert torch.equal(torch.cat(parts), together.at(step).images)


def test_pairs_that_do_not_fit_are_refused(rendered: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="8 pairs, and 10 come along"):
        load_pairs(recipe(rendered, "sampler.people=10"), tmp_path, CPU)
    with pytest.raises(RecipeError, match="3 processes cannot share"):
        load_pairs(recipe(rendered), tmp_path, CPU, 0, 3)
    with pytest.raises(DataError, match="pairs"):
        load_pairs(recipe(rendered, f"data.pairs={tmp_path}"), tmp_path, CPU)
    baseline = parse(None, [f"data.root={rendered}", f"data.pairs={rendered}",
                            "data.name=rendered", "sampler.people=2", "sampler.images=2",
                            "preprocess.size=[32,16]"])  # fmt: skip
    unused = ("method.synthetic=0", "method.reconstruction=0")
    for one in (baseline, *(recipe(rendered, setting) for setting in unused)):
        with pytest.raises(RecipeError, match="does not learn from rendered pairs"):
            loop.train(one, tmp_path / "run", progress=False)
        assert not any((tmp_path / "run").iterdir())  # refused before any picture was read


# --- several updates --------------------------------------------------------------------------


def test_both_updates_are_logged(whole: Path) -> None:
    lines = [json.loads(x) for x in (whole / "metrics.jsonl").read_text().splitlines()]
    terms = ("id", "triplet", "texture", "constraint", "synthetic")
    for line in lines:
        assert set(terms) < set(line)
        assert line["loss"] == pytest.approx(sum(line[t] for t in terms))


def test_the_optimizers_of_both_updates_are_kept(whole: Path) -> None:
    last = checkpoint.latest(whole)
    assert last is not None
    groups = {k for k in last.tensors if k.startswith("optimizer.")}
    assert groups == {"optimizer.0", "optimizer.1"}
    weights = {k for k in last.tensors["weights"] if not _is_buffer(k)}
    encoder = {k for k in weights if k.startswith("backbone.")}
    head = {k for k in weights if k.startswith(("embedding.", "classifier."))}
    moments = {g: {k.split(".")[0] for k in last.tensors[g]} for g in groups}
    assert len(moments["optimizer.0"]) == len(encoder | head)
    assert len(moments["optimizer.1"]) == len(weights - head)


def _is_buffer(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


@pytest.mark.parametrize("at", [1, 5])
def test_a_run_of_both_updates_that_died_goes_on_to_the_same_weights(
    at: int, whole: Path, rendered: Path, tmp_path: Path
) -> None:
    die_and_resume(recipe(rendered), tmp_path / "run", at)
    assert_same_weights(whole, tmp_path / "run")


@pytest.mark.slow
def test_a_killed_run_of_both_updates_goes_on_to_the_same_weights(
    whole: Path, rendered: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(*settings(rendered), "--out", run),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and checkpoint.latest_name(run) < "step-00000002":
        time.sleep(0.002)
    assert process.poll() is None, "training was over before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not (run / "weights.safetensors").exists()
    subprocess.run(command("--resume", run), check=True)
    assert_same_weights(whole, run)


@pytest.mark.slow
def test_two_processes_make_both_updates(rendered: Path, tmp_path: Path) -> None:
    """With batch statistics over both, halves of reconstruction average to the whole.

    Mining and constraints look at one process's share, so they are off.  One step each of SGD
    and of an Adam, whose first step is its rate in the direction of the sign.
    """
    more = [
        "method.triplet=0",
        "method.constraint=0",
        "method.encoder_lr=0",
        "optimizer.name=sgd",
        "optimizer.momentum=0",
        "optimizer.lr=0.01",
        "optimizer.clip=0",
        "engine.ema=0",
        "engine.sync_batchnorm=true",
        "schedule.epochs=1",
        "schedule.warmup=none",
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    loop.train(recipe(rendered, *more), one, progress=False)
    train_in_two_processes([*settings(rendered), *more], two)
    a, b = (checkpoint.load_weights(run / "weights.safetensors") for run in (one, two))
    start = parse(None, [*settings(rendered), *more]).method
    torch.manual_seed(0)
    fresh = start.build(4).state_dict()
    last = "decoder.paint.1.weight"
    moved = float((a[last] - fresh[last]).abs().mean())
    assert moved > 1e-4
    assert float((a[last] - b[last]).abs().mean()) < 0.05 * moved
    for name in a:
        if name.startswith(("backbone.", "embedding.", "classifier.")) and not _is_buffer(name):
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)
    agree = [
        (a[n] - b[n]).abs().max() < 1e-3
        for n in a
        if n.startswith("decoder.") and not _is_buffer(n)
    ]
    assert all(agree)
