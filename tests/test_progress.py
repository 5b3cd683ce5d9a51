"""Lines of a log, by a clock that the tests move."""

import io
from functools import partial

import pytest

import main_gcn
from common.progress import Progress, follow, format_duration
from tests.conftest import SLICE, Clock
from training.engine import Outlook


def said_by(capsys, items, step: float, *args, **options) -> list[str]:
    """What is said where every item takes ``step`` seconds."""
    clock = Clock()
    bar = Progress(clock)
    for _ in bar.follow(items, *args, **options):
        clock.now += step
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()


def test_a_line_a_minute_with_rate_and_time_left(capsys):
    assert said_by(capsys, range(1000), 0.5, "testing", 1000, "step") == [
        f"testing, step {n:,}/1,000, 2 steps/s, {left} left"
        for n, left in zip(range(120, 1000, 120), (
            "7 min", "6 min", "5 min", "4 min", "3 min", "2 min", "1 min", "20 s"
        ), strict=True)
    ]  # fmt: skip


def test_what_takes_less_than_a_minute_says_nothing(capsys):
    assert said_by(capsys, range(59), 1.0, "clips", 59, "clip") == []


def test_loops_that_share_a_progress_share_its_minutes(capsys):
    clock = Clock()
    shared = Progress(clock)
    for what in ("first", "second", "third"):
        for _ in shared.follow(range(50), what, 50, "step"):
            clock.now += 1.0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" steps/s")[0] for line in lines] == [
        "second, step 10/50, 1", "third, step 20/50, 1"
    ]  # fmt: skip


def test_without_a_total_and_in_bytes(capsys):
    assert said_by(capsys, range(13), 10.0, "sequences", unit="file") == [
        "sequences, file 6, 0.1 files/s", "sequences, file 12, 0.1 files/s"
    ]  # fmt: skip
    blocks = [b"x" * 250_000] * 80
    options = {"done": 20_000_000, "size": len}
    (line,) = said_by(capsys, blocks, 1.0, "h36m", 40_000_000, "B", **options)
    assert line == "h36m, 35.0 of 40.0 MB, 0.25 MB/s, 20 s left"


def test_a_terminal_gets_a_bar_and_no_lines(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    clock = Clock(step=100.0)
    assert list(Progress(clock).follow([b"ab", b"c"], "file", 3, "B", size=len)) == [b"ab", b"c"]
    shown = terminal.getvalue()
    assert "100%" in shown and "3.00/3.00" in shown and " left" not in shown


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.9, "1 min"), (440, "7 min"), (3590, "1 h 0 min"),
     (22_800, "6 h 20 min"), (400_000, "111 h 7 min")],
)  # fmt: skip
def test_durations(seconds, said):
    assert format_duration(seconds) == said


def test_a_whole_training_speaks_every_minute_of_testing_too(call, tmp_path, monkeypatch):
    clock = Clock(step=61.0)
    outlook = partial(Outlook, progress=Progress(clock))
    monkeypatch.setattr(main_gcn, "Outlook", outlook)
    flags = [*SLICE, "-b", 16, "-e", 2, "-c", tmp_path]
    status, out, err = call(main_gcn.main, *flags)
    assert status == 0
    said = [line.split(", ")[:2] for line in err.splitlines()]
    for epoch in ("epoch 1/2", "epoch 2/2"):
        assert [epoch, "testing"] in said
        assert any(line[0] == epoch and line[1].startswith("step") for line in said)
        assert f"\n{epoch}  loss" in out


def test_items_come_through_and_a_short_loop_says_nothing(capsys):
    assert list(follow("abc", "letters", 3)) == ["a", "b", "c"]
    assert said_by(capsys, range(50), 1.0, "testing", 50, "step") == []
