"""How many processors there are to work with."""

from __future__ import annotations

import contextlib
import os

__all__ = ["cores"]


def cores() -> int:
    """Processors that this process may use."""
    with contextlib.suppress(AttributeError):  # not on every system
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
