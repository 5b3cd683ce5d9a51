"""Values of flags that no machine can use: one line before data are read or anything is made."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import main_gcn
import main_graph
import opt
import predict
from common import memory
from common.errors import UserError
from data import pose_dataset
from models.build import MODELS, build_model
from models.costs import count_activation_bytes, count_parameters
from tests.conftest import ROOT, SLICE
from tools import sweep
from training import memory_need, settings
from training.checkpoint import Source, load_checkpoint
from training.load_data import load_data
from training.optimizer import build_optimizer
from training.schedule import check_schedule

DIGITS = "9" * 5000  # more than int() converts
REFUSED = [  # flags, and what the line says of them
    (["--seed", 2**70], "--seed: a whole number from 0 to 16,777,215"),
    (["--seed", 2**24], "--seed: a whole number from 0 to 16,777,215"),
    (["--seed", -1], "--seed: a whole number from 0"),
    (["--hid_dim", 1000000], "16,000,181,002,611 parameters needs at least 64,000.8 GB of memory"),
    (["--hid_dim", 10**9], "--hid_dim: an even number from 2 to 1,000,000"),
    (["--rank", 10**6, "--adj_modulation", "lowrank"], "--rank: a whole number from 1 to 256"),
    (["--batch_size", 10**24], "--batchSize: a whole number from 1 to 1,000,000,000"),
    (["--downsample", 10**23], "--downsample: a whole number from 1"),
    (["--epochs", 10**400], "--nepoch: a whole number from 1"),
    (["--epochs", DIGITS], "not '9999999999999999999999999999999999999999'..."),
    (["--lr_gamma", "1e300", "--lr_decay", 1], "--lr_gamma: a number above 0, at most 1e+30"),
    (["--lr_gamma", "1e30", "--lr_decay", 1], "change --lr 0.001, --lr_gamma 1e+30, --lr_decay 1"),
    (["--lr_gamma", "1e-30", "--lr_decay", 1], "the learning rate gets to zero within 50 epochs"),
    (["--lr", "1e31"], "--learning_rate: a number above 0"),
    (["--lr", "inf"], "--learning_rate: a number above 0"),
    (["--max_norm", "nan"], "--max_norm: a number from 0 to 1e+30"),
    (["--pan=-1e31"], "--pan: a number from -1e+30"),
    (["--device", "meta"], "--device meta is not available"),
    (["--device", "mps:7"], "--device mps:7 is not available"),
    (["--device", "cuda:99"], "--device cuda:99 is not available"),
    (["--device", "hpu"], "--device hpu is not available"),
    (["--num_layers", 1000000], "--num_layers: a whole number from 1 to 1,000"),
    (["--hops", 10**9], "--hops: a whole number from 1 to 16"),
    (["--name", "a\nb"], r"--name: a text without line breaks and control characters"),
    (["--name", "a/b"], "--name: the name of a folder expected"),
    (["--keypoints", "gt\n"], r"--keypoints: a text without line breaks"),
    (["--actions", "squat\nsneak"], r"--actions: a text without line breaks"),
    *[
        ([flag, "a\nb"], "a text without line breaks and control characters expected, not 'a\\nb'")
        for flag in ("--dataset_dir", "--evaluate", "--resume", "--checkpoint", "--results")
    ],
    (["--evaluate", "a\0b"], "a text without line breaks and control characters"),
]


@pytest.mark.parametrize(("flags", "line"), REFUSED, ids=[str(f)[:40] for f, _ in REFUSED])
def test_a_value_that_no_machine_can_use_is_one_line(call, tmp_path, monkeypatch, flags, line):
    def read(*args, **options):
        raise AssertionError("data are read")

    monkeypatch.setattr(main_gcn, "load_data", read)
    monkeypatch.setattr(main_gcn, "build_lifter", read)
    monkeypatch.chdir(tmp_path)
    place = [] if "--checkpoint" in flags else ["-c", tmp_path / "runs"]
    status, out, err = call(main_gcn.main, "--dataset", "hdm05", *place, *flags)
    assert (status, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    assert line in err and len(err) < 300
    assert not [*tmp_path.iterdir()]


def test_the_same_of_other_scripts(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph = ["--dataset", "hdm05", "--keypoints", "noisy", "--pro_train", 1]
    cases = [
        (
            main_graph.main,
            [*graph, "--lr_decay", "1e29", "--large_decay_epoch", 1],
            "--lr_decay 1e",
        ),
        (main_graph.main, [*graph, "-z", 1000000], "GB of memory"),
        (main_graph.main, [*graph, "--save_dir", "a\nb"], "--save_dir: a text without"),
        (main_graph.main, ["--previous_dir", "a\nb"], "--previous_dir: a text without"),
        (main_graph.main, ["--module_gcn_model", "a\nb"], "--module_gcn_model: a text without"),
    ]
    for size in ("--width", "--height"):
        other = "--height" if size == "--width" else "--width"
        for value in (10**400, DIGITS, 0, -1, "x"):
            flags = ["KEYPOINTS", "--weights", "CKPT", size, value, other, 100]
            cases.append((predict.main, flags, f"{size}: a whole number from 1 to 1,000,000"))
    for main, flags, line in cases:
        status, out, err = call(main, *flags)
        assert (status, out) == (2, "") and line in err and err.count("\n") == 1, (flags, err)
    assert not [*tmp_path.iterdir()]


def test_limits_leave_what_can_be_used():
    args = opt.parse_gcn(
        ["--seed", "16777215", "-e", "1000000", "-b", "1000000000", "-l", "1000", "--hops", "16"]
    )
    assert args.seed == 2**24 - 1
    assert (args.epochs, args.batch_size, args.num_layers, args.hops) == (10**6, 10**9, 1000, 16)
    # Each process's seed of an epoch is what torch takes.
    torch.manual_seed((args.seed * 1_000_003 + 10**6) * 1_000_003 + 10**4)


def test_an_old_run_with_a_larger_seed_goes_on_with_it(call, tmp_path):
    """A run of before, whose seed no flag takes today, is tested, and resumed as it was."""
    flags = [*SLICE, "--epochs", 1, "-c", tmp_path, "--name", "run"]
    assert call(main_gcn.main, *flags)[0] == 0
    path = tmp_path / "run/ckpt_last.pth.tar"
    checkpoint = load_checkpoint(path)
    checkpoint["options"]["seed"] = 2**33
    torch.save(checkpoint, path)
    assert call(main_gcn.main, *SLICE, "--evaluate", path)[0] == 0
    status, out, err = call(main_gcn.main, "--resume", path, "--epochs", 2, "--device", "cpu")
    assert (status, err) == (0, "") and "seed" not in out
    assert load_checkpoint(path)["options"]["seed"] == 2**33


def test_a_schedule_is_refused_where_it_leaves_the_numbers_only():
    args = opt.parse_gcn([])
    check_schedule(args, epoch_steps=50_000)
    for lr_gamma, epoch_steps, refused in ((1.001, 1, False), (1.001, 10**5, True),
                                           (0.9, 1, False), (0.9, 50, True)):  # fmt: skip
        args.lr_gamma, args.lr_decay = lr_gamma, 1
        rates = [args.lr]
        for _ in range(args.epochs * epoch_steps if epoch_steps < 10**5 else 0):
            rates.append(rates[-1] * lr_gamma)
        if epoch_steps < 10**5:  # the same by multiplying
            assert (rates[-1] < 1.2e-38) == refused
        if refused:
            with pytest.raises(UserError, match="the learning rate gets"):
                check_schedule(args, epoch_steps)
        else:
            check_schedule(args, epoch_steps)


def test_weights_are_counted_without_making_them():
    for name in MODELS:
        arguments = {"joints": 17, "name": name}
        state = torch.get_rng_state()
        shapes = build_model(arguments, device="meta")
        assert torch.equal(state, torch.get_rng_state())
        made = [p for p in shapes.parameters() if not p.is_meta]
        assert all(p.numel() <= 17 * 17 for p in made), name  # Q, as large as the adjacency
        assert count_parameters(shapes) == count_parameters(build_model(arguments)), name


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("script", ["main_gcn", "main_graph"])
def test_what_training_adds_is_what_its_tensors_take(optimizer, script):
    parse = opt.parse_gcn if script == "main_gcn" else opt.parse_graph
    args = parse(["-z", "32", "--optimizer", optimizer, "--ema", "0.9"])
    network = build_model({"joints": 16, "hid_dim": 32})
    steps = build_optimizer([network], args, amsgrad=script == "main_graph")
    network(torch.randn(4, 16, 2)).sum().backward()
    steps.step()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    state = [t for s in steps.state.values() for t in s.values() if t.dim()]  # not step counters
    average = [*network.parameters(), *network.buffers()]
    size = sum(t.nbytes for t in gradients + state + average)
    assert memory_need._training_bytes(args, script, network) == size


def test_kept_activations_are_those_of_a_formula_and_leave_the_network_alone():
    """A linear layer keeps its input, ReLU its output; the weights are the same for each pose."""
    network = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5), nn.ReLU())
    assert count_activation_bytes(network, torch.zeros(1, 10)) == 4 * (20 + 5)  # inputs: views
    network = build_model({"joints": 16, "hid_dim": 8, "dropout": 0.5}).train()
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in network.state_dict().items()}
    # Of 10 layers each keeps X, two products and the modulated one, and all but the last the input
    # and the output of their normalisation; X is the output of the layer before.
    assert count_activation_bytes(network, torch.zeros(1, 16, 2)) >= 4 * 16 * 8 * 10 * 4
    assert network.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())


def test_a_step_and_data_that_do_not_fit_are_refused(call, tmp_path, monkeypatch):
    flags = [*SLICE, "--epochs", 1, "-c", tmp_path / "runs"]
    for free, line in (
        (10**4, "a network of 3,171 parameters"),
        (60_000, "a data set of"),
        (10**6, "a step of 64 poses"),
    ):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        status, _, err = call(main_gcn.main, *flags)
        assert status == 2 and line in err and "needs at least" in err, err
        assert err.count("\n") == 1 and not [*tmp_path.iterdir()]
    monkeypatch.setattr(memory, "free_memory", lambda device: None)  # not known: not refused
    assert call(main_gcn.main, *flags)[0] == 0


def test_a_data_set_is_as_large_as_was_said(monkeypatch):
    said = []
    monkeypatch.setattr(pose_dataset, "refuse_too_large", lambda size, *rest: said.append(size))
    args = opt.parse_gcn([str(flag) for flag in SLICE])
    sets = load_data(args, with_training=True, device=torch.device("cpu"))
    by_camera = ("intrinsics", "up", "camera_height", "image_size")
    assert said == [d.nbytes - sum(getattr(d, name).nbytes for name in by_camera) for d in sets]


@pytest.mark.parametrize(("files", "free"), [
    ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 5 kB\nSwapFree: 2 kB"}, 7 * 1024),
    ({"/proc/meminfo": "MemAvailable: 5 kB\nSwapFree: 0 kB", "/proc/self/cgroup": "0::/a/b",
      "/sys/fs/cgroup/a/b/memory.max": "max", "/sys/fs/cgroup/a/memory.max": "3000"}, 3000),
    ({"/proc/meminfo": "MemAvailable: 5 kB\nSwapFree: 0 kB",
      "/proc/self/cgroup": "9:cpu:/\n4:memory:/x",
      "/sys/fs/cgroup/memory/x/memory.limit_in_bytes": "2000"}, 2000),
    ({"/proc/meminfo": "MemAvailable: 5 kB\nSwapFree: 0 kB", "/proc/self/cgroup": "0::/of/host",
      "/sys/fs/cgroup/memory.max": "4096"}, 4096),
])  # fmt: skip
def test_free_memory_is_the_least_of_system_and_cgroups(monkeypatch, files, free):
    monkeypatch.setattr(memory, "_read", lambda path: files.get(path, "").splitlines())
    assert memory.free_memory(torch.device("cpu")) == free


def test_free_memory_without_proc(monkeypatch):
    monkeypatch.setattr(memory, "_read", lambda path: [])
    assert memory.free_memory(torch.device("cpu")) > 2**28  # of sysconf
    monkeypatch.delattr("os.sysconf")
    assert memory.free_memory(torch.device("cpu")) is None
    assert memory.free_memory(torch.device("meta")) is None


def test_flags_in_vain_are_named(call, tmp_path):
    flags = [*SLICE, "--epochs", 1, "-c", tmp_path, "--name", "run"]
    assert call(main_gcn.main, *flags)[0] == 0
    path = tmp_path / "run/ckpt_last.pth.tar"
    quiet = [*SLICE, "--evaluate", path, "--lr", "1e-3", "--no-flip_test"]  # as published
    assert call(main_gcn.main, *quiet)[2] == ""
    err = call(main_gcn.main, *quiet, "--lr", "1e-2", "--lamda", 0.3, "-e", 9)[2]
    assert err == "warning: without effect beside --evaluate: --epochs, --lr, --weight_L1_norm\n"
    resume = ["--resume", path, "--device", "cpu"]
    assert call(main_gcn.main, *resume, "-e", 2, "-c", tmp_path, "--name", "run")[2] == ""
    err = call(main_gcn.main, *resume, "-e", 3, "-c", tmp_path / "x", "--name", "other")[2]
    assert err == (
        f"warning: without effect: --name other, --checkpoint {tmp_path / 'x'} "
        f"(the run goes on in {tmp_path / 'run'})\n"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


SCRIPTS = [
    str(path.relative_to(ROOT))
    for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("data/*.py"), *ROOT.glob("tools/*.py")])
    if "run_script(" in path.read_text()
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_starts_with_what_turns_errors_of_imports_into_a_line(script):
    """Before the first package that is not Python's own."""
    lines = (ROOT / script).read_text().splitlines()
    imports = [line.split()[1] for line in lines if line.startswith(("import ", "from "))]
    foreign = [name for name in imports if name.split(".")[0] not in sys.stdlib_module_names]
    assert foreign[0] == "common.start"


@pytest.mark.parametrize(("package", "content", "status", "line"), [
    ("torch", "raise KeyboardInterrupt", 130, "stopped by the user\n"),
    ("torch", "raise ModuleNotFoundError(name='torch')", 2,
     "error: torch is missing: pip install -r requirements.txt\n"),
    ("numpy", "raise ModuleNotFoundError(name='numpy')", 2,
     "error: numpy is missing: pip install -r requirements.txt\n"),
    ("torch", "import of_another", 1, "No module named 'of_another'\n"),
])  # fmt: skip
def test_what_ends_the_imports_is_a_line(tmp_path, package, content, status, line):
    (tmp_path / f"{package}.py").write_text(content)
    done = subprocess.run(
        [sys.executable, "main_gcn.py"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == status and done.stderr.endswith(line)
    assert ("Traceback" in done.stderr) == (status == 1)
    assert status == 1 or done.stderr == line


@pytest.mark.parametrize(("text", "line"), [
    ("[" * 10**5, "its brackets are nested too deeply"),
    ('{"rows": {"a": ' + '{"b":' * 10**5, "its brackets are nested too deeply"),
    ('{"rows": {"a": {"help": true}}}', "row 'a': 'help' is no setting: take it out"),
    ('{"rows": {"a": {}}, "flags": {"help": "x"}}', "'help' is no setting"),
    ('{"rows": {"a": {"h": true}}}', "unrecognized arguments: --h"),
    ('{"rows": {"a": {"": true}}}', "'' is no setting"),
    ('{"rows": {"a": {"lr=1 --help": true}}}', "is no setting"),
    ('{"rows": {"a": {"evaluate": "x"}}}', "--evaluate is not allowed in a sweep's flags"),
    ('{"rows": {"a": {"resume": "x"}}}', "--resume is not allowed in a sweep's flags"),
    ('{"rows": {"a": {"name": "a\\nb"}}}', "--name: a text without line breaks"),
    ('{"rows": {"a": {"hops": 1e400}}}', "--hops: a whole number"),
    ('{"rows": {"a": {"lr": NaN}}}', "a number above 0"),
    ('{"rows": {"a": {}}, "seeds": [-1]}', "--seed: a whole number from 0"),
    ('{"rows": {"a": {}}, "seeds": [1180591620717411303424]}', "--seed: a whole number from 0"),
    (f'{{"rows": {{"a": {{}}}}, "seeds": [{DIGITS}]}}', "is not valid JSON"),
    (f'{{"grid": {{"hops": {[1] * 1000}, "rank": {[1] * 1000}}}}}', "the grid has 1,000,000 rows"),
])  # fmt: skip
def test_a_spec_that_is_none_is_one_line(call, tmp_path, text, line):
    spec = tmp_path / "spec.json"
    spec.write_text(text)
    status, out, err = call(sweep.main, spec, "--out", tmp_path / "out")
    assert (status, out) == (2, "") and line in err and err.count("\n") == 1, err
    assert [*tmp_path.iterdir()] == [spec]


def test_deterministic_belongs_to_the_call():
    args = opt.parse_gcn(["--deterministic"])
    assert args.deterministic and "deterministic" not in settings.settings_of(args)
    source = Source("CKPT", {"options": {"deterministic": True}, "model": {"joints": 16}})
    argv = ["--resume", "CKPT"]
    defaults = settings.checkpoint_settings("main_gcn", source, argv, resume=True)
    assert not opt.parse_gcn(argv, defaults).deterministic
