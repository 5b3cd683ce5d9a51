"""The non-local blocks against transcriptions of their formulas, joint by joint."""

import pytest
import torch
from torch import nn

from models.non_local import JOINT_PAIRS, EmbeddedNonLocal, GroupedNonLocal
from tests.conftest import randomise


def conv1x1(conv: nn.Module, joint: torch.Tensor) -> torch.Tensor:
    y = conv.weight.flatten(1) @ joint
    return y if conv.bias is None else y + conv.bias


def batch_norm(norm: nn.Module, joint: torch.Tensor) -> torch.Tensor:
    scaled = (joint - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)
    return scaled * norm.weight + norm.bias


def test_embedded_block_agrees_with_a_transcription():
    block = randomise(EmbeddedNonLocal(6)).eval()
    x = torch.randn(3, 17, 6)
    expected = torch.empty_like(x)
    for b in range(3):
        theta, phi, g = (
            torch.stack([conv1x1(c, joint) for joint in x[b]])
            for c in (block.theta, block.phi, block.g)
        )
        for i in range(17):
            weights = torch.softmax(torch.stack([theta[i] @ phi[j] for j in range(17)]), 0)
            y = sum(w * g[j] for j, w in enumerate(weights))
            expected[b, i] = x[b, i] + batch_norm(block.W[1], conv1x1(block.W[0], y))
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_grouped_block_agrees_with_a_transcription():
    block = randomise(GroupedNonLocal(6, 16)).eval()
    x = torch.randn(3, 16, 6)
    w = block.concat_project[0].weight.flatten()
    expected = torch.empty_like(x)
    for b in range(3):
        pooled = {
            name: [torch.maximum(conv1x1(c, x[b, p]), conv1x1(c, x[b, q])) for p, q in JOINT_PAIRS]
            for name, c in (("g", block.g[0]), ("phi", block.phi[0]))
        }
        for i in range(16):
            theta = conv1x1(block.theta, x[b, i])
            y = torch.zeros(3)
            for g, phi in zip(pooled["g"], pooled["phi"], strict=True):
                y = y + torch.relu(w @ torch.cat([theta, phi])) / 8 * g
            expected[b, i] = x[b, i] + batch_norm(block.W[1], conv1x1(block.W[0], y))
    assert torch.allclose(block(x), expected, atol=1e-5)


@pytest.mark.parametrize("block", [EmbeddedNonLocal(8), GroupedNonLocal(8, 16)])
def test_non_local_blocks_are_the_identity_at_initialisation(block):
    x = torch.randn(4, 16, 8)
    assert torch.equal(block(x), x)
