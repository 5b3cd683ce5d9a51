"""The optimisers, and the limit of weights."""

import pytest
import torch

import main_graph
import opt
from common.errors import UserError
from models.build import build_model
from tests.conftest import SLICE
from training.checkpoint import load_checkpoint
from training.optimizer import limit_weights
from training.settings import weight_decay

PARSERS = {"main_gcn": opt.parse_gcn, "main_graph": opt.parse_graph}
NOISY = [*SLICE, "--keypoints", "noisy", "--pro_train", "1"]


def test_weights_into_a_unit_are_limited():
    model = build_model({"name": "martinez", "joints": 16, "hid_dim": 8, "num_layers": 2})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    before = model.w1.weight.detach().clone()
    assert (before.norm(dim=1) > 1).any() and (model.w2.weight.norm(dim=1) > 0.5).all()
    limit_weights(optimizer, model, 1.0)
    model(torch.randn(4, 16, 2)).square().mean().backward()
    optimizer.step()
    after = model.w1.weight.detach()
    assert after.norm(dim=1).max() < 1 + 1e-5
    direction = torch.cosine_similarity(before, after, dim=1)
    assert torch.allclose(direction, torch.ones(8), atol=1e-4)
    small_ones = before.norm(dim=1) < 0.99
    assert torch.allclose(before[small_ones], after[small_ones], atol=1e-4)
    with pytest.raises(UserError, match="--model martinez"):
        limit_weights(
            optimizer,
            build_model({"name": "gcn", "joints": 16, "hid_dim": 8, "num_layers": 2}),
            1.0,
        )


def test_weight_decay_follows_the_optimiser():
    for flags, expected in (
        ([], 0.0),
        (["--weight_decay", "1e-4"], 0.0),  # as every published command has it, beside Adam
        (["--optimizer", "adamw"], 0.01),
        (["--optimizer", "SGD"], 1e-4),
        (["--optimizer", "AdamW", "--weight_decay", "0.1"], 0.1),
        (["--optimizer", "sgd", "--weight_decay", "0"], 0.0),
    ):
        for parse in PARSERS.values():
            assert weight_decay(parse(flags)) == expected, flags


def test_sgd_trains_and_resumes_bit_for_bit(call, tmp_path):
    flags = [*NOISY, "--optimizer", "SGD", "--learning_rate", "1e-3", "-c", tmp_path]
    for name, epochs in (("whole", 2), ("part", 1)):
        assert call(main_graph.main, *flags, "--name", name, "--nepoch", epochs)[0] == 0
    part = tmp_path / "part/ckpt_last.pth.tar"
    assert call(main_graph.main, "--resume", part, "--nepoch", 2, "--device", "cpu")[0] == 0
    a, b = (load_checkpoint(tmp_path / name / part.name) for name in ("whole", "part"))
    assert all(
        torch.equal(a["state_dict"][name], b["state_dict"][name]) for name in a["state_dict"]
    )
    group = a["optimizer"]["param_groups"][0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 1e-4)
