"""Tables and results.json of a run."""

import json

import main_gcn
import main_graph
from tests.conftest import SLICE
from training.checkpoint import load_checkpoint, save_checkpoint

ACTIONS = ["throwBasketball", "squat"]
FLAGS = [*SLICE, "--actions", ",".join(ACTIONS), "--downsample", "40"]


def test_refined_poses_have_a_line_of_their_own(call, tmp_path):
    flags = [*FLAGS, "-k", "noisy", "-c", tmp_path]
    train = ["--pro_train", 1, "--post_refine", "-e", 1, "--name", "run"]
    status, out, err = call(main_graph.main, *flags, *train)
    assert (status, err) == (0, ""), err
    lines = [line.split(", as")[0] for line in out.splitlines() if "nothing else moved" in line]
    assert lines == ["last, epoch 1", "best, epoch 1"]
    last, results = tmp_path / "run" / "ckpt_last.pth.tar", tmp_path / "r.json"
    status, out, err = call(main_graph.main, *flags, "--eva", last, "--results", results)
    assert (status, err) == (0, ""), err
    found = json.loads(results.read_text())["results"]
    for title, summary in found.items():
        form = summary["published_form"]
        figures = f"{form['mpjpe_mm']:.2f} / {form['p_mpjpe_mm']:.2f}"
        assert f"\n{title}, as the published code computes it: {figures} (joint 0 set to" in out
    assert found["xyz"]["published_form"] != found["post"]["published_form"]


def test_a_run_that_an_older_version_began_is_resumed_and_shows_what_it_has(call, tmp_path):
    flags = [*FLAGS, "-c", tmp_path, "--name", "run"]
    assert call(main_gcn.main, *flags, "-e", 1)[0] == 0
    last = tmp_path / "run" / "ckpt_last.pth.tar"
    state = load_checkpoint(last)
    for key in ("last", "best"):
        del state[key]["published_form"]
    state["best"]["mpjpe_mm"] = 1.0  # it stays the best
    save_checkpoint(last, state)
    status, out, err = call(main_gcn.main, "--resume", last, "-e", 2, "--device", "cpu")
    assert (status, err) == (0, "")
    lines = [line for line in out.splitlines() if "as the published code" in line]
    assert len(lines) == 2 and lines[0].startswith("last, epoch 2, as the published code computes")
    assert lines[1].startswith("best, epoch 1, as the published code computes it: - (")
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert "published_form" in results["last"] and "published_form" not in results["best"]
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert log[0] == "epoch,step,lr,loss,mpjpe_mm,p_mpjpe_mm,train_seconds,test_seconds"
