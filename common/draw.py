"""Poses as pictures, in one style: 2D, from the camera, and from the side.

The proportions are true: both views are orthographic, with one scale, seen from slightly above a
floor of squares of half a metre. The person's left side is blue and the right side orange, which
colour-blind people tell apart too. The prediction lies over the truth, which is grey.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common.clip import Clip
from common.skeleton import Skeleton

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT, RIGHT, MIDDLE = "#0072B2", "#E0700A", "#404040"
TRUTH, FLOOR = "#B4B4B4", "#DDDDDD"
LEGEND = "left side blue, right side orange"
TRUTH_LEGEND = f"{LEGEND}, truth grey"
_VIEWS = {"from the camera": 0.0, "from the side": 90.0}
_ELEVATION = 10.0  # degrees
_SQUARE = 0.5  # metres, of the floor
_MARGIN = 0.12  # metres around the person
_ROW = (7.2, 3.0)  # inches
_WIDTH, _TRUTH_WIDTH, _RIM_WIDTH = 2.8, 5.5, 5.0  # of bones, points
_TITLE = {"fontsize": 8, "va": "bottom"}
_LETTERS = 46  # of a title that is not cut
DPI = 120


def bone_colours(skeleton: Skeleton) -> list[str]:
    """The colour of each bone, in the order of ``Skeleton.bones``."""
    left, right = set(skeleton.joints_left), set(skeleton.joints_right)
    return [
        LEFT if joint in left else RIGHT if joint in right else MIDDLE
        for joint, _ in skeleton.bones()
    ]


class PoseRow:
    """Three axes that show one pose of a clip at a time.

    Attributes:
        drawn: what the pose that is shown is drawn with.
    """

    def __init__(self, axes: Sequence[Axes], clip: Clip) -> None:
        self._clip = clip
        self._poses, self._truth = clip.standing()
        self._bones = np.array(clip.skeleton.bones())
        self._colours = np.array(bone_colours(clip.skeleton))
        self._flat, self._spaces = axes[0], axes[1:]
        self.drawn: list[Any] = []
        self._set_limits()
        for space, name in zip(self._spaces, _VIEWS, strict=True):
            space.text(0.5, 1.01, name, transform=space.transAxes, ha="center", **_TITLE)

    def _set_limits(self) -> None:
        """Make room for all poses of the clip, and fill the axes."""
        shown = [points for points in (self._poses, self._truth) if points is not None]
        around = [points - self._poses[:, :1] * (1, 0, 1) for points in shown]
        reach = max(float(np.nanmax(np.abs(points[..., (0, 2)]))) for points in around) + _MARGIN
        top = max(float(np.nanmax(points[..., 1])) for points in shown) + _MARGIN
        below = _MARGIN + reach * math.sin(math.radians(_ELEVATION)) / 2
        for axes in self._spaces:
            _fill(axes, (-reach, reach), (-below, top))
        self._reach = self._spaces[0].get_xlim()[1]
        points = self._clip.keypoints
        if points is not None:
            low, high = np.nanmin(points, axis=(0, 1)), np.nanmax(points, axis=(0, 1))
            margin = _MARGIN * max(*(high - low), 1e-6)
            across, down = ((low[k] - margin, high[k] + margin) for k in (0, 1))
            _fill(self._flat, across, (-down[1], -down[0]))
            self._flat.set_ylim(*-np.array(self._flat.get_ylim()))  # rows grow downwards

    def show(self, index: int, title: str) -> None:
        """Draw a pose in place of the one before.

        Args:
            title: of the row, shown as it is.
        """
        for artist in self.drawn:
            artist.remove()
        if len(title) > _LETTERS:
            title = f"{title[: _LETTERS // 2]}…{title[-_LETTERS // 2 :]}"
        # A file's name may hold a dollar sign, which would start a formula.
        place = {"transform": self._flat.transAxes, "parse_math": False, "clip_on": False}
        self.drawn = [self._flat.text(0, 1.01, title, **_TITLE, **place)]
        if self._clip.keypoints is not None:
            self._draw_2d(index)
        for axes, angle in zip(self._spaces, _VIEWS.values(), strict=True):
            centre = self._poses[index, 0] * (1, 0, 1)
            self._draw_floor(axes, centre, angle)
            if self._truth is not None:
                self._draw_bones(
                    axes, seen(self._truth[index] - centre, angle), TRUTH, _TRUTH_WIDTH
                )
            points = seen(self._poses[index] - centre, angle)
            self._draw_bones(axes, points, self._colours, _WIDTH)

    def _draw_2d(self, index: int) -> None:
        image = self._clip.image(index) if self._clip.image else None
        points = np.pad(self._clip.keypoints[index], ((0, 0), (0, 1)))
        if image is not None:
            self._draw_image(image)
            self._draw_bones(self._flat, points, "white", _RIM_WIDTH)
        self._draw_bones(self._flat, points, self._colours, _WIDTH)

    def _draw_image(self, image: np.ndarray) -> None:
        """The part of an image that is shown, in hardly more pixels than are shown: matplotlib
        would work on all of them."""
        limits = {"xlim": self._flat.get_xlim(), "ylim": self._flat.get_ylim()}
        scale = image.shape[1] / self._clip.size[0]
        (left, right), (bottom, top) = (scale * np.array(ends) for ends in limits.values())
        step = max(1, int((right - left) / self._flat.bbox.width))
        rows = range(image.shape[0])[max(0, int(top)) : math.ceil(bottom) : step]
        columns = range(image.shape[1])[max(0, int(left)) : math.ceil(right) : step]
        if not (rows and columns):  # the joints are outside the image
            return
        extent = (columns.start, columns.stop, rows.stop, rows.start)
        part = image[rows.start : rows.stop : step, columns.start : columns.stop : step]
        drawn = self._flat.imshow(part, extent=np.array(extent) / scale, aspect="auto")
        self.drawn.append(drawn)
        self._flat.set(**limits)

    def _draw_floor(self, axes: Axes, centre: np.ndarray, angle: float) -> None:
        """Squares that stand still while the view follows the person."""
        reach, segments = self._reach, []
        for first, second in ((0, 2), (2, 0)):
            start = math.ceil((centre[first] - reach) / _SQUARE) * _SQUARE
            for place in np.arange(start, centre[first] + reach, _SQUARE) - centre[first]:
                line = np.zeros((2, 3))
                line[:, first], line[:, second] = place, (-reach, reach)
                segments.append(seen(line, angle)[:, :2])
        self.drawn.append(_add_lines(axes, segments, FLOOR, 0.8))

    def _draw_bones(self, axes: Axes, points: np.ndarray, colours: Any, width: float) -> None:
        """Bones between points (J, 3) on the paper, those that are nearer over the others."""
        ends = points[self._bones]
        order = np.argsort(ends[..., 2].sum(axis=1), kind="stable")
        colours = colours if isinstance(colours, str) else colours[order]
        self.drawn.append(_add_lines(axes, ends[order, :, :2], colours, width))


def _fill(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Show at least these ranges, with one scale, without empty paper around the axes."""
    width, height = axes.get_figure().get_size_inches() * axes.get_position().size
    scale = max((x[1] - x[0]) / width, (y[1] - y[0]) / height)
    middle, reach = (x[0] + x[1]) / 2, scale * width / 2
    axes.set(xlim=(middle - reach, middle + reach), ylim=(y[0], y[0] + scale * height))


def _add_lines(axes: Axes, segments: Any, colours: Any, width: float) -> Any:
    from matplotlib.collections import LineCollection

    lines = LineCollection(segments, colors=colours, linewidths=width, capstyle="round")
    return axes.add_collection(lines, autolim=False)


def seen(points: np.ndarray, angle: float) -> np.ndarray:
    """Upright points (..., 3) as seen from around the person: right, up, and towards the viewer.

    Args:
        angle: degrees about the vertical; 0 is from the camera, 90 from the camera's right.
    """
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y, z = np.moveaxis(points, -1, 0)
    right, near = cos * x - sin * z, sin * x + cos * z
    cos, sin = math.cos(math.radians(_ELEVATION)), math.sin(math.radians(_ELEVATION))
    return np.stack([right, cos * y - sin * near, sin * y + cos * near], axis=-1)


@dataclass(frozen=True)
class Still:
    """A pose of a clip, and the title of its row."""

    clip: Clip
    index: int
    title: str


def sheet(stills: Sequence[Still]) -> Figure:
    """A picture with a row for each pose; those of one clip have one scale."""
    figure, rows = _figure(len(stills))
    for axes, still in zip(rows, stills, strict=True):
        PoseRow(axes, still.clip).show(still.index, still.title)
    _write_legend(figure, any(still.clip.truth is not None for still in stills))
    return figure


def pictures(clip: Clip, indices: Sequence[int], scale: float = 1.0) -> Iterator[np.ndarray]:
    """An RGB picture (height, width, 3) uint8 of each pose, made when it is asked for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure, (axes,) = _figure(1)
    figure.set_dpi(scale * DPI)
    canvas, row = FigureCanvasAgg(figure), PoseRow(axes, clip)
    _write_legend(figure, clip.truth is not None)
    canvas.draw()
    empty = canvas.copy_from_bbox(figure.bbox)
    for index in indices:
        row.show(index, f"{clip.title}  image {clip.number(index)}".strip())
        canvas.restore_region(empty)
        for artist in row.drawn:
            artist.axes.draw_artist(artist)
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _write_legend(figure: Figure, with_truth: bool) -> None:
    figure.text(0.99, 0.01, TRUTH_LEGEND if with_truth else LEGEND, fontsize=7, ha="right")


def _figure(rows: int) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows of three axes. Importing matplotlib takes a second: only where it draws."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_ROW[0], _ROW[1] * rows), dpi=DPI)
    grid = figure.subplots(rows, 3, squeeze=False)
    edge = 0.25 / (_ROW[1] * rows)
    figure.subplots_adjust(0.01, edge, 0.99, 1 - edge, wspace=0.03, hspace=0.09)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, [list(axes) for axes in grid]
