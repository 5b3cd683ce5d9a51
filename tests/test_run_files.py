"""What a run does where its files cannot be written, are taken, or are not whole."""

import json
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch

import main_gcn
import main_graph
from common.errors import UserError
from common.files import write_bytes
from common.lock import FolderLock
from common.own_json import marked, refuse_other_json, write_json
from tests.conftest import SLICE
from training import run_files
from training.checkpoint import load_checkpoint
from training.published_files import ModelFiles

TINY = [*SLICE, "-z", "8", "--downsample", "60"]
NOISY = [*TINY, "--keypoints", "noisy", "--pro_train", 1, "--save_model", 1]


def at_epoch(monkeypatch, module, actions):
    """Do something before an epoch is trained: {epoch: what}."""
    train = module.train_one_epoch

    def wrapped(training, loader, start, *args):
        actions.get(start.epoch, lambda: None)()
        return train(training, loader, start, *args)

    monkeypatch.setattr(module, "train_one_epoch", wrapped)


def break_folder(monkeypatch, folder):
    """Every write into this folder fails, as on a full disk."""

    def write(path, content):
        if path.parent == folder:
            raise UserError(f"cannot write {path}: No space left on device")
        write_bytes(path, content)

    monkeypatch.setattr(run_files, "write_bytes", write)


@pytest.fixture
def train(call, tmp_path):
    def run(name, *flags, main=main_gcn.main):
        return call(main, *TINY, "-c", tmp_path / "runs", "--name", name, *flags)

    return run


def assert_same_weights(a, b) -> None:
    a, b = load_checkpoint(a), load_checkpoint(b)
    assert a["epoch"] == b["epoch"] and a["best"]["epoch"] == b["best"]["epoch"]
    assert all(torch.equal(t, b["state_dict"][name]) for name, t in a["state_dict"].items())


def test_a_full_disk_is_a_warning_and_what_was_not_saved_is_tried_again(
    train, tmp_path, monkeypatch
):
    assert train("whole", "-e", 3, "--snapshot", 2)[0] == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    small = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # noqa: E731
    at_epoch(monkeypatch, main_gcn, {2: lambda: small(8192), 3: lambda: small(before[0])})
    try:
        status, out, err = train("full", "-e", 3, "--snapshot", 2)
    finally:
        small(before[0])
    assert status == 0 and "epoch 3/3" in out
    assert err.startswith("warning: cannot write ") and err.count("\n") == 1
    assert "File too large; the next save tries it again" in err
    whole, full = (tmp_path / "runs" / name for name in ("whole", "full"))
    assert {p.name for p in whole.iterdir()} == {p.name for p in full.iterdir()}
    for name in ("ckpt_last.pth.tar", "ckpt_best.pth.tar", "ckpt_epoch_002.pth.tar"):
        assert_same_weights(whole / name, full / name)


def test_after_the_last_epoch_it_is_one_line_and_the_copy_can_be_resumed(
    train, call, tmp_path, monkeypatch
):
    assert train("whole", "-e", 2)[0] == 0
    folder, copy = tmp_path / "runs" / "run", tmp_path / "copies" / "run"
    copy.mkdir(parents=True)  # of another run: it stays as it is
    at_epoch(monkeypatch, main_gcn, {2: lambda: break_folder(monkeypatch, folder)})
    status, out, err = train("run", "-e", 2, "--fallback_dir", copy.parent)
    copy = copy.with_name("run_2")
    assert status == 2 and err.startswith("error: cannot write ") and err.count("\n") == 1
    assert "No space left" in err and f"a copy of the run is in {copy}" in err
    assert "Mean of" in out and list(copy.with_name("run").iterdir()) == []
    assert load_checkpoint(folder / "ckpt_last.pth.tar")["epoch"] == 1
    assert_same_weights(tmp_path / "runs" / "whole" / "ckpt_last.pth.tar",
                        copy / "ckpt_last.pth.tar")  # fmt: skip
    results = json.loads((copy / "results.json").read_text())
    assert results["results"]["last"]["epoch"] == 2
    status, _, err = call(main_gcn.main, "--resume", copy / "ckpt_last.pth.tar", "-e", 3,
                          "--device", "cpu")  # fmt: skip
    assert (status, err) == (0, "") and load_checkpoint(copy / "ckpt_last.pth.tar")["epoch"] == 3


def test_where_no_copy_can_be_written_either_both_reasons_are_said(train, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "run"
    at_epoch(monkeypatch, main_gcn, {1: lambda: break_folder(monkeypatch, folder)})
    (tmp_path / "copies").mkdir()
    taken = lambda *args: (_ for _ in ()).throw(UserError("cannot make it"))  # noqa: E731
    monkeypatch.setattr(run_files, "make_folder", taken)
    status, _, err = train("run", "-e", 2, "--fallback_dir", tmp_path / "copies")
    warning, error = err.splitlines()
    assert status == 2 and "No space left" in warning and "a copy: cannot make it" in warning
    assert "ckpt_last.pth.tar" in error and "a copy" not in error


@pytest.mark.parametrize("how", ["removed", "taken"])
def test_a_folder_that_is_gone_is_an_error(train, tmp_path, monkeypatch, how):
    folder, copy = tmp_path / "runs" / "run", tmp_path / "copies" / "run"

    def lose():
        shutil.rmtree(folder)
        if how == "taken":
            folder.mkdir()
            (folder / "options.json").touch()
            (folder / ".lock").write_text("process 1 on another host")

    at_epoch(monkeypatch, main_gcn, {2: lose})
    status, _, err = train("run", "-e", 3, "--fallback_dir", tmp_path / "copies")
    assert status == 2 and err.count("\n") == 1 and f"{folder} was removed" in err
    assert f"copy of the run is in {copy}" in err
    assert load_checkpoint(copy / "ckpt_last.pth.tar")["epoch"] == 2
    left = {path.name for path in folder.iterdir()} if folder.exists() else None
    assert left == ({"options.json", ".lock"} if how == "taken" else None)


def test_a_run_that_goes_on_has_its_folder_alone(train, call, tmp_path):
    assert train("run", "-e", 1)[0] == 0
    folder = tmp_path / "runs" / "run"
    last = folder / "ckpt_last.pth.tar"
    before = last.read_bytes()
    with FolderLock(folder):
        for status, _, err in (
            call(main_gcn.main, "--resume", last, "-e", 2, "--device", "cpu"),
            train("run", "-e", 1),
        ):
            assert status == 2 and err.count("\n") == 1
            assert f"another run runs in {folder} (process {os.getpid()} on " in err
    assert last.read_bytes() == before
    partials = [folder / f".{number}.partial.x" for number in (10**9, os.getppid())]
    for path in partials:
        path.touch()
    assert call(main_gcn.main, "--resume", last, "-e", 2, "--device", "cpu")[0] == 0
    assert [path.exists() for path in partials] == [False, True]


def test_a_run_that_was_killed_in_its_report_is_finished(train, call, tmp_path):
    assert train("run", "-e", 1)[0] == 0
    folder = tmp_path / "runs" / "run"
    results, log = (folder / name for name in ("results.json", "log.csv"))
    resume = (main_gcn.main, "--resume", folder / "ckpt_last.pth.tar", "--device", "cpu")
    before = (folder / "ckpt_last.pth.tar").read_bytes()

    def check():
        assert call(*resume)[0] == 0
        assert json.loads(results.read_text())["results"]["last"]["epoch"] == 1
        assert len(log.read_text().splitlines()) == 2
        assert (folder / "curves.png").exists() and (folder / "poses.png").exists()
        assert (folder / "ckpt_last.pth.tar").read_bytes() == before

    for lost in ("log.csv", "results.json", "curves.png", "poses.png"):
        (folder / lost).unlink()
        check()
    # The run had ended, went on, and was killed before its second report.
    content = json.loads(results.read_text())
    content["results"]["last"]["epoch"] = 0
    results.write_text(json.dumps(content))
    check()
    status, _, err = call(*resume)
    assert status == 2 and "--epochs a larger number" in err


def test_what_could_not_be_written_is_refused_before_anything_is_read(call, tmp_path, monkeypatch):
    for module in (main_gcn, main_graph):
        monkeypatch.setattr(module, "load_data", lambda *a, **k: pytest.fail("data were read"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    others = {"results": [1, 2], "model": "theirs"}
    (tmp_path / "theirs.json").write_text(json.dumps(others))
    os.mkfifo(tmp_path / "pipe")
    for name in ("theirs.json", "pipe", "file", "."):
        status, _, err = call(main_gcn.main, *TINY, "--results", name)
        assert status == 2 and err.count("\n") == 1 and name in err
    assert json.loads((tmp_path / "theirs.json").read_text()) == others
    for flags in (("--save_dir", "file/x"), ("--fallback_dir", "file"), ("-c", "file"),
                  ("--results", "file/r.json")):  # fmt: skip
        status, _, err = call(main_graph.main, *NOISY, *flags)
        assert status == 2 and err.count("\n") == 1 and "cannot write in file" in err
    assert {path.name for path in tmp_path.iterdir()} == {"file", "theirs.json", "pipe"}


def test_our_own_files_are_known_by_their_mark_or_their_keys(tmp_path):
    path, keys = tmp_path / "r.json", ("model", "protocol", "results")
    whole = dict.fromkeys(keys)
    for content in (whole, marked("results", whole)):
        write_json(path, content)
        refuse_other_json(path, "results", keys)
    for content in (
        marked("benchmark", whole),
        marked("results", {}),
        {"results": 1},
        [],
        "results",
    ):
        write_json(path, content)
        with pytest.raises(UserError, match="no results file of this program"):
            refuse_other_json(path, "results", keys)
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="no results file"):
        refuse_other_json(path, "results", keys)


@pytest.fixture
def graph(call, tmp_path):
    """A run of two epochs with published names; gives its folder and a way to resume it."""

    def resume(*flags):
        last = tmp_path / "run" / "ckpt_last.pth.tar"
        return call(main_graph.main, "--resume", last, "--device", "cpu", *flags)

    status, _, err = call(main_graph.main, *NOISY, "-c", tmp_path, "--name", "run", "-e", 2,
                          "--lr", "1e-3", "--post_refine")  # fmt: skip
    assert (status, err) == (0, "")
    assert load_checkpoint(tmp_path / "run" / "ckpt_last.pth.tar")["best"]["epoch"] == 2
    return tmp_path / "run", resume


def model_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("model_*.pth")}


def add_stale(folder: Path) -> None:
    """Leave the files of epoch 1, the best before, as a kill before their removal does."""
    first, best = load_checkpoint(folder / "ckpt_last.pth.tar")["history"]
    for path in folder.glob("model_*.pth"):
        tails = [f"{row['epoch']}_eva_post_{int(100 * row['mpjpe_mm'])}" for row in (best, first)]
        path.with_name(path.name.replace(*tails)).write_bytes(b"of epoch 1")


def test_model_files_come_right_when_a_killed_run_is_resumed(graph, call):
    folder, resume = graph
    whole = model_files(folder)
    assert len(whole) == 2
    for lost in (list(whole), list(whole)[:1], []):
        add_stale(folder)
        for name in lost:
            (folder / name).unlink()
        (folder / "results.json").unlink()
        status, _, err = resume()
        assert (status, err) == (0, "") and model_files(folder) == whole
    # A later epoch is not better: the files are made of the best checkpoint.
    for name in whole:
        (folder / name).unlink()
    add = resume("-e", 3, "--lr", 5)
    assert (add[0], add[2]) == (0, "") and model_files(folder) == whole
    (folder / "results.json").unlink()
    for name in whole:
        (folder / name).unlink()
    assert resume()[0] == 0 and model_files(folder).keys() == whole.keys()
    assert call(main_graph.main, *NOISY[:-4], "--eva", folder)[0] == 0
    # The weights are nowhere: what is left stays.
    add_stale_name = "model_module_gcn_1_eva_post_99999999.pth"
    (folder / add_stale_name).touch()
    for path in [folder / name for name in whole] + [folder / "ckpt_best.pth.tar"]:
        path.unlink()
    (folder / "results.json").unlink()
    status, _, err = resume()
    assert status == 0 and err.startswith("warning: ") and "epoch 2" in err
    assert list(model_files(folder)) == [add_stale_name]


def test_a_run_killed_while_it_saves_its_best_ends_as_an_undisturbed_one(
    graph, call, tmp_path, monkeypatch
):
    whole = model_files(graph[0])
    flags = [*NOISY, "-c", tmp_path, "--lr", "1e-3", "--post_refine", "-e", 2]

    class KilledError(Exception):
        pass

    for step in ("_write", "_remove_old"):
        with monkeypatch.context() as patch:
            done = getattr(ModelFiles, step)

            def kill(self, run, *args, done=done):
                if run.epoch == 2:
                    raise KilledError
                done(self, run, *args)

            patch.setattr(ModelFiles, step, kill)
            with pytest.raises(KilledError):
                main_graph.main([str(flag) for flag in [*flags, "--name", step]])
        assert model_files(tmp_path / step) != whole
        last = tmp_path / step / "ckpt_last.pth.tar"
        assert call(main_graph.main, "--resume", last, "--device", "cpu")[0] == 0
        assert model_files(tmp_path / step) == whole


def test_a_model_file_that_cannot_be_written_is_tried_again(call, tmp_path, monkeypatch):
    folder, saved = tmp_path / "run", tmp_path / "saved"
    at_epoch(monkeypatch, main_graph, {
        1: lambda: break_folder(monkeypatch, saved),
        2: lambda: monkeypatch.setattr(run_files, "write_bytes", write_bytes),
    })  # fmt: skip
    flags = [*NOISY, "-c", tmp_path, "--name", "run", "--save_dir", saved, "-e", 2, "--lr", "1e-9"]
    status, _, err = call(main_graph.main, *flags)
    assert status == 0 and err.startswith("warning: ") and err.count("\n") == 1
    best = load_checkpoint(folder / "ckpt_last.pth.tar")["best"]
    name = f"model_module_gcn_{best['epoch']}_eva_xyz_{int(100 * best['mpjpe_mm'])}.pth"
    assert [path.name for path in saved.iterdir()] == [name]
