"""How much memory an evaluation takes, and how much there is."""

import os
from pathlib import Path

import torch

from nemp_sim.config import ModelConfig
from nemp_sim.kernels.sizes import padded_size

MEMORY_OF_LINUX = Path("/proc/meminfo")
GROUP_OF_LINUX = Path("/sys/fs/cgroup")  # limits of a container
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed", "bad_alloc")


def bytes_per_edge(config: ModelConfig, dtype: torch.dtype, fused: bool = False) -> int:
    """Estimate of the peak memory of energy and forces for one directed edge, bytes.

    Counts the tensors (edges × features) that the backward pass keeps and uses; 1.0 to 1.5 times
    the peak measured on an H100 for six shapes from L = 0 to L = 4, linear networks included. The
    ``fused`` kernels keep the edge states, their gradients and those of the neighbours' orbitals,
    beside the geometry and a workspace of fixed size. On a CPU 0.8 to 1.0 times the peak measured.
    """
    p2, l2 = (config.pmax_l + 1) ** 2, (config.max_l + 1) ** 2
    steps, k = config.n_message_passing, config.n_channels
    itemsize = torch.empty(0, dtype=dtype).element_size()
    if fused:
        return 256 + itemsize * padded_size(k) * (2 * (2 + steps) + config.pmax_l + 1)
    message, radial = config.message_mlp, config.radial_mlp
    hidden = (2 * steps + 1) * 2 * message.width * (1 + message.n_blocks * message.layers_per_block)
    hidden += 2 * radial.width * (1 + radial.n_blocks * radial.layers_per_block)
    orbitals = k * ((steps + 1) * (3 * p2 + 3 * (config.pmax_l + 1)) + steps * (6 * p2 + l2))
    return itemsize * (hidden + orbitals + k * (config.pmax_l + 3 + 2 * steps))


def free_memory(device: torch.device) -> float:
    """Memory that tensors on a device may still take, bytes; within the limit of a container."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if not MEMORY_OF_LINUX.is_file():
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = dict(line.split(":") for line in MEMORY_OF_LINUX.read_text().splitlines())
    free = 1024.0 * int(lines["MemAvailable"].split()[0])
    limit, used = (GROUP_OF_LINUX / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def total_memory(device: torch.device) -> float:
    """Memory of a device, used or not, bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class MemoryWarning(UserWarning):
    """A batch did not fit into the memory and was evaluated in parts."""


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether an error says that memory has run out: torch, CUDA's libraries, Triton, NumPy."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        said in text for said in OUT_OF_MEMORY
    )
