"""Pictures beside a gallery: files named by the SHA-256 of their bytes, kept as they came.

A file is written under another name and renamed, so that it is whole or not there; the same
picture is kept once.  The bytes are kept (not decoded and coded again), because a vector made
again from them must be the same.  They are untrusted: show them through :mod:`crosscam.image`.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crosscam.errors import GalleryError, ImageError, MissingExtraError
from crosscam.files import (
    disk_errors,
    flush,
    flush_folder,
    private_folder,
    write_atomically,
)

__all__ = ["Pictures", "exclusive", "picture_name"]

_SUFFIXES = {  # of the formats that image.decode opens, by Pillow's names
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tif",
    "GIF": "gif",
    "PPM": "ppm",
}
_NAME = re.compile(rf"[0-9a-f]{{64}}\.({'|'.join(_SUFFIXES.values())})")
_FLUSH_ONE_BY_ONE = 64


def picture_name(data: bytes) -> str:
    """SHA-256 and a suffix told from the content, whatever the file was called.

    Raises:
        ImageError: the bytes begin like no picture.
    """
    from PIL import Image

    Image.init()  # does nothing the second time
    # Asked of Pillow, which image.decode asks too: what it opens has a name.
    for kind, suffix in _SUFFIXES.items():
        _, begins_so = Image.OPEN[kind]
        try:
            known = begins_so is not None and begins_so(data[:16])
        except (IndexError, TypeError, SyntaxError, struct.error):  # as Image.open takes them
            known = False
        if known:
            return f"{hashlib.sha256(data).hexdigest()}.{suffix}"
    raise ImageError("not a picture in a known format (JPEG, PNG, WebP, BMP, TIFF, GIF, PPM).")


def encode(picture: npt.NDArray[np.uint8]) -> bytes:
    """uint8 [h, w, 3] as JPEG (quality 95, no chroma subsampling), for crops cut from videos."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


class Pictures:
    """The picture files below ``folder``: ``ab/abcd....jpg``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unflushed: list[Path] = []
        self._changed: set[Path] = set()  # folders with new or deleted names
        self._counting = threading.Lock()
        self._totals: list[int] | None = None  # files and bytes, once they were counted

    def path(self, name: str) -> Path:
        """Where a picture lies; ``name`` as :func:`picture_name` gave it."""
        if not _NAME.fullmatch(name):
            raise GalleryError(f"{name!r} is not the name of a stored picture.")
        return self.folder / name[:2] / name

    def put(self, name: str, data: bytes) -> None:
        """Keep ``data`` under its name; does nothing where it is there already."""
        path = self.path(name)
        if path.is_file() and path.stat().st_size == len(data):
            return
        temporary = path.with_name(f".{name}.writing")
        with disk_errors(path, "all sightings that were acknowledged"):
            try:
                private_folder(self.folder)
                if not path.parent.is_dir():
                    path.parent.mkdir(exist_ok=True)
                    self._changed.add(self.folder)
                temporary.write_bytes(data)
                # A file of another size under this name was cut short by a power cut.
                before = path.stat().st_size if path.is_file() else None
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        self._unflushed.append(path)
        self._changed.add(path.parent)
        self._count(0 if before is not None else 1, len(data) - (before or 0))

    def flush(self) -> None:
        """Make the pictures put and deleted so far survive a power cut."""
        paths, self._unflushed = self._unflushed, []
        folders, self._changed = self._changed, set()
        with disk_errors(self.folder, "all sightings that were acknowledged"):
            if len(paths) + len(folders) > _FLUSH_ONE_BY_ONE and hasattr(os, "sync"):
                os.sync()  # once for all is much quicker than thousands one by one
                return
            for path in paths:
                if path.is_file():
                    flush(path)
            for folder in folders:  # where the names of the files stand
                if folder.is_dir():
                    flush_folder(folder)

    def totals(self) -> tuple[int, int]:
        """How many picture files there are, and their bytes.

        They are looked at one by one the first time, and counted from then on.
        """
        with self._counting:
            if self._totals is None:
                found = [0, 0]
                for path in self._files():
                    if _NAME.fullmatch(path.name):
                        found[0] += 1
                        found[1] += path.stat().st_size
                self._totals = found
            return self._totals[0], self._totals[1]

    def read(self, name: str) -> bytes:
        """The bytes of a picture.

        Raises:
            GalleryError: it is not there.
        """
        try:
            return self.path(name).read_bytes()
        except OSError as error:
            raise GalleryError(
                f"the picture {name} of the gallery cannot be read ({error.strerror}). "
                "`crosscam gallery verify` lists what is missing."
            ) from error

    def sound(self, name: str) -> bool:
        """Whether the picture is there and its bytes have the hash in its name."""
        try:
            return hashlib.sha256(self.path(name).read_bytes()).hexdigest() == name[:64]
        except OSError:
            return False

    def names(self) -> Iterator[str]:
        """All pictures that are there, folder by folder."""
        for path in self._files():
            if _NAME.fullmatch(path.name):
                yield path.name

    def leftovers(self) -> list[Path]:
        """Files that a killed process left half written."""
        return [p for p in self._files() if p.name.endswith(".writing")]

    def delete(self, names: Iterable[str]) -> int:
        """Remove pictures; returns how many were there."""
        count = 0
        for name in names:
            path = self.path(name)
            with disk_errors(path, "nothing was lost"):
                try:
                    size = path.stat().st_size
                    path.unlink()
                except FileNotFoundError:
                    continue
            count += 1
            self._changed.add(path.parent)
            self._count(-1, -size)
        return count

    def _count(self, files: int, size: int) -> None:
        with self._counting:
            if self._totals is not None:
                self._totals[0] += files
                self._totals[1] += size

    def _files(self) -> Iterator[Path]:
        if not self.folder.is_dir():
            return
        for inner in sorted(self.folder.iterdir()):
            if inner.is_dir() and len(inner.name) == 2:
                yield from sorted(inner.iterdir())


@contextmanager
def exclusive(folder: Path, doing: str) -> Iterator[None]:
    """Hold the lock of a gallery's folder; the system lets go of it if the process dies.

    Raises:
        GalleryError: another process (or another place in this one) has it; it is named.
    """
    try:
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise MissingExtraError(
            "galleries need filelock: pip install 'crosscam[gallery]'."
        ) from error
    holder = folder / "lock.holder"
    lock = FileLock(folder / "lock", timeout=0, is_singleton=False)
    try:
        lock.acquire()
    except Timeout:
        try:
            who = holder.read_text(encoding="utf-8").strip()
        except OSError:
            who = "another process"
        raise GalleryError(
            f"{folder} is in use by {who}. Only one process can have a gallery open: close it, or "
            "ask it through `crosscam serve`."
        ) from None
    except OSError as error:
        raise GalleryError(
            f"{folder} cannot be locked ({error.strerror or error}). Give a folder that you may "
            "write to."
        ) from error
    try:
        write_atomically(holder, f"process {os.getpid()} on {socket.gethostname()} ({doing})\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
