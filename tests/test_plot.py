"""Plots of networks and runs."""

from dataclasses import replace

import pytest
import torch

from common import visualize
from common.metrics import mpjpe
from common.skeleton import H36M_16
from models.build import build_model
from tests.conftest import SLICE
from tools import plot
from tools.plot import share_without_bone
from training.lifter import Lifter


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
        status, out, err = call(plot.main, "adjacency", path, "--force")
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
        status, _, err = call(plot.main, *flags)
        assert status == 2 and err.startswith("error: ") and err.count("\n") == 1
        return err

    assert "is not there" in refused("adjacency", tmp_path / "none.pth.tar")
    assert "no Modulated GCN" in refused("adjacency", checkpoint(name="semgcn"))
    assert "no weight modulation" in refused("modulation", checkpoint(weight_modulation=False))
    assert ".png" in refused("adjacency", checkpoint(), "--out", "a.txt")
    (tmp_path / "a.png").touch()
    assert "--force" in refused("adjacency", checkpoint(), "--out", tmp_path / "a.png")
    assert "no log.csv" in refused("curves", tmp_path)
    log = tmp_path / "run" / "log.csv"
    log.parent.mkdir()
    for content, why in (("epoch\n1\n", "cannot be read"), ("epoch,mpjpe_mm\n", "no tested"),
                         ("epoch,mpjpe_mm\n1,nan\n", "no tested")):  # fmt: skip
        log.write_text(content)
        assert why in refused("curves", log.parent, "-o", tmp_path / "new.png")


def test_curves_have_the_mean_of_each_group(call, tmp_path, monkeypatch):
    for name, errors in {"a/1": (9, 7, 5), "a/2": (7, 5), "b": (4, 3)}.items():
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rows = "".join(f"{epoch},{error}\n" for epoch, error in enumerate(errors, 1))
        (folder / "log.csv").write_text(f"epoch,mpjpe_mm\n{rows}")
    figures = []
    monkeypatch.setattr(visualize, "_save", lambda figure, path: figures.append(figure))
    status, _, err = call(plot.main, "curves", tmp_path / "a", tmp_path / "b")
    assert (status, err) == (0, "")
    thin_1, thin_2, mean, *_ = figures[0].axes[0].lines
    assert list(thin_1.get_ydata()) == [9, 7, 5] and list(thin_2.get_ydata()) == [7, 5]
    assert list(mean.get_xdata()) == [1, 2] and list(mean.get_ydata()) == [8, 6]
    assert "2 runs: 6.0 ± 1.4" in mean.get_label()


def test_modulations_have_a_panel_a_layer(checkpoint, call, tmp_path):
    path = checkpoint(hops=2)
    assert call(plot.main, "modulation", path)[0] == 0
    assert (tmp_path / "c_modulation.png").read_bytes().startswith(b"\x89PNG")


def test_errors_are_those_of_the_poses(checkpoint, call, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(plot, "save_errors", lambda *given: found.append(given))
    flags = ("--dataset", SLICE[1], "--downsample", 200)
    status, out, _ = call(plot.main, "errors", checkpoint(), *flags)
    _, errors, actions, names, skeleton = found[0]
    assert status == 0 and errors.shape == (len(actions), 16) and "Head" in out
    assert (errors[:, 0] == 0).all() and errors[:, 1:].min() > 0 and errors.max() < 5000
    # The panel has the mean of an action, and the curve the share of poses.
    figures = []
    monkeypatch.setattr(visualize, "_save", lambda figure, path: figures.append(figure))
    visualize.save_errors(tmp_path / "e.png", errors, actions, names, skeleton)
    grid, share, _ = figures[0].axes
    shown = torch.tensor(grid.images[0].get_array())
    assert torch.allclose(shown[0].float(), errors[actions == 0].mean(dim=0), atol=1e-3)
    curve = share.lines[0]
    half = (errors.mean(dim=1) <= curve.get_xdata()[len(errors) // 2]).float().mean()
    assert 100 * half == pytest.approx(curve.get_ydata()[len(errors) // 2], abs=3)


def test_poses_before_and_after_the_fit_are_drawn(checkpoint, call, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(plot, "save_poses", lambda *given: found.append(given))
    flags = ("--dataset", SLICE[1], "--downsample", 100)
    assert call(plot.main, "ray_fit", checkpoint(), *flags)[0] == 0
    _, inputs, poses, targets, titles, skeleton, up = found[0]
    assert len(titles) == len(poses) == 6 and "network" in titles[0] and "rays" in titles[1]
    assert torch.equal(inputs[::2], inputs[1::2]) and torch.equal(targets[::2], targets[1::2])
    gain = mpjpe(poses, targets).unflatten(0, (3, 2)).diff(dim=1)[:, 0]
    assert gain[0] > gain[1] > gain[2]  # the error falls least, as the median, most
    visualize.save_poses(tmp_path / "p.png", inputs, poses, targets, titles, skeleton, up)
    status, _, err = call(plot.main, "ray_fit", checkpoint(), *flags, "-k", "noisy", "--force")
    assert status == 0, err


def test_the_fit_is_not_drawn_where_it_cannot_be(checkpoint, call, monkeypatch):
    flags = ("--dataset", SLICE[1], "--downsample", 400)
    load = plot._on_data
    monkeypatch.setattr(plot, "_on_data", lambda args, source: _unknown(*load(args, source)))
    status, _, err = call(plot.main, "ray_fit", checkpoint(), *flags)
    assert status == 2 and "the cameras of hdm05 are not known: give another data set" in err
    monkeypatch.setattr(plot, "_on_data", load)
    monkeypatch.setattr(Lifter, "largest_fitted_sigma", 0.004)
    status, _, err = call(plot.main, "ray_fit", checkpoint(), *flags, "-k", "noisy")
    assert status == 2 and "the 2D joints are off by 10 px" in err and "give --keypoints gt" in err
    monkeypatch.setattr(plot, "SCREEN_SIGMAS", {"noisy": 0.02})
    status, _, err = call(plot.main, "ray_fit", checkpoint(), *flags)
    assert status == 2 and "--keypoints gt: the error of these 2D joints is not known" in err


def _unknown(lifter, data):
    return lifter, replace(data, intrinsics=data.intrinsics * torch.nan)
