"""The short-range repulsion against the published formula, written out again."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import atomic_numbers, covalent_radii
from scipy import constants

from nemp_sim.config import ModelConfig
from nemp_sim.training.data import Frame, References
from nemp_sim.training.job import Splits
from nemp_sim.training.start import initial_model
from nemp_sim.zbl import ZBL
from tests.conftest import make_potential

RELATIVE = 1e-6  # ASE's CODATA 2014 units against SciPy's newer ones
ELEMENTS = (1, 6, 8, 46)
PAIRS = [(1, 1), (1, 46), (46, 1), (8, 6), (46, 46)]


def pair_energy(zbl, a, b, distances):
    """Energy of both directed edges, eV, and its derivatives; distances (n,) with gradient."""
    n = len(ELEMENTS)
    forward, backward = (
        torch.full((len(distances),), ELEMENTS.index(p) * n + ELEMENTS.index(q))
        for p, q in ((a, b), (b, a))
    )
    return zbl(distances, forward, zbl.cutoff) + zbl(distances, backward, zbl.cutoff)


def universal(a, b, r):
    """Z₁Z₂e²/(4πε₀r) φ(r/a_u) in eV: Ziegler, Biersack, Littmark 1985, without any cutoff."""
    coulomb = constants.e / (4 * np.pi * constants.epsilon_0) * 1e10  # eV Å
    bohr = constants.physical_constants["Bohr radius"][0] * 1e10
    x = r * (a**0.23 + b**0.23) / (0.8854 * bohr)
    phi = 0.18175 * np.exp(-3.1998 * x) + 0.50986 * np.exp(-0.94229 * x)
    phi += 0.28022 * np.exp(-0.4029 * x) + 0.02817 * np.exp(-0.20162 * x)
    return coulomb * a * b / r * phi


def switched_off(x):
    """(1 − x)³ (1 + 3x + 6x² + 10x³ + 15x⁴ + 21x⁵): 1 − 28x⁶ + 48x⁷ − 21x⁸, factored."""
    return (1 - x) ** 3 * np.polyval([21, 15, 10, 6, 3, 1], x)


@pytest.fixture(scope="module")
def zbl():
    return ZBL(ELEMENTS)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_formula(zbl, a, b):
    limit = covalent_radii[a] + covalent_radii[b]
    r = np.linspace(0.05, 0.98, 25) * limit
    want = universal(a, b, r) * switched_off(r / limit)
    got = pair_energy(zbl, a, b, torch.from_numpy(r))
    np.testing.assert_allclose(got, want, rtol=RELATIVE)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_repulsive_and_gone_at_its_cutoff(zbl, a, b):
    limit = covalent_radii[a] + covalent_radii[b]
    r = torch.from_numpy(np.linspace(0.1, 1.2, 400) * limit).requires_grad_()
    energy = pair_energy(zbl, a, b, r)
    (slope,) = torch.autograd.grad(energy.sum(), r)
    inside = r < limit
    assert (energy[inside] > 0).all() and (slope[inside] < 0).all()
    assert (energy[~inside] == 0).all() and (slope[~inside] == 0).all()


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_value_slope_and_curvature_vanish_at_the_cutoff(zbl, a, b):
    limit = covalent_radii[a] + covalent_radii[b]
    gaps = np.array([1e-3, 2e-3, 4e-3])
    energy = pair_energy(zbl, a, b, torch.from_numpy(limit * (1 - gaps))).numpy()
    np.testing.assert_allclose(np.diff(np.log2(energy)), 3, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_potential_adds_it_to_every_pair_once(random_potential, dtype):
    atoms = Atoms("OHPdH", [[0, 0, 0], [0.5, 0, 0], [0, 1.2, 0], [0, 0, 3.5]])
    with_zbl = random_potential("smooth", dtype=dtype, zbl=True).evaluate([atoms])
    without = random_potential("smooth", dtype=dtype).evaluate([atoms])
    want = 0.0
    distances = atoms.get_all_distances()
    for i, j in zip(*np.triu_indices(len(atoms), 1), strict=True):
        a, b = atoms.numbers[[i, j]]
        limit = covalent_radii[a] + covalent_radii[b]
        if distances[i, j] < limit:
            want += universal(a, b, distances[i, j]) * switched_off(distances[i, j] / limit)
    assert want > 10
    np.testing.assert_allclose(with_zbl.energy - without.energy, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("pair", "trained", "reach"),
    [
        ("OH", 0.94, 0.893),  # a bond: 0.95 × 0.94
        ("OO", 2.4, 1.32),  # never near: the covalent radii
        ("HH", 0.0, 0.62),  # nothing known: likewise
    ],
)
def test_repulsion_ends_below_all_trained_distances(pair, trained, reach):
    potential = make_potential("smooth", zbl=True, zbl_reach="trained_distances")
    potential.model.inner_radius.fill_(trained)
    numbers = [atomic_numbers[symbol] for symbol in pair]
    index = [potential.elements.index(symbol) for symbol in pair]
    pair_index = torch.tensor([index[0] * len(potential.elements) + index[1]])
    for share in (0.3, 0.7, 0.95, 1.01):
        r = torch.tensor([share * reach], dtype=torch.float64)
        half = potential.model.zbl(r, pair_index, potential.model.repulsion_reach())
        want = universal(*numbers, share * reach) * switched_off(min(share, 1.0))
        assert 2 * half.item() == pytest.approx(want, rel=RELATIVE)


def test_new_trainings_have_it_and_old_files_do_not():
    trained = Frame(molecule("H2O"), 0.0, np.ones((3, 3)), None, "any", "0")
    splits = Splits([trained], [], [])
    references = {"default": References({}, {}, ())}
    model = initial_model({"zbl": True}, splits, references, seed=0)
    assert model.config.zbl_reach == "trained_distances"
    shortest = molecule("H2O").get_distance(0, 1)
    assert model.repulsion_reach().view(2, 2)[0, 1].item() == pytest.approx(0.95 * shortest)
    old = model.config.to_dict()
    del old["zbl_reach"]
    assert ModelConfig.from_dict(old).zbl_reach == "covalent_radii"


def test_forces_push_close_atoms_apart(random_potential):
    atoms = Atoms("PdH", [[0, 0, 0], [0, 0, 0.4]])
    forces = random_potential("smooth", zbl=True).evaluate([atoms]).forces[0]
    assert forces[1, 2] > 100 and forces[0, 2] < -100
