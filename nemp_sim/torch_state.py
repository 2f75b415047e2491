"""What others have set in torch, kept away from our numbers; processes that torch cannot run in."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from nemp_sim.errors import EvaluationError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_threads_of: list[int] = []  # the process whose threads torch has started; copied by a fork


@contextmanager
def plain_torch() -> Iterator[None]:
    """Neither autocast, nor inference mode, nor another default device, whatever the caller set.

    Autocast would round the products to 16 bits without a word: 20 meV on 13 atoms. The default
    dtype needs no guard: every tensor of the package says its own.
    """
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    with torch.inference_mode(False):
        if torch.empty(0).device.type != "cpu":  # get_default_device fails in torch 2.6 after None
            with torch.device("cpu"), _without_autocast(kinds):
                yield
        else:
            with _without_autocast(kinds):
                yield


@contextmanager
def _without_autocast(kinds: list[str]) -> Iterator[None]:
    if not kinds:
        yield
        return
    with torch.autocast(kinds[0], enabled=False), _without_autocast(kinds[1:]):
        yield


def in_plain_torch(work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """``work`` in ``plain_torch``."""

    @wraps(work)
    def done(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        with plain_torch():
            return work(*arguments, **options)

    return done


class PrecisionWarning(UserWarning):
    """Products of float32 are rounded to fewer digits than the potential was tested with."""


def is_traced() -> bool:
    """Whether ``torch.jit.trace`` records the operations, which then must all be plain ones."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined]


def warn_of_rounding(weights: torch.Tensor) -> None:
    """Warn where torch may round float32 products to TF32 or bfloat16, as others may want."""
    precision = torch.get_float32_matmul_precision()
    if precision != "highest" and weights.dtype == torch.float32:
        warnings.warn(
            f"torch.set_float32_matmul_precision is {precision!r} in this process: energies and "
            "forces can lose digits. Set 'highest', or load the potential with dtype='float64'.",
            PrecisionWarning,
            stacklevel=2,
        )


def refuse_forked(device: torch.device) -> None:
    """Refuse to compute on the CPU in a fork of a process that has: torch would wait for ever.

    Raises:
        EvaluationError: threads of torch that the fork does not have would be waited for.
    """
    if device.type != "cpu" or torch.get_num_threads() == 1:
        return
    if not _threads_of:
        _threads_of.append(os.getpid())
    if _threads_of[0] != os.getpid():
        raise EvaluationError(
            f"process {os.getpid()} is a fork of process {_threads_of[0]}, which has evaluated "
            f"with {torch.get_num_threads()} threads that the fork does not have: it would wait "
            "for ever. Call torch.set_num_threads(1) in the fork, or start processes by "
            "multiprocessing.get_context('spawn')."
        )
