"""Checkpoints from before torch 1.6: read whole, or refused without executing anything."""

import collections
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tarfile
import tracemalloc

import numpy as np
import pytest
import torch

from common.errors import UserError
from models.build import build_model
from tests import old_checkpoints as old
from tests.conftest import ROOT, randomise
from tests.old_checkpoints import legacy_file, numbers, row, state_dict, storage, tensor
from training.checkpoint import load_checkpoint, load_plain, load_weights


def python2_bytes(content) -> bytes:
    return old.python2_file(content)


def python3_bytes(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def zip_bytes(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


OLD_FORMS = [python2_bytes, python3_bytes]
FORMS = [*OLD_FORMS, zip_bytes]


def same(a, b) -> bool:
    """Equal to the last bit, types and all; an OrderedDict is a dictionary."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return [*a] == [*b] and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("write", OLD_FORMS)
def test_everything_plain_comes_back_as_it_was(tmp_path, write):
    whole = torch.arange(24.0).reshape(2, 3, 4)
    content = {
        "epoch": 30, "big": 2**40, "bigger": 2**80, "less": -5, "rate": 0.1, "yes": True,
        "none": None, "text": "caf\xe9", "tuple": (1, (2,), ()), "list": [1, [2], {}],
        "error": np.float64(38.25), 140_512_345_678_912: "a key",
        "views": [whole, whole[:, 1:], whole.permute(2, 0, 1), whole[1, ::2, ::3], whole[0, 0, 0]],
        "empty": torch.empty(3, 0), "strided": torch.arange(6.0)[::2],
        "types": [
            (torch.arange(5) % 2).to(kind)
            for kind in (torch.float64, torch.float16, torch.int64, torch.int32, torch.int16,
                         torch.int8, torch.uint8, torch.bool)
        ],
    }  # fmt: skip
    path = tmp_path / "a.pth"
    path.write_bytes(write(content))
    found = load_plain(path)
    assert same(content, found)
    views = found["views"]
    assert len({view.untyped_storage().data_ptr() for view in views}) == 1
    views[0].zero_()  # memory of its own, which can be written
    assert not any(view.any() for view in views)


def test_bfloat16_and_parameters(tmp_path):
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    content = {"half": torch.arange(3).bfloat16(), "weight": weight}
    (tmp_path / "a.pth").write_bytes(python3_bytes(content))
    found = load_plain(tmp_path / "a.pth")
    assert same(content["half"], found["half"]) and torch.equal(found["weight"], weight)
    assert type(found["weight"]) is torch.Tensor and not found["weight"].requires_grad


def test_the_file_of_python_2_is_one_that_torch_reads_and_refuses_to_read_safely(tmp_path):
    weights = collections.OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.arange(3))
    content = {"error": np.float64(40.5), "id": 2**40, "state_dict": weights}
    (tmp_path / "a.pth").write_bytes(old.python2_file(content))
    options = {"map_location": "cpu", "weights_only": False, "encoding": "latin1"}
    found = torch.load(tmp_path / "a.pth", **options)  # our own file, made above
    assert same(content, found) and same(load_plain(tmp_path / "a.pth"), found)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pth", map_location="cpu", weights_only=True)


def test_the_opcodes_are_those_of_python_2():
    content = collections.OrderedDict(id=140_512_345_678_912, long="x" * 300)
    opcodes = set()
    stream = io.BytesIO(old.python2_file(content))
    for _ in range(5):
        opcodes |= {opcode.name for opcode, _, _ in pickletools.genops(stream)}
    assert {"INT", "SHORT_BINSTRING", "BINSTRING", "LONG1"} <= opcodes
    assert not opcodes & {"BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}


NETWORKS = {
    "mgcn": {"name": "mgcn"},
    "grouped": {"name": "mgcn", "non_local": "grouped"},
    "semgcn": {"name": "semgcn", "non_local": "grouped"},
    "embedded": {"name": "mgcn", "joints": 17, "non_local": "embedded"},
    "linear": {"name": "martinez", "predict_root": False},
}


def renamed(weights, prefix="", semgcn=False):
    """A state dict under the names of others, with its versions as torch keeps them."""
    found = collections.OrderedDict(
        (prefix + (name.replace(".non_local.", ".nonlocal.") if semgcn else name), tensor)
        for name, tensor in weights.items()
    )
    found._metadata = collections.OrderedDict({"": {"version": 1}})
    return found


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_networks_of_others_give_the_outputs_they_were_made_from(tmp_path, write, kind, prefix):
    arguments = {"joints": 16, "hid_dim": 8, "num_layers": 2} | NETWORKS[kind]
    model = randomise(build_model(arguments)).eval()
    weights = renamed(model.state_dict(), prefix, semgcn=kind == "semgcn")
    dressed = {"epoch": 3, "error": np.float64(40.5), "state_dict": weights}
    (tmp_path / "a.pth").write_bytes(write(dressed if prefix else weights))
    found = load_checkpoint(tmp_path / "a.pth")
    assert arguments.items() <= found["model"].items()
    fresh = build_model(found["model"])
    load_weights("a.pth", fresh, found["state_dict"])
    x = torch.randn(4, arguments["joints"], 2)
    assert torch.equal(fresh.eval()(x), model(x))


@pytest.mark.parametrize("write", FORMS)
def test_grouped_blocks_load_from_either_form(tmp_path, write):
    arguments = {"joints": 16, "hid_dim": 8, "num_layers": 1, "non_local": "grouped"}
    model = randomise(build_model(arguments)).eval()
    weights = {
        name: tensor.unsqueeze(-1) if ".non_local." in name and tensor.dim() == 3 else tensor
        for name, tensor in model.state_dict().items()
    }
    assert weights["gconv_input.1.non_local.theta.weight"].shape == (4, 8, 1, 1)
    (tmp_path / "a.pth").write_bytes(write(weights))
    found = load_checkpoint(tmp_path / "a.pth")
    assert arguments.items() <= found["model"].items()
    fresh = build_model(found["model"])
    load_weights("a.pth", fresh, found["state_dict"])
    x = torch.randn(4, 16, 2)
    assert torch.equal(fresh.eval()(x), model(x))
    weights["gconv_input.1.non_local.theta.weight"] = torch.zeros(4, 8, 2)
    with pytest.raises(UserError, match="does not fit"):
        load_weights("a.pth", fresh, weights)


def test_the_root_is_put_back_as_zero():
    whole = randomise(build_model({"name": "martinez", "joints": 16, "hid_dim": 8})).eval()
    rootless = build_model({"name": "martinez", "joints": 16, "hid_dim": 8, "predict_root": False})
    weights = whole.state_dict()
    for name in ("w2.weight", "w2.bias"):
        weights[name] = weights[name][3:]
    assert len(weights["w2.bias"]) == 45
    rootless.load_state_dict(weights)
    x = torch.randn(5, 16, 2)
    expected = whole(x)
    expected[:, 0] = 0
    assert torch.allclose(rootless.eval()(x), expected, atol=1e-6)


def big(count: int) -> bytes:
    return b"I%d\n" % count


FLOAT = b"ctorch\nFloatStorage\n"
LIES = {
    "kind": storage(kind=b"S'module'\n"),
    "short": row(b"S'storage'\n", FLOAT, b"S'0'\n") + b"Q",
    "text": b"S'abcdef'\nQ",
    "line": b"Pabcdef\n",
    "type": storage(dtype=b"ctorch._utils\n_rebuild_tensor\n"),
    "class": storage(dtype=b"cnumpy\nndarray\n"),
    "module": storage(dtype=b"ctorch\nload\n"),
    "key": storage(key=b"I0\n"),
    "many keys": storage(key=b"(S'0'\nt"),
    "other key": storage(key=b"S'1'\n"),
    "negative": storage(numel=big(-6)),
    "boolean": storage(numel=b"I01\n"),
    "more": storage(numel=big(7)),
    "fewer": storage(numel=big(5)),
    "huge": storage(numel=big(2**62)),
    "fraction": storage(numel=b"F6.0\n"),
    "wider": storage(dtype=b"ctorch\nDoubleStorage\n"),
    "view": storage(view=row(b"S'1'\n", big(4), big(3))),
    "huge view": storage(view=row(b"S'1'\n", big(0), big(2**62))),
    "negative view": storage(view=row(b"S'1'\n", big(-1), big(6))),
    "view of text": storage(view=b"S'abc'\n"),
}
SHAPES = {
    "beyond": tensor(offset=big(1)),
    "negative offset": tensor(offset=big(-1)),
    "huge offset": tensor(offset=big(2**62)),
    "negative size": tensor(size=numbers(-2, -3)),
    "huge size": tensor(size=numbers(2**40, 2**40)),
    "overflowing size": tensor(size=numbers(2**32, 2**32), stride=numbers(0, 0)),
    "negative stride": tensor(offset=big(5), stride=numbers(-3, -1)),
    "huge stride": tensor(stride=numbers(2**62, 1)),
    "expanded": tensor(size=numbers(10**6, 6), stride=numbers(0, 1)),
    "overlapping": tensor(size=numbers(3, 3), stride=numbers(1, 1)),
    "one size": tensor(size=numbers(6)),
    "many sizes": tensor(size=numbers(*[1] * 70), stride=numbers(*[1] * 70)),
    "no tuple": tensor(size=b"](I2\nI3\ne"),
    "booleans": tensor(size=row(b"I01\n", b"I6\n")),
    "infinite empty": tensor(size=numbers(0, 2**70), stride=numbers(1, 1)),
    "no storage": tensor(of=b"N"),
    "storage type": tensor(of=FLOAT),
    "conjugate": b"ctorch._utils\n_rebuild_tensor_v2\n"
    + row(storage(), big(0), numbers(6), numbers(1), b"I00\n", b"N", b"}S'conj'\nI01\ns")
    + b"R",
    "parameter of none": b"ctorch._utils\n_rebuild_parameter\n" + row(b"N", b"I00\n", b"N") + b"R",
}
TRICKS = {
    "bare storage": storage(),
    "bare type": row(tensor(), FLOAT),
    "bare function": row(tensor(), b"ctorch._utils\n_rebuild_tensor\n"),
    "called type": FLOAT + b"(tR",
    "new of a type": FLOAT + b"(t\x81",
    "instance of a type": b"(" + FLOAT + b"o",
    "state of a type": FLOAT + b"}S'dtype'\nS'x'\nsb",
    "state of a tensor": tensor() + b"}S'__class__'\nNsb",
    "setstate of a tensor": tensor() + b"}S'__setstate__'\ncos\nsystem\nsb",
    "state of a function": b"ctorch._utils\n_rebuild_tensor\n}S'__globals__'\n}sb",
    "state of a storage": storage() + b"}S'values'\nNsb",
    "state of a dict": b"}}S'a'\nNsb",
    "state of nothing": b"Nb",
    "slots": tensor() + b"N}S'view'\nNs\x86b",
    "bytes": b"ctorch.storage\n_load_from_bytes\n(S'x'\ntR",
    "load": b"ctorch\nload\n(S'/dev/null'\ntR",
    "attribute": b"ctorch\n_utils._rebuild_tensor\n",
    "stacked": b"\x8c\x02os\x8c\x06system\x93",
    "a tensor as a key": b"}" + tensor() + b"NsS'b'\n0",
    "no pairs": b"ccollections\nOrderedDict\n(S'abc'\ntR",
    "tuples as keys": b"ccollections\nOrderedDict\n(]](I1\ntaI2\naatR",
}
FILES = {
    "no values": legacy_file(state_dict(tensor()), storages=()),
    "cut": legacy_file(state_dict(tensor()), storages=[(6, bytes(23))]),
    "other count": legacy_file(state_dict(tensor()), storages=[(5, bytes(24))]),
    "negative count": legacy_file(state_dict(tensor()), storages=[(-6, bytes(24))]),
    "huge count": legacy_file(state_dict(tensor()), storages=[(2**62, bytes(24))]),
    "no keys": legacy_file(state_dict(tensor()), keys=()),
    "twice": legacy_file(state_dict(tensor()), keys=["0", "0"], storages=2 * [(6, bytes(24))]),
    "unknown": legacy_file(state_dict(tensor()), keys=["1"]),
    "keys of keys": legacy_file(state_dict(tensor()), keys=[["0"]]),
    "version": legacy_file(state_dict(tensor()), version=1002),
    "huge storage": legacy_file(
        state_dict(tensor(of=storage(numel=big(2**40)))), storages=[(2**40, bytes(24))]
    ),
    "two kinds": legacy_file(
        b"\x80\x02(" + storage() + storage(dtype=b"ctorch\nIntStorage\n") + b"t."
    ),
    "huge bytes": legacy_file(b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"abc."),
    "huge text": legacy_file(b"\x80\x04\x8d" + struct.pack("<Q", 2**36) + b"abc."),
    "huge frame": legacy_file(b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N."),
    "empty": b"",
    "no magic": b"\x80\x02K\x01." + legacy_file(state_dict(tensor())),
    "only magic": legacy_file(b"")[:15],
    "deep": legacy_file(b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".", (), ()),
}


def test_the_parts_of_the_hostile_files_make_a_good_one(tmp_path):
    """Else they would be refused for another reason."""
    values = np.arange(6, dtype=np.float32)
    content = state_dict(tensor())
    (tmp_path / "a.pth").write_bytes(legacy_file(content, storages=[(6, values.tobytes())]))
    found = load_plain(tmp_path / "a.pth")
    assert torch.equal(found["a"], torch.arange(6.0).reshape(2, 3))
    view = storage(view=row(b"S'1'\n", big(2), big(4)))
    part = tensor(of=view, offset=big(1), size=numbers(3), stride=numbers(1))
    (tmp_path / "a.pth").write_bytes(
        legacy_file(state_dict(part), storages=[(6, values.tobytes())])
    )
    assert torch.equal(load_plain(tmp_path / "a.pth")["a"], torch.arange(3.0, 6.0))


HOSTILE = FILES | {
    f"{group}: {name}": legacy_file(state_dict(item))
    for group, items in (
        ("storage", {name: tensor(of=lie) for name, lie in LIES.items()}),
        ("tensor", SHAPES),
        ("trick", TRICKS),
    )
    for name, item in items.items()
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_lie_are_refused_and_take_no_memory(tmp_path, monkeypatch, name):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("executed"))
    path = tmp_path / "a.pth"
    path.write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="nothing in it was executed"):
            load_plain(path)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("number", range(17))
def test_programs_are_refused_wherever_they_stand(tmp_path, number):
    canary, path = tmp_path / "canary", tmp_path / "a.pth"
    program = old.hostile_pickles(canary)[number]
    sound = [pickle.dumps(part, 2) for part in (old.MAGIC, 1001, old.MACHINE)]
    sound += [state_dict(tensor()), pickle.dumps(["0"], 2)]
    files = [[*sound[:n], program, *sound[n + 1 :]] for n in range(len(sound))]
    files.append([*sound[:3], state_dict(program.removesuffix(b".")), sound[4]])
    values = (6).to_bytes(8, "little") + bytes(24)
    path.write_bytes(b"".join(sound) + values)
    assert [*load_plain(path)] == ["a"]
    for parts in files:
        path.write_bytes(b"".join(parts) + values)
        with pytest.raises(UserError, match="nothing in it was executed"):
            load_plain(path)
    assert not canary.exists()


def test_the_state_of_a_state_dict_is_left_out(tmp_path):
    """Its versions are; nothing else can come in with them."""
    state = b"}(S'_metadata'\nNS'__class__'\nNS'update'\nNu"
    program = b"\x80\x02ccollections\nOrderedDict\n)RS'a'\n" + tensor() + b"s" + state + b"b."
    (tmp_path / "a.pth").write_bytes(legacy_file(program))
    found = load_plain(tmp_path / "a.pth")
    assert type(found) is dict and [*found] == ["a"]


def test_a_tar_file_of_the_first_torch_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.pth", "w") as file:
        for name in ("storages", "tensors", "pickle"):
            file.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError, match="nothing in it was executed"):
        load_checkpoint(tmp_path / "a.pth")


def test_lists_that_double_at_every_level_do_not_hang(tmp_path):
    """In a process of its own, which can be ended."""
    lists = old.doubling(b"]", b"0](??e")
    files = {
        "object": b"\x80\x02" + lists + b".",
        "state": b"\x80\x02}S'state_dict'\n" + lists + b"s.",
        "tuples": b"\x80\x02" + old.doubling(b")", b"0??\x86") + b".",
        "key": b"\x80\x02}" + old.doubling(b")", b"0??\x86") + b"Ns.",
        "pairs": b"\x80\x02ccollections\nOrderedDict\n"
        + old.doubling(b")", b"0??\x86")
        + b"N\x86\x85\x85R.",
    }
    for name, program in files.items():
        (tmp_path / name).write_bytes(legacy_file(program, keys=(), storages=()))
    reading = "import sys; sys.path.insert(0, sys.argv[1])\n" + (
        "from training.checkpoint import load_checkpoint\nfrom common.errors import UserError\n"
        "for path in sys.argv[2:]:\n"
        "    try: load_checkpoint(path)\n"
        "    except UserError: print('refused')\n"
    )
    command = [sys.executable, "-c", reading, str(ROOT), *(str(tmp_path / name) for name in files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["refused"] * len(files)


@pytest.mark.parametrize("write", OLD_FORMS)
def test_files_that_end_early_are_refused(tmp_path, write):
    whole = write({"state_dict": build_model({"joints": 16, "hid_dim": 8}).state_dict()})
    for size in (1, 14, 15, 60, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.pth").write_bytes(whole[:size])
        with pytest.raises(UserError, match="nothing in it was executed"):
            load_checkpoint(tmp_path / "a.pth")
