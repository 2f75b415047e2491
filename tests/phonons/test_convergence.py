from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk

from nemp_sim.errors import InputError
from nemp_sim.phonons.convergence import sweep
from nemp_sim.phonons.force_constants import build_phonopy, force_constants
from tests.engines import EMTEngine

A_CU = 3.5901


@pytest.fixture(scope="module")
def copper():
    engine = EMTEngine()
    found = sweep(engine, bulk("Cu", a=A_CU), (0.02, 0.005, 0.01), (2.5, 3.8, 5.0, 6.3))
    assert engine.batches == [12] and found.model_calls == 1
    return found


def test_every_combination_is_tried(copper):
    sizes = [trial.n_atoms for trial in copper.trials]
    assert sizes == sorted([8, 27, 64, 125] * 3)
    assert [t.displacement_angstrom for t in copper.trials[:3]] == [0.005, 0.01, 0.02]
    assert (copper.reference.n_atoms, copper.reference.displacement_angstrom) == (125, 0.01)
    assert copper.reference.change_THz == 0


def test_a_trial_is_what_it_is_alone(copper):
    atoms = bulk("Cu", a=A_CU)
    trial = copper.trials[3 + 2]
    alone = force_constants(EMTEngine(), atoms, build_phonopy(atoms, (3, 3, 3)), 0.02)
    at_x = alone.phonon.run_qpoints([[0.5, 0, 0.5]]).frequencies[0]
    assert np.abs(trial.frequencies_THz - at_x).max(axis=1).min() < 1e-6
    assert trial.edge_ratio == pytest.approx(alone.edge_ratio)


def test_the_smallest_good_supercell_is_recommended(copper):
    changes = [trial.change_THz for trial in copper.at_reference_length()]
    assert changes[0] > 0.1 > 0.05 > changes[1] > changes[2] > changes[3] == 0
    assert np.array_equal(copper.supercell, np.diag([3, 3, 3]))
    assert copper.recommendation().startswith("Use --supercell '3 3 3' --displacement")
    assert "125 atoms" in copper.recommendation()


def test_no_recommendation_without_a_second_witness():
    found = sweep(EMTEngine(), bulk("Cu", a=A_CU), (0.005, 0.01), (2.5, 3.8))
    assert found.supercell is None
    assert found.recommendation().startswith("No supercell but the largest (27 atoms)")


def test_noise_and_anharmonicity_bound_the_length():
    """Rounded forces spoil short displacements, anharmonicity long ones."""

    class Rounded(EMTEngine):
        def evaluate(self, structures):
            result = super().evaluate(structures)
            forces = [np.round(f, 3) for f in result.forces]
            return SimpleNamespace(energy=result.energy, forces=forces)

    lengths = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2)
    found = sweep(Rounded(), bulk("Cu", a=A_CU), lengths, (2.5, 3.8))
    assert found.displacement_angstrom in (0.01, 0.03)


def test_one_length_or_supercell_is_no_sweep():
    with pytest.raises(InputError, match="sweep_displacements"):
        sweep(EMTEngine(), bulk("Cu", a=A_CU), (0.01, 0.01), (2.5, 4.0))
    with pytest.raises(InputError, match="sweep_radii"):
        sweep(EMTEngine(), bulk("Cu", a=A_CU), (0.01, 0.02), (2.4, 2.5))
