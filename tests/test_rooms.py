"""Imports point down: each room knows only the rooms below it."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

MAY_IMPORT = {
    "common": set(),
    "data": {"common"},
    "models": {"common"},
    "training": {"common", "data", "models"},
    "opt.py": {"common", "data", "models", "training"},
    "predict.py": {"common", "data", "models", "training"},
    "viz.py": {"common", "data", "models", "training"},
    "main_gcn.py": {"common", "data", "models", "training", "opt"},
    "main_graph.py": {"common", "data", "models", "training", "opt"},
    "tools": {"common", "data", "models", "training", "opt", "main_gcn", "main_graph"},
}
OURS = {name.removesuffix(".py") for name in MAY_IMPORT}


def files_of(room: str) -> list[Path]:
    place = ROOT / room
    return sorted(place.glob("*.py")) if place.is_dir() else [place]


def imported(path: Path) -> set[str]:
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
    assert files_of(room)
    for path in files_of(room):
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


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_process_is_forked(room):
    """CUDA does not survive a fork, and multiprocessing forks or not by system and version."""
    for path in files_of(room):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    used = {alias.name.split(".")[0] for alias in names}
                case ast.ImportFrom(module=module, names=names):
                    used = {module.split(".")[0], *(alias.name for alias in names)}
                case ast.Attribute(attr=name):
                    used = {name}
                case _:
                    continue
            assert not used & {"fork", "forkpty", "multiprocessing", "ProcessPoolExecutor"}, path
