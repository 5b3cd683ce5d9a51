"""Two processes on the CPU against one: the same weights, figures and messages."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore

from common.errors import UserError
from common.skeleton import H36M_16
from data.datasets import H36M
from data.pose_dataset import PoseLoader, load_pose_datasets
from tests.conftest import ROOT, SLICE
from tests.two_processes import finish, run_two, train_a_little, words_of_ours
from training import distributed
from training.checkpoint import load_checkpoint

# Adam blows rounding up, and this early in training far above what is asked below.
LOW_RATE = ["--lr", "1e-5"]


def test_two_processes_follow_one(h36m_folder):
    ended = run_two("train", h36m_folder.parent)
    assert [status for status, *_ in ended] == [0, 0], ended
    assert all(not words_of_ours(err) for *_, err in ended), ended
    assert [out for _, out, _ in ended] == ["rank 0 joined\n", ""]  # only the main one prints
    zero, one = (torch.load(h36m_folder.parent / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    alone = train_a_little(h36m_folder)
    assert zero["losses"] == one["losses"] and zero["errors"] == one["errors"]
    for name, tensor in alone["weights"].items():
        assert torch.equal(zero["weights"][name], one["weights"][name]), name
        # One pose seen twice has the variance of one pose, but not the unbiased one.
        tolerance = 2e-2 if "running_var" in name else 1e-5
        assert torch.allclose(zero["weights"][name], tensor, rtol=tolerance, atol=1e-5), name
    assert zero["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    for two, single in zip(zero["errors"], alone["errors"], strict=True):
        assert two["frames"] == single["frames"] == 192
        for action, row in single["per_action"].items():
            assert two["per_action"][action]["frames"] == row["frames"]
        published = [errors["published_form"] for errors in (two, single)]
        assert published[0]["frames"] == 192
        for a, b in zip(*([form, form["over_frames"]] for form in published), strict=True):
            assert a["mpjpe_mm"] == pytest.approx(b["mpjpe_mm"], rel=1e-3)
    assert zero["errors"][0]["mpjpe_mm"] == pytest.approx(alone["errors"][0]["mpjpe_mm"], abs=0.01)
    # the statistics are moving, so the above is no comparison of what was never touched
    assert alone["weights"]["gconv_layers.1.non_local.W.1.weight"].abs().max() > 0


@pytest.mark.parametrize("what", ["all raise", "one raises", "one dies"])
def test_a_failing_process_ends_the_job_with_one_message(tmp_path, what):
    ended = run_two(what, tmp_path)
    assert not any("Traceback" in err for *_, err in ended)
    (said,) = (line for *_, err in ended for line in words_of_ours(err))
    assert [status for status, *_ in ended] == [2, -signal.SIGKILL if what == "one dies" else 2]
    if what == "one dies":
        assert "another process of the job ended" in said and "--resume" in said
    else:
        assert said == "error: the file of 3D poses is damaged"


def test_where_the_store_is_lost_a_loss_is_said_and_a_failure_that_all_meet_is_not(capfd):
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    first, second, late = (TCPStore("127.0.0.1", server.port) for _ in range(3))
    failure = UserError("/gloo/poses.npz is damaged")
    assert distributed._is_first(first, failure) and not distributed._is_first(second, failure)
    del server
    assert not distributed._is_first(late, failure)
    assert distributed._is_first(late, RuntimeError("[/gloo/pair.cc:1] Read error: reset"))
    assert capfd.readouterr() == ("", "")


def torchrun(folder: Path, script: str, *flags: object) -> str:
    """What two processes print that torchrun starts, where all goes well."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = subprocess.Popen(
        [sys.executable, *command, ROOT / script, *map(str, flags)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ((status, out, err),) = finish([process])
    assert status == 0 and not words_of_ours(err), err
    return out


def read_log(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as stream:
        return list(csv.DictReader(stream))


def assert_same_course(one: Path, two: Path) -> None:
    """Both runs took the same steps to the same errors, within 1 mm."""
    for a, b in zip(read_log(one), read_log(two), strict=True):
        assert a["step"] == b["step"]
        for metric in ("mpjpe_mm", "p_mpjpe_mm"):
            assert abs(float(a[metric]) - float(b[metric])) < 1


@pytest.mark.slow
def test_torchrun_trains_as_one_process_does_and_one_process_can_go_on(call, tmp_path):
    import main_gcn  # here, since the processes above start sooner without it

    flags = [*SLICE, *LOW_RATE, "-b", "48", "-c", tmp_path, "-e", 2]
    out = torchrun(tmp_path, "main_gcn.py", *flags, "--snapshot", 1, "--name", "two")
    assert out.count("epoch 1/2") == 1 and out.count("run folder") == 1
    assert call(main_gcn.main, *flags, "--name", "one")[0] == 0
    assert_same_course(tmp_path / "one", tmp_path / "two")
    losses = [[float(row["loss"]) for row in read_log(tmp_path / n)] for n in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    one, two = ({path.name for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    more = {"ckpt_epoch_001.pth.tar", "ckpt_epoch_002.pth.tar"}
    assert two == one | more and not one & more
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert results["results"]["last"]["frames"] == results["test_poses"]
    # One process goes on from the first epoch of two.
    early = tmp_path / "early.pth.tar"
    (tmp_path / "two" / "ckpt_epoch_001.pth.tar").rename(early)
    status, _, err = call(
        main_gcn.main, "--resume", early, "--device", "cpu", "-c", tmp_path, "--name", "resumed"
    )
    assert (status, err) == (0, "")
    assert_same_course(tmp_path / "one", tmp_path / "resumed")
    a, b = (load_checkpoint(tmp_path / n / "ckpt_last.pth.tar") for n in ("two", "resumed"))
    assert a["state_dict"].keys() == b["state_dict"].keys()


@pytest.mark.slow
def test_two_processes_go_on_with_the_refinement_that_one_process_began(call, tmp_path):
    import main_graph

    flags = [*SLICE, *LOW_RATE, "--keypoints", "noisy", "--pro_train", 1, "--post_refine",
             "--dropout", 0, "-c", tmp_path, "--save_model", 1]  # fmt: skip
    assert call(main_graph.main, *flags, "-e", 2, "--snapshot", 1, "--name", "one")[0] == 0
    early = tmp_path / "early.pth.tar"
    (tmp_path / "one" / "ckpt_epoch_001.pth.tar").rename(early)
    resumed = ["--resume", early, "-c", tmp_path, "--name", "resumed"]
    ended = run_two("main_graph.py", *resumed, "--device", "cpu")
    assert [(status, words_of_ours(err)) for status, _, err in ended] == [(0, [])] * 2, ended
    out = "".join(out for _, out, _ in ended)
    assert out.count("epoch 2/2") == 1 and "epoch 1/2" not in out
    assert_same_course(tmp_path / "one", tmp_path / "resumed")
    published = {path.name.split("_eva")[0][:-2] for path in (tmp_path / "resumed").glob("*.pth")}
    assert published == {"model_module_gcn", "model_post_refine"}


def test_parts_of_a_batch_make_the_whole(h36m_folder):
    (dataset,) = load_pose_datasets(H36M, h36m_folder, [H36M.subjects_test], H36M_16)
    for processes in (2, 3, 7):
        whole = PoseLoader(dataset, 19, seed=1, flips=True)
        parts = [
            PoseLoader(dataset, 19, 1, True, rank=rank, world_size=processes)
            for rank in range(processes)
        ]
        for batch, *shares in zip(
            whole.shuffled_batches(4), *(p.shuffled_batches(4) for p in parts), strict=True
        ):
            assert batch.loss_weight == 1.0 and batch.global_size == len(batch)
            assert all(share.global_size == len(batch) for share in shares)
            if len(batch) >= processes:
                assert torch.equal(torch.cat([s.index for s in shares]), batch.index)
                assert torch.equal(torch.cat([s.flipped for s in shares]), batch.flipped)
            # the mean over processes of the weighted means is the mean of the whole
            mean = sum(s.loss_weight * s.targets_3d.double().mean() for s in shares) / processes
            assert torch.allclose(mean, batch.targets_3d.double().mean())
        tested = torch.cat([batch.index for p in parts for batch in p.ordered_batches()])
        assert torch.equal(tested, torch.arange(len(dataset)))


def test_more_processes_than_poses(h36m_folder):
    (dataset,) = load_pose_datasets(H36M, h36m_folder, [["S9"]], H36M_16, actions=["Sitting"])
    parts = [PoseLoader(dataset, 512, rank=rank, world_size=100) for rank in range(100)]
    sizes = [[len(batch) for batch in p.ordered_batches()] for p in parts]
    assert sum(map(sum, sizes)) == len(dataset) == 48 and [] in sizes


def test_one_process_needs_nothing_of_this(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    called = []
    ranks = lambda: called.append((distributed.rank(), distributed.world_size()))  # noqa: E731
    distributed.as_process_of_job(ranks)()
    assert called == [(0, 1)] and distributed.is_main()

    def loss(batch):
        return batch

    assert distributed.with_averaged_gradients([], loss) is loss
    before = torch.get_rng_state()
    distributed.seed_epoch(0, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_an_environment_that_is_not_whole(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="torchrun"):
        distributed.as_process_of_job(lambda: None)()
