"""The steps that the scripts share, from data to report; each takes values, not flags."""

from pathlib import Path
from typing import Any

import torch

from common import report
from common.engine import Trainer, evaluate, fit, predict, restore_training_state
from common.errors import UserError
from common.run import Run, write_json
from common.visualize import save_curves, save_poses
from data.datasets import DATASETS
from data.pose_dataset import PoseDataset, PoseLoader, load_pose_datasets

ROOT = Path(__file__).resolve().parents[1]
_PICTURED = 4


def evaluation_loader(dataset: PoseDataset) -> PoseLoader:
    """Batches for testing, of a size that changes no figure: on a CPU small enough for its cache,
    on a GPU large enough to keep it busy."""
    return PoseLoader(dataset, batch_size=512 if dataset.inputs_2d.device.type == "cpu" else 16384)


def load_data(
    name: str, with_training: bool, device: torch.device, dataset_dir: str | None, **options: Any
) -> list[PoseDataset]:
    """The test set of a data set, after its training set if wanted, on the device.

    Args:
        dataset_dir: folder of the npz files; None is ``dataset/`` beside the scripts.
        options: of ``load_pose_datasets``.

    Raises:
        UserError: see ``load_pose_datasets``.
    """
    info = DATASETS[name]
    splits = [info.subjects_train] * with_training + [info.subjects_test]
    folder = Path(dataset_dir) if dataset_dir else ROOT / "dataset"
    datasets = load_pose_datasets(info, folder, splits, **options)
    for dataset, use in zip(datasets, ["training", "test"][-len(datasets) :], strict=True):
        print(f"{use}: {len(dataset):,} poses of {', '.join(dataset.subjects)}")
        report.warn_of_missing(dataset)
    return [dataset.to(device) for dataset in datasets]


def report_checkpoint(
    trainer: Trainer,
    dataset: PoseDataset,
    path: str,
    checkpoint: dict[str, Any],
    header: dict[str, Any],
    results_file: str | None,
) -> None:
    """Test the loaded weights and print the table; write results.json where asked."""
    summary = evaluate(trainer, evaluation_loader(dataset))
    trained_on = checkpoint.get("dataset", {}).get("name", "not recorded in the checkpoint")
    chosen_by = checkpoint.get("chosen_by", "not recorded in the checkpoint")
    epoch = checkpoint.get("epoch", "unknown")
    note = f"mm. Epoch {epoch}, chosen by: {chosen_by}; trained on: {trained_on}."
    print(report.format_table({Path(path).name[:17]: summary}, note))
    if results_file:
        result = {"checkpoint": path, "epoch": epoch, "chosen_by": chosen_by, **summary}
        content = {**header, "trained_on": trained_on, "results": {"evaluated": result}}
        write_json(Path(results_file), content)


def open_run(
    path: str | None,
    checkpoint: dict[str, Any] | None,
    trainer: Trainer,
    parent: str | None,
    name: str | None,
    description: dict[str, Any],
    snapshot: int,
    epochs: int,
) -> Run:
    """A new run's folder, or that of the checkpoint to resume, whose state the trainer takes.

    Raises:
        UserError: the folder cannot be made, or the checkpoint cannot be resumed.
    """
    folder = Path(parent) if parent else ROOT / "checkpoint"
    if checkpoint is None:
        return Run.create(folder, name, description, snapshot)
    if epochs <= checkpoint.get("epoch", 0):
        raise UserError(f"{path} is at epoch {checkpoint['epoch']}: give --epochs a larger number")
    restore_training_state(trainer, path, checkpoint)
    _say_changes(checkpoint.get("options", {}), description["options"])
    return Run.resume(Path(path), checkpoint, description, snapshot, folder, name)


def _say_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    changes = [
        f"{key} {before[key]} -> {now[key]}" for key in before if before[key] != now.get(key)
    ]
    if changes:
        print(f"resuming with changed settings: {', '.join(changes)}")


def train(
    trainer: Trainer,
    run: Run,
    train_loader: PoseLoader,
    test_set: PoseDataset,
    epochs: int,
    header: dict[str, Any],
    results_file: str | None,
) -> None:
    """Train to the given epoch, then leave the table, results.json and the pictures."""
    print(f"run folder: {run.folder}")
    try:
        fit(trainer, run, train_loader, evaluation_loader(test_set), epochs)
    except KeyboardInterrupt:
        if run.history:
            print(f"\nstopped; to go on: --resume {run.last_checkpoint}")
        raise
    results = {"last": run.last, "best": run.best}
    titles = {f"{key}, epoch {result['epoch']}": result for key, result in results.items()}
    note = "mm. 'best' is the epoch with the lowest MPJPE on these very test subjects: a choice"
    note += "\nthat favours it. 'last' involves no choice."
    print(report.format_table(titles, note))
    trained_on = {"trained_on": header["dataset"], "seconds": run.seconds()}
    content = {**header, **trained_on, "results": results}
    for path in [run.folder / "results.json", *([Path(results_file)] if results_file else [])]:
        write_json(path, content)
    save_curves(run.folder / "curves.png", run.history, run.best["epoch"])
    _save_poses(run.folder / "poses.png", trainer, test_set)
    print(f"results.json, log.csv, curves.png and poses.png are in {run.folder}")


def _save_poses(path: Path, trainer: Trainer, dataset: PoseDataset) -> None:
    """A few test frames, spread evenly over the test set, with the last epoch's prediction."""
    index = torch.linspace(0, len(dataset) - 1, _PICTURED + 2)[1:-1].long().unique()
    batch = dataset.batch(index := index.to(dataset.inputs_2d.device))
    save_poses(
        path,
        batch.inputs_2d.cpu(),
        predict(trainer, batch).cpu(),
        batch.targets_3d.cpu(),
        [
            f"{dataset.sequences[sequence]}, camera {camera}"
            for sequence, camera in zip(
                dataset.sequence[index].tolist(), dataset.camera[index].tolist(), strict=True
            )
        ],
        dataset.skeleton,
    )
