"""Below the distances of the training frames the repulsion alone is left."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii

from nemp_sim.config import ModelConfig
from nemp_sim.model import INNER_SWITCH, inner_switch
from nemp_sim.training.data import Frame
from nemp_sim.training.start import shortest_distances
from tests.conftest import make_potential, make_slab

RADIUS = 1.4


@pytest.fixture(scope="module")
def switched():
    """Potentials that differ in the inner radius alone: RADIUS for all pairs, or none."""
    with_switch, without = (make_potential("smooth", zbl=True, cutoff_angstrom=4.0) for _ in "ab")
    with_switch.model.inner_radius.fill_(RADIUS)
    return with_switch, without


def dimer(distance):
    return Atoms("OH", [[0, 0, 0], [0, 0, distance]])


def test_switch_is_smooth_and_monotone():
    d = torch.linspace(0.5, 2.0, 301, dtype=torch.float64)
    s = inner_switch(d, torch.full_like(d, RADIUS))
    off, whole = (fraction * RADIUS for fraction in INNER_SWITCH)
    assert (s[d <= off] == 0).all() and (s[d >= whole] == 1).all()
    assert (s.diff() >= 0).all()
    between = torch.linspace(0.92, 1.18, 7, dtype=torch.float64, requires_grad=True)
    radius = torch.full_like(between, RADIUS).detach()
    assert torch.autograd.gradgradcheck(lambda x: inner_switch(x, radius), between)
    curvature = s.diff().diff() / 0.005**2
    assert curvature.diff().abs().max() < 0.3 * curvature.abs().max()  # no jump at either end


def test_no_radius_is_no_switch():
    d = torch.linspace(0.01, 3.0, 50, dtype=torch.float64)
    assert (inner_switch(d, torch.zeros_like(d)) == 1).all()


def test_repulsion_alone_is_left_below_the_radius(switched):
    with_switch, _ = switched
    reference = with_switch.reference_energies_eV
    for distance in (0.5, 0.8, INNER_SWITCH[0] * RADIUS - 1e-6):
        energy = with_switch.evaluate([dimer(distance)]).energy[0]
        pair = torch.tensor([with_switch.elements.index("O") * 4 + with_switch.elements.index("H")])
        d = torch.tensor([distance], dtype=torch.float64)
        reach = with_switch.model.repulsion_reach()
        zbl = 2 * with_switch.model.zbl(torch.sqrt(d**2 + 1e-8), pair, reach).item()
        assert energy - reference["O"] - reference["H"] == pytest.approx(zbl, rel=1e-9)


def test_nothing_changes_above_the_radius(switched):
    structures = [dimer(RADIUS), dimer(2.5), molecule("H2", positions=[[0, 0, 0], [0, 0, 1.5]])]
    one, two = (p.evaluate(structures) for p in switched)
    assert np.array_equal(one.energy, two.energy)
    assert all(np.array_equal(a, b) for a, b in zip(one.forces, two.forces, strict=True))


def test_forces_in_the_switch_are_central_differences(switched):
    with_switch, _ = switched
    h = 1e-4
    for distance in (1.22, 1.3, 1.38):
        low, high = with_switch.evaluate([dimer(distance - h), dimer(distance + h)]).energy
        force = with_switch.evaluate([dimer(distance)]).forces[0][1, 2]
        assert force == pytest.approx(-(high - low) / (2 * h), rel=1e-5, abs=1e-6)


def test_shortest_distances_are_those_of_the_frames():
    config = ModelConfig(elements=("H", "O", "Pd"), cutoff_angstrom=4.5)
    water, slab = molecule("H2O"), make_slab()
    frames = [
        Frame(a, 0.0, np.zeros((len(a), 3)), None, "any", str(k))
        for k, a in enumerate((water, slab, Atoms("H")))
    ]
    found = shortest_distances(frames, config).view(3, 3).numpy()
    own = slab.get_all_distances(mic=True) + 99 * np.eye(len(slab))
    metal = slab.numbers == 46
    assert found[2, 2] == pytest.approx(own[np.ix_(metal, metal)].min())
    assert found[0, 2] == found[2, 0] == pytest.approx(own[np.ix_(~metal, metal)].min())
    assert found[0, 1] == pytest.approx(water.get_distance(0, 1))
    assert found[0, 0] == pytest.approx(water.get_distance(1, 2))
    unmet = 0.8 * (covalent_radii[8] + covalent_radii[46])
    assert found[1, 2] == found[2, 1] == pytest.approx(unmet)
