"""Multiply-adds against those of the formulas."""

import torch

from models.build import MODELS, build_model
from models.costs import count_multiply_adds


def test_multiply_adds_are_those_of_the_formulas():
    J, C = 16, 128
    shapes = [(2, C), *[(C, C)] * 8, (C, 3)]
    two_weights = sum(2 * J * i * o + J * J * o for i, o in shapes)
    expected = {
        "mgcn": two_weights,
        "semgcn": two_weights,
        "unshared": two_weights,
        "gcn": sum(J * i * o + J * J * o for i, o in shapes),
        "martinez": 32 * 1024 + 4 * 1024**2 + 1024 * 48,
        "vp3d": 32 * 1024 + 8 * 1024**2 + 1024 * 48,
    }
    for name in MODELS:
        model = build_model({"joints": J, "name": name}).train()
        assert count_multiply_adds(model, torch.zeros(1, J, 2)) == expected[name], name
        assert model.training
    # Grouped block: theta and g, phi of all joints, the affinity's two terms, f g, and W.
    block = 3 * J * C * C // 2 + (J + J // 2) * C // 2 + J * J // 2 * C // 2 + J * C // 2 * C
    non_local = build_model({"joints": J, "name": "semgcn", "non_local": "grouped"})
    assert count_multiply_adds(non_local, torch.zeros(1, J, 2)) == two_weights + 5 * block
