import numpy as np
import pytest
from ase.build import bulk, fcc111

from nemp_sim.phonons.velocity import speeds_of_modes, speeds_of_sound
from tests.engines import StressEMT
from tests.phonons.emt import make

A_CU = 3.5901  # minimum of EMT
TO_KM_PER_S = 9.822695  # √(eV/amu)


def elastic_constants():
    """C11, C12, C44 of EMT copper in eV/Å³, from stresses of strained cells."""

    def stress(strain):
        cell = bulk("Cu", a=A_CU)
        cell.set_cell(cell.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        return StressEMT().evaluate([cell], stress=True).stress[0]

    e, shear, stretch = 1e-3, np.zeros((3, 3)), np.zeros((3, 3))
    stretch[0, 0] = e
    shear[1, 2] = shear[2, 1] = e / 2
    first = (stress(stretch) - stress(-stretch)) / (2 * e)
    second = (stress(shear) - stress(-shear)) / (2 * e)
    return first[0], first[1], second[3]


@pytest.fixture(scope="module")
def copper():
    return make(bulk("Cu", a=A_CU), (5, 5, 5), (6, 6, 6))


def test_speeds_of_sound_are_those_of_elasticity(copper):
    c11, c12, c44 = elastic_constants()
    density = bulk("Cu").get_masses()[0] / (A_CU**3 / 4)
    speeds = {s.label: s.km_per_s for s in speeds_of_sound(*copper)}
    assert set(speeds) == {"X", "K", "L"}
    wanted = {
        "X": [c44, c44, c11],
        "K": [(c11 - c12) / 2, c44, (c11 + c12 + 2 * c44) / 2],
        "L": [(c11 - c12 + c44) / 3, (c11 - c12 + c44) / 3, (c11 + 2 * c12 + 4 * c44) / 3],
    }
    for label, constants in wanted.items():
        want = np.sqrt(np.array(constants) / density) * TO_KM_PER_S
        np.testing.assert_allclose(speeds[label], want, rtol=0.02)


def test_speeds_are_slopes_of_the_bands(copper):
    """Along Γ–X the speed is the slope of the band by finite differences."""
    constants, _ = copper
    q = np.array([[0.199, 0, 0.199], [0.2, 0, 0.2], [0.201, 0, 0.201]])
    found = constants.phonon.run_qpoints(q, with_group_velocities=True)
    length = np.linalg.norm(np.linalg.inv(constants.phonon.primitive.cell) @ (q[2] - q[0]))
    slopes = (found.frequencies[2] - found.frequencies[0]) / length
    speeds = np.linalg.norm(found.group_velocities[1], axis=1)
    np.testing.assert_allclose(np.sort(speeds), np.sort(slopes), rtol=1e-3)


def test_speeds_of_modes(copper):
    frequencies, speeds = speeds_of_modes(copper[1])
    assert frequencies.shape == speeds.shape and frequencies.min() > 0
    assert 4.0 < speeds.max() < 5.5  # no faster than sound


def test_slabs_have_no_speed_of_sound():
    slab = fcc111("Cu", (1, 1, 2), a=A_CU, vacuum=6.0)
    assert speeds_of_sound(*make(slab, (2, 2, 1), (3, 3, 1))) == ()


def test_imaginary_branches_have_no_speed():
    speeds = speeds_of_sound(*make(bulk("Cu", "bcc", a=2.86), (4, 4, 4), (4, 4, 4)))
    towards_n = next(s for s in speeds if s.label == "N")
    assert np.isnan(towards_n.km_per_s).tolist() == [False, False, True]
    assert str(towards_n).endswith("imaginary")
