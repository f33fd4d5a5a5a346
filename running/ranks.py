"""Several processes of one run, as torchrun starts them: which one this is, sums over all, what the first one finds.

Every process holds the whole rollout, and draws the same random numbers: each samples, scores and trains on its share
of the rows, and sums make the results whole. Everything else is then the same in all of them as in a single process.
"""

import os
import sys
from functools import partialmethod

import torch
import torch.distributed as dist
from tqdm import tqdm


def rank() -> int:
    return int(os.environ["RANK"]) if started() else 0


def world_size() -> int:
    return int(os.environ["WORLD_SIZE"]) if started() else 1


def started() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def join(device: str) -> str:
    """Joins the processes that torchrun has started; returns this one's device. All but the first go quiet."""
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK'] if started() else 0}"
        torch.cuda.set_device(device)
    if world_size() > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        if rank():
            sys.stdout = open(os.devnull, "w")
            tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
    return device


def leave() -> None:
    """Takes leave of the other processes: from here on each goes its way. rank() stays what it was."""
    if dist.is_initialized():
        dist.destroy_process_group()


def batches(rows: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """This process's share of rows, every world_size-th, in batches of at most `size`."""
    share = rows[rank() :: world_size()]
    return share.split(size) if len(share) else ()


def total(*values):
    """Sums over all processes of numbers or tensors, which are changed in place; one value, or a tuple of several."""
    if world_size() > 1:
        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        tensors = [torch.as_tensor(value, device=getattr(value, "device", device)) for value in values]
        for reduction in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            reduction.wait()
        values = [s if isinstance(v, torch.Tensor) else s.item() for v, s in zip(values, tensors)]
    return values[0] if len(values) == 1 else tuple(values)


def from_first(function, *arguments):
    """What the function returns, or raises, in the first process, which alone calls it."""
    if world_size() == 1:
        return function(*arguments)
    outcome = [None, None]
    if rank() == 0:
        try:
            outcome[0] = function(*arguments)
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def from_all(value) -> list:
    """What each process has."""
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values
