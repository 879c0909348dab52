"""Parsers against small trees laid out as the real sets are."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from crosscam.data import cuhk03 as cuhk03_module
from crosscam.data.datasets import available, load, options_from_text, parse
from crosscam.data.findings import Count, inspect
from crosscam.data.listing import shuffled
from crosscam.data.own import make_split
from crosscam.errors import DataError
from crosscam.types import Dataset, Protocol, Sample


def touch(folder: Path, *names: str) -> Path:
    """Empty files: parsers open no picture."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def labels(samples: Iterable[Sample]) -> list[tuple[str, int, int]]:
    return [(s.path.name, s.pid, s.camid) for s in samples]


def kinds(name: str, root: Path, partial: bool = True, **options: Any) -> set[str]:
    return {f.kind for f in inspect(parse(name, root, **options), partial=partial)}


def small_market(root: Path) -> Path:
    touch(root / "bounding_box_train", "0002_c1s1_000451_03.jpg", "0002_c2s1_000551_01.jpg")
    touch(root / "bounding_box_train", "Thumbs.db", "._0002_c1s1_000451_03.jpg")
    touch(root / "query", "0001_c1s1_001051_00.jpg")
    touch(
        root / "bounding_box_test",
        "-1_c1s1_000401_03.jpg",
        "0000_c6s1_000401_03.jpg",
        "0001_c1s1_001051_03.jpg",
        "0001_c2s1_001051_03.jpg",
    )
    return root


# --- Market-1501 and alike ------------------------------------------------------------------------


def test_market_reads_ids_cameras_junk_and_distractors(tmp_path: Path) -> None:
    ds = load("market1501", small_market(tmp_path), partial=True)
    assert labels(ds.train) == [
        ("0002_c1s1_000451_03.jpg", 2, 1),
        ("0002_c2s1_000551_01.jpg", 2, 2),
    ]
    assert labels(ds.query) == [("0001_c1s1_001051_00.jpg", 1, 1)]
    assert [(s.pid, s.camid) for s in ds.gallery] == [(-1, 1), (0, 6), (1, 1), (1, 2)]
    assert ds.protocol == Protocol(same_camera="drop")


@pytest.mark.parametrize("inner", ["", "Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15"])
def test_the_outer_folder_will_do(tmp_path: Path, inner: str) -> None:
    home = small_market(tmp_path / inner)
    assert load("market1501", tmp_path, partial=True).root == home


def test_a_subset_needs_partial(tmp_path: Path) -> None:
    small_market(tmp_path)
    with pytest.raises(DataError) as error:
        load("market1501", tmp_path)
    message = str(error.value)
    assert "train: found 2 images of 1 id." in message
    assert "12,936 images of 751 ids" in message
    assert "--partial" in message


def test_counts_leave_junk_out_and_distractors_without_id(tmp_path: Path) -> None:
    gallery = parse("market1501", small_market(tmp_path)).rows[2]
    assert (gallery.found.ids, gallery.found.images) == (1, 3)


def test_a_complete_count_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crosscam.data import datasets

    small = {"train": Count(1, 2), "query": Count(1, 1), "gallery": Count(1, 3)}
    monkeypatch.setattr(datasets, "_MARKET", small)
    assert len(load("market1501", small_market(tmp_path)).gallery) == 4
    touch(tmp_path / "query", "0001_c3s1_001051_00.jpg")
    with pytest.raises(DataError, match="Remove what does not belong"):
        load("market1501", tmp_path)


def test_unknown_names_are_told_by_name(tmp_path: Path) -> None:
    touch(small_market(tmp_path) / "query", "holiday.jpg")
    with pytest.raises(DataError, match=r"holiday\.jpg") as error:
        load("market1501", tmp_path, partial=True)
    assert "0002_c1s1_000451_03.jpg" in str(error.value)


def test_cameras_out_of_range(tmp_path: Path) -> None:
    touch(small_market(tmp_path) / "query", "0001_c7s1_001051_00.jpg", "0001_c12_1.jpg")
    with pytest.raises(DataError, match=r"own: 7, 12\. Cameras of market1501 run from 1 to 6"):
        load("market1501", tmp_path, partial=True)


def test_an_id_in_train_and_test_is_an_error(tmp_path: Path) -> None:
    touch(small_market(tmp_path) / "bounding_box_train", "0001_c1s1_000451_03.jpg")
    with pytest.raises(DataError, match="1 id is in train and in query or gallery"):
        load("market1501", tmp_path, partial=True)


def test_multi_query_keeps_the_boxes_of_query_persons_and_cameras(tmp_path: Path) -> None:
    small_market(tmp_path)
    touch(
        tmp_path / "gt_bbox",
        "0001_c1s1_001051_00.jpg",
        "0001_c1s2_001051_00.jpg",
        "0001_c2s1_001051_00.jpg",  # another camera
        "0002_c1s1_001051_00.jpg",  # a train person
    )
    ds = load("market1501", tmp_path, partial=True, multi_query="max")
    assert [(s.pid, s.camid) for s in ds.multi_query] == [(1, 1), (1, 1)]
    assert ds.protocol.multi_query == "max"
    assert "multi-query" in ds.variant


def test_multi_query_names_queries_without_boxes(tmp_path: Path) -> None:
    assert "query-without-boxes" in kinds("market1501", small_market(tmp_path), multi_query="mean")
    # Such a query stands for itself.
    ds = load("market1501", tmp_path, partial=True, multi_query="mean")
    assert ds.multi_query == ds.query


def test_a_complete_benchmark_has_a_match_for_every_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crosscam.data import datasets

    small = {"train": Count(1, 2), "query": Count(2, 2), "gallery": Count(1, 3)}
    monkeypatch.setattr(datasets, "_MARKET", small)
    touch(small_market(tmp_path) / "query", "0003_c3s1_001051_00.jpg")
    with pytest.raises(DataError, match=r"1 of 2 queries .* no match.*--partial"):
        load("market1501", tmp_path)
    assert len(load("market1501", tmp_path, partial=True).query) == 2


def test_distractors_join_the_gallery_as_nobody(tmp_path: Path) -> None:
    small_market(tmp_path)
    with pytest.raises(DataError, match="distractors=True needs"):
        load("market1501", tmp_path, partial=True, distractors=True)
    touch(tmp_path / "images", "0000001.jpg", "0000002.jpg")
    ds = load("market1501", tmp_path, partial=True, distractors=True)
    assert [(s.pid, s.camid) for s in ds.gallery[-2:]] == [(0, 0), (0, 0)]


@pytest.mark.parametrize(
    ("name", "wrapper"), [("dukemtmc", "DukeMTMC-reID"), ("occluded-duke", "Occluded_Duke")]
)
def test_duke_layouts(tmp_path: Path, name: str, wrapper: str) -> None:
    home = tmp_path / wrapper
    touch(home / "bounding_box_train", "0005_c8_f0046985.jpg")
    touch(home / "query", "0006_c1_f0046985.jpg")
    touch(home / "bounding_box_test", "0006_c2_f0046985.jpg")
    ds = load(name, tmp_path, partial=True)
    assert labels(ds.train) == [("0005_c8_f0046985.jpg", 5, 8)]
    assert (len(ds.query), len(ds.gallery)) == (1, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("market1501", [(751, 12936), (750, 3368), (750, 15913)]),
        ("dukemtmc", [(702, 16522), (702, 2228), (1110, 17661)]),
        ("occluded-duke", [(702, 15618), (519, 2210), (1110, 17661)]),
    ],
)
def test_expected_counts(tmp_path: Path, name: str, expected: list[tuple[int, int]]) -> None:
    (tmp_path / "query").mkdir()
    rows = parse(name, tmp_path).rows
    assert [(r.expected.ids, r.expected.images) for r in rows] == expected


# --- CUHK03, extracted ----------------------------------------------------------------------------


def np_folder(home: Path) -> None:
    touch(home / "bounding_box_train", "0001_c1_01.png", "0001_c2_06.png")
    touch(home / "query", "0003_c1_01.png")
    touch(home / "bounding_box_test", "0003_c2_06.jpg")


def test_cuhk03_np_boxes(tmp_path: Path) -> None:
    np_folder(tmp_path / "cuhk03-np" / "detected")
    ds = load("cuhk03-np", tmp_path, partial=True)
    assert ds.variant == "detected, new protocol 767/700"
    assert labels(ds.gallery) == [("0003_c2_06.jpg", 3, 2)]
    with pytest.raises(DataError, match="holds only detected"):
        load("cuhk03-np", tmp_path, partial=True, boxes="labeled")
    np_folder(tmp_path / "cuhk03-np" / "labeled")
    with pytest.raises(DataError, match="Say which"):
        load("cuhk03-np", tmp_path, partial=True)
    rows = parse("cuhk03-np", tmp_path, boxes="labeled").rows
    assert [r.expected.images for r in rows] == [7368, 1400, 5328]


def test_cuhk03_np_inner_folder(tmp_path: Path) -> None:
    np_folder(tmp_path / "labeled")
    rows = parse("cuhk03-np", tmp_path / "labeled").rows
    assert rows[0].expected.images == 7368
    with pytest.raises(DataError, match="folder is called"):
        parse("cuhk03-np", tmp_path / "labeled", boxes="detected")
    np_folder(tmp_path / "mine")
    with pytest.raises(DataError, match="does not tell which boxes"):
        parse("cuhk03-np", tmp_path / "mine")
    assert "detected" in parse("cuhk03-np", tmp_path / "mine", boxes="detected").dataset.variant


# --- CUHK03, from the .mat file -------------------------------------------------------------------

PAIRS = (3, 2, 1, 1, 1)  # persons of each camera pair


def picture(pair: int, person: int, index: int) -> np.ndarray:
    """[h, w, 3] uint8, different for every picture, not square, not symmetric."""
    h, w = 6 + pair, 3 + person
    base = np.arange(h * w * 3, dtype=np.uint8).reshape(h, w, 3)
    return base + np.uint8(10 * index)


def has_image(pair: int, person: int, index: int) -> bool:
    return index in (1, 2, 6, 7) or (pair, person, index) == (1, 1, 10)


def write_cuhk03(root: Path, kind: str = "detected") -> Path:
    """``cuhk-03.mat`` as MATLAB writes v7.3: references to transposed arrays."""
    path = root / "cuhk03_release" / "cuhk-03.mat"
    path.parent.mkdir(parents=True)
    reference = h5py.special_dtype(ref=h5py.Reference)
    with h5py.File(path, "w") as f:
        store = f.create_group("#refs#")

        def put(array: np.ndarray, **how: Any) -> Any:
            return store.create_dataset(str(len(store)), data=array, **how).ref

        for boxes in ("detected", "labeled"):
            pairs = []
            for pair, persons in enumerate(PAIRS, start=1):
                cells = np.empty((10, persons), dtype=reference)
                for person in range(1, persons + 1):
                    for index in range(1, 11):
                        here = has_image(pair, person, index)
                        pixels = picture(pair, person, index).T if here else np.zeros(2, "u8")
                        cells[index - 1, person - 1] = put(pixels)
                pairs.append(put(cells, dtype=reference))
            f.create_dataset(boxes, data=np.array([pairs], dtype=reference), dtype=reference)
        tests = [np.array([[1, 2], [2, 1]]), np.array([[1, 1], [5, 1]])]
        f.create_dataset(
            "testsets",
            data=np.array([[put(t.T.astype(float)) for t in tests]], dtype=reference),
            dtype=reference,
        )
    return path


def write_config(root: Path, kind: str = "detected") -> dict[str, Any]:
    names, labels_, cameras = [], [], []
    label = 0
    for pair, persons in enumerate(PAIRS, start=1):
        for person in range(1, persons + 1):
            label += 1
            for index in range(1, 11):
                if has_image(pair, person, index):
                    view = 1 if index <= 5 else 2
                    names.append(f"{pair}_{person:03d}_{view}_{index:02d}.png")
                    labels_.append(label)
                    cameras.append(view)
    rows = np.arange(1, len(names) + 1)  # from 1, as MATLAB counts
    test = np.array([x > 5 for x in labels_])
    first = np.array([n.endswith(("_1_01.png", "_2_06.png")) for n in names])
    fields = {
        "filelist": np.array(names, dtype=object)[:, None],
        "labels": np.array(labels_, dtype=float)[:, None],
        "camId": np.array(cameras, dtype=float)[:, None],
        "train_idx": rows[~test][:, None].astype(float),
        "query_idx": rows[test & first][:, None].astype(float),
        "gallery_idx": rows[test & ~first][:, None].astype(float),
    }
    savemat(root / f"cuhk03_new_protocol_config_{kind}.mat", fields)
    return fields


TOTAL = sum(PAIRS) * 4 + 1


@pytest.fixture
def small_cuhk03(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cuhk03_module, "IMAGES", {"labeled": TOTAL, "detected": TOTAL})
    write_cuhk03(tmp_path)
    write_config(tmp_path)
    return tmp_path


def test_cuhk03_pictures_come_out_as_they_went_in(small_cuhk03: Path) -> None:
    ds = load("cuhk03", small_cuhk03, partial=True)
    folder = small_cuhk03 / "images_detected"
    assert len(list(folder.glob("*.png"))) == TOTAL
    for s in (*ds.train, *ds.query, *ds.gallery):
        pair, person, _, index = (int(x) for x in s.path.stem.split("_"))
        with Image.open(s.path) as image:
            np.testing.assert_array_equal(np.asarray(image), picture(pair, person, index))


def test_cuhk03_new_protocol(small_cuhk03: Path) -> None:
    ds = load("cuhk03", small_cuhk03, partial=True)
    assert {s.pid for s in ds.train} == {1, 2, 3, 4, 5}
    assert labels(ds.query) == [
        ("3_001_1_01.png", 6, 1),
        ("3_001_2_06.png", 6, 2),
        ("4_001_1_01.png", 7, 1),
        ("4_001_2_06.png", 7, 2),
        ("5_001_1_01.png", 8, 1),
        ("5_001_2_06.png", 8, 2),
    ]
    assert len(ds.train) == 21
    assert len(ds.gallery) == 6
    assert ds.protocol == Protocol()
    assert ds.variant == "detected, new protocol 767/700"


def test_cuhk03_classic_split(small_cuhk03: Path) -> None:
    ds = load("cuhk03", small_cuhk03, partial=True, protocol="classic", split=1, repeats=10)
    assert {s.pid for s in ds.query} == {1001, 5001}
    assert ds.query == ds.gallery
    assert len(ds.train) == TOTAL - 9
    assert ds.protocol == Protocol(
        same_camera="drop", gallery_shots=1, shots_per="query", repeats=10
    )
    with pytest.raises(DataError, match="splits run from 0 to 1"):
        load("cuhk03", small_cuhk03, partial=True, protocol="classic", split=2)


def test_cuhk03_extraction_goes_on_where_it_stopped(
    small_cuhk03: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_save, calls = Image.Image.save, 0

    def save_until_full(self: Image.Image, *args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            Path(args[0]).write_bytes(b"half a picture")
            raise OSError(28, "No space left on device")
        real_save(self, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", save_until_full)
    with pytest.raises(DataError, match=r"No space left on device.*extract_to=FOLDER"):
        load("cuhk03", small_cuhk03, partial=True)
    folder = small_cuhk03 / "images_detected"
    assert sorted(p.name for p in folder.iterdir()) == [
        f"1_001_{v}_{i:02d}.png" for v, i in ((1, 1), (1, 2), (2, 6), (2, 7), (2, 10))
    ]
    load("cuhk03", small_cuhk03, partial=True)
    assert calls == 6 + TOTAL - 5  # the five that were written are not written again
    load("cuhk03", small_cuhk03, partial=True)
    assert calls == 6 + TOTAL - 5


def test_cuhk03_without_the_mat_file_once_extracted(small_cuhk03: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "cache" / "deep"
    load("cuhk03", small_cuhk03, partial=True, extract_to=elsewhere)
    (small_cuhk03 / "cuhk03_release" / "cuhk-03.mat").unlink()
    assert len(load("cuhk03", small_cuhk03, partial=True, extract_to=elsewhere).train) == 21
    with pytest.raises(DataError, match="classic splits are inside"):
        load("cuhk03", small_cuhk03, partial=True, extract_to=elsewhere, protocol="classic")
    with pytest.raises(DataError, match="not there to take them from"):
        load("cuhk03", small_cuhk03, partial=True)


def test_cuhk03_damaged_files(small_cuhk03: Path) -> None:
    config = small_cuhk03 / "cuhk03_new_protocol_config_detected.mat"
    (small_cuhk03 / "images_detected").mkdir()
    touch(small_cuhk03 / "images_labeled")
    with pytest.raises(DataError, match=r"needs cuhk03_new_protocol_config_labeled\.mat"):
        load("cuhk03", small_cuhk03, partial=True, boxes="labeled")
    config.write_bytes(b"no matlab file")
    with pytest.raises(DataError, match="cannot be read as a MATLAB file"):
        load("cuhk03", small_cuhk03, partial=True)
    savemat(config, {"labels": np.ones(3)})
    with pytest.raises(DataError, match="has no filelist, camId"):
        load("cuhk03", small_cuhk03, partial=True)


def test_cuhk03_cut_off_mat(tmp_path: Path) -> None:
    touch(tmp_path, "cuhk-03.mat")
    with pytest.raises(DataError, match=r"cannot be opened as a MATLAB v7\.3"):
        load("cuhk03", tmp_path, partial=True)


def test_cuhk03_names_a_picture_that_is_gone(small_cuhk03: Path) -> None:
    fields = write_config(small_cuhk03)
    fields["filelist"][0, 0] = "1_001_1_05.png"
    savemat(small_cuhk03 / "cuhk03_new_protocol_config_detected.mat", fields)
    with pytest.raises(
        DataError, match=r"1 picture that .* is not in .* Examples: 1_001_1_05\.png"
    ):
        load("cuhk03", small_cuhk03, partial=True)


# --- MSMT17 ---------------------------------------------------------------------------------------


def small_msmt17(root: Path, version: str = "v1") -> Path:
    train, test = {"v1": ("train", "test"), "v2": ("mask_train_v2", "mask_test_v2")}[version]
    home = root / f"MSMT17_{version.upper()}"
    lists = {
        "train": (train, ["0000/0000_000_01_0303morning_0015_0.jpg 0"]),
        "val": (train, ["0000/0000_001_15_0303morning_0015_0.jpg 0"]),
        "query": (test, ["0000/0000_000_02_0303noon_0015_0.jpg 0"]),
        "gallery": (test, ["0000/0000_001_03_0303noon_0015_0.jpg 0"]),
    }
    for split, (folder, lines) in lists.items():
        touch(home / folder, *(line.split()[0] for line in lines))
        (home / f"list_{split}.txt").write_text("\n".join(lines) + "\n")
    touch(home / train, "0000/0000_009_01_0303morning_0015_0_ex.jpg")  # in no list
    return home


def test_msmt17_numbers_test_persons_apart(tmp_path: Path) -> None:
    small_msmt17(tmp_path)
    ds = load("msmt17", tmp_path, partial=True)
    assert [(s.pid, s.camid) for s in ds.train] == [(1, 1)]
    assert [(s.pid, s.camid) for s in ds.query] == [(1042, 2)]
    assert [(s.pid, s.camid) for s in ds.gallery] == [(1042, 3)]
    assert ds.variant == "V1, trained on train without val"
    both = load("msmt17", tmp_path, partial=True, train_val=True)
    assert [s.camid for s in both.train] == [1, 15]
    rows = {r.split: (r.expected.images, r.found.images) for r in parse("msmt17", tmp_path).rows}
    assert rows == {
        "train": (None, 1),
        "val": (None, 1),
        "query": (11_659, 1),
        "gallery": (82_161, 1),
        "train + val": (32_621, 2),
    }


def test_msmt17_versions(tmp_path: Path) -> None:
    small_msmt17(tmp_path, "v2")
    assert load("msmt17", tmp_path, partial=True).variant.startswith("V2")
    assert load("msmt17", tmp_path / "MSMT17_V2", partial=True, version="v2").query
    with pytest.raises(DataError, match=r"version=v1 was asked for.*or version=v2"):
        load("msmt17", tmp_path / "MSMT17_V2", partial=True, version="v1")
    small_msmt17(tmp_path, "v1")
    with pytest.raises(DataError, match="holds V1 and V2"):
        load("msmt17", tmp_path, partial=True)
    assert load("msmt17", tmp_path, partial=True, version="v1").variant.startswith("V1")


def test_msmt17_missing_files_and_odd_lines(tmp_path: Path) -> None:
    home = small_msmt17(tmp_path)
    with (home / "list_query.txt").open("a") as f:
        f.write("0001/0001_000_02_0303noon_0015_0.jpg 1\nnonsense\n")
    with pytest.raises(DataError) as error:
        load("msmt17", tmp_path, partial=True)
    assert "1 image that list_query.txt names is not in" in str(error.value)
    assert "1 line of" in str(error.value)


# --- sets without cameras -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "query", "gallery", "expected"),
    [
        (
            "partial-reid",
            "Partial_REID/partial_body_images/001_003.jpg",
            "Partial_REID/whole_body_images/001_003.jpg",
            (60, 300),
        ),
        ("partial-ilids", "PartialiLIDS/query/001.jpg", "PartialiLIDS/gallery/001.jpg", (119, 119)),
        (
            "partial-ilids",
            "Partial_iLIDS/Probe/001_01.jpg",
            "Partial_iLIDS/Gallery/001_01.jpg",
            (119, 119),
        ),
        (
            "occluded-reid",
            "Occluded_REID/occluded_body_images/001/001_01.tif",
            "Occluded_REID/whole_body_images/001/001_01.tif",
            (200, 1000),
        ),
    ],
)
def test_partial_sets(
    tmp_path: Path, name: str, query: str, gallery: str, expected: tuple[int, int]
) -> None:
    touch(tmp_path, query, gallery)
    ds = load(name, tmp_path, partial=True)
    assert not ds.train
    assert [(s.path, s.pid, s.camid) for s in ds.query] == [(tmp_path / query, 1, 0)]
    assert [(s.path, s.pid, s.camid) for s in ds.gallery] == [(tmp_path / gallery, 1, 1)]
    assert ds.protocol == Protocol(same_camera="keep")
    with pytest.raises(DataError, match=f"{expected[1]:,} images of {expected[0]} ids"):
        load(name, tmp_path)


def test_partial_reid_shots(tmp_path: Path) -> None:
    touch(tmp_path, "partial_body_images/000_001.jpg", "whole_body_images/000_001.jpg")
    ds = load("partial-reid", tmp_path, partial=True, gallery_shots=3)
    assert ds.protocol == Protocol(same_camera="keep", gallery_shots=3, shots_per="set", repeats=10)
    assert {s.pid for s in (*ds.query, *ds.gallery)} == {1}  # 0 would mean distractor
    with pytest.raises(DataError, match="at least 1 image"):
        load("partial-reid", tmp_path, partial=True, gallery_shots=0)


# --- VeRi-776 -------------------------------------------------------------------------------------


def small_veri(root: Path) -> Path:
    home = root / "VeRi"
    touch(home / "image_train", "0001_c020_00016450_0.jpg")
    touch(home / "image_query", "0002_c002_00030600_0.jpg")
    touch(
        home / "image_test",
        "0002_c002_00030600_0.jpg",  # the query picture lies here as well
        "0002_c003_00030605_0.jpg",
        "0002_c003_00030610_0.jpg",
    )
    (home / "test_track.txt").write_text(
        "0002_c002_00030600_0.jpg 0002_c002_00030600_0.jpg \n"  # headed by an image name
        "0002_c003_t00030605 0002_c003_00030605_0.jpg 0002_c003_00030610_0.jpg \n"
    )
    return home


def test_veri_images_and_tracks(tmp_path: Path) -> None:
    small_veri(tmp_path)
    ds = load("veri776", tmp_path, partial=True)
    assert [(s.pid, s.camid, s.track) for s in ds.gallery] == [(2, 2, -1), (2, 3, -1), (2, 3, -1)]
    assert ds.train[0].camid == 20
    assert not ds.protocol.by_track
    ds = load("veri776", tmp_path, partial=True, by_track=True)
    assert [s.track for s in ds.gallery] == [0, 1, 1]
    assert ds.protocol.by_track


def test_veri_images_without_track(tmp_path: Path) -> None:
    home = small_veri(tmp_path)
    touch(home / "image_test", "0002_c004_00030700_0.jpg")
    with pytest.raises(DataError, match=r"1 gallery image is in no track of .*test_track"):
        load("veri776", tmp_path, partial=True, by_track=True)
    (home / "test_track.txt").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load("veri776", tmp_path, partial=True, by_track=True)


# --- random splits --------------------------------------------------------------------------------


def small_viper(root: Path) -> None:
    for i in range(10):
        touch(root / "VIPeR", f"cam_a/{i:03d}_45.bmp", f"cam_b/{i:03d}_90.bmp")


def test_viper_halves(tmp_path: Path) -> None:
    small_viper(tmp_path)
    ds = load("viper", tmp_path, partial=True)
    train, query, gallery = ({s.pid for s in part} for part in (ds.train, ds.query, ds.gallery))
    assert (len(ds.train), len(ds.query), len(ds.gallery)) == (10, 5, 5)
    assert query == gallery
    assert train | query == set(range(1, 11))
    assert {s.camid for s in ds.query} == {1}
    assert {s.camid for s in ds.gallery} == {2}
    other_way = load("viper", tmp_path, partial=True, direction="ba")
    assert (other_way.query, other_way.gallery) == (ds.gallery, ds.query)
    assert other_way.train == ds.train
    splits = [{s.pid for s in load("viper", tmp_path, True, split=i).train} for i in range(10)]
    assert len({frozenset(s) for s in splits}) > 5
    with pytest.raises(DataError, match="from 0 to 9"):
        load("viper", tmp_path, partial=True, split=10)


def test_the_first_viper_split_never_changes() -> None:
    ids = [f"{i:06d}" for i in range(1, 633)]
    by_hash = sorted(ids, key=lambda k: hashlib.blake2b(f"0:{k}".encode()).hexdigest())
    assert shuffled(ids, 0) == by_hash
    assert by_hash[:3] == ["000278", "000333", "000114"]
    assert shuffled(reversed(ids), 0) == shuffled(ids, 0)
    assert shuffled(ids, 1) != shuffled(ids, 0)


def test_cuhk01_views(tmp_path: Path) -> None:
    for pid in range(1, 201):
        touch(tmp_path / "campus", *(f"{pid:04d}{i:03d}.png" for i in (1, 2, 3, 4)))
    ds = load("cuhk01", tmp_path, partial=True, test_ids=100)
    assert (len(ds.train), len(ds.query), len(ds.gallery)) == (400, 200, 200)
    assert {s.path.stem[-1] for s in ds.query} == {"1", "2"}
    assert {s.path.stem[-1] for s in ds.gallery} == {"3", "4"}
    assert {s.camid for s in ds.gallery} == {2}
    with pytest.raises(DataError, match="Needed: 486 or 100"):
        load("cuhk01", tmp_path, partial=True, test_ids=50)


# --- own pictures ---------------------------------------------------------------------------------


def test_folder_with_cameras_in_folders_and_names(tmp_path: Path) -> None:
    touch(tmp_path / "in_folders", "anna/cam1/1.jpg", "anna/cam2/1.jpg", "bört/cam1/1.jpg")
    touch(tmp_path / "in_folders", "bört/cam2/1.jpg")
    ds = load("folder", tmp_path / "in_folders", train_fraction=0)
    assert {(s.path.parts[-3], s.pid, s.camid) for s in (*ds.query, *ds.gallery)} == {
        ("anna", 1, 1),
        ("anna", 1, 2),
        ("bört", 2, 1),
        ("bört", 2, 2),
    }
    assert ds.protocol.same_camera == "drop"
    touch(tmp_path / "in_names", "anna/x_c3_1.jpg", "anna/x_c12s1_1.jpg")
    ds = load("folder", tmp_path / "in_names", train_fraction=0)
    assert {s.camid for s in (*ds.query, *ds.gallery)} == {3, 12}


@pytest.mark.parametrize(
    ("name", "camera"),
    [
        ("x_c3_1", 3),
        ("x-cam4-1", 4),
        ("cam5.1", 5),
        ("frame_camera_6_1", 6),
        ("Camera 7", 7),
        ("c8s2_1", 8),
        ("3fa2-c12-9b", 0),  # as UUIDs have it
        ("abc9", 0),
        ("pic_cat_1", 0),
        ("x_c1a", 0),
    ],
)
def test_cameras_in_names(tmp_path: Path, name: str, camera: int) -> None:
    touch(tmp_path, f"anna/{name}.jpg")
    ds = parse("folder", tmp_path, train_fraction=0).dataset
    assert [s.camid for s in ds.gallery] == [camera]


@pytest.mark.parametrize(
    ("place", "camera"),
    [
        ("2024/c4/1", 4),  # of several folders the one named like a camera
        ("5/track1/1", 5),  # else the one below the person
        ("2024/05/x_c6_1", 6),  # unless the name tells
        ("7/x_c6_1", 7),  # one folder is the camera, whatever the name
    ],
)
def test_a_camera_among_folders_within_folders(tmp_path: Path, place: str, camera: int) -> None:
    touch(tmp_path, f"anna/{place}.jpg")
    ds = parse("folder", tmp_path, train_fraction=0).dataset
    assert [s.camid for s in ds.gallery] == [camera]


def test_labels_with_the_same_number_are_one_camera(tmp_path: Path) -> None:
    text = "path,pid,camid,split\n1.jpg,a,1,query\n2.jpg,a,01,gallery\n3.jpg,a,cam2,gallery\n"
    ds = load("csv", write_csv(tmp_path, text, "1.jpg", "2.jpg", "3.jpg"))
    assert [s.camid for s in (*ds.query, *ds.gallery)] == [1, 1, 2]


@pytest.mark.parametrize("column", ["camera", "cam", "camera_id", "CamID "])
def test_a_camera_column_of_another_name_is_asked_about(tmp_path: Path, column: str) -> None:
    text = f"path,pid,{column}\n1.jpg,a,1\n2.jpg,a,2\n"
    file = write_csv(tmp_path, text, "1.jpg", "2.jpg")
    if column == "CamID ":  # spaces and capitals do not make another name
        assert load("csv", file, train_fraction=0).protocol.same_camera == "drop"
        return
    with pytest.raises(DataError, match=f"'{column}', but none called 'camid'.*cameras=none"):
        load("csv", file)
    assert load("csv", file, cameras="none", train_fraction=0).query
    assert (
        load("csv", write_csv(tmp_path, f"path,pid,{column}\n1.jpg,a,\n2.jpg,a,\n")).name == "csv"
    )


def test_a_split_column_of_another_name_is_asked_about(tmp_path: Path) -> None:
    text = "path,pid,subset\n1.jpg,a,train\n2.jpg,b,query\n3.jpg,b,test\n"
    file = write_csv(tmp_path, text, "1.jpg", "2.jpg", "3.jpg")
    with pytest.raises(DataError, match="'subset', but none called 'split'"):
        load("csv", file)
    write_csv(tmp_path, text.replace("query", "left"), "1.jpg", "2.jpg", "3.jpg")
    assert load("csv", file, train_fraction=0.5).train  # says something else


def test_queries_without_a_gallery_are_said(tmp_path: Path) -> None:
    text = "path,pid,split\n1.jpg,a,train\n2.jpg,b,query\n"
    assert "half-a-test" in kinds("csv", write_csv(tmp_path, text, "1.jpg", "2.jpg"))


def test_folder_camera_labels_that_are_words(tmp_path: Path) -> None:
    touch(tmp_path, "anna/gate/1.jpg", "anna/hall/1.jpg", "anna/hall/2.jpg")
    ds = load("folder", tmp_path, train_fraction=0)
    assert {(s.path.parent.name, s.camid) for s in (*ds.query, *ds.gallery)} == {
        ("gate", 1),
        ("hall", 2),
    }


def test_folder_without_cameras_leaves_nothing_out(tmp_path: Path) -> None:
    touch(tmp_path, "anna/abc12.jpg", "anna/pic_cat_1.jpg", "bob/1.jpg", "bob/2.jpg")
    ds = load("folder", tmp_path, train_fraction=0)
    assert ds.protocol == Protocol(same_camera="keep")
    assert {s.camid for s in (*ds.query, *ds.gallery)} == {0}
    assert len(ds.query) == 2


def test_one_camera_alone_is_no_camera_rule(tmp_path: Path) -> None:
    touch(tmp_path, "anna/x_c1_1.jpg", "anna/x_c1_2.jpg")
    assert load("folder", tmp_path, train_fraction=0).protocol.same_camera == "keep"
    with pytest.raises(DataError) as error:
        load("folder", tmp_path, train_fraction=0, same_camera="drop")
    message = str(error.value)
    assert "1 of 1 query (1 id) has no match" in message
    assert "same-camera rule" in message
    assert "same_camera=keep" in message


def test_folder_with_cameras_for_some(tmp_path: Path) -> None:
    touch(tmp_path, "anna/x_c1_1.jpg", "anna/x_c2_2.jpg", "anna/3.jpg")
    with pytest.raises(DataError, match=r"1 of 3 images has no camera.*cameras=none"):
        load("folder", tmp_path)
    assert load("folder", tmp_path, cameras="none", train_fraction=0).query


def test_folder_with_split_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/anna/c1/1.jpg", "query/bob/c1/1.jpg", "test/bob/c2/1.jpg")
    touch(tmp_path, "val/cleo/c2/1.jpg", "train/nobody/notes.txt")
    ds = load("folder", tmp_path)
    assert [s.path.parts[-3] for s in (*ds.train, *ds.query, *ds.gallery)] == ["anna", "bob", "bob"]
    assert {"unread-folder", "empty-folder"} <= kinds("folder", tmp_path)
    touch(tmp_path, "train/bob/c1/9.jpg")
    with pytest.raises(DataError, match="1 id is in train"):
        load("folder", tmp_path)


def test_folder_takes_market_names_in_split_folders(tmp_path: Path) -> None:
    small_market(tmp_path)
    ds = load("folder", tmp_path)
    # -1 and 0 are in the gallery only, so they keep their meaning.
    assert sorted(s.pid for s in ds.gallery) == [-1, 0, 1, 1]
    assert [(s.pid, s.camid) for s in ds.train] == [(2, 1), (2, 2)]


def test_folder_with_loose_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "anna/1.jpg", "loose.jpg")
    with pytest.raises(
        DataError, match=r"1 image file lies in .* itself and does not say who is shown.*loose\.jpg"
    ):
        load("folder", tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No image of folder was found"):
        load("folder", tmp_path)


def test_missing_folders(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for name in ("folder", "csv", "market1501", "cuhk03", "msmt17", "viper"):
        with pytest.raises(DataError, match="gone"):
            load(name, gone)
    touch(tmp_path, "Market-1501.zip")
    with pytest.raises(DataError, match="Unpack the archive first"):
        load("market1501", tmp_path / "Market-1501.zip")
    touch(tmp_path, "a/b/query/x.jpg")
    with pytest.raises(DataError, match=r"holds b, but .* Give .*a/b instead"):
        load("market1501", tmp_path / "a")


def write_csv(root: Path, text: str, *names: str, encoding: str = "utf-8") -> Path:
    touch(root, *names)
    path = root / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_csv_keeps_numbers_and_ignores_other_columns(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path,
        "path,weather,pid,camid,split\r\n"
        "a/1.jpg,sun,0002,1,train\r\n"
        "a/2.jpg,,7,1,Query\r\n\r\n"
        "a/3.jpg,,7,2,gallery\r\n"
        "a/4.jpg,,-1,2,gallery\r\n"
        "a/5.jpg,,0,2,gallery\r\n",
        *(f"a/{i}.jpg" for i in range(1, 6)),
        encoding="utf-8-sig",
    )
    ds = load("csv", path)
    assert labels(ds.train) == [("1.jpg", 2, 1)]
    assert labels(ds.query) == [("2.jpg", 7, 1)]
    assert labels(ds.gallery) == [("3.jpg", 7, 2), ("4.jpg", -1, 2), ("5.jpg", 0, 2)]
    assert load("csv", tmp_path) == ds  # the folder will do, where one file fits


def test_csv_with_names_semicolons_and_backslashes(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path,
        "Path;PID;split\na\\ö 1.jpg;Zoë;query\na\\2.jpg;Zoë;gallery\na\\3.jpg;Abel;train\n",
        "a/ö 1.jpg",
        "a/2.jpg",
        "a/3.jpg",
    )
    ds = load("csv", path)
    assert labels(ds.query) == [("ö 1.jpg", 2, 0)]
    assert labels(ds.train) == [("3.jpg", 1, 0)]
    assert ds.protocol.same_camera == "keep"


def test_csv_where_zero_is_a_person(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path,
        "path,pid,split\n1.jpg,0,query\n2.jpg,0,gallery\n3.jpg,10,train\n4.jpg,9,train\n"
        "5.jpg,-1,gallery\n",
        *(f"{i}.jpg" for i in range(1, 6)),
    )
    ds = load("csv", path)
    assert [s.pid for s in (*ds.query, *ds.gallery)] == [1, 1, -1]
    assert [s.pid for s in ds.train] == [3, 2]  # 0 < 9 < 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,pids\n1.jpg,a\n", "no pid.*Is 'pids' meant to be 'pid'"),
        ("", "is empty"),
        ("path,pid,split\n1.jpg,a,test\n", r"Did you mean 'gallery'\? .*line 2 \(test\)"),
        ("path,pid,split\n1.jpg,a,galery\n", "Did you mean 'gallery'"),
        ("path,pid\n1.jpg,\n", "no path or no pid.*line 2"),
        (
            "path,pid\n1.jpg,a\nnope/9.jpg,b\n",
            r"1 of 2 files .* does not exist.*Examples: nope/9\.jpg",
        ),
        ("path,pid,split\n1.jpg,a,query\n1.jpg,a,gallery\n", "both query and gallery"),
        ("path,pid,split\n1.jpg,a,train\n1.jpg,b,gallery\n", "listed in train and in query"),
        (
            "path,pid,split\n1.jpg,-1,query\n2.jpg,3,gallery\n",
            "1 image with the junk id -1 is in train or query",
        ),
        ("path,pid,camid\n1.jpg,a,1\n2.jpg,a,\n", "1 of 2 images has no camera"),
    ],
)
def test_csv_mistakes(tmp_path: Path, text: str, message: str) -> None:
    path = write_csv(tmp_path, text, "1.jpg", "2.jpg")
    with pytest.raises(DataError, match=message):
        load("csv", path)


def test_csv_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes("path,pid\nö.jpg,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        load("csv", path)
    with pytest.raises(DataError, match="0 CSV files"):
        load("csv", touch(tmp_path / "sub", "x.jpg"))


def test_csv_listed_twice_is_a_warning(tmp_path: Path) -> None:
    text = "path,pid,split\n1.jpg,a,train\n1.jpg,a,train\n"
    file = write_csv(tmp_path, text, "1.jpg")
    assert "listed-twice" in kinds("csv", file)
    assert len(load("csv", file).train) == 1  # and counts once
    text = "path,pid,camid,split\n1.jpg,a,1,train\n./1.jpg,a,01,train\n1.jpg,b,1,train\n"
    file = write_csv(tmp_path, text)
    assert [(s.pid, s.camid) for s in load("csv", file).train] == [(1, 1), (2, 1)]


# --- splitting own pictures -----------------------------------------------------------------------


@st.composite
def crowds(draw: st.DrawFn) -> list[tuple[str, Sample]]:
    cameras = draw(st.integers(1, 3))
    shots = draw(
        st.lists(st.tuples(st.integers(-1, 8), st.integers(1, cameras)), min_size=1, max_size=40)
    )
    return [(f"{p}/{i}.jpg", Sample(Path(f"{p}/{i}.jpg"), p, c)) for i, (p, c) in enumerate(shots)]


@settings(deadline=None)  # a busy machine is no fault of the split
@given(
    crowd=crowds(),
    train=st.floats(0, 1),
    query=st.floats(0, 1),
    seed=st.integers(0, 5),
    rule=st.sampled_from(["drop", "keep"]),
)
def test_splits_keep_their_promises(
    crowd: list[tuple[str, Sample]], train: float, query: float, seed: int, rule: Any
) -> None:
    parts = make_split(crowd, train, query, seed, rule)
    # Every image is somewhere, once.
    every = Counter(s.path for part in parts.values() for s in part)
    assert every == Counter(s.path for _, s in crowd)
    # Persons are on one side; their number is as asked.
    people = {s.pid for _, s in crowd} - {-1, 0}
    trained = {s.pid for s in parts["train"]}
    tested = {s.pid for s in (*parts["query"], *parts["gallery"])}
    assert not trained & tested
    assert len(trained) == round(train * len(people))
    # Junk and distractors are gallery only, and every query has a match.
    assert not {-1, 0} & (trained | {s.pid for s in parts["query"]})
    for q in parts["query"]:
        assert any(
            g.pid == q.pid and (rule == "keep" or g.camid != q.camid) for g in parts["gallery"]
        )
    # Whoever can be asked is asked, and not more often than wanted.
    for pid in tested - {-1, 0}:
        mine = [s for _, s in crowd if s.pid == pid]
        asked = sum(s.pid == pid for s in parts["query"])
        can = len(mine) > 1 if rule == "keep" else len({s.camid for s in mine}) > 1
        assert (asked > 0) == can
        assert asked <= max(1, round(query * len(mine)))
    # The order the files came in does not matter.
    mixed = list(crowd)
    random.Random(seed).shuffle(mixed)
    assert make_split(mixed, train, query, seed, rule) == parts


def test_split_fractions(tmp_path: Path) -> None:
    for p in range(20):
        touch(tmp_path, *(f"p{p:02d}/x_c{c}_{i}.jpg" for c in (1, 2) for i in range(4)))
    ds = load("folder", tmp_path, train_fraction=0.6, query_fraction=0.25, seed=3)
    assert len({s.pid for s in ds.train}) == 12
    assert len(ds.query) == 8 * 2
    assert len(ds.gallery) == 8 * 6
    assert load("folder", tmp_path, train_fraction=0.6, seed=3) == ds
    assert load("folder", tmp_path, train_fraction=0.6, seed=4) != ds
    assert ds.variant == "split by persons, train 0.6, query 0.25, seed 3"
    with pytest.raises(DataError, match="between 0 and 1"):
        load("folder", tmp_path, train_fraction=60)


# --- names and options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Market-1501", "market1501"),
        ("market", "market1501"),
        ("veri", "veri776"),
        ("msmt", "msmt17"),
        ("cuhk-03", "cuhk03"),
        ("occluded_duke", "occluded-duke"),
        ("PartialREID", "partial-reid"),
    ],
)
def test_unknown_names_suggest(tmp_path: Path, typed: str, meant: str) -> None:
    with pytest.raises(DataError, match=f"Did you mean '{meant}'"):
        load(typed, tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cuhk03", {"box": "labeled"}, "no option 'box'. Did you mean 'boxes'"),
        ("cuhk03", {"boxes": "labelled"}, "Did you mean 'labeled'"),
        ("cuhk03", {"split": "3"}, "Needed: a whole number"),
        ("cuhk03", {"split": True}, "Needed: a whole number"),
        ("msmt17", {"train_val": "yes"}, "Needed: true or false"),
        ("folder", {"train_fraction": "half"}, "Needed: a number"),
        ("dukemtmc", {"split": 0}, "It takes: same_camera"),
        ("market1501", {"multi_query": "min"}, "'mean', 'max' or None"),
        ("market1501", {"same_camera": "yes"}, "'auto', 'drop' or 'keep'"),
    ],
)
def test_options_are_checked(
    tmp_path: Path, name: str, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(name, tmp_path, **options)


def test_options_from_text() -> None:
    words = ["split=3", "boxes=labeled", "extract_to=/tmp/x"]
    assert options_from_text("cuhk03", words) == {
        "split": 3,
        "boxes": "labeled",
        "extract_to": Path("/tmp/x"),
    }
    assert options_from_text("msmt17", ["train_val=true", "version=none"]) == {
        "train_val": True,
        "version": None,
    }
    assert options_from_text("partial-reid", ["gallery_shots=1"]) == {"gallery_shots": 1}
    assert options_from_text("folder", ["train_fraction=0.3"]) == {"train_fraction": 0.3}
    assert options_from_text("cuhk01", ["test_ids=100"]) == {"test_ids": 100}
    assert options_from_text("viper", ["same_camera=keep"]) == {"same_camera": "keep"}
    for wrong in (["split"], ["splits=3"], ["split=three"], ["same_camera=kept"]):
        with pytest.raises(DataError):
            options_from_text("cuhk03", wrong)


def test_available_names_every_set_once() -> None:
    names = [info.name for info in available()]
    assert len(names) == len(set(names)) == 15
    assert {"market1501", "cuhk03-np", "rendered", "folder", "csv"} <= set(names)
    assert "split=0" in next(i.options for i in available() if i.name == "cuhk03")
    withdrawn = next(i.summary for i in available() if i.name == "dukemtmc")
    assert "withdrawn" in withdrawn


def test_rendered_people_may_have_any_number_of_cameras(tmp_path: Path) -> None:
    small_market(tmp_path)
    first = next((tmp_path / "query").iterdir())
    (first.parent / "0001_c31s2_000000_00.jpg").write_bytes(first.read_bytes())
    with pytest.raises(DataError, match="camera number outside"):
        load("market1501", tmp_path, partial=True)
    assert {s.camid for s in load("rendered", tmp_path).query} >= {31}


def test_rendered_pairs_are_a_training_set_of_their_own(tmp_path: Path) -> None:
    small_market(tmp_path)
    first = next((tmp_path / "query").iterdir())
    with pytest.raises(DataError, match="pairs"):
        load("rendered", tmp_path, pairs=True)
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "0007_c2s1_010000_00.jpg").write_bytes(first.read_bytes())
    dataset = load("rendered", tmp_path, pairs=True)
    assert [(s.pid, s.camid, s.path.parent.name) for s in dataset.train] == [(7, 2, "pairs")]
    assert not dataset.query
    assert not dataset.gallery


def test_same_camera_replaces_the_rule(tmp_path: Path) -> None:
    small_market(tmp_path)
    ds = load("market1501", tmp_path, partial=True, same_camera="keep", multi_query=None)
    assert ds.protocol == Protocol(same_camera="keep")


# --- real images ----------------------------------------------------------------------------------


@pytest.mark.data
def test_real_market_holdout(real_data: Path) -> None:
    ds = load("csv", real_data / "market1501" / "holdout.csv")
    assert [len(p) for p in (ds.train, ds.query, ds.gallery)] == [10_354, 663, 1_919]
    assert len({s.pid for s in ds.train}) == 601
    assert ds.protocol == Protocol()
    finding = next(
        f for f in inspect(parse("csv", ds.root), partial=False) if f.kind == "query-without-match"
    )
    assert finding.found.startswith("12 of 663 queries")
    assert finding.level == "warning"


@pytest.mark.data
def test_real_market_train_folder_is_a_subset(real_data: Path) -> None:
    with pytest.raises(DataError, match="query: found 0 images"):
        load("market1501", real_data / "market1501")
    ds: Dataset = load("market1501", real_data / "market1501", partial=True)
    assert len(ds.train) == 12_936
    assert len({s.pid for s in ds.train}) == 751


@pytest.mark.data
def test_real_cuhk03_np_is_complete(real_data: Path) -> None:
    ds = load("cuhk03-np", real_data / "cuhk03-np")
    assert [len(p) for p in (ds.train, ds.query, ds.gallery)] == [7_365, 1_400, 5_332]
