"""The service against its own description: whatever the schema allows, and what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from served import Running

from crosscam.serve.app import make_app
from crosscam.serve.settings import ServiceSettings
from crosscam.serve.tokens import Role

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")


@pytest.mark.slow
def test_no_request_breaks_the_service(tmp_path: Path) -> None:
    running = Running(tmp_path, ServiceSettings(per_minute=1e9, burst=10**9))
    headers = {"Authorization": f"Bearer {running.secrets[Role.ADMIN]}"}
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", make_app(running.service))
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=15, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def ask(case: Any) -> None:
            nonlocal tried
            answer = case.call(headers=headers)
            tried += 1
            assert answer.status_code < 500, (case.formatted_path, answer.text)
            assert answer.status_code != 401
            if answer.status_code >= 400 and "json" in answer.headers["content-type"][0]:
                assert answer.json()["detail"]

        ask()
    running.service.close()
    assert tried > 15 * 15
