"""One JPEG, three roads: evaluation, the encoder, the service.  One vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from served import jpeg

from crosscam.encoder import Encoder
from crosscam.gallery import Gallery
from crosscam.serve.app import make_app
from crosscam.serve.service import Service
from crosscam.serve.tokens import Role, Tokens


def test_the_service_stores_the_vectors_that_evaluation_computes(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from starlette.testclient import TestClient

    encoder = Encoder.load("people", threads=1)
    files = []
    for pid in range(1, 5):
        files.append(tmp_path / f"{pid}.jpg")
        files[-1].write_bytes(jpeg(pid))
    evaluated = encoder.embedder().files(files)
    called = encoder([str(f) for f in files])
    np.testing.assert_array_equal(called, evaluated)
    secret = Tokens(tmp_path / "state" / "tokens.json").add("a", Role.OPERATOR)
    gallery = Gallery.create(tmp_path / "g", encoder)
    service = Service(gallery, tmp_path / "state")
    with TestClient(make_app(service)) as client:
        uploads = [("pictures", (f.name, f.read_bytes(), "image/jpeg")) for f in files]
        answer = client.post(
            "/api/sightings", files=uploads, headers={"Authorization": f"Bearer {secret}"}
        )
        points = gallery.points.get(answer.json()["ids"], vectors=True)
        stored = np.stack([p.vector for p in points if p.vector is not None])
    service.close()
    # The store brings vectors to unit length once more, which moves the last bit.
    np.testing.assert_allclose(stored, evaluated, rtol=0, atol=2e-7)
