"""Tests carry the marks by which they are chosen."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def test_every_test_that_skips_without_a_gpu_is_marked() -> None:
    asking = {
        f"{path.relative_to(TESTS)}::{name}": marked
        for path in sorted(TESTS.rglob("test_*.py"))
        if path != Path(__file__)
        for name, marked in asking_for_cuda(path.read_text(encoding="utf-8"))
    }
    assert any(asking.values())
    assert [name for name, marked in asking.items() if not marked] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("@pytest.mark.skipif(not torch.cuda.is_available())\ndef test_a(): ...", [False]),
        ("@pytest.mark.gpu\n@pytest.mark.skipif(not torch.cuda.is_available())\n"
         "def test_a(): ...", [True]),
        ("def test_a():\n    if not torch.cuda.is_available():\n        pytest.skip()", [False]),
        ("class TestA:\n    def test_a(self): torch.cuda.is_available()", [False]),
        ("def test_a(): torch.cuda.device_count()\ndef help_a(): torch.cuda.is_available()", []),
    ],
)  # fmt: skip
def test_the_reader_of_marks_sees_every_form(source: str, found: list[bool]) -> None:
    assert [marked for _, marked in asking_for_cuda(source)] == found


def asking_for_cuda(source: str) -> list[tuple[str, bool]]:
    """Tests that ask whether there is a GPU, each with whether it carries the mark."""
    return [
        (node.name, "pytest.mark.gpu" in map(ast.unparse, node.decorator_list))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and "cuda.is_available()" in ast.unparse(node)
    ]
