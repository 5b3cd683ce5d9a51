"""What a run says at its end: the table by action, and results.json."""

from typing import Any

from data.pose_dataset import PoseDataset

_METRICS = {"mpjpe_mm": "MPJPE", "p_mpjpe_mm": "P-MPJPE"}


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
            "mm; root-centred; mean over actions of the mean over each action's poses; P-MPJPE "
            "after the best similarity transform of each pose, without reflection"
        ),
    }


def format_table(results: dict[str, dict[str, Any]], note: str) -> str:
    """A row an action, both protocols in mm for each result, the mean of actions last.

    Args:
        results: {title: summary of ``ActionErrors``}; the summaries share their actions.
        note: a line below the table that says what was measured.
    """
    first = next(iter(results.values()))
    width = max(len(action) for action in [*first["per_action"], "Mean of actions"])
    titles = "".join(f"  {title:^17}" for title in results)
    names = "  " + "  ".join(f"{name:>8}" for name in _METRICS.values())
    lines = [
        f"{'':{width}}{titles}",
        f"{'Action':{width}}{names.rstrip() * len(results)}  {'poses':>8}",
    ]
    rule = "-" * len(lines[1])
    lines.append(rule)
    for action, row in first["per_action"].items():
        rows = [result["per_action"][action] for result in results.values()]
        lines.append(f"{action:{width}}{_figures(rows)}  {row['frames']:>8,}")
    lines += [
        rule,
        f"{'Mean of actions':{width}}{_figures(list(results.values()))}  {first['frames']:>8,}",
        note,
    ]
    return "\n".join(line.rstrip() for line in lines)


def with_remark(note: str, header: dict[str, Any]) -> str:
    """Add to a table's note what a figure must not be read without."""
    remark = header.get("root_depth")
    return f"{note}\n{remark}." if remark else note


def _figures(rows: list[dict[str, Any]]) -> str:
    values = [row[metric] for row in rows for metric in _METRICS]
    return "".join("  " + ("       -" if value is None else f"{value:8.2f}") for value in values)


def warn_of_missing(dataset: PoseDataset) -> None:
    """Say which sequences of the protocol the files do not have: results do not compare then."""
    if dataset.missing:
        print(f"warning: sequences are missing: {'; '.join(dataset.missing)}")
