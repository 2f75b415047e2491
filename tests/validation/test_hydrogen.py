"""Three and four H: what binds them is found, unless the domain of validity names it."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from nemp_sim.validation.hydrogen import (
    BOND_ANGSTROM,
    H2,
    NEAREST_ANGSTROM,
    clusters,
    hydrogen_checks,
)


class Made:
    """−1 eV for each pair within 0.78 Å, and ``well`` eV where a third atom is within 1.5 Å."""

    elements, cutoff_angstrom = ("H", "Pd"), 4.5

    def __init__(self, well, is_named):
        self.well, self.is_named = well, is_named

    def evaluate(self, structures, **_):
        lengths = [
            pdist(atoms.positions) if len(atoms) > 1 else np.zeros(0) for atoms in structures
        ]
        crowded = [len(each) > 1 and (each < 1.5).sum() > len(each) // 3 for each in lengths]
        energy = [
            -(each < 0.78).sum() + self.well * c for each, c in zip(lengths, crowded, strict=True)
        ]
        return SimpleNamespace(
            energy=np.array(energy),
            outside=[("named",) * int(c and self.is_named) for c in crowded],
        )


@pytest.mark.parametrize(
    ("well", "is_named", "passed"),
    [(0.0, False, True), (2.0, False, True), (-0.5, False, False), (-0.5, True, True)],
)
def test_binding_that_nothing_names_fails(well, is_named, passed):
    checks = list(hydrogen_checks(Made(well, is_named)))
    assert [check.subject for check in checks] == ["H2 + H", "H2 + H2"]
    assert [check.passed for check in checks] == [passed, passed]


def test_no_hydrogen_no_check():
    potential = Made(-0.5, False)
    potential.elements = ("Pd",)
    assert not list(hydrogen_checks(potential))


@pytest.mark.parametrize("partner", ["H", "H2"])
def test_clusters_hold_h2_and_the_partner_no_nearer_than_said(partner):
    assert H2.get_distance(0, 1) == pytest.approx(BOND_ANGSTROM)
    for atoms in clusters(partner, 4.5):
        assert np.allclose(atoms.positions[:2], H2.positions)
        between = np.linalg.norm(atoms.positions[:2, None] - atoms.positions[2:], axis=2)
        assert between.min() > NEAREST_ANGSTROM - 1e-9
        assert len(atoms) == 3 or atoms.get_distance(2, 3) == pytest.approx(BOND_ANGSTROM)
