"""The compiled loops against closed forms and a slow renderer."""

from __future__ import annotations

import numpy as np
import pytest
from slow_renderer import rasterize_slowly

from crosscam.synth import raster
from crosscam.synth.body import body, joint_points, pose_bones
from crosscam.synth.camera import gaussian, look_at
from crosscam.synth.pose import draw_pose


def buffers(height: int, width: int):
    face = np.full((height, width), -1, np.int32)
    bary = np.zeros((height, width, 2), np.float32)
    return face, bary, np.full((height, width), raster.FAR, np.float32)


def test_triangles_are_where_a_slow_renderer_puts_them() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-8, 40, (90, 2)), rng.uniform(1, 5, (90, 1))], 1)
    points = points.astype(np.float32)
    faces = rng.integers(0, 90, (60, 3)).astype(np.int32)
    fast, slow = buffers(32, 24), buffers(32, 24)
    raster.rasterize(points, faces, *fast)
    unsure = rasterize_slowly(points, faces, *slow)
    assert unsure.mean() < 0.2
    assert (fast[0] >= 0).any()
    np.testing.assert_array_equal(fast[0][~unsure], slow[0][~unsure])
    np.testing.assert_allclose(fast[2][~unsure], slow[2][~unsure], rtol=1e-4)
    np.testing.assert_allclose(fast[1][~unsure], slow[1][~unsure], atol=2e-3)


def test_a_body_has_the_outline_a_slow_renderer_draws() -> None:
    shared = body()
    points = shared.canonical.copy()
    points = np.stack([points[:, 0] * 30 + 20, 60 - points[:, 2] * 30, points[:, 1] + 4], 1)
    fast, slow = buffers(64, 40), buffers(64, 40)
    raster.rasterize(points, shared.faces, *fast)
    unsure = rasterize_slowly(points, shared.faces, *slow)
    # Inside a closed body an edge is shared by two faces; only which of them is unsure.
    np.testing.assert_array_equal((fast[0] >= 0)[~unsure], (slow[0] >= 0)[~unsure])
    assert ((fast[0] >= 0) != (slow[0] >= 0)).sum() <= 2
    assert 200 < (fast[0] >= 0).sum() < 1200


def test_what_is_behind_the_lens_is_not_drawn() -> None:
    points = np.array([[0, 0, -1], [9, 0, 2], [0, 9, 2]], np.float32)
    face, bary, depth = buffers(8, 8)
    raster.rasterize(points, np.array([[0, 1, 2]], np.int32), face, bary, depth)
    assert (face == -1).all()


def test_skinning_is_the_weighted_sum() -> None:
    rng = np.random.default_rng(1)
    rest = rng.normal(size=(7, 3)).astype(np.float32)
    turn = rng.normal(size=(5, 3, 3)).astype(np.float32)
    shift = rng.normal(size=(5, 3)).astype(np.float32)
    bone = rng.integers(0, 5, (7, 4)).astype(np.int32)
    weight = rng.dirichlet(np.ones(4), 7).astype(np.float32)
    weight[0] = (1, 0, 0, 0)
    out = np.empty_like(rest)
    raster.skin(rest, turn, shift, bone, weight, out)
    naive = np.zeros_like(rest)
    for v in range(7):
        for k in range(4):
            naive[v] += weight[v, k] * (turn[bone[v, k]] @ rest[v] + shift[bone[v, k]])
    np.testing.assert_allclose(out, naive, atol=1e-5)


def test_normals_of_a_pyramid() -> None:
    points = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]], np.float32)
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4]], np.int32)
    out = np.empty_like(points)
    raster.normals(points, faces, out)
    np.testing.assert_allclose(out[4], [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(out[0], np.array([1, 0, 1]) / np.sqrt(2), atol=1e-6)


def test_ground_and_wall_are_at_their_distance() -> None:
    eye = np.array([0, -5, 2], np.float32)
    turn = look_at(eye, np.array([0.0, 5.0, 2.0]))
    window = np.array([-0.5, -1.0, 1 / 16, 2 / 32], np.float32)
    wall = np.array([[-9, 5, 9, 5, 0, 3, 0, 1, 1, 1, 1, 1]], np.float32)
    bank = np.full((1, 256 * 256 + 128 * 128, 4), 255, np.uint8)
    start = np.array([0, 256 * 256])
    light = np.zeros((5, 3), np.float32)
    light[2:4] = 1
    ground = np.array([0, 0, 1, 1, 0, 0.5, 1, 1, 1, 0], np.float32)
    no_shadow = (np.full((4, 4), raster.FAR, np.float32), np.zeros((3, 4), np.float32))
    no_feet = np.zeros((0, 3), np.float32)
    color, depth = np.empty((32, 16, 3), np.float32), np.empty((32, 16), np.float32)
    raster.scene_rays(
        window, eye, turn, wall, ground, bank, start, raster.LINEAR, light, *no_shadow, no_feet,
        color, depth,
    )  # fmt: skip
    v = -1.0 + (np.arange(32) + 0.5) / 16
    expected = np.full(32, 60.0)
    expected[v > 0] = 2 / v[v > 0]  # the ground, 2 m below the eye
    on_wall = (v > -0.1) & (expected > 10)
    expected[on_wall] = 10
    np.testing.assert_allclose(depth[:, 3], np.minimum(expected, 60), rtol=1e-4)


def test_shrinking_keeps_the_mean_and_blurs_keep_the_sum() -> None:
    image = np.random.default_rng(2).random((12, 8, 3)).astype(np.float32)
    small = np.empty((4, 4, 3), np.float32)
    raster.resize_area(image, small)
    np.testing.assert_allclose(small, image.reshape(4, 3, 4, 2, 3).mean((1, 3)), atol=1e-6)
    odd = np.empty((5, 3, 3), np.float32)
    raster.resize_area(image, odd)
    np.testing.assert_allclose(odd.mean((0, 1)), image.mean((0, 1)), atol=1e-5)
    kernel = gaussian(0.8)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    spot = np.zeros((15, 15, 1), np.float32)
    spot[7, 7] = 1
    raster.blur(spot, kernel, kernel, np.empty_like(spot))
    r = len(kernel) // 2
    np.testing.assert_allclose(
        spot[7 - r : 8 + r, 7 - r : 8 + r, 0], np.outer(kernel, kernel), atol=1e-7
    )


def test_a_plain_camera_is_a_gamma_curve() -> None:
    image = np.linspace(0, 1, 24).reshape(4, 2, 3).astype(np.float32)
    look = np.array([1, 0, 1 / 2.2, 1, 1, 0, 0, 0], np.float32)
    out = np.empty((4, 2, 3), np.uint8)
    scratch = np.empty_like(image), np.empty_like(image)
    raster.develop(image.copy(), np.eye(3, dtype=np.float32), look, 1, 1, *scratch, out)
    assert np.abs(out - (image ** (1 / 2.2) * 255)).max() <= 1.01


def test_sharpening_adds_the_difference_to_the_mean_around() -> None:
    image = np.random.default_rng(4).uniform(0.3, 0.6, (9, 7, 3)).astype(np.float32)
    for reach in (1, 2):
        look = np.array([1, 0, 1, 1, 1, 0, 0, 0.8], np.float32)
        out = np.empty(image.shape, np.uint8)
        scratch = np.empty_like(image), np.empty_like(image)
        raster.develop(image.copy(), np.eye(3, dtype=np.float32), look, 1, reach, *scratch, out)
        padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), "edge")
        for y, x in np.ndindex(9, 7):
            mean = padded[y : y + 2 * reach + 1, x : x + 2 * reach + 1].mean((0, 1))
            wanted = (image[y, x] + 0.8 * (image[y, x] - mean)) * 255
            assert np.abs(out[y, x] - wanted).max() <= 1.01


def test_bones_at_rest_leave_the_body_and_joints_where_they_are() -> None:
    shared = body()
    build = shared.build(shared.coefficients[3])
    turn, shift = pose_bones({}, build.heads)
    posed = np.empty_like(build.vertices)
    raster.skin(build.vertices, turn, shift, shared.skin_bone, shared.skin_weight, posed)
    np.testing.assert_allclose(posed, build.vertices, atol=1e-5)
    joints = joint_points(build, turn, shift)
    assert joints[5, 0] > 0 > joints[6, 0]  # left is +x
    assert (np.diff(joints[[0, 5, 11, 13, 15], 2]) < 0).all()  # nose to ankle, top down


def test_bone_lengths_survive_a_pose() -> None:
    shared = body()
    build = shared.build(shared.coefficients[5])
    rest = joint_points(build, *pose_bones({}, build.heads))
    for seed in range(6):
        _, turns = draw_pose(np.random.default_rng(seed), build.heads)
        moved = joint_points(build, *pose_bones(turns, build.heads))
        for a, b in ((5, 7), (7, 9), (11, 13), (13, 15), (6, 8), (12, 14)):
            length = np.linalg.norm(moved[a] - moved[b])
            assert length == pytest.approx(np.linalg.norm(rest[a] - rest[b]), rel=1e-3)
        knee, ankle, hip = moved[13], moved[15], moved[11]
        # A knee bends forwards (-y): it is never behind the line from hip to ankle.
        t = (knee[2] - ankle[2]) / (hip[2] - ankle[2] + 1e-9)
        if 0 < t < 1:
            assert knee[1] <= ankle[1] + t * (hip[1] - ankle[1]) + 0.04
