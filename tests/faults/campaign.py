"""Trainings that are killed, fill the disk, or find their files damaged; and what came of them."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.distributed import TCPStore

from common.progress import follow
from training.find_run import LAST, STEP, checkpoints_in

ROOT = Path(__file__).resolve().parents[2]
SAVE_EVERY = 0.002  # minutes: a tenth of a second, so that most kills find a save behind them
_SLICE = (
    "--dataset hdm05 --actions throwBasketball --downsample 12 -z 16 -l 1 --device cpu "
    "--batch_size 32 --epochs 3"
)
_REFINED = "main_graph.py -k gt -j 16 --pro_train 1 --post_refine --save_model 1"
# Script and flags; those named "two" are jobs of two processes.
CASES = {
    "ground truth": "main_gcn.py --dropout 0.2",
    "running average": "main_gcn.py --augment --ema 0.9 --dropout 0.2",
    "refinement": _REFINED,
    "two processes": "main_gcn.py --dropout 0.2 --augment",
}
_TIMEOUT = 300  # seconds; a process that needs more hangs


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        kills: processes that ended by SIGKILL.
        counts: of what else happened, by name.
        wrong: what should not be: other weights, a traceback, a hang.
        lost: seconds of training that each kill lost.
    """

    kills: int = 0
    counts: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            self.kills + other.kills,
            self.counts + other.counts,
            self.wrong + other.wrong,
            self.lost + other.lost,
        )


def run(case: str, runs: Path, name: str, *flags: str, fault: str = "", rank: int = 0):
    """Run a case, or go on with it: the exit statuses and the messages of its processes.

    Args:
        runs: the folder of run folders.
        name: of the run.
        fault: see ``tests.faults.child``, in the process of this rank.
    """
    count = 2 if case.startswith("two") else 1
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if count > 1 else None
    port = {"MASTER_PORT": str(store.port)} if store else {}
    job = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", **port,
           "TORCHELASTIC_USE_AGENT_STORE": "True", "OMP_NUM_THREADS": "1", "FAULT": fault,
           "FAULT_RANK": str(rank), "STEPS": str(runs / f"{name}.steps")}  # fmt: skip
    script, *own = CASES[case].split()
    command = [sys.executable, "-m", "tests.faults.child", script, *_SLICE.split(), *own,
               "-c", str(runs), "--name", name, "--resume", "auto",
               "--save_every", str(SAVE_EVERY), *flags]  # fmt: skip
    processes = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **job, "RANK": str(rank)},
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for rank in range(count)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=_TIMEOUT)[1] for process in processes]
    except subprocess.TimeoutExpired:
        said = ["Traceback: hangs"]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [process.returncode for process in processes], "".join(said)


def differences(found: Path, wanted: Path) -> list[str]:
    """In what the last checkpoints of two runs differ: weights, averages, optimiser, log."""
    a, b = (torch.load(folder / LAST, weights_only=True) for folder in (found, wanted))
    unlike = []
    for key in ("state_dict", "post_refine", "trained", "optimizer"):
        try:
            torch.testing.assert_close(a.get(key), b.get(key), rtol=0, atol=0)
        except AssertionError as error:
            unlike.append(f"{key}: {str(error).splitlines()[0]}")
    keys = ("epoch", "step", "loss", "lr", "mpjpe_mm", "p_mpjpe_mm")
    logs = [[{k: row[k] for k in keys} for row in each["history"]] for each in (a, b)]
    if logs[0] != logs[1]:
        unlike.append("log")
    models = [sorted(p.name for p in folder.glob("model_*.pth")) for folder in (found, wanted)]
    if models[0] != models[1]:
        unlike.append(f"model files {models[0]}, not {models[1]}")
    leftovers = [p.name for p in found.iterdir() if p.name == STEP or ".partial." in p.name]
    return unlike + [f"{name} is left" for name in leftovers]


def is_clear(said: str) -> bool:
    """Whether a process that failed said so in one line, with no traceback."""
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    return len(errors) == 1 and "Traceback" not in said


def seconds_lost(runs: Path, name: str) -> float | None:
    """The time from the last step that was saved to the last one that was made; None without a
    step."""
    steps = [line.split() for line in (runs / f"{name}.steps").read_text().splitlines()]
    if not steps:
        return None
    saved = 0
    for path in checkpoints_in(runs / name):
        saved = max(saved, torch.load(path, weights_only=True)["step"])
    times = {int(step): float(time) for step, time in steps}
    at_save = times.get(saved, float(steps[0][1]))
    return max(0.0, float(steps[-1][1]) - at_save)


def killed(case: str, kills: int, folder: Path, wanted: Path, seed: int) -> Outcome:
    """Kill trainings at random moments, go on with each until it ends, and compare the weights.

    Args:
        kills: how many.
        wanted: the folder of the undisturbed run.
    """
    draw, outcome, number = random.Random(seed), Outcome(), 0
    while outcome.kills < kills:
        name, number = f"run{seed}-{number}", number + 1
        for _ in range(draw.randint(1, 4)):
            if outcome.kills == kills:
                break
            fault = draw.choice([
                f"kill time {draw.uniform(0, 2):.3f}",
                f"kill event {draw.randint(1, 60)}",
                f"kill half {draw.randint(1, 12)}",
            ])  # fmt: skip
            (folder / f"{name}.steps").write_text("")
            rank = draw.randint(0, 1) if case.startswith("two") else 0
            statuses, said = run(case, folder, name, fault=fault, rank=rank)
            if -signal.SIGKILL not in statuses:
                outcome.counts["ended before the kill"] += 1
                outcome.wrong += _wrong_end(case, statuses, said)
                break
            outcome.kills += 1
            outcome.counts["kill " + fault.split()[1]] += 1
            others = [status for status in statuses if status not in (0, -signal.SIGKILL)]
            if others and not is_clear(said):
                outcome.wrong.append(f"{case} {name}: {statuses} {said}")
            if (lost := seconds_lost(folder, name)) is not None:
                outcome.lost.append(lost)
        statuses, said = run(case, folder, name)
        outcome.counts["runs"] += 1
        outcome.wrong += _wrong_end(case, statuses, said)
        unlike = [] if any(statuses) else differences(folder / name, wanted)
        outcome.wrong += [f"{case} {name}: {what}" for what in unlike]
        shutil.rmtree(folder / name, ignore_errors=True)
    return outcome


def _wrong_end(case: str, statuses: list[int], said: str) -> list[str]:
    """A finished run may end with status 2 and the line that it is finished, and else with 0."""
    is_over = set(statuses) == {2} and "give --epochs a larger number" in said
    return [] if is_over or not any(statuses) else [f"{case}: status {statuses}: {said[-600:]}"]


def disk_filled(case: str, times: int, folder: Path, wanted: Path, seed: int) -> Outcome:
    """Let the disk be full after a random number of bytes, then go on with free space."""
    draw, outcome = random.Random(seed), Outcome()
    for number in range(times):
        name = f"full{seed}-{number}"
        free = int(10 ** draw.uniform(1, 6.3))
        statuses, said = run(case, folder, name, fault=f"full {free}")
        outcome.counts[f"status {statuses[0]}"] += 1
        if any(statuses) and not is_clear(said):
            outcome.wrong.append(f"{case} {name}, {free} bytes: {statuses} {said[-600:]}")
        statuses, said = run(case, folder, name)
        if any(statuses):
            outcome.wrong += _wrong_end(case, statuses, said)
        else:
            outcome.wrong += [f"{name}: {d}" for d in differences(folder / name, wanted)]
        shutil.rmtree(folder / name, ignore_errors=True)
    return outcome


def damaged(case: str, times: int, folder: Path, wanted: Path, seed: int) -> Outcome:
    """Damage a file of a finished run, and train it an epoch further; see ``tests.faults.damage``.

    Args:
        wanted: the folder of a run of one epoch less than ``wanted`` + "-longer".
    """
    script = CASES[case].split()[0]
    command = [sys.executable, "-m", "tests.faults.damage", script, str(wanted), str(folder),
               str(times), str(seed)]  # fmt: skip
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60 + 20 * times, check=False
    )
    if ended.returncode:
        return Outcome(wrong=[f"{case}: status {ended.returncode}: {ended.stderr[-600:]}"])
    found = json.loads(re.findall(r"^\{.*\}$", ended.stdout, re.M)[-1])
    return Outcome(counts=Counter(found["counts"]), wrong=found["wrong"])


def undisturbed(folder: Path, cases: list[str]) -> dict[str, Path]:
    """The undisturbed run of each case."""
    found = {}
    for case in cases:
        name = case.replace(" ", "_")
        statuses, said = run(case, folder, name)
        if any(statuses):
            raise RuntimeError(f"{case} fails undisturbed: {said}")
        found[case] = folder / name
    return found


def in_parts(total: int, part: int) -> list[int]:
    """15 in parts of 6: [6, 6, 3]."""
    return [min(part, total - start) for start in range(0, total, part)]


def together(what: str, jobs: int, calls: list) -> Outcome:
    """Make calls that give outcomes, some at a time, and add these up."""
    with ThreadPoolExecutor(jobs) as pool:
        outcomes = pool.map(lambda call: call(), calls)
        return sum(follow(outcomes, what, len(calls), "part"), Outcome())
