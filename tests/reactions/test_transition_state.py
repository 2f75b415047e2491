import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.mep import DimerControl, MinModeAtoms, MinModeTranslate

from nemp_sim.reactions.neb import BandSettings, run_neb
from nemp_sim.reactions.transition_state import prove, refine_saddle
from nemp_sim.relax import relax
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.vibrations import vibrations
from tests.engines import EMTEngine
from tests.reactions.test_neb import MuellerBrown


@pytest.fixture(scope="module")
def band():
    """H from fcc to hcp on Pd(111) with EMT, loosely converged."""
    slab = fcc_slab()
    start = [place(slab, "H", "fcc"), place(slab, "H", "hcp")]
    ends = relax(EMTEngine(), start, 0.005, 200).structures
    return run_neb(EMTEngine(), *ends, BandSettings(5, fmax_eV_per_A=0.1))


def test_saddle_of_an_analytic_surface():
    surface = MuellerBrown()
    exact = surface.stationary(-0.82, 0.62)
    guess = Atoms("H", [[*(exact + [0.08, -0.06]), 0.03]])
    found = refine_saddle(surface, guess, 1e-5)
    assert found.converged and found.steps < 15
    np.testing.assert_allclose(found.atoms.positions[0], [*exact, 0], atol=1e-5)
    a, b = (surface.stationary(*xy) for xy in ((-0.56, 1.44), (-0.05, 0.47)))
    ends = [Atoms("H", [[*xy, 0.0]]) for xy in (a, b)]
    ends = relax(surface, ends, 1e-4, 50).structures
    modes = vibrations(surface, found.atoms, [0], molecule=False, displacement_angstrom=1e-3)
    proof = prove(surface, modes, ends)
    assert proof.holds and proof.n_imaginary == 1 and proof.reached == ("initial", "final")
    assert (np.diff(proof.path_A) > 0).all() and proof.path_energies_eV.max() == 0
    drops = surface.energy(*exact) - np.array([surface.energy(*a), surface.energy(*b)])
    np.testing.assert_allclose(-proof.path_energies_eV[[0, -1]], drops, atol=0.02)
    swapped = prove(surface, modes, ends[::-1])
    assert swapped.reached == ("initial", "final")  # the sides follow the ends
    np.testing.assert_allclose(swapped.path_A, -proof.path_A[::-1], atol=1e-9)


def test_the_other_saddle_joins_other_minima():
    surface = MuellerBrown()
    guess = Atoms("H", [[*surface.stationary(0.21, 0.29), 0.0]])
    a, b = (surface.stationary(*xy) for xy in ((-0.56, 1.44), (-0.05, 0.47)))
    ends = [Atoms("H", [[*xy, 0.0]]) for xy in (a, b)]
    ends = relax(surface, ends, 1e-4, 50).structures
    modes = vibrations(surface, guess, [0], molecule=False)
    proof = prove(surface, modes, ends)
    assert not proof.holds and "another minimum" in proof.reached
    assert "1 imaginary mode; steepest descent reaches" in proof.sentence()


def test_a_minimum_is_no_saddle():
    surface = MuellerBrown()
    a, b = (surface.stationary(*xy) for xy in ((-0.56, 1.44), (-0.05, 0.47)))
    ends = relax(surface, [Atoms("H", [[*xy, 0.0]]) for xy in (a, b)], 1e-4, 50).structures
    proof = prove(surface, vibrations(surface, ends[0], [0], molecule=False), ends)
    assert proof.n_imaginary == 0 and not proof.holds


def test_same_saddle_as_the_dimer_of_ase(band):
    guess = band.images[band.saddle_index]
    found = refine_saddle(EMTEngine(), guess, 2e-3)
    assert found.converged and found.fmax_eV_per_A <= 2e-3 and found.moved_A < 0.2
    assert (found.atoms.positions[:4] == guess.positions[:4]).all()
    dimer = guess.copy()
    dimer.calc = EMT()
    control = DimerControl(
        initial_eigenmode_method="displacement", displacement_method="vector", logfile=None
    )
    vector = band.images[band.saddle_index + 1].positions - guess.positions
    moving = np.arange(len(dimer)) >= 4
    atoms = MinModeAtoms(dimer, control, mask=moving.tolist())
    atoms.displace(displacement_vector=0.02 * vector / np.abs(vector).max(), mask=moving.tolist())
    with MinModeTranslate(atoms, logfile=None) as job:
        job.run(fmax=2e-3, steps=300)
    ours, theirs = found.atoms.get_potential_energy(), dimer.get_potential_energy()
    assert ours == pytest.approx(theirs, abs=1e-4)
    modes = vibrations(EMTEngine(), found.atoms)
    proof = prove(EMTEngine(), modes, (band.images[0], band.images[-1]))
    assert proof.holds, proof.sentence()
    assert proof.distances_A.diagonal().max() < 0.1


def test_used_up_steps_are_said(band):
    found = refine_saddle(EMTEngine(), band.images[band.saddle_index], 1e-9, steps=2)
    assert not found.converged and found.steps == 2
