import numpy as np
import pytest
from ase import Atoms

from nemp_sim.errors import InputError
from nemp_sim.phonons.isotopes import with_isotopes


def test_isotopes():
    atoms = with_isotopes(Atoms("CH4"), "H=2.014, C=13.003")
    np.testing.assert_allclose(atoms.get_masses(), [13.003, *[2.014] * 4])
    for bad in ("D=2.014", "H", "H=heavy", "H=-1", "Pd=105.9"):
        with pytest.raises(InputError, match="with a mass in amu, as in H=2.014"):
            with_isotopes(Atoms("CH4"), bad)
