"""The ± of frequencies: members whose force constants are those of EMT times known factors."""

import numpy as np
import pytest
from ase.build import bulk

from nemp_sim.errors import InputError
from nemp_sim.phonons.frequency_std import frequency_std, std_at
from nemp_sim.phonons.imaginary import SpecialPoint
from nemp_sim.phonons.report import phonon_report
from tests.engines import EMTEngine
from tests.phonons.emt import make

FACTORS = np.array([0.81, 1.0, 1.21, 0.9])


class Scaled:
    """Members that differ from EMT by a factor: ω_k = ω sqrt(f_k)."""

    calls = 0

    def evaluate(self, structures, uncertainty):
        assert uncertainty
        self.calls += 1
        result = EMTEngine().evaluate(structures)
        result.forces_members = tuple(FACTORS[:, None, None] * f for f in result.forces)
        return result


@pytest.fixture(scope="module")
def copper():
    atoms = bulk("Cu", a=3.59)
    return atoms, *make(atoms, (4, 4, 4))


def test_members_have_frequencies_of_their_own(copper):
    atoms, constants, found = copper
    engine = Scaled()
    points = found.bands.points
    std = frequency_std(engine, atoms, constants, 0.01, np.array([p.q for p in points]))
    exact = np.array([p.frequencies_THz for p in points])
    assert engine.calls == 1
    np.testing.assert_allclose(std, np.sqrt(FACTORS).std() * exact, atol=1e-4)
    report = phonon_report("Cu", atoms, constants, found, (), std)
    at = next(k for k, p in enumerate(points) if p.label == "L")
    told = ", ".join(f"{f:.2f} ± {s:.2f}" for f, s in zip(exact[at], std[at], strict=True))
    assert any(f"L {told}" in note and "Γ 0.00, 0.00, 0.00;" in note for note in report.notes)
    assert {q.key: q.value for q in report.quantities}["frequency_std_THz"] == std.max()
    values = {q.key: q.value for q in report.quantities}
    assert values["lattice_a_A"] == pytest.approx(3.59) and "lattice_b_A" not in values
    np.testing.assert_array_equal(report.data["special_points"][at]["frequencies_std_THz"], std[at])


def test_only_where_there_are_members(copper):
    atoms, constants, found = copper
    how = atoms, constants, 0.01
    assert std_at(found.bands.points, EMTEngine(), *how, None) is None
    with pytest.raises(InputError, match="uncertainty is True, but must be left out"):
        std_at(found.bands.points, EMTEngine(), *how, True)
    assert std_at(found.bands.points, EMTEngine(), *how, False) is None


def test_a_potential_with_members(random_potential):
    potential = random_potential("smooth", n_members=4)
    atoms = bulk("Pd", a=3.95)
    constants, _ = make(atoms, (2, 2, 2))
    points = (SpecialPoint("X", np.array([0.5, 0.0, 0.5]), np.zeros(3)),)
    std = std_at(points, potential, atoms, constants, 0.01, None)
    assert std.shape == (1, 3) and (std > 0).all()
