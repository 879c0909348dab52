"""A service over a gallery of toy people, and clients of every role, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("qdrant_edge")

from served import Caller, Running

from crosscam.serve.settings import ServiceSettings
from crosscam.serve.tokens import Role


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    """Settings come from the marker ``settings``, if the test has one.

    Compaction, which takes a process of its own, is left to the tests that are about it.
    """
    marker = request.node.get_closest_marker("settings")
    settings = ServiceSettings(**{"compact_hours": 0, **(marker.kwargs if marker else {})})
    found = Running(tmp_path, settings)
    with found.client:
        yield found
    found.service.close()


@pytest.fixture
def viewer(running: Running) -> Caller:
    return running.caller(Role.VIEWER)


@pytest.fixture
def operator(running: Running) -> Caller:
    return running.caller(Role.OPERATOR)


@pytest.fixture
def admin(running: Running) -> Caller:
    return running.caller(Role.ADMIN)
