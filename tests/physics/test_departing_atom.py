"""An atom whose last neighbour leaves the cutoff: no spike of the force in the smooth form.

The published form divides by a coordination that goes to zero, so its force rises by orders of
magnitude just before the cutoff: the reason for the smooth form, kept here as a contrast.
"""

import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111

from nemp_sim.checkpoint import load_potential, shipped_directory
from nemp_sim.validation.approach import departing_force, spike_limit

SHIPPED = shipped_directory() / "pdh.pt"


def pair(symbols, distance):
    return Atoms(symbols, [[0, 0, 0], [0, 0, distance]])


def on_slab(height):
    slab = fcc111("Pd", (2, 2, 2), a=3.94, vacuum=8.0)
    add_adsorbate(slab, "H", height, "ontop")
    return slab


DEPARTURES = {
    "H from O": lambda d: pair("OH", d),
    "H from H": lambda d: pair("HH", d),
    "Pd from C": lambda d: pair("CPd", d),
    "H from Pd(111)": on_slab,
}


@pytest.mark.parametrize("seed", [1, 2, 3, 11])
@pytest.mark.parametrize("departure", DEPARTURES)
def test_smooth_form_has_no_spike(random_potential, departure, seed):
    force = departing_force(random_potential("smooth", seed=seed), DEPARTURES[departure])
    assert force[0] > 1e-3
    assert force.max() <= spike_limit(force)
    assert force[-1] == 0


@pytest.mark.parametrize("seed", [2, 3, 5, 8])
def test_published_form_has_a_spike(random_potential, seed):
    force = departing_force(random_potential("published", seed=seed), DEPARTURES["H from O"])
    assert force.max() > 10 * spike_limit(force)


@pytest.mark.skipif(not SHIPPED.is_file(), reason=f"{SHIPPED.name} is not there yet")
@pytest.mark.parametrize("departure", ["H from Pd(111)", "H from H"])
def test_shipped_potential_has_no_spike(departure):
    force = departing_force(load_potential(SHIPPED, "cpu", "float64"), DEPARTURES[departure])
    assert force.max() <= spike_limit(force)
    assert force[-1] == 0
