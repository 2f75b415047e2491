"""Which form of the network evaluates it: the plain one, or the fused GPU kernels."""

import importlib.util
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from nemp_sim.config import require
from nemp_sim.derivatives import Derivatives
from nemp_sim.errors import InputError
from nemp_sim.kernels.sizes import interpreted
from nemp_sim.model import NEMP, Describe
from nemp_sim.tabulation import PairTable, TabulationError

Measures = tuple[Tensor, ...]  # of ``surroundings.measure``
Step = Callable[..., tuple[Derivatives, Measures]]  # see ``step.FusedStep.__call__``
KERNELS = ("auto", "reference", "fused")
PRECISIONS = ("tf32x3", "fp16x3", "bf16x3", "ieee", "tf32", "bf16", "fp16")
MAX_L = 3  # largest max_l of the kernels, all measured on a GPU (docs/kernels.md)
OLDEST = (8, 0)  # compute capability of Ampere: tensor cores for float32 sums of all precisions


def obstacle(model: NEMP, interpreter: bool = False) -> str:
    """Why the fused kernels cannot run ``model`` where it is; empty if they can.

    Args:
        model: the network.
        interpreter: Triton's interpreter runs the kernels, on any device and in any dtype.
    """
    weights = model.species_mix
    if not weights.is_cuda and not interpreter:
        return f"the device is {weights.device}, not an NVIDIA GPU"
    if weights.is_cuda and torch.version.hip:
        return "the device is an AMD GPU, where the kernels were never run"
    if weights.is_cuda and torch.cuda.get_device_capability(weights.device) < OLDEST:
        return f"the GPU has a compute capability below {OLDEST[0]}.{OLDEST[1]}"
    if weights.dtype != torch.float32 and not interpreter:
        return f"the dtype is {weights.dtype}, not float32"
    if model.config.max_l > MAX_L:
        return f"max_l is {model.config.max_l}, above {MAX_L}"
    if model.config.mean_neighbours:
        return "the kernels divide by coordinations, not by mean_neighbours"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (it comes with the CUDA builds of torch)"
    return ""


def choose(model: NEMP, kernel: str, precision: str) -> tuple[Describe, str]:
    """What evaluates a frozen network on its device, and its name with the reason.

    Args:
        model: the network.
        kernel: "reference", "fused" or "auto": fused where that can be, else the
            reference.
        precision: of the matrix products of the kernels, one of PRECISIONS. "fp16x3", "tf32x3"
            (three products, float32 sums) keep the accuracy of float32; "tf32", "bf16" and
            "fp16" trade it for speed.

    Raises:
        InputError: an unknown kernel or precision, or "fused" for a network that cannot be.
    """
    require(kernel in KERNELS, "kernel", kernel, f"one of {', '.join(KERNELS)}")
    require(precision in PRECISIONS, "precision", precision, f"one of {', '.join(PRECISIONS)}")
    with torch.no_grad():
        functions = partial(model.pair_functions, code=model.pair_code())
    plain = partial(model.describe, pair_functions=functions)
    if kernel == "reference":
        return plain, "reference"
    reason = obstacle(model, interpreter=kernel == "fused" and interpreted())
    if not reason:
        from nemp_sim.kernels.fused import FusedNetwork  # triton is not everywhere
        from nemp_sim.kernels.linear import LinearNetwork, is_linear

        try:
            table = PairTable(model, model.species_mix.dtype)
            form = LinearNetwork if is_linear(model) else FusedNetwork
            return form(model, table, precision).describe, f"fused ({precision})"
        except TabulationError as error:
            reason = str(error)
    if kernel == "auto":
        return plain, f"reference ({reason})"
    raise InputError(f"kernel is 'fused', but {reason}. Use kernel='reference' or 'auto'.")


class KernelWarning(UserWarning):
    """The fused kernels are wrong or fail on this GPU; the plain form is used."""


def choose_checked(
    model: NEMP, kernel: str, precision: str, limits: Tensor
) -> tuple[Describe, str, Step | None]:
    """``choose`` and ``direct``; on a GPU kernels that fail ``self_check`` are not taken.

    Raises:
        InputError: as ``choose``; or "fused" where the kernels fail.

    Warns:
        KernelWarning: "auto" where the kernels fail.
    """
    describe, name = choose(model, kernel, precision)
    step = direct(describe, limits)
    if step is None or not model.species_mix.is_cuda:
        return describe, name, step
    from nemp_sim.kernels.self_check import fault

    reason = fault(model, describe, step, precision)
    if not reason:
        return describe, name, step
    if kernel == "fused":
        raise InputError(f"kernel is 'fused', but {reason}. Use kernel='reference' or 'auto'.")
    warnings.warn(
        f"{reason}: the plain form is used, which is slower. Please report this with the versions "
        "of torch, Triton and the driver; kernel='reference' avoids the check.",
        KernelWarning,
        stacklevel=3,
    )
    return *choose(model, "reference", precision)[:1], f"reference ({reason})", None


def direct(describe: Describe, limits: Tensor) -> Step | None:
    """The whole step without autograd, where ``describe`` is that of the kernels; else None.

    Args:
        describe: what ``choose`` gave, for a network of one head.
        limits: (S², 4) as ``surroundings.measure``.
    """
    network = getattr(describe, "__self__", None)
    if network is None:
        return None
    from nemp_sim.kernels.step import FusedStep  # triton is not everywhere

    return FusedStep(network, limits)
