"""How a script ends."""

import sys

import pytest

from common.errors import UserError, run_script


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("a.npz is\nnot there"), 2, "error: a.npz is not there\n"),
        (BrokenPipeError(), 1, ""),
        (KeyboardInterrupt(), 130, "stopped by the user\n"),
    ],
)
def test_expected_ends_have_a_status_and_one_line(error, status, line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # a closed one is put away

    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert (stop.value.code, capsys.readouterr().err) == (status, line)


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_script(lambda: 1 // 0)
