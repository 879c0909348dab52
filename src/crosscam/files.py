"""Files that are either the old ones or the new ones, whenever the power goes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crosscam.errors import DiskError, InputError

__all__ = [
    "disk_errors",
    "flush",
    "flush_folder",
    "new_folder",
    "private_folder",
    "replacing",
    "require_place",
    "sha256",
    "write_atomically",
]


@contextmanager
def replacing(path: Path, last_good: str = "") -> Iterator[Path]:
    """Yields a path to write to, which becomes ``path`` when the block ends without an error.

    A crash or an error leaves the old file as it was.  Processes that write the same file at the
    same time do not disturb each other; the last one's stays.

    Args:
        path: the file.
        last_good: what an error calls that which is left; "" is the old file, where there is one.

    Raises:
        InputError: ``path`` is a folder.
        DiskError: the disk is full or cannot be written.
    """
    if path.is_dir():
        raise InputError(_IS_FOLDER.format(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    with disk_errors(path, last_good or ("the file that was there" if path.exists() else "none")):
        try:
            yield temporary
            flush(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a folder to write files to, which becomes ``path`` when the block ends without error.

    After a crash or an error there is no ``path``.  Whoever calls says what is wrong if there is
    one before; here that is a ``DiskError``.

    Raises:
        DiskError: the disk is full or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    with disk_errors(path, "none"):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            for file in temporary.iterdir():
                flush(file)
            flush_folder(temporary)
            temporary.rename(path)
            flush_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace the text of ``path``; a crash leaves either the old text or the new."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_place(path: Path, *, folder: bool = False) -> None:
    """Refuse a place that cannot be written, before long work is done for it.  Leaves nothing.

    Args:
        path: the file that will be written; folders above it may still be missing.
        folder: it is a folder that will be written to.

    Raises:
        InputError: a folder where a file is written, or the other way around.
        DiskError: nothing can be written there.
    """
    with disk_errors(path, "none"):
        if folder and path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file, and a folder is written: give another name.")
        if not folder and path.is_dir():
            raise InputError(_IS_FOLDER.format(path))
        home = path if folder else path.parent
        there = next(place for place in (home, *home.parents) if place.exists())
        with tempfile.TemporaryFile(dir=there):  # asking for leave says nothing of /proc
            pass


def private_folder(path: Path) -> None:
    """Make a folder that only its owner may look into; one that is there stays as it is."""
    if path.is_dir():
        return
    with disk_errors(path, "none"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    if os.name == "nt":  # folders cannot be flushed there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path, last_good: str, again: str = "try again") -> Iterator[None]:
    """Turn the errors of a full or read-only disk into one that says what is left.

    Args:
        path: what is written.
        last_good: what is left when that fails; "none" where there was nothing.
        again: what to do once the disk is as it should be.
    """
    try:
        yield
    except Exception as error:
        # safetensors wraps what the system said in an error of its own
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        full = full or "No space left" in str(error) or "File too large" in str(error)
        why = "the disk is full" if full else getattr(error, "strerror", None) or str(error)
        left = "" if last_good == "none" else f" Last good state: {last_good}."
        cure = "Free some space" if full else _CURES.get(number or 0, "Mend the folder")
        raise DiskError(f"could not write {path}: {why}.{left} {cure} and {again}.") from error


_CURES = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "Make its folder first"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "Name a place where you may write, or get leave to write here (chmod),",
    ),
}

_IS_FOLDER = "{} is a folder, and a file is written: give the name of a file."
