"""Garments of an asset folder: read, fitted, painted, and refused with a reason."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from crosscam.errors import DataError
from crosscam.synth import body as bodies
from crosscam.synth import closet as closets
from crosscam.synth import read_annotations, read_labels, read_texture, synthesize
from crosscam.synth.body import BAG, BOTTOM, HAT, HEAD, LEG, TOP, TORSO, body
from crosscam.synth.camera import draw_camera
from crosscam.synth.closet import open_closet
from crosscam.synth.identity import draw_identity
from crosscam.synth.person import make_person
from crosscam.synth.render import Look, render_shot

CLEAR = Look(occluder=0.0, neighbors=(1.0, 0.0, 0.0), misalign=0.0, cut=0.0)
SCALES = "x_scale 5399 11998 1.4\nz_scale 962 5320 1.8\ny_scale 791 881 2.2\n"


def write_asset(folder: Path, keep: np.ndarray, tags: str, out: float = 0.15) -> None:
    """An asset that is the body's own surface at the vertices ``keep``, ``out`` to the front."""
    shared = body()
    faces = shared.faces[keep[shared.faces].all(1)]
    used = np.unique(faces)
    new = np.full(shared.count, -1)
    new[used] = np.arange(len(used))
    x, z = shared.canonical[used, 0], shared.canonical[used, 2]
    uv = np.stack([0.5 + 0.8 * x, z / 2], 1)
    folder.mkdir(parents=True)
    name = folder.name
    mesh = [f"v {i} 0 0" for i in range(len(used))]
    mesh += [f"vt {u:.6f} {v:.6f}" for u, v in uv]
    mesh += ["f " + " ".join(f"{i + 1}/{i + 1}" for i in new[face]) for face in faces]
    (folder / f"{name}.obj").write_text("\n".join(mesh) + "\n")
    rows = [f"{v} {v} {v} 0.5 0.25 0.25 0 0 {out}" for v in used]
    hidden = np.flatnonzero(keep)
    listed = " ".join(map(str, hidden[1:]))
    fit = [f"# a test\nname {name}\nobj_file {name}.obj\n{SCALES}{tags}verts 0", *rows,
           "delete_verts", f"{hidden[0]} - {hidden[0]} {listed}"]  # fmt: skip
    (folder / f"{name}.mhclo").write_text("\n".join(fit) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("assets")
    shared = body()
    z, part = shared.canonical[:, 2], shared.part
    used = np.zeros(shared.count, bool)
    used[shared.used] = True
    legs = (part >= LEG) & (part < LEG + 2)
    suit = used & (((part == TORSO) & (z < 1.45)) | (legs & (z > 0.1)))
    write_asset(root / "base" / "clothes" / "suit01", suit, "tag Male\ntag Casual\n")
    write_asset(root / "base" / "clothes" / "shoes01", used & (z < 0.1), "tag Shoes\n", 0.0)
    write_asset(root / "base" / "hair" / "short01", used & (z > 1.70), "", 0.05)
    return root


def test_a_garment_is_where_its_fitting_file_says(folder) -> None:
    garment = open_closet(folder).garments["suit01"]
    shared = body()
    assert (garment.kind, garment.long, garment.sleeved) == ("suit", True, False)
    assert garment.tags == {"male", "casual"}
    depth = abs(shared.canonical[962, 1] - shared.canonical[5320, 1]) / 1.8
    own = shared.canonical[garment.hidden].copy()
    own[:, 1] -= 0.15 * depth  # an offset to the front: -y
    for point in garment.canonical[::97]:
        assert np.abs(own - point).max(1).min() < 1e-5
    # Another body: the same rule with that body's lengths.
    build = shared.build(shared.coefficients[7])
    depth = abs(build.vertices[962, 1] - build.vertices[5320, 1]) / 1.8
    own = build.vertices[garment.hidden].copy()
    own[:, 1] -= 0.15 * depth
    for point in garment.fit(build)[::97]:
        assert np.abs(own - point).max(1).min() < 1e-5
    np.testing.assert_allclose(garment.weight.sum(1), 1, atol=1e-5)


def test_a_suit_is_top_above_the_waist_and_covers_what_it_hides(folder) -> None:
    garment = open_closet(folder).garments["suit01"]
    z = garment.canonical[:, 2]
    assert set(garment.label[z > 1.1]) == {TOP}
    assert set(garment.label[z < 0.9]) == {BOTTOM}
    cover = garment.vertex_cover
    assert (cover[garment.hidden] > 0).all()
    assert (cover[body().part == HEAD] == 0).all()
    texels = body().texels
    hidden = garment.hidden[texels.vertex[texels.near]]
    assert (garment.texel_cover[hidden] > 0).all()


def test_each_texel_names_the_body_behind_it(folder) -> None:
    garment = open_closet(folder).garments["suit01"]
    chart = body().texels
    inside = garment.texels.valid.ravel()
    gap = np.linalg.norm(chart.point[garment.behind] - garment.texels.point, axis=1)[inside]
    assert np.median(gap) < 0.03  # the cloth hangs 1.5 cm before the skin
    assert set(chart.part[garment.behind]) <= {TORSO, 3, 4, LEG, LEG + 1}


def test_nearest_is_what_trying_all_finds() -> None:
    rng = np.random.default_rng(0)
    points, query = rng.normal(size=(70, 3)), rng.normal(size=(40, 3))
    index, distance = closets._nearest(query, points)
    naive = np.linalg.norm(query[:, None] - points[None], axis=-1)
    np.testing.assert_array_equal(index, naive.argmin(1))
    np.testing.assert_allclose(distance, naive.min(1), rtol=1e-5)


def test_ranges_and_groups_by_hand() -> None:
    assert closets._ranges(["5", "-", "8", "11", "20", "-", "21"]) == [5, 6, 7, 8, 11, 20, 21]
    group = closets._groups(7, np.array([[0, 1, 2], [2, 3, 3], [5, 6, 6]]))
    assert group[0] == group[1] == group[2] == group[3]
    assert group[5] == group[6] != group[0]
    assert len(set(group)) == 3  # vertex 4 is alone


def test_weights_between_three_vertices_are_those_of_their_bones() -> None:
    bone = np.array([[0, 1, 2, 3], [1, 4, 5, 6], [1, 0, 7, 8]])
    weight = np.array([[0.4, 0.3, 0.2, 0.1]] * 3)
    bones, shares = closets._blend(bone, weight, np.array([[0, 1, 2]]), np.array([[0.5, 0.3, 0.2]]))
    total = np.zeros(9)
    for vertex, share in enumerate((0.5, 0.3, 0.2)):
        for b, w in zip(bone[vertex], weight[vertex], strict=True):
            total[b] += share * w
    top = np.sort(np.argsort(-total)[:4])
    assert sorted(bones[0]) == list(top)
    np.testing.assert_allclose(shares[0], total[bones[0]] / total[top].sum(), atol=1e-6)


def dressed(folder: Path, count: int = 40):
    closet = open_closet(folder)
    people = [draw_identity(3, i, 0, 0.0, closet) for i in range(count)]
    return closet, people


def test_only_garments_change_and_only_where_they_agree(folder) -> None:
    _, people = dressed(folder)
    plain = [draw_identity(3, i, 0, 0.0) for i in range(len(people))]
    assert any(who.suit for who in people)
    assert any(who.hair_mesh for who in people)
    for who, was in zip(people, plain, strict=True):
        assert (who.row, who.skin, who.outfit, who.bag) == (was.row, was.skin, was.outfit, was.bag)
        if who.suit:
            assert not who.female  # it is tagged male
            assert who.outfit.bottom.kind in ("trousers", "jeans", "cargo", "track", "leggings")
            assert who.outfit.top.sleeve < 0.5
        if who.hair_mesh:
            assert who.hair == "short"


def test_the_texture_still_explains_the_picture(folder) -> None:
    closet, people = dressed(folder)
    camera = draw_camera(8, 1, family=0)
    correlations = []
    for who in [w for w in people if w.suit][:4]:
        person = make_person(who, closet)
        assert person.atlas.shape[1] == 1024
        shot = render_shot(person, camera, 0, CLEAR, yaw=20.0)
        mask = np.isin(shot.part, (TOP, BOTTOM)) & (shot.iuv[..., 0] > 0)
        assert mask.sum() > 1000
        assert (shot.iuv[..., 0][np.isin(shot.part, (TOP, BOTTOM))] > 0).all()
        texture, _ = person.texture()
        seen = texture[shot.iuv[..., 2], shot.iuv[..., 1]].mean(-1)
        whole = shot.iuv[..., 0] > 0
        correlations.append(
            np.corrcoef(seen[whole], shot.image.astype(float).mean(-1)[whole])[0, 1]
        )
        label = person.labels[:, : bodies.CHART]
        assert (label == TOP).any()
        assert (label == BOTTOM).any()
    assert np.median(correlations) > 0.7


def test_a_set_says_which_assets_it_wears(folder, tmp_path) -> None:
    arguments = {"ids": 3, "cameras": 1, "shots": 1, "seed": 3, "train_share": 1.0,
                 "families": 0.0, "progress": False}  # fmt: skip
    first = synthesize(tmp_path / "a", **arguments, assets=folder)
    again = synthesize(tmp_path / "b", **arguments, assets=folder)
    manifest = json.loads((first / "manifest.json").read_text())
    assert "CC0" in manifest["assets"]["license"]
    assert manifest["assets"]["garments"] == {"shoes01": "shoes", "short01": "hair",
                                              "suit01": "suit"}  # fmt: skip
    assert str(folder) not in (first / "manifest.json").read_text()
    for name in read_annotations(first)["name"]:
        assert (first / str(name)).read_bytes() == (again / str(name)).read_bytes()
        np.testing.assert_array_equal(
            read_labels(first, str(name)).iuv, read_labels(again, str(name)).iuv
        )
    assert read_texture(first, 1)[0].shape == (256, 256, 3)
    with pytest.raises(DataError, match="other settings"):
        synthesize(first, **arguments)


def test_wrong_folders_and_files_are_refused_with_a_reason(folder, tmp_path) -> None:
    with pytest.raises(DataError, match="holds no MakeHuman garments"):
        open_closet(tmp_path)
    source = folder / "base" / "clothes" / "shoes01"
    fit, mesh = (source / "shoes01.mhclo").read_text(), (source / "shoes01.obj").read_text()

    def broken(name: str, fit: str, mesh: str | None) -> Path:
        place = tmp_path / name / "clothes" / "x"
        place.mkdir(parents=True)
        (place / "x.mhclo").write_text(fit)
        if mesh is not None:
            (place / "shoes01.obj").write_text(mesh)
        return tmp_path / name

    cases = {
        "is missing": (fit, None),
        "not belong together": (fit, "v 0 0 0\n" + mesh),
        "not a whole MakeHuman fitting file": (fit.replace("obj_file", "object"), mesh),
        "cannot be read": (fit.replace("verts 0", "verts 0\n12 x 13 0 0 0 0 0 0"), mesh),
        "base mesh": (fit.replace("verts 0", "verts 0\n99999 0 0 1 0 0 0 0 0"), mesh),
        "not an OBJ mesh": (fit, mesh.replace("vt ", "vt x")),
        "faces name points": (fit, mesh + "f 1/1 2/2 999999/1\n"),
    }
    for k, (reason, (bad_fit, bad_mesh)) in enumerate(cases.items()):
        with pytest.raises(DataError, match=reason):
            open_closet(broken(f"case{k}", bad_fit, bad_mesh))


@pytest.mark.data
@pytest.mark.slow
def test_the_assets_of_the_community() -> None:
    root = Path(os.environ.get("CROSSCAM_DATA", "/none")) / "makehuman-assets"
    if not root.is_dir():
        pytest.skip("CROSSCAM_DATA names no folder with makehuman-assets/")
    closet = open_closet(root)
    kinds = [g.kind for g in closet.garments.values()]
    assert (kinds.count("suit"), kinds.count("shoes"), kinds.count("hair")) == (12, 6, 10)
    assert {"male_casualsuit05", "male_elegantsuit01"} <= set(closet.suits(False, True, True))
    assert "female_casualsuit01" in closet.suits(True, True, False)
    camera = draw_camera(8, 1, family=0)
    correlations = []
    for who in [w for w in (draw_identity(3, i, 0, 0.0, closet) for i in range(40)) if w.suit][:8]:
        person = make_person(who, closet)
        shot = render_shot(person, camera, 0, CLEAR)
        texture, _ = person.texture()
        mask = shot.iuv[..., 0] > 0
        seen = texture[shot.iuv[..., 2], shot.iuv[..., 1]].mean(-1)[mask]
        correlations.append(np.corrcoef(seen, shot.image.astype(float).mean(-1)[mask])[0, 1])
        own = (shot.part > 0) & ~np.isin(shot.part, (BAG, HAT))
        assert (mask & own).sum() > 0.97 * own.sum()
    assert np.median(correlations) > 0.7
