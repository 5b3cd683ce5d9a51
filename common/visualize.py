"""Plots of errors, adjacencies and poses, written to files."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.clip import Clip
from common.draw import DPI, LEFT, MIDDLE, RIGHT, Still, sheet
from common.errors import UserError
from common.files import atomic_write
from common.skeleton import Skeleton

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FORMATS = (".png", ".pdf", ".svg", ".jpg")


def check_picture_name(flag: str, path: str | Path) -> None:
    """Check the suffix of an output file.

    Raises:
        UserError: it is not that of a supported image format.
    """
    if Path(path).suffix not in _FORMATS:
        raise UserError(f"{flag} {path}: give a name that ends in {', '.join(_FORMATS)}")


def save_curves(path: Path, history: Sequence[dict[str, Any]], best_epoch: int) -> None:
    """Plot the training loss and both test errors (mm) over the epochs.

    Args:
        history: the rows of ``log.csv``.
        best_epoch: marked by a vertical line.
    """
    figure = _new_figure(figsize=(10, 4), layout="constrained")
    loss_axes, error_axes = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    loss_axes.plot(epochs, [row["loss"] for row in history], marker=".")
    loss_axes.set(title="Training loss (log scale)", xlabel="epoch", yscale="log")
    for metric, label in (("mpjpe_mm", "MPJPE"), ("p_mpjpe_mm", "P-MPJPE")):
        error_axes.plot(epochs, [row[metric] for row in history], marker=".", label=label)
    error_axes.axvline(best_epoch, color="0.7", linestyle=":", label="best on test subjects")
    error_axes.set(title="Test error (mm)", xlabel="epoch")
    error_axes.set_ylim(bottom=0)
    error_axes.legend()
    for axes in (loss_axes, error_axes):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    _save(figure, path)


def save_comparison(path: Path, rows: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Plot the errors of each row of a sweep: a dot for each run, a bar at the mean.

    Args:
        rows: {row: {metric: values of its runs in mm}}; a row without runs stays empty.
    """
    metrics = list(dict.fromkeys(metric for values in rows.values() for metric in values))
    figure = _new_figure(figsize=(10, 1 + 0.3 * len(rows)), layout="constrained")
    for axes, metric in zip(
        figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0], metrics, strict=True
    ):
        for place, values in enumerate(rows.values()):
            runs = values[metric]
            axes.plot(runs, [place] * len(runs), "o", color="tab:blue", alpha=0.5, markersize=4)
            if runs:
                axes.plot(sum(runs) / len(runs), place, "|", color="black", markersize=14)
        axes.set(title=f"{metric} (mm)", yticks=range(len(rows)), yticklabels=list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)  # the first row on top
        axes.grid(alpha=0.3)
    _save(figure, path)


def save_adjacencies(path: Path, panels: Mapping[str, Tensor], skeleton: Skeleton) -> None:
    """Plot adjacencies (J, J), one panel each, with a common colour scale. Dots mark bones.

    Args:
        panels: {title: adjacency}.
    """
    columns = min(5, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = _new_figure(figsize=(1 + 2.8 * columns, 3.1 * rows), layout="constrained")
    reach = max(panel.abs().max().item() for panel in panels.values())
    grid = figure.subplots(rows, columns, squeeze=False)
    places = range(skeleton.num_joints)
    bones = [edge for bone in skeleton.bones() for edge in (bone, bone[::-1])]
    for axes, (title, panel) in zip(grid.flat, panels.items(), strict=False):
        image = axes.imshow(panel.tolist(), cmap="RdBu_r", vmin=-reach, vmax=reach)
        axes.plot(*zip(*bones, strict=True), ".", color="0.2", markersize=2)
        axes.set_title(title, fontsize=8)
        axes.set_xticks(places, skeleton.names, rotation=90, fontsize=5)
        axes.set_yticks(places, skeleton.names, fontsize=5)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=grid, shrink=0.6, aspect=40)
    _save(figure, path)


def save_errors(
    path: Path, errors: Tensor, actions: Tensor, names: Sequence[str], skeleton: Skeleton
) -> None:
    """Plot the mean error of each joint in each action, and the share of poses below each error.

    Args:
        errors: (N, J) distances, mm.
        actions: (N,) indices into the names.
        names: of the actions; those without poses are left out.
    """
    figure = _new_figure(figsize=(12, 2 + 0.3 * len(names)), layout="constrained")
    grid, share = figure.subplots(1, 2, width_ratios=(2, 1))
    found = [i for i in range(len(names)) if (actions == i).any()]
    means = torch.stack([errors[actions == i].mean(dim=0) for i in found])
    image = grid.imshow(means.tolist(), cmap="viridis", aspect="auto", vmin=0)
    grid.set_xticks(range(skeleton.num_joints), skeleton.names, rotation=90, fontsize=7)
    grid.set_yticks(range(len(found)), [names[i] for i in found], fontsize=7)
    for i, row in enumerate(means.tolist()):
        for j, value in enumerate(row):
            colour = "white" if value < 0.6 * means.max() else "black"
            grid.text(j, i, f"{value:.0f}", color=colour, fontsize=6, ha="center", va="center")
    grid.set_title("mean error (mm)", fontsize=9)
    figure.colorbar(image, ax=grid)
    poses = errors.mean(dim=1).sort().values
    share.plot(poses.tolist(), torch.linspace(0, 100, len(poses)).tolist(), color=LEFT)
    for percent in (50, 95):
        value = float(poses.quantile(percent / 100))
        share.axvline(value, color="0.6", linestyle=":")
        share.annotate(
            f"{percent}%: {value:.0f} mm", (value, 2), xytext=(3, 0), textcoords="offset points",
            fontsize=7, rotation=90,
        )  # fmt: skip
    share.set(xlabel="MPJPE of a pose (mm)", ylabel="poses below (%)", ylim=(0, 100))
    share.set_xlim(left=0)
    share.grid(alpha=0.3)
    _save(figure, path)


def save_learning_curves(path: Path, groups: Mapping[str, Sequence[Mapping[int, float]]]) -> None:
    """Plot test errors over the epochs: a thin line for each run, the mean of a group, and its
    sample standard deviation where it has several runs.

    Args:
        groups: {title: the runs, each {epoch: MPJPE in mm}}; the mean is over the epochs that all
            runs of a group have.
    """
    figure = _new_figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (title, runs) in enumerate(groups.items()):
        colour = f"C{number % 10}"
        for run in runs:
            axes.plot([*run], [*run.values()], color=colour, alpha=0.35, linewidth=0.8)
        epochs = sorted(set.intersection(*(set(run) for run in runs)))
        values = torch.tensor([[run[epoch] for epoch in epochs] for run in runs])
        mean, label = values.mean(dim=0), title
        if len(runs) > 1:
            spread = values.std(dim=0)
            low, high = (mean - spread).tolist(), (mean + spread).tolist()
            axes.fill_between(epochs, low, high, color=colour, alpha=0.15)
            label = f"{title} ({len(runs)} runs: {mean[-1]:.1f} ± {spread[-1]:.1f})"
        axes.plot(epochs, mean.tolist(), color=colour, label=label.replace("$", r"\$"))
    axes.set(xlabel="epoch", ylabel="MPJPE (mm)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, path)


def save_modulations(path: Path, panels: Mapping[str, Tensor], skeleton: Skeleton) -> None:
    """Plot weight modulations M (J, C), a panel for each layer, with a common colour scale around
    one, where M changes nothing.

    Args:
        panels: {title: M}.
    """
    figure = _new_figure(figsize=(9, 1.9 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False)
    reach = max((panel - 1).abs().max().item() for panel in panels.values()) or 1.0
    for axes, (title, panel) in zip(grid.flat, panels.items(), strict=True):
        image = axes.imshow(
            panel.tolist(), cmap="RdBu_r", vmin=1 - reach, vmax=1 + reach, aspect="auto"
        )
        axes.set_title(title, fontsize=8)
        axes.set_yticks(range(skeleton.num_joints), skeleton.names, fontsize=5)
        axes.tick_params(axis="x", labelsize=6)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(image, ax=grid, shrink=0.6, aspect=40)
    _save(figure, path)


@dataclass(frozen=True)
class PointSet:
    """Named points of a person who faces the viewer, for :func:`save_point_sets`.

    Attributes:
        points: {name: (x, y up, number to show)}.
        limbs: pairs of names that lines connect.
        made: {name: (x, y up)} of what is made of them, drawn as rings.
    """

    title: str
    points: Mapping[str, tuple[float, float, int]]
    limbs: Sequence[tuple[str, str]]
    made: Mapping[str, tuple[float, float]]


_FACE = ("nose", "mouth", "left_eye", "left_ear", "right_eye", "right_ear")
_HAND = ("wrist", "pinky", "index", "thumb")
_FOOT = ("ankle", "heel", "big_toe", "small_toe", "foot")
# Where a part of the person is drawn enlarged, in a panel, and how the names of its points begin.
_ENLARGED = {
    (0.67, 0.84, 0.31, 0.14): _FACE,
    (0.02, 0.35, 0.24, 0.16): tuple(f"right_{part}" for part in _HAND),
    (0.74, 0.35, 0.24, 0.16): tuple(f"left_{part}" for part in _HAND),
    (0.02, 0.19, 0.22, 0.15): tuple(f"right_{part}" for part in _FOOT),
    (0.76, 0.19, 0.22, 0.15): tuple(f"left_{part}" for part in _FOOT),
}
_FEW = 2  # points of a part that need not be enlarged
# Where the number of a crowded point is, by a part of its name: outwards and upwards of it.
_NUMBERS = {
    "eye_inner": (0, 6), "eye_outer": (0, -6), "eye": (0, 12), "ear": (0, 6), "nose": (0, 6),
    "mouth": (0, 6), "heel": (4, -5), "toe": (0, -7), "foot": (0, -7),
}  # fmt: skip


def save_point_sets(path: Path, sets: Sequence[PointSet]) -> None:
    """Draw sets of named points side by side, with the number of each point beside it."""
    columns = math.ceil(len(sets) / 2)
    figure = _new_figure(figsize=(4.2 * columns, 11), layout="constrained")
    for axes, shown in zip(figure.subplots(2, columns).flat, sets, strict=False):
        parts = {
            box: [name for name in shown.points if name.startswith(starts)]
            for box, starts in _ENLARGED.items()
        }
        parts = {box: names for box, names in parts.items() if len(names) > _FEW}
        enlarged = {name for names in parts.values() for name in names}
        _draw_points(axes, shown, list(shown.points), set(shown.points) - enlarged)
        for x, y in shown.made.values():
            axes.plot(x, y, "o", color="black", fillstyle="none", markersize=9)
        heights = [y for _, y in shown.made.values()]
        axes.set_yticks(heights, list(shown.made), fontsize=7)
        axes.tick_params(length=0)
        axes.set_title(shown.title, fontsize=10)
        axes.margins(0.18, 0.06)
        for box, names in parts.items():
            inset = axes.inset_axes(box)
            _draw_points(inset, shown, names, set(names))
            inset.margins(0.5, 0.35)
    for axes in list(figure.axes)[len(sets) :]:
        axes.set_axis_off()
    figure.suptitle(
        "the person's left side blue, right side orange; rings: joints computed from several points"
    )
    _save(figure, path)


def _draw_points(
    axes: Axes, shown: PointSet, names: Sequence[str], numbered: Collection[str]
) -> None:
    """Draw the points of these names and the limbs between them.

    Args:
        numbered: the names of the points that have their number beside them.
    """

    def colour(*of: str) -> str:
        sides = {"left" in name or name[0] == "L" for name in of}
        middle = not all(re.search(r"left|right|^[LR](?=[A-Z])", name) for name in of)
        return MIDDLE if middle or len(sides) > 1 else LEFT if sides.pop() else RIGHT

    for one, other in shown.limbs:
        if one in names and other in names:
            (x0, y0, _), (x1, y1, _) = shown.points[one], shown.points[other]
            axes.plot([x0, x1], [y0, y1], color=colour(one, other), linewidth=1.2)
    for name in names:
        x, y, number = shown.points[name]
        axes.plot(x, y, "o", color=colour(name), markersize=3.5)
        if name in numbered:
            middle = (9, 6) if colour(name) == MIDDLE else (4, 0)  # beside the ring, above limbs
            out, up = next((at for part, at in _NUMBERS.items() if part in name), middle)
            out *= -1 if colour(name) == RIGHT else 1
            axes.annotate(
                str(number), (x, y), (out, up), textcoords="offset points", fontsize=7,
                ha=("center", "left", "right")[(out > 0) - (out < 0)], va="center",
            )  # fmt: skip
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xticks=[], yticks=[])


def save_poses(
    path: Path,
    inputs_2d: Tensor,
    predictions: Tensor,
    targets: Tensor,
    titles: Sequence[str],
    skeleton: Skeleton,
    up: Tensor,
) -> None:
    """Draw the 2D input, and the prediction over the target from the camera and from the side; one
    row a pose.

    Args:
        inputs_2d: (N, J, 2) normalised screen coordinates.
        predictions, targets: (N, J, 3) metres, camera space, root at zero.
        titles: N titles of the rows.
        up: (N, 3) upward directions in camera space.
    """
    stills = []
    for i, title in enumerate(titles):
        clip = Clip(
            poses=predictions[i : i + 1].numpy(),
            skeleton=skeleton,
            fps=1.0,
            truth=targets[i : i + 1].numpy(),
            keypoints=inputs_2d[i : i + 1].numpy(),
            up=tuple(up[i].tolist()),
        )
        error = 1000 * (predictions[i] - targets[i]).norm(dim=-1).mean().item()
        stills.append(Still(clip, 0, f"{title}: {error:.0f} mm"))
    _save(sheet(stills), path)


def _new_figure(**options: Any) -> Figure:
    """Import matplotlib, which takes a second, only where something is drawn."""
    from matplotlib.figure import Figure

    return Figure(**options)


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=DPI)
