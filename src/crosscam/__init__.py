"""crosscam finds the same person again across cameras.

Importing this package does nothing and is quick: it does not import torch.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
