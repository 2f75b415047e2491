import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, make_supercell, molecule
from scipy.spatial.transform import Rotation

from nemp_sim.errors import InputError
from nemp_sim.labelling.selection import (
    CUTOFF_ANGSTROM,
    KnownEnvironments,
    closest_contact,
    fingerprints,
    select,
)

ELEMENTS = (1, 6, 8, 46)


def known(*structures):
    environments = KnownEnvironments(ELEMENTS)
    environments.add(structures)
    return environments


def rattled(atoms, scale, seed=0):
    copy = atoms.copy()
    copy.rattle(scale, seed=seed)
    return copy


def turned(atoms, rotation):
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array @ rotation.T)
    copy.positions = atoms.positions @ rotation.T
    return copy


def test_invariant_to_rotation_inversion_and_translation(structure, rotation, rng):
    moved = turned(structure, rotation)
    moved.positions += rng.normal(size=3)
    reference = fingerprints(structure, ELEMENTS)
    np.testing.assert_allclose(fingerprints(moved, ELEMENTS), reference, atol=1e-9)


def test_permutation_permutes_the_rows(structure, rng):
    order = rng.permutation(len(structure))
    reference = fingerprints(structure, ELEMENTS)
    np.testing.assert_allclose(
        fingerprints(structure[order], ELEMENTS), reference[order], atol=1e-12
    )


def test_lattice_shifts_change_nothing(periodic, rng):
    moved = periodic.copy()
    shifts = rng.integers(-2, 3, size=(len(moved), 3)) * moved.pbc
    moved.positions += shifts @ moved.cell.array
    reference = fingerprints(periodic, ELEMENTS)
    np.testing.assert_allclose(fingerprints(moved, ELEMENTS), reference, atol=1e-9)


def test_supercell_and_other_cell_vectors_are_not_new(periodic):
    repeated = periodic.repeat([2, 1, 1])
    assert known(periodic).novelty(repeated) < 1e-9
    sheared = make_supercell(periodic, [[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    assert known(repeated).novelty(sheared) < 1e-9


def test_fingerprint_by_hand():
    """Pair of atoms: all moments of a lone neighbour are g_k(r)."""
    rows = fingerprints(Atoms("H2", [[0, 0, 0], [0.3, 0.4, 0.5]]), (1, 8)).reshape(2, 2, -1, 3)
    shells = 0.6 + 0.3 * np.arange(rows.shape[2])
    expected = np.exp(-0.5 * ((np.sqrt(0.5) - shells) / 0.3) ** 2)
    expected *= 0.3 * np.sqrt(2 / (3 * np.sqrt(np.pi)))
    for atom in range(2):
        for moment in range(3):
            np.testing.assert_allclose(rows[atom, 0, :, moment], expected, atol=1e-12)
    assert not rows[:, 1].any()


@pytest.mark.parametrize("length", [1.2, 1.63, 2.2])
def test_distances_are_in_angstrom(length):
    near, far = (Atoms("OH", [[0, 0, 0], [0, 0, z]]) for z in (length, length + 0.02))
    assert known(near).novelty(far) == pytest.approx(0.02, rel=0.05)


def test_smooth_at_the_cutoff():
    inside = Atoms("OH", [[0, 0, 0], [0, 0, CUTOFF_ANGSTROM - 1e-4]])
    outside = Atoms("OH", [[0, 0, 0], [0, 0, CUTOFF_ANGSTROM + 1e-4]])
    assert known(outside).novelty(inside) < 1e-8


def test_angles_are_seen():
    """Equal distances from the centre, another angle; the far atoms alone would not tell."""
    straight = Atoms("HOH", [[-2.4, 0, 0], [0, 0, 0], [2.4, 0, 0]])
    bent = Atoms("HOH", [[-2.4, 0, 0], [0, 0, 0], [0, 2.4, 0]])
    rows = [fingerprints(atoms, (1, 8))[1] for atoms in (straight, bent)]
    assert np.linalg.norm(rows[0] - rows[1]) > 0.2


def test_novelty_is_that_of_the_newest_atom(slab):
    stretched = slab.copy()
    stretched.positions[-1, 2] += 0.5  # one bond of 13 atoms
    environments = known(slab)
    assert environments.novelty(slab) == 0
    assert environments.novelty(stretched) > 0.3
    rows, reference = fingerprints(stretched, ELEMENTS), fingerprints(slab, ELEMENTS)
    same = slab.numbers[:, None] == slab.numbers
    distance = np.linalg.norm(rows[:, None] - reference, axis=2)  # brute force
    expected = np.where(same, distance, np.inf).min(axis=1).max()
    assert environments.novelty(stretched) == pytest.approx(expected, rel=1e-9)


def test_an_element_without_known_atoms_is_new(slab):
    assert known(fcc111("Pd", (2, 2, 3), vacuum=6.0)).novelty(slab) == np.inf
    assert KnownEnvironments(ELEMENTS).novelty(slab) == np.inf


def test_lone_atoms_are_alike():
    assert known(Atoms("O")).novelty(Atoms("O", cell=[9, 9, 9], pbc=True)) == 0


def test_duplicates_are_never_chosen_and_new_bonds_are(slab, rng):
    twin = turned(slab, Rotation.random(random_state=rng).as_matrix())[rng.permutation(len(slab))]
    stretched = slab.copy()
    stretched.positions[-1, 2] += 0.5
    candidates = [slab, twin, stretched, stretched.copy(), rattled(slab, 1e-3)]
    chosen = select(candidates, [5.0, 4.0, 1.0, 0.5, 3.0], known(slab), 5, 0.2)
    assert [choice.index for choice in chosen.chosen] == [2]
    assert chosen.already_known == 4 and chosen.not_reached == 0 == chosen.too_certain
    assert chosen.chosen[0].score == 1.0 and chosen.chosen[0].novelty_A > 0.3


def test_most_uncertain_first_until_enough(slab):
    candidates = [rattled(slab, 0.2, seed) for seed in range(8)]
    scores = np.array([0.3, 0.8, 0.1, 0.7, 0.0, 0.6, 0.2, 0.4])
    chosen = select(candidates, scores, known(slab), 3, 0.2)
    assert [choice.index for choice in chosen.chosen] == [1, 3, 5]
    assert chosen.not_reached == 4 and chosen.too_certain == 1
    few = select(candidates, scores, known(slab), 8, 0.2, min_score=0.35)
    assert [choice.index for choice in few.chosen] == [1, 3, 5, 7] and few.too_certain == 4


def test_all_chosen_ones_differ(slab):
    candidates = [rattled(slab, 0.03, seed) for seed in range(40)]
    chosen = select(candidates, np.ones(40), known(slab), 40, 0.15).chosen
    assert 1 < len(chosen) < 40
    for k, choice in enumerate(chosen):
        others = [candidates[c.index] for c in chosen[:k]]
        assert known(slab, *others).novelty(candidates[choice.index]) > 0.15
    assert not select([], [], known(slab), 1, 0.2).chosen


@pytest.mark.parametrize(
    ("count", "novelty", "message"),
    [(0, 0.2, "select is 0"), (1, 0.0, "novelty is 0.0"), (1, np.inf, "novelty is inf")],
)
def test_unusable_limits_are_refused(count, novelty, message, slab):
    with pytest.raises(InputError, match=message):
        select([slab], [1.0], known(), count, novelty)


def test_closest_contact():
    assert closest_contact(Atoms("H2", [[0, 0, 0], [0, 0, 0.31]])) == pytest.approx(0.5)
    assert closest_contact(Atoms("H2", [[0, 0, 0], [0, 0, 0]])) == 0
    assert closest_contact(Atoms("H")) == np.inf == closest_contact(Atoms())
    pd = bulk("Pd", a=3.8)  # its own images
    assert closest_contact(pd) == pytest.approx(3.8 / np.sqrt(2) / 2.78)
    assert closest_contact(molecule("CO")) == pytest.approx(1.15 / 1.42, rel=0.02)
