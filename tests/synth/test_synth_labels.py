"""The ground truth is true: textures, joints, masks and visibility against the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from slow_renderer import rasterize_slowly

from crosscam.synth import raster
from crosscam.synth.body import ARM, CHART, HAND, LEG, TORSO, body
from crosscam.synth.camera import draw_camera
from crosscam.synth.identity import draw_identity
from crosscam.synth.person import make_person
from crosscam.synth.render import HEIGHT, WIDTH, Look, _folds, encode, render_shot
from crosscam.types import BODY_PARTS

CLEAR = Look(occluder=0.0, neighbors=(1.0, 0.0, 0.0), misalign=0.0, cut=0.0)


@pytest.fixture(scope="module")
def people():
    return [make_person(draw_identity(3, i, families=0.0)) for i in range(6)]


@pytest.fixture(scope="module")
def cameras():
    return [draw_camera(8, n, family=0) for n in (1, 2)]


@pytest.fixture(scope="module")
def shots(people, cameras):
    return [(p, render_shot(p, c, 0, CLEAR)) for p in people for c in cameras]


def test_texture_seen_through_iuv_is_the_picture(shots) -> None:
    """Luma of the texture at (u, v) goes with luma of the image; most of the person has a place."""
    correlations, coverage = [], []
    for person, shot in shots:
        texture, _ = person.texture()
        mask = shot.iuv[..., 0] > 0
        coverage.append(mask.sum() / (shot.part > 0).sum())
        seen = texture[shot.iuv[..., 2], shot.iuv[..., 1]].mean(-1)[mask]
        actual = shot.image.astype(float).mean(-1)[mask]
        correlations.append(np.corrcoef(seen, actual)[0, 1])
    assert np.median(correlations) > 0.75
    assert np.median(coverage) > 0.85
    assert min(coverage) > 0.5


def test_places_name_the_body_part_of_their_texel(shots) -> None:
    part = body().texels.part.reshape(CHART, CHART)[::2, ::2]
    for _person, shot in shots:
        own = (shot.part >= 1) & (shot.part <= 10)  # bare skin: part and place must agree
        u, v = shot.iuv[own][:, 1], shot.iuv[own][:, 2]
        assert (shot.iuv[own][:, 0] == shot.part[own]).mean() > 0.99
        assert (part[v, u] == shot.part[own]).mean() > 0.9


def test_seen_joints_lie_in_their_parts(shots) -> None:
    legs = {13: LEG, 14: LEG + 1, 15: (LEG, LEG + 2), 16: (LEG + 1, LEG + 3)}
    right = total = 0
    for _, shot in shots:
        for joint, want in legs.items():
            x, y, seen = shot.keypoints[joint]
            if seen != 2:
                continue
            patch = shot.iuv[max(int(y) - 3, 0) : int(y) + 4, max(int(x) - 3, 0) : int(x) + 4, 0]
            total += 1
            right += bool(np.isin(patch, want).any())
        x, y, seen = shot.keypoints[0]
        if seen == 2:  # the nose
            total += 1
            right += shot.iuv[int(y), int(x), 0] == 1
    assert total > 20
    assert right / total > 0.93


def test_seen_arm_joints_lie_on_their_own_arm(shots) -> None:
    """Shoulders on arm or trunk, elbows on the arm, wrists on arm or hand, left and right apart."""
    arms = {5: (ARM, TORSO), 6: (ARM + 1, TORSO), 7: ARM, 8: ARM + 1,
            9: (ARM, HAND), 10: (ARM + 1, HAND + 1)}  # fmt: skip
    right = total = 0
    for _, shot in shots:
        for joint, want in arms.items():
            x, y, seen = shot.keypoints[joint]
            if seen != 2:
                continue
            patch = shot.iuv[max(int(y) - 4, 0) : int(y) + 5, max(int(x) - 4, 0) : int(x) + 5, 0]
            total += 1
            right += bool(np.isin(patch, want).any())
    assert total > 30
    assert right / total > 0.95


def test_keypoint_visibility_and_range(shots) -> None:
    for _, shot in shots:
        inside = shot.keypoints[:, 2] > 0
        assert inside.sum() >= 12
        x, y = shot.keypoints[inside, 0], shot.keypoints[inside, 1]
        assert (x >= 0).all()
        assert (x < WIDTH).all()
        assert (y >= 0).all()
        assert (y < HEIGHT).all()
        assert set(np.unique(shot.keypoints[:, 2])) <= {0.0, 1.0, 2.0}


def test_faces_show_from_the_front_and_hide_from_behind(people, cameras) -> None:
    front = render_shot(people[0], cameras[0], 5, CLEAR, yaw=0.0)
    back = render_shot(people[0], cameras[0], 5, CLEAR, yaw=180.0)
    assert abs(front.yaw) < 1
    assert abs(abs(back.yaw) - 180) < 1
    assert front.keypoints[0, 2] == 2
    assert back.keypoints[0, 2] < 2
    assert front.keypoints[5, 0] > front.keypoints[6, 0]  # their left is on our right
    assert back.keypoints[5, 0] < back.keypoints[6, 0]
    for shot in range(8):  # a face that looks this way is seen, whatever the pose
        seen = render_shot(people[0], cameras[0], shot, CLEAR, yaw=0.0).keypoints[:3, 2]
        assert (seen == 2).sum() >= 2
    left = render_shot(people[0], cameras[0], 5, CLEAR, yaw=90.0)
    seen = np.bincount(left.iuv[..., 0].ravel(), minlength=11)
    assert seen[3] > seen[4]  # more of the left arm than of the right


def test_masks_are_those_of_a_slow_renderer(people, cameras, monkeypatch) -> None:
    fast = render_shot(people[1], cameras[1], 4, CLEAR)
    unsure = np.zeros((HEIGHT, WIDTH), bool)

    def slow(points, faces, face, bary, depth):
        doubt = rasterize_slowly(points, faces, face, bary, depth)
        if doubt.shape == unsure.shape:
            unsure[:] |= doubt

    camera = cameras[1]
    assert fast.native < 160, "the test wants a picture rendered at its own size"
    monkeypatch.setattr(raster, "rasterize", slow)
    truth = render_shot(people[1], camera, 4, CLEAR)
    differ = fast.person != truth.person
    assert not (differ & ~unsure).any()
    assert differ.sum() <= 5
    agree = (fast.part == truth.part)[~unsure]
    assert agree.mean() > 0.999


def test_what_is_covered_is_in_the_amodal_mask_only(people, cameras) -> None:
    covered = Look(occluder=1.0, occluder_cover=(0.4, 0.6), neighbors=(0.0, 0.0, 1.0),
                   neighbor_front=1.0, misalign=0.0, cut=0.0)  # fmt: skip
    ratios = []
    for person in people:
        clear, hidden = (render_shot(person, cameras[0], 2, look) for look in (CLEAR, covered))
        assert ((hidden.part > 0) <= hidden.person).all()
        np.testing.assert_array_equal(clear.person, hidden.person)  # the same pose and box
        assert clear.occlusion < 0.03
        seen = (hidden.part > 0).sum() / hidden.person.sum()
        assert hidden.occlusion == pytest.approx(1 - seen, abs=0.02)
        ratios.append(hidden.occlusion)
    assert np.mean(ratios) > 0.1


def test_files_hold_what_they_say(shots) -> None:
    import io

    from PIL import Image

    _, shot = shots[0]
    files = encode(shot)
    packed = np.asarray(Image.open(io.BytesIO(files["png"])))
    np.testing.assert_array_equal(packed & 31, shot.part)
    np.testing.assert_array_equal((packed & 32) > 0, shot.person)
    iuv = np.asarray(Image.open(io.BytesIO(files["iuv"])))
    np.testing.assert_array_equal(iuv, shot.iuv[::2, ::2])
    assert shot.part.max() < len(BODY_PARTS)
    sizes = [sum(len(v) for v in encode(s).values()) for _, s in shots]
    assert np.mean(sizes) < 14_000


def test_folds_move_with_each_picture_and_leave_skin_alone(people) -> None:
    person = people[0]
    first, second = (_folds(person, np.random.default_rng(s)) for s in (1, 2))
    again = _folds(person, np.random.default_rng(1))
    np.testing.assert_array_equal(first[0], again[0])
    drawn = np.unique(person.faces)
    bare = person.fold[drawn] == 0
    assert bare.any()
    assert not bare.all()
    for points, tone in (first, second):
        moved = np.linalg.norm(points - person.points, axis=1)[drawn]
        assert (moved[bare] == 0).all()
        assert (tone[drawn][bare] == 1).all()
        assert 0.3 < np.median(moved[~bare] / person.fold[drawn][~bare]) < 1.5
        assert moved.max() < 0.04
    assert (first[0] != second[0]).any()


def test_a_person_depends_on_their_seed_alone() -> None:
    first = make_person(draw_identity(9, 4, families=0.5))
    make_person(draw_identity(9, 5, families=0.5))
    again = make_person(draw_identity(9, 4, families=0.5))
    np.testing.assert_array_equal(first.atlas, again.atlas)
    np.testing.assert_array_equal(first.points, again.points)
    other = make_person(draw_identity(10, 4, families=0.5))
    assert (first.atlas != other.atlas).any()


def test_families_share_clothes_but_not_bodies() -> None:
    block = [draw_identity(2, i, families=1.0) for i in range(4)]
    assert {who.family for who in block} == {0}
    assert len({who.outfit.top.kind for who in block}) == 1
    colors = np.array([who.outfit.top.colors[0] for who in block])
    assert np.ptp(colors, axis=0).max() < 0.15
    assert len({who.row for who in block}) > 1
    assert draw_identity(2, 0, families=0.0).family == -1


def test_another_outfit_keeps_the_person() -> None:
    a, b = (draw_identity(2, 7, outfit, families=0.0) for outfit in (0, 1))
    assert (a.row, a.skin, a.hair, a.female) == (b.row, b.skin, b.hair, b.female)
    assert a.outfit != b.outfit
