"""Priors on disk: written whole or not at all, versioned, found by the names of pictures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscam.errors import DataError
from crosscam.priors import store
from crosscam.types import Prior, Sample

NAMES = ("train/a/1.jpg", "train/b/1.jpg", "train/b/2.jpg")
PLAN = store.Plan(
    Prior.MASKS, "test", {"size": [2, 3]}, "toy", NAMES, ("background", "top"), (2, 3), "uint8"
)
VALUES = np.arange(18, dtype=np.uint8).reshape(3, 2, 3)


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    made = store.write(tmp_path, PLAN, [VALUES[:2], VALUES[2:]])
    again = store.find(tmp_path, Prior.MASKS)
    assert again is not None
    for found in (made, again, *store.read_all(tmp_path)):
        assert isinstance(found.values, np.memmap)
        assert np.array_equal(found.values, VALUES)
        assert found.names == ("background", "top")
        assert found.rows == {name: i for i, name in enumerate(NAMES)}
    assert store.find(tmp_path, Prior.TEXTURE) is None


def test_a_set_of_the_same_version_is_not_made_again(tmp_path: Path) -> None:
    store.write(tmp_path, PLAN, [VALUES])
    asked = []

    def blocks() -> Iterator[Any]:
        asked.append(1)
        yield VALUES

    store.write(tmp_path, PLAN, blocks())
    assert not asked
    other = dataclasses.replace(PLAN, parameters={"size": [2, 3], "least": 0.5})
    store.write(tmp_path, other, blocks())
    assert asked
    assert other.version != PLAN.version
    assert not [name for name in files(tmp_path) if PLAN.version in name]  # the old one is gone
    assert len(files(tmp_path)) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"producer": "else"}, {"pictures": NAMES[::-1]}, {"names": ("background", "hat")},
        {"kind": Prior.TEXTURE}, {"rows": (0, 0, -1)}, {"dtype": "float16"}, {"shape": (3, 2)},
    ],
)  # fmt: skip
def test_everything_that_decides_the_values_is_in_the_version(change: dict[str, Any]) -> None:
    assert dataclasses.replace(PLAN, **change).version != PLAN.version


def test_a_crash_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    store.write(tmp_path, PLAN, [VALUES])
    before = files(tmp_path)

    def broken() -> Iterator[Any]:
        yield VALUES[:1] + 100
        raise KeyboardInterrupt

    newer = dataclasses.replace(PLAN, parameters={"size": [4]})
    with pytest.raises(KeyboardInterrupt):
        store.write(tmp_path, newer, broken())
    with pytest.raises(DataError, match=r"needs 3 rows, its producer made 2"):
        store.write(tmp_path, newer, [VALUES[:2]])
    with pytest.raises(DataError, match="takes rows uint8"):
        store.write(tmp_path, newer, [VALUES.astype(np.int32)])
    assert files(tmp_path) == before
    found = store.find(tmp_path, Prior.MASKS)
    assert found is not None
    assert np.array_equal(found.values, VALUES)


def test_a_crash_before_the_description_leaves_the_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(tmp_path, PLAN, [VALUES])

    def dies(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    newer = dataclasses.replace(PLAN, parameters={})
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_atomically", dies)
        with pytest.raises(KeyboardInterrupt):
            store.write(tmp_path, newer, [VALUES + 1])
    found = store.find(tmp_path, Prior.MASKS)
    assert found is not None
    assert np.array_equal(found.values, VALUES)
    assert found.about["version"] == PLAN.version


def test_pictures_are_found_by_path_then_by_file_name(tmp_path: Path) -> None:
    made = store.write(tmp_path / "priors", PLAN, [VALUES])
    root = tmp_path / "data"

    def samples(*names: str) -> list[Sample]:
        return [Sample(root / name, 1) for name in names]

    asked = samples("train/b/1.jpg", "train/a/1.jpg", "train/c/9.jpg")
    assert list(made.find(asked, root)) == [1, 0, -1]
    # from another folder: 2.jpg is the only one of its name, there are two of 1.jpg
    assert list(made.find(samples("else/2.jpg", "else/1.jpg"), root)) == [2, -1]
    # a list of pictures: its folder is the root
    listed = tmp_path / "data" / "list.csv"
    listed.parent.mkdir()
    listed.touch()
    assert list(made.find(asked, listed)) == [1, 0, -1]
    with pytest.raises(DataError, match=r"the one picture has no masks .* made of toy by test"):
        made.require(samples("train/c/9.jpg"), root)


def test_one_of_several_producers_must_be_named(tmp_path: Path) -> None:
    store.write(tmp_path, PLAN, [VALUES])
    store.write(tmp_path, dataclasses.replace(PLAN, producer="two"), [VALUES + 1])
    with pytest.raises(DataError, match=r"several producers: test, two.*priors.masks=test"):
        store.find(tmp_path, Prior.MASKS)
    with pytest.raises(DataError, match="no masks made by 'three'"):
        store.find(tmp_path, Prior.MASKS, "three")
    found = store.find(tmp_path, Prior.MASKS, "two")
    assert found is not None
    assert found.values[0, 0, 0] == 1
    with pytest.raises(DataError, match="no folder of priors"):
        store.find(tmp_path / "none", Prior.MASKS)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: next(f.glob("*.npy")).unlink(), "missing or cut"),
        (lambda f: next(f.glob("*.npy")).write_bytes(b"\x93NUMPY"), "missing or cut"),
        (lambda f: next(f.glob("*.txt")).write_text("9 x\n"), "says 3 rows"),
        (lambda f: next(f.glob("*.json")).write_text("{"), "does not describe"),
        (lambda f: change(f, format=9), "format 9"),
        (lambda f: change(f, files="../../etc/passwd"), "does not describe"),
        (lambda f: change(f, kind="smell"), "does not describe"),
    ],
)
def test_a_damaged_set_is_an_error_that_says_so(
    tmp_path: Path, break_it: Any, message: str
) -> None:
    store.write(tmp_path, PLAN, [VALUES])
    break_it(tmp_path)
    with pytest.raises(DataError, match=message):
        store.find(tmp_path, Prior.MASKS)


def change(folder: Path, **entries: Any) -> None:
    path = next(folder.glob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
