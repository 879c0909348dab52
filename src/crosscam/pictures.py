"""Picture files of a folder, and what their names say of person and camera.

Everything is sorted, so that the same folder gives the same pictures on every file system.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from crosscam.errors import DataError

__all__ = [
    "EXTENSIONS",
    "MARKET_NAME",
    "camera_number",
    "camera_of",
    "image_files",
    "image_names",
    "person_and_camera",
    "pictures_below",
]

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"})
"""File names that folders are searched for, lower case."""

MARKET_NAME = re.compile(
    r"(?P<pid>-1|\d+)_c(?P<cam>\d+)(?:s(?P<seq>\d+)_(?P<frame>\d+)(?:_\d+)?$)?"
)
"""How names of Market-1501 and sets like it begin: ``0002_c1``; -1 is junk, 0 a distractor.

``seq`` and ``frame`` are those of a whole name without its extension (``0002_c1s1_000451_03``).
"""

# alice_c3_0007, 0002_c1s1_000451_03: a c and a number between underscores.  Spelled out, between
# whatever is no letter or digit: cam-2.0007, frame_camera_12, x_cam3s1.  (Not so the c alone,
# which stands in many a name that is made of random digits.)
_CAMERA = re.compile(
    r"(?:(?:^|_)c(?=\d+(?:s\d+)?(?:_|$))|(?<![^\W_])cam(?:era)?[-_ ]?)"
    r"(\d{1,4})(?:s\d+)?(?![^\W_])",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?:c|cam|camera)?[ _-]?(\d+)", re.IGNORECASE)


def image_files(folder: Path, *, deep: bool = False) -> list[Path]:
    """The image files of ``folder`` (and the folders below, if ``deep``), sorted by name.

    Hidden files (``._x.jpg``, ``.DS_Store``) and files that are no images (``Thumbs.db``) are
    passed over.  A folder that does not exist has none.
    """
    return [folder / name for name in image_names(folder, deep=deep)]


def image_names(folder: Path, *, deep: bool = False) -> list[str]:
    """The names of ``image_files`` relative to ``folder``, with "/" between folders.

    Links to folders are followed, but not to one that they are in.
    """
    found: list[str] = []
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        prefix, around = pending.pop()
        try:
            here = (folder / prefix).stat()
            if (here.st_dev, here.st_ino) in around:
                continue
            within = around | {(here.st_dev, here.st_ino)}
            with os.scandir(folder / prefix) as entries:
                for e in entries:
                    if e.name.startswith("."):
                        continue
                    if e.is_dir():
                        if deep:
                            pending.append((f"{prefix}{e.name}/", within))
                    elif e.name[e.name.rfind(".") :].lower() in EXTENSIONS:
                        found.append(prefix + e.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(
                f"{folder / prefix} cannot be read ({error.strerror}). Make the folder readable "
                "for you."
            ) from error
    return sorted(found)


def pictures_below(folder: Path) -> list[Path]:
    """The image files at any depth below ``folder``, or a ``DataError`` if there is none."""
    files = image_files(folder, deep=True)
    if not files:
        raise DataError(
            f"{folder} has no pictures ({', '.join(sorted(EXTENSIONS))}): give another folder."
        )
    return files


def person_and_camera(stem: str) -> tuple[str, str]:
    """The camera in a name without its extension, and what stands before it; "" where none does.

    ``alice_c3_0007`` and ``alice-cam3`` are alice and "3"; of several cameras the first counts.
    """
    found = _CAMERA.search(stem)
    return (stem[: found.start()].rstrip("_-. "), found[1]) if found else ("", "")


def camera_of(stem: str, folders: Sequence[str] = ()) -> str:
    """The camera of a picture, "" where nothing says it.

    Args:
        stem: its name without the extension.
        folders: those between a person's folder and the picture.  One alone is the camera, of
            several the one named like a camera (``cam2``), and the first if the name says none.
    """
    if len(folders) == 1:
        return folders[0]
    named = next((f for f in folders if _CAMERA.fullmatch(f)), "")
    return named or person_and_camera(stem)[1] or next(iter(folders), "")


def camera_number(label: str) -> str:
    """The digits of a camera that is called by a number (``2``, ``c2``, ``Camera 2``), else ""."""
    found = _NUMBERED.fullmatch(label)
    return found[1] if found else ""
