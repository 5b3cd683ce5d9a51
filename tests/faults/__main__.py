"""The whole campaign; see the package."""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.faults.campaign import (
    CASES,
    Outcome,
    damaged,
    disk_filled,
    in_parts,
    killed,
    together,
    undisturbed,
)
from tests.faults.full_disk import filled_mount

_ALONE = ["ground truth", "running average", "refinement"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="default: 200")
    parser.add_argument("--fills", type=int, default=40, help="full disks (default: 40)")
    parser.add_argument("--damages", type=int, default=400, help="damaged files (default: 400)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = campaign(args, Path(folder))
    return 1 if wrong else 0


def campaign(args: argparse.Namespace, folder: Path) -> int:
    """Run all campaigns and print what came of them; gives how many things went wrong."""
    wanted = undisturbed(folder, [*CASES])
    calls = {
        "kills": [
            partial(killed, case, part, folder, wanted[case], args.seed + 100 * n + k)
            for n, case in enumerate(CASES)
            for k, part in enumerate(in_parts(args.kills // len(CASES), 5))
        ],
        "full disks": [
            partial(disk_filled, case, part, folder, wanted[case], args.seed + 100 * n + k)
            for n, case in enumerate(_ALONE)
            for k, part in enumerate(in_parts(-(-args.fills // len(_ALONE)), 4))
        ],
        "damaged files": [
            partial(
                damaged, case, part, _new(folder, f"damage{n}-{k}"), wanted[case], args.seed + k
            )
            for n, case in enumerate(_ALONE)
            for k, part in enumerate(in_parts(-(-args.damages // len(_ALONE)), 50))
        ],
    }
    total = 0
    for what, parts in calls.items():
        total += show(what, together(what, args.jobs, parts))
    return total + filled_mount(folder, wanted["ground truth"])


def _new(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def show(what: str, outcome: Outcome) -> int:
    """Print an outcome; gives how many things went wrong."""
    print(f"{what}: " + ", ".join(f"{n} {k}" for k, n in sorted(outcome.counts.items())))
    if outcome.kills:
        inside = outcome.counts["kill event"] + outcome.counts["kill half"]
        lost = sorted(outcome.lost)
        print(
            f"  {outcome.kills} kills, {inside} of them at or inside a write; seconds of training "
            f"lost: median {lost[len(lost) // 2]:.2f}, at most {lost[-1]:.2f}"
        )
    print(f"  wrong: {len(outcome.wrong)}", flush=True)
    for line in outcome.wrong:
        print(f"  {line}")
    return len(outcome.wrong)


if __name__ == "__main__":
    sys.exit(main())
