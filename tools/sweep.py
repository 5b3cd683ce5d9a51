#!/usr/bin/env python
"""Train many settings of the flags, each with several seeds, and write one table of the results.

    python tools/sweep.py SPEC --out DIR                       one run at a time
    python tools/sweep.py SPEC --out DIR --jobs 4              four at a time, which share the cores
    python tools/sweep.py SPEC --out DIR --devices cuda:0,cuda:1
    python tools/sweep.py SPEC --out DIR --gather-only         only the table, of the finished runs
    python tools/sweep.py SPEC --out DIR --dataset h36m        other data, published schedule

SPEC is a JSON file. ``rows`` names sets of flags; or ``grid`` lists values of flags, and every
combination is a row:

    {"script": "main_gcn.py", "flags": {"dataset": "hdm05", "epochs": 10}, "seeds": [0, 1, 2],
     "rows": {"published": {}, "wide": {"hid_dim": 256}, "non-local": {"non_local": true}}}
    {"flags": {"dataset": "hdm05"}, "grid": {"hid_dim": [64, 128], "num_layers": [2, 4]}}

A value of true means --flag, false means --no-flag, and null removes a common flag from a row.

--dataset uses another data set with the published settings. It removes SPEC's common flags for the
data and the schedule: dataset, keypoints, actions, downsample, epochs, batch_size, schedule,
warmup.

Each run has the folder DIR/<hash of script, settings and seed>; its output goes to DIR/logs. The
same command, given again, skips finished runs and resumes interrupted ones. A run that goes on
though its sweep was killed is waited for. Several SPECs may share a DIR and their common runs.
DIR/<name of SPEC>.csv and .md have the mean, the sample standard deviation and the number of runs,
for the last epoch (not selected on the test subjects). The csv also has the folders of the runs,
and the png shows every run.
"""

import argparse
import csv
import hashlib
import itertools
import json
import math
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

from tqdm import tqdm

import opt
from common.errors import UserError, run_script
from common.files import atomic_write, os_errors_as_user_errors
from common.lock import FolderLock, holder
from common.parser import Parser
from common.visualize import save_comparison
from data.datasets import DATASETS
from training.find_run import LAST, RESULTS
from training.published_flags import warning_of_inert_flags
from training.published_settings import distinguishing_settings
from training.report import REMARKS
from training.run_flags import CALL_FLAGS
from training.settings import settings_of

ROOT = Path(__file__).resolve().parents[1]
# For each script the function that parses its flags, and the flags that make it train.
_SCRIPTS = {
    "main_gcn.py": (opt.parse_gcn, []),
    "main_graph.py": (opt.parse_graph, ["--pro_train=1"]),
}
_FLAG = re.compile(r"[A-Za-z]\w*")  # what stands behind -- in a command
_KEYS = {"script": str, "flags": dict, "rows": dict, "grid": dict, "seeds": list}
# Flags that the sweep sets itself, or that would make all runs write to one folder.
_OWN_FLAGS = (*CALL_FLAGS, "seed", "save_dir")
_METRICS = {"mpjpe_mm": "MPJPE", "p_mpjpe_mm": "P-MPJPE"}
# Common flags that --dataset removes: the data and the schedule.
_DATASET_FLAGS = (
    "dataset", "keypoints", "actions", "downsample", "epochs", "batch_size", "schedule", "warmup"
)  # fmt: skip
# By these this program knows its tables again: the page's last line, or how pages began before they
# had it; and the first columns of the csv.
_MARK = "<!-- made by modulated-gcn tools/sweep.py -->"
_TABLE_HEAD = "| row | n | parameters |"
_COLUMNS = "row,n,planned,"
_MOST_ROWS = 100_000  # of a grid
_STOP_SECONDS = 20.0  # time for a run to end after SIGINT, before it is killed


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        script: file name of the script.
        arguments: its flags, including the seed.
        epochs: number of the last epoch.
        id: name of the run's folder. Equal settings have equal ids, however SPEC writes them.
        label: row and seed, for messages.
    """

    script: str
    arguments: tuple[str, ...]
    epochs: int
    id: str
    label: str


def read_spec(path: Path) -> dict[str, Any]:
    """Read the SPEC of a sweep, and fill in the defaults of absent keys.

    Raises:
        UserError: the file is missing, is no JSON, or does not have the form described above.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError(f"a duplicate name among {', '.join(key for key, _ in pairs)}")
        return found

    try:
        spec = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path}: its brackets are nested too deeply for a SPEC") from error
    if not isinstance(spec, dict):
        raise UserError(f"{path}: a JSON object expected, see tools/sweep.py --help")
    for key, value in spec.items():
        if key not in _KEYS or not isinstance(value, _KEYS[key]):
            kinds = ", ".join(f"{name} ({kind.__name__})" for name, kind in _KEYS.items())
            raise UserError(
                f"{path}: {key!r} is not one of these keys, or of another type: {kinds}"
            )
    if ("rows" in spec) == ("grid" in spec):
        raise UserError(f"{path}: give either 'rows' or 'grid'")
    spec = {"script": "main_gcn.py", "flags": {}, "seeds": [0], **spec}
    if not spec["seeds"] or any(type(seed) is not int for seed in spec["seeds"]):
        raise UserError(f"{path}: give a list of whole numbers as seeds, like [0, 1, 2]")
    if spec["script"] not in _SCRIPTS:
        raise UserError(f"{path}: script {spec['script']!r} is not one of {', '.join(_SCRIPTS)}")
    return spec


def on_dataset(spec: dict[str, Any], dataset: str) -> dict[str, Any]:
    """A copy of the SPEC for another data set, with the published schedule. Flags of rows stay."""
    kept = {key: value for key, value in spec["flags"].items() if key not in _DATASET_FLAGS}
    return {**spec, "flags": {"dataset": dataset, **kept}}


def plan_jobs(path: Path, spec: dict[str, Any], seeds: Sequence[int]) -> dict[str, list[Job]]:
    """The jobs of each row, one for each seed: {row: jobs}.

    Args:
        path: the file of the SPEC, for messages.

    Raises:
        UserError: the script does not know a flag, or does not accept a value.
    """
    rows = spec["rows"] if "rows" in spec else _combinations(path, spec["grid"])
    planned = {}
    for name, flags in rows.items():
        try:
            if not isinstance(flags, dict):
                raise UserError('give flags, like {"hid_dim": 256}')
            planned[name] = _jobs(name, spec["script"], {**spec["flags"], **flags}, seeds)
        except UserError as error:
            raise UserError(f"{path}, row {name!r}: {error}") from error
    if not planned:
        raise UserError(f"{path} has no rows: add one")
    return planned


def _combinations(path: Path, grid: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All combinations of the values of a grid: {name of the row: flags}."""
    if not all(isinstance(values, list) and values for values in grid.values()):
        raise UserError(f'{path}: give lists of values in the grid, like {{"hid_dim": [64, 128]}}')
    if not grid:
        return {}
    if (count := math.prod(map(len, grid.values()))) > _MOST_ROWS:
        raise UserError(f"{path}: the grid has {count:,} rows, more than {_MOST_ROWS:,}")
    choices = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return {", ".join(f"{key} {value}" for key, value in c.items()): c for c in choices}


def _jobs(row: str, script: str, flags: dict[str, Any], seeds: Sequence[int]) -> list[Job]:
    """The jobs of one row, one for each seed."""
    parse, fixed = _SCRIPTS[script]
    arguments = [*fixed, *_as_arguments(flags)]
    args, defaults = parse(arguments), parse(fixed)
    for key in _OWN_FLAGS:
        if hasattr(args, key) and getattr(args, key) != getattr(defaults, key):
            raise UserError(f"--{key} is not allowed in a sweep's flags: take it out")
    if message := warning_of_inert_flags(args, Path(script).stem):
        raise UserError(f"{message}: take it out")
    jobs = []
    for seed in dict.fromkeys(seeds):  # a repeated seed makes no second run
        seeded = (*arguments, f"--seed={seed}")
        identity = distinguishing_settings(Path(script).stem, settings_of(parse(seeded)))
        content = json.dumps([script, identity], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        jobs.append(Job(script, seeded, args.epochs, digest, f"{row}, seed {seed}"))
    return jobs


def _as_arguments(flags: dict[str, Any]) -> Iterator[str]:
    """Flags of a SPEC as command-line arguments."""
    for name, value in flags.items():
        if not _FLAG.fullmatch(name) or name == "help":
            raise UserError(f"{name!r} is no setting: take it out")
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no-{name}"
        elif isinstance(value, (int, float, str)):
            yield f"--{name}={value}"
        elif value is not None:
            raise UserError(f"{name}: give a string, a number, true, false or null")


def read_results(out: Path, job: Job) -> dict[str, Any] | None:
    """The content of a finished run's ``results.json``; None if it is missing or incomplete."""
    try:
        content = json.loads((out / job.id / RESULTS).read_text(encoding="utf-8"))
        last = content["results"]["last"]
        complete = last["epoch"] == job.epochs and all(math.isfinite(last[m]) for m in _METRICS)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return content if complete else None


def run_jobs(jobs: Iterable[Job], out: Path, devices: Sequence[str | None]) -> dict[str, str]:
    """Run the jobs. The others continue if one fails.

    A run that another process has in its hands, since the sweep that started it was killed, is
    waited for, and started here if it ended before its last epoch. When this function returns or
    raises, all runs that it started have ended.

    Args:
        devices: one entry for each run at a time: the ``--device``, or None for the script's
            default.

    Returns:
        {label: reason} of the jobs that failed.
    """
    waiting, free = deque(jobs), list(devices)
    held: list[Job] = []
    running: dict[subprocess.Popen, tuple[Job, str | None]] = {}
    failed: dict[str, str] = {}
    threads = max(1, _cores() // len(devices))
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        threads = min(threads, max(1, int(os.environ["OMP_NUM_THREADS"])))
    with tqdm(desc="runs", total=len(waiting), unit="run", disable=None) as bar:
        try:
            while waiting or running or held:
                while waiting and free:
                    job = waiting.popleft()
                    if found := holder(out / job.id):
                        bar.write(f"{job.label}: still runs ({found}); this sweep waits for it")
                        held.append(job)
                        continue
                    device = free.pop(0)
                    running[_start(job, out, device, threads)] = job, device
                time.sleep(0.05)
                for job in [job for job in held if not holder(out / job.id)]:
                    held.remove(job)
                    if read_results(out, job):
                        bar.update()
                        bar.write(_outcome(out, job, None))
                    else:
                        waiting.append(job)
                for process in [p for p in running if p.poll() is not None]:
                    job, device = running.pop(process)
                    free.append(device)
                    bar.update()
                    if reason := _failure_reason(process, out, job):
                        failed[job.label] = reason
                    bar.write(_outcome(out, job, reason))
        finally:
            _stop(list(running))
    return failed


def _cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(job: Job, out: Path, device: str | None, threads: int) -> subprocess.Popen:
    """Start a run, or go on from its newest checkpoint, also inside an epoch."""
    folder, logs = out / job.id, out / "logs"
    arguments = [*job.arguments, "--checkpoint", str(out), "--name", job.id, "--resume", "auto"]
    if device:
        arguments += ["--device", device]
    with os_errors_as_user_errors(f"write in {out}"):
        (folder / RESULTS).unlink(missing_ok=True)  # incomplete, or the run would be skipped
        logs.mkdir(exist_ok=True)
    count = str(threads)
    with (
        os_errors_as_user_errors(f"start a run in {out}"),
        (logs / f"{job.id}.out").open("a", encoding="utf-8") as stdout,
        (logs / f"{job.id}.err").open("a", encoding="utf-8") as stderr,
    ):
        return subprocess.Popen(
            [sys.executable, str(ROOT / job.script), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count},
            start_new_session=True,  # Ctrl-C reaches only the sweep, which then stops its runs
        )


def _failure_reason(process: subprocess.Popen, out: Path, job: Job) -> str | None:
    """Why a run failed: the last line of its stderr, or the signal that ended it, since its last
    line may then be one of its progress. None if it did not fail."""
    if process.returncode == 0 and read_results(out, job):
        return None
    stderr = (out / "logs" / f"{job.id}.err").read_text(encoding="utf-8", errors="replace")
    if process.returncode < 0:
        return f"ended by {signal.Signals(-process.returncode).name}"
    if lines := stderr.strip().splitlines():
        return lines[-1].removeprefix("error: ")
    return f"exit status {process.returncode}, with incomplete results and no message"


def _outcome(out: Path, job: Job, reason: str | None) -> str:
    """A line about a run that has ended: its errors, or why it failed."""
    if reason:
        return f"{job.label}: FAILED: {reason}"
    last = read_results(out, job)["results"]["last"]
    figures = ", ".join(f"{name} {last[key]:.2f} mm" for key, name in _METRICS.items())
    return f"{job.label}: {figures}"


def _stop(processes: list[subprocess.Popen]) -> None:
    """Stop runs by SIGINT, so that they leave no partial file. Kill those that do not end in
    ``_STOP_SECONDS``."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + _STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _exclusive(out: Path) -> Iterator[None]:
    """Lock a folder against a second sweep. Inside the ``with`` block SIGTERM acts like Ctrl-C.

    Raises:
        UserError: the folder cannot be made, or another sweep has locked it.
    """
    with os_errors_as_user_errors(f"make {out}"):
        out.mkdir(parents=True, exist_ok=True)
    with FolderLock(out, "another sweep"):
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def check_tables(name: str, out: Path) -> None:
    """Refuse to replace files that are no tables of a sweep.

    Raises:
        UserError: there is such a file.
    """
    table, page, picture = (out / f"{name}.{suffix}" for suffix in ("csv", "md", "png"))
    known = {
        table: lambda text: text.startswith(_COLUMNS),
        page: lambda text: _MARK in text or text.startswith(_TABLE_HEAD),
        picture: lambda text: table.exists() or page.exists(),  # which were known as ours
    }
    for path, is_ours in known.items():
        with os_errors_as_user_errors(f"read {path}"):
            text = path.read_text("utf-8", errors="replace") if path.exists() else None
        if text is not None and not is_ours(text):
            raise UserError(f"{path} is there and is no table of a sweep: give another --out")


def gather(name: str, rows: dict[str, list[Job]], out: Path, spec: dict[str, Any]) -> str:
    """Write the tables and the plot of the finished runs. Returns the Markdown table.

    Args:
        name: name of the SPEC and of the files.
    """
    finished = {
        row: [results for job in jobs if (results := read_results(out, job))]
        for row, jobs in rows.items()
    }
    table = [_table_row(row, jobs, finished[row]) for row, jobs in rows.items()]
    remarks = {
        f"{row}: {remark}"
        for row, found in finished.items()
        for results in found
        for remark in _run_remarks(results)
    }
    with (
        atomic_write(out / f"{name}.csv") as partial,
        partial.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    text = _markdown(table, spec, sorted(remarks))
    with atomic_write(out / f"{name}.md") as partial:
        partial.write_text(f"{text}\n{_MARK}\n", encoding="utf-8")
    save_comparison(
        out / f"{name}.png",
        {
            row: {title: _last_epoch_values(found, metric) for metric, title in _METRICS.items()}
            for row, found in finished.items()
        },
    )
    return text


def _table_row(name: str, jobs: Sequence[Job], found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table: statistics of its finished runs."""
    row: dict[str, Any] = {"row": name, "n": len(found), "planned": len(jobs)}
    for key in ("parameters", "multiply_adds_a_pose"):
        row[key] = found[0].get(key) if found else None
    for metric in _METRICS:
        values = _last_epoch_values(found, metric)
        row[metric] = statistics.mean(values) if values else None
        row[f"{metric}_spread"] = statistics.stdev(values) if len(values) > 1 else None
    return row | {"runs": " ".join(job.id for job in jobs)}


def _last_epoch_values(found: Iterable[dict[str, Any]], metric: str) -> list[float]:
    return [results["results"]["last"][metric] for results in found]


def _run_remarks(results: dict[str, Any]) -> Iterator[str]:
    """Remarks that the results of a run need, such as missing sequences."""
    for key in REMARKS:
        if results.get(key):
            yield results[key]
    if results.get("missing_sequences"):
        yield f"sequences are missing: {'; '.join(results['missing_sequences'])}"


def _markdown(table: list[dict[str, Any]], spec: dict[str, Any], remarks: list[str]) -> str:
    lines = [
        f"{_TABLE_HEAD} " + " | ".join(f"{m}, mm" for m in _METRICS.values()) + " |",
        "|---|---|---|" + "---|" * len(_METRICS),
    ]
    for row in table:
        n = str(row["n"]) if row["n"] == row["planned"] else f"{row['n']} of {row['planned']}"
        size = f"{row['parameters']:,}" if row["parameters"] else "-"
        cells = [row["row"].replace("|", "\\|"), n, size]
        for metric in _METRICS:
            mean, spread = row[metric], row[f"{metric}_spread"]
            shown = "-" if mean is None else f"{mean:.2f}"
            cells.append(shown if spread is None else f"{shown} ± {spread:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    command = shlex.join([spec["script"], *_as_arguments(spec["flags"])])
    lines += [
        "",
        "Last epoch (no choice on test subjects); mean ± sample standard deviation over n seeds; "
        f"`{command}` and each row's flags.",
        *(f"{remark}." for remark in remarks),
    ]
    return "\n".join(lines) + "\n"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "spec", type=Path, metavar="SPEC", help="JSON file that describes the sweep, see above"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the runs")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="number of runs at a time (default: 1, or one for each device)",
    )
    parser.add_argument(
        "--devices", type=lambda text: text.split(","), metavar="LIST",
        help="devices for the runs, separated by commas (default: the script's default)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds",
        type=_seeds,
        metavar="LIST",
        help="seeds, separated by commas (default: SPEC's, else 0)",
    )
    parser.add_argument(
        "--dataset", choices=sorted(DATASETS),
        help="run SPEC on this data set with the published settings, see above",
    )  # fmt: skip
    parser.add_argument(
        "--gather-only",
        "--gather_only",
        action="store_true",
        help="start no run, only write the tables",
    )
    args = parser.parse_args(argv)
    if args.jobs is not None and args.jobs < 1:
        parser.error("--jobs: give a whole number from 1")
    return args


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"give numbers like 0,1,2, not {text!r}") from None


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    spec = read_spec(args.spec)
    if args.dataset:
        spec = on_dataset(spec, args.dataset)
    rows = plan_jobs(args.spec, spec, args.seeds or spec["seeds"])
    failed: dict[str, str] = {}
    if args.gather_only and not args.out.is_dir():
        raise UserError(f"{args.out} is not there: run the sweep first")
    check_tables(args.spec.stem, args.out)
    if not args.gather_only:
        devices = args.devices or [None]
        slots = list(itertools.islice(itertools.cycle(devices), args.jobs or len(devices)))
        with _exclusive(args.out):
            jobs = {job.id: job for row in rows.values() for job in row}  # equal rows run once
            open_jobs = [job for job in jobs.values() if not read_results(args.out, job)]
            begun = sum((args.out / job.id / LAST).is_file() for job in open_jobs)
            print(
                f"runs: {len(jobs)}, already finished: {len(jobs) - len(open_jobs)}, "
                f"to resume: {begun}",
                flush=True,
            )
            try:
                failed = run_jobs(open_jobs, args.out, slots)
            except KeyboardInterrupt:
                print("the same command resumes the sweep", file=sys.stderr)
                raise
    print(gather(args.spec.stem, rows, args.out, spec), end="")
    if failed:
        raise UserError(
            f"failed: {'; '.join(failed)} (logs: {args.out / 'logs'}); "
            "the same command tries them again"
        )


if __name__ == "__main__":
    run_script(main)
