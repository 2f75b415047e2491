"""Error tables against errors worked out by hand."""

import numpy as np
import pytest
from ase import Atoms

from nemp_sim.accuracy import error_rows, predict
from nemp_sim.checkpoint import new_model
from nemp_sim.config import ModelConfig
from nemp_sim.data import Frame
from nemp_sim.potential import Potential


def test_rows_hold_the_errors_that_were_put_in():
    potential = Potential(new_model(ModelConfig(elements=("H",), n_channels=2)).double())
    pair = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])
    box = Atoms("H3", [[0, 0, 0], [0, 0, 0.9], [1.1, 0, 0]], cell=[4, 4, 4], pbc=True)
    exact = potential.evaluate([pair, box])
    stress = potential.evaluate([box], stress=True).stress[0]
    full = stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    wrong = np.zeros((2, 3))
    wrong[0, 0] = 0.06  # one of six components
    frames = [
        Frame(pair, exact.energy[0] - 0.004, exact.forces[0] - wrong, None, "gas", "a"),
        Frame(box, exact.energy[1] + 0.003, exact.forces[1], full + 0.002, "box", "b"),
    ]
    everything, box_row, gas_row = error_rows(predict({"default": potential}, frames))
    assert [r.config_type for r in (everything, box_row, gas_row)] == ["all", "box", "gas"]
    assert gas_row.energy_mae_meV_per_atom == pytest.approx(2.0)
    assert box_row.energy_rmse_meV_per_atom == pytest.approx(1.0)
    assert everything.energy_rmse_meV_per_atom == pytest.approx(np.sqrt((4 + 1) / 2))
    assert gas_row.force_rmse_meV_per_A == pytest.approx(60 / np.sqrt(6))
    assert gas_row.force_mae_meV_per_A == pytest.approx(10.0)
    assert everything.force_rmse_meV_per_A == pytest.approx(60 / np.sqrt(15))
    assert box_row.stress_rmse_meV_per_A3 == pytest.approx(2.0)
    assert gas_row.stress_rmse_meV_per_A3 is None
