"""The script as its users call it, on a slice of the bundled data."""

import csv
import json
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch

import opt
from main_gcn import main
from models.build import build_model
from tests.conftest import ROOT, SLICE, as_published
from training.checkpoint import load_checkpoint


def weights_of(path) -> dict:
    return load_checkpoint(path)["state_dict"]


def assert_same_weights(a, b) -> None:
    a, b = weights_of(a), weights_of(b)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture
def train(call, tmp_path):
    def run(name, *flags):
        status, out, err = call(main, *SLICE, "-c", tmp_path, "--name", name, *flags)
        assert (status, err) == (0, ""), err
        return tmp_path / name, out

    return run


@pytest.mark.pictures
def test_a_run_leaves_its_folder_and_its_table(train):
    folder, out = train("run", "-e", 2, "--snapshot", 1)
    assert {path.name for path in folder.iterdir()} == {
        "options.json", "log.csv", "ckpt_best.pth.tar", "ckpt_last.pth.tar",
        "ckpt_epoch_001.pth.tar", "ckpt_epoch_002.pth.tar", "results.json", "curves.png",
        "poses.png", ".lock",
    }  # fmt: skip
    rows = list(csv.DictReader((folder / "log.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    results = json.loads((folder / "results.json").read_text())
    assert results["test_subjects"] == ["mm", "tr"] and results["dataset"] == "hdm05"
    assert results["missing_sequences"] == []
    last, best = results["results"]["last"], results["results"]["best"]
    assert last["epoch"] == 2 and "no choice" in last["chosen_by"]
    assert "test subjects" in best["chosen_by"]
    assert abs(float(rows[1]["mpjpe_mm"]) - last["mpjpe_mm"]) < 1e-9
    assert best["mpjpe_mm"] == min(float(row["mpjpe_mm"]) for row in rows)
    row = last["per_action"]["throwBasketball"]
    assert row["frames"] == results["test_poses"] == last["frames"]
    table = [line.split() for line in out.splitlines() if line.startswith("throwBasketball")]
    assert table[0][1] == f"{row['mpjpe_mm']:.2f}" and "these very test subjects" in out
    for picture in ("curves.png", "poses.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_evaluation_gives_the_figures_of_training(train, call, tmp_path):
    folder, _ = train("run", "-e", 2)
    expected = json.loads((folder / "results.json").read_text())["results"]
    for kind in ("last", "best"):
        status, out, err = call(
            main, *SLICE, "--eva", folder / f"ckpt_{kind}.pth.tar", "--results", tmp_path / "r.json"
        )
        assert (status, err) == (0, "")
        found = json.loads((tmp_path / "r.json").read_text())["results"]["evaluated"]
        for metric in ("mpjpe_mm", "p_mpjpe_mm"):
            assert abs(found[metric] - expected[kind][metric]) < 1e-4
        assert found["chosen_by"] == expected[kind]["chosen_by"] and found["chosen_by"] in out


def test_training_twice_gives_the_same_weights_and_another_seed_others(train):
    one, _ = train("one", "-e", 1, "--dropout", "0.1")
    two, _ = train("two", "-e", 1, "--dropout", "0.1")
    assert_same_weights(one / "ckpt_last.pth.tar", two / "ckpt_last.pth.tar")
    other, _ = train("other", "-e", 1, "--dropout", "0.1", "--seed", 1)
    with pytest.raises(AssertionError):
        assert_same_weights(one / "ckpt_last.pth.tar", other / "ckpt_last.pth.tar")


def test_stopping_and_resuming_gives_what_one_run_gives(train, call):
    flags = ["--dropout", "0.1", "--lr_decay", "7", "-b", "48", "--seed", "5"]
    whole, _ = train("whole", "-e", 3, *flags)
    part, _ = train("part", "-e", 1, *flags)
    last = part / "ckpt_last.pth.tar"
    torch.manual_seed(999)  # another process has another random state
    # The run's own flags come from the checkpoint: only the goal is given.
    status, out, err = call(main, "--resume", last, "--device", "cpu", "-e", 3)
    assert (status, err) == (0, "") and "epochs 1 -> 3" in out
    assert_same_weights(whole / "ckpt_last.pth.tar", last)
    a, b = load_checkpoint(whole / "ckpt_last.pth.tar"), load_checkpoint(last)
    assert a["step"] == b["step"] and a["lr"] == b["lr"]
    for i, state in a["optimizer"]["state"].items():
        assert all(torch.equal(v, b["optimizer"]["state"][i][k]) for k, v in state.items())
    assert torch.equal(a["random_state"]["cpu"], b["random_state"]["cpu"])
    rows = [list(csv.DictReader((f / "log.csv").open())) for f in (whole, part)]
    for key in ("epoch", "step", "lr", "loss", "mpjpe_mm", "p_mpjpe_mm"):
        assert [row[key] for row in rows[0]] == [row[key] for row in rows[1]]


def test_resuming_never_loses_later_epochs(train, call):
    folder, _ = train("run", "-e", 2, "--snapshot", 1)
    log = (folder / "log.csv").read_text()
    early = folder / "ckpt_epoch_001.pth.tar"
    status, _, err = call(main, *SLICE, "--resume", early, "-e", 5)
    assert status == 2 and "gone on to 2" in err
    status, _, err = call(main, "--resume", folder / "ckpt_last.pth.tar")
    assert status == 2 and "--epochs" in err
    assert (folder / "log.csv").read_text() == log


def test_a_published_checkpoint_is_tested_but_weights_alone_are_not_resumed(call, tmp_path):
    path = tmp_path / "published.pth.tar"
    model = build_model({"joints": 16, "hid_dim": 16, "num_layers": 1, "non_local": "grouped"})
    torch.save({"epoch": 30, "state_dict": model.state_dict()}, path)
    status, out, err = call(main, *SLICE, "--non_local", "--eva", path)
    assert (status, err) == (0, "") and "Mean of actions" in out
    status, _, err = call(main, *SLICE, "--non_local", "--resume", path, "-e", 40, "-c", tmp_path)
    assert status == 2 and "evaluated, not resumed" in err
    assert list(tmp_path.iterdir()) == [path]


def test_a_published_checkpoint_that_is_resumed_is_tested_first_and_may_stay_the_best(
    train, call, tmp_path
):
    first, _ = train("first", "-e", 2)
    before = load_checkpoint(first / "ckpt_last.pth.tar")["last"]
    path = as_published(tmp_path / "published.pth.tar", first / "ckpt_last.pth.tar", 38.4549)
    ruin = ["-e", 3, "--lr", 5, "--dropout", 0.1]  # what follows is worse
    folder, out = train("resumed", "--resume", path, *ruin)
    best = json.loads((folder / "results.json").read_text())["results"]["best"]
    assert best["epoch"] == 2 and best["chosen_by"].startswith("published.pth.tar as it was")
    assert {key: best[key] for key in before if key != "chosen_by"} == {
        key: value for key, value in before.items() if key != "chosen_by"
    }
    assert f"epoch 2, tested before it goes on: MPJPE {before['mpjpe_mm']:.2f} mm" in out
    over_frames = before["published_form"]["over_frames"]["mpjpe_mm"]
    assert f"mean over frames: {over_frames:.4f} / " in out
    assert "the file says 38.4549: its own figure" in out
    assert_same_weights(folder / "ckpt_best.pth.tar", path)
    assert [row["epoch"] for row in csv.DictReader((folder / "log.csv").open())] == ["3"]

    # The file that was saved is tested and resumed as any other.
    kept, results = folder / "ckpt_best.pth.tar", tmp_path / "r.json"
    status, out, err = call(main, *SLICE, "--eva", kept, "--results", results)
    assert (status, err) == (0, "") and best["chosen_by"] in out
    found = json.loads(results.read_text())["results"]["evaluated"]
    assert found["mpjpe_mm"] == pytest.approx(before["mpjpe_mm"], abs=1e-4)
    moved = kept.rename(tmp_path / "moved.pth.tar")
    again, out = train("again", "--resume", moved, *ruin)
    assert "the file says" not in out and "tested before" not in out
    assert_same_weights(again / "ckpt_last.pth.tar", folder / "ckpt_last.pth.tar")
    assert json.loads((again / "results.json").read_text())["results"]["best"] == best


def test_a_better_epoch_takes_the_place_of_the_file_that_was_resumed(train, tmp_path):
    first, _ = train("first", "-e", 1)
    path = as_published(tmp_path / "published.pth.tar", first / "ckpt_last.pth.tar", float("nan"))
    folder, out = train("resumed", "--resume", path, "-e", 12, "--lr", 0.01)
    best = load_checkpoint(folder / "ckpt_best.pth.tar")
    assert best["epoch"] > 1 and best["chosen_by"] == "lowest MPJPE on the test subjects"
    before = load_checkpoint(first / "ckpt_last.pth.tar")["last"]
    assert best["error"] == best["best"]["mpjpe_mm"] < before["mpjpe_mm"]
    assert "tested before it goes on" in out and "the file says" not in out


@pytest.fixture
def refused(call, tmp_path):
    """Call with flags that must end in one line and status 2, and write nothing."""
    runs = tmp_path / "runs"

    def run(*flags):
        before = sorted(path.name for path in tmp_path.rglob("*"))
        status, _, err = call(main, "-c", runs, *flags)
        assert status == 2
        assert err.count("\n") == 1 and err.startswith("error: ")
        assert sorted(path.name for path in tmp_path.rglob("*")) == before
        return err

    return run


def test_without_human36m_one_line_says_what_to_do(refused, tmp_path):
    err = refused("--dataset_dir", tmp_path)
    for text in ("data_3d_h36m.npz", "registration", "prepare", "--dataset hdm05"):
        assert text in err


def test_wrong_flags(refused):
    assert "unknown action 'Jumping'" in refused(*SLICE, "--actions", "Jumping")
    assert "--dataset" in refused("--dataset", "h37m")
    assert "a whole number from 1" in refused("--epochs", "0")
    assert "a number above 0" in refused("--lr", "nan")
    assert "16 joints" in refused(*SLICE, "--non_local", "--joints", "17")
    assert "--device" in refused(*SLICE, "--device", "gpu")
    assert "exclude" in refused("--evaluate", "a", "--resume", "b")
    assert "the name of a folder" in refused("--name", "../x")


def test_a_damaged_or_malicious_data_file(refused, tmp_path):
    bundled = (ROOT / "dataset/data_3d_hdm05.npz").read_bytes()
    (tmp_path / "data_3d_hdm05.npz").write_bytes(bundled[: len(bundled) // 2])
    assert "damaged" in refused(*SLICE, "--dataset_dir", tmp_path)

    proof = tmp_path / "executed"

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {proof}",)

    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }\n"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "data_3d_hdm05.npz", "w") as archive:
        archive.writestr("positions_3d.npy", member + pickle.dumps(Attack()))
    assert "refused" in refused(*SLICE, "--dataset_dir", tmp_path)
    assert not proof.exists()


def test_a_checkpoint_of_another_shape(refused, tmp_path):
    path = tmp_path / "wide.pth.tar"
    torch.save({"state_dict": build_model({"joints": 16, "hid_dim": 64}).state_dict()}, path)
    err = refused("--dataset", "hdm05", "--evaluate", path, "-z", "128")
    assert "hid_dim 64, not 128" in err and "give --hid_dim 64" in err
    err = refused("--dataset", "hdm05", "--evaluate", path, "-z", "64", "-j", "17", "-l", "2")
    assert "joints 16, not 17" in err and "num_layers 4, not 2" in err
    assert "is not there" in refused("--dataset", "hdm05", "--evaluate", tmp_path / "absent")


def test_an_existing_run_folder_is_never_used_again(train, call, tmp_path):
    folder, _ = train("run", "-e", 1)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    status, _, err = call(main, *SLICE, "-c", tmp_path, "--name", "run", "-e", 1)
    assert status == 2 and "--name" in err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_published_flags_and_defaults():
    args = opt.parse_gcn([])
    assert (args.dataset, args.keypoints, args.actions) == ("h36m", "gt", None)
    assert (args.num_layers, args.hid_dim, args.dropout, args.non_local) == (4, 128, 0.0, False)
    assert (args.batch_size, args.epochs, args.lr) == (64, 50, 1e-3)
    assert (args.lr_decay, args.lr_gamma, args.weight_l1) == (100_000, 0.96, 0.1)
    assert type(args.max_norm) is float and args.max_norm == 1.0  # a norm, not a switch
    assert (args.downsample, args.joints) == (1, 16)
    args = opt.parse_gcn([
        "-d", "hdm05", "-k", "gt", "-a", "squat,sneak", "-r", "CKPT", "-c", "DIR", "-l", "2",
        "-z", "64", "-b", "32", "-e", "7", "--snapshot", "3", "--lamda", "0.2", "--no_max",
        "--num_workers", "8", "--lr", "0.01", "--lr_decay", "10", "--lr_gamma", "0.5",
        "--non_local", "--dropout", "0.1", "--downsample", "2",
    ])  # fmt: skip
    assert args.actions == ["squat", "sneak"] and args.resume == "CKPT" and args.weight_l1 == 0.2
    assert type(args.max_norm) is float and args.max_norm == 0.0 and args.non_local is True
    assert opt.parse_gcn(["--weight_L1_norm", "0.3", "--eva", "X"]).weight_l1 == 0.3


def test_the_script_runs_from_any_folder(tmp_path):
    command = [sys.executable, ROOT / "main_gcn.py", "--evaluate", "absent.pth"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: absent.pth is not there: give a checkpoint file\n"
