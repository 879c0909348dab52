"""Galleries of toy people, in both forms: a folder, and a Qdrant server.

The server is the client's local mode, or a real one where CROSSCAM_QDRANT_URL names it.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import toy
from PIL import Image

from crosscam.gallery import Gallery, Item
from crosscam.gallery.server import ServerHome


class ToyEncoder:
    """Mean colors of a grid, less a constant, at unit length; two parts of 24 entries."""

    name = "toy"
    parts = {"upper": (0, 24), "lower": (24, 48)}  # noqa: RUF012

    def __init__(self, seed: int = 0, shift: float = 110.0) -> None:
        self.hash = f"{seed:02x}" * 32
        self.dim = 48
        self.shift = shift
        self.calls = 0

    def embed(self, images: Any, /) -> npt.NDArray[np.float32]:
        self.calls += len(images)
        rows = []
        for image in images:
            small = Image.fromarray(image).resize((4, 4), Image.Resampling.BOX)
            row = np.asarray(small, np.float32).reshape(-1) - self.shift
            rows.append(row / np.linalg.norm(row))
        return np.stack(rows).astype(np.float32)


class Places:
    """Makes and opens galleries of one form by a short name."""

    def __init__(self, form: str, root: Path) -> None:
        self.form, self.root = form, root
        self.url = os.environ.get("CROSSCAM_QDRANT_URL", "") if form == "server" else ""
        self._clients: Any = None
        self._unique = uuid.uuid4().hex[:8]

    def _where(self, name: str) -> tuple[str, dict[str, Any]]:
        if self.form == "folder":
            return str(self.root / name), {}
        from qdrant_client import QdrantClient

        self._clients = self._clients or QdrantClient(":memory:")
        place = f"{self.url or 'http://nowhere:6333'}/test-{self._unique}-{name}"
        pictures: dict[str, Any] = {"pictures": self.root / f"{name}-pictures"}
        if self.url:
            return place, pictures
        return place, {**pictures, "home": ServerHome(place, client=self._clients)}

    def create(self, encoder: Any, name: str = "a", **more: Any) -> Gallery:
        place, kw = self._where(name)
        return Gallery.create(place, encoder, **kw, **more)

    def open(self, encoder: Any = None, name: str = "a") -> Gallery:
        place, kw = self._where(name)
        return Gallery.open(place, encoder, **kw)

    def clean(self) -> None:
        if self.url:
            home = ServerHome(f"{self.url}/x")
            for collection in home.client.get_collections().collections:
                if f"test-{self._unique}-" in collection.name:
                    home.client.delete_collection(collection.name)


def crowd(people: int = 5, cameras: int = 3, shots: int = 2, **more: Any) -> list[Item]:
    """Items of toy people: one track per person and camera, a second between shots."""
    return [
        Item(
            toy.person(p, c, s),
            camera=str(c),
            time=1000.0 * p + 100 * c + s,
            track=f"{p}-{c}",
            source=f"{p}",
            **more,
        )
        for p in range(people)
        for c in range(cameras)
        for s in range(shots)
    ]
