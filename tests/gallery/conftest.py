"""Galleries in both forms, as fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_gallery import Places, ToyEncoder


@pytest.fixture(params=["folder", "server"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Places]:
    made = Places(request.param, tmp_path)
    yield made
    made.clean()


@pytest.fixture
def encoder() -> ToyEncoder:
    return ToyEncoder()


@pytest.fixture(autouse=True)
def _no_power_cuts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to the disk is most of the time of a small gallery; few tests are about it."""
    if "flushed" not in request.keywords:
        monkeypatch.setattr("crosscam.gallery.gallery.Gallery.flush", lambda self: None)
