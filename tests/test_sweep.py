"""Sweeps: most with a stand-in for the training script, which starts in no time."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import main_gcn
import opt
from common.lock import FolderLock
from models.build import MODELS
from tests.conftest import ROOT
from tools import sweep
from training import settings
from training.find_run import LAST, RESULTS

# Leaves what the script leaves. --lr 9 fails, --lr 8 dies, --lr 7 is cut off after an epoch unless
# it goes on from there, --lr 6 never ends.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
argv = [part for word in sys.argv[1:] for part in word.split("=", 1)]
flag = lambda name, default=None: argv[argv.index(name) + 1] if name in argv else default
folder = Path(flag("--checkpoint"), flag("--name"))
with (folder.parent / "calls").open("a") as calls:
    calls.write(" ".join([*sys.argv[1:], os.environ["OMP_NUM_THREADS"]]) + "\\n")
assert flag("--resume") == "auto"
goes_on = (folder / "ckpt_last.pth.tar").exists()
folder.mkdir(exist_ok=True)
lr = flag("--lr", "1")
if lr == "9":
    sys.exit("warning: first\\nerror: the loss is no longer finite")
if lr == "8":
    print("epoch 1/2, step 3/9, 1 steps/s", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
if lr == "7" and not goes_on:
    (folder / "ckpt_last.pth.tar").touch()
    sys.exit("cut off")
if lr == "6":
    try:
        (folder / "started").touch()
        time.sleep(60)
    except KeyboardInterrupt:
        (folder / "ended").touch()
        sys.exit(130)
error = 40 + int(flag("--hid_dim", "128")) / 64 + int(flag("--seed")) ** 2
last = {"epoch": int(flag("--epochs", "50")), "mpjpe_mm": error, "p_mpjpe_mm": error / 2}
best = {**last, "mpjpe_mm": 1.0, "p_mpjpe_mm": 1.0}
results = {"root_depth": "with true depth", "results": {"last": last, "best": best}}
results |= {"parameters": 287_923, "multiply_adds_a_pose": 9}
(folder / "results.json").write_text(json.dumps(results))
"""


@pytest.fixture
def out(tmp_path, monkeypatch) -> Path:
    (tmp_path / "main_gcn.py").write_text(STAND_IN)
    (tmp_path / "main_graph.py").write_text(STAND_IN)
    monkeypatch.setattr(sweep, "ROOT", tmp_path)
    return tmp_path / "out"


@pytest.fixture
def run(call, tmp_path, out):
    def run(spec, *flags):
        path = tmp_path / "spec.json"
        path.write_text(spec if isinstance(spec, str) else json.dumps(spec))
        return call(sweep.main, path, "--out", out, *flags)

    return run


def calls(out: Path) -> list[str]:
    path = out / "calls"
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "spec.csv").open(newline="", encoding="utf-8") as stream:
        return {row["row"]: row for row in csv.DictReader(stream)}


def test_rows_times_seeds_in_one_table_of_the_last_epoch(run, out, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    spec = {"flags": {"epochs": 3}, "rows": {"base": {}, "wide": {"hid_dim": 256}}}
    status, printed, err = run(spec, "--seeds", "0,1,3", "--jobs", 2)
    assert (status, err) == (0, "")
    for name, base in (("base", 42), ("wide", 44)):
        errors = [base + seed**2 for seed in (0, 1, 3)]
        row = table(out)[name]
        assert row["n"] == row["planned"] == "3"
        assert float(row["mpjpe_mm"]) == pytest.approx(sum(errors) / 3)
        spread = (sum((e - sum(errors) / 3) ** 2 for e in errors) / 2) ** 0.5
        assert float(row["mpjpe_mm_spread"]) == pytest.approx(spread)
        assert float(row["p_mpjpe_mm"]) == pytest.approx(sum(errors) / 6)
        assert all((out / run / RESULTS).is_file() for run in row["runs"].split())
    text = (out / "spec.md").read_text()
    assert f"| base | 3 | 287,923 | 45.33 ± {statistics.stdev([42, 43, 51]):.2f} |" in text
    assert text.removesuffix(f"\n{sweep._MARK}\n") in printed
    assert "with true depth." in text and "no choice on test" in text
    assert (out / "spec.png").read_bytes().startswith(b"\x89PNG")
    cores = len(os.sched_getaffinity(0))
    assert all(line.endswith(f" {max(1, cores // 2)}") for line in calls(out))


def test_what_is_finished_is_not_run_again_however_it_is_written(run, out):
    rows = {"base": {}, "wide": {"hid_dim": 256}}
    assert run({"rows": rows, "seeds": [0, 1]})[0] == 0
    assert len(calls(out)) == 4
    before = (out / "spec.md").read_text()
    status, printed, _ = run({"rows": rows, "seeds": [0, 1]})
    assert status == 0 and "already finished: 4" in printed and calls(out) == []
    assert (out / "spec.md").read_text() == before
    # other names, an alias, a default spelled out, a seed more: only the last is new
    rows = {"a": {"learning_rate": 0.001}, "b": {"hid_dim": 256}, "c": {"lr": 1e-3}}
    assert run({"rows": rows, "seeds": [0, 1, 2]})[0] == 0
    assert ["--seed=2" in line for line in calls(out)] == [True, True]
    assert table(out)["a"]["runs"] == table(out)["c"]["runs"]
    # results of another goal, or not whole, do not count
    assert run({"rows": {"a": {"epochs": 51}}})[0] == 0
    assert len(calls(out)) == 1
    folder = out / table(out)["a"]["runs"]
    (folder / RESULTS).write_text((folder / RESULTS).read_text()[:40])
    assert run({"rows": {"a": {"epochs": 51}}}, "--gather-only")[0] == 0
    assert table(out)["a"]["n"] == "0" and table(out)["a"]["mpjpe_mm"] == ""
    assert run({"rows": {"a": {"epochs": 51}}})[0] == 0
    assert len(calls(out)) == 1 and table(out)["a"]["n"] == "1"


def test_a_grid_combines_values_and_types_become_flags(run, out):
    spec = {
        "flags": {"dataset": "hdm05", "actions": "squat,sneak", "max_norm": None, "dropout": 0.5},
        "grid": {"hid_dim": [64, 128], "non_local": [True, False], "dropout": [None, 0.25]},
    }
    assert run(spec)[0] == 0
    assert len(table(out)) == 8 and "hid_dim 64, non_local True, dropout 0.25" in table(out)
    found = calls(out)
    assert all("--actions=squat,sneak " in line for line in found)
    assert sum("--non_local" in line.split() for line in found) == 4
    assert sum("--no-non_local" in line.split() for line in found) == 4
    assert sum("--dropout=0.25" in line for line in found) == 4
    assert sum("dropout" in line for line in found) == 4


def test_another_data_set_takes_the_published_length(run, out):
    flags = {"dataset": "hdm05", "downsample": 5, "epochs": 3, "batch_size": 8, "hid_dim": 64}
    spec = {"flags": flags, "rows": {"a": {}, "b": {"epochs": 7}}}
    status, printed, err = run(spec, "--dataset", "h36m")
    assert (status, err) == (0, "") and "`main_gcn.py --dataset=h36m --hid_dim=64`" in printed
    found = calls(out)
    assert found[0].startswith("--dataset=h36m --hid_dim=64 --seed=0 --checkpoint")
    assert found[1].startswith("--dataset=h36m --hid_dim=64 --epochs=7 --seed=0 ")
    assert run(spec)[0] == 0 and len(calls(out)) == 2  # these are other runs


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.json")), ids=lambda p: p.stem
)
def test_the_experiments_are_valid_on_both_data_sets(path):
    spec = sweep.read_spec(path)
    whole = sweep.on_dataset(spec, "h36m")
    for rows in (sweep.plan_jobs(path, s, s["seeds"]) for s in (spec, whole)):
        jobs = [job for row in rows.values() for job in row]
        assert len(spec["seeds"]) == 3 and len({job.id for job in jobs}) == 3 * len(rows)
    parse, fixed = sweep._SCRIPTS[spec["script"]]
    for job in jobs:  # those on Human3.6M
        args = parse([*fixed, *job.arguments])
        assert args.dataset == "h36m" and args.downsample == 1 and args.actions is None


def test_the_table_of_systems_trains_each_as_published():
    path = ROOT / "experiments/systems.json"
    rows = sweep.plan_jobs(path, sweep.on_dataset(sweep.read_spec(path), "h36m"), [0])
    models = set()
    for (job,) in rows.values():
        args = opt.parse_gcn(job.arguments)
        models.add(args.model)
        departures = settings.departures(settings.settings_of(args), "main_gcn")
        assert departures.keys() <= {"non_local", "hid_dim"}, job.label
    assert models == set(MODELS)


def test_main_graph_trains(run, out):
    assert run({"script": "main_graph.py", "rows": {"a": {"epochs": 2}}})[0] == 0
    assert calls(out)[0].startswith("--pro_train=1 --epochs=2 --seed=0 ")


def test_failures_are_reported_and_do_not_stop_the_others(run, out):
    spec = {"rows": {"bad": {"lr": 9}, "dead": {"lr": 8}, "cut": {"lr": 7}, "good": {}}}
    status, printed, err = run(spec)
    assert status == 2 and err.count("\n") == 1
    assert "bad, seed 0: FAILED: the loss is no longer finite\n" in printed
    assert "dead, seed 0: FAILED: ended by SIGKILL" in printed
    assert "bad, seed 0; dead, seed 0; cut, seed 0" in err and "tries them again" in err
    assert table(out)["good"]["n"] == "1" and table(out)["bad"]["n"] == "0"
    assert "| bad | 0 of 1 | - | - | - |" in (out / "spec.md").read_text()
    calls(out)
    # The one that got past an epoch is resumed, the others start over, the good one rests.
    status, printed, err = run(spec)
    assert status == 2 and "cut, seed 0: MPJPE 42.00 mm, P-MPJPE 21.00 mm" in printed
    again = calls(out)
    assert len(again) == 3
    assert "bad, seed 0; dead, seed 0 (logs" in err


def test_devices_are_shared_out(run, out):
    assert run({"rows": {"a": {}}, "seeds": [0, 1, 2, 3]}, "--devices", "cuda:0,cuda:1")[0] == 0
    devices = [line.split("--device ")[1].split()[0] for line in calls(out)]
    assert len(devices) == 4 and set(devices) == {"cuda:0", "cuda:1"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_runs_and_the_sweep(out, tmp_path, number):
    (tmp_path / "spec.json").write_text(json.dumps({"rows": {"a": {"lr": 6}}, "seeds": [0, 1]}))
    program = (
        "import sys; from pathlib import Path; from tools import sweep; "
        "sweep.ROOT = Path(sys.argv.pop(1)); "
        "sweep._STOP_SECONDS = 300; sweep.run_script(sweep.main)"
    )
    command = [sys.executable, "-c", program, tmp_path, tmp_path / "spec.json"]
    process = subprocess.Popen(
        [*command, "--out", out, "--jobs", "2"], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        # Where the tests run in the background Ctrl-C is ignored, and children take that over.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while len(list(out.glob("*/started"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err == "the same command resumes the sweep\nstopped by the user\n"
    assert len(list(out.glob("*/ended"))) == 2


@pytest.fixture
def refused(run, out):
    def refused(spec, *flags) -> str:
        status, _, err = run(spec, *flags)
        assert status == 2 and err.startswith("error: ") and err.count("\n") == 1
        assert calls(out) == [] and not (out / "spec.csv").exists()
        return err

    return refused


def test_nothing_starts_with_a_wrong_spec(refused):
    good = {"good": {}}
    err = refused({"rows": {**good, "bad": {"hid_dims": 256}}})
    assert "row 'bad'" in err and "--hid_dims=256" in err
    assert "an even number" in refused({"rows": {**good, "bad": {"hid_dim": 3}}})
    assert "--no-lr" in refused({"rows": {"bad": {"lr": False}}})
    assert "without effect" in refused({"rows": {"bad": {"num_workers": 2}}})
    for own in ("seed", "name", "resume", "device", "results"):
        assert "not allowed in a sweep" in refused({"rows": {"bad": {f"{own}": 5}}}), own
    assert "save_dir" in refused({"script": "main_graph.py", "rows": {"bad": {"save_dir": "x"}}})
    assert "main_gcn.py, main_graph.py" in refused({"script": "rm", "rows": good})
    assert "either" in refused({"rows": good, "grid": {"lr": [1]}}) and "either" in refused({})
    assert "has no rows" in refused({"rows": {}}) and "has no rows" in refused({"grid": {}})
    assert "no choice of --model gcn" in refused({"rows": {"bad": {"model": "gcn", "hops": 2}}})
    assert "--rank" in refused({"rows": {"bad": {"rank": 8}}})
    assert "lists of values" in refused({"grid": {"lr": 1}})
    assert "seeds" in refused({"rows": good, "seeds": ["a"]})
    assert "'row'" in refused({"row": good})
    assert "not valid JSON" in refused("{")
    assert "duplicate name" in refused('{"rows": {"a": {}, "a": {"lr": 1}}}')
    assert "give flags, like" in refused({"rows": {"a": 1}})
    assert "a string, a number" in refused({"rows": {"a": {"actions": ["squat"]}}})
    assert "--jobs" in refused({"rows": good}, "--jobs", 0)
    assert "numbers like 0,1,2" in refused({"rows": good}, "--seeds", "a")
    assert "is not there" in refused({"rows": good}, "--gather-only")


def test_two_sweeps_do_not_share_a_folder(refused, out):
    out.mkdir()
    with FolderLock(out):
        assert "another sweep" in refused({"rows": {"a": {}}})


@pytest.mark.parametrize("ends_well", [True, False])
def test_a_run_whose_sweep_was_killed_is_waited_for(run, out, ends_well):
    spec = {"rows": {"a": {"epochs": 2}, "b": {"epochs": 3}}}
    assert run(spec)[0] == 0
    folder = out / table(out)["a"]["runs"]
    results = (folder / RESULTS).read_text()
    (folder / RESULTS).unlink()
    (folder / "only").touch()
    calls(out)
    lock, seen = FolderLock(folder), []

    def end():
        seen.append((folder / "only").exists() and not (out / "calls").exists())
        if ends_well:
            (folder / RESULTS).write_text(results)
        lock.release()

    timer = threading.Timer(0.3, end)
    timer.start()
    status, printed, err = run(spec)
    timer.join()
    assert (status, err, seen) == (0, "", [True])
    assert f"a, seed 0: still runs (process {os.getpid()} on " in printed
    assert "a, seed 0: MPJPE 42.00 mm" in printed
    assert len(calls(out)) == (0 if ends_well else 1)


def test_tables_replace_only_tables(run, out):
    spec = {"rows": {"a": {}}}
    for name, text in (("spec.md", "# A page\n"), ("spec.csv", "a,b\n"), ("spec.png", "PNG")):
        out.mkdir()
        (out / name).write_text(text)
        for flags in ((), ("--gather-only",)):
            status, _, err = run(spec, *flags)
            assert status == 2 and err.count("\n") == 1 and f"{out / name} is there" in err
        assert [path.name for path in out.iterdir()] == [name]
        assert (out / name).read_text() == text
        (out / name).unlink()
        out.rmdir()
    assert run(spec)[0] == 0 and sweep._MARK in (out / "spec.md").read_text()
    page = out / "spec.md"
    page.write_text(page.read_text().replace(sweep._MARK, ""))  # as earlier versions wrote it
    assert run(spec, "--gather-only")[0] == 0 and sweep._MARK in page.read_text()


@pytest.mark.slow
def test_real_runs_and_one_that_lacks_only_its_report(call, tmp_path):
    flags = {
        "dataset": "hdm05", "actions": "throwBasketball", "downsample": 12, "hid_dim": 16,
        "num_layers": 1, "epochs": 1,
    }  # fmt: skip
    (tmp_path / "spec.json").write_text(json.dumps({"flags": flags, "rows": {"a": {}}}))
    command = (sweep.main, tmp_path / "spec.json", "--out", tmp_path)
    status, printed, err = call(*command, "--devices", "cpu")
    assert (status, err) == (0, ""), err
    folder = tmp_path / table(tmp_path)["a"]["runs"]
    content = json.loads((folder / RESULTS).read_text())
    assert f"MPJPE {content['results']['last']['mpjpe_mm']:.2f} mm" in printed
    # Cut off after the last epoch: resuming, as the sweep would, adds what is missing.
    weights = (folder / LAST).read_bytes()
    (folder / RESULTS).unlink()
    resume = ("--resume", folder / LAST, "--device", "cpu")
    assert call(main_gcn.main, *resume)[0] == 0
    assert json.loads((folder / RESULTS).read_text()) == content
    assert (folder / LAST).read_bytes() == weights
    status, _, err = call(main_gcn.main, *resume)
    assert status == 2 and "--epochs a larger number" in err
