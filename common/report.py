"""What a run says at its end: the table by action, and results.json."""

from typing import Any

import torch
from torch import nn

from data.pose_dataset import PoseDataset
from models.costs import count_multiply_adds, count_parameters

_TITLES = {
    "mpjpe_mm": "MPJPE",
    "p_mpjpe_mm": "P-MPJPE",
    "pck_percent": "PCK %",
    "auc_percent": "AUC %",
}
PUBLISHED_FORM = "joint 0 set to zero, nothing else moved"
# What a figure must not be read without, keys of its header.
REMARKS = ("root_depth", "intrinsics", "pan", "focal_scale")


def describe_data(dataset: PoseDataset, name: str, keypoints: str) -> dict[str, Any]:
    """What a result was measured on."""
    return {
        "dataset": name,
        "keypoints": keypoints,
        "joints": dataset.skeleton.num_joints,
        "test_subjects": list(dataset.subjects),
        "test_poses": len(dataset),
        "missing_sequences": list(dataset.missing),
        "protocol": (
            f"mm; root-centred; mean over {dataset.info.mean_over}; P-MPJPE after the best "
            "similarity transform of each pose, without reflection"
        ),
    }


def describe_network(
    arguments: dict[str, Any], network: nn.Module, refinement: nn.Module | None = None
) -> dict[str, Any]:
    """What was trained or tested: the arguments, and the costs of the networks together.

    Args:
        arguments: of ``models.build.build_model``.
        refinement: a ``PoseRefine`` on top.
    """
    one = torch.zeros(1, arguments["joints"], 1, device=next(network.parameters()).device)
    parameters = count_parameters(network)
    multiply_adds = count_multiply_adds(network, one.expand(-1, -1, arguments["in_dim"]))
    if refinement is not None:
        pose = one.expand(-1, -1, 3)
        parameters += count_parameters(refinement)
        multiply_adds += count_multiply_adds(refinement, pose, pose)
    return {"model": arguments, "parameters": parameters, "multiply_adds_a_pose": multiply_adds}


def format_network(header: dict[str, Any]) -> str:
    """The costs, and each setting that is not the published one of this model."""
    departures = header["departures"]
    if departures is None:
        settings = "settings not recorded in the checkpoint"
    else:
        differing = ", ".join(f"{key} {value}" for key, value in departures.items())
        settings = "published settings" + (f", but {differing}" if departures else "")
    return (
        f"{header['model']['name']}: {header['parameters']:,} parameters, "
        f"{header['multiply_adds_a_pose']:,} multiply-adds a pose\ntrained with: {settings}"
    )


def format_table(results: dict[str, dict[str, Any]], note: str) -> str:
    """A row an action, the metrics of each result side by side, the mean in all last; below it a
    line a result with its errors in the published code's form, if any result has them.

    Args:
        results: {title: summary of ``ActionErrors``}; the summaries share actions and metrics.
        note: a line below the table that says what was measured.
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


def with_remark(note: str, header: dict[str, Any]) -> str:
    """Add to a table's note what its figures depend on."""
    remarks = [header[key] for key in REMARKS if header.get(key)]
    if header.get("flip_test"):
        remarks.append("poses are means with their mirrored twins (--flip_test)")
    return "\n".join([note, *(f"{remark}." for remark in remarks)])


def format_root_errors(errors: dict[str, dict[str, float]]) -> str:
    """The lines of ``common.workflow.root_errors``."""
    return "\n".join(
        f"root position error in mm, {kind.replace('_', ' ')}: {error['distance']:.1f} "
        f"(x {error['x']:.1f}, y {error['y']:.1f}, z {error['z']:.1f})"
        for kind, error in errors.items()
    )


def warn_of_missing(dataset: PoseDataset) -> None:
    """Say which sequences of the protocol the files do not have: results do not compare then."""
    if dataset.missing:
        print(f"warning: sequences are missing: {'; '.join(dataset.missing)}")
