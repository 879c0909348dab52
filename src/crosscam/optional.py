"""Packages that are not always there and need care when they are imported."""

from __future__ import annotations

import os
import sys
from typing import Any

from crosscam.errors import MissingExtraError

__all__ = ["import_onnxruntime", "import_openvino"]


def import_onnxruntime() -> Any:
    """The package ``onnxruntime``, which would otherwise tell its makers over the network who uses
    it (from version 1.31 on, with a file of what is still to be told in the user's cache).

    It looks at the variable once, when it is imported.  Where somebody has set it, it stays.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("ONNX Runtime is needed: pip install onnxruntime") from error
    return onnxruntime


def import_openvino() -> Any:
    """The package ``openvino``, which would otherwise tell its makers over the network who uses it.

    Without the package ``openvino_telemetry`` it sends nothing; None in ``sys.modules`` makes it
    absent for this process.

    Raises:
        MissingExtraError: it is not installed.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("OpenVINO is needed: pip install openvino") from error
    return openvino
