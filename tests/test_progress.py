"""Lines of a log, by a clock that the tests move."""

import io
from functools import partial

import pytest
import torch
from torch import nn

import main_gcn
from common.progress import Progress, follow, format_duration
from common.skeleton import H36M_16
from data.datasets import H36M
from data.pose_dataset import PoseLoader, load_pose_datasets
from tests.conftest import SLICE
from training.engine import Outlook, Training, train_one_epoch


class Clock:
    """Moves on by ``step`` seconds whenever it is read."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 1000.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


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


@pytest.fixture
def dataset(h36m_folder):
    (found,) = load_pose_datasets(H36M, h36m_folder, [H36M.subjects_test], H36M_16)
    return found


def made_training(loss_of_steps: list[float]) -> Training:
    """Learns nothing, at a given loss a step."""
    network = nn.Linear(2, 3)
    losses = iter(loss_of_steps)
    return Training(
        networks={"state_dict": network},
        loss=lambda batch: next(losses) + 0 * network(batch.inputs_2d).sum(),
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        rate=lambda step, epoch: 0.001 * step,
    )


def test_training_says_loss_rate_and_time_left(dataset, capsys):
    loader = PoseLoader(dataset, 10)  # 192 poses: 20 steps, the last of 2
    outlook = Outlook(3, test_share=0.5, progress=Progress(Clock(step=5.0)))
    losses = [float(n) for n in range(1, 21)]
    trained = train_one_epoch(made_training(losses), loader, 2, 100, outlook)
    assert trained.loss == pytest.approx((10 * sum(losses[:19]) + 2 * 20) / 192)
    # 5 s a step and reading of the clock; 11 steps are done when a minute is first over.
    assert capsys.readouterr().err == (
        "epoch 2/3, step 11/20, 0.2 steps/s, loss 6, learning rate 0.111, "
        "45 s left in this epoch, 4 min in all\n"
    )
    # 100 s an epoch, 50 s a test, so two of each less the 55 s that are gone: 245 s
    assert outlook.time_left(2, 55, 45) == "45 s left in this epoch, 4 min in all"
    assert outlook.time_left(3, 50, 50) == "50 s left in this epoch, 2 min in all"


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
