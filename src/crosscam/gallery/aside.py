"""Compacting a gallery that goes on being searched and added to.

The engine holds Python's lock for as long as it optimizes, which takes minutes among 100,000
vectors: a service would not even answer that it is alive.  So another process optimizes a copy
of the points.  What is changed meanwhile is noted, brought over, and the copy becomes the current
set, by one atomic write of the manifest.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crosscam.errors import GalleryError
from crosscam.gallery.edge import EdgeHome
from crosscam.gallery.points import Points, Quantization, Vectors
from crosscam.gallery.sighting import Where

__all__ = ["Journal", "bring_over", "optimize_aside"]

_PIECE = 500


class Journal:
    """Points that note which of them are changed; everything else is the inner ones' answer."""

    def __init__(self, inner: Points) -> None:
        self.inner = inner
        self.changed: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def add(
        self, ids: Sequence[str], vectors: Vectors, payloads: Sequence[Mapping[str, Any]]
    ) -> None:
        self.changed.update(ids)
        self.inner.add(ids, vectors, payloads)

    def update(
        self, where: Where, payload: Mapping[str, Any], *, clear: Sequence[str] = ()
    ) -> None:
        self._note(where)
        self.inner.update(where, payload, clear=clear)

    def replace_payloads(self, payloads: Mapping[str, Mapping[str, Any]]) -> None:
        self.changed.update(payloads)
        self.inner.replace_payloads(payloads)

    def delete(self, where: Where) -> None:
        self._note(where)
        self.inner.delete(where)

    def _note(self, where: Where) -> None:
        self.changed.update(p.id for p in self.inner.scan(where, fields=()))


def bring_over(journal: Journal, target: Points) -> None:
    """Give ``target`` the points that were changed since the journal began."""
    ids = sorted(journal.changed)
    for start in range(0, len(ids), _PIECE):
        some = ids[start : start + _PIECE]
        points = [p for p in journal.inner.get(some, vectors=True) if p.vector is not None]
        gone = set(some) - {p.id for p in points}
        if gone:
            target.delete(Where(ids=tuple(sorted(gone))))
        if points:
            vectors = np.stack([p.vector for p in points if p.vector is not None])
            target.add([p.id for p in points], vectors, [p.payload for p in points])


def optimize_aside(
    folder: Path, dim: int, quantization: Quantization, stop: threading.Event
) -> bool:
    """Optimize the points in a folder that nobody has open, in a process of its own.

    Returns False if ``stop`` was set before it had ended.
    """
    command = [sys.executable, "-m", __name__, str(folder), str(dim), quantization]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        while True:
            try:
                _, said = child.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if stop.is_set():
                    child.kill()
                    child.communicate()
                    return False
    if child.returncode:
        last = said.strip().splitlines()[-1:] or [f"status {child.returncode}"]
        raise GalleryError(f"the points in {folder} could not be compacted ({last[0]}).")
    return True


def main(folder: str, dim: str, quantization: Quantization) -> None:
    """Optimize the points in ``folder``; the engine gives searches elsewhere the right of way."""
    place = Path(folder)
    points = EdgeHome(place.parent).open(place.name, int(dim), quantization, create=False)
    points.optimize()
    points.close()


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
