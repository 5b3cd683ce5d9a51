"""The picture of learned adjacencies."""

import pytest
import torch

from common.skeleton import H36M_16
from models.build import build_model
from tools import plot_adjacency
from tools.plot_adjacency import share_without_bone


@pytest.fixture
def checkpoint(tmp_path):
    """Arguments of a network -> its file; ``adj2`` is the value of every learned entry."""

    def write(adj2=None, **arguments):
        arguments = {"joints": 16, "hid_dim": 8, "num_layers": 1, **arguments}
        model = build_model(arguments)
        if adj2 is not None:
            for name, parameter in model.named_parameters():
                if name.endswith("adj2"):
                    parameter.data.fill_(adj2)
        path = tmp_path / "c.pth.tar"
        torch.save({"state_dict": model.state_dict(), "model": arguments}, path)
        return path

    return write


@pytest.fixture
def shown(call, tmp_path):
    """The share that is printed of each panel; the picture is there."""

    def run(path) -> dict[str, str]:
        status, out, err = call(plot_adjacency.main, path, "--force")
        picture = tmp_path / "c_adjacency.png"
        assert (status, err) == (0, "") and picture.read_bytes().startswith(b"\x89PNG")
        _, *lines, written = out.splitlines()
        assert written == str(picture)
        return dict(line.rsplit(maxsplit=1) for line in lines)

    return run


def test_the_share_is_that_of_joints_without_a_bone(checkpoint, shown):
    layers = ["gconv_input.0.gconv", "gconv_layers.0.gconv1.gconv", "gconv_layers.0.gconv2.gconv",
              "gconv_output"]  # fmt: skip
    assert shown(checkpoint()) == dict.fromkeys(layers, "0%")
    # Rows of the skeleton sum to one: 16. Beside the diagonal 16 * 15 entries, 30 of them bones.
    share = 0.2 * (240 - 30) / (16 + 0.2 * 240)
    assert shown(checkpoint(adj2=0.2)) == dict.fromkeys(layers, f"{share:.0%}")
    assert shown(checkpoint(adj_modulation="none")) == dict.fromkeys(layers, "0%")


def test_every_hop_has_a_panel(checkpoint, shown):
    shares = shown(checkpoint(hops=2, adj_symmetric=False))
    assert len(shares) == 8 and shares["gconv_output, hop 1"] == "0%"
    assert shares["gconv_output, hop 2"] == "100%"
    model = build_model({"joints": 16, "hid_dim": 8, "hops": 2, "adj_modulation": "full"})
    first, second = model.adjacencies()["gconv_output"]
    assert first.diagonal().all() and not second.diagonal().any() and (second != 0).sum() == 240


def test_nothing_but_a_diagonal_has_no_share():
    assert share_without_bone(torch.eye(16), H36M_16) == 0.0


def test_a_row_is_what_a_joint_takes():
    model = build_model({"joints": 16, "hid_dim": 8, "num_layers": 1, "adj_symmetric": False})
    x = torch.zeros(1, 16, 2)
    x[0, 5] = 1.0
    layer = model.gconv_input[0].gconv
    taken = (layer(x) - layer(torch.zeros_like(x))).abs().sum(-1)[0] > 1e-3
    adjacency = model.adjacencies()["gconv_input.0.gconv"][0]
    assert torch.equal(taken, adjacency[:, 5] > 1e-3) and taken.sum() == 3


def test_what_cannot_be_shown_is_refused(checkpoint, call, tmp_path):
    def refused(*flags):
        status, _, err = call(plot_adjacency.main, *flags)
        assert status == 2 and err.startswith("error: ") and err.count("\n") == 1
        return err

    assert "is not there" in refused(tmp_path / "none.pth.tar")
    assert "no Modulated GCN" in refused(checkpoint(name="semgcn"))
    assert ".png" in refused(checkpoint(), "--out", "a.txt")
    (tmp_path / "a.png").touch()
    assert "--force" in refused(checkpoint(), "--out", tmp_path / "a.png")
