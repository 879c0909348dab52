"""crosscam finds the same person again across cameras.

Importing this package does nothing and is quick: it does not import torch.  ``crosscam.Encoder``
is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosscam.encoder import Encoder

__version__ = "0.1.0"

__all__ = ["Encoder", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Encoder":
        return importlib.import_module("crosscam.encoder").Encoder
    raise AttributeError(f"module 'crosscam' has no attribute '{name}'")
