import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize.cellawarebfgs import CellAwareBFGS
from ase.units import GPa

from nemp_sim.errors import InputError
from nemp_sim.minimum import check_minimum, relax_crystal, relax_crystals
from tests.engines import EMTEngine, StressEMT


def test_crystal_is_relaxed():
    strained = bulk("Cu", a=3.5)
    found = relax_crystal(StressEMT(), strained, 1e-4, 1e-3)
    assert found.converged and found.smax_GPa < 1e-3
    assert found.atoms.get_volume() * 4 == pytest.approx(3.5902**3, rel=1e-3)
    assert np.array_equal(strained.cell.array, bulk("Cu", a=3.5).cell.array)
    fmax, smax = check_minimum(StressEMT(), found.atoms, 1e-3, 0.01)
    assert fmax < 1e-3 and smax == pytest.approx(found.smax_GPa, abs=1e-6)


def test_structures_that_are_no_minimum_are_refused():
    rattled = bulk("Cu", cubic=True, a=3.59)
    rattled.positions[0, 0] += 0.1
    with pytest.raises(InputError, match="Cu4 is not at a minimum: the largest force is .*Relax"):
        check_minimum(StressEMT(), rattled, 1e-3)
    with pytest.raises(InputError, match="Cu is under stress: .* GPa, but must be at most 0.01"):
        check_minimum(StressEMT(), bulk("Cu", a=3.5), 1e-3, 0.01)
    check_minimum(EMTEngine(), bulk("Cu", a=3.5), 1e-3)


def test_crystals_side_by_side_end_where_each_ends_alone():
    crystals = [bulk("Cu", a=3.5), bulk("Cu", cubic=True, a=3.7), bulk("Ag", a=4.0)]
    crystals[1].rattle(0.02, seed=1)
    engine = StressEMT()
    together = relax_crystals(engine, crystals, 1e-3, 1e-2)
    assert engine.batches[0] == 3 and engine.batches[-1] < 3
    assert len(engine.batches) == 1 + max(found.optimizer_steps for found in together)
    for found, crystal in zip(together, crystals, strict=True):
        alone = crystal.copy()
        alone.calc = EMT()
        optimizer = CellAwareBFGS(FrechetCellFilter(alone, exp_cell_factor=1.0), logfile=None)
        optimizer.run(fmax=1e-3, smax=1e-2 * GPa)
        assert found.converged and found.optimizer_steps == optimizer.nsteps
        np.testing.assert_allclose(found.atoms.cell.array, alone.cell.array, atol=1e-5)
    assert not relax_crystals(StressEMT(), crystals[:1], steps=1)[0].converged
