"""Which refusals of the program the tests reach: a plugin of pytest.

A refusal is a place in the program that makes a ``UserError``, calls a parser's ``error``, or makes
an ``ArgumentTypeError``. ``pytest --refusals FILE`` writes a table of all of them, each with the
first test that reached it and the line it printed; the run fails if one is reached by no test.
What happens in other processes is not seen.
"""

import argparse
import ast
import sys
from pathlib import Path

import pytest

from common.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("", "common", "data", "models", "training", "tools")
# Refusals that no test can reach in its own process, by a part of their line, and what does.
ELSEWHERE = {
    "(--help lists the flags)": "every parser.error",
    "another process of the job ended": "tests/test_distributed.py, in other processes",
}


class Refusals:
    """Notes where refusals are made while tests run.

    Attributes:
        reached: {(file, line): (test, message)} of the first time.
    """

    def __init__(self) -> None:
        self.reached: dict[tuple[str, int], tuple[str, str]] = {}
        self.test = ""

    def watch(self) -> None:
        for kind in (UserError, argparse.ArgumentTypeError):
            kind.__init__ = self._noting(kind.__init__)

    def _noting(self, init):
        def noting(error, *arguments) -> None:
            init(error, *arguments)
            frame = sys._getframe(1)
            if frame.f_code.co_qualname == "Parser.error":
                frame = frame.f_back
            place = (frame.f_code.co_filename, frame.f_lineno)
            self.reached.setdefault(place, (self.test, " ".join(map(str, arguments))))

        return noting


def places() -> dict[tuple[str, int], str]:
    """{(file, line): its text} of all refusals in the program."""
    found = {}
    for path in (path for room in ROOMS for path in sorted((ROOT / room).glob("*.py"))):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and _is_refusal(node.func):
                found[str(path), node.lineno] = " ".join(ast.unparse(node).split())
    return found


def _is_refusal(func: ast.expr) -> bool:
    name = ast.unparse(func)
    return name in ("UserError", "argparse.ArgumentTypeError", "parser.error")


def table(reached: dict[tuple[str, int], tuple[str, str]]) -> tuple[list[str], list[str]]:
    """The lines of the table, and the places that no test reached."""
    lines, missed = ["refusal\ttest\tline"], []
    for (file, line), text in places().items():
        where = f"{Path(file).relative_to(ROOT)}:{line}"
        elsewhere = next((why for part, why in ELSEWHERE.items() if part in text), None)
        if (file, line) in reached:
            test, message = reached[file, line]
            lines.append(f"{where}\t{test}\t{' '.join(message.split())}")
        elif elsewhere:
            lines.append(f"{where}\t{elsewhere}\t")
        else:
            missed.append(f"{where}: {text[:120]}")
    return lines, missed


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refusals", metavar="FILE", help="write which test reaches which refusal")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--refusals"):
        config.refusals = Refusals()
        config.refusals.watch()


def pytest_runtest_logstart(nodeid: str) -> None:
    if _current:
        _current[0].test = nodeid


_current: list[Refusals] = []


def pytest_sessionstart(session: pytest.Session) -> None:
    if hasattr(session.config, "refusals"):
        _current.append(session.config.refusals)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if not _current:
        return
    lines, missed = table(_current[0].reached)
    Path(config.getoption("--refusals")).write_text("\n".join(lines) + "\n", encoding="utf-8")
    terminalreporter.write_line(f"refusals: {len(lines) - 1} reached, {len(missed)} not")
    for line in missed:
        terminalreporter.write_line(f"  not reached: {line}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _current and table(_current[0].reached)[1] and session.exitstatus == 0:
        session.exitstatus = 1
