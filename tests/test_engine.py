"""An epoch of training and a test, against the plain loop."""

import math

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.input_view import InputView
from common.losses import pose_loss
from common.metrics import mpjpe
from common.progress import Progress
from common.skeleton import H36M_16
from data.datasets import H36M
from data.pose_dataset import PoseLoader, load_pose_datasets
from models.build import build_model
from tests.conftest import Clock
from training.engine import NotFiniteError, Outlook, Position, Training, evaluate
from training.engine import train_one_epoch as train
from training.lifter import Lifter


@pytest.fixture
def dataset(h36m_folder):
    (found,) = load_pose_datasets(H36M, h36m_folder, [H36M.subjects_test], H36M_16)
    return found


def small_training(max_norm=1.0, lr=1e-3, **changes) -> Training:
    model = build_model({"joints": 16, "hid_dim": 8, "num_layers": 1})
    parts = {
        "networks": {"state_dict": model},
        "loss": lambda b: pose_loss(model(b.inputs_2d), b.targets_3d, "mse", 0.1),
        "optimizer": torch.optim.Adam(model.parameters(), lr=lr),
        "rate": lambda step, epoch: lr,
        "max_norm": max_norm,
    }
    return Training(**(parts | changes))


def network(training: Training) -> torch.nn.Module:
    return training.networks["state_dict"]


def lifter_of(training: Training) -> Lifter:
    arguments, view = {"joints": 16}, InputView(camera_rays=False, root_view=False)
    return Lifter(network(training), arguments, view, H36M_16, amp=training.amp)


def test_an_epoch_is_the_textbook_loop_over_the_same_permutation(dataset):
    ours, theirs = small_training(lr=0.1), small_training(lr=0.1)
    network(theirs).load_state_dict(network(ours).state_dict())
    # Plain descent: Adam blows rounding up where a gradient is zero (biases before BatchNorm).
    for each in (ours, theirs):
        each.optimizer = torch.optim.SGD(network(each).parameters(), lr=0.1)
    loader = PoseLoader(dataset, 50, seed=3)
    trained = train(ours, loader, Position(2, 10))
    loss, step = trained.loss, trained.step
    assert step == 10 + -(-len(dataset) // 50)

    network(theirs).train()
    losses = []
    for batch in loader.shuffled_batches(2):
        pred = network(theirs)(batch.inputs_2d)
        difference = pred - batch.targets_3d
        value = 0.9 * difference.square().mean() + 0.1 * difference.abs().mean()
        theirs.optimizer.zero_grad()
        value.backward()
        trained = [p for p in network(theirs).parameters() if p.requires_grad]
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in trained))
        for p in trained:
            p.grad *= min(1.0, 1.0 / (norm + 1e-6))
        theirs.optimizer.step()
        losses += [value.item()] * len(batch.index)
    assert math.isclose(loss, sum(losses) / len(losses), rel_tol=1e-4)
    for name, tensor in network(ours).state_dict().items():
        assert torch.allclose(tensor, network(theirs).state_dict()[name], atol=1e-4), name


def test_training_learns(dataset):
    learner = small_training(lr=1e-2)
    loader = PoseLoader(dataset, 48)
    before = evaluate(lifter_of(learner).tested_pose, loader)["mpjpe_mm"]
    for epoch in range(1, 30):
        train(learner, loader, Position(epoch, 0))
    assert evaluate(lifter_of(learner).tested_pose, loader)["mpjpe_mm"] < 0.7 * before


@pytest.mark.parametrize("batch_size", [1, 37, 256])
def test_evaluation_does_not_depend_on_the_batches(dataset, batch_size):
    torch.manual_seed(2)
    subject = small_training()
    found = evaluate(lifter_of(subject).tested_pose, PoseLoader(dataset, batch_size))
    pose = network(subject).eval()(dataset.inputs_2d)
    errors = 1000 * mpjpe(pose - pose[:, :1], dataset.targets_3d)
    for number, action in enumerate(dataset.actions):
        chosen = errors[dataset.action == number]
        row = found["per_action"][action]
        assert row["frames"] == len(chosen)
        if len(chosen):
            assert abs(row["mpjpe_mm"] - chosen.mean().item()) < 1e-3


def test_what_is_tested_is_the_network_s_pose_in_evaluation_mode(dataset):
    subject = small_training()
    network(subject).train()
    pose = lifter_of(subject).tested_pose(dataset.batch(torch.arange(5)))
    assert not network(subject).training and not pose.requires_grad
    assert torch.allclose(pose, network(subject)(dataset.inputs_2d[:5]), atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run(dataset):
    bad = small_training(loss=lambda b: torch.tensor(torch.nan, requires_grad=True))
    with pytest.raises(NotFiniteError, match=r"the loss of step 1 .* is nan"):
        train(bad, PoseLoader(dataset, 64), Position(1, 0))


def test_predictions_that_are_not_finite_are_refused(dataset):
    with pytest.raises(UserError, match="not finite"):
        evaluate(lambda b: torch.full_like(b.targets_3d, torch.nan), PoseLoader(dataset, 64))


def test_bfloat16_trains_and_predicts_nearly_the_same(dataset):
    plain, mixed = small_training(lr=1e-2), small_training(lr=1e-2, amp=True)
    network(mixed).load_state_dict(network(plain).state_dict())
    mixed.loss = lambda b: pose_loss(network(mixed)(b.inputs_2d), b.targets_3d, "mse", 0.1)
    batch = dataset.batch(torch.arange(40))
    found, expected = (lifter_of(each).tested_pose(batch) for each in (mixed, plain))
    assert found.dtype == torch.float32
    assert 0 < (found - expected).norm() < 0.05 * expected.norm()
    losses = [train(each, PoseLoader(dataset, 64), Position(1, 0)).loss for each in (plain, mixed)]
    assert losses[0] != losses[1] and math.isclose(*losses, rel_tol=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_step_on_a_gpu_agrees_with_the_cpu(dataset):
    torch.manual_seed(1)
    here = small_training()
    torch.manual_seed(1)
    there = small_training()
    network(there).cuda()
    device = torch.device("cuda")
    on_cpu = train(here, PoseLoader(dataset, 64), Position(1, 0)).loss
    on_gpu = train(there, PoseLoader(dataset.to(device), 64), Position(1, 0)).loss
    assert math.isclose(on_cpu, on_gpu, rel_tol=1e-2)


def made_training(loss_of_steps: list[float]) -> Training:
    """Learns nothing, at a given loss a step."""
    network = nn.Linear(2, 3)
    losses = iter(loss_of_steps)
    return Training(
        networks={"state_dict": network},
        loss=lambda batch: next(losses) + 0 * network(batch.inputs_2d).sum(),
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        rate=lambda step, epoch: 0.001 * step,
    )


def test_training_says_loss_rate_and_time_left(dataset, capsys):
    loader = PoseLoader(dataset, 10)  # 192 poses: 20 steps, the last of 2
    outlook = Outlook(3, test_share=0.5, progress=Progress(Clock(step=5.0)))
    losses = [float(n) for n in range(1, 21)]
    trained = train(made_training(losses), loader, Position(2, 100), outlook)
    assert trained.loss == pytest.approx((10 * sum(losses[:19]) + 2 * 20) / 192)
    # 5 s a step and reading of the clock; 11 steps are done when a minute is first over.
    assert capsys.readouterr().err == (
        "epoch 2/3, step 11/20, 0.2 steps/s, loss 6, learning rate 0.111, "
        "45 s left in this epoch, 4 min in all\n"
    )
    # 100 s an epoch, 50 s a test, so two of each less the 55 s that are gone: 245 s
    assert outlook.time_left(2, 55, 45) == "45 s left in this epoch, 4 min in all"
    assert outlook.time_left(3, 50, 50) == "50 s left in this epoch, 2 min in all"
