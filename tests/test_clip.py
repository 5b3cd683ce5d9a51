"""Clips as pictures, animations and BVH."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from common import clip_files, draw
from common.bvh import median_lengths, to_bvh, with_lengths
from common.clip import by_number, upright_rotation
from common.clip_files import WRITERS, check_clip_name, write_clip, write_gif
from common.errors import UserError
from common.skeleton import H36M_16, H36M_17
from tests.bvh_reader import read_bvh
from tests.made_clips import made_clip

FRAMES = 7


def test_upright_is_right_handed_and_up_is_up():
    assert np.allclose(upright_rotation((0, -1, 0)), np.diag([1, -1, -1]))
    for up in ((0.2, -0.9, -0.3), (0, -0.1, -1), (1, 0, 0), (0, 0, 1)):
        turn = upright_rotation(up)
        assert np.allclose(turn @ turn.T, np.eye(3)) and np.isclose(np.linalg.det(turn), 1)
        assert np.allclose(turn @ np.array(up) / np.linalg.norm(up), (0, 1, 0))


def test_a_person_whose_place_is_unknown_stands_on_the_floor():
    clip = made_clip()
    pose, truth = clip.standing()
    assert truth is None and np.allclose(pose[..., 1].min(axis=1), 0)
    assert np.allclose(pose[:, 0, (0, 2)], 0)
    assert np.allclose(pose - pose[:, :1], clip.poses * (1, -1, -1), atol=1e-6)


def test_a_known_place_is_kept_and_the_truth_goes_with_it():
    clip = made_clip(placed=True, truth=made_clip().poses + np.float32(0.01))
    pose, truth = clip.standing()
    walked = clip.absolute[:, 0] - clip.absolute[0, 0]
    assert np.allclose(pose[:, 0] - pose[0, 0], walked * (1, -1, -1), atol=1e-6)
    assert abs(np.percentile(truth[..., 1].min(axis=1), 5)) < 1e-6
    assert np.allclose(truth - pose[:, :1], clip.truth * (1, -1, -1), atol=1e-6)


def test_an_unknown_place_is_between_the_known_ones():
    clip = made_clip(placed=True)
    known = clip.absolute.copy()
    absolute = known.copy()
    absolute[[2, 6]] = np.nan
    pose, _ = made_clip(absolute=absolute).standing()
    assert np.isfinite(pose).all()
    middle = (known[1, 0] + known[3, 0]) / 2
    assert np.allclose(pose[2, 0] - pose[1, 0], (middle - known[1, 0]) * (1, -1, -1), atol=1e-6)
    assert np.allclose(pose[6, 0], pose[5, 0])
    nowhere, _ = made_clip(absolute=np.full_like(known, np.nan)).standing()
    assert np.array_equal(nowhere, made_clip().standing()[0])


def test_a_part_is_of_the_same_images():
    clip = made_clip(frames=7, image=lambda number: number)
    part = clip.part([2, 5]).part([1])
    assert len(part) == 1 and part.number(0) == 5 and part.image(0) == 5
    assert np.array_equal(part.poses[0], clip.poses[5])


def test_images_are_read_one_after_the_other():
    read = []
    image = by_number(read.append(number) or number for number in range(6))
    assert (image(1), image(4)) == (1, 4) and read == [0, 1, 2, 3, 4]
    assert image(9) is None and image(2) is None


@pytest.mark.parametrize("scale", [0.5, 1, 8])  # of the image; what is shown is reduced
def test_joints_over_an_image_have_a_rim_and_keep_their_place(scale):
    rows, columns = np.indices((int(480 * scale), int(640 * scale))) / scale
    image = np.stack([columns / 4, rows / 4, 0 * rows], axis=-1).astype(np.uint8)
    plain, over = (
        draw.sheet([draw.Still(made_clip(image=images), 0, "")]).axes[0]
        for images in (None, lambda index: image)
    )
    assert plain.get_xlim() == over.get_xlim() and plain.get_ylim() == over.get_ylim()
    rim, bones = over.collections
    assert to_rgba(rim.get_color()[0]) == (1, 1, 1, 1)
    assert rim.get_linewidth()[0] > bones.get_linewidth()[0]
    shown = over.images[0]
    left, right, bottom, top = shown.get_extent()
    limits = np.clip([*over.get_xlim(), *over.get_ylim()], 0, [640, 640, 480, 480])
    assert np.allclose((left, right, bottom, top), limits, atol=2 / scale + 1)
    pixels = shown.get_array()
    assert pixels.size < 2 * 3 * over.bbox.width * over.bbox.height
    assert np.allclose(4 * pixels[0, 0], (left, top, 0), atol=8)
    assert np.allclose(4 * pixels[-1, -1], (right, bottom, 0), atol=8)


def test_joints_outside_the_image_are_drawn_over_nothing():
    far = made_clip().keypoints + 5000
    clip = made_clip(keypoints=far, image=lambda index: np.zeros((480, 640, 3), np.uint8))
    axes = draw.sheet([draw.Still(clip, 0, "")]).axes[0]
    assert not axes.images and axes.collections


@pytest.mark.parametrize("joints", [16, 17])
def test_bvh_read_back_gives_the_joints(joints):
    clip = made_clip(joints)
    lengths = median_lengths(clip.poses, clip.skeleton)
    # Without Neck/Nose, Thorax to Head is no rigid bone of the made person.
    rigid = with_lengths(clip.poses, lengths, clip.skeleton)
    for options in ({}, {"absolute": rigid + np.linspace(0, 1, FRAMES)[:, None, None]}):
        clip = made_clip(joints, poses=rigid, **options)
        found, seconds = read_bvh(to_bvh(clip))
        names = [name.replace("/", "_") for name in clip.skeleton.names]
        read = np.stack([found[name] for name in names], axis=1)
        assert seconds == pytest.approx(1 / clip.fps)
        assert np.abs(read - clip.standing()[0]).max() < 1e-3


def test_bones_of_bvh_do_not_pulse_and_take_told_lengths():
    clip = made_clip()
    pulsing = made_clip(poses=clip.poses * np.linspace(0.8, 1.2, FRAMES)[:, None, None])
    told = np.linspace(0.1, 0.5, 16)
    for lengths in (None, told):
        found, _ = read_bvh(to_bvh(pulsing, lengths))
        read = np.stack([found[n.replace("/", "_")] for n in H36M_17.names], axis=1)
        expected = median_lengths(pulsing.poses, H36M_17) if lengths is None else told
        every = [np.linalg.norm(read[:, a] - read[:, b], axis=-1) for a, b in H36M_17.bones()]
        assert np.allclose(np.stack(every, axis=1), expected, atol=1e-4)


def test_angles_of_bvh_do_not_jump():
    turns = np.linspace(0, 4 * np.pi, 60)  # two whole turns about the vertical
    cos, sin, no = np.cos(turns), np.sin(turns), np.zeros(60)
    about = np.stack([cos, no, sin, no, no + 1, no, -sin, no, cos], axis=-1).reshape(60, 3, 3)
    poses = made_clip().poses[:1] @ about.transpose(0, 2, 1)
    rows = to_bvh(made_clip(poses=poses)).split("Frame Time:")[1].splitlines()[1:]
    angles = np.array([row.split() for row in rows], dtype=float)[:, 3:]
    assert np.abs(np.diff(angles, axis=0)).max() < 30


def test_left_and_right_differ_and_near_bones_cover_far_ones():
    colours = dict(zip(H36M_16.bones(), draw.bone_colours(H36M_16), strict=True))
    sides = {"L": draw.LEFT, "R": draw.RIGHT}
    for (joint, _), colour in colours.items():
        assert colour == sides.get(H36M_16.names[joint][0], draw.MIDDLE)
    ahead, right = np.array([0, 0, 1.0]), np.array([1.0, 0, 0])
    assert draw.seen(ahead, 0)[2] > draw.seen(-ahead, 0)[2]
    assert draw.seen(right, 90)[2] > 0.9 and abs(draw.seen(right, 90)[0]) < 1e-9


def test_views_keep_proportions():
    clip = made_clip(truth=made_clip().poses)
    figure = draw.sheet([draw.Still(clip, 0, "a$b^{")])  # no formula
    for axes in figure.axes:
        box = axes.get_position().size * figure.get_size_inches()
        limits = np.abs(np.ptp([axes.get_xlim(), axes.get_ylim()], axis=1))
        assert np.allclose(limits / box, (limits / box)[0])
    lines = figure.axes[1].collections
    assert [len(line.get_segments()) for line in lines[1:]] == [16, 16]
    figure.savefig(io.BytesIO())


def test_an_animation_shows_every_picture(tmp_path: Path):
    rng = np.random.default_rng(0)
    pictures = [np.full((30, 40, 3), 255, np.uint8) for _ in range(5)]
    for number, picture in enumerate(pictures):
        picture[5 : 9 + number, 3:9] = rng.integers(0, 2, 3) * 200
    with (tmp_path / "a.gif").open("wb") as file:
        write_gif(file, iter(pictures), fps=15)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 5 and gif.info["loop"] == 0
        took = 0
        for number, picture in enumerate(pictures):
            gif.seek(number)
            took += gif.info["duration"]
            assert np.abs(np.array(gif.convert("RGB")).astype(int) - picture).max() <= 8
    assert took == 10 * round(100 * 5 / 15)


def test_a_picture_of_a_gif_stays_as_long_as_the_format_allows(tmp_path):
    with (tmp_path / "a.gif").open("wb") as file:
        write_gif(file, iter([np.zeros((9, 9, 3), np.uint8)] * 2), fps=1e-4)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 2 and gif.info["duration"] == 655_350


@pytest.mark.parametrize("suffix", [".png", ".gif", ".mp4"])
def test_every_format_is_written(suffix, tmp_path):
    if suffix == ".mp4":
        pytest.importorskip("imageio_ffmpeg", reason="requirements-export.txt is not installed")
    clip = made_clip(frames=4, fps=30.0, image=lambda i: np.full((480, 640, 3), 50 * i, np.uint8))
    path = tmp_path / f"a{suffix}"
    write_clip(path, clip)
    starts = {".png": b"\x89PNG", ".gif": b"GIF89a", ".mp4": b"\0\0\0"}
    assert path.read_bytes().startswith(starts[suffix])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if suffix == ".gif":
        with Image.open(path) as gif:
            assert gif.n_frames == 2  # 15 of 30 a second
    if suffix == ".mp4":
        import imageio_ffmpeg

        assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (4, pytest.approx(4 / 30, 0.1))
        write_clip(path, clip, clip_files.Style(scale=1.46))  # 1261 x 525 pixels
        assert next(imageio_ffmpeg.read_frames(str(path)))["source_size"] == (1260, 524)


def test_pictures_are_made_one_at_a_time():
    pictures = draw.pictures(made_clip(), [0, *range(FRAMES)])
    next(pictures)
    tracemalloc.start()
    for _ in pictures:
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12e6  # one is 1 MB


def test_what_cannot_be_written_is_refused_before(monkeypatch):
    for suffix in WRITERS.keys() - {".mp4"}:
        check_clip_name("--render", f"a{suffix}")
    with pytest.raises(UserError, match=r"--render a\.txt: .*\.gif.*\.html"):
        check_clip_name("--render", "a.txt")
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="-r requirements-export"):
        check_clip_name("--render", "a.mp4")
    assert set(clip_files.STILLS) < WRITERS.keys()
