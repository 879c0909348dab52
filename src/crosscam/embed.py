"""The vectors of a folder or a data set in one ``.npz`` file.

Of a data set, or a folder with ``query`` and ``gallery``, the file holds ``query_features``,
``query_pids``, ``query_camids``, ``query_paths`` and the same for the gallery: what ``crosscam
score`` reads.  Of any other folder it holds ``features`` and ``paths``.  ``model`` is the hash of
the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.encoder import Encoder
from crosscam.encoder.progress import bar
from crosscam.errors import DataError
from crosscam.files import replacing
from crosscam.pictures import pictures_below
from crosscam.types import Dataset, Sample
from crosscam.wording import counted

__all__ = ["Embedded", "embed_dataset", "embed_folder"]


@dataclass(frozen=True)
class Embedded:
    """What was written, and the pictures that could not be used."""

    file: Path
    pictures: int
    scorable: bool
    failed: tuple[str, ...]

    def text(self) -> str:
        """Lines for a terminal."""
        lines = [f"features of {counted(self.pictures, 'picture')}: {self.file}"]
        if self.failed:
            lines.append(f"left out, since they cannot be used: {len(self.failed):,}")
            lines += [f"  {why}" for why in self.failed[:20]]
        if self.scorable:
            lines.append(f"next:   crosscam score {self.file}")
        return "\n".join(lines)


def embed_folder(
    encoder: Encoder, folder: Path, out: Path, *, skip: bool = False, progress: bool = False
) -> Embedded:
    """Write the vectors of all pictures below ``folder`` to ``out``.

    Where the folder has a folder for queries and one for the gallery (``query`` and ``gallery``,
    ``test`` or ``bounding_box_test``), it is read as the data set "folder".

    Args:
        encoder: the model.
        folder: pictures, at any depth.
        out: ``.npz`` file to write.
        skip: leave out pictures that cannot be used, instead of raising.
        progress: show a progress bar.

    Raises:
        DataError: there is no such folder, it has no pictures, or some cannot be used; nothing is
            written then.
    """
    from crosscam.data import datasets

    if not folder.is_dir():
        raise DataError(
            f"{folder} is {'a file' if folder.exists() else 'not there'}: give a folder of "
            "pictures, or --data with the name of a data set."
        )
    inside = {p.name.lower() for p in folder.iterdir() if p.is_dir()}
    if "query" in inside and inside & {"gallery", "test", "bounding_box_test"}:
        dataset = datasets.load("folder", folder)
        return embed_dataset(encoder, dataset, out, skip=skip, progress=progress)
    files = pictures_below(folder)
    rows, vectors, failed = _embed(encoder, files, skip, progress)
    paths = [files[i].relative_to(folder).as_posix() for i in rows]
    _save(out, encoder, {"features": vectors, "paths": np.array(paths)})
    return Embedded(out, len(rows), False, failed)


def embed_dataset(
    encoder: Encoder, dataset: Dataset, out: Path, *, skip: bool = False, progress: bool = False
) -> Embedded:
    """Write the vectors of query and gallery of ``dataset`` to ``out``, for ``crosscam score``.

    Raises:
        DataError: a split is empty, or pictures cannot be used; nothing is written then.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    failed: tuple[str, ...] = ()
    count = 0
    for split, samples in zip(("query", "gallery"), dataset.require_test(), strict=True):
        rows, vectors, bad = _embed(encoder, [s.path for s in samples], skip, progress)
        kept: Sequence[Sample] = [samples[i] for i in rows]
        arrays[f"{split}_features"] = vectors
        arrays[f"{split}_pids"] = np.array([s.pid for s in kept], np.int64)
        if len({s.camid for s in (*dataset.query, *dataset.gallery)}) > 1:  # else nobody knows them
            arrays[f"{split}_camids"] = np.array([s.camid for s in kept], np.int64)
        arrays[f"{split}_paths"] = np.array([str(s.path) for s in kept])
        failed += bad
        count += len(rows)
    _save(out, encoder, arrays)
    return Embedded(out, count, True, failed)


def _embed(
    encoder: Encoder, files: Sequence[Path], skip: bool, progress: bool
) -> tuple[list[int], npt.NDArray[np.float32], tuple[str, ...]]:
    """Places of the pictures that can be used, their vectors, and what is wrong with the others."""
    if not skip:
        try:
            return list(range(len(files))), encoder.files(files, progress=progress), ()
        except DataError as error:
            raise DataError(f"{error} Or leave them out: --skip-bad.") from error
    rows: list[int] = []
    vectors = np.empty((len(files), encoder.dim), np.float32)
    failed: list[str] = []
    with bar(progress, len(files)) as advance:
        for some in encoder.stream(files):
            vectors[len(rows) : len(rows) + len(some.rows)] = some.vectors
            rows += some.rows.tolist()
            failed += [why for _, why in some.failed]
            advance(len(some.rows) + len(some.failed))
    return rows, vectors[: len(rows)], tuple(failed)


def _save(out: Path, encoder: Encoder, arrays: dict[str, npt.NDArray[Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary, temporary.open("wb") as file:
        np.savez(file, model=np.array(encoder.hash), **arrays)  # type: ignore[arg-type]
