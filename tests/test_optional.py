"""Packages that would tell their makers who uses them are kept from it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import crosscam

SOURCE = Path(crosscam.__file__).parent


@pytest.mark.parametrize(("set_before", "seen"), [(None, "1"), ("0", "0")])
def test_onnxruntime_is_told_to_report_nothing_before_it_is_imported(
    set_before: str | None, seen: str, tmp_path: Path
) -> None:
    """An encoder that OpenVINO runs asks it for GPUs; what is set already is left alone."""
    (tmp_path / "onnxruntime.py").write_text(
        "import os\n"
        "print('seen', os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "def get_available_providers(): return []\n"
    )
    code = (
        "from crosscam.encoder.runtimes import _device\n"
        "from types import SimpleNamespace\n"
        "print(_device(SimpleNamespace(format='onnx'), 'auto', 'auto'))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment["PYTHONPATH"] = str(tmp_path)
    if set_before is not None:
        environment["ORT_DISABLE_TELEMETRY"] = set_before
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert out.stdout.splitlines() == [f"seen {seen}", "cpu"]


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_nothing_imports_them_past_the_care(package: str) -> None:
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if package in {name.partition(".")[0] for name in names}:
                found.append(path.relative_to(SOURCE).as_posix())
    # export.py takes parts of it, behind a call of import_onnxruntime.
    assert set(found) - {"export.py"} == {"optional.py"}
