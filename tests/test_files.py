"""What is said of a file that cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from crosscam.errors import DiskError
from crosscam.files import disk_errors, write_atomically


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
