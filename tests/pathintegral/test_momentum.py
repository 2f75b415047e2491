"""Momentum distributions against the density matrix of P beads on a grid."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.units import kB

from nemp_sim.errors import InputError
from nemp_sim.pathintegral.averages import thermodynamics
from nemp_sim.pathintegral.input import ISOTOPES, Dynamics, prepare_start
from nemp_sim.pathintegral.momentum import _uncounted, momentum_distribution
from nemp_sim.pathintegral.plots import momentum_profile
from nemp_sim.pathintegral.run import simulate
from nemp_sim.potential import Evaluation
from nemp_sim.structures import with_mass
from nemp_sim.vibrations import EV_OF_ROOT as HBAR
from tests.ipi_server import HarmonicEngine
from tests.pathintegral.ring_polymer import KT, frequencies

MASS = ISOTOPES["H"]
GRID = np.linspace(-1.5, 1.5, 601)


class FlatWell(HarmonicEngine):
    """For every atom a well with a flat bottom along x, harmonic along y and z."""

    height_eV, half_A = 0.25, 0.35

    def along_x(self, x):
        return self.height_eV * (x / self.half_A) ** 4

    def evaluate(self, structures, forces=True, stress=False, neighbors=None):
        self.batches.append(len(structures))
        energy, pull = [], []
        for atoms in structures:
            x, rest = atoms.positions[:, 0], atoms.positions[:, 1:]
            energy.append(self.along_x(x).sum() + 0.5 * self.spring * (rest**2).sum())
            slope = 4 * self.height_eV * x**3 / self.half_A**4
            pull.append(np.column_stack([-slope, -self.spring * rest]))
        stresses = np.zeros((len(structures), 6)) if stress else None
        return Evaluation(np.array(energy), (), tuple(pull), stresses)


def density_matrix(potential, beads):
    """exp(−βH) of P beads in one dimension on the grid."""
    half = np.exp(-potential / (2 * beads * KT))
    apart = GRID[:, None] - GRID
    step = half[:, None] * np.exp(-MASS * KT * beads * apart**2 / (2 * HBAR**2)) * half
    rho = np.linalg.matrix_power(step * (GRID[1] - GRID[0]), beads)
    return rho / np.trace(rho)


def end_to_end(rho, u):
    """∫ ρ(x, x + u) dx at displacements (D,)."""
    pitch = GRID[1] - GRID[0]
    lags = np.arange(0, int(u[-1] / pitch) + 2)
    return np.interp(u, lags * pitch, [np.trace(rho, offset=int(lag)) for lag in lags])


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Forty H, six beads."""
    pytest.importorskip("ipi", reason="i-PI is not installed")
    start = prepare_start(with_mass(Atoms("H40", np.zeros((40, 3))), "H", MASS))
    dynamics = Dynamics(
        beads=6, steps=1300, timestep_fs=1.0, tau_fs=15, every=5, frames_every=2, fix_com=False,
        batch_size=6,
    )  # fmt: skip
    directory, engine = tmp_path_factory.mktemp("opened"), FlatWell()
    simulate(engine, start, dynamics, directory)
    kinetic = thermodynamics(directory, start, dynamics, 100).kinetic_cv_eV["H"]
    arguments = (engine, directory, start, dynamics, "H", kinetic.mean, 100, 600)
    return arguments, kinetic, momentum_distribution(*arguments)


def test_end_to_end_distribution_is_that_of_the_density_matrix(opened):
    engine, found = opened[0][0], opened[2]
    u = found.displacement_A
    for axis, potential in (
        ("x", engine.along_x(GRID)),
        ("y", 0.5 * engine.spring * GRID**2),
        ("z", 0.5 * engine.spring * GRID**2),
    ):
        exact = end_to_end(density_matrix(potential, 6), u)
        error = found.end_to_end_error[axis]
        assert found.end_to_end[axis][0] == 1.0 and error[0] == 0.0
        assert (np.abs(found.end_to_end[axis] - exact)[1:] < 4 * error[1:] + 2e-4).all(), axis
        assert error.max() < 0.03
    assert found.n_samples == 600 and engine.batches[-1] == 6 + 3 * 8 * 7


def test_momentum_of_a_harmonic_axis_is_gaussian(opened):
    """Of P beads the width is not quite ħω/2 coth(βħω/2), but that of its kinetic energy."""
    found = opened[2]
    well, ring = frequencies(6, MASS)
    exact = 0.5 * KT * (well**2 / (well**2 + ring**2)).sum()
    assert exact > 1.5 * 0.5 * KT
    for axis in ("y", "z"):
        error = found.kinetic_error_eV[axis]
        assert abs(found.kinetic_eV[axis] - exact) < 4 * error + 0.02 * exact < 0.4 * exact
        width = np.sqrt(2 * MASS * exact) / HBAR
        p = found.momentum_per_A
        gaussian = np.exp(-((p / width) ** 2) / 2) / width / np.sqrt(2 * np.pi)
        off = np.abs(found.density_A[axis] - gaussian)
        assert (off < 4 * found.density_error_A[axis] + 0.02 * gaussian[0]).all()
    classical = np.trapezoid(found.classical_A(), found.momentum_per_A)
    assert classical == pytest.approx(0.5, abs=1e-3)


def test_distributions_are_normalised_and_have_the_kinetic_energy(opened):
    _, kinetic, found = opened
    p = found.momentum_per_A
    for density in found.density_A.values():
        assert 2 * np.trapezoid(density, p) == pytest.approx(1.0, abs=0.01)
    total = sum(found.kinetic_eV[axis] for axis in "xyz")
    spread = np.hypot(3 * found.kinetic_error_eV["mean"], kinetic.error)
    assert abs(total - kinetic.mean) < 4 * spread + 0.02 * kinetic.mean
    names = [text.get_text() for text in momentum_profile(found).axes[0].get_legend().get_texts()]
    assert names == ["x", "y", "z", "classical"]


def test_bad_wishes_are_refused(opened):
    arguments = opened[0]
    engine, directory, start, dynamics = arguments[:4]
    for changed, message in (
        ((engine, directory, start, Dynamics(beads=1), "H", 0.1), "beads is 1.*2 or more"),
        ((engine, directory, start, dynamics, "D", 0.1), "momentum is 'D'.*one of H"),
        ((engine, directory, start, dynamics, "H", 0.1, 1296), "frames is 2"),
    ):
        with pytest.raises(InputError, match=message):
            momentum_distribution(*changed)


class Marked(FlatWell):
    """Beads farther than a limit along z are outside some domain."""

    limit_A = 0.45

    def evaluate(self, structures, **options):
        found = super().evaluate(structures, **options)
        far = [np.abs(a.positions[:, 2]).max() > self.limit_A for a in structures]
        return replace(found, outside=tuple(("far",) if is_far else () for is_far in far))


def test_paths_outside_count_by_their_weight(opened):
    """Most of the displaced paths leave, and carry little of the distribution."""
    engine, *rest = opened[0]
    few = (*rest[:-1], 60)
    assert momentum_distribution(engine, *few).outside_share == 0.0
    shares = {}
    for limit in (0.0, 0.45, 0.6):
        marked = Marked()
        marked.limit_A = limit
        shares[limit] = momentum_distribution(marked, *few).outside_share
    assert 0 < shares[0.6] < shares[0.45] < shares[0.0] < 1  # u = 0 is never outside


def test_opened_paths_do_not_count_in_the_domain_of_the_run(random_potential):
    potential = random_potential("smooth")
    before, watch = potential.watch.n_structures, potential.watch
    with _uncounted(potential):
        potential.evaluate([Atoms("H2", [[0, 0, 0], [0, 0, 0.1]])])
    assert potential.watch is watch and watch.n_structures == before


def test_quantum_limit():
    """The oracle itself: many beads in a harmonic well give ħω/2 coth(βħω/2)."""
    engine = HarmonicEngine()
    rho = density_matrix(0.5 * engine.spring * GRID**2, 64)
    u = np.array([0.0, 0.1, 0.2])
    well, _ = frequencies(1, MASS)
    square = MASS * well / HBAR**2 * well / 2 / np.tanh(well / 2 / (300 * kB)) / well
    np.testing.assert_allclose(end_to_end(rho, u), np.exp(-square * u**2 / 2), rtol=1e-3)
