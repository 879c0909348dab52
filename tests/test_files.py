"""What is said of a file that cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from crosscam import files
from crosscam.errors import DiskError, InputError
from crosscam.files import disk_errors, new_folder, replacing, require_place, write_atomically


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full. Free some space and try again."),
        (errno.EACCES, "Permission denied. Name a place where you may write, or get leave to "
         "write here (chmod), and try again."),
        (errno.EROFS, "Read-only file system. Name a place where you may write, or get leave to "
         "write here (chmod), and try again."),
        (errno.EIO, "Input/output error. Mend the folder and try again."),
    ],
)  # fmt: skip
def test_the_cure_fits_the_fault(number: int, said: str) -> None:
    """Nothing is promised that is not there: no last state, nothing to resume."""
    with pytest.raises(DiskError) as caught, disk_errors(Path("/there/f.npz"), "none"):
        raise OSError(number, os.strerror(number), "/there/.f.npz.7.writing")
    assert str(caught.value) == f"could not write /there/f.npz: {said}"


def test_what_is_left_is_said() -> None:
    with pytest.raises(DiskError) as caught, disk_errors(Path("x"), "step-3", "resume"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value).endswith("Last good state: step-3. Free some space and resume.")


def test_a_folder_that_is_missing_is_to_be_made(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"No such file or directory\. Make its folder first and"):
        write_atomically(tmp_path / "none" / "f", "text")


def test_what_is_left_may_be_more_than_the_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with (
        pytest.raises(DiskError, match=r"Last good state: the set\."),
        replacing(tmp_path / "f", "the set"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_text() == "old"


def test_a_new_folder_is_there_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(files, "flush", flushed.append)
    monkeypatch.setattr(files, "flush_folder", flushed.append)
    path = tmp_path / "a" / "b"
    with new_folder(path) as temporary:
        (temporary / "f").write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # else it could not be renamed
    assert flushed == [temporary / "f", temporary, path.parent]
    assert [p.name for p in path.parent.iterdir()] == ["b"]
    assert (path / "f").read_text() == "new"


@pytest.mark.parametrize("error", [KeyError(), KeyboardInterrupt()])
def test_an_error_leaves_no_folder(tmp_path: Path, error: BaseException) -> None:
    def half() -> None:
        with new_folder(tmp_path / "b") as temporary:
            (temporary / "f").write_text("half")
            raise error

    with pytest.raises(type(error)):
        half()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_came_meanwhile_stays(tmp_path: Path) -> None:
    def late() -> None:
        with new_folder(tmp_path / "b"):
            (tmp_path / "b").mkdir()
            (tmp_path / "b" / "f").write_text("theirs")

    with pytest.raises(DiskError, match="could not write"):
        late()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b" / "f").read_text() == "theirs"


def test_a_place_is_looked_at_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    require_place(tmp_path / "a" / "b" / "f.npz")
    require_place(tmp_path / "a" / "b", folder=True)
    require_place(tmp_path / "file")
    require_place(tmp_path, folder=True)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    with pytest.raises(InputError, match="is a folder, and a file is written"):
        require_place(tmp_path)
    with pytest.raises(InputError, match="is a file, and a folder is written"):
        require_place(tmp_path / "file", folder=True)
    for folder in (True, False):
        with pytest.raises(DiskError, match="Not a directory"):
            require_place(tmp_path / "file" / "x", folder=folder)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_place_where_nothing_can_be_made_is_refused() -> None:
    with pytest.raises(DiskError, match=r"could not write /proc/x/f\.npz: "):
        require_place(Path("/proc/x/f.npz"))
