"""The steps that the scripts share, from data to report; each takes values, not flags."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import distributed, report
from common.camera import remove_distortion, solve_translation
from common.engine import (
    Predictor,
    Trainer,
    evaluate,
    fit,
    predict,
    restore_training_state,
    training_state,
)
from common.errors import UserError
from common.published import ModelFiles
from common.run import RESULTS, Run, write_json
from common.visualize import save_curves, save_poses
from data.datasets import DATASETS
from data.pose_dataset import PoseBatch, PoseDataset, PoseLoader, load_pose_datasets
from training.settings import current_settings

ROOT = Path(__file__).resolve().parents[1]
_PICTURED = 4


def evaluation_loader(dataset: PoseDataset) -> PoseLoader:
    """Batches for testing, of a size that changes no figure: on a CPU small enough for its cache,
    on a GPU large enough to keep it busy. Of several processes, each has a part."""
    batch_size = 512 if dataset.inputs_2d.device.type == "cpu" else 16384
    return PoseLoader(
        dataset, batch_size, rank=distributed.rank(), world_size=distributed.world_size()
    )


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
    if with_training and not info.subjects_train:
        raise UserError(f"{name} is for testing only: give --evaluate CKPT")
    splits = [info.subjects_train] * with_training + [info.subjects_test]
    folder = Path(dataset_dir) if dataset_dir else ROOT / "dataset"
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: --dataset_dir is that of the npz files")
    datasets = load_pose_datasets(info, folder, splits, **options)
    whole = options.get("actions") is None and options.get("downsample", 1) == 1
    for dataset, split in zip(datasets, ["train", "test"][-len(datasets) :], strict=True):
        verdict = f", {info.compare_with_protocol(split, len(dataset))}" if whole else ""
        print(f"{split}: {len(dataset):,} poses of {', '.join(dataset.subjects)}{verdict}")
        report.warn_of_missing(dataset)
    return [dataset.to(device) for dataset in datasets]


def check_results_file(path: str | None) -> None:
    """
    Raises:
        UserError: a file is there that holds no earlier results, and would be lost.
    """
    if path is None or not Path(path).exists():
        return
    try:
        is_ours = "results" in json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        is_ours = False
    if not is_ours:
        raise UserError(f"--results {path} is there and holds no results: give another name")


def report_checkpoint(
    readings: dict[str, Predictor],
    dataset: PoseDataset,
    path: str,
    checkpoint: dict[str, Any],
    header: dict[str, Any],
    results_file: str | None,
) -> None:
    """Test the loaded weights and print the table; write results.json where asked.

    Args:
        readings: the poses to test, by the title of their columns.
    """
    print(report.format_network(header))
    summaries = {
        title: evaluate(predictor, evaluation_loader(dataset))
        for title, predictor in readings.items()
    }
    trained_on = checkpoint.get("dataset", {}).get("name", "not recorded in the checkpoint")
    chosen_by = checkpoint.get("chosen_by", "not recorded in the checkpoint")
    epoch = checkpoint.get("epoch", "not recorded")
    note = f"mm. Epoch {epoch}, chosen by: {chosen_by}; trained on: {trained_on}."
    print(report.format_table(summaries, report.with_remark(note, header)))
    if results_file and distributed.is_main():
        origin = {"checkpoint": path, "epoch": epoch, "chosen_by": chosen_by}
        results = {title: origin | summary for title, summary in summaries.items()}
        write_json(Path(results_file), {**header, "trained_on": trained_on, "results": results})


def root_errors(predictor: Predictor, dataset: PoseDataset) -> dict[str, dict[str, float]]:
    """How far the root's place, solved from the predicted poses, lies from the truth.

    Mean absolute errors in mm, of the distance and along x, y and z of camera space; with the
    lens distortion taken out of the 2D joints first, and with it ignored.
    """
    errors: dict[str, list[Tensor]] = {"distortion_removed": [], "distortion_ignored": []}
    every_pose = replace(evaluation_loader(dataset), rank=0, world_size=1)
    for batch in every_pose.ordered_batches():
        pose = predict(predictor, batch)
        undistorted = remove_distortion(batch.inputs_2d, batch.intrinsics)
        for kind, uv in zip(errors, (undistorted, batch.inputs_2d), strict=True):
            found = solve_translation(pose, uv, batch.intrinsics)
            errors[kind].append(found - batch.root_3d)
    means = {}
    for kind, parts in errors.items():
        error = 1000 * torch.cat(parts)
        x, y, z = error.abs().mean(dim=0).tolist()
        means[kind] = {"distance": error.norm(dim=1).mean().item(), "x": x, "y": y, "z": z}
    return means


def open_run(
    path: str | None,
    checkpoint: dict[str, Any] | None,
    trainer: Trainer,
    options: dict[str, Any],
    description: dict[str, Any],
) -> Run:
    """A new run's folder, or that of the checkpoint to resume, whose state the trainer takes.

    Args:
        options: ``checkpoint`` (folder of runs or None), ``name``, ``snapshot``, ``epochs``.
        description: what every checkpoint says of itself.

    Raises:
        UserError: the folder cannot be made, or the checkpoint cannot be resumed.
    """
    parent = Path(options["checkpoint"]) if options["checkpoint"] else ROOT / "checkpoint"
    new = (parent, options["name"], description, options["snapshot"])
    if checkpoint is None:
        return Run.create(*new)
    left = options["epochs"] - checkpoint.get("epoch", 0)
    if left < 0 or (left == 0 and not _lacks_report(Path(path).parent, checkpoint)):
        raise UserError(f"{path} is at epoch {checkpoint['epoch']}: give --epochs a larger number")
    restore_training_state(trainer, path, checkpoint)
    _say_changes(current_settings(checkpoint.get("options", {})), description["options"])
    return Run.resume(Path(path), checkpoint, *new)


def _lacks_report(folder: Path, checkpoint: dict[str, Any]) -> bool:
    """Whether a run was cut off between its last epoch and its results."""
    is_run = bool(checkpoint.get("history")) and (folder / "options.json").is_file()
    return is_run and not (folder / RESULTS).exists()


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
    files: ModelFiles | None = None,
) -> None:
    """Train to the given epoch, then leave the table, results.json and the pictures.

    Args:
        files: keeps the best weights under their published names as well.
    """
    print(report.format_network(header))
    print(f"run folder: {run.folder}")
    try:
        test_loader = evaluation_loader(test_set)
        on_best = files.save if files and distributed.is_main() else None
        if run.untested:
            _test_resumed(trainer, run, test_loader, on_best)
        fit(trainer, run, train_loader, test_loader, epochs, on_best)
    except KeyboardInterrupt:
        if run.history:
            print(f"\nstopped; to go on: --resume {run.last_checkpoint}")
        raise
    if not distributed.is_main():
        return
    results = {"last": run.last, "best": run.best}
    titles = {f"{key}, epoch {result['epoch']}": result for key, result in results.items()}
    note = "mm. 'best' is the epoch with the lowest MPJPE on these very test subjects: a choice"
    note += "\nthat favours it. 'last' involves no choice."
    print(report.format_table(titles, report.with_remark(note, header)))
    trained_on = {"trained_on": header["dataset"], "seconds": run.seconds()}
    content = {**header, **trained_on, "results": results}
    for path in [run.folder / RESULTS, *([Path(results_file)] if results_file else [])]:
        write_json(path, content)
    save_curves(run.folder / "curves.png", run.history, run.best["epoch"])
    _save_poses(run.folder / "poses.png", trainer, test_set)
    print(f"results.json, log.csv, curves.png and poses.png are in {run.folder}")


def _test_resumed(
    trainer: Trainer,
    run: Run,
    test_loader: PoseLoader,
    on_best: Callable[[int, float], None] | None,
) -> None:
    """Test the weights that were resumed, the best so far, and save them as such."""
    file, lr = run.untested, trainer.optimizer.param_groups[0]["lr"]
    summary = evaluate(trainer, test_loader, what=f"testing {file.name}")
    run.start_from_file(lr, summary, training_state(trainer))
    if on_best:
        on_best(run.epoch, summary["mpjpe_mm"])
    print(report.format_resumed(file.name, run.epoch, summary, file.error), flush=True)


def _save_poses(path: Path, predictor: Predictor, dataset: PoseDataset) -> None:
    """A few test frames, spread evenly over the test set, with the last epoch's prediction."""
    index = torch.linspace(0, len(dataset) - 1, _PICTURED + 2)[1:-1].long().unique()
    index = index.to(dataset.inputs_2d.device)
    batch = PoseBatch(dataset, index)
    save_poses(
        path,
        batch.inputs_2d.cpu(),
        predict(predictor, batch).cpu(),
        batch.targets_3d.cpu(),
        [
            f"{dataset.sequences[sequence]}, camera {camera}"
            for sequence, camera in zip(
                dataset.sequence[index].tolist(), dataset.camera[index].tolist(), strict=True
            )
        ],
        dataset.skeleton,
    )
