"""Inner loops compiled by numba on first use.  It imports numba: import it late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

__all__ = ["Array", "jit"]

Function = TypeVar("Function", bound=Callable[..., Any])
Array = np.ndarray[Any, Any]


def jit(function: Function) -> Function:
    """Compile without the interpreter lock, and keep the result on disk where that is possible."""
    njit: Any = numba.njit
    try:
        compiled = njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # nowhere to write a cache (read-only installation without a home)
        compiled = njit(nogil=True, error_model="numpy")(function)
    return cast(Function, compiled)
