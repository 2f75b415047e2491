"""Sums over neighbours that are divided by a constant."""

import numpy as np
import pytest
from ase import Atoms

from nemp_sim.config import ModelConfig
from nemp_sim.errors import InputError
from nemp_sim.kernels.choice import obstacle

PLACES = np.array([[0.0, 0.0, 0.0], [1.0, 0.1, 0.0], [-0.3, 1.4, 0.2]])


def first_density(model, graph_of, potential, chosen):
    """ρ⁰ over the normaliser (K,) of the first atom beside the others of ``chosen``."""
    symbols = ["O", "H", "Pd"]
    atoms = Atoms([symbols[i] for i in chosen], PLACES[list(chosen)])
    density, saturation, _ = model.describe(graph_of(potential, [atoms]))
    return density[0, : model.config.n_channels].detach(), saturation[0].item()


@pytest.mark.parametrize("mean_neighbours", [0.0, 7.0])
def test_what_a_neighbour_gives_does_not_depend_on_the_others(
    random_potential, graph_of, mean_neighbours
):
    potential = random_potential("smooth", mean_neighbours=mean_neighbours)
    model = potential.model
    both, saturated = first_density(model, graph_of, potential, (0, 1, 2))
    one, less = first_density(model, graph_of, potential, (0, 1))
    other, _ = first_density(model, graph_of, potential, (0, 2))
    additive = np.allclose(both, one + other, rtol=1e-10, atol=1e-12)
    assert additive == bool(mean_neighbours)
    assert 0 < less < saturated < 1  # n/(n + n0) in either case


def test_lone_atom_has_its_reference_energy(random_potential):
    potential = random_potential("smooth", mean_neighbours=7.0)
    assert potential.evaluate([Atoms("O")]).energy[0] == potential.reference_energies_eV["O"]


def test_kernels_and_the_published_form_refuse_it(random_potential):
    assert "mean_neighbours" in obstacle(
        random_potential("smooth", mean_neighbours=7.0).model, interpreter=True
    )
    for form, value in (("published", 7.0), ("smooth", -1.0)):
        with pytest.raises(InputError, match="mean_neighbours"):
            ModelConfig(elements=("H",), form=form, mean_neighbours=value)
