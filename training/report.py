"""What a run says at its end: the table by action, and results.json."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.camera import remove_distortion, solve_translation
from common.errors import UserError
from common.files import check_writable
from common.metrics import root_centred
from common.own_json import marked, refuse_other_json, to_json, write_json
from common.visualize import save_curves, save_poses
from data.noise import PIXEL
from data.pose_dataset import PoseBatch, PoseDataset, PoseLoader
from models.costs import count_multiply_adds, count_parameters
from training import distributed
from training.checkpoint import Source
from training.engine import Training, evaluate
from training.find_run import CURVES, POSES, POSES_BY_ERROR, RESULTS, runs_folder
from training.known_at_test import KnownAtTest
from training.lifter import SCREEN_SIGMAS, Lifter
from training.load_data import evaluation_loader
from training.pictures import draw_by_error, picture_beside, title_of
from training.run_folder import RunFolder
from training.training_state import training_state

_TITLES = {
    "mpjpe_mm": "MPJPE",
    "p_mpjpe_mm": "P-MPJPE",
    "pck_percent": "PCK %",
    "auc_percent": "AUC %",
}
PUBLISHED_FORM = "joint 0 set to zero, nothing else moved"
# Fields of a header that a figure must not be read without.
REMARKS = (
    "root_depth", "intrinsics", "joints_of", "pan", "focal_scale", "camera_height_error",
    "keypoint_noise", "noise_told", "ray_fit", "known",
)  # fmt: skip
RESULTS_KIND = "results"
_KEYS_OF_RESULTS = ("model", "protocol", "results")
_PICTURED = 4


@dataclass
class Header:
    """What a table and a results file are of: the data, the network, and how it was tested.

    Attributes:
        parameters, multiply_adds_a_pose: of all networks together.
        departures: settings of the training that are not the published ones; None where a
            checkpoint does not record them.
        intrinsics, root_depth, joints_of, pan, focal_scale, camera_height_error, keypoint_noise,
            noise_told, ray_fit: remarks on what the figures depend on.
        known, bodies: of ``KnownAtTest``: its remark, and the persons.
        root_position_error_mm: of ``root_errors``.
    """

    dataset: str
    keypoints: str
    joints: int
    test_subjects: list[str]
    test_poses: int
    missing_sequences: list[str]
    protocol: str
    model: dict[str, Any]
    parameters: int
    multiply_adds_a_pose: int
    departures: dict[str, Any] | None
    flip_test: bool
    root_depth: str | None = None
    intrinsics: str | None = None
    joints_of: str | None = None
    pan: str | None = None
    focal_scale: str | None = None
    camera_height_error: str | None = None
    keypoint_noise: str | None = None
    noise_told: str | None = None
    ray_fit: str | None = None
    known: str | None = None
    bodies: dict[str, dict[str, Any]] | None = None
    root_position_error_mm: dict[str, dict[str, float]] | None = None

    def content(self) -> dict[str, Any]:
        """As the results file has it: remarks that there are none of are left out."""
        always = ("departures", "intrinsics")
        return {k: v for k, v in vars(self).items() if v is not None or k in always}

    def remarks(self) -> list[str]:
        found = [getattr(self, key) for key in REMARKS if getattr(self, key)]
        if self.flip_test:
            found.append("poses are means with their mirrored twins (--flip_test)")
        return found


def describe(
    lifter: Lifter, test_set: PoseDataset, keypoints: str, departures: dict[str, Any] | None
) -> Header:
    """The header of the tables of a network on a test set.

    Args:
        keypoints: whose 2D joints.
        departures: of ``training.settings.departures``.
    """
    parameters, multiply_adds = _costs(lifter)
    pixels = lifter.input_sigma / PIXEL
    root_depth = "ground-truth root depth" if lifter.true_root_depth else (
        "root depth estimated from the prediction"
    )  # fmt: skip
    return Header(
        dataset=test_set.info.name,
        keypoints=keypoints,
        joints=test_set.skeleton.num_joints,
        test_subjects=list(test_set.subjects),
        test_poses=len(test_set),
        missing_sequences=list(test_set.missing),
        protocol=(
            f"mm; root-centred; mean over {test_set.info.mean_over}; P-MPJPE after the best "
            "similarity transform of each pose, without reflection"
        ),
        model=lifter.arguments,
        parameters=parameters,
        multiply_adds_a_pose=multiply_adds,
        departures=departures,
        flip_test=lifter.flip_test,
        root_depth=f"refinement uses {root_depth}" if lifter.post_refine else None,
        intrinsics="the network is given rays, made with the cameras' intrinsics"
        if lifter.input_view.uses_intrinsics
        else None,
        noise_told=f"the network is told that 2D joints are off by {pixels:.3g} px at width 1,000"
        if lifter.told.noise
        else None,
    )


def ray_fit_remark(lifter: Lifter, keypoints: str) -> str:
    """What ``--ray_fit`` does with the tested poses.

    Args:
        keypoints: whose 2D joints.
    """
    sigma = lifter.screen_sigma
    if sigma is None:
        known = " and ".join(SCREEN_SIGMAS)
        return (
            f"poses are left as they are: --ray_fit gains with {known} only, the 2D joints of "
            f"{keypoints} are not known to be exact enough"
        )
    if not lifter.fits:
        most = lifter.largest_fitted_sigma / PIXEL
        return (
            f"poses are left as they are: the 2D joints are off by {sigma / PIXEL:.3g} px at width "
            f"1,000, and --ray_fit gains up to {most:.3g} px with this network"
        )
    fitted = "the network's poses and the refined ones, each," if lifter.post_refine else "poses"
    noise = f", with an error of the 2D joints of {sigma / PIXEL:.3g} px at width 1,000"
    return f"{fitted} are fitted to the rays (--ray_fit)" + (noise if sigma else "")


def _costs(lifter: Lifter) -> tuple[int, int]:
    """Parameters, and multiply-adds a pose, of all networks together."""
    one = torch.zeros(1, lifter.arguments["joints"], 1)
    one = one.to(next(lifter.network.parameters()).device)
    parameters = sum(count_parameters(network) for network in lifter.networks().values())
    inputs = one.expand(-1, -1, lifter.in_dim)
    multiply_adds = count_multiply_adds(lifter.network, inputs)
    if lifter.post_refine:
        pose = one.expand(-1, -1, 3)
        multiply_adds += count_multiply_adds(lifter.post_refine, pose, pose)
    return parameters, multiply_adds


def format_network(header: Header) -> str:
    """The costs, and each setting that is not the published one of this model."""
    if header.departures is None:
        settings = "settings not recorded in the checkpoint"
    else:
        differing = ", ".join(f"{key} {value}" for key, value in header.departures.items())
        settings = "published settings" + (f", but {differing}" if header.departures else "")
    together = " with refinement" if header.root_depth else ""
    return (
        f"{header.model['name']}{together}: {header.parameters:,} parameters, "
        f"{header.multiply_adds_a_pose:,} multiply-adds a pose\ntrained with: {settings}"
    )


def format_epoch(row: dict[str, Any], epochs: int) -> str:
    """A line on an epoch, a row of the log."""
    count = row.get("skipped_steps", 0)
    skipped = f", {count} {'step' if count == 1 else 'steps'} skipped" if count else ""
    return (
        f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.6f}  MPJPE {row['mpjpe_mm']:.2f} mm  "
        f"P-MPJPE {row['p_mpjpe_mm']:.2f} mm  ({row['train_seconds']:.0f} s training, "
        f"{row['test_seconds']:.0f} s testing{skipped})"
    )


def format_table(results: dict[str, dict[str, Any]], note: str, remarks: Sequence[str] = ()) -> str:
    """A row an action, the metrics of each result side by side, the mean in all last; below it a
    line a result with its errors in the published code's form, if any result has them.

    Args:
        results: {title: summary of ``ActionErrors``}; the summaries share actions and metrics.
        note: a line below the table that says what was measured.
        remarks: more lines, on what the figures depend on.
    """
    first = next(iter(results.values()))
    metrics = [metric for metric in _TITLES if metric in first]
    last = f"Mean of {first['mean_over']}"
    width = max(len(action) for action in [*first["per_action"], last])

    def line(name: str, rows: list[dict[str, Any]]) -> str:
        figures = "".join(f"  {_figure(row[metric])}" for row in rows for metric in metrics)
        return f"{name:{width}}{figures}  {rows[0]['frames']:>8,}"

    names = "".join(f"  {_TITLES[metric]:>8}" for metric in metrics)
    group = 10 * len(metrics) - 2
    titles = "".join(f"  {title:^{group}}" for title in results)
    head = f"{'Action':{width}}{names * len(results)}  {'poses':>8}"
    rule = "-" * len(head)
    body = [
        line(action, [result["per_action"][action] for result in results.values()])
        for action in first["per_action"]
    ]
    total = line(last, list(results.values()))
    published = _published_lines(results)
    lines = [f"{'':{width}}{titles}", head, rule, *body, rule, total, *published, note]
    lines += [f"{remark}." for remark in remarks]
    return "\n".join(line.rstrip() for line in lines)


def _published_lines(results: dict[str, dict[str, Any]]) -> list[str]:
    """Summaries of older versions of this program have no such errors."""
    if not any("published_form" in result for result in results.values()):
        return []
    lines = []
    for title, result in results.items():
        found = result.get("published_form")
        figures = f"{found['mpjpe_mm']:.2f} / {found['p_mpjpe_mm']:.2f}" if found else "-"
        whose = f"{title}, " if len(results) > 1 else ""
        lines.append(f"{whose}as the published code computes it: {figures} ({PUBLISHED_FORM})")
    return lines


def format_resumed(name: str, epoch: int, summary: dict[str, Any], error: float | None) -> str:
    """The errors of a file before its training goes on.

    Args:
        summary: of its test.
        error: what the file itself says.
    """
    lines = [
        f"{name}, epoch {epoch}, tested before it goes on: MPJPE {summary['mpjpe_mm']:.2f} mm  "
        f"P-MPJPE {summary['p_mpjpe_mm']:.2f} mm"
    ]
    if found := summary.get("published_form"):
        means = found["over_frames"]
        figures = f"{means['mpjpe_mm']:.4f} / {means['p_mpjpe_mm']:.4f}"
        lines.append(f"as the published code computes it, mean over frames: {figures}")
    if error is not None:
        own = "its own figure; in a published file, of the published form and a mean over frames"
        lines.append(f"the file says {error:.4f}: {own}")
    return "\n  ".join(lines)


def _figure(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:8.2f}"


def format_root_errors(errors: dict[str, dict[str, float]]) -> str:
    """The lines of :func:`root_errors`."""
    return "\n".join(
        f"root position error in mm, {kind.replace('_', ' ')}: {error['distance']:.1f} "
        f"(x {error['x']:.1f}, y {error['y']:.1f}, z {error['z']:.1f})"
        for kind, error in errors.items()
    )


def report_test(
    poses_of: dict[str, Callable[[PoseBatch], Tensor]],
    test_set: PoseDataset,
    source: Source,
    header: Header,
    results_file: str | None,
    drawn: int = 0,
    known: KnownAtTest | None = None,
) -> None:
    """Test the weights of a checkpoint, print the table, and write a results file where asked.

    Args:
        poses_of: the functions that give the poses to test, by the title of their columns.
        drawn: so many best, median and worst poses of the last of them are drawn.
        known: of the test set.
    """
    if known:
        poses_of = known.all_told(poses_of)
        header = replace(header, known=known.remark, bodies=known.bodies)
    print(format_network(header))
    print(f"tested on: {header.dataset}, keypoints {header.keypoints}")
    summaries = {
        title: evaluate(pose_of, evaluation_loader(test_set)) for title, pose_of in poses_of.items()
    }
    checkpoint = source.checkpoint
    trained_on = checkpoint.get("dataset", {}).get("name", "not recorded in the checkpoint")
    if actions := checkpoint.get("options", {}).get("actions"):
        trained_on += f", actions {','.join(actions) if isinstance(actions, list) else actions}"
    chosen_by = checkpoint.get("chosen_by", "not recorded in the checkpoint")
    epoch = checkpoint.get("epoch", "not recorded")
    note = f"mm. Epoch {epoch}, chosen by: {chosen_by}; trained on: {trained_on}."
    print(format_table(summaries, note, header.remarks()))
    if results_file and distributed.is_main():
        origin = {"checkpoint": source.path, "epoch": epoch, "chosen_by": chosen_by}
        results = {title: origin | summary for title, summary in summaries.items()}
        content = {**header.content(), "trained_on": trained_on, "results": results}
        write_json(Path(results_file), marked(RESULTS_KIND, content))
    if drawn and distributed.is_main():
        picture = picture_beside(source.path)
        draw_by_error(picture, [*poses_of.values()][-1], test_set, drawn)
        print(f"{picture}: {drawn} best, median and worst poses")


def test_resumed_file(
    run: RunFolder,
    training: Training,
    pose_of: Callable[[PoseBatch], Tensor],
    loader: PoseLoader,
) -> None:
    """Test the weights of a file that does not say what its best is, before its training goes on:
    they are the best so far, and are saved as such."""
    file, lr = run.untested, training.optimizer.param_groups[0]["lr"]
    summary = evaluate(pose_of, loader, what=f"testing {file.name}")
    run.start_from_file(lr, summary, training_state(training))
    print(format_resumed(file.name, run.epoch, summary, file.error), flush=True)


def report_training(
    run: RunFolder,
    pose_of: Callable[[PoseBatch], Tensor],
    test_set: PoseDataset,
    header: Header,
    results_file: str | None,
    drawn: int = 0,
    known: KnownAtTest | None = None,
) -> None:
    """Print the table of a finished training; leave its results and pictures in its folder.

    Args:
        pose_of: a batch -> the poses of the last epoch's network as they are tested.
        results_file: another place for the results.
        drawn: so many best, median and worst poses are drawn.
        known: of the test set: the last epoch's network is tested with it too, in a table and
            results of its own.

    Raises:
        UserError: a file of the run could not be written, also one of its last epoch.
    """
    more = {}
    if known:
        told = known.all_told({"last": pose_of})
        told = {title: evaluate(of, evaluation_loader(test_set)) for title, of in told.items()}
        of_known = {"known": known.remark, "bodies": known.bodies, "results": told}
        more = {"known_at_test": of_known}
    if not distributed.is_main():
        return
    run.discard_step()  # that of the last epoch is left where a run was killed at its end
    results = {"last": run.last, "best": run.best}
    titles = {f"{key}, epoch {result['epoch']}": result for key, result in results.items()}
    note = "mm. 'best' is the epoch with the lowest MPJPE on these very test subjects: a choice"
    note += "\nthat favours it. 'last' involves no choice."
    trained_on = {"trained_on": header.dataset, "seconds": run.seconds()}
    content = {**header.content(), **trained_on, "results": results, **more}
    elsewhere = [Path(results_file)] if results_file else []
    failure = None
    try:
        save_curves(run.folder / CURVES, run.history, run.best["epoch"])
        _draw_poses(run.folder / POSES, pose_of, test_set)
        if drawn:
            draw_by_error(run.folder / POSES_BY_ERROR, pose_of, test_set, drawn)
    except UserError as error:
        failure = error
    written = to_json(marked(RESULTS_KIND, content))  # after the pictures: their absence shows
    run.save_at(dict.fromkeys([run.folder / RESULTS, *elsewhere], written))
    print(format_table(titles, note, header.remarks()))  # last, since who reads may close the pipe
    if known:
        print(format_table(told, "mm. The last epoch's network.", [known.remark]))
    run.files.check_saved()
    if failure:
        raise failure
    print(f"results.json, log.csv, curves.png and poses.png are in {run.folder}")


def _draw_poses(path: Path, pose_of: Callable[[PoseBatch], Tensor], test_set: PoseDataset) -> None:
    """Draw a few test frames, spread evenly over the test set."""
    index = torch.linspace(0, len(test_set) - 1, _PICTURED + 2)[1:-1].long().unique()
    index = index.to(test_set.inputs_2d.device)
    batch = test_set.batch(index)
    titles = [title_of(test_set, pose) for pose in index.tolist()]
    poses = root_centred(pose_of(batch)).cpu()
    targets = batch.targets_3d.cpu()
    inputs, up = batch.inputs_2d.cpu(), batch.up.cpu()
    save_poses(path, inputs, poses, targets, titles, test_set.skeleton, up)


def root_errors(
    pose_of: Callable[[PoseBatch], Tensor], test_set: PoseDataset
) -> dict[str, dict[str, float]]:
    """How far the root's place, solved from the predicted poses, lies from the truth.

    Mean absolute errors in mm, of the distance and along x, y and z of camera space; with the
    lens distortion taken out of the 2D joints first, and with it ignored.
    """
    errors: dict[str, list[Tensor]] = {"distortion_removed": [], "distortion_ignored": []}
    every_pose = replace(evaluation_loader(test_set), rank=0, world_size=1)
    for batch in every_pose.ordered_batches():
        pose = root_centred(pose_of(batch))
        undistorted = remove_distortion(batch.inputs_2d, batch.intrinsics)
        for kind, uv in zip(errors, (undistorted, batch.inputs_2d), strict=True):
            errors[kind].append(solve_translation(pose, uv, batch.intrinsics) - batch.root_3d)
    means = {}
    for kind, parts in errors.items():
        error = 1000 * torch.cat(parts)
        x, y, z = error.abs().mean(dim=0).tolist()
        means[kind] = {"distance": error.norm(dim=1).mean().item(), "x": x, "y": y, "z": z}
    return means


def check_outputs(args: argparse.Namespace, trains: bool) -> None:
    """Refuse, before anything is read, what could not be written at the end.

    Raises:
        UserError: ``--results`` names a file that is not ours, or a folder cannot be written.
    """
    if not distributed.is_main():
        return
    folders = []
    if args.draw and not trains:
        picture = picture_beside(args.evaluate or args.previous_dir)
        if picture.exists():
            raise UserError(f"{picture} exists: --draw does not replace it, move it away")
        folders.append(picture.parent)
    if args.results:
        refuse_other_json(Path(args.results), RESULTS_KIND, _KEYS_OF_RESULTS)
        folders.append(Path(args.results).parent)
    if trains:
        saved = getattr(args, "save_dir", None) if getattr(args, "save_model", 0) else None
        folders += [
            runs_folder(args.checkpoint),
            *map(Path, filter(None, (saved, args.fallback_dir))),
        ]
    for folder in folders:
        check_writable(folder)
