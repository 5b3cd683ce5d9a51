import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from common.errors import UserError
from data.npz_io import load_object_array, save_object_arrays


def write_npz(path, payload: bytes, shape: str = "()") -> None:
    """An npz whose array is an object array with the given pickle."""
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + payload
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("positions_3d.npy", member)


def boxed(value) -> np.ndarray:
    box = np.empty((), dtype=object)
    box[()] = value
    return box


CONTENT = {
    "S1": {
        "Walking 1": np.arange(24, dtype=np.float32).reshape(2, 4, 3),
        "Fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "views": [np.zeros((2, 2)), np.ones((3, 2)), np.ones((3, 2))],
        "swapped": np.arange(3, dtype=">i4"),
        "scalar": np.float64(2.5),
        "nested": np.array([boxed(1), boxed("a")], dtype=object),
        "plain": (1, "text", None, True, 2.5, [b"bytes"]),
    }
}


def assert_same(found, expected) -> None:
    if isinstance(expected, np.ndarray) and expected.dtype != object:
        assert found.dtype == expected.dtype and np.array_equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list):
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    elif not isinstance(expected, np.ndarray):
        assert found == expected


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_reads_what_numpy_pickles_by_every_protocol(tmp_path, protocol):
    write_npz(tmp_path / "a.npz", pickle.dumps(boxed(CONTENT), protocol=protocol))
    assert_same(load_object_array(tmp_path / "a.npz", "positions_3d"), CONTENT)


def test_reads_what_numpy_itself_saves_and_what_we_save(tmp_path):
    np.savez_compressed(tmp_path / "numpy.npz", positions_3d=boxed(CONTENT))
    save_object_arrays(tmp_path / "ours.npz", positions_3d=CONTENT, metadata={"num_joints": 17})
    for name in ("numpy.npz", "ours.npz"):
        assert_same(load_object_array(tmp_path / name, "positions_3d"), CONTENT)
    assert load_object_array(tmp_path / "ours.npz", "metadata") == {"num_joints": 17}
    theirs = np.load(tmp_path / "ours.npz", allow_pickle=True)["positions_3d"].item()
    for name in ("Walking 1", "views", "plain"):  # numpy's own reader understands our files
        assert_same(theirs["S1"][name], CONTENT["S1"][name])


def test_plain_arrays_are_read_too(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(6).reshape(2, 3))
    assert np.array_equal(load_object_array(tmp_path / "a.npz", "x"), [[0, 1, 2], [3, 4, 5]])


class Attack:
    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path, protocol):
    proof = tmp_path / "executed"
    attacks = [
        Attack(os.system, f"touch {proof}"),
        Attack(eval, f"open({str(proof)!r}, 'w')"),
        Attack(np.load, str(proof)),
        Attack(getattr, dict, "fromkeys"),
    ]
    for number, attack in enumerate(attacks):
        path = tmp_path / f"{number}.npz"
        write_npz(path, pickle.dumps(boxed({"S1": attack}), protocol=protocol))
        with pytest.raises(UserError, match=r"refused.*nothing in it was executed"):
            load_object_array(path, "positions_3d")
    assert not proof.exists()


def test_a_pickle_cannot_reach_into_our_own_stand_ins(tmp_path):
    # GLOBAL numpy.ndarray, then BUILD with a state that would set attributes of the class.
    payload = b"\x80\x02cnumpy\nndarray\nN}X\x05\x00\x00\x00valueK\x01s\x86b."
    write_npz(tmp_path / "a.npz", payload)
    with pytest.raises(UserError, match="refused"):
        load_object_array(tmp_path / "a.npz", "positions_3d")
    write_npz(tmp_path / "b.npz", pickle.dumps(boxed(CONTENT)))
    assert_same(load_object_array(tmp_path / "b.npz", "positions_3d"), CONTENT)


@pytest.mark.parametrize(
    "value",
    [np.zeros(2, dtype=[("a", "f4")]), np.array(["2020"], dtype="M8[D]"), range(3), np.float32],
)
def test_other_content_is_refused(tmp_path, value):
    write_npz(tmp_path / "a.npz", pickle.dumps(boxed(value)))
    with pytest.raises(UserError, match="refused"):
        load_object_array(tmp_path / "a.npz", "positions_3d")


def test_a_type_that_lies_about_its_content_is_an_error(tmp_path):
    """The flags of a dtype in a pickle can turn bytes into pointers in numpy's own reader."""
    honest = pickle.dumps(boxed(np.arange(4, dtype="f8")), protocol=2)
    for lie in (honest.replace(b"f8", b"O8"), honest.replace(b"f8", b"f4")):
        assert lie != honest
        write_npz(tmp_path / "a.npz", lie)
        with pytest.raises(UserError):
            load_object_array(tmp_path / "a.npz", "positions_3d")


def test_damage_at_any_place_ends_in_one_error(tmp_path):
    save_object_arrays(tmp_path / "whole.npz", positions_3d=CONTENT)
    whole = (tmp_path / "whole.npz").read_bytes()
    for length in range(0, len(whole), 37):
        (tmp_path / "part.npz").write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged"):
            load_object_array(tmp_path / "part.npz", "positions_3d")


def test_missing_file_and_missing_key_are_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.npz is not there"):
        load_object_array(tmp_path / "absent.npz", "positions_3d")
    np.savez(tmp_path / "a.npz", other=np.zeros(1))
    with pytest.raises(UserError, match=r"no array 'positions_3d'.*other"):
        load_object_array(tmp_path / "a.npz", "positions_3d")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.npz"
    save_object_arrays(path, positions_3d=CONTENT)
    before = path.read_bytes()

    class Unpicklable:
        def __reduce__(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        save_object_arrays(path, positions_3d=Unpicklable())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert io.BytesIO(before).read(2) == b"PK"
