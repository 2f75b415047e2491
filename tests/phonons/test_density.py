"""Densities of states against the mesh that they are of, an Einstein crystal, and phonopy's own."""

from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk
from phonopy import Phonopy
from phonopy.phonon.dos import TotalDos
from phonopy.physical_units import get_physical_units
from phonopy.structure.atoms import PhonopyAtoms

from nemp_sim.phonons.density import bin_width, density_of_states
from tests.phonons.emt import make

SPRING_EV_PER_A2 = 40.0
MASSES = (106.42, 1.008)


def lattice(repeats, coupled=True):
    """Simple cubic, two atoms: one with springs to its six neighbours, one held by a spring alone.

    Without ``coupled`` both are oscillators of their own (an Einstein crystal).
    """
    cell = PhonopyAtoms(
        symbols=["Pd", "H"],
        cell=3.0 * np.eye(3),
        scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]],
        masses=MASSES,
    )
    phonon = Phonopy(cell, np.diag(repeats), primitive_matrix="P")
    n = len(phonon.supercell)
    constants = np.zeros((n, n, 3, 3))
    places = phonon.supercell.scaled_positions * repeats
    for i, symbol in enumerate(phonon.supercell.symbols):
        if symbol == "H" or not coupled:
            constants[i, i] = SPRING_EV_PER_A2 * np.eye(3)
            continue
        for axis in range(3):
            spring = np.diag(np.where(np.arange(3) == axis, 3.0, 0.5))
            for step in (-1, 1):
                moved = places - places[i] - step * np.eye(3)[axis]
                moved -= np.rint(moved / repeats) * repeats
                j = int(np.linalg.norm(moved, axis=1).argmin())
                constants[i, i] += spring
                constants[i, j] -= spring
    phonon.force_constants = constants
    return phonon


def on_mesh(phonon, numbers):
    options = {"is_gamma_center": True, "is_mesh_symmetry": False, "with_eigenvectors": True}
    return phonon.run_mesh(numbers, **options)


def oscillator_THz(mass):
    return np.sqrt(SPRING_EV_PER_A2 / mass) * get_physical_units().DefaultToTHz


def integral(dos, values):
    return np.trapezoid(values, dos.frequencies_THz)


def test_mode_without_dispersion_is_counted():
    """Three modes of H at one frequency, which no wave vector changes; three bands of Pd."""
    dos = density_of_states(on_mesh(lattice((4, 4, 4)), (8, 8, 8)))
    assert integral(dos, dos.total) == pytest.approx(6, abs=1e-6)
    for symbol in ("Pd", "H"):
        assert integral(dos, dos.projected[symbol]) == pytest.approx(3, abs=1e-6)
    (where,) = np.flatnonzero(dos.projected["H"] > 1e-6)
    assert abs(dos.frequencies_THz[where] - oscillator_THz(MASSES[1])) <= dos.width_THz / 2
    assert dos.total[where] * dos.width_THz == pytest.approx(3, abs=1e-6)
    np.testing.assert_allclose(sum(dos.projected.values()), dos.total, atol=1e-12)
    assert dos.total[0] == dos.total[-1] == 0
    assert dos.frequencies_THz[dos.total > 1e-9].min() > 0


def test_einstein_crystal():
    """Every mode has one of two frequencies."""
    dos = density_of_states(on_mesh(lattice((2, 2, 2), coupled=False), (3, 3, 3)))
    filled = np.flatnonzero(dos.total)
    wanted = [oscillator_THz(mass) for mass in MASSES]
    np.testing.assert_allclose(dos.frequencies_THz[filled], wanted, atol=dos.width_THz / 2)
    np.testing.assert_allclose(dos.total[filled] * dos.width_THz, 3, atol=1e-9)


def test_crystal_with_one_frequency_on_the_border_of_two_bins():
    alike = density_of_states(
        SimpleNamespace(
            frequencies=np.full((8, 3), 2.5),
            eigenvectors=np.tile(np.eye(3), (8, 1, 1)),
            bz_grid=on_mesh(lattice((2, 2, 2)), (2, 2, 2)).bz_grid,
            primitive=SimpleNamespace(symbols=["Cu"]),
        )
    )
    assert integral(alike, alike.total) == pytest.approx(3, abs=1e-9)


def test_mean_frequency_is_that_of_the_mesh():
    """The zero-point energy of the density is that of the modes, up to the mesh."""
    mesh = on_mesh(lattice((4, 4, 4)), (11, 11, 11))
    dos = density_of_states(mesh)
    mean = integral(dos, dos.total * dos.frequencies_THz) / 6
    assert mean == pytest.approx(mesh.frequencies.mean(), rel=1e-3)


def test_crystal_with_dispersion_is_that_of_phonopy():
    """At the points between, phonopy's slope of the tetrahedron method; 3 modes in all."""
    _, found = make(bulk("Cu", a=3.59), (5, 5, 5), (16, 16, 16))
    dos = found.dos
    assert integral(dos, dos.total) == pytest.approx(3, abs=1e-6)
    theirs = TotalDos(found.raw.mesh, use_tetrahedron_method=True)
    first, last = dos.frequencies_THz[[0, -1]]
    theirs.set_draw_area(first, last, dos.width_THz)
    theirs.run()
    assert len(theirs.dos) == len(dos.total)
    error = np.sqrt(np.mean((theirs.dos - dos.total) ** 2)) / dos.total.mean()
    assert error < 0.04


def test_width_of_bins():
    assert bin_width(0.0) == 0.05  # all modes alike
    assert bin_width(6.0) == pytest.approx(6.0 / 160)
    assert bin_width(20.0) == 0.05
    assert bin_width(110.0) == pytest.approx(0.11)
