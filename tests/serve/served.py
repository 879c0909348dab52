"""A service over a gallery of toy people, and clients of every role."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from toy import person

from crosscam.classic import DESCRIPTORS
from crosscam.image import resize

pytest.importorskip("fastapi")
pytest.importorskip("qdrant_edge")

from crosscam.gallery import Gallery, Item
from crosscam.serve.app import make_app
from crosscam.serve.service import Service
from crosscam.serve.settings import ServiceSettings
from crosscam.serve.tokens import Role, Tokens

NOW = 1_780_000_000.0
PEOPLE, CAMERAS = 6, 3


class Colors:
    """An encoder without learning: the color histogram of a picture."""

    hash = "ab" * 32
    name = "colors"

    def __init__(self) -> None:
        self.dim = int(DESCRIPTORS["hsv"](np.zeros((1, 64, 32, 3), np.uint8)).shape[1])

    def embed(self, images: Any, /) -> npt.NDArray[np.float32]:
        return DESCRIPTORS["hsv"](np.stack([resize(i, (64, 32)) for i in images]))


def jpeg(pid: int, camid: int = 1, shot: int = 0) -> bytes:
    """A picture of toy person ``pid`` as the bytes of a JPEG; the cameras see alike."""
    out = io.BytesIO()
    Image.fromarray(person(pid, 1, 10 * camid + shot)).save(out, "JPEG", quality=95)
    return out.getvalue()


class Caller:
    """A client with a token of one role."""

    def __init__(self, client: Any, secret: str) -> None:
        self.client, self.headers = client, {"Authorization": f"Bearer {secret}"}

    def get(self, path: str, **kwargs: Any) -> Any:
        return self.client.get(path, headers=self.headers, **kwargs)

    def post(self, path: str, **kwargs: Any) -> Any:
        return self.client.post(path, headers=self.headers, **kwargs)

    def search(self, pid: int = 1, **fields: Any) -> Any:
        files = [("pictures", ("q.jpg", jpeg(pid, 1, 9), "image/jpeg"))]
        return self.post("/api/search", files=files, data=fields)


class Running:
    """A service, its clients, and its clock."""

    def __init__(self, folder: Path, settings: ServiceSettings, **options: Any) -> None:
        from starlette.testclient import TestClient

        self.now = [NOW]
        state = folder / "state"
        tokens = Tokens(state / "tokens.json", lambda: self.now[0])
        self.secrets = {role: tokens.add(role.name.lower(), role) for role in Role}
        gallery = Gallery.create(folder / "people.gallery", Colors())
        gallery.clock = lambda: self.now[0]
        items = [
            Item(
                jpeg(pid, camid), camera=str(camid), time=NOW - 3600 * camid - pid, source=f"{pid}"
            )
            for pid in range(1, PEOPLE + 1)
            for camid in range(1, CAMERAS + 1)
        ]
        self.ids = gallery.add(items).ids
        self.service = Service(gallery, state, settings, clock=lambda: self.now[0], **options)
        self.client = TestClient(make_app(self.service), raise_server_exceptions=False)

    def id_of(self, pid: int, camid: int) -> str:
        return self.ids[(pid - 1) * CAMERAS + camid - 1]

    def caller(self, role: Role) -> Caller:
        return Caller(self.client, self.secrets[role])
