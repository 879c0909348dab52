"""Places on the body: against the rendered people's own geometry, and loops over all texels."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from crosscam import annotate, synth
from crosscam.data import datasets
from crosscam.errors import InputError
from crosscam.image import Preprocess
from crosscam.priors import compiled, rendered, store, surface
from crosscam.priors.rows import SurfaceRows, TextureRows, gather, shrink_textures
from crosscam.priors.sheet import place_colors
from crosscam.synth.body import ARM, FOOT, HAND, HEAD, LEG, TORSO, body
from crosscam.synth.person import texture_mask
from crosscam.types import BODY_PARTS, Prior

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("people") / "set"
    return synth.synthesize(out, ids=3, cameras=2, shots=1, seed=5, train_share=1, progress=False)


def naive_nearest(asked: np.ndarray, points: np.ndarray, reach: float) -> list[int]:
    found = []
    for q in asked:
        best, which = reach * reach, -1
        for i, p in enumerate(points):
            dx, dy, dz = p - q
            far = dx * dx + dy * dy + dz * dz
            if far < best or (far == best and which < 0):
                best, which = far, i
        found.append(which)
    return found


# --- the chart --------------------------------------------------------------------------------


def test_texels_show_the_points_of_the_mesh() -> None:
    """Vertices of the body are where the texels at their (u, v) say, to the size of a texel."""
    shared = body()
    at = surface.chart_points(256)
    assert np.array_equal(np.isnan(at[..., 0]), ~texture_mask())
    corner, place = shared.faces.ravel(), shared.face_uv.ravel()
    column, row = np.floor(shared.uv[place] / 2).astype(int).clip(0, 255).T
    inside = texture_mask()[row, column]
    assert inside.mean() > 0.8
    far = np.linalg.norm(at[row, column] - shared.canonical[corner], axis=1)[inside]
    assert np.quantile(far, 0.99) < 0.01
    assert far.max() < 0.03


@pytest.mark.parametrize("side", [128, 32])
def test_a_smaller_chart_has_the_mean_of_the_texels_it_covers(side: int) -> None:
    full, small, f = surface.chart_points(256), surface.chart_points(side), 256 // side
    for y, x in itertools.product(range(0, side, 3), range(0, side, 3)):
        block = full[y * f : (y + 1) * f, x * f : (x + 1) * f].reshape(-1, 3)
        block = block[~np.isnan(block[:, 0])]
        if len(block):
            assert small[y, x] == pytest.approx(block.astype(float).mean(0), abs=1e-6)
        else:
            assert np.isnan(small[y, x]).all()


def test_a_side_that_does_not_divide_the_chart_is_refused() -> None:
    with pytest.raises(InputError, match="must divide 256, got 96"):
        surface.chart_points(96)
    assert [surface.side_of(h) for h in (64, 96, 128, 255, 256, 384)] == [
        64,
        64,
        128,
        128,
        256,
        256,
    ]


def test_a_place_and_its_point_are_one_texel() -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.nonzero(texture_mask())
    some = rng.permutation(len(rows))[:400]
    part = body().texels.part.reshape(512, 512)[::2, ::2][rows[some], columns[some]]
    given = np.stack([part, columns[some], rows[some]], 1).astype(np.uint8)
    assert np.array_equal(surface.places(surface.points(given)), given)
    off = surface.points(np.array([[0, 7, 7]], np.uint8))
    assert np.isnan(off).all()
    assert surface.places(off).tolist() == [[0, 0, 0]]


def test_the_nearest_point_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    points = rng.integers(0, 6, (150, 3)) / 4  # many ties, heights among them
    asked = np.concatenate([rng.integers(0, 6, (60, 3)) / 4, rng.uniform(-1, 2, (60, 3))])
    order = np.argsort(points[:, 2], kind="stable")
    for reach in (0.0, 0.25, 0.4, math.inf):
        found = compiled.nearest(asked, points[order], order, reach)
        assert found.tolist() == naive_nearest(asked, points, reach)
    nobody = compiled.nearest(np.full((2, 3), np.nan), points[order], order, math.inf)
    assert nobody.tolist() == [-1, -1]
    assert compiled.nearest(asked, points[:0], order[:0], math.inf).tolist() == [-1] * 120


def test_the_mirrored_texel_is_at_minus_x() -> None:
    """By the body at rest: the same point on the other side, of the other side's part."""
    side = 256
    at, other = surface.chart_points(side).reshape(-1, 3), surface.mirrored(side)
    inside = ~np.isnan(at[:, 0])
    assert np.array_equal(other >= 0, inside)
    far = np.linalg.norm(at[other[inside]] * [-1, 1, 1] - at[inside], axis=1)
    assert far.mean() < 0.002  # a texel is about 4 mm wide
    assert far.max() < 0.015
    part = body().texels.part.reshape(512, 512)[::2, ::2].ravel()
    swapped = {HEAD: HEAD, TORSO: TORSO}
    for left in (ARM, HAND, LEG, FOOT):
        swapped |= {left: left + 1, left + 1: left}
    same = part[other[inside]] == np.array([swapped.get(int(p), 0) for p in part[inside]])
    assert same.mean() > 0.98  # the border between two parts runs through texels
    # twice is where one began, to a texel
    twice = np.linalg.norm(at[other[other[inside]]] - at[inside], axis=1)
    assert twice.max() < 0.015


# --- unwrapping -------------------------------------------------------------------------------


def test_unwrapping_is_the_loop_over_texels() -> None:
    rng = np.random.default_rng(2)
    side, chart = 32, surface.chart_points(32)
    inside = chart[~np.isnan(chart[..., 0])]
    found = inside[rng.integers(0, len(inside), (12, 8))] + rng.normal(0, 0.02, (12, 8, 3))
    found = found.astype(np.float32)
    found[rng.random((12, 8)) < 0.3] = np.nan
    picture = rng.integers(0, 256, (12, 8, 3), dtype=np.uint8)
    texture = surface.unwrap(picture, found, side, reach=0.05)
    cells = [(y, x) for y in range(12) for x in range(8) if not np.isnan(found[y, x, 0])]
    flat = np.array([found[c] for c in cells], np.float64)
    for y, x in itertools.product(range(side), range(side)):
        want = np.zeros(4, np.uint8)
        if not np.isnan(chart[y, x, 0]):
            best = naive_nearest(chart[y, x][None].astype(np.float64), flat, 0.05)[0]
            if best >= 0:
                want = np.array([*picture[cells[best]], 255], np.uint8)
        assert np.array_equal(texture[y, x], want)
    assert 0.05 < (texture[..., 3] > 0).mean() < 0.9
    nobody = surface.unwrap(picture, np.full_like(found, np.nan), side)
    assert not nobody.any()


def test_a_true_map_gives_back_the_texture_it_was_looked_up_in(people: Path) -> None:
    """Of a picture that shows the texture's own colors, unlit, every seen texel is exact."""
    name = "bounding_box_train/" + sorted((people / "bounding_box_train").glob("*"))[0].name
    iuv = synth.read_labels(people, name).iuv
    rng = np.random.default_rng(3)
    true = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    unlit = true[iuv[..., 2], iuv[..., 1]]
    texture = surface.unwrap(unlit, surface.points(iuv), 256, reach=1e-6)
    known = texture[..., 3] > 0
    # texels that the map names, on the chart and not beside it, and only those
    named = np.zeros((256, 256), bool)
    named[iuv[..., 2][iuv[..., 0] > 0], iuv[..., 1][iuv[..., 0] > 0]] = True
    assert known.sum() > 300
    assert np.array_equal(known, named & texture_mask())
    assert np.array_equal(texture[known][:, :3], true[known])


def test_unknown_texels_take_the_other_sides_color() -> None:
    side = 64
    at, other = surface.chart_points(side), surface.mirrored(side)
    rng = np.random.default_rng(4)
    texture = rng.integers(0, 256, (side, side, 4), dtype=np.uint8)
    left = at[..., 0] > 0.02  # of the person
    texture[..., 3] = 255
    texture[~left] = 0
    filled = surface.fill(texture)
    for number in range(side * side):
        y, x = divmod(number, side)
        if left[y, x]:
            assert np.array_equal(filled[y, x], texture[y, x])
        elif not np.isnan(at[y, x, 0]):
            assert np.array_equal(filled[y, x], texture.reshape(-1, 4)[other[number]])
        else:
            assert not filled[y, x].any()
    assert (filled[..., 3] > 0).sum() > 1.9 * left.sum()


# --- in training ------------------------------------------------------------------------------


def test_rendered_people_bring_their_places(people: Path, tmp_path: Path) -> None:
    dataset = datasets.load("rendered", people, partial=True)
    found = gather(
        frozenset({Prior.SURFACE}), (), dataset, folder=None, producers={}, cache=tmp_path,
        size=(64, 32), device=CPU,
    )  # fmt: skip
    rows = found.rows[Prior.SURFACE]
    points = rows.index_select(0, torch.tensor([3, 0]))
    assert points.shape == (2, 3, *rendered.SIZE)
    for got, sample in zip(points, (dataset.train[3], dataset.train[0]), strict=True):
        iuv = synth.read_labels(people, f"bounding_box_train/{sample.path.name}").iuv
        want = surface.points(iuv)
        assert np.array_equal(got.permute(1, 2, 0).numpy(), want, equal_nan=True)
    assert found.report["surface"]["with"] == len(dataset.train)
    nobody = SurfaceRows(np.ones((1, 2, 2, 3), np.uint8), np.array([-1]), CPU)
    assert nobody.index_select(0, torch.tensor([0])).isnan().all()


def test_texels_that_a_texture_does_not_know_are_nan() -> None:
    textures = np.full((1, 4, 4, 4), 255, np.uint8)
    textures[0, 1, 2] = 0
    textures[0, 2:, :2, 3] = 0
    known = np.ones((4, 4), bool)
    known[0, 3] = False
    rows = TextureRows(textures, known, np.array([0]), CPU)
    got = rows.index_select(0, torch.tensor([0]))[0]
    want = ~known | (textures[0, ..., 3] == 0)
    assert np.array_equal(got.isnan().numpy(), np.broadcast_to(want, (3, 4, 4)))
    # averaged down, a texel is the mean of the known ones, and unknown if there are none
    textures[0, 0, 2, :3] = 55
    small, still = shrink_textures(textures, known, 2)
    assert small[0, :, :, 3].tolist() == [[255, 255], [0, 255]]
    assert small[0, 0, 1].tolist() == [155, 155, 155, 255]  # of 55 and 255, two are unknown
    assert still is not None
    assert still.all()


# --- runs -------------------------------------------------------------------------------------


class Located(torch.nn.Module):
    """Finds in every cell of a picture what is written in its colors: shares of a box of 2 m."""

    labels = BODY_PARTS
    learned = True

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        return self.locate(images)[0]

    def locate(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.learned:
            raise InputError("has not learned places")
        logits = torch.zeros(len(images), len(BODY_PARTS), *images.shape[2:])
        logits[:, BODY_PARTS.index("top")] = 1
        logits[:, 0] = torch.where(images.sum(1) < -2.9, 2.0, 0.0)  # black is background
        return logits, images + torch.tensor([0.0, 0.0, 1.0])[:, None, None]


def test_runs_that_find_places_make_surfaces_and_textures(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    pre = Preprocess(size=(128, 64), mean=(0.5,) * 3, std=(0.5,) * 3)
    data = tmp_path / "data" / "bounding_box_train"
    data.mkdir(parents=True)
    iuv = {}
    for pid, path in enumerate(sorted((people / "bounding_box_train").glob("*"))[:3]):
        found = synth.read_labels(people, f"bounding_box_train/{path.name}").iuv
        points = surface.points(found)
        shares = np.nan_to_num((points - [0, 0, 1]) * 127.5 + 127.5, nan=0.0)
        name = f"{pid + 1:04d}_c1s1_000000_00.png"
        Image.fromarray(np.rint(shares).astype(np.uint8)).save(data / name)
        iuv[name] = found, points
    table = tmp_path / "list.csv"
    lines = [f"{data / n},{i},1,train" for i, n in enumerate(iuv)]
    table.write_text("path,pid,camid,split\n" + "\n".join(lines) + "\n")
    dataset = datasets.load("csv", table)

    class Recipe:
        test_preprocess = pre

        class method:
            name = "toy"

    net = Located()
    monkeypatch.setattr(annotate.embedder, "load_method", lambda run: (net, Recipe, {}))
    run, out = tmp_path / "run", tmp_path / "priors"
    made = annotate.surface(dataset, out, model=str(run), device="cpu")
    textures = annotate.texture(dataset, out, model=str(run), device="cpu")
    for row, (sample, (found, points)) in enumerate(zip(dataset.train, iuv.values(), strict=True)):
        there = made.values[row][..., 0] > 0
        assert np.array_equal(there, found[..., 0] > 0)
        far = np.linalg.norm(surface.points(made.values[row]) - points, axis=2)[there]
        assert far.max() < 0.02  # the colors are steps of 8 mm
        picture = pre.load(sample.path)
        seen = (picture.astype(np.float32) / 127.5 - 1 + [0, 0, 1]).astype(np.float32)
        seen[found[..., 0] == 0] = np.nan
        want = surface.unwrap(picture, surface.points(surface.places(seen)), 128)
        same = (textures.values[row] == want).all(2)
        assert same.mean() > 0.995  # float32 of normalization against that of this test
    assert textures.about["parameters"]["chart"] == rendered.CHART
    filled = annotate.texture(dataset, out, model=str(run), mirror=True, device="cpu")
    assert np.array_equal(filled.values[0], surface.fill(np.array(textures.values[0])))
    assert filled.about["version"] != textures.about["version"]
    sheet = annotate.show(dataset, out, tmp_path / "sheet.png", count=3)
    with Image.open(sheet) as drawn:
        assert drawn.size == (3 * (3 * 128 + 6), 256 + 6)  # picture, places, texture, three times

    net.learned = False
    with pytest.raises(InputError, match="not learned places"):
        annotate.texture(dataset, tmp_path / "no", model=str(run), device="cpu")
    with pytest.raises(InputError, match="not learned places"):
        annotate.surface(dataset, tmp_path / "no", model=str(run), device="cpu")
    assert not (tmp_path / "no").exists()

    class Painter(torch.nn.Module):
        def predict(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, :, :64]

    monkeypatch.setattr(annotate.embedder, "load_method", lambda run: (Painter(), Recipe, {}))
    with pytest.raises(InputError, match="does not predict places"):
        annotate.surface(dataset, out, model=str(run), device="cpu")
    with pytest.raises(InputError, match="paints whole textures"):
        annotate.texture(dataset, out, model=str(run), mirror=True, device="cpu")
    with pytest.raises(InputError, match="does not show: give --model"):
        annotate.texture(dataset, out, mirror=True)
    with pytest.raises(InputError, match="no ground truth of surface"):
        annotate.surface(dataset, out)


def test_places_are_shown_as_colors() -> None:
    shown = place_colors(np.array([[[0, 0, 0.9], [0.8, -0.2, 1.8], [np.nan] * 3]], np.float32))
    assert shown[0, 0].tolist() == pytest.approx([147.5] * 3, abs=0.6)
    assert shown[0, 1:].tolist() == [[255, 40, 255], [0, 0, 0]]


def test_ground_truth_is_one_row_a_picture(people: Path, tmp_path: Path) -> None:
    dataset = datasets.load("rendered", people, partial=True)
    made = annotate.surface(dataset, tmp_path / "p")
    assert made.producer == rendered.PRODUCER
    assert made.values.shape == (6, 128, 64, 3)
    assert store.find(tmp_path / "p", Prior.SURFACE) is not None
