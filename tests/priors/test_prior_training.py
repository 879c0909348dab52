"""Priors on their way into a batch, and what happens when there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from toy import write_market

from crosscam import annotate, cli, synth
from crosscam.data import datasets
from crosscam.data.augment import Augment
from crosscam.data.loader import TrainLoader
from crosscam.data.samplers import make_sampler
from crosscam.data.store import ImageStore
from crosscam.errors import CheckpointError, DataError, InputError
from crosscam.image import Preprocess
from crosscam.priors import rendered, sheet, skeleton, store
from crosscam.priors.rows import KeypointRows, MaskRows, TextureRows, gather
from crosscam.recipe import parse
from crosscam.synth.person import texture_mask
from crosscam.training import loop
from crosscam.types import COCO17, Dataset, Prior

CPU = torch.device("cpu")
PARTS = ("whole", "left arm", "right arm", "lower")
SIZE = (64, 32)

METHOD = """
from typing import Any
import torch
from torch import Tensor, nn
from crosscam.methods import Method, unit
from crosscam.types import Batch, Prior

class Seer(Method):
    paper = "none"
    needs = frozenset({Prior.MASKS})
    parts = ("whole", "left arm", "right arm")

    def __init__(self, num_classes: int, **regularizer: Any) -> None:
        super().__init__(**regularizer)
        self.dim = 3
        self.classifier = nn.Linear(3, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        return unit(images.mean((2, 3)))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        masks = batch.require(Prior.MASKS)
        logits = self.classifier(self.embed(batch.images)) * (1 + masks.mean((1, 2, 3))[:, None])
        return {"id": nn.functional.cross_entropy(logits, batch.pids)}
"""


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("people") / "set"
    return synth.synthesize(out, ids=4, cameras=2, shots=2, seed=3, progress=False)


def toy(folder: Path) -> Dataset:
    write_market(folder, train_ids=4, test_ids=2)
    return datasets.load("market1501", folder, partial=True)


def collected(dataset: Dataset, cache: Path, needs: frozenset[Prior] = frozenset(Prior), **kw: Any):
    options = {"folder": None, "producers": {}, "size": SIZE, "device": CPU, **kw}
    return gather(needs, PARTS, dataset, cache=cache, **options)


def test_ground_truth_of_rendered_people_needs_no_command(people: Path, tmp_path: Path) -> None:
    dataset = datasets.load("rendered", people)
    found = collected(dataset, tmp_path)
    index = torch.arange(len(dataset.train))
    masks = found.rows[Prior.MASKS].index_select(0, index)
    points = found.rows[Prior.KEYPOINTS].index_select(0, index)
    textures = found.rows[Prior.TEXTURE].index_select(0, index)
    assert masks.shape == (len(index), 4, *rendered.SIZE)
    assert masks.dtype == torch.uint8
    table = synth.read_annotations(people)
    row_of = {name: i for i, name in enumerate(table["name"])}
    valid = texture_mask()
    for i, sample in enumerate(dataset.train):
        name = f"bounding_box_train/{sample.path.name}"
        part = synth.read_labels(people, name).part
        # the share of every quarter of the picture, from the masks and from the full labels
        for channel, members in enumerate((range(1, 17), [3], [4], [7, 8, 9, 10, 13, 14])):
            full = np.isin(part, list(members)).reshape(2, 128, 2, 64).mean((1, 3))
            got = (masks[i, channel].numpy() / 255).reshape(2, 64, 2, 32).mean((1, 3))
            assert got == pytest.approx(full, abs=0.02)
        want = table["keypoints"][row_of[name]].astype(float)
        got_points = points[i].numpy()
        assert got_points[:, 0] == pytest.approx(want[:, 0] / 4 - 0.5, abs=0.05)
        assert got_points[:, 1] == pytest.approx(want[:, 1] / 4 - 0.5, abs=0.05)
        assert got_points[:, 2].tolist() == (want[:, 2] / 2).tolist()
        color, _ = synth.read_texture(people, sample.pid)
        # the decoder of SIZE paints 64 rows: texels are means of the known ones among 4 x 4
        weight = valid.reshape(64, 4, 64, 4).sum((1, 3))
        sums = (color * valid[..., None].astype(float)).reshape(64, 4, 64, 4, 3).sum((1, 3))
        mean = sums / np.maximum(weight, 1)[..., None] / 127.5 - 1
        assert textures.shape[1:] == (3, 64, 64)
        assert np.array_equal(textures[i].isnan().any(0).numpy(), weight == 0)
        known = textures[i].permute(1, 2, 0).numpy()[weight > 0]
        assert known == pytest.approx(mean[weight > 0], abs=1 / 127.5)
    assert found.report["masks"]["with"] == len(index)
    assert found.report["masks"]["without"] == 0
    assert found.flip_pairs[Prior.MASKS] == [(1, 2)]
    assert (1, 2) in found.flip_pairs[Prior.KEYPOINTS]  # eyes
    assert not list(people.glob("*priors*"))  # nothing is written into the data set


def test_a_flip_exchanges_left_and_right(people: Path, tmp_path: Path) -> None:
    dataset = datasets.load("rendered", people)
    found = collected(dataset, tmp_path)
    pre = Preprocess(size=SIZE)
    names = np.array([s.pid for s in dataset.train])
    labels = np.unique(names, return_inverse=True)[1].astype(np.int64)
    sampler = make_sampler("shuffle", labels, 2, 2, 0)
    images = ImageStore.build(dataset.train, pre).to(CPU)

    def batch(flip: float) -> Any:
        augment = Augment(flip=flip, pad=0, erase=0)
        loader = TrainLoader(
            images, labels, labels, sampler, augment, pre, seed=0, device=CPU,
            priors=found.rows, flip_pairs=found.flip_pairs,
        )  # fmt: skip
        return loader.batch(np.arange(len(labels)), 0, 0)

    plain, mirrored = batch(0.0), batch(1.0)
    assert torch.equal(mirrored.images, plain.images.flip(3))
    want = plain.require(Prior.MASKS)[:, [0, 2, 1, 3]].flip(3)
    assert torch.equal(mirrored.require(Prior.MASKS), want)
    assert float(want[:, 1:3].amax((0, 2, 3)).min()) == 1.0  # both arms are there
    before, after = plain.require(Prior.KEYPOINTS), mirrored.require(Prior.KEYPOINTS)
    left, right = (COCO17.index(f"{side} hip") for side in ("left", "right"))
    assert torch.allclose(after[:, left, 0], SIZE[1] - 1 - before[:, right, 0])
    assert torch.equal(after[:, left, 1], before[:, right, 1])
    one, other = plain.require(Prior.TEXTURE), mirrored.require(Prior.TEXTURE)
    assert torch.equal(one.nan_to_num(9), other.nan_to_num(9))


def test_soft_masks_by_area_averaging() -> None:
    maps = np.random.default_rng(0).integers(0, 3, (2, 128, 64)).astype(np.uint8)
    table = np.array([[0, 0], [255, 0], [255, 255]], np.uint8)
    rows = MaskRows(maps, np.array([1, -1, 0]), table, CPU)
    assert len(rows) == 3
    found = rows.index_select(0, torch.tensor([0, 1, 2])).float() / 255
    assert not found[1].any()
    for row, given in ((0, maps[1]), (2, maps[0])):
        for size in ((48, 16), (24, 8)):
            soft = F.adaptive_avg_pool2d(found[row], size)
            for y, x in ((0, 0), (size[0] - 1, size[1] - 1), (7, 3)):
                top, end = 128 * y // size[0], -(-128 * (y + 1) // size[0])
                left, stop = 64 * x // size[1], -(-64 * (x + 1) // size[1])
                cell = given[top:end, left:stop]
                assert float(soft[0, y, x]) == pytest.approx((cell > 0).mean(), abs=1e-6)
                assert float(soft[1, y, x]) == pytest.approx((cell == 2).mean(), abs=1e-6)


def test_pictures_without_a_prior_have_the_marker_of_their_kind() -> None:
    points = np.array([[[0.5, 0.25, 1.0]]], np.float16)
    found = KeypointRows(points, np.array([0, -1]), (64, 32), CPU)
    both = found.index_select(0, torch.tensor([0, 1]))
    assert both[0].tolist() == [[15.5, 15.5, 1.0]]
    assert float(both[1, 0, 2]) == 0.0
    textures = np.array([[[[0, 255, 51]]]], np.uint8)
    some = TextureRows(textures, None, np.array([-1, 0]), CPU).index_select(0, torch.tensor([0, 1]))
    assert some[0].isnan().all()
    assert some[1, :, 0, 0].tolist() == pytest.approx([-1, 1, -0.6])


def test_a_missing_prior_names_the_commands_that_make_it(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "data")
    for kind, command in (
        (Prior.MASKS, r"crosscam prior keypoints market1501 --root .* && crosscam prior masks"),
        (Prior.KEYPOINTS, r"crosscam prior keypoints market1501 --root .*--model"),
        (Prior.SURFACE, r"crosscam prior surface market1501 --root .* --model RUN"),
        (Prior.TEXTURE, r"crosscam prior texture market1501 --root .* --model RUN"),
    ):
        with pytest.raises(DataError, match=command):
            collected(dataset, tmp_path / "cache", frozenset({kind}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has none"):
        collected(dataset, tmp_path / "c", frozenset({Prior.MASKS}), folder=tmp_path / "empty")
    nothing = collected(dataset, tmp_path / "cache", frozenset())
    assert not nothing.rows
    assert nothing.text() == ""


def table_of(dataset: Dataset, path: Path, skip: int) -> Path:
    """Keypoints of an upright person for all training pictures but the first ``skip``."""
    upright = dict(zip(COCO17, (
        (16, 8), (17, 7), (15, 7), (19, 8), (13, 8), (22, 16), (10, 16), (25, 24), (7, 24),
        (26, 31), (6, 31), (19, 35), (13, 35), (20, 47), (12, 47), (20, 58), (12, 58),
    ), strict=True))  # fmt: skip
    header = ",".join(f"{j}_x,{j}_y".replace(" ", "_") for j in upright)
    line = ",".join(f"{x},{y}" for x, y in upright.values())
    rows = [f"{s.path.name},{line}\n" for s in dataset.train[skip:]]
    path.write_text(f"file,{header}\n{''.join(rows)}")
    return path


def test_from_a_table_to_a_trained_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "priors"
    dataset = toy(data)
    table = table_of(dataset, tmp_path / "joints.csv", skip=5)
    common = ["market1501", "--root", str(data), "--partial", "--out", str(out), "--quiet"]
    assert cli.main(["prior", "keypoints", *common, "--csv", str(table)]) == 0
    assert cli.main(["prior", "masks", *common]) == 0
    assert cli.main(["prior", "list", str(out)]) == 0
    said = capsys.readouterr().out
    assert cli.main(["prior", "list", "--priors", str(out)]) == 0
    assert capsys.readouterr().out in said
    assert cli.main(["prior", "list", str(out.parent)]) == 1
    assert f"{out.parent} holds no priors. Give the folder" in capsys.readouterr().err
    assert "masks by skeleton: 24 pictures" in said
    assert "8,192 bytes each" in said
    sheet = tmp_path / "sheet.png"
    show = ["prior", "show", *common[:4], "--out", str(sheet), "--priors", str(out)]
    assert cli.main([*show, "--count", "5"]) == 0
    # 5 pictures of 3 views of 128 pixels and a frame of 3, four in a row
    with Image.open(sheet) as drawn:
        size = drawn.size
    assert size == (4 * (3 * 128 + 6), 2 * (256 + 6))
    first = sheet.read_bytes()
    assert cli.main([*show, "--count", "5"]) == 0
    assert sheet.read_bytes() == first
    assert cli.main([*show, "--count", "5", "--seed", "1"]) == 0
    assert sheet.read_bytes() != first

    method = tmp_path / "seer.py"
    method.write_text(METHOD)
    settings = [
        f"method={method}", f"data.root={data}", "data.partial=true", f"priors.root={out}",
        "preprocess.size=[32,16]", "sampler.people=4", "sampler.images=2", "schedule.epochs=1",
        "engine.precision=fp32", "engine.checkpoint_minutes=0", "augment.pad=2",
    ]  # fmt: skip
    recipe = parse(None, settings)
    run = loop.train(recipe, tmp_path / "run", device="cpu", progress=False)
    card = json.loads((run / "card.json").read_text())
    assert card["priors"]["masks"]["producer"] == "skeleton"
    assert (card["priors"]["masks"]["with"], card["priors"]["masks"]["without"]) == (19, 5)
    # other priors under a resumed run are noticed
    assert cli.main(["prior", "masks", *common, "--least", "0.3"]) == 0
    with pytest.raises(CheckpointError, match="priors of market1501"):
        loop.resume(run, device="cpu", progress=False)


def test_priors_of_other_pictures_and_empty_ones_are_refused(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "data")
    names = ("x/1.jpg", "x/2.jpg")
    plan = store.Plan(Prior.MASKS, "p", {}, "other", names, skeleton.LABELS, (4, 2), "uint8")
    folder = tmp_path / "other"
    store.write(folder, plan, [np.ones((2, 4, 2), np.uint8)])
    with pytest.raises(DataError, match="none of the 24 pictures"):
        collected(dataset, tmp_path / "c", frozenset({Prior.MASKS}), folder=folder)
    mine = tuple(store.picture_names(dataset.train, dataset.root))
    plan = store.Plan(Prior.MASKS, "q", {}, "toy", mine, skeleton.LABELS, (4, 2), "uint8")
    folder = tmp_path / "empty"
    store.write(folder, plan, [np.zeros((24, 4, 2), np.uint8)])
    with pytest.raises(DataError, match="not one training picture"):
        collected(dataset, tmp_path / "c", frozenset({Prior.MASKS}), folder=folder)


def test_commands_refuse_what_they_cannot_do(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "data")
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no ground truth of keypoints"):
        annotate.keypoints(dataset, out)
    with pytest.raises(InputError, match=r"no ground truth of masks.*make keypoints in"):
        annotate.masks(dataset, out)
    with pytest.raises(InputError, match="no ground truth of texture"):
        annotate.texture(dataset, out)
    with pytest.raises(InputError, match="one of the two"):
        annotate.keypoints(dataset, out, model="a.onnx", table=tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        annotate.masks(dataset, out, least=2.0)
    with pytest.raises(InputError, match="a sheet is"):
        annotate.show(dataset, None, tmp_path / "sheet.txt")
    assert not out.exists()


def test_a_run_that_predicts_makes_masks_and_textures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares of red, green and blue as logits; the picture as a texture."""
    dataset = toy(tmp_path / "data")
    pre = Preprocess(size=(256, 128), mean=(0.5,) * 3, std=(0.5,) * 3)

    class Reds(torch.nn.Module):
        labels = ("background", "top", "bottom")

        def predict(self, images: torch.Tensor) -> torch.Tensor:
            return images

    class Painter(torch.nn.Module):
        def predict(self, images: torch.Tensor) -> torch.Tensor:
            return F.adaptive_avg_pool2d(images, (8, 8))

    class Recipe:
        test_preprocess = pre

        class method:
            name = "toy"

    chosen: list[torch.nn.Module] = [Reds()]
    monkeypatch.setattr(
        annotate.embedder, "load_method", lambda run: (chosen[0], Recipe, {"weights_sha256": "1"})
    )
    run = tmp_path / "run"
    run.mkdir()
    made = annotate.masks(dataset, tmp_path / "p", model=str(run), device="cpu")
    first = pre.load(dataset.train[0].path)
    soft = np.eye(3)[first.astype(int).argmax(2)].reshape(128, 2, 64, 2, 3).mean((1, 3))
    assert np.array_equal(made.values[0], soft.argmax(2))
    assert made.names == Reds.labels
    chosen[0] = Painter()
    made = annotate.texture(dataset, tmp_path / "p", model=str(run), device="cpu")
    assert made.values.shape == (24, 8, 8, 3)
    mean = first.astype(float).reshape(8, 32, 8, 16, 3).mean((1, 3))
    assert made.values[0] == pytest.approx(mean, abs=0.51)
    with pytest.raises(InputError, match="does not predict parts"):
        annotate.masks(dataset, tmp_path / "p", model=str(run), device="cpu")
    chosen[0] = Reds()
    with pytest.raises(InputError, match="a texture is"):
        annotate.texture(dataset, tmp_path / "p", model=str(run), device="cpu")
    chosen[0] = torch.nn.Identity()
    with pytest.raises(InputError, match="predicts neither"):
        annotate.texture(dataset, tmp_path / "p", model=str(run), device="cpu")


def test_label_maps_with_values_that_have_no_name(tmp_path: Path) -> None:
    market = datasets.load("market1501", write_market(tmp_path / "market"), partial=True)
    names = store.picture_names(market.train, market.root)
    plan = store.Plan(Prior.MASKS, "own", {}, market.title, tuple(names),
                      ("background", "top", "bottom"), (4, 2), "uint8")  # fmt: skip
    maps = np.ones((len(names), 4, 2), np.uint8)
    maps[3, 1, 1] = 7
    found = store.write(tmp_path / "priors", plan, [maps])

    def masks() -> object:
        return gather(frozenset({Prior.MASKS}), ("whole",), market, folder=tmp_path / "priors",
                      producers={}, cache=tmp_path, size=SIZE, device=CPU)  # fmt: skip

    with pytest.raises(DataError, match="value 7, and its set names only 0 to 2"):
        masks()
    with pytest.raises(DataError, match="value 7"):
        sheet.draw(
            tmp_path / "sheet.png", market.train[:1], {Prior.MASKS: (found, np.zeros(1, int))}
        )
    found.values[3, 1, 1] = 2  # in memory alone
    assert found.labels() is found.values
