"""Sheets of what models look at: the right maps, in the right cells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from toy import person

from crosscam import cli, embedder, viz
from crosscam.errors import DataError, InputError
from crosscam.explain import explain, maps_of
from crosscam.methods import unit
from crosscam.methods.mmga import MAPS, MMGA
from crosscam.recipe import Recipe, parse

SETTINGS = ["method.backbone.name=resnet18", "method.backbone.width=0.125"]
MPN = [*SETTINGS, "method=mpn", "method.num_parts=2", "method.width=4", "preprocess.size=[96,48]"]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{pid}.png" for pid in range(3)]
    for pid, path in enumerate(paths):
        Image.fromarray(person(pid, 0, 0, (96, 48))).save(path)
    return paths


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def pixels(path: Path) -> np.ndarray:  # type: ignore[type-arg]
    with Image.open(path) as image:
        return np.array(image)


def model(settings: list[str], name: str = "run") -> embedder.Embedder:
    recipe = parse(None, settings)
    torch.manual_seed(0)
    return embedder.of_method(recipe.method.build(4), recipe, name=name, device="cpu")


def test_stage_maps_are_sums_of_absolute_values_of_length_one() -> None:
    method = model(MPN).method
    assert method is not None
    images = torch.randn(2, 3, 96, 48)
    found = maps_of(method.train(), images)
    assert list(found) == ["stage 1", "stage 2", "stage 3", "stage 4", "part 1", "part 2"]
    assert method.training
    stages = method.eval().backbone.stages(images)  # type: ignore[union-attr,operator]
    for number, x in enumerate(stages, 1):
        for i in range(2):
            total = sum(channel.abs() for channel in x[i])
            naive = total / total.square().sum().sqrt()
            torch.testing.assert_close(found[f"stage {number}"][i], naive)
    for name, value in method.maps(images).items():
        assert torch.equal(found[name], value)


def test_the_maps_of_mmga_are_those_its_vector_is_made_of() -> None:
    method = model([*SETTINGS, "method=mmga", "method.features=8"]).method
    assert isinstance(method, MMGA)
    images = torch.randn(2, 3, 96, 48)
    found = maps_of(method.train(), images)
    trunk = ["stage 1", "stage 2", "stage 3, first block"]
    branches = ["whole branch", "upper branch", "lower branch"]
    assert list(found) == [*trunk, *branches, *MAPS]
    # Every map has a part in the vector: change it on its way, and the vector is another.
    method.eval()
    maps = method.stage_maps(images)
    attended = [maps[name] for name in branches]
    with torch.no_grad():
        reduced = method._reduced(dict(zip(("whole", "upper", "lower"), attended, strict=True)))
        assert torch.equal(unit(torch.cat(reduced, 1)), method.embed(images))
    x = images.clone().requires_grad_()
    used = method.stage_maps(x)
    vector = unit(torch.cat(method._reduced({k.split()[0]: used[k] for k in branches}), 1))
    gradients = torch.autograd.grad(vector[:, 0].sum(), [used[k] for k in trunk])
    assert all(bool(g.any()) for g in gradients)


def test_stages_that_msfl_does_not_run_are_not_shown() -> None:
    settings = ["method=msfl", "method.levels=[1,2,3]", "method.width=8", "method.refine=[]"]
    method = model([*SETTINGS, *settings]).method
    assert method is not None
    found = maps_of(method, torch.randn(2, 3, 64, 32))
    assert list(found) == ["stage 1", "stage 2", "stage 3", "M1", "M2", "M3"]


def test_runs_stand_side_by_side(pictures: list[Path], tmp_path: Path) -> None:
    mpn, plain = model(MPN, "parts"), model([*SETTINGS, "preprocess.size=[64,32]"], "plain")
    assert size(explain([mpn], pictures, tmp_path / "a.png")) == (
        4 + 100 + 20 + 6 * 100,
        44 + 3 * 196,
    )
    # Both sizes are 2 : 1, so cells are 96 wide: a picture, six maps, four maps.
    both = size(explain([mpn, plain], pictures, tmp_path / "new" / "b.jpg"))
    assert both == (4 + 100 + 20 + 6 * 100 + 20 + 4 * 100, 44 + 3 * 196)


def test_a_cell_shows_its_own_picture_and_map(pictures: list[Path], tmp_path: Path) -> None:
    mpn = model(MPN)
    sheet = pixels(explain([mpn], pictures, tmp_path / "a.png"))
    method = mpn.method
    assert method is not None
    for row, path in enumerate(pictures):
        picture = mpn.preprocess.load(path)
        images = mpn.preprocess.normalize_tensor(torch.from_numpy(picture[None]))
        heat = list(maps_of(method, images).values())[5]
        for column, expected in ((0, picture), (6, viz.overlay(picture, heat[0].numpy()))):
            left = 4 + 100 * column + (20 if column else 0)
            top = 44 + 196 * row
            cell = sheet[top : top + 192, left : left + 96]
            drawn = Image.fromarray(expected).resize((96, 192), Image.Resampling.BICUBIC)
            assert np.array_equal(cell, np.asarray(drawn))


def test_pictures_that_a_method_makes_are_shown_as_they_are(
    pictures: list[Path], tmp_path: Path
) -> None:
    mpn = model(MPN)

    class Painter(type(mpn.method)):  # type: ignore[misc]
        def maps(self, images: Tensor) -> dict[str, Tensor]:
            return {"texture": torch.ones(len(images), 3, 8, 8) * torch.tensor([0.0, 1.0, 2.0])[:, None, None]}  # fmt: skip  # noqa: E501

    assert mpn.method is not None
    mpn.method.__class__ = Painter
    sheet = pixels(explain([mpn], pictures[:1], tmp_path / "a.png"))
    assert sheet.shape[1] == 4 + 100 + 20 + 4 * 100 + 196
    square = sheet[44 : 44 + 192, -196 : -196 + 192]
    assert (square == [0, 255, 255]).all()


def test_an_overlay_is_light_where_the_map_is_high() -> None:
    picture = np.full((40, 20, 3), 128, np.uint8)
    values = np.zeros((4, 2))
    values[3, 1] = 5.0
    light = viz.overlay(picture, values).astype(int).sum(2)
    assert light[39, 19] == light.max() > light[0, 0] == light.min()
    flat = viz.overlay(picture, np.full((4, 2), 0.7))
    assert (flat == flat[0, 0]).all()
    assert np.array_equal(flat[0, 0], viz.overlay(picture, values)[0, 0])


@pytest.mark.parametrize(
    ("count", "name", "said"),
    [(0, "a.png", "1 to 200"), (1, "a.gif", "jpg or .png"), (-1, "a.png", "no picture")],
)
def test_what_cannot_be_shown_is_refused(
    count: int, name: str, said: str, pictures: list[Path], tmp_path: Path
) -> None:
    some = pictures[:count] if count >= 0 else [tmp_path / "nowhere.jpg"]
    with pytest.raises(InputError, match=said):
        explain([model(MPN)], some, tmp_path / name)


def test_descriptors_have_nothing_to_show(pictures: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not learned"):
        explain([embedder.load("hsv")], pictures, tmp_path / "a.png")
    with pytest.raises(DataError, match=r"is a folder, .* pictures themselves, as .*/\*\.jpg"):
        explain([embedder.load("hsv")], [tmp_path], tmp_path / "a.png")


def write_run(folder: Path, recipe: Recipe) -> Path:
    folder.mkdir()
    method = recipe.method.build(4)
    save_file(method.state_dict(), folder / "weights.safetensors")
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    (folder / "card.json").write_text(json.dumps({"num_classes": 4}))
    return folder


def test_command(pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path / n, parse(None, MPN)) for n in ("one", "two")]
    out = tmp_path / "sheet.jpg"
    assert cli.main(["explain", *map(str, runs), "--images", *map(str, pictures), "-o", str(out)]) == 0  # fmt: skip  # noqa: E501
    assert str(out) in capsys.readouterr().out
    both = size(out)
    assert cli.main(["explain", str(runs[0]), *map(str, pictures[:2]), "-o", str(out)]) == 0
    one = size(out)
    assert (both[0] - one[0], both[1] - one[1]) == (20 + 6 * 100, 196)
    assert cli.main(["explain", str(tmp_path / "nothing"), str(pictures[0])]) == 1
    said = capsys.readouterr().err
    assert "not a run folder" in said
    assert "hsv" not in said  # which has nothing to show
    assert cli.main(["explain", str(pictures[0])]) == 1
    assert "is no run: give the folder of one first, and then pictures" in capsys.readouterr().err
    assert cli.main(["explain", str(runs[0]), str(pictures[0].parent)]) == 1
    assert f"{pictures[0].parent} is a folder, and not of a run" in capsys.readouterr().err
