"""Training one model in several processes, which torchrun starts. One process needs none of it.

    torchrun --nproc_per_node=N main_gcn.py ...        docs/scaling.md has the rules

Every process holds all data and takes its share of each batch. ``DistributedDataParallel`` averages
the gradients (gloo between CPUs, nccl between GPUs), so that all processes hold equal weights after
every step. Batch normalisation uses the statistics of the whole batch. N processes therefore give
the result of one process with the same batch size, up to rounding and the draws of dropout.
"""

import gc
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.errors import SignalledError, UserError, run_script

# How long a process waits for the others before it takes them for lost.
_PATIENCE = timedelta(minutes=10)


def world_size() -> int:
    """The number of processes of the job."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and prints."""
    return rank() == 0


def as_process_of_job(main: Callable[[], None]) -> Callable[[], None]:
    """Run a script's ``main`` as one process of the job that torchrun's environment describes.

    Only the main process prints. The error that ends the job is printed once, by the process that
    raised it first. Then the other processes lose their partner, and torchrun ends them too.
    """

    def run() -> None:
        if os.environ.get("WORLD_SIZE", "1") == "1":
            main()
            return
        store = _join()
        try:
            with ExitStack() as stack:
                if not is_main():
                    nothing = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                    stack.enter_context(redirect_stdout(nothing))
                    stack.enter_context(redirect_stderr(nothing))
                main()
            _take_leave()
        except SystemExit:  # after --help
            raise
        except BaseException as error:
            together = isinstance(error, SignalledError)  # all raise it, after the main one saved
            speaks = is_main() if together else _is_first(store, error)
            status = _say(error) if speaks else 128 + error.signum if together else 2
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # an orderly end might wait for partners that are gone

    return run


def _join() -> dist.Store:
    """Connect to the other processes; gives the store that all share.

    Raises:
        UserError: the environment is incomplete, or not all processes connected.
    """
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        if (local := int(os.environ.get("LOCAL_RANK", 0))) < torch.cuda.device_count():
            torch.cuda.set_device(local)
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=_PATIENCE))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"cannot meet the other processes at {where} ({_reason(error)}): start all of "
            "them with torchrun"
        ) from error
    return store


def _take_leave() -> None:
    """Wait for all processes and close the connections. Threads of gloo live as long as a model
    refers to them, and would abort the process if they outlived the interpreter."""
    dist.barrier()
    gc.collect()
    dist.destroy_process_group()


def _is_first(store: dist.Store, error: BaseException) -> bool:
    """Whether no other process has printed yet what ends the job, as far as one can know."""
    try:
        with _quiet_stderr():  # torch would tell of a lost store with a stack of C++ frames
            return store.add("the end was said", 1) == 1
    except RuntimeError:
        # The process that held the store has ended. If it raised an error that all processes
        # raise, it has printed it. If it was killed, nobody has printed anything.
        return _is_lost_partner(error)


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Discard what is written to stderr, also by code outside Python."""
    kept = os.dup(2)
    with Path(os.devnull).open("w", encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _is_lost_partner(error: BaseException) -> bool:
    """gloo's errors have no type of their own."""
    is_gloo = isinstance(error, RuntimeError) and "gloo" in str(error)
    return is_gloo or isinstance(error, dist.DistError)


def _say(error: BaseException) -> int:
    """Print what ended the job, as a script does; gives the exit status."""
    if _is_lost_partner(error):
        error = UserError(
            "another process of the job ended or cannot be reached any more "
            f"({_reason(error)}); what was saved is kept: go on from it with --resume"
        )

    def raise_it() -> None:
        raise error

    try:
        run_script(raise_it)
    except SystemExit as stop:
        return stop.code
    except BaseException:
        traceback.print_exc()
    return 1


def _reason(error: BaseException) -> str:
    """The first sentence of an error, without the leading place in gloo's source."""
    line = str(error).strip().split("\n")[0]
    return re.sub(r"^\[\S+\] ", "", line).split(". ")[0][:160]


def own_device(device: torch.device) -> torch.device:
    """The device of this process, where the job was given ``device``.

    Raises:
        UserError: there are not as many CUDA devices as processes here.
    """
    if world_size() == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise UserError(f"--device {device} is one for all processes: give --device cuda")
    local, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= count:
        raise UserError(f"more processes than the {count} GPUs here: lower --nproc_per_node")
    return torch.device("cuda", local)


def seed_epoch(seed: int, epoch: int) -> None:
    """Seed each process by seed, epoch and rank, so that dropout differs between processes and a
    resumed job draws what an uninterrupted one would. One process keeps its random state."""
    if world_size() > 1:
        torch.manual_seed((seed * 1_000_003 + epoch) * 1_000_003 + rank())


def add_up(*values: Tensor) -> None:
    """Replace each tensor by its sum over processes."""
    if world_size() > 1:
        for value in values:
            dist.all_reduce(value)


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over processes."""
    value = value.clone()
    add_up(value)
    return value / world_size()


def gather(value: Tensor) -> list[Tensor]:
    """The tensors of all processes, by rank."""
    if world_size() == 1:
        return [value]
    values = [torch.empty_like(value) for _ in range(world_size())]
    dist.all_gather(values, value)
    return values


def greatest(value: int) -> int:
    """The greatest number that any process gives."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def with_averaged_gradients(
    networks: Collection[nn.Module], loss: Callable[[Any], Tensor]
) -> Callable:
    """A loss whose gradient, in every process, is that of the mean loss over the whole batch.

    Args:
        networks: that ``loss`` trains. They get equal weights in all processes, and their batch
            normalisation uses the statistics of the whole batch. Checkpoints still save them.
        loss: a ``PoseBatch`` -> mean loss over its poses.
    """
    if world_size() == 1:
        return loss
    for network in networks:
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.forward = partial(_synchronised_batch_norm, module)
    return nn.parallel.DistributedDataParallel(_Loss(networks, loss))


class _Loss(nn.Module):
    """The loss as a module, since DDP prepares its gradients in a module's forward pass."""

    def __init__(self, networks: Collection[nn.Module], loss: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.loss = loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(batch) * batch.loss_weight


def _synchronised_batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch normalisation of (B, C, ...) with the statistics of all processes. torch's own
    ``SyncBatchNorm`` works on GPUs only."""
    if not norm.training:
        return type(norm).forward(norm, x)
    channels_last = x.movedim(1, -1)
    rows = channels_last.flatten(0, -2).float()
    normalised, mean, variance, count = _Normalise.apply(rows, norm.eps)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)
    out = torch.addcmul(norm.bias, normalised, norm.weight)
    return out.view(channels_last.shape).movedim(-1, 1).to(x.dtype)


class _Normalise(torch.autograd.Function):
    """Rows (R, C) -> (x - mean) / sqrt(variance + eps), mean and variance over the rows of all
    processes; also gives mean, variance and the number of rows.

    Backward, g the gradient of a normalised value y:  (g - mean(g) - y mean(g y)) / sqrt(...),
    means over the rows of all processes again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean = x.mean(dim=0)
        squares = (x - mean).square().sum(dim=0)
        # Every process's count, mean and squares about its own mean: no cancellation in the sums.
        parts = x.new_zeros(world_size(), 1 + 2 * x.shape[1])
        parts[rank()] = torch.cat([x.new_tensor([len(x)]), mean, squares])
        dist.all_reduce(parts)
        counts, means, squares = parts.split([1, x.shape[1], x.shape[1]], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(dim=0) / count
        variance = (squares + counts * (means - mean).square()).sum(dim=0) / count
        scale = torch.rsqrt(variance + eps)
        y = (x - mean) * scale
        ctx.save_for_backward(y, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        y, scale, count = ctx.saved_tensors
        sums = torch.stack([g.sum(dim=0), (g * y).sum(dim=0)])
        dist.all_reduce(sums)
        mean_g, mean_gy = sums / count
        return (g - mean_g - y * mean_gy) * scale, None
