"""Spoilt checkpoints are refused in one line, before anything of them is used.

CASES has a table of changes to whole checkpoints: the place, what is put there (a function gets
what was there), and what the line has to say.
"""

import copy

import numpy as np
import pytest
import torch

import main_gcn
import main_graph
import predict
from models.build import MODELS, build_model, size_of_network
from tests.conftest import SLICE
from training import load_data, report
from training.checkpoint import load_plain

SCRIPTS = {"main_gcn": main_gcn.main, "main_graph": main_graph.main}
GONE = object()  # put there, it takes the entry away
W, MEAN, VAR = (
    f"gconv_input.0.{name}" for name in ("gconv.W", "bn.running_mean", "bn.running_var")
)
TRACKED = "gconv_input.0.bn.num_batches_tracked"
HISTORY, STATE, GROUP = ("history", 0), ("optimizer", "state", 0), ("optimizer", "param_groups", 0)
NAN, INF, BIG = float("nan"), float("inf"), 10**9


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, NAN)


# For both --evaluate and --resume.
CASES = [
    (("epoch",), -1, "epoch is -1, not a whole number from 0"),
    (("epoch",), True, "epoch is True, not a whole number"),
    (("epoch",), 1.0, "epoch is 1.0, not a whole number"),
    (("epoch",), 10**5000, "it is damaged or holds more than tensors"),
    (("epoch",), "fi\x1bfty\n", r"epoch is 'fi\x1bfty\n'"),
    (("step",), None, "step is None"),
    (("lr",), NAN, "lr is nan"),
    (("error",), "50", "error is '50', not a number"),
    (("chosen_by",), "a\nb", r"chosen_by is 'a\nb', not a text"),
    (("state_dict",), [1], "holds no state dict"),
    (("state_dict", W), GONE, "it has more weights than the file"),
    (("state_dict", W), torch.zeros(2, 3, 16), "does not fit this network: 'Error(s) in loading "
     "state_dict for ModulatedGCN: size mismatch"),
    (("state_dict", "other"), torch.zeros(1), "Unexpected key(s)"),
    (("state_dict", W), with_nan, f"weights.{W} is a tensor (2, 2, 16) of float32, not a tensor of "
     "finite numbers"),
    (("state_dict", MEAN), lambda t: t.long(), f"{MEAN} is a tensor (16,) of int64"),
    (("state_dict", VAR), lambda t: t - 9, f"{VAR} is a tensor (16,) of float32, not a tensor of "
     "finite numbers from 0"),
    (("state_dict", TRACKED), torch.tensor(-1), f"{TRACKED} is a tensor () of int64"),
    (("state_dict", TRACKED), torch.tensor(0.5), "whole numbers from 0"),
    (("post_refine",), 3, "post_refine is 3, not a dict"),
    (("trained",), [], "trained is a list, not a dict"),
    (("optimizer",), 1, "optimizer is 1, not a dict"),
    ((*GROUP, "lr"), NAN, "optimizer.param_groups[0].lr is nan, not a finite number from 0"),
    ((*GROUP, "lr"), torch.tensor(1.0), "lr is a tensor () of float32"),
    ((*GROUP, "betas"), (0.9, 1.0), "betas is a tuple, not two numbers from 0 to below 1"),
    ((*GROUP, "betas"), (0.9,), "betas is a tuple, not two numbers from 0 to below 1"),
    ((*GROUP, "eps"), -1e-8, "eps is -1e-08"),
    ((*GROUP, "maximize"), True, "maximize is True, not False"),
    ((*GROUP, "amsgrad"), 1, "amsgrad is 1, not True or False"),
    (("random_state", "cpu"), torch.zeros(5056), "random_state.cpu is a tensor (5056,) of float32"),
    (("random_state", "cuda"), [3], "random_state.cuda[0] is 3, not the state of a generator"),
    (("random_state",), [], "random_state is a list"),
    (("model", "name"), "other", "model.name is 'other', not one of mgcn, semgcn"),
    (("model", "joints"), 25, "model.joints is 25, not one of 16, 17"),
    (("model", "hid_dim"), "16", "model.hid_dim is '16'"),
    (("model", "hid_dim"), 0, "model.hid_dim is 0, not a whole number from 1"),
    (("model", "num_layers"), True, "model.num_layers is True"),
    (("model", "dropout"), 1.0, "model.dropout is 1.0, not a number from 0 to below 1"),
    (("model", "hops"), BIG, "model.hops is 1000000000, not a whole number from 1 to 1000"),
    (("model", "non_local"), ["grouped"], "model.non_local is a list, not one of None, grouped"),
    (("model", "adj_modulation"), "plus", "model.adj_modulation is 'plus'"),
    (("model", "weight_modulation"), 1, "model.weight_modulation is 1, not True or False"),
    (("model", "norm_layer"), "x", "model.norm_layer is 'x', not one of batch, layer, group"),
    (("dataset", "name"), 5, "dataset.name is 5, not a text"),
    (("dataset", "train_subjects"), "S1", "dataset.train_subjects is 'S1', not a list"),
    (("options",), [], "options is a list, not a dict"),
    (("options", "lr"), torch.zeros(2), "options.lr is a tensor (2,) of float32"),
    (("options", "lr"), INF, "options.lr is inf"),
    (("options", "flip_test"), 1, "its option flip_test is 1: True expected"),
    (("options", "model"), "other", "its option model is 'other', not one of gcn, martinez"),
    (("options", "hid_dim"), "x", "its option hid_dim is 'x': an even number from 2 to"),
    (("options", "hid_dim"), 18, "has hid_dim 16, not 18 as the flags"),
    (("options", "joints"), None, "its option joints is None"),
    (("options", "camera_rays"), "yes", "its option camera_rays is 'yes': True or False expected"),
    (("history",), {}, "history is a dict, not a list"),
    ((*HISTORY, "loss"), NAN, "history[0].loss is nan, not a finite number"),
    ((*HISTORY, "loss"), GONE, "history[0].loss is missing"),
    ((*HISTORY, "other"), 1, "history[0].'other' is 1, not something that this program knows"),
    ((*HISTORY, "train_seconds"), -1.0, "history[0].train_seconds is -1.0"),
    ((*HISTORY, "step"), False, "history[0].step is False"),
    ((*HISTORY, "epoch"), 7, "history ends at another epoch or step"),
    (("history",), lambda rows: rows * 2, "history has epochs that do not follow each other"),
    (("last",), 1, "last is 1, not a dict"),
    (("last", "per_action"), {}, "best and its last are tests of other actions or metrics"),
    (("best", "mpjpe_mm"), NAN, "best.mpjpe_mm is nan"),
    (("best", "mpjpe_mm"), GONE, "best.mpjpe_mm is missing"),
    (("best", "frames"), 2.5, "best.frames is 2.5, not a whole number from 0"),
    (("best", "mean_over"), "days", "best.mean_over is 'days', not one of actions, frames"),
    (("best", "per_action", "throwBasketball", "mpjpe_mm"), "x",
     "best.per_action.throwBasketball.mpjpe_mm is 'x'"),
    (("best", "published_form", "mpjpe_mm"), INF, "best.published_form.mpjpe_mm is inf"),
    (("persons",), [1], "persons is a list, not a dict"),
    (("persons", "size"), GONE, "persons.size is missing"),
    (("persons", "size"), 0.0, "persons.size is 0.0, not a number from 1e-6"),
    (("persons", "other"), 1, "persons.'other' is 1, not something that this program knows"),
    (("persons", "ankle_height"), NAN, "persons.ankle_height is nan, not a finite number"),
    (("persons", "proportions", 0), -1.0, "persons.proportions[0] is -1.0, not a number from 1e-6"),
    (("persons", "length_sigmas", 2), 1e300, "persons.length_sigmas[2] is 1e+300, not a number"),
    (("persons", "proportions"), lambda lengths: [*lengths, 1.0], "persons.proportions has 1"),
    (("persons", "joint_sigmas"), [], "persons.joint_sigmas has 0 values, not 1"),
]  # fmt: skip
# What is not used by a test is not looked at there.
RESUMED = [
    ((*STATE, "exp_avg"), torch.zeros(3, 3),
     f"optimizer.state of {W}.exp_avg is (3, 3), not (2, 2, 16)"),
    ((*STATE, "exp_avg"), torch.zeros(()), "exp_avg is (), not (2, 2, 16)"),
    ((*STATE, "exp_avg"), GONE, f"optimizer.state of {W}.exp_avg is missing"),
    ((*STATE, "exp_avg"), with_nan, f"optimizer.state of {W}.exp_avg is a tensor"),
    ((*STATE, "exp_avg"), lambda t: t.long(), "exp_avg is a tensor (2, 2, 16) of int64"),
    ((*STATE, "exp_avg"), 1.0, "exp_avg is 1.0, not a tensor of finite numbers"),
    ((*STATE, "exp_avg_sq"), lambda t: t - 1, "not a tensor of finite numbers from 0"),
    ((*STATE, "step"), -1.0, "step is -1.0, not a finite number from 0"),
    ((*STATE, "step"), torch.zeros(2), "step is a tensor (2,) of float32"),
    (STATE, GONE, f"no optimizer.state of {W}"),
    (STATE, [], f"optimizer.state of {W} is a list, not a dict"),
    ((*GROUP, "params"), [0], "its state does not fit: ValueError"),
    (("optimizer", "param_groups"), [], "its state does not fit: ValueError"),
    (("optimizer",), GONE, "has no optimizer: it can be evaluated, not resumed"),
    (("random_state", "cpu"), lambda t: t[:9], "its state does not fit: RuntimeError"),
    (("random_state", "cpu"), torch.zeros_like, "its state does not fit: RuntimeError"),
    (("options", "lr"), "0.1", "its option lr is '0.1': 0.1 expected"),
    (("options", "lr"), -1.0, "its option lr is -1.0: a number above 0"),
    (("options", "lr"), None, "its option lr is None"),
    (("options", "epochs"), True, "its option epochs is True: a whole number from 1"),
    (("options", "batch_size"), 0, "its option batch_size is 0: a whole number from 1"),
    (("options", "optimizer"), "lion", "its option optimizer is 'lion', not one of adam"),
    (("options", "dataset"), "other", "its option dataset is 'other', not one of"),
    (("options", "keypoints"), 3, "its option keypoints is 3"),
    (("options", "dropout"), -1.0, "its option dropout is -1.0"),
]  # fmt: skip
OF_SCRIPT = [
    ("main_gcn", ("trained", "state_dict", W), with_nan, f"weights.{W} is a tensor"),
    ("main_gcn", ("trained", "state_dict", W), torch.zeros(1), "size mismatch"),
    ("main_gcn", ("trained",), GONE, "has no trained: it can be evaluated, not resumed"),
    ("main_graph", ("post_refine", "post_refine.0.bias"), with_nan, "post_refine.0.bias is a"),
    ("main_graph", ("post_refine", "post_refine.0.bias"), torch.zeros(3), "size mismatch"),
    ("main_graph", (*STATE, "max_exp_avg_sq"), GONE, "max_exp_avg_sq is missing"),
    ("main_graph", (*STATE, "max_exp_avg_sq"), torch.zeros(2), "max_exp_avg_sq is (2,), not"),
]  # fmt: skip
BY_TURNS = ("main_gcn", "main_graph")
# The first cases: once by either script and once in either mode; the next ones by turns.
TABLE = [
    *((BY_TURNS[n % 2], "--evaluate", *case) for n, case in enumerate(CASES)),
    *((BY_TURNS[1 - n % 2], "--resume", *case) for n, case in enumerate(CASES)),
    *((BY_TURNS[n % 2], "--resume", *case) for n, case in enumerate(RESUMED)),
    *((script, "--resume", *case) for script, *case in OF_SCRIPT),
]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """A checkpoint of a short training by each script: with a running average, with refinement."""
    folder = tmp_path_factory.mktemp("runs")
    flags = [*SLICE, "-e", "1", "-c", str(folder), "--name"]
    with pytest.MonkeyPatch.context() as patch:
        for picture in ("save_curves", "_draw_poses"):
            patch.setattr(report, picture, lambda *args: None)
        main_gcn.main([*flags, "main_gcn", "--ema", "0.9"])
        main_graph.main([*flags, "main_graph", "-k", "noisy", "--pro_train", "1", "--post_refine"])
    return {script: folder / script / "ckpt_last.pth.tar" for script in SCRIPTS}


@pytest.fixture(autouse=True)
def _data_are_read_once(monkeypatch):
    monkeypatch.setattr(load_data, "load_pose_datasets", _read_once)


_read = {}
_load = load_data.load_pose_datasets


def _read_once(*arguments, **options):
    key = repr((arguments[1:], options))
    if key not in _read:
        _read[key] = _load(*arguments, **options)
    return _read[key]


def spoil(content, place, new) -> None:
    for key in place[:-1]:
        content = content[key]
    if new is GONE:
        del content[place[-1]]
    else:
        old = content.get(place[-1]) if isinstance(content, dict) else content[place[-1]]
        content[place[-1]] = new(old) if callable(new) else new


def flags_of(how, path):
    return [how, path, "--device", "cpu", *(["-e", 2] if how == "--resume" else SLICE[:6])]


def refused(call, main, how, path) -> str:
    before = sorted(path.parent.iterdir())
    status, _, err = call(main, *flags_of(how, path))
    assert status == 2 and err.count("\n") == 1 and str(path) in err, err
    assert sorted(path.parent.iterdir()) == before
    return err


def test_each_spoilt_entry_is_named(call, wholes, tmp_path):
    """All cases in one test: a thousand parameters would take longer than what they do."""
    contents = {script: load_plain(path) for script, path in wholes.items()}
    for content in contents.values():
        content["best"] = copy.deepcopy(content["best"])  # of a single epoch it shares parts
    path = tmp_path / "ckpt.pth.tar"
    for script, how, place, new, line in TABLE:
        content = copy.deepcopy(contents[script])
        spoil(content, place, new)
        torch.save(content, path)
        err = refused(call, SCRIPTS[script], how, path)
        assert line in err, (script, how, place, err)


@pytest.mark.parametrize("script", SCRIPTS)
def test_whole_checkpoints_are_tested_and_resumed(call, wholes, tmp_path, script):
    content = load_plain(wholes[script])
    content["options"]["of_an_older_version"] = 3
    torch.save(content, tmp_path / "ckpt.pth.tar")
    for how in ("--evaluate", "--resume"):
        flags = [*flags_of(how, tmp_path / "ckpt.pth.tar"), "-c", tmp_path]
        keypoints = ["-k", "noisy"] if script == "main_graph" else []
        status, _, err = call(SCRIPTS[script], *flags, *keypoints)
        assert (status, err) == (0, ""), err


def test_a_run_is_not_resumed_by_the_other_script(call, wholes):
    for script, other in (("main_gcn", "main_graph"), ("main_graph", "main_gcn")):
        err = refused(call, SCRIPTS[other], "--resume", wholes[script])
        assert f"is of a run of {script}.py: resume it with that script" in err


def test_the_state_of_another_optimiser_is_refused(call, wholes, tmp_path):
    content = load_plain(wholes["main_gcn"])
    states = content["optimizer"]["state"]
    for number, state in states.items():
        states[number] = {"momentum_buffer": state["exp_avg"]}
    torch.save(content, tmp_path / "ckpt.pth.tar")
    err = refused(call, main_gcn.main, "--resume", tmp_path / "ckpt.pth.tar")
    assert f"optimizer.state of {W}.step is missing" in err


def test_networks_larger_than_their_weights_are_not_built(call, wholes, tmp_path, monkeypatch):
    """Nor is their number of layers counted to the end."""
    built = []
    monkeypatch.setattr("training.checkpoint.build_model", built.append)
    content = load_plain(wholes["main_gcn"])
    np.save(tmp_path / "k.npy", np.zeros((1, 16, 2), np.float32))
    path = tmp_path / "ckpt.pth.tar"
    for changed in ({"hid_dim": BIG}, {"hid_dim": 10**15}, {"num_layers": BIG}, {"hid_dim": 32},
                    {"rank": BIG, "adj_modulation": "lowrank"}):  # fmt: skip
        torch.save(content | {"model": content["model"] | changed}, path)
        flags = [tmp_path / "k.npy", "--weights", path, "--size", 9, 9]
        status, _, err = call(predict.main, *flags)
        assert status == 2 and err.count("\n") == 1 and f"{path} holds a network that" in err
    assert not built


def test_nothing_is_predicted_by_a_network_of_another_input_or_output(call, tmp_path):
    np.save(tmp_path / "k.npy", np.zeros((1, 16, 2), np.float32))
    for key, wrong in (("in_dim", 4), ("out_dim", 2)):
        network = build_model({"joints": 16, "hid_dim": 8, "num_layers": 1, key: wrong})
        torch.save(network.state_dict(), tmp_path / "a.pth")
        flags = [tmp_path / "k.npy", "--weights", tmp_path / "a.pth", "--size", 9, 9]
        status, _, err = call(predict.main, *flags)
        assert status == 2 and err.count("\n") == 1 and f"a.pth has {key} {wrong}, not" in err


@pytest.mark.parametrize("name", MODELS)
def test_the_size_of_a_network_is_that_of_its_state_dict(name):
    arguments = {"name": name, "joints": 16, "hid_dim": 8, "num_layers": 2}
    non_local = {} if name in ("martinez", "vp3d") else {"non_local": "grouped"}
    before = torch.get_rng_state()
    size = size_of_network(arguments | non_local)
    assert torch.equal(before, torch.get_rng_state())
    weights = build_model(arguments | non_local).state_dict()
    assert size == sum(t.numel() for t in weights.values())
