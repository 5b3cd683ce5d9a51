"""Devices, and torch.compile where there is no compiler."""

import os

import pytest
import torch

from common.errors import UserError
from models.build import build_model
from training.acceleration import accelerate, select_device


def test_without_a_compiler_compile_warns_and_goes_on(monkeypatch, capsys):
    network = build_model({"joints": 16, "hid_dim": 8, "num_layers": 1})
    names = list(network.state_dict())
    monkeypatch.setattr("shutil.which", lambda name: None)
    accelerate([network], torch.device("cpu"), compiled=True, tf32=False)
    assert capsys.readouterr().err.startswith("warning: --compile without effect: a C++ compiler")
    assert network._compiled_call_impl is None
    assert list(network.state_dict()) == names


def test_devices(monkeypatch):
    assert select_device("cpu").type == "cpu"
    for there, found in ((False, "cpu"), (True, "cuda")):
        with monkeypatch.context() as patch:
            patch.setattr("torch.cuda.is_available", lambda there=there: there)
            patch.setattr("torch.zeros", lambda size, device: torch.ones(size))  # needs no GPU
            assert select_device("auto").type == found
    for name in ("tpu9", "cuda:99"):
        with pytest.raises(UserError, match="--device"):
            select_device(name)


def test_deterministic_is_said_before_cuda_starts_and_leaves_a_cpu_alone(monkeypatch):
    said = []

    def start(size, device):
        said.append(f"{device.type} starts, {os.environ.get('CUBLAS_WORKSPACE_CONFIG')}")
        return torch.ones(size)

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr("torch.zeros", start)
    monkeypatch.setattr("torch.use_deterministic_algorithms", lambda on: said.append(on))
    select_device("cpu", deterministic=True)
    select_device("cuda", deterministic=False)
    assert said == ["cpu starts, None", "cuda starts, None"]
    select_device("cuda", deterministic=True)
    assert said[2:] == [True, "cuda starts, :4096:8"]
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")  # what was set in this process
