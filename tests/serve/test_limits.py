"""The rate limit against its arithmetic."""

from __future__ import annotations

import pytest

from crosscam.serve.limits import RateLimit


def test_a_burst_then_the_rate() -> None:
    now = [0.0]
    limit = RateLimit(per_minute=60, burst=3, clock=lambda: now[0])
    assert [limit.take("a") for _ in range(3)] == [0.0] * 3
    assert limit.take("a") == pytest.approx(1.0)
    now[0] = 0.25
    assert limit.take("a") == pytest.approx(0.75)
    now[0] = 1.0
    assert limit.take("a") == 0.0
    assert limit.take("a") > 0
    now[0] = 1e6
    assert [limit.take("a") for _ in range(4)][:3] == [0.0] * 3
    assert limit.take("a") > 0


def test_small_things_cost_less() -> None:
    limit = RateLimit(per_minute=60, burst=1, clock=lambda: 0.0)
    assert [limit.take("a", 0.25) for _ in range(4)] == [0.0] * 4
    assert limit.take("a", 0.25) == pytest.approx(0.25)


def test_callers_do_not_share() -> None:
    limit = RateLimit(per_minute=1, burst=1, clock=lambda: 0.0)
    assert limit.take("a") == 0.0
    assert limit.take("b") == 0.0
    assert limit.take("a") > 0.0


def test_memory_is_bounded() -> None:
    limit = RateLimit(per_minute=1, burst=1, clock=lambda: 0.0)
    for i in range(10_500):
        limit.take(str(i))
    assert len(limit._left) == 10_000
