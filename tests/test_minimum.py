import numpy as np
import pytest
from ase.build import bulk

from nemp_sim.errors import InputError
from nemp_sim.minimum import check_minimum, relax_crystal

from .engines import EMTEngine, StressEMT


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
