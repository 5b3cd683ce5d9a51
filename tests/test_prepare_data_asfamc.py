"""Forward kinematics again, bone by bone and frame by frame."""

import re
import tarfile
import zipfile

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from common.errors import UserError
from data.npz_io import load_object_array
from data.prepare_data_asfamc import JOINT_BONES, clip_name, main
from tests.mocap_miniature import (
    DOFS,
    PARENTS,
    amc_text,
    asf_text,
    made_motion,
    made_skeleton,
)


@pytest.fixture
def skeleton():
    return made_skeleton()


@pytest.fixture
def motion():
    return made_motion()


def expected_joints(skeleton, motion, frame) -> np.ndarray:
    def turn_and_end(bone):
        if bone == "root":
            values = motion["root"][frame]
            return Rotation.from_euler("xyz", values[3:], degrees=True), values[:3]
        direction, length, axis = skeleton[bone]
        turn, start = turn_and_end(PARENTS[bone])
        if bone in DOFS:
            angles = dict(zip(DOFS[bone].split(), motion[bone][frame], strict=True))
            local = Rotation.from_euler(
                "xyz", [angles.get(f"r{a}", 0) for a in "xyz"], degrees=True
            )
            frame_of_axis = Rotation.from_euler("xyz", axis, degrees=True)
            turn = turn * frame_of_axis * local * frame_of_axis.inv()
        return turn, start + turn.apply(direction * length)

    metres = np.stack([turn_and_end(bone)[1] for bone in JOINT_BONES]) * 0.0254 / 0.45
    return np.stack([metres[:, 2], metres[:, 0], metres[:, 1]], axis=1)


@pytest.fixture
def folder(tmp_path, skeleton, motion):
    place = tmp_path / "mocap" / "some"
    place.mkdir(parents=True)
    (place / "HDM_xy.asf").write_text(asf_text(skeleton))
    for stem in ("HDM_xy_squat1Reps_007_120.amc", "HDM_xy_sneak2StepsLStart_001_120.AMC"):
        (place / stem).write_bytes(amc_text(motion).encode("latin-1"))
    return tmp_path / "mocap"


def test_folder_and_archive_give_the_joints_of_forward_kinematics(
    folder, tmp_path, skeleton, motion, call
):
    archive = tmp_path / "mocap.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in folder.rglob("*.*"):
            zipped.write(path, path.relative_to(folder))
    for source in (folder, archive):
        output = tmp_path / f"{source.name}.npz"
        status, out, err = call(main, source, "--output", output)
        assert (status, err) == (0, "") and "1 subjects, 2 sequences, 6 frames" in out
        positions = load_object_array(output, "positions_3d")
        assert set(positions["xy"]) == {"squat 7", "sneak 1"}
        joints = positions["xy"]["squat 7"]
        assert joints.dtype == np.float32 and joints.shape == (3, 17, 3)  # frames 0, 4, 8 of 9
        expected = [expected_joints(skeleton, motion, frame) for frame in (0, 4, 8)]
        assert np.allclose(joints, expected, atol=1e-5)


def test_values_that_are_not_finite_are_named(folder, tmp_path, motion, call):
    path = folder / "some" / "HDM_xy_squat1Reps_007_120.amc"
    motion["rtibia"][4] = np.nan
    path.write_bytes(amc_text(motion).encode("latin-1"))
    status, _, err = call(main, folder, "--output", tmp_path / "out.npz")
    assert status == 2 and path.name in err and "frame 5 is not finite" in err


def test_names_of_clips():
    assert clip_name("HDM_bd_squat1Reps_009_120") == ("bd", "squat 9", 120)
    assert clip_name("HDM_mm_jogLeftCircle4StepsRstart_010_120") == ("mm", "jogLeftCircle 10", 120)
    assert clip_name("HDM_bd_hopBothLegs1hops_036_120") == ("bd", "hopBothLegs 36", 120)
    assert clip_name("HDM_bk_kickLFront1Reps_012_120") == ("bk", "kickLFront 12", 120)
    assert clip_name("HDM_bk_lieDownFloor_012_120") == ("bk", "lieDownFloor 12", 120)
    assert clip_name("02_07") == ("02", "clip 7", None)
    with pytest.raises(UserError, match="neither"):
        clip_name("walk")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace("lwrist ", "lwirst "), "does not fit its skeleton"),
        (lambda text: text.replace("lwrist ", "lwirst ", 1), "frame 2 of 9 does not match"),
        (lambda text: text.replace("\n6\n", "\n6\nltibia 1.0\n"), "frame 6 of 9 does not match"),
        (lambda text: text.replace("\n6\n", "\n"), "frame 5 of 8 does not match"),
        (lambda text: text.replace("root -", "root nan"), "could not convert string"),
        (lambda text: text[:-300], "frame 9 of 9 does not match"),
        (lambda text: "", "no frames"),
    ],
)
def test_damaged_motion_is_named(folder, tmp_path, motion, spoil, message, call):
    path = folder / "some" / "HDM_xy_squat1Reps_007_120.amc"
    text = amc_text(motion)
    assert spoil(text) != text
    path.write_bytes(spoil(text).encode("latin-1"))
    status, _, err = call(main, folder, "--output", tmp_path / "out.npz")
    assert status == 2 and err.count("\n") == 1
    assert path.name in err and message in err
    assert not (tmp_path / "out.npz").exists()


def test_radians_give_the_poses_of_degrees(folder, tmp_path, motion, call):
    assert call(main, folder, "--output", tmp_path / "degrees.npz")[0] == 0
    turned = {bone: np.radians(values) for bone, values in motion.items()}
    turned["root"][:, :3] = motion["root"][:, :3]  # lengths
    path = folder / "some" / "HDM_xy_squat1Reps_007_120.amc"
    radians = amc_text(turned).replace(":DEGREES", ":RADIANS")
    path.write_bytes(radians.encode("latin-1"))
    assert call(main, folder, "--output", tmp_path / "radians.npz")[0] == 0
    found, wanted = (
        load_object_array(tmp_path / f"{name}.npz", "positions_3d")["xy"]["squat 7"]
        for name in ("radians", "degrees")
    )
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    path.write_bytes(radians.replace(":RADIANS", ":DEGREES\n:RADIANS").encode("latin-1"))
    status, _, err = call(main, folder, "--output", tmp_path / "both.npz")
    assert status == 2 and "has both :DEGREES and :RADIANS" in err


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("length 0.45", "length 0"), ("length 0.45", "length nan"), ("length 0.45", "length inf"),
        ("length 0.45", "length -1"), (r"name rfemur\n    direction \S+", r"\g<0>nan"),
        (r"(name rfemur\n.*\n    length) \S+", r"\1 0"),
        (r"(name rfemur\n.*\n    length) \S+", r"\1 1e308"),
        (r"(name lradius\n.*\n    length) \S+", r"\1 nan"),
        (r"(name rfemur\n.*\n.*\n    axis) \S+", r"\1 inf"), ("dof rx ry rz", "dof tx ty tz"),
    ],
)  # fmt: skip
def test_lengths_and_angles_of_a_skeleton_that_cannot_be(
    old, new, folder, tmp_path, skeleton, call
):
    text = asf_text(skeleton)
    spoilt = re.sub(old, new, text, count=1)
    assert spoilt != text
    (folder / "some" / "HDM_xy.asf").write_text(spoilt)
    status, _, err = call(main, folder, "--output", tmp_path / "out.npz")
    assert status == 2 and err.count("\n") == 1 and folder.name in err
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("damage", ["encrypted", "another content", "another method", "outside"])
def test_archives_that_are_not_whole_end_in_one_line(damage, folder, tmp_path, call):
    archive = tmp_path / "mocap.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in folder.rglob("*.*"):
            up = "../" if damage == "outside" else ""
            zipped.write(path, up + path.relative_to(folder).as_posix())
    content = bytearray(archive.read_bytes())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.index(magic)
        if damage == "encrypted":
            content[place + flags] |= 1
        if damage == "another method":
            content[place + flags + 2] = 98
    if damage == "another content":
        content[content.index(b":version")] ^= 1
    archive.write_bytes(content)
    status, _, err = call(main, archive, "--output", tmp_path / "out.npz")
    assert status == 2 and err.count("\n") == 1 and "mocap.zip" in err
    assert not (tmp_path / "out.npz").exists()


def test_a_tar_archive_and_hidden_files(folder, tmp_path, call):
    (folder / "some" / "._HDM_xy.asf").write_bytes(b"a resource fork")
    archive = tmp_path / "mocap.tgz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, "mocap")
    status, out, _ = call(main, archive, "--output", tmp_path / "out.npz")
    assert status == 0 and "2 sequences, 6 frames" in out


def test_wrong_input_ends_in_one_line(folder, tmp_path, skeleton, call):
    output = tmp_path / "out.npz"
    asf = folder / "some" / "HDM_xy.asf"

    def refused(*flags):
        status, _, err = call(main, *flags, "--output", output)
        assert status == 2 and err.count("\n") == 1 and not output.exists()
        return err

    assert "is not there" in refused(tmp_path / "absent.zip")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 no archive")
    assert "broken.zip cannot be read" in refused(tmp_path / "broken.zip")
    (tmp_path / "empty").mkdir()
    assert "no .asf and .amc" in refused(tmp_path / "empty")
    assert "is no multiple of 50 Hz" in refused(folder, "--rate_out", "50")
    asf.write_text(asf_text(skeleton).replace("angle deg", "angle rad"))
    assert "HDM_xy.asf" in refused(folder)
    asf.unlink()
    assert "skeleton xy.asf" in refused(folder)


def test_an_existing_output_is_kept_unless_forced(folder, tmp_path, call):
    output = tmp_path / "out.npz"
    output.write_bytes(b"mine")
    status, _, err = call(main, folder, "--output", output)
    assert status == 2 and "--force" in err and output.read_bytes() == b"mine"
    assert call(main, folder, "--output", output, "--force")[0] == 0
    assert "xy" in load_object_array(output, "positions_3d")


@pytest.fixture
def second(tmp_path, skeleton, motion):
    """A folder of CMU's form: one person, three clips of 9 frames."""
    place = tmp_path / "cmu" / "07"
    place.mkdir(parents=True)
    (place / "07.asf").write_text(asf_text(skeleton))
    for trial in ("01", "02", "13"):
        (place / f"07_{trial}.amc").write_bytes(amc_text(motion).encode("latin-1"))
    return tmp_path / "cmu"


def test_several_sources_are_one_data_set_without_what_is_left_out(
    folder, second, tmp_path, skeleton, motion, call
):
    output = tmp_path / "out.npz"
    flags = ["--leave_out", "07_0[2-9]", "*sneak*", "--decimals", 3, "--rate_out", 120]
    assert call(main, folder, second, "--output", output, *flags)[0] == 0
    positions = load_object_array(output, "positions_3d")
    assert {who: [*clips] for who, clips in positions.items()} == {
        "xy": ["squat 7"],
        "07": ["clip 1", "clip 13"],
    }
    joints = positions["07"]["clip 13"]
    assert joints.dtype == np.float32 and len(joints) == 9
    expected = np.stack([expected_joints(skeleton, motion, frame) for frame in range(9)])
    assert 1e-4 < np.abs(joints - expected).max() < 0.00051  # rounded to millimetres


def test_a_person_of_two_sources_is_refused(folder, tmp_path, call):
    status, _, err = call(main, folder, folder, "--output", tmp_path / "out.npz")
    assert status == 2 and "subject xy is in another source too" in err and err.count("\n") == 1


def test_long_clips_are_cut_into_parts_that_together_are_the_clip(second, tmp_path, call):
    for longest, name in ((0, "whole"), (4, "parts"), (9, "same")):
        flags = ["--rate_out", 120, "--longest", longest, "--output", tmp_path / f"{name}.npz"]
        assert call(main, second, *flags)[0] == 0
    whole, parts, same = (
        load_object_array(tmp_path / f"{name}.npz", "positions_3d")["07"]
        for name in ("whole", "parts", "same")
    )
    assert [*whole] == [*same] == ["clip 1", "clip 2", "clip 13"]
    pieces = [parts[f"clip 2 part {number}"] for number in (1, 2, 3)]
    assert [len(piece) for piece in pieces] == [3, 3, 3]
    assert np.array_equal(np.concatenate(pieces), whole["clip 2"])
    status, _, err = call(main, second, "--longest", "-1", "--output", tmp_path / "no.npz")
    assert status == 2 and "--longest" in err and not (tmp_path / "no.npz").exists()
