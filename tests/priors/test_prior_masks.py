"""Labels, channels, and part masks drawn from keypoints."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crosscam.errors import DataError
from crosscam.priors import compiled, labels, skeleton
from crosscam.types import BODY_PARTS, COCO17, Sample

# An upright person in 40 x 20 cells: x, y in cells.
UPRIGHT = {
    "nose": (10, 5), "left eye": (11, 4), "right eye": (9, 4), "left ear": (12, 5),
    "right ear": (8, 5), "left shoulder": (14, 10), "right shoulder": (6, 10),
    "left elbow": (16, 15), "right elbow": (4, 15), "left wrist": (16, 20),
    "right wrist": (4, 20), "left hip": (12, 22), "right hip": (8, 22), "left knee": (13, 29),
    "right knee": (7, 29), "left ankle": (13, 36), "right ankle": (7, 36),
}  # fmt: skip
SIZE = (40, 20)


def points(**missing: bool) -> np.ndarray:
    rows = [[x / SIZE[1], y / SIZE[0], 1.0] for x, y in UPRIGHT.values()]
    for i, name in enumerate(UPRIGHT):
        if missing.get(name.replace(" ", "_")) is False:
            rows[i][2] = 0
    return np.array(rows)[None]


def drawn(found: np.ndarray, name: str) -> np.ndarray:
    return found == skeleton.LABELS.index(name)


def test_joints_are_those_of_coco() -> None:
    assert tuple(UPRIGHT) == COCO17


def test_capsules_are_what_a_loop_over_distances_says() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-4, 24, (2, 12, 2))
    radius = rng.uniform(0, 6, 12)
    a[0] = b[0]  # a disc
    maps = np.zeros((12, 17, 20), np.uint8)
    compiled.capsules(maps, a, b, radius, 7)
    assert (maps > 0).any()
    assert not maps.all()
    for n, y, x in itertools.product(range(12), range(17), range(20)):
        # the distance to the segment as the smallest over many points of it
        share = np.linspace(0, 1, 2001)[:, None]
        at = a[n] + share * (b[n] - a[n])
        nearest = np.hypot(*(at - [x + 0.5, y + 0.5]).T).min()
        if abs(nearest - radius[n]) > 1e-4:
            assert (maps[n, y, x] == 7) == (nearest < radius[n])


def test_triangles_are_what_barycentric_coordinates_say() -> None:
    rng = np.random.default_rng(1)
    corners = rng.uniform(-4, 24, (3, 40, 2))
    maps = np.zeros((40, 17, 20), np.uint8)
    compiled.triangles(maps, *corners, 3)
    for n, y, x in itertools.product(range(40), range(17), range(20)):
        matrix = np.vstack([corners[:, n].T, np.ones(3)])
        weights = np.linalg.solve(matrix, [x + 0.5, y + 0.5, 1])
        if abs(weights).min() > 1e-9:
            assert (maps[n, y, x] == 3) == bool((weights > 0).all())


def test_halves_cut_only_what_they_should() -> None:
    maps = np.zeros((1, 4, 4), np.uint8)
    maps[0, :, :2] = 5
    compiled.halves(maps, np.array([[0.0, 2.0]]), np.array([[0.0, 3.0]]), 5, 6)
    assert np.array_equal(maps[0, :, 0], [5, 5, 6, 6])
    assert not maps[0, :, 2:].any()


def test_missing_ends_draw_nothing() -> None:
    maps = np.zeros((2, 5, 5), np.uint8)
    whole, gone = np.full((2, 2), 2.0), np.full((2, 2), np.nan)
    compiled.capsules(maps, whole, gone, np.ones(2), 1)
    compiled.triangles(maps, whole, whole + 1, gone, 1)
    compiled.halves(maps, gone, whole, 0, 1)
    assert not maps.any()


def test_an_upright_person_has_its_parts_where_they_belong() -> None:
    found = skeleton.part_maps(points(), COCO17, SIZE)[0]
    for name, cell in {
        "head": (5, 10), "torso": (15, 10), "bottom": (22, 10), "left arm": (15, 16),
        "right arm": (15, 4), "left thigh": (26, 13), "right thigh": (26, 7),
        "left leg": (33, 13), "right leg": (33, 7), "left foot": (37, 13), "right foot": (37, 7),
    }.items():  # fmt: skip
        assert drawn(found, name)[cell], name
    # the hips cut: above them nothing of the lower body but thighs' rounded ends, below no torso
    assert not drawn(found, "torso")[22:].any()
    assert not drawn(found, "bottom")[:22].any()
    # a mirror of the person is the mirror of the map, left and right exchanged
    mirror = points()
    mirror[..., 0] = 1 - mirror[..., 0]
    order = list(range(17))
    for i, j in labels.mirrored(COCO17):
        order[i], order[j] = j, i
    other = skeleton.part_maps(mirror[:, order], COCO17, SIZE)[0]
    swap = np.arange(len(skeleton.LABELS))
    for i, j in labels.mirrored(skeleton.LABELS):
        swap[i], swap[j] = j, i
    # where two legs overlap, the right one is drawn last: compare sides joined there
    both = {"left thigh", "right thigh", "left arm", "right arm"}
    same = other[:, ::-1] == swap[found]
    overlap = np.isin(found, [skeleton.LABELS.index(n) for n in both])
    assert (same | overlap).all()
    assert same.mean() > 0.97


def test_radii_follow_the_length_of_the_torso() -> None:
    found = skeleton.part_maps(points(), COCO17, (400, 200))[0]
    # shin, straight down: a bar as wide as twice its radius, 0.13 torsos of 120 cells
    width = drawn(found, "left leg")[325].sum()
    assert width == pytest.approx(2 * 0.13 * 120, abs=1)


@pytest.mark.parametrize(
    ("gone", "without"),
    [
        (["left_wrist"], []),
        (["left_elbow"], ["left arm"]),
        (["left_knee"], ["left thigh", "left leg"]),
        (["left_ankle"], ["left leg", "left foot"]),
        (["left_hip"], ["left thigh"]),
        (["nose", "left_eye", "right_eye", "left_ear", "right_ear"], ["head"]),
        (["left_shoulder", "right_shoulder", "left_hip", "right_hip"],
         ["torso", "bottom", "left thigh", "right thigh"]),
    ],
)  # fmt: skip
def test_missing_joints_leave_out_what_needs_them(gone: list[str], without: list[str]) -> None:
    found = skeleton.part_maps(points(**dict.fromkeys(gone, False)), COCO17, SIZE)[0]
    for name in skeleton.LABELS[1:]:
        assert drawn(found, name).any() == (name not in without), name


def test_no_joints_no_mask_and_doubtful_joints_are_missing() -> None:
    nobody = points()
    nobody[..., 2] = 0
    doubtful = points()
    doubtful[..., 2] = 0.19
    broken = points()
    broken[..., 2] = np.nan
    for some in (nobody, doubtful, broken):
        assert not skeleton.part_maps(some, COCO17, SIZE).any()
    assert skeleton.part_maps(doubtful, COCO17, SIZE, least=0.1).any()
    assert not skeleton.part_maps(nobody, COCO17, SIZE, least=0.0).any()


def test_fourteen_joints_give_a_head_between_its_top_and_the_neck() -> None:
    fourteen = np.zeros((1, 14, 3))
    for i, name in enumerate(skeleton.MARKET14):
        x, y = {"head": (10, 1), "neck": (10, 9)}.get(name) or UPRIGHT[name]
        fourteen[0, i] = x / SIZE[1], y / SIZE[0], 1
    found = skeleton.part_maps(fourteen, skeleton.MARKET14, SIZE)[0]
    head = drawn(found, "head")
    center, radius = (10, 5), min(max(8 / 2, 0.7 * 0.26 * 12), 1.3 * 0.26 * 12)
    for y, x in itertools.product(range(SIZE[0]), range(SIZE[1])):
        if math.hypot(x + 0.5 - center[0], y + 0.5 - center[1]) <= radius:
            assert head[y, x]
    assert drawn(found, "left foot").any()


# --- labels and channels ----------------------------------------------------------------------


@pytest.mark.parametrize("names", [BODY_PARTS, skeleton.LABELS])
def test_channels_cover_the_person_and_do_not_overlap(names: tuple[str, ...]) -> None:
    table = labels.channel_table(names, ("whole", "upper", "lower", *labels.SEMANTIC)) > 0
    whole, upper, lower, *six = table.T
    assert not whole[0]
    assert whole[1:].all()
    bag = np.array([name == "bag" for name in names])
    assert np.array_equal(upper | lower, whole & ~bag)
    assert not (upper & lower).any()
    assert np.array_equal(np.sum(six, 0), (whole & ~bag).astype(int))


def test_channels_by_hand() -> None:
    table = labels.channel_table(
        ("background", "hair", "left arm", "bag"), ("arms", "bag", "whole")
    )
    assert table.tolist() == [[0, 0, 0], [0, 0, 255], [255, 0, 255], [0, 255, 255]]
    with pytest.raises(DataError, match=r"do not show 'lower'.*whole, upper, head, arms, hair"):
        labels.channel_table(("background", "hair", "left arm"), ("lower",))


def test_mirrored_pairs() -> None:
    assert labels.mirrored(("left arm", "whole", "right arm", "left leg")) == [(0, 2)]


def test_shrinking_takes_what_covers_most() -> None:
    rng = np.random.default_rng(2)
    for shape, size in (((8, 6), (4, 3)), ((9, 7), (4, 3)), ((4, 3), (8, 5)), ((5, 5), (5, 5))):
        given = rng.integers(0, 4, shape).astype(np.uint8)
        found = labels.shrink(given, size)
        assert found.dtype == np.uint8
        # the definition, on a grid that both divide
        fine = np.kron(given, np.ones(size, np.uint8))
        for y, x in np.ndindex(size):
            cell = fine[y * shape[0] : (y + 1) * shape[0], x * shape[1] : (x + 1) * shape[1]]
            assert found[y, x] == np.bincount(cell.ravel()).argmax()


# --- the table --------------------------------------------------------------------------------


def test_a_table_of_joints(tmp_path: Path) -> None:
    samples = []
    for name, size in (("a.jpg", (10, 20)), ("b.jpg", (64, 128)), ("c.jpg", (8, 8))):
        Image.new("RGB", size).save(tmp_path / name)
        samples.append(Sample(tmp_path / name, 1))
    table = tmp_path / "joints.csv"
    table.write_text("file,left_hip_x,left_hip_y,head_x,head_y\na.jpg,4,9,-1,3\nb.jpg,0,127,,5\n")
    found, joints = skeleton.read_csv(table, samples, ["train/a.jpg", "train/b.jpg", "c.jpg"])
    assert joints == ("left hip", "head")
    assert found[0, 0].tolist() == pytest.approx([0.45, 0.475, 1], abs=1e-3)
    assert not found[0, 1].any()
    assert found[1, 0].tolist() == pytest.approx([0.5 / 64, 127.5 / 128, 1], abs=1e-3)
    assert not found[2].any()
    with pytest.raises(DataError, match="no row for the one picture"):
        skeleton.read_csv(table, samples[2:], ["c.jpg"])
    table.write_text("file,left_hip_x\na.jpg,4\n")
    with pytest.raises(DataError, match="must have the columns"):
        skeleton.read_csv(table, samples, ["a.jpg", "b.jpg", "c.jpg"])
    table.write_text("file,head_x,head_y\na.jpg,four,4\n")
    with pytest.raises(DataError, match="no number"):
        skeleton.read_csv(table, samples, ["a.jpg", "b.jpg", "c.jpg"])
