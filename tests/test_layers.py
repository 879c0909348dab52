"""Who may import whom: downwards only, and siblings do not see each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "crosscam"

# From the bottom up.  A name is a module or a package of crosscam; "" is crosscam itself.
LAYERS = [
    {"errors", ""},
    {"types", "files", "jit", "optional", "processors", "table", "wording"},
    {"resample"},
    {"image", "pictures"},
    {"page", "card", "data", "nn", "retrieval", "classic", "decision"},
    {"methods", "probe", "synth"},
    {"recipe", "priors", "models"},
    {"training"},
    {"embedder", "describe", "viz"},
    {"deployed"},
    {"encoder"},
    {
        "annotate",
        "average",
        "calibrate",
        "convert",
        "embed",
        "evaluate",
        "explain",
        "gallery",
        "search",
    },
    {"doctor", "export", "serve"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# What learns, and what brings it in.
LAB = {
    "torch", "data", "nn", "methods", "recipe", "priors", "training", "embedder", "describe",
    "deployed", "annotate", "average", "calibrate", "convert", "embed", "evaluate", "explain",
    "search", "export",
}  # fmt: skip

# Forbidden although they point down, in the bodies of functions too.
NEVER = {
    "methods": {"data", "retrieval", "image", "recipe", "training"},
    "retrieval": LAB - {"torch"} | {"image"},
    "decision": LAB | {"image"},
    "gallery": LAB,
    "serve": LAB,
    "types": LAB,
    "classic": LAB,
    "card": LAB,
    "probe": LAB,
    "models": LAB,
}

# Forbidden when a module is imported; its functions may.
AT_ONCE = {
    "retrieval": {"torch"},
    "image": {"torch"},
    "doctor": LAB - {"data"},
    "encoder": LAB,
}


def test_every_module_has_a_layer() -> None:
    names = {p.stem if p.is_file() else p.name for p in SOURCE.iterdir() if _is_code(p)}
    assert names - {"__init__"} == set(LEVEL) - {""}


def test_imports_point_downwards() -> None:
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        own = _group(path)
        for target, line in _imports(path, top_level_only=False):
            if not target.startswith("crosscam"):
                continue
            group = target.split(".")[1] if "." in target else ""
            if group not in LEVEL:  # a name that crosscam/__init__.py itself holds
                group = ""
            if group != own and LEVEL[group] >= LEVEL[own]:
                wrong.append(f"{path.relative_to(SOURCE)}:{line} imports crosscam.{group}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("forbidden", "top_level_only"), [(NEVER, False), (AT_ONCE, True)])
def test_forbidden_imports_are_absent(forbidden: dict[str, set[str]], top_level_only: bool) -> None:
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        own = _group(path)
        for target, line in _imports(path, top_level_only=top_level_only):
            name = target.split(".")[1] if target.startswith("crosscam.") else target.split(".")[0]
            if name in forbidden.get(own, ()):
                wrong.append(f"{path.relative_to(SOURCE)}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("from crosscam.cli import main", ["crosscam.cli"]),
        ("import crosscam.training.loop", ["crosscam.training.loop"]),
        ("from crosscam import evaluate, viz", ["crosscam.evaluate", "crosscam.viz"]),
        ("def f():\n    from crosscam.data import store", ["crosscam.data.store"]),
    ],
)
def test_the_reader_of_imports_sees_every_form(
    source: str, caught: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "x.py"
    file.write_text(source)
    assert [t for t, _ in _imports(file, top_level_only=False)] == caught


def test_importing_crosscam_and_its_command_line_brings_nothing_heavy() -> None:
    code = (
        "import sys, crosscam, crosscam.cli; "
        "print(sorted({'torch', 'numba', 'numpy', 'PIL', 'rich', 'jsonargparse', 'yaml'} "
        "& set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_what_is_deployed_brings_no_torch() -> None:
    modules = "retrieval, image, decision, card, encoder, gallery, serve.app, search, evaluate"
    names = ", ".join(f"crosscam.{name}" for name in modules.split(", "))
    code = f"import sys, {names}; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def _is_code(path: Path) -> bool:
    return path.suffix == ".py" or (path / "__init__.py").is_file()


def _group(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def _imports(path: Path, *, top_level_only: bool) -> Iterator[tuple[str, int]]:
    """Absolute names that a file imports, with line numbers, ``if TYPE_CHECKING`` left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checking = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in tree.body if top_level_only else ast.walk(tree):
        if id(node) in checking:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            if module in ("crosscam", "crosscam.data", "crosscam.nn", "crosscam.training"):
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno
