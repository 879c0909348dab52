"""The image store: what it holds, what it keeps on disk, and what is left when that fails."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crosscam.data import store
from crosscam.data.store import ImageStore
from crosscam.errors import DataError, DiskError
from crosscam.image import Preprocess
from crosscam.types import Sample

PRE = Preprocess(size=(16, 8))
PICTURE = 16 * 8 * 3  # bytes


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Thirteen pictures of several formats and sizes, one with a name outside ASCII."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"{i:02d}.{'jpg' if i % 2 else 'png'}" for i in range(12)] + ["größe 人.jpg"]
    for i, name in enumerate(names):
        Image.fromarray(rng.integers(0, 256, (20 + i, 9, 3), np.uint8)).save(folder / name)
    return [folder / name for name in names]


def on_disk(paths: list[Path], cache: Path, preprocess: Preprocess = PRE) -> ImageStore:
    return ImageStore.build(paths, preprocess, budget_bytes=0, cache_dir=cache, workers=2)


def never(*_: object, **__: object) -> None:
    raise AssertionError("a picture was decoded again")


# --- what it holds ----------------------------------------------------------------------------


def test_rows_are_the_pictures_in_order(paths: list[Path]) -> None:
    built = ImageStore.build(paths, PRE, workers=3)
    assert len(built) == 13
    assert built.images.dtype == np.uint8
    np.testing.assert_array_equal(built.images, np.stack([PRE.load(p) for p in paths]))


def test_samples_are_as_good_as_paths(paths: list[Path]) -> None:
    by_sample = ImageStore.build([Sample(p, 1) for p in paths], PRE)
    np.testing.assert_array_equal(by_sample.images, ImageStore.build(paths, PRE).images)


def test_any_number_of_threads_and_batches(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ImageStore.build(paths, PRE, workers=1).images
    monkeypatch.setattr(store, "_AHEAD", 6)
    monkeypatch.setattr(store, "_TOGETHER", 2)
    np.testing.assert_array_equal(ImageStore.build(paths, PRE, workers=8).images, expected)


def test_no_pictures_are_an_empty_store() -> None:
    built = ImageStore.build([], PRE)
    assert built.images.shape == (0, 16, 8, 3)
    assert len(built) == 0


def test_a_tensor_on_the_host_shares_the_memory(paths: list[Path]) -> None:
    built = ImageStore.build(paths, PRE)
    tensor = built.to(torch.device("cpu"))
    assert tensor.dtype == torch.uint8
    assert tensor.data_ptr() == built.images.ctypes.data


@pytest.mark.gpu
def test_on_a_gpu_the_pictures_lie_in_its_memory_if_they_fit(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    built = ImageStore.build(paths, PRE)
    device = torch.device("cuda")
    there = built.to(device)
    assert there.device.type == "cuda"
    np.testing.assert_array_equal(there.cpu().numpy(), built.images)
    free = built.images.size * 3 // 2
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    assert built.to(device).device.type == "cpu"


# --- the cache file ---------------------------------------------------------------------------


def test_beyond_the_budget_the_same_pictures_lie_in_a_file(
    paths: list[Path], tmp_path: Path
) -> None:
    cache = tmp_path / "new" / "cache"
    mapped = on_disk(paths, cache)
    assert isinstance(mapped.images, np.memmap)
    (file,) = cache.iterdir()
    assert file.stat().st_size == 13 * PICTURE
    np.testing.assert_array_equal(mapped.images, ImageStore.build(paths, PRE).images)
    tensor = mapped.to(torch.device("cpu"))  # without a warning that it cannot be written
    np.testing.assert_array_equal(tensor.numpy(), mapped.images)


@pytest.mark.parametrize(("budget", "mapped"), [(13 * PICTURE, False), (13 * PICTURE - 1, True)])
def test_the_budget_is_bytes_of_pixels(
    paths: list[Path], tmp_path: Path, budget: int, mapped: bool
) -> None:
    built = ImageStore.build(paths, PRE, budget_bytes=budget, cache_dir=tmp_path / "cache")
    assert isinstance(built.images, np.memmap) is mapped
    assert (tmp_path / "cache").exists() is mapped


def test_without_a_cache_folder_everything_is_in_memory(paths: list[Path]) -> None:
    assert not isinstance(ImageStore.build(paths, PRE, budget_bytes=0).images, np.memmap)


def test_a_second_time_nothing_is_decoded(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = on_disk(paths, tmp_path / "cache").images.copy()
    monkeypatch.setattr(Preprocess, "load", never)
    np.testing.assert_array_equal(on_disk(paths, tmp_path / "cache").images, first)


def test_the_file_cannot_be_changed_through_the_map(paths: list[Path], tmp_path: Path) -> None:
    first = on_disk(paths, tmp_path / "cache")
    expected = first.images.copy()
    first.images[:] = 7
    np.testing.assert_array_equal(on_disk(paths, tmp_path / "cache").images, expected)


def test_a_changed_picture_is_decoded_again(paths: list[Path], tmp_path: Path) -> None:
    before = on_disk(paths, tmp_path / "cache").images.copy()
    stat = paths[0].stat()
    flat = Image.new("RGB", (9, 20), (10, 200, 30))
    flat.save(paths[0])
    os.utime(paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))
    after = on_disk(paths, tmp_path / "cache").images
    assert (after[0] == [10, 200, 30]).all()
    np.testing.assert_array_equal(after[1:], before[1:])


def test_other_pictures_order_and_settings_have_files_of_their_own(
    paths: list[Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    on_disk(paths, cache)
    on_disk(paths[::-1], cache)
    on_disk(paths[:-1], cache)
    on_disk(paths, cache, Preprocess(size=(8, 16)))
    on_disk(paths, cache, Preprocess(size=(16, 8), interpolation="bicubic"))
    assert len(list(cache.iterdir())) == 5
    on_disk(paths, cache, Preprocess(size=(16, 8), mean=(0.0, 0.0, 0.0)))  # the same pixels
    assert len(list(cache.iterdir())) == 5


def test_a_file_of_a_wrong_size_is_written_anew(paths: list[Path], tmp_path: Path) -> None:
    expected = on_disk(paths, tmp_path / "cache").images.copy()
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(on_disk(paths, tmp_path / "cache").images, expected)


# --- what cannot be read ----------------------------------------------------------------------


@pytest.mark.parametrize("mapped", [False, True])
def test_unreadable_pictures_are_named_and_counted(
    paths: list[Path], tmp_path: Path, mapped: bool
) -> None:
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    paths[4].write_bytes(b"")
    paths[6].unlink()
    cache = tmp_path / "cache"
    with pytest.raises(DataError) as caught:
        ImageStore.build(
            paths, PRE, budget_bytes=0 if mapped else 10**9, cache_dir=cache, workers=2
        )
    said = str(caught.value)
    assert said.startswith("3 of 13 pictures cannot be used:")
    assert "01.jpg is truncated or corrupt" in said
    assert "04.png is empty" in said
    assert f"no picture at {paths[6]}" in said
    assert "crosscam data check" in said
    assert not cache.exists() or not list(cache.iterdir())


def test_of_many_unreadable_pictures_five_are_named(paths: list[Path]) -> None:
    for path in paths[:7]:
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="7 of 13 pictures") as caught:
        ImageStore.build(paths, PRE)
    assert str(caught.value).count("is not a picture") == 5
    assert "and 2 more" in str(caught.value)


# --- what goes wrong while writing ------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="not on this system")
def test_a_full_disk_is_said_and_leaves_nothing(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskError, match="the disk is full"):
        on_disk(paths, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.undo()
    assert len(on_disk(paths, tmp_path / "cache")) == 13


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_blocks_are_written_where_they_cannot_be_reserved() -> None:
    file = io.BytesIO()
    file.fileno = lambda: -1  # type: ignore[method-assign]

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse, raising=False)
        store._allocate(file, (2 << 20) + 5)
        assert file.getvalue() == bytes((2 << 20) + 5)
        patch.delattr(os, "posix_fallocate")
        file.seek(0)
        store._allocate(file, 3)
        assert file.tell() == 3
    with Path("/dev/full").open("wb", buffering=0) as disk, pytest.raises(OSError) as caught:
        store._allocate(disk, 10)
    assert caught.value.errno in (errno.ENOSPC, errno.ENODEV)


def test_a_folder_that_cannot_be_made_is_a_disk_error(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DiskError, match="could not write"):
        on_disk(paths, tmp_path / "cache")


def test_an_interrupted_build_leaves_no_half_cache(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, calls = Preprocess.load, []

    def interrupted(self: Preprocess, source: Path, **where: Any) -> object:
        calls.append(source)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return load(self, source, **where)

    monkeypatch.setattr(Preprocess, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        on_disk(paths, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="fork and kill")
def test_a_killed_build_leaves_no_cache_that_counts(paths: list[Path], tmp_path: Path) -> None:
    import subprocess

    cache = tmp_path / "cache"
    code = f"""
import os, signal
from pathlib import Path
from crosscam.data.store import ImageStore
from crosscam.image import Preprocess
load, calls = Preprocess.load, []
def killed(self, source, **where):
    calls.append(source)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return load(self, source, **where)
Preprocess.load = killed
ImageStore.build([Path(p) for p in {[str(p) for p in paths]!r}], Preprocess(size=(16, 8)),
                 budget_bytes=0, cache_dir=Path({str(cache)!r}), workers=2)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    (left,) = cache.iterdir()
    assert left.name.endswith(".writing")
    expected = ImageStore.build(paths, PRE).images
    np.testing.assert_array_equal(on_disk(paths, cache).images, expected)


def test_what_kills_left_is_removed_after_a_day(paths: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    old, older, new = cache / ".aa.u8.1.writing", cache / "aa.writing-1", cache / ".bb.u8.2.writing"
    for file in (old, older, new):
        file.write_bytes(b"half")
    day_before = time.time() - 25 * 3600
    for file in (old, older):
        os.utime(file, (day_before, day_before))
    on_disk(paths, cache)
    assert not old.exists()
    assert not older.exists()
    assert new.exists()  # perhaps another process is at it


# --- progress ---------------------------------------------------------------------------------


def test_progress_is_shown_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with store._progress(True, 600) as advance:
        advance(600)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with store._progress(True, 600) as advance:
        advance(300)
        advance(300)
    assert "decoding" in capsys.readouterr().err
    with store._progress(True, 100) as advance:  # over in a moment
        advance(100)
    assert capsys.readouterr().err == ""


# --- real pictures ----------------------------------------------------------------------------


@pytest.mark.data
def test_real_crops_are_the_same_in_memory_and_on_disk(real_data: Path, tmp_path: Path) -> None:
    crops = sorted((real_data / "market1501" / "bounding_box_train").glob("*.jpg"))[:400]
    pre = Preprocess(size=(128, 64))
    in_memory = ImageStore.build(crops, pre)
    np.testing.assert_array_equal(on_disk(crops, tmp_path, pre).images, in_memory.images)
    first = np.asarray(Image.open(crops[0]))  # 64x128 already, so not resized
    np.testing.assert_array_equal(in_memory.images[0], first)
