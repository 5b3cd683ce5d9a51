"""What distinguishes runs, whatever is edited in ``opt.py``."""

import re

import pytest

import opt
from common.errors import UserError
from tests.conftest import edited_opt
from tools import sweep
from training import settings
from training.published_settings import SCRIPTS, distinguishing_settings

# (script, flags, the run's folder with seed 1) of sweeps from before ``opt.py`` could be edited.
KEPT = (
    ("main_gcn.py", {"dataset": "hdm05", "epochs": 10}, "a349ce4200c46b49"),
    (
        "main_gcn.py",
        {"dataset": "hdm05", "epochs": 10, "recipe": "strong", "warmup": 800, "batch_size": 64},
        "55b58bdc93e34b33",
    ),
    ("main_gcn.py", {"model": "semgcn"}, "81fea36872df6b25"),
    (
        "main_gcn.py",
        {"optimizer": "adamw", "weight_decay": 0.01, "lr_gamma": 0.9},
        "5c98cfd1c34d55db",
    ),
    (
        "main_graph.py",
        {"keypoints": "noisy", "non_local": False, "hid_dim": 128, "recipe": "strong"},
        "cb9a20ae41dda21a",
    ),
)
# Of these runs another thing is trained now.
NOT_KEPT = (
    ("main_gcn.py", {"non_local": True}, "8f8ca1d074cee785"),
    ("main_graph.py", {"non_local": False, "post_refine": True}, "50c4ed12a1d0a454"),
)


def test_the_runs_of_earlier_sweeps_keep_their_folders_unless_something_else_is_trained():
    for script, flags, folder in KEPT:
        assert sweep._jobs("row", script, flags, [1])[0].id == folder
    for script, flags, folder in NOT_KEPT:
        assert sweep._jobs("row", script, flags, [1])[0].id != folder


def test_runs_of_an_edited_table_are_other_runs():
    changed = edited_opt(('"lr": 1e-3', '"lr": 2e-3'))
    usual = distinguishing_settings("main_gcn", settings.settings_of(opt.parse_gcn([])))
    assert usual == {}
    found = distinguishing_settings("main_gcn", settings.settings_of(changed.parse_gcn([])))
    assert found == {"lr": 2e-3}
    typed = settings.settings_of(opt.parse_gcn(["--lr", "2e-3"]))
    assert distinguishing_settings("main_gcn", typed) == found
    back = settings.settings_of(changed.parse_gcn(["--lr", "1e-3"]))
    assert distinguishing_settings("main_gcn", back) == {}


def test_every_setting_is_known_to_the_frozen_tables():
    """A new flag that is not there would make every run of before another one."""
    for script in SCRIPTS:
        parse = {"main_gcn": opt.parse_gcn, "main_graph": opt.parse_graph}[script]
        flags = ["--pro_train=1", "--no-non_local"] if script == "main_graph" else []
        found = distinguishing_settings(script, settings.settings_of(parse(flags)))
        assert found == ({"non_local": False} if script == "main_graph" else {})


def test_published_settings_come_with_the_model_and_flags_win():
    args = opt.parse_gcn(["--model", "martinez", "--epochs", "3"])
    assert (args.hid_dim, args.num_layers, args.dropout) == (1024, 2, 0.5)
    assert (args.loss, args.weight_l1, args.batch_size, args.lr) == ("mse", 0.0, 64, 1e-3)
    assert args.max_weight_norm == 1.0 and args.epochs == 3
    args = opt.parse_gcn(["--model=semgcn"])
    assert (args.hid_dim, args.loss, args.weight_l1, args.epochs) == (128, "mse", 0.0, 50)
    assert (args.lr_decay, args.lr_gamma, args.max_norm) == (100_000, 0.96, 1.0)
    args = opt.parse_graph(["--model", "vp3d"])
    assert (args.loss, args.batch_size, args.lr_decay, args.large_decay_epoch) == (
        "mpjpe", 1024, 0.95, 1,
    )  # fmt: skip
    assert not args.non_local and args.joints == 17
    # A resumed run's own settings win over its model's.
    args = opt.parse_gcn([], defaults={"model": "semgcn", "lr": 0.5})
    assert args.model == "semgcn" and args.weight_l1 == 0.0 and args.lr == 0.5
    assert settings.departures(settings.settings_of(args), "main_gcn") == {"lr": 0.5}


def test_help_shows_the_published_settings_of_the_model(capsys):
    for flags, said in ((["--model", "vp3d"], "1024"), (["--model=gcn"], "64"), ([], "64")):
        with pytest.raises(SystemExit):
            opt.parse_gcn([*flags, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert f"over all processes of torchrun together (default: {said})" in shown


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"lr": 1e-3', '"lr": -1', "lr is -1: a number above 0"),
        ('"hid_dim": 128', '"hid_dim": 15', "hid_dim is 15: an even number"),
        ('"dropout": 0.0', '"dropout": None', "dropout is None"),
        ('"warmup": 0', '"warmpu": 0', "'warmpu' is no setting"),
        ('    "epochs": 50,  # passes over the training set\n', "", "epochs is missing"),
        ('"non_local": False', '"non_local": "yes"', "non_local is 'yes': True or False"),
    ],
)
def test_a_wrong_value_in_opt_is_named(old, new, said):
    with pytest.raises(UserError, match=re.escape(f"opt.py: {said}")):
        edited_opt((old, new)).parse_gcn([])


def test_a_recipe_or_a_model_in_the_table_brings_its_settings():
    args = edited_opt(('"recipe": None', '"recipe": "strong"')).parse_gcn([])
    typed = opt.parse_gcn(["--recipe", "strong"])
    assert settings.settings_of(args) == settings.settings_of(typed) and args.camera_rays
    args = edited_opt(('"model": "mgcn"', '"model": "semgcn"')).parse_gcn([])
    assert settings.settings_of(args) == settings.settings_of(opt.parse_gcn(["--model", "semgcn"]))
