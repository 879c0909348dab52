"""Inner loops compiled by numba on first use.

It imports numba, which takes half a second: modules that every command needs import it late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

__all__ = ["Array", "Function", "jit"]

Function = TypeVar("Function", bound=Callable[..., Any])
Array = np.ndarray[Any, Any]


def jit(function: Function, *, error_model: str = "numpy", fastmath: bool = False) -> Function:
    """Compile without the interpreter lock, and keep the result on disk where that is possible."""
    njit: Any = numba.njit
    options = {"nogil": True, "error_model": error_model, "fastmath": fastmath}
    try:
        compiled = njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to write a cache (read-only installation without a home)
        compiled = njit(**options)(function)
    return cast(Function, compiled)
