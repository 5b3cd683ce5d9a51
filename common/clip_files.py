"""Writes a clip as a picture, an animation, a page to look at in a browser, or motion for other
programs; the suffix of the file's name says which."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common import bvh, draw, viewer
from common.clip import Clip
from common.errors import UserError
from common.extras import require
from common.files import atomic_write, write_bytes
from common.progress import follow

_GIF_FPS = 15  # at most
_COLOURS, _IMAGE_COLOURS = 32, 128  # of a gif: of lines alone, and with images behind them
_LONGEST = 65535  # hundredths of a second that a picture of a gif can stay
_ROWS = 4  # poses of a picture
STILLS = (".png", ".pdf", ".svg", ".jpg")


@dataclass(frozen=True)
class Style:
    """How pictures are written.

    Attributes:
        scale: of their size.
        bitrate: of mp4, 1000 bits a second; None is a quality.
    """

    scale: float = 1.0
    bitrate: int | None = None


_USUAL = Style()


def check_clip_name(flag: str, path: str | Path) -> None:
    """Check, before anything is computed, that :func:`write_clip` can write a file.

    Raises:
        UserError: the suffix is not one of ``WRITERS``, or what it needs is not installed.
    """
    suffix = Path(path).suffix
    if suffix not in WRITERS:
        raise UserError(f"{flag} {path}: give a name that ends in {', '.join(WRITERS)}")
    if suffix == ".mp4":
        require("imageio_ffmpeg")


def write_clip(path: Path, clip: Clip, style: Style = _USUAL) -> None:
    """Write a clip whole or not at all, in the format of the name's suffix.

    Raises:
        UserError: the file cannot be written.
    """
    WRITERS[path.suffix](path, clip, style)


def _write_still(path: Path, clip: Clip, style: Style) -> None:
    """A few of the poses, spread evenly."""
    chosen = np.unique(np.linspace(0, len(clip) - 1, _ROWS).astype(int)).tolist()
    name = f"{clip.title}, " if clip.title else ""
    part = clip.part(chosen)
    stills = [draw.Still(part, i, f"{name}image {part.number(i)}") for i in range(len(part))]
    figure = draw.sheet(stills)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=style.scale * draw.DPI)


def _pictures(clip: Clip, style: Style, step: int = 1) -> Iterator[np.ndarray]:
    indices = range(0, len(clip), step)
    return follow(draw.pictures(clip, indices, style.scale), "drawing", len(indices), "image")


def _write_gif(path: Path, clip: Clip, style: Style) -> None:
    step = math.ceil(clip.fps / _GIF_FPS)
    with atomic_write(path) as partial, partial.open("wb") as file:
        colours = _IMAGE_COLOURS if clip.image else _COLOURS
        write_gif(file, _pictures(clip, style, step), clip.fps / step, colours)


def write_gif(
    file: BinaryIO, pictures: Iterator[np.ndarray], fps: float, colours: int = _COLOURS
) -> None:
    """Write RGB pictures (height, width, 3) uint8 as an endless animation, one at a time.

    Pillow's own ``save`` would keep all of them in memory.
    """
    from PIL import GifImagePlugin, Image, ImageChops

    before = None
    for number, picture in enumerate(pictures):
        whole = Image.fromarray(picture)
        box = (0, 0, *whole.size)
        if before is not None:  # only what has changed
            box = ImageChops.difference(whole, before).getbbox() or (0, 0, 1, 1)
        part = whole.crop(box).quantize(colours)
        if before is None:
            for block in GifImagePlugin.getheader(part, info={"loop": 0})[0]:
                file.write(block)
        ends = [round(100 * (number + k) / fps) for k in (0, 1)]  # hundredths of a second
        duration = min(ends[1] - ends[0], _LONGEST)
        options = {"duration": 10 * duration, "disposal": 1, "include_color_table": True}
        for block in GifImagePlugin.getdata(part, box[:2], **options):
            file.write(block)
        before = whole
    file.write(b";")


def _write_mp4(path: Path, clip: Clip, style: Style) -> None:
    pictures = map(_even, _pictures(clip, style))
    first = next(pictures)
    size = first.shape[1], first.shape[0]
    with atomic_write(path) as partial:
        writer = require("imageio_ffmpeg").write_frames(
            str(partial),
            size,
            fps=clip.fps,
            bitrate=style.bitrate and f"{style.bitrate}k",
            macro_block_size=1,
            ffmpeg_log_level="error",
        )
        writer.send(None)
        writer.send(first.tobytes())
        for picture in pictures:
            writer.send(picture.tobytes())
        writer.close()


def _even(picture: np.ndarray) -> np.ndarray:
    """A picture without a last odd row and column: H.264 wants even sizes."""
    height, width = picture.shape[:2]
    return picture[: height - height % 2, : width - width % 2]


def _write_html(path: Path, clip: Clip, style: Style) -> None:
    write_bytes(path, viewer.page(clip).encode())


def _write_bvh(path: Path, clip: Clip, style: Style) -> None:
    write_bytes(path, bvh.to_bvh(clip).encode())


WRITERS: dict[str, Callable[[Path, Clip, Style], None]] = {
    **dict.fromkeys(STILLS, _write_still),
    ".gif": _write_gif,
    ".mp4": _write_mp4,
    ".html": _write_html,
    ".bvh": _write_bvh,
}
