from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.io import write

from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.labelling.candidates import Candidate, displaced, predict, read_candidates, sensible
from tests.engines import UncertainEMT


def candidates(*structures):
    return [Candidate(atoms, "here.xyz", k, "all") for k, atoms in enumerate(structures)]


def test_all_frames_of_any_format_are_read(tmp_path):
    frames = [bulk("Cu", a=a) for a in (3.5, 3.6)]
    frames[1].info["config_type"] = "strained"
    for name in ("md.extxyz", "md.traj"):
        write(tmp_path / name, frames)
        found = read_candidates(tmp_path / name)
        assert [(c.source, c.index) for c in found] == [(name, 0), (name, 1)]
        np.testing.assert_allclose(found[1].atoms.cell.array, frames[1].cell.array)
        assert found[1].atoms.pbc.all()
    assert [c.config_type for c in read_candidates(tmp_path / "md.extxyz")] == ["md", "strained"]
    assert {c.config_type for c in read_candidates(tmp_path / "md.traj", "mine")} == {"mine"}


def test_labels_and_constraints_do_not_come_along(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms([0]))
    atoms.info["REF_energy"] = 1.0
    write(tmp_path / "a.extxyz", atoms)
    bare = read_candidates(tmp_path / "a.extxyz")[0].atoms
    assert not bare.info and not bare.constraints and set(bare.arrays) == {"numbers", "positions"}


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_candidates(tmp_path / "none.xyz")
    (tmp_path / "bad.xyz").write_text("this is no structure\n")
    with pytest.raises(InputError, match="ASE cannot read"):
        read_candidates(tmp_path / "bad.xyz")
    header = "# CELL(abcABC): 10 10 10 90 90 90 Step: 0 Bead: 0 positions{angstrom}"
    (tmp_path / "sim.pos_0.xyz").write_text(f"1\n{header}\nH 0 0 0\n")
    with pytest.raises(InputError, match=r"i-PI.*ipi\.read_trajectory"):
        read_candidates(tmp_path / "sim.pos_0.xyz")


def test_displacements_are_normal_and_seeded(tmp_path):
    atoms = bulk("Cu", cubic=True).repeat(3)
    atoms.set_constraint(FixAtoms([0, 1]))
    write(tmp_path / "cu.extxyz", atoms)
    made = displaced(tmp_path / "cu.extxyz", 0.1, 20, seed=4)
    moves = np.array([c.atoms.positions - atoms.positions for c in made])
    assert np.abs(moves[:, :2]).max() < 1e-7
    assert moves[:, 2:].std() == pytest.approx(0.1, rel=0.05)
    again = displaced(tmp_path / "cu.extxyz", 0.1, 20, seed=4)
    other = displaced(tmp_path / "cu.extxyz", 0.1, 20, seed=5)
    assert all(
        (a.atoms.positions == b.atoms.positions).all() for a, b in zip(made, again, strict=True)
    )
    assert (made[0].atoms.positions != other[0].atoms.positions).any()
    with pytest.raises(InputError, match="rattle is -0.1"):
        displaced(tmp_path / "cu.extxyz", -0.1, 1, 0)
    with pytest.raises(InputError, match="count is 0"):
        displaced(tmp_path / "cu.extxyz", 0.1, 0, 0)


def test_senseless_structures_are_refused_and_counted():
    lost = molecule("CO")
    lost.positions[0] = np.nan
    near = molecule("CO")
    near.set_distance(0, 1, 0.6)
    flat = Atoms("Cu", pbc=True)
    kept, refused = sensible(candidates(molecule("CO"), lost, near, flat, Atoms()), 0.6)
    assert [c.index for c in kept] == [0]
    assert refused == Counter(
        {
            "positions or cell that define no neighbours": 2,
            "two atoms closer than 0.6 × the sum of covalent radii": 1,
            "no atoms": 1,
        }
    )


def test_predictions_are_those_of_the_engine():
    structures = [bulk("Cu", a=3.5 + 0.001 * k) for k in range(70)]  # more than go at once
    said = []
    predictions = predict(UncertainEMT(), candidates(*structures), said.append)
    expected = UncertainEMT().evaluate(structures, uncertainty=True)
    assert len(predictions) == 70 and said[-1] == "predicted 70 of 70 candidates"
    for k, prediction in enumerate(predictions):
        assert prediction.energy == expected.energy[k]
        np.testing.assert_array_equal(prediction.forces, expected.forces[k])
        assert prediction.score == np.linalg.norm(expected.forces_std[k], axis=1).max()
        assert prediction.max_force == np.linalg.norm(expected.forces[k], axis=1).max()


def test_predictions_without_use_are_refused():
    class Sure:
        def evaluate(self, structures, uncertainty):
            return SimpleNamespace(energy=[0], forces=[0], energy_std=None, forces_std=None)

    class Lost(UncertainEMT):
        def evaluate(self, structures, uncertainty):
            result = super().evaluate(structures, uncertainty)
            result.forces_std[1][0, 0] = np.nan
            return result

    pair = candidates(bulk("Cu"), bulk("Cu", a=3.7))
    with pytest.raises(InputError, match="gives no uncertainties"):
        predict(Sure(), pair)
    with pytest.raises(EvaluationError, match="here.xyz frame 1: .*not finite"):
        predict(Lost(), pair)
    assert predict(UncertainEMT(), []) == []
