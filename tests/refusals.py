"""Which refusals of the program the tests reach: a plugin of pytest.

A refusal is a place in the program that makes a ``UserError``, calls a parser's ``error``, or makes
an ``ArgumentTypeError``. ``pytest --refusals FILE`` writes a table of all of them, each with the
first test that reached it and the line it printed; the run fails if one is reached by no test.
The workers of pytest-xdist hand in what they noted. What other processes do is not seen.
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


_CURRENT = pytest.StashKey[Refusals]()
_PART = "refusals"  # of what a worker hands in


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refusals", metavar="FILE", help="write which test reaches which refusal")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--refusals"):
        config.stash[_CURRENT] = Refusals()
        config.stash[_CURRENT].watch()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    if refusals := item.config.stash.get(_CURRENT, None):
        refusals.test = item.nodeid
    return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    """A worker has finished: take over what it noted."""
    for file, line, *noted in getattr(node, "workeroutput", {}).get(_PART, []):
        node.config.stash[_CURRENT].reached.setdefault((file, line), tuple(noted))


def pytest_sessionfinish(session: pytest.Session) -> None:
    refusals = session.config.stash.get(_CURRENT, None)
    if refusals is None:
        return
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_PART] = [
            [*place, *noted] for place, noted in refusals.reached.items()
        ]
    elif table(refusals.reached)[1] and session.exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    refusals = config.stash.get(_CURRENT, None)
    if refusals is None:
        return
    lines, missed = table(refusals.reached)
    Path(config.getoption("--refusals")).write_text("\n".join(lines) + "\n", encoding="utf-8")
    terminalreporter.write_line(f"refusals: {len(lines) - 1} reached, {len(missed)} not")
    for line in missed:
        terminalreporter.write_line(f"  not reached: {line}")
