"""Imports point down: each room knows only the rooms below it."""

import ast

import pytest

from tests.conftest import ROOT

MAY_IMPORT = {
    "common": set(),
    "data": {"common"},
    "models": {"common"},
    "training": {"common", "data", "models"},
    "opt.py": {"common", "data", "models", "training"},
    "predict.py": {"common", "data", "models", "training"},
    "main_gcn.py": {"common", "data", "models", "training", "opt"},
    "main_graph.py": {"common", "data", "models", "training", "opt"},
    "tools": {"common", "data", "models", "training", "opt", "main_gcn", "main_graph"},
}
OURS = {name.removesuffix(".py") for name in MAY_IMPORT}


def imported(path) -> set[str]:
    """The rooms that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found & OURS


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_is_below_it(room):
    place = ROOT / room
    files = sorted(place.glob("*.py")) if place.is_dir() else [place]
    assert files
    for path in files:
        beyond = imported(path) - MAY_IMPORT[room] - {room.removesuffix(".py")}
        assert not beyond, f"{path.relative_to(ROOT)} imports {', '.join(sorted(beyond))}"


def test_no_test_imports_another_test():
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            parts = {part for name in names for part in name.split(".")}
            found = [part for part in parts if (ROOT / "tests" / f"{part}.py").is_file()]
            assert not any(name.startswith("test_") for name in found), (path.name, found)
