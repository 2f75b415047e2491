"""Several processes that train one network, as started by torchrun; one process without it."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: number of this process; the first one, 0, writes the files.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def sum_(self, values: Tensor) -> None:
        """Sum over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)

    def same(self, values: list[float]) -> list[float]:
        """The values of the first process, in all of them."""
        if self.count == 1:
            return values
        cuda = dist.get_backend() == "nccl"
        tensor = torch.tensor(values, dtype=torch.float64, device="cuda" if cuda else "cpu")
        dist.broadcast(tensor, 0)
        return tensor.tolist()


@contextmanager
def joined_processes(device: str) -> Iterator[tuple[Processes, str]]:
    """The processes that torchrun started, joined until the end, and the device of this one.

    GPUs are joined by NCCL, one for each process, and CPUs by gloo. Without torchrun: one process.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(), device
        return
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(dist.get_rank(), count), device
    finally:
        gc.collect()  # CUDA graphs that hold sums of NCCL must be gone before its communicator
        dist.destroy_process_group()
