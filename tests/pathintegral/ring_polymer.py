"""Ring polymers of P beads in a harmonic well, analytic."""

import numpy as np
from ase.units import Bohr, Hartree, _amu, _e, _hbar, kB

from tests.ipi_server import SPRING

KT = 300 * kB
HBAR2_PER_AMU = _hbar**2 / _amu * 1e20 / _e  # ħ²/amu, eV Å²


def frequencies(beads, mass_amu):
    """ħω of the well and ħω_k of the P modes of the free ring polymer, eV."""
    well = np.sqrt(HBAR2_PER_AMU * SPRING * Hartree / Bohr**2 / mass_amu)
    return well, 2 * beads * KT * np.sin(np.arange(beads) * np.pi / beads)


def kinetic(beads, mass_amu):
    """⟨K⟩ = ⟨V⟩ of a three-dimensional well with P beads, eV."""
    well, ring = frequencies(beads, mass_amu)
    return 1.5 * KT * (well**2 / (well**2 + ring**2)).sum()


def gyration(beads, mass_amu, bound=True):
    """√⟨r²⟩ of the beads about their centroid, Å."""
    well, ring = frequencies(beads, mass_amu)
    square = HBAR2_PER_AMU / mass_amu
    return np.sqrt(3 * KT * square * (1 / ((well * bound) ** 2 + ring[1:] ** 2)).sum())
