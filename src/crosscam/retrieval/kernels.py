"""Which inner loops are used: compiled ones where numba is installed, NumPy elsewhere."""

from __future__ import annotations

import functools
from types import ModuleType

__all__ = ["load"]


@functools.cache
def _compiled() -> ModuleType | None:
    try:
        from crosscam.retrieval import compiled
    except ImportError:
        return None
    return compiled


def load(compiled: bool = True) -> ModuleType:
    """The module of kernels; ``compiled=False`` asks for the NumPy ones.

    The first call imports numba.  A kernel is compiled when it is first called and then kept on
    disk, so that a later process only loads it.
    """
    found = _compiled() if compiled else None
    if found is None:
        from crosscam.retrieval import fallback

        return fallback
    return found
