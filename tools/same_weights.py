#!/usr/bin/env python
"""Do two versions of the program train the same weights? Compares them bit for bit.

    python tools/same_weights.py OLD NEW            OLD and NEW are checkouts of the repository
    python tools/same_weights.py OLD NEW --cases published_gcn,resumed
    python tools/same_weights.py OLD NEW --store tests/golden

Each version runs the same short trainings on the bundled data, one thread a process, on this
machine, and the weights and the tables are compared. Bits are comparable on one machine only;
tests/test_golden_weights.py compares with stored ones to a tolerance on any machine. Exit status 1
where something differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.errors import UserError, run_script
from common.files import atomic_write
from common.parser import Parser
from training.find_run import LAST, RESULTS

ROOT = Path(__file__).resolve().parents[1]
_SMALL = (
    "--dataset hdm05 --actions throwBasketball --downsample 8 -z 16 -l 1 --batch_size 32 "
    "--device cpu"
)
_LARGE = 5000  # values of a tensor
_DETECTED = f"{_SMALL} --keypoints noisy --pro_train 1"


@dataclass(frozen=True)
class Case:
    """A short training.

    Attributes:
        script: it is run by.
        flags: separated by spaces.
        epochs: in all.
        resume_at: the run stops after this epoch and is resumed.
        processes: of torchrun; 1 runs the script alone.
    """

    script: str
    flags: str
    epochs: int = 1
    resume_at: int | None = None
    processes: int = 1

    def calls(self, folder: Path) -> list[list[str]]:
        """The flags of each call, which arrives in ``folder``."""
        new = [*self.flags.split(), "--checkpoint", str(folder.parent), "--name", folder.name]
        first = self.resume_at or self.epochs
        calls = [[*new, "--epochs", str(first)]]
        if self.resume_at:
            resume = ["--resume", str(folder / LAST), "--device", "cpu"]
            calls.append([*resume, "--epochs", str(self.epochs)])
        return calls


CASES = {
    "published_gcn": Case("main_gcn.py", _SMALL),
    "strong_gcn": Case("main_gcn.py", f"{_SMALL} --recipe strong --warmup 2"),
    "published_graph": Case("main_graph.py", _DETECTED),
    "strong_graph": Case("main_graph.py", f"{_DETECTED} --recipe strong --warmup 2"),
    "refinement": Case("main_graph.py", f"{_DETECTED} --post_refine"),
    "resumed": Case("main_gcn.py", f"{_SMALL} --ema 0.9", epochs=2, resume_at=1),
    "two_processes": Case("main_gcn.py", _SMALL, processes=2),
}


def outcome(folder: Path) -> dict[str, Tensor]:
    """What a run arrived at: every tensor of its networks after the last epoch, by its place in the
    checkpoint and its name, and the columns of the table."""
    last = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["results"]["last"]
    rows = [row for row in last["per_action"].values() if row["frames"]]
    table = {f"table {m}": torch.tensor([r[m] for r in rows]) for m in ("mpjpe_mm", "p_mpjpe_mm")}
    return table | _weights(folder / LAST)


def _weights(path: Path) -> dict[str, Tensor]:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    networks = {key: checkpoint[key] for key in ("state_dict", "post_refine") if key in checkpoint}
    networks |= {f"trained {key}": state for key, state in checkpoint.get("trained", {}).items()}
    return {f"{key} {n}": tensor for key, state in networks.items() for n, tensor in state.items()}


def train(checkout: Path, case: Case, folder: Path) -> dict[str, Tensor]:
    """Run a case in a checkout; gives its :func:`outcome`.

    Raises:
        UserError: the script failed.
    """
    launch = [sys.executable]
    if case.processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone"]
        launch += [f"--nproc_per_node={case.processes}"]
    data = ["--dataset_dir", str(ROOT / "dataset")]
    for flags in case.calls(folder):
        given = flags if "--resume" in flags else [*flags, *data]
        done = subprocess.run(
            [*launch, case.script, *given], cwd=checkout, capture_output=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, check=False,
        )  # fmt: skip
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
            raise UserError(f"{checkout}: {case.script} {' '.join(given)} failed: {said}")
    return outcome(folder)


def difference(old: dict[str, Tensor], new: dict[str, Tensor]) -> str | None:
    """The first values that are not the same bits, in words; None where all are."""
    if old.keys() != new.keys():
        return f"only one of them has {sorted(old.keys() ^ new.keys())[0]}"
    for name in old:
        if old[name].shape != new[name].shape:
            return f"{name}: {tuple(old[name].shape)} and {tuple(new[name].shape)}"
        if not torch.equal(old[name], new[name]):
            return f"{name}: by up to {(old[name] - new[name]).abs().max():.2e}"
    return None


def stored_form(found: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """An outcome as it is stored: of large tensors every 16th value, to keep the files small."""
    return {
        key: (t if t.numel() <= _LARGE else t.flatten()[::16]).numpy() for key, t in found.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD", help="a checkout of the repository")
    parser.add_argument("new", type=Path, metavar="NEW", help="another one")
    parser.add_argument(
        "--cases", type=lambda text: text.split(","), default=list(CASES), metavar="LIST",
        help=f"of {', '.join(CASES)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="store what NEW arrives at in DIR, an npz a case"
    )
    args = parser.parse_args(argv)
    for name in args.cases:
        if name not in CASES:
            parser.error(f"unknown case {name!r}: there are {', '.join(CASES)}")
    differing = []
    with tempfile.TemporaryDirectory() as folder:
        for name in tqdm(args.cases, "cases", unit="case", disable=None):
            sides = [
                train(checkout.resolve(), CASES[name], Path(folder, which, name))
                for which, checkout in (("old", args.old), ("new", args.new))
            ]
            found = difference(*sides)
            tqdm.write(f"{name}: {found or 'the same bits'}")
            if found:
                differing.append(name)
            if args.store:
                with atomic_write(args.store / f"{name}.npz") as partial:
                    np.savez_compressed(partial, **stored_form(sides[1]))
    if differing:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
