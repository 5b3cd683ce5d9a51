"""Two processes on the CPU that are joined as torchrun joins them, but start sooner.

A process is ``python -m tests.two_processes WHAT FOLDER``, of :func:`as_one_of_two`, or ``python -m
tests.faults.child SCRIPT FLAGS``, which runs a script without its pictures.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from torch.distributed import TCPStore

from common.errors import UserError, run_script
from common.losses import pose_loss
from common.skeleton import H36M_16
from data.datasets import H36M
from data.pose_dataset import PoseLoader, load_pose_datasets
from models.build import build_model
from training import distributed
from training.engine import Position, Training, evaluate, train_one_epoch

ROOT = Path(__file__).resolve().parents[1]
# Parts of 7 and 6 poses, and a last batch of 3 to share; then one of a single pose.
BATCH_SIZES = (13, 191)
_PATIENCE = 300  # seconds; only for what hangs


def run_two(*arguments: object, fault: str = "", rank: int = 0) -> list[tuple[int, str, str]]:
    """(exit status, stdout, stderr) of each process, with a store that outlives them, but with
    nobody to end them.

    Args:
        fault: of a script, in the process of this rank, see ``tests.faults.child``.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
           "TORCHELASTIC_USE_AGENT_STORE": "True", "OMP_NUM_THREADS": "1",
           "FAULT": fault, "FAULT_RANK": str(rank)}  # fmt: skip
    is_script = str(arguments[0]).endswith(".py")
    module = "tests.faults.child" if is_script else "tests.two_processes"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **job, "RANK": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    return finish(processes)


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """(exit status, stdout, stderr) of each; a job that hangs fails the test."""
    try:
        said = [process.communicate(timeout=_PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.terminate()  # torchrun then ends its own processes
    return [(p.returncode, *texts) for p, texts in zip(processes, said, strict=True)]


def words_of_ours(err: str) -> list[str]:
    """The program's own warnings and errors: what torch says on a busy machine is none."""
    return [line for line in err.splitlines() if line.startswith(("warning:", "error:"))]


def train_a_little(folder: Path) -> dict:
    """Two epochs, as one process or as one of several; gives the weights and what was measured."""
    (dataset,) = load_pose_datasets(H36M, folder, [H36M.subjects_test], H36M_16)
    torch.manual_seed(distributed.rank())  # the processes start with different weights
    if distributed.is_main():
        torch.manual_seed(3)
    model = build_model(
        {"joints": 16, "hid_dim": 8, "num_layers": 1, "non_local": "grouped", "dropout": 0.0}
    )
    networks = {"state_dict": model}

    def loss(batch):
        return pose_loss(model(batch.inputs_2d), batch.targets_3d, "mse", 0.1)

    training = Training(
        networks=networks,
        loss=distributed.with_averaged_gradients([model], loss),
        # Plain descent: Adam blows rounding up where a gradient is zero.
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        rate=lambda step, epoch: 0.05,
        max_norm=1.0,
    )
    found = {"losses": [], "errors": []}
    for epoch, batch_size in enumerate(BATCH_SIZES, 1):
        loader = PoseLoader(
            dataset, batch_size, rank=distributed.rank(), world_size=distributed.world_size()
        )
        found["losses"].append(train_one_epoch(training, loader, Position(epoch, 0)).loss)
        with torch.no_grad():
            found["errors"].append(evaluate(lambda b: model.eval()(b.inputs_2d), loader))
    found["weights"] = model.state_dict()
    return found


def as_one_of_two() -> None:
    """What each of the two processes does."""
    what, *flags = sys.argv[1:]
    folder, rank = Path(flags[0]), distributed.rank()
    print(f"rank {rank} joined", flush=True)
    if what == "train":
        torch.save(train_a_little(folder / "dataset"), folder / f"rank{rank}.pt")
        return
    total = torch.ones(3)
    distributed.add_up(total)
    if what == "all raise" or (what == "one raises" and rank == 1):
        raise UserError("the file of 3D poses is damaged")
    if what == "one dies" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(1000):
        distributed.add_up(total)


if __name__ == "__main__":
    run_script(distributed.as_process_of_job(as_one_of_two))
