"""The state of a training in a checkpoint."""

import pytest
import torch

import main_gcn
import opt
from common.errors import UserError
from tests.conftest import SLICE
from training.lifter import build_lifter
from training.training_state import restore_training_state

DATA = [*SLICE[: SLICE.index("-z")], "--device", "cpu"]
SMALL = ["-z", "8", "-l", "1"]


def test_a_state_that_does_not_fit_is_not_resumed(call, tmp_path):
    assert call(main_gcn.main, *DATA, *SMALL, "-e", 1, "-c", tmp_path, "--name", "run")[0] == 0
    checkpoint = torch.load(tmp_path / "run" / "ckpt_last.pth.tar", weights_only=True)
    args = opt.parse_gcn([*DATA, *SMALL])
    training = main_gcn.build_training(args, build_lifter(args, "main_gcn", None), epoch_steps=1)
    restore_training_state(training, "a.pth", checkpoint)
    doubled = [1.0]
    for _ in range(60):
        doubled = [doubled, doubled]  # torch would walk through all of it
    first = next(iter(checkpoint["optimizer"]["state"]))
    others = (torch.zeros(3, 3), torch.zeros(2, 2, 8, 2), torch.zeros(()), doubled, "text")
    for value in others:
        spoilt = dict(checkpoint["optimizer"])
        spoilt["state"] = spoilt["state"] | {first: spoilt["state"][first] | {"exp_avg": value}}
        with pytest.raises(UserError, match=r"a\.pth .*optimizer\.state of .*\.exp_avg is "):
            restore_training_state(training, "a.pth", checkpoint | {"optimizer": spoilt})
