"""Constant pressure and coloured noise through i-PI against analytic ring polymers."""

import numpy as np
import pytest
from ase import Atoms
from ase.units import GPa

from nemp_sim.pathintegral.averages import thermodynamics
from nemp_sim.pathintegral.input import ISOTOPES, Dynamics, prepare_start
from nemp_sim.pathintegral.run import simulate
from nemp_sim.potential import Evaluation
from nemp_sim.structures import with_mass
from tests.ipi_server import HarmonicEngine
from tests.pathintegral.ring_polymer import KT, frequencies

pytest.importorskip("ipi", reason="i-PI is not installed")
MASS = ISOTOPES["H"]
BULK = 0.2  # eV/Å³
CELL_A3 = 10.0  # of one atom
GRUENEISEN = 1.0  # ω ∝ 1/V


class Crystal(HarmonicEngine):
    """Wells at fixed fractional coordinates that soften with the volume, and an elastic E(V).

    E = ½ B (V − V₀)²/V₀ + ½ k (V₀/V)^2γ Σ u²,   u = r − s · cell
    """

    def __init__(self, places):
        super().__init__()
        self.places, self.v0 = places, CELL_A3 * len(places)

    def evaluate(self, structures, forces=True, stress=False, neighbors=None):
        results = [self.one(atoms) for atoms in structures]
        energy, pull, voigt = (np.array(values) for values in zip(*results, strict=True))
        return Evaluation(energy, (), tuple(pull), voigt)

    def one(self, atoms):
        volume = atoms.get_volume()
        spring = self.spring * (self.v0 / volume) ** (2 * GRUENEISEN)
        away = atoms.positions - self.places @ atoms.cell.array
        wells = 0.5 * spring * (away**2).sum()
        energy = 0.5 * BULK * (volume - self.v0) ** 2 / self.v0 + wells
        by_volume = BULK * (volume / self.v0 - 1) - 2 * GRUENEISEN * wells / volume
        stress = by_volume * np.eye(3) + spring * away.T @ away / volume
        return energy, -spring * away, stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def mean_volume(beads, n_atoms, pressure):
    """⟨V⟩ of exp(−(E + F_P + pV)/k_B T), F_P of 3N ring polymers of ω(V), Å³."""
    v0 = CELL_A3 * n_atoms
    volume = np.linspace(0.7, 1.4, 2001) * v0
    well, ring = frequencies(beads, MASS)
    modes = np.log((well * v0 / volume) ** 2 + ring[:, None] ** 2).sum(axis=0)
    free = 0.5 * BULK * (volume - v0) ** 2 / v0 + 1.5 * n_atoms * KT * modes + pressure * volume
    weight = np.exp(-(free - free.min()) / KT)
    return (weight * volume).sum() / weight.sum()


def test_zero_point_motion_expands_a_crystal_at_constant_pressure(tmp_path):
    """Mean volume of the quasi-harmonic ring polymer; the pressure inside is the one outside."""
    grid = np.array(list(np.ndindex(3, 3, 3))) / 3.0
    side = (CELL_A3 * len(grid)) ** (1 / 3)
    atoms = Atoms(f"H{len(grid)}", grid * side, cell=[side] * 3, pbc=True)
    start = prepare_start(with_mass(atoms, "H", MASS))
    dynamics = Dynamics(
        beads=4, steps=1000, timestep_fs=1.0, ensemble="npt", tau_fs=15, pressure_MPa=2000.0,
        every=2, frames_every=100, fix_com=False, batch_size=4,
    )  # fmt: skip
    simulate(Crystal(grid), start, dynamics, tmp_path)
    found = thermodynamics(tmp_path, start, dynamics, 300)
    exact, classical = (mean_volume(p, len(grid), 2 * GPa) for p in (4, 1))
    assert abs(found.volume_A3.mean - exact) < 4 * found.volume_A3.error < exact - classical
    assert abs(found.pressure_MPa.mean - 2000) < 4 * found.pressure_MPa.error < 1500
    grams = len(grid) * MASS / 0.602214076
    assert found.density_g_per_cm3.mean == pytest.approx(grams / found.volume_A3.mean, rel=0.01)


def test_matrices_of_each_mode_give_few_beads_the_quantum_energy(tmp_path):
    """PIGLET for one frequency: the modes of the ring are as hot as four beads need to be exact."""
    beads, n_atoms = 4, 40
    well, ring = frequencies(beads, MASS)
    exact = 3 * well / 4 / np.tanh(well / 2 / KT)
    shares = 1.5 * KT * well**2 / (well**2 + ring**2)
    hot = (exact - shares[0]) / shares[1:].sum()
    temperatures = 300 * beads * np.array([1.0] + [hot] * (beads - 1))
    shape = f"shape='({beads}, 1, 1)'"
    rates = ", ".join(["0.002"] * beads)
    kelvin = ", ".join(f"{t:.6f}" for t in temperatures)
    matrices = tmp_path / "piglet.xml"
    matrices.write_text(f"<A {shape}> [{rates}] </A>\n<C {shape} units='kelvin'> [{kelvin}] </C>\n")
    start = prepare_start(with_mass(Atoms(f"H{n_atoms}", np.zeros((n_atoms, 3))), "H", MASS))
    dynamics = Dynamics(
        beads=beads, steps=450, timestep_fs=0.5, thermostat="nm_gle", gle_file=matrices,
        every=4, frames_every=100, fix_com=False, batch_size=beads,
    )  # fmt: skip
    simulate(HarmonicEngine(), start, dynamics, tmp_path)
    found = thermodynamics(tmp_path, start, dynamics, 150).kinetic_cv_eV["H"]
    assert abs(found.mean - exact) < 4 * found.error < 0.5 * (exact - shares.sum())
