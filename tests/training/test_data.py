"""Labelled frames: reading, refusals, groups, references, units."""

import lzma
import re
import warnings
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.units import Bohr, Hartree, kcal, mol

from nemp_sim.errors import InputError
from nemp_sim.training.config import DataConfig
from nemp_sim.training.data import (
    Frame,
    read_frames,
    reference_energies,
    split_groups,
    unit_findings,
)
from nemp_sim.training.job import read_splits

DATA = DataConfig(train=("unused.xyz",))


def emt_trajectory(n_frames: int = 8, seed: int = 0) -> list[Atoms]:
    """Small random displacements of PdH and Pd, labelled by EMT as REF_energy and REF_forces."""
    rng = np.random.default_rng(seed)
    frames = []
    for formula in ("Pd", "PdH"):
        base = bulk("Pd", "fcc", a=3.95 if formula == "Pd" else 4.3, cubic=True)
        if formula == "PdH":
            base += Atoms("H", [base.cell.sum(0) / 2])
        for _ in range(n_frames):
            base.positions += rng.normal(scale=0.03, size=base.positions.shape)
            labelled = base.copy()
            labelled.calc = EMT()
            frames.append(with_labels(labelled, f"bulk_{formula}"))
    for symbol in ("Pd", "H"):
        atom = Atoms(symbol)
        atom.calc = EMT()
        frames.append(with_labels(atom, "isolated_atom"))
    return frames


def with_labels(atoms: Atoms, kind: str) -> Atoms:
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.info |= {"REF_energy": atoms.get_potential_energy(), "config_type": kind}
    bare.arrays["REF_forces"] = atoms.get_forces()
    if atoms.cell.rank == 3:
        bare.info["REF_stress"] = atoms.get_stress()
    return bare


@pytest.fixture(scope="module")
def trajectory():
    return emt_trajectory()


@pytest.fixture
def xyz(tmp_path, trajectory):
    path = tmp_path / "frames.xyz"
    ase.io.write(path, trajectory, format="extxyz")
    return path


def test_labels_survive_reading(xyz, trajectory):
    frames = read_frames(xyz, DATA, with_stress=True)
    assert len(frames) == len(trajectory)
    for frame, atoms in zip(frames, trajectory, strict=True):
        assert frame.energy == pytest.approx(atoms.info["REF_energy"], abs=1e-8)
        np.testing.assert_allclose(frame.forces, atoms.arrays["REF_forces"], atol=1e-8)
    stress = frames[0].stress
    np.testing.assert_allclose(stress[1, 2], trajectory[0].info["REF_stress"][3], atol=1e-8)
    assert frames[-1].stress is None


def test_xz_and_plain_keys(tmp_path, xyz, trajectory):
    packed = tmp_path / "frames.xyz.xz"
    packed.write_bytes(lzma.compress(xyz.read_bytes()))
    assert [f.energy for f in read_frames(packed, DATA)] == [
        f.energy for f in read_frames(xyz, DATA)
    ]
    text = xyz.read_text().replace("REF_energy", "energy").replace("REF_forces", "forces")
    plain = tmp_path / "plain.xyz"
    plain.write_text(text)
    keys = DataConfig(train=("x",), energy_key="energy", forces_key="forces")
    assert read_frames(plain, keys)[3].energy == read_frames(xyz, DATA)[3].energy


def test_kinds_come_from_the_key_that_is_named(tmp_path, trajectory):
    path = tmp_path / "kinds.xyz"
    for index, atoms in enumerate(trajectory):
        atoms.info["layers"] = index % 2
    ase.io.write(path, trajectory, format="extxyz")
    by_layers = DataConfig(train=("x",), type_key="layers")
    kinds = [f.config_type for f in read_frames(path, by_layers)]
    assert kinds == [str(k % 2) for k in range(len(trajectory))]
    unnamed = read_frames(path, DataConfig(train=("x",), type_key="phase"))
    assert {f.config_type for f in unnamed} == {"kinds"}  # the file's name


def test_frames_without_labels_are_counted_and_named(tmp_path, trajectory):
    frames = [a.copy() for a in trajectory[:4]]
    del frames[1].info["REF_energy"]
    del frames[3].arrays["REF_forces"]
    path = tmp_path / "holes.xyz"
    ase.io.write(path, frames, format="extxyz")
    with pytest.raises(InputError, match=r"2 of 4 frames.*frame 1 .*no REF_energy.*frame 3"):
        read_frames(path, DATA)


@pytest.mark.parametrize("content", [b"", b"not a structure", b"\xff\xfe\x00", b"3\n\nH 0 0 0\n"])
def test_unreadable_files_are_refused(tmp_path, content):
    path = tmp_path / "bad.xyz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.xyz"):
        read_frames(path, DATA)


def test_missing_file_and_group_key(tmp_path, xyz):
    with pytest.raises(InputError, match="no such file"):
        read_frames(tmp_path / "none.xyz", DATA)
    with pytest.raises(InputError, match="data.group_by is 'run'"):
        read_frames(xyz, DataConfig(train=("x",), group_by="run"))


def test_blocks_of_consecutive_frames_are_groups(xyz):
    frames = read_frames(xyz, DataConfig(train=("x",), group_by="block:5"), head="pbe")
    groups = [f.group for f in frames]
    assert [groups.count(g) for g in dict.fromkeys(groups)] == [5, 5, 5, 3]
    assert {f.head for f in frames} == {"pbe"}


@pytest.mark.parametrize("group_by", ["block:0", "block:", "block:-2", "block:x", "block:1.5"])
def test_a_block_needs_a_number_of_frames(group_by):
    with pytest.raises(InputError, match="data.group_by is 'block:.*block:20"):
        DataConfig(train=("x",), group_by=group_by)


def test_split_keeps_groups_together(xyz):
    frames = read_frames(xyz, DATA)
    assert len({f.group for f in frames}) == 4  # two cells and two lone atoms
    sides = set()
    for seed in range(20):
        train, held = split_groups(frames, 0.5, seed)
        assert not {f.group for f in train} & {f.group for f in held}
        assert len(train) + len(held) == len(frames)
        assert all(len(f.atoms) > 1 for f in held)
        sides.add(tuple(sorted({f.group for f in held})))
    assert len(sides) == 4  # none, either, both of the two groups that may be held out


def test_added_frames_move_no_frame_to_the_other_side(xyz):
    config = DataConfig(train=("x",), group_by="frame")
    frames = read_frames(xyz, config)
    train, held = split_groups(frames[:8], 0.4, seed=3)
    later_train, later_held = split_groups(frames[3:] + frames[:3], 0.4, seed=3)
    assert held
    assert {f.energy for f in held} <= {f.energy for f in later_held}
    assert {f.energy for f in train} <= {f.energy for f in later_train}
    assert 0.15 < len(later_held) / len(frames) < 0.65


def test_lone_atoms_are_exact_and_the_rest_is_fitted(xyz):
    frames = read_frames(xyz, DATA)
    references = reference_energies(frames, {})
    assert set(references.known) == {"Pd", "H"}
    assert references.lone_atom["Pd"] == frames[-2].energy
    bound = [f for f in frames if len(f.atoms) > 1]
    # independent oracle: normal equations of the per-atom energies
    x = np.array([[f.atoms.symbols.count(s) / len(f.atoms) for s in ("H", "Pd")] for f in bound])
    y = np.array([f.energy / len(f.atoms) for f in bound])
    solution = np.linalg.solve(x.T @ x, x.T @ y)
    for symbol, value in zip(("H", "Pd"), solution, strict=True):
        fitted = references.lone_atom[symbol] + references.bound[symbol]
        assert fitted == pytest.approx(value, abs=1e-9)


def test_one_composition_shares_its_binding_between_known_elements():
    lone = {"H": -13.6, "C": -1027.3, "O": -2038.5}
    methanol = Atoms("COH4", positions=np.arange(18.0).reshape(6, 3))
    energy = lone["C"] + lone["O"] + 4 * lone["H"] - 22.0
    frame = Frame(methanol, energy, np.zeros((6, 3)), None, "all", "0")
    bound = reference_energies([frame], lone).bound
    assert bound["C"] + bound["O"] + 4 * bound["H"] == pytest.approx(-22.0)
    assert all(-22.0 < value < 0 for value in bound.values())


UNIT_ERRORS = {
    "hartree": (1 / Hartree, 1 / Hartree, "Hartree|binding"),
    "hartree and bohr": (1 / Hartree, Bohr / Hartree, "Hartree/bohr"),
    "energy in hartree": (1 / Hartree, 1.0, "energies in Hartree and forces in eV"),
    "forces in hartree/bohr": (1.0, Bohr / Hartree, "forces in Hartree/bohr"),
    "energy in kcal/mol": (mol / kcal, 1.0, "kcal/mol"),
    "gradients": (1.0, -1.0, "opposite sign"),
}


@pytest.mark.parametrize("name", UNIT_ERRORS)
def test_unit_mistakes_are_found(tmp_path, trajectory, name):
    energy, force, message = UNIT_ERRORS[name]
    frames = [a.copy() for a in trajectory]
    for atoms in frames:  # bind the atoms, since EMT's zero is the bulk metal
        binding = 3.5 * len(atoms) if len(atoms) > 1 else 0.0
        atoms.info["REF_energy"] = energy * (atoms.info["REF_energy"] - binding)
        atoms.arrays["REF_forces"] = force * atoms.arrays["REF_forces"]
    path = tmp_path / "units.xyz"
    ase.io.write(path, frames, format="extxyz")
    read = read_frames(path, DATA)
    findings = " ".join(unit_findings(read, reference_energies(read, {})))
    assert re.search(message, findings), findings


def test_positions_in_bohr_are_found(tmp_path, trajectory):
    frames = [a.copy() for a in trajectory]
    for atoms in frames:
        atoms.set_cell(atoms.cell / Bohr, scale_atoms=True)
    path = tmp_path / "bohr.xyz"
    ase.io.write(path, frames, format="extxyz")
    read = read_frames(path, DATA)
    assert "bohr" in " ".join(unit_findings(read, reference_energies(read, {})))


def test_energies_and_forces_in_one_wrong_unit_are_found(tmp_path, trajectory):
    """Their slope is right; forces of 20 eV/Å in every frame are not."""
    frames = [a.copy() for a in trajectory if len(a) > 1]
    for atoms in frames:
        atoms.info["REF_energy"] *= 23.06
        atoms.arrays["REF_forces"] = 23.06 * (atoms.arrays["REF_forces"] + 1.0)
    ase.io.write(tmp_path / "kcal.xyz", frames, format="extxyz")
    found = " ".join(
        unit_findings(read_frames(tmp_path / "kcal.xyz", DATA), reference_energies([], {}))
    )
    assert "kcal/mol (multiply both by 0.04336)" in found


def test_right_units_raise_no_finding(tmp_path, trajectory):
    frames = [a.copy() for a in trajectory]
    for atoms in frames:
        atoms.info["REF_energy"] -= 3.5 * (len(atoms) > 1) * len(atoms)
    path = tmp_path / "good.xyz"
    ase.io.write(path, frames, format="extxyz")
    read = read_frames(path, DATA)
    assert unit_findings(read, reference_energies(read, {})) == []


@pytest.mark.parametrize(
    ("factor", "said"),
    [(1.0, ""), (-1.0, "opposite sign"), (160.2, "in GPa"), (-1602.0, "in GPa .* or kbar")],
)
def test_stresses_of_another_sign_or_unit_are_found(tmp_path, rng, factor, said):
    frames = []
    for stretch in rng.uniform(0.97, 1.05, size=10):
        atoms = bulk("Pd", "fcc", a=3.89 * stretch, cubic=True)
        atoms.rattle(0.03, rng=rng)
        atoms.calc = EMT()
        labelled = with_labels(atoms, "bulk")
        labelled.info["REF_stress"] *= factor
        frames.append(labelled)
    ase.io.write(tmp_path / "s.xyz", frames, format="extxyz")
    read = read_frames(tmp_path / "s.xyz", DATA, with_stress=True)
    found = " ".join(t for t in unit_findings(read, reference_energies(read, {})) if "stress" in t)
    assert re.search(said, found) and bool(found) == bool(said)


def test_a_crystal_of_one_atom_is_no_lone_atom():
    """Its energy would become that of the lone atom, and every lone atom would have it."""

    def frame(cell, energy):
        atoms = Atoms("Pd", cell=cell, pbc=True)
        return Frame(atoms, energy, np.zeros((1, 3)), None, "", "")

    crystal, lone = frame(bulk("Pd").cell, -5.2), frame([12.0, 12, 12], -1.4)
    for frames in ([crystal, lone], [lone, crystal]):
        found = reference_energies(frames, {})
        assert found.lone_atom == {"Pd": -1.4} and found.known == ("Pd",)
        assert found.bound["Pd"] == pytest.approx(-3.8)
    assert reference_energies([crystal], {}).known == ()


def test_frames_that_are_trained_on_and_held_out_are_told(tmp_path, trajectory):
    for name, part in (("train", trajectory[:9]), ("test", trajectory[7:12])):
        ase.io.write(tmp_path / f"{name}.xyz", part, format="extxyz")
    data = DataConfig(
        train=(str(tmp_path / "train.xyz"),),
        validation=(str(tmp_path / "train.xyz"),),
        test=(str(tmp_path / "test.xyz"),),
    )
    with pytest.warns(UserWarning) as told:
        read_splits({"default": data}, with_stress=False)
    said = sorted(str(w.message).split(" stand")[0] for w in told)
    assert said == ["2 of 5 test frames", "9 of 9 validation frames"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_splits({"default": replace(data, validation=(), test=())}, with_stress=False)
