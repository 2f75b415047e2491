"""nemp validate: a sound potential passes, and each kind of fault is found by its own line."""

from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from typer.testing import CliRunner

from nemp_sim.checkpoint import save_potential
from nemp_sim.cli import app
from nemp_sim.errors import InputError
from nemp_sim.potential import Potential, PotentialMetadata
from nemp_sim.validation.run import (
    LIMITS,
    cutoff_checks,
    derivative_checks,
    invariance_checks,
    structures_for,
    validate,
)

DEPENDS_ON_THE_WEIGHTS = {"leaving the cutoff", "dimer wall", "not bound"}


PAIR = (1, 46)  # elements: few dimers


def statics(potential, atoms):
    limits = LIMITS[potential.dtype]
    for part in (invariance_checks, derivative_checks, cutoff_checks):
        yield from part(potential, atoms, limits)


def failed(checks):
    return {check.name for check in checks if not check.passed}


@pytest.fixture
def sound(random_potential):
    """A potential of its own, to be spoiled."""
    kept = random_potential("smooth", zbl=True, elements=PAIR)
    return Potential(kept.model, name="sound")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_sound_potential_passes(random_potential, dtype, tilted):
    potential = random_potential("smooth", zbl=True, elements=PAIR, dtype=dtype)
    checks = list(validate(potential, [tilted]))
    assert failed(checks) <= DEPENDS_ON_THE_WEIGHTS
    names = {check.name for check in checks}
    assert names >= {"translation", "extensivity", "batch = single", "NVE drift", "lone atom"}
    assert names >= {"stress = dE/dε / V", "dissociation", "dimer wall", "dimer limit"}


def lattice_of_space(atoms):
    return 1e-4 * np.sin(atoms.positions).sum(), 1e-4 * np.cos(atoms.positions)


def x_is_special(atoms):
    x = atoms.get_all_distances(vector=True)[..., 0]
    return 1e-4 * np.square(x).sum(), np.zeros((len(atoms), 3))


def order_matters(atoms):
    weights = np.arange(len(atoms))
    return 1e-4 * float((weights * atoms.numbers).sum()), np.zeros((len(atoms), 3))


def grows_too_fast(atoms):
    return 1e-4 * len(atoms) ** 2, np.zeros((len(atoms), 3))


def wrong_forces(atoms):
    return 0.0, 1e-3 * np.sign(atoms.numbers)[:, None] * np.ones((len(atoms), 3))


FAULTS = {
    "translation": lattice_of_space,
    "rotation, inversion": x_is_special,
    "permutation": order_matters,
    "extensivity": grows_too_fast,
    "dissociation": grows_too_fast,
    "forces = −dE/dr": wrong_forces,
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_found(sound, monkeypatch, tilted, name):
    honest = sound.evaluate

    def spoiled(structures, **options):
        result = honest(structures, **options)
        extra = [FAULTS[name](atoms) for atoms in structures]
        energy = result.energy + [e for e, _ in extra]
        if result.forces is None:
            return replace(result, energy=energy)
        forces = tuple(f + e for f, (_, e) in zip(result.forces, extra, strict=True))
        return replace(result, energy=energy, forces=forces)

    monkeypatch.setattr(sound, "evaluate", spoiled)
    assert name in failed(statics(sound, tilted))


def test_repeat_and_stress_faults_are_found(sound, monkeypatch, tilted):
    honest, calls = sound.evaluate, []

    def spoiled(structures, **options):
        calls.append(0)
        result = honest(structures, **options)
        energy = result.energy + 1e-6 * len(structures) ** 2 * (len(calls) % 2)
        stress = None if result.stress is None else result.stress + 1e-3
        return replace(result, energy=energy, stress=stress)

    monkeypatch.setattr(sound, "evaluate", spoiled)
    found = failed(statics(sound, tilted))
    assert found >= {"repeated run", "stress = dE/dε / V"}


def test_published_form_fails_at_the_cutoff(random_potential, methanol):
    potential = random_potential("published", seed=2)
    assert "leaving the cutoff" in failed(cutoff_checks(potential, methanol, LIMITS[torch.float64]))


def test_structures_of_a_potential_of_ones_own(random_potential):
    (made,) = structures_for(random_potential("smooth"))
    assert set(made.symbols) == {"H", "C", "O", "Pd"} and made.pbc.all()
    with pytest.raises(InputError, match="structures"):
        list(validate(random_potential("smooth"), []))


def test_limits_of_both_dtypes():
    assert set(LIMITS) == {torch.float32, torch.float64}


def test_command(random_potential, tmp_path):
    path = save_potential(
        random_potential("published", seed=2, elements=PAIR).model,
        PotentialMetadata(),
        tmp_path / "p.pt",
    )
    ase.io.write(tmp_path / "s.xyz", Atoms("PdH", [[0, 0, 0], [0, 0, 1.0]]), format="extxyz")
    options = ["--structure", str(tmp_path / "s.xyz"), "--device", "cpu", "--dtype", "float64"]
    result = CliRunner().invoke(app, ["validate", str(path), *options])
    assert result.exit_code == 1, result.output
    assert "FAIL  leaving the cutoff" in result.output and "p.pt (cpu, float64)" in result.output
