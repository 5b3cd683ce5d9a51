"""The tool that changes the code in one place at a time."""

import subprocess

import pytest

from tools import mutants as tool
from tools.mutants import mutants

SOURCE = '''
@cache
def f(a: int, b=1):
    """A text, 2 lines."""
    if a < 2:
        raise ValueError(f"{a - 1} is too few")
    g(a, b)
    return -a if b else x.y.z(1.5) @ [True]
'''
CHANGES = {
    "def f(a: int, b=1): -> def f(a: int, b=2):",
    "if a < 2: -> if a >= 2:",
    "if a < 2: -> if a <= 2:",
    "if a < 2: -> if a < 3:",
    "g(a, b) -> pass",
    "g(a, b) -> g(b, a)",
    *(
        f"return -a if b else x.y.z(1.5) @ [True] -> return {changed}"
        for changed in (
            "-a if not b else x.y.z(1.5) @ [True]",
            "a if b else x.y.z(1.5) @ [True]",
            "-a if b else [True] @ x.y.z(1.5)",
            "-a if b else x.y @ [True]",
            "-a if b else x.y.z(3.0) @ [True]",
            "-a if b else x.y.z(1.5) @ [False]",
        )
    ),
}


def test_mutants_are_these_and_each_has_one_change():
    found = mutants("f.py", SOURCE)
    assert sorted(mutant.change for mutant in found) == sorted(CHANGES)
    for mutant in found:
        old, new = mutant.change.split(" -> ")
        assert mutant.source.count(new) >= 1
        compile(mutant.source, "f.py", "exec")
        assert SOURCE.splitlines()[mutant.line - 1].strip().startswith(old[:6])


def test_code_that_is_not_changed_keeps_its_mutants():
    moved = f"import math\n\n\ndef h(a):\n    return a + 7\n\n{SOURCE}"
    changes = [mutant.change for mutant in mutants("f.py", moved)]
    assert [c for c in changes if c in CHANGES] == [m.change for m in mutants("f.py", SOURCE)]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of one function, whose test looks at one value of it."""
    (tmp_path / "double.py").write_text("def double(a):\n    return a * 2\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_double.py").write_text(
        "from double import double\n\ndef test_double():\n    assert double(2) == 4\n"
    )
    (tmp_path / "conftest.py").write_text("")
    subprocess.run("git init -q . && git add .", cwd=tmp_path, shell=True, check=True)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "TESTS", {"double.py": ("test_double",)})
    return tmp_path


def test_a_mutant_that_no_test_notices_is_alive_unless_it_is_explained(
    repository, call, monkeypatch
):
    sources = {m.change: m for m in mutants("double.py", "def double(a):\n    return a * 2\n")}
    by_division, tripled = "return a * 2 -> return a / 2", "return a * 2 -> return a * 3"
    assert sources.keys() == {by_division, tripled}
    status, out, _ = call(tool.main, "--jobs", 2)
    assert status == 0 and out == "mutants: 2 run, 2 caught, 0 equivalent, 0 alive\n"
    (repository / "tests/test_double.py").write_text(
        "from double import double\n\ndef test_double():\n    assert double(0) == 0\n"
    )
    monkeypatch.setattr(tool, "EQUIVALENT", {"double.py": {tripled: "it is not"}})
    status, out, _ = call(tool.main, "double.py", "--jobs", 1)
    assert status == 1 and f"alive: double.py:2: {by_division}\n" in out
    assert out.endswith("mutants: 2 run, 0 caught, 1 equivalent, 1 alive\n")
    assert (repository / "double.py").read_text() == "def double(a):\n    return a * 2\n"


def test_a_file_without_tests_is_refused(call):
    status, _, err = call(tool.main, "opt.py")
    assert status == 2 and "opt.py: no tests known" in err


def test_every_explained_mutant_is_a_mutant():
    for path, explained in tool.EQUIVALENT.items():
        source = (tool.ROOT / path).read_text(encoding="utf-8")
        assert explained.keys() <= {mutant.change for mutant in mutants(path, source)}
