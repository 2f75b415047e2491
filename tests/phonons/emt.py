"""Phonons of EMT, for the tests of what follows from force constants."""

from nemp_sim.phonons.force_constants import build_phonopy, force_constants
from nemp_sim.phonons.spectra import spectra
from tests.engines import EMTEngine


def make(atoms, supercell=None, mesh=(8, 8, 8), **keywords):
    phonon = build_phonopy(atoms, supercell, **keywords)
    constants = force_constants(EMTEngine(), atoms, phonon)
    return constants, spectra(constants, mesh, range(0, 601, 100))
