"""A step whose loss or gradient is not finite: what is saved of it, and its likely cause."""

from training import distributed
from training.checkpoint import save_checkpoint
from training.engine import NotFiniteError, Training
from training.find_run import LAST, NOT_FINITE, STEP
from training.run_folder import RunFolder
from training.training_state import training_state


def report_not_finite(error: NotFiniteError, run: RunFolder, training: Training) -> str:
    """Save what reproduces the step in the run's folder, ``not_finite_step_N.pth.tar``.

    It is a checkpoint with the weights and the optimiser's state, and under the key "before_step"
    the batch (indices, flips, joints, what was told) and the random state before its loss.

    Returns:
        One line: what happened, where it is saved, how to go on, and what most likely caused it.
    """
    path = run.folder / f"{NOT_FINITE}{error.at.step}.pth.tar"
    if distributed.is_main():
        batch = {key: value for key, value in vars(error.batch).items() if value is not None}
        if error.batch.known:
            batch["known"] = {k: v for k, v in vars(error.batch.known).items() if v is not None}
        before = {**vars(error.at), "batch": batch, "random_state": error.random_state}
        state = {**vars(run.description), **training_state(training), "before_step": before}
        save_checkpoint(path, state)
    newest = next((name for name in (STEP, LAST) if (run.folder / name).is_file()), None)
    remedy = f"; --resume {run.folder / newest} goes on before it" if newest else ""
    return (
        f"{error}; {path} holds its batch, weights and random state{remedy}; "
        f"most likely: {_likely_cause(error, training)}"
    )


def _likely_cause(error: NotFiniteError, training: Training) -> str:
    batch = error.batch
    if not (batch.inputs_2d.isfinite().all() and batch.targets_3d.isfinite().all()):
        return "the poses of this batch are not finite (--augment, --dataset)"
    rate = training.rate(error.at.step, error.at.epoch)
    causes = [f"the learning rate is too high, lower --lr (now {rate:g})"]
    if training.max_norm is None:
        causes.append("gradients are not clipped, add --max_norm 1")
    if training.amp:
        causes.append("bfloat16 is not exact enough, leave out --amp")
    return "; or ".join(causes)
