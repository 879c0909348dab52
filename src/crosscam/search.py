"""Ranking a folder of pictures for a query picture, without any ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crosscam import viz
from crosscam.embedder import Embedder
from crosscam.errors import DataError
from crosscam.pictures import pictures_below
from crosscam.retrieval import top_k
from crosscam.types import Ranking
from crosscam.wording import counted

__all__ = ["Found", "search"]


@dataclass(frozen=True)
class Found:
    """What a search found: ``ranking`` has one row per query, into ``gallery``."""

    model: Embedder
    queries: list[Path]
    gallery: list[Path]
    ranking: Ranking
    failed: tuple[str, ...] = ()  # gallery pictures that were left out, and why

    def rows(self) -> list[viz.Row]:
        """The ranked lists, for :mod:`crosscam.viz`."""
        rows = []
        for path, indices, scores in zip(
            self.queries, self.ranking.indices, self.ranking.scores, strict=True
        ):
            hits = [
                viz.Hit(self.gallery[j], float(s))
                for j, s in zip(indices, scores, strict=True)
                if j >= 0
            ]
            rows.append(viz.Row(path, hits))
        return rows

    def write(self, path: Path) -> Path:
        """Write the ranked lists as a page, or as a picture where ``path`` is a .jpg or .png."""
        if path.suffix.lower() in viz.PICTURES:
            return viz.ranked_picture(path, self.rows())
        return viz.ranked_page(
            path,
            "Search",
            self.rows(),
            notes=[
                f"{counted(len(self.gallery), 'gallery picture')}. Model: {self.model.describe()}"
            ],
        )


def search(
    model: Embedder,
    queries: list[Path],
    gallery: Path,
    *,
    top: int = 10,
    skip: bool = False,
    progress: bool = False,
) -> Found:
    """Rank all pictures below the folder ``gallery`` for each query picture.

    A query that lies in the gallery itself is left out of its own list.  With ``skip``, gallery
    pictures that cannot be decoded are left out too.

    Raises:
        DataError: a query or the folder is missing, the folder has no pictures, or some cannot
            be decoded; with ``skip``, a query or all of the gallery.
    """
    for query in queries:
        if not query.is_file():
            raise DataError(f"no query picture at {query}: give the path of an image file.")
    if not gallery.is_dir():
        raise DataError(f"no gallery folder at {gallery}: give a folder of pictures.")
    files = pictures_below(gallery)
    failed: dict[int, str] = {}
    try:
        vectors = model.files(
            [*queries, *files], progress=progress, failed=failed if skip else None
        )
    except DataError as error:
        raise DataError(f"{error} Or leave those of the gallery out: --skip-bad.") from error
    first = len(queries)
    good = [row for row in range(len(files)) if first + row not in failed]
    if not good or min(failed, default=first) < first:
        what = "no picture of the gallery can" if not good else "a query picture cannot"
        raise DataError(f"{what} be used: {failed[min(failed)]}")
    files = [files[row] for row in good]
    q, g = vectors[:first], vectors[first:][good]
    k = min(top + 1, len(files))  # one more, in case the query itself is among them
    ranking = top_k(q, g, k, metric="cosine")
    resolved = [f.resolve() for f in files]
    indices = np.full((len(queries), min(top, k)), -1, np.int64)
    scores = np.full(indices.shape, np.nan, np.float32)
    for row, query in enumerate(queries):
        own = query.resolve()
        kept = [c for c in range(k) if resolved[ranking.indices[row, c]] != own][:top]
        indices[row, : len(kept)] = ranking.indices[row, kept]
        scores[row, : len(kept)] = ranking.scores[row, kept]
    ranked = Ranking(indices, scores, ranking.higher_is_better)
    return Found(model, queries, files, ranked, tuple(failed[row] for row in sorted(failed)))
