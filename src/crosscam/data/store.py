"""Pictures decoded once: uint8 in memory, or in a memory-mapped file when they outgrow it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from crosscam.errors import DataError, ImageError
from crosscam.files import disk_errors, replacing
from crosscam.image import Preprocess
from crosscam.processors import cores
from crosscam.types import Sample
from crosscam.wording import counted, first_lines

if TYPE_CHECKING:
    import torch

__all__ = ["ImageStore"]

_AHEAD = 1024  # pictures handed to the decoding threads before progress is shown
_TOGETHER = 16  # pictures that a thread takes at a time
_DAY = 24 * 60 * 60  # seconds


@dataclass(frozen=True)
class ImageStore:
    """All pictures of a split at one size.

    Memory: N * H * W * 3 bytes (98,304 a picture at 256x128, so 1.27 GB for Market-1501's
    training set), or, above the budget, pages of a cache file that the system may drop.
    """

    images: npt.NDArray[np.uint8]  # [N, H, W, 3] RGB, an array or a memory map
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def build(
        cls,
        items: Sequence[Sample] | Sequence[Path],
        preprocess: Preprocess,
        *,
        budget_bytes: int = 4_000_000_000,
        cache_dir: Path | None = None,
        workers: int | None = None,
        progress: bool = False,
        failed: dict[int, str] | None = None,
    ) -> ImageStore:
        """Decode and resize every picture.

        Args:
            items: samples or paths.
            preprocess: size and interpolation.
            budget_bytes: pictures that need more go to a file in ``cache_dir``, which is found
                again by the paths, sizes and times of its pictures and by ``preprocess``.
            cache_dir: folder of that file, which takes as many bytes as the pictures; None
                keeps everything in memory.
            workers: decoding threads; None takes one a processor that may be used, at most 8.
            progress: show a progress bar on a terminal.
            failed: takes the places of pictures that cannot be decoded and what is wrong with
                them, instead of an error; they are black.  Not with ``cache_dir``.

        Raises:
            DataError: pictures that cannot be decoded; the message names up to five and counts
                them.
            DiskError: the cache file cannot be written.
        """
        paths = [item.path if isinstance(item, Sample) else item for item in items]
        height, width = preprocess.size
        shape = (len(paths), height, width, 3)
        size = int(np.prod(shape, dtype=np.int64))
        if size <= budget_bytes or cache_dir is None:
            images = np.empty(shape, np.uint8)
            _decode_all(paths, preprocess, images, workers, progress, failed)
            return cls(images, preprocess)
        file = cache_dir / f"{_key(paths, preprocess)}.u8"
        if not (file.is_file() and file.stat().st_size == size):
            _write_cache(file, size, paths, preprocess, shape, workers, progress)
        # Copy-on-write: nobody may change the file through the map.
        return cls(np.memmap(file, np.uint8, "c", shape=shape), preprocess)

    def to(self, device: torch.device) -> torch.Tensor:
        """All pictures as a uint8 tensor [N, H, W, 3], in device memory where they fit.

        On a GPU they must leave a third of its free memory; else they stay where they are, and
        batches travel.
        """
        import torch

        images = torch.from_numpy(self.images)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if images.numel() < free * 2 // 3:
                return images.to(device)
        return images


def _decode_all(
    paths: Sequence[Path],
    preprocess: Preprocess,
    out: npt.NDArray[np.uint8],
    workers: int | None,
    progress: bool,
    failed: dict[int, str] | None = None,
) -> None:
    failures: dict[int, str] = {} if failed is None else failed

    def some(start: int) -> None:
        for row in range(start, min(start + _TOGETHER, len(paths))):
            try:
                preprocess.load(paths[row], out=out[row])
            except ImageError as error:
                failures[row] = str(error)
                out[row] = 0

    with (
        ThreadPoolExecutor(workers or min(8, cores())) as pool,
        _progress(progress, len(paths)) as advance,
    ):
        for start in range(0, len(paths), _AHEAD):
            stop = min(start + _AHEAD, len(paths))
            list(pool.map(some, range(start, stop, _TOGETHER)))
            advance(stop - start)
    if failures and failed is None:
        raise DataError(
            f"{len(failures):,} of {counted(len(paths), 'picture')} cannot be used:"
            f"{first_lines(sorted(failures.values()))}\n"
            "Repair or remove them (of a data set, crosscam data check NAME ROOT lists them all)."
        )


def _write_cache(
    file: Path,
    size: int,
    paths: Sequence[Path],
    preprocess: Preprocess,
    shape: tuple[int, int, int, int],
    workers: int | None,
    progress: bool,
) -> None:
    """Fill the file ``file``, which is complete or not there."""
    with disk_errors(file, "none"):
        file.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(file.parent)
    with replacing(file, "none") as temporary:
        with temporary.open("wb") as handle:
            _allocate(handle, size)
        images = np.memmap(temporary, np.uint8, "r+", shape=shape)
        _decode_all(paths, preprocess, images, workers, progress)
        images.flush()
        del images


def _allocate(handle: BinaryIO, size: int) -> None:
    """Real blocks, not holes: a full disk is an error here, and no signal while decoding."""
    try:
        os.posix_fallocate(handle.fileno(), 0, size)
    except (AttributeError, OSError) as error:
        # not on this system, or not on this file system; a full disk is another matter
        if getattr(error, "errno", errno.EINVAL) not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        zeros = bytes(1 << 20)
        for start in range(0, size, len(zeros)):
            handle.write(zeros[: size - start])


def _remove_stale(folder: Path) -> None:
    """Remove what a killed process left; nobody decodes for a day."""
    for left in folder.glob("*.writing*"):  # .NAME.writing, and NAME.writing-PID of older versions
        try:
            if time.time() - left.stat().st_mtime > _DAY:
                left.unlink()
        except FileNotFoundError:  # another process was quicker
            continue


def _key(paths: Sequence[Path], preprocess: Preprocess) -> str:
    """Names the content of a cache: which files, as they are now, decoded how."""
    digest = hashlib.sha256()
    settings = {"size": preprocess.size, "interpolation": preprocess.interpolation}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for path in paths:
        try:
            stat = path.stat()
            now = f"{stat.st_size}\0{stat.st_mtime_ns}"
        except OSError:
            now = "missing"  # decoding will say so, together with what else is wrong
        digest.update(os.fsencode(path.absolute()) + f"\0{now}\n".encode())
    return digest.hexdigest()[:32]


@contextmanager
def _progress(visible: bool, total: int) -> Iterator[Callable[[int], None]]:
    """A function that counts decoded pictures, on a terminal with a bar."""
    if not visible or total < 500 or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("decoding", total=total)
        yield lambda count: bar.advance(task, count)
