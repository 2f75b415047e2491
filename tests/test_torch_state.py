"""Whatever the caller has set in torch: the same numbers, or a word."""

import multiprocessing
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from nemp_sim.checkpoint import load_potential, save_potential
from nemp_sim.errors import EvaluationError
from nemp_sim.potential import PotentialMetadata
from nemp_sim.replay import Replays
from nemp_sim.torch_state import PrecisionWarning


@contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "another default device": lambda: default_device("meta"),
    "float64 by default": lambda: default_dtype(torch.float64),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
}


def numbers(path, atoms, setting=None):
    """Of a potential loaded and evaluated under a setting: energy, forces, stress, Hessian."""
    with setting() if setting else torch.enable_grad():
        potential = load_potential(path, "cpu", on_extrapolation="ignore")
        result = potential.evaluate([atoms], stress=True, uncertainty=True)
        rows = potential.hessian(atoms, [0])
    return [result.energy, result.forces[0], result.stress, result.forces_std[0], rows]


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_caller_change_no_bit(random_potential, tilted, tmp_path, name):
    save_potential(
        random_potential("smooth", dtype=torch.float32, n_members=3).model,
        PotentialMetadata(),
        tmp_path / "p.pt",
    )
    plain = numbers(tmp_path / "p.pt", tilted)
    for got, want in zip(numbers(tmp_path / "p.pt", tilted, SETTINGS[name]), plain, strict=True):
        np.testing.assert_array_equal(got, want)


def test_rounded_products_are_told(random_potential, methanol):
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.warns(PrecisionWarning, match="'medium' in this process"):
            random_potential("smooth", dtype=torch.float32).evaluate([methanol])
        with pytest.warns(PrecisionWarning, match="'medium' in this process"):
            potential = random_potential("smooth", dtype=torch.float32)
            place = potential.cutoff_angstrom, potential.species_of_number, potential.device
            potential._replays = Replays(*place)  # structures that stay on a GPU
            potential.evaluate([methanol])
        with pytest.warns(PrecisionWarning, match="'medium' in this process"):
            random_potential("smooth", dtype=torch.float32).hessian(methanol, [0])
        random_potential("smooth").evaluate([methanol])
    finally:
        torch.set_float32_matmul_precision("highest")


def evaluate_in_fork(potential, atoms, threads, answers):
    if threads:
        torch.set_num_threads(threads)
    try:
        answers.put(potential.evaluate([atoms]).energy[0])
    except EvaluationError as error:
        answers.put(str(error))


def test_a_fork_is_told_instead_of_waiting_for_ever(random_potential, water):
    potential, before = random_potential("smooth"), torch.get_num_threads()
    context = multiprocessing.get_context("fork")
    torch.set_num_threads(2)
    try:
        energy, said = potential.evaluate([water]).energy[0], []
        for threads in (0, 1):
            answers = context.Queue()
            work = context.Process(
                target=evaluate_in_fork, args=(potential, water, threads, answers)
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
                work.start()
            said.append(answers.get(timeout=60))
            work.join()
    finally:
        torch.set_num_threads(before)
    assert "is a fork of process" in said[0] and "torch.set_num_threads(1)" in said[0]
    assert said[1] == pytest.approx(energy, abs=1e-9)
