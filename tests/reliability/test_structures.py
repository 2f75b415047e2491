"""Bad structures × entry points; docs/reliability.md lists them."""

import importlib
import warnings

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111
from ase.calculators.calculator import CalculationFailed
from ase.constraints import FixAtoms, FixBondLengths, FixedPlane, FixScaled, Hookean
from ase.units import Bohr
from typer.testing import CliRunner

from nemp_sim import NEMP
from nemp_sim.cli import app as nemp
from nemp_sim.errors import InputError, NempError
from nemp_sim.files import read_structures
from nemp_sim.ipi.client import BeadEvaluator
from nemp_sim.ipi.wire import Frame
from nemp_sim.reactions.diffusion import langevin
from nemp_sim.reactions.transition_state import refine_saddle
from nemp_sim.vibrations import vibrations
from nemp_sim.watch import ExtrapolationWarning
from tests.reliability.outcome import assert_refused


def slab():
    atoms = fcc111("Pd", (1, 1, 2), a=3.95, vacuum=5.0)
    add_adsorbate(atoms, "H", 0.9, "fcc")
    atoms.info = {}
    return atoms


def changed(change):
    def make():
        atoms = slab()
        change(atoms)
        return atoms

    return make


def place(value):
    return changed(lambda a: a.positions.__setitem__((1, 2), value))


def cell(*rows):
    return changed(lambda a: a.set_cell(rows))


def scaled(factor):
    return changed(lambda a: a.set_cell(a.cell * factor, scale_atoms=True))


BAD_ATOMS = {
    "NaN position": place(np.nan),
    "infinite position": place(np.inf),
    "escaped atom": place(1e7),
    "NaN cell": cell([np.nan, 0, 0], [0, 2.8, 0], [0, 0, 20]),
    "zero cell": cell([0, 0, 0], [0, 0, 0], [0, 0, 0]),
    "coplanar cell": cell([2.8, 0, 0], [5.6, 0, 0], [0, 0, 20]),
    "huge cell": cell([1e6, 0, 0], [0, 2.8, 0], [0, 0, 20]),
    "lengths in nm": scaled(0.1),
    "tiny cell": scaled(0.004),
    "unknown element": changed(lambda a: a.symbols.__setitem__(0, "Au")),
    "dummy element": changed(lambda a: a.symbols.__setitem__(0, "X")),
}
BAD_BYTES = {
    "empty file": b"",
    "no atoms": b"0\nProperties=species:S:1:pos:R:3\n",
    "binary": bytes(range(256)) * 20,
    "truncated": b"4\n\nH 0 0 0\n",
    "not UTF-8": "2\n\xe9\nH 0 0 0\nH 0 0 \xe9\n".encode("latin1"),
    "words for numbers": b"2\nProperties=species:S:1:pos:R:3\nH a b c\nH 0 0 1\n",
    "no such symbol": b"1\nProperties=species:S:1:pos:R:3\nQq 0 0 0\n",
    "not a structure": b"\x80\x04\x95import os",
}
NAMES = [*BAD_ATOMS, *BAD_BYTES, "missing file", "directory"]
COMMON = ["--device", "cpu"]
SHORT = ["--beads", "1", "--steps", "4", "--equilibration", "1"]
ENTRIES = {  # arguments, with FILE for the bad one
    "check": ["pdh", "FILE"],
    "validate": ["pdh", "--structure", "FILE"],
    "ipi": ["--potential", "pdh", "--template", "FILE", "--address", "a", "--prefix", "/nowhere/"],
    "neb": ["--initial", "FILE", "--final", "GOOD"],
    "phonons": ["--structure", "FILE", "--potential", "pdh.pt"],
    "adsorption": ["--slab", "FILE"],
    "diffusion": ["--structure", "FILE"],
    "md": ["--structure", "FILE", "--potential", "pdh.pt"],
    "pimd": ["--system", "FILE", "--potential", "pdh.pt", *SHORT],
    "umbrella": ["--initial", "FILE", "--final", "GOOD", *SHORT],
    "label": ["--candidates", "FILE", "--calculator", "emt"],
    "evaluate": ["--structures", "FILE"],
    "relax": ["--structures", "FILE", "--potential", "pdh.pt"],
    "vibrations": ["--structure", "FILE", "--potential", "pdh.pt"],
}
COMMANDS = ("check", "validate", "ipi")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All bad files, and a good one."""
    path = tmp_path_factory.mktemp("bad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, make in BAD_ATOMS.items():
            ase.io.write(path / f"{name}.xyz", make(), format="extxyz")
        ase.io.write(path / "good.xyz", slab(), format="extxyz")
    for name, content in BAD_BYTES.items():
        (path / f"{name}.xyz").write_bytes(content)
    (path / "directory.xyz").mkdir()
    return path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("entry", ENTRIES)
def test_commands_refuse_bad_structure_files(folder, tmp_path, entry, name):
    if (entry, name) == ("label", "lengths in nm"):
        pytest.skip("a candidate with contacts too close is left out and counted")
    places = {"FILE": folder / f"{name}.xyz", "GOOD": folder / "good.xyz"}
    arguments = [places.get(a, a) for a in ENTRIES[entry]]
    if entry in COMMANDS:
        app, arguments = nemp, [entry, *arguments, *COMMON]
    else:
        app = importlib.import_module(f"nemp_sim.workflows.{entry}").app
        arguments += ["--out", tmp_path / "out", *COMMON]
    assert_refused(app, arguments, folder)
    assert not [*(tmp_path / "out").rglob("report.*"), *(tmp_path / "out").rglob("*.png")]


def overlapping():
    atoms = slab()
    atoms.positions[1] = atoms.positions[0]
    return atoms


OUTSIDE = {"overlapping atoms": overlapping, "lengths in Bohr": scaled(1 / Bohr)}
FEW = ["--steps", "3", "--images", "1"]
SHORT_RUN = ["--picoseconds", "0.1", "--timestep", "1", "--replicas", "2"]
SHORT_MD = ["--picoseconds", "0.1", "--timestep", "1", "--equilibration", "0.01"]
ENDS = {  # exit codes of what can be computed but means nothing
    ("check", "overlapping atoms"): (1, "Pd0 and Pd1 are 0 Å apart", []),
    ("check", "lengths in Bohr"): (1, "OUTSIDE", []),
    ("neb", "overlapping atoms"): (1, "OUTSIDE THE TRAINED DOMAIN", FEW),
    ("neb", "lengths in Bohr"): (2, "the cells differ", FEW),
    ("diffusion", "overlapping atoms"): (2, "The atom escaped", SHORT_RUN),
    ("diffusion", "lengths in Bohr"): (2, "inside if its lengths are in Bohr", SHORT_RUN),
    ("md", "overlapping atoms"): (2, "The atom escaped", SHORT_MD),
    ("md", "lengths in Bohr"): (2, "inside if its lengths are in Bohr", SHORT_MD),
    ("pimd", "overlapping atoms"): (2, "The simulation explodes", []),
    ("umbrella", "lengths in Bohr"): (2, "the cells differ", []),
    ("label", "overlapping atoms"): (0, "None of 1 candidates is sensible", []),
}


@pytest.mark.filterwarnings("ignore::nemp_sim.watch.ExtrapolationWarning")
@pytest.mark.parametrize(("entry", "name"), ENDS)
def test_commands_say_what_means_nothing(folder, tmp_path, entry, name):
    code, said, options = ENDS[entry, name]
    ase.io.write(tmp_path / "bad.xyz", OUTSIDE[name](), format="extxyz")
    places = {"FILE": tmp_path / "bad.xyz", "GOOD": folder / "good.xyz"}
    arguments = [str(places.get(a, a)) for a in ENTRIES[entry]] + COMMON + options
    if entry == "check":
        result = CliRunner().invoke(nemp, [entry, *arguments])
    else:
        app = importlib.import_module(f"nemp_sim.workflows.{entry}").app
        result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == code, result.output
    assert said in " ".join(result.output.split())


def with_array(name, change):
    return changed(lambda a: a.arrays.__setitem__(name, change(a.arrays[name])))


def with_number(number):
    return changed(lambda a: a.numbers.__setitem__(0, number))


BAD_ARRAYS = {  # what ASE lets be written into an Atoms
    "float32 positions": with_array("positions", lambda x: x.astype(np.float32)),
    "whole positions": with_array("positions", lambda x: x.astype(int)),
    "positions of another byte order": with_array("positions", lambda x: x.astype(">f8")),
    "too few positions": with_array("positions", lambda x: x[:-1]),
    "flat positions": with_array("positions", lambda x: x[:, :2]),
    "broken atomic numbers": with_array("numbers", lambda x: x + 0.9),
    "atomic number 119": with_number(119),
    "atomic number -73": with_number(-73),  # index of Pd, counted from the end
}
SENSELESS = [*BAD_ATOMS]


@pytest.fixture(scope="module")
def pdh():
    return NEMP("pdh.pt", device="cpu").potential


@pytest.mark.parametrize("name", SENSELESS)
def test_evaluate_refuses_bad_structures(pdh, name):
    with pytest.raises(InputError):
        pdh.evaluate([slab(), BAD_ATOMS[name]()])


@pytest.mark.parametrize("name", SENSELESS)
def test_calculator_refuses_bad_structures(pdh, name):
    atoms = BAD_ATOMS[name]()
    atoms.calc = NEMP(pdh)
    for _ in range(2):  # no old result is handed out after an error
        with pytest.raises((InputError, CalculationFailed)):
            atoms.get_potential_energy()


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_of_another_kind_are_refused(pdh, name):
    with pytest.raises(InputError, match="atomic number|positions have"):
        pdh.evaluate([slab(), BAD_ARRAYS[name]()])


@pytest.mark.parametrize("number", [119, -73])
def test_files_with_other_atomic_numbers_are_refused(tmp_path, number):
    """A byte of an ASE trajectory that has changed: neither a traceback nor another element."""
    atoms = slab()
    atoms.numbers[0] = number
    ase.io.write(tmp_path / "a.traj", atoms)
    assert_refused(nemp, ["check", "pdh", tmp_path / "a.traj", *COMMON], tmp_path, "atomic number")


@pytest.mark.parametrize("share", ["Pd1 Pd 0.5 0.5 0 0.6", "Pd1 Pd 0 0 0 0.5", "Pd1 Pd 0 0 0 ?"])
def test_sites_that_are_occupied_in_part_are_refused(tmp_path, share):
    """ASE keeps one whole atom of each, without a word: another composition."""
    ase.io.write(tmp_path / "a.cif", bulk("Pd", cubic=True))
    assert len(read_structures(tmp_path / "a.cif", "a")[0]) == 4
    *lines, last = (tmp_path / "a.cif").read_text("utf-8").splitlines()
    assert last.split()[0] == "Pd" and float(last.split()[-1]) == 1.0
    label, symbol, *place, occupied = share.split()
    columns = last.split()
    columns[1], columns[3:6], columns[-1] = label, place, occupied
    (tmp_path / "b.cif").write_text("\n".join([*lines, " ".join(columns)]), "utf-8")
    arguments = ["check", "pdh", tmp_path / "b.cif", *COMMON]
    assert_refused(nemp, arguments, tmp_path, "is occupied in part (Pd")


OTHERS = {
    "FixScaled": FixScaled(0, [True, True, False]),  # selective dynamics of a POSCAR
    "FixedPlane": FixedPlane(0, (0, 0, 1)),
    "FixBondLengths": FixBondLengths([[0, 1]]),
    "Hookean": Hookean(0, 1, rt=2.0, k=5.0),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("what", ["dynamics", "vibrations", "saddle"])
def test_constraints_that_would_be_passed_over_are_refused(pdh, what, name):
    atoms = slab()
    atoms.set_constraint([FixAtoms([1]), OTHERS[name]])
    with pytest.raises(InputError, match=f"holds a {name}"):
        if what == "dynamics":
            langevin(pdh, [atoms], 300.0, 1, every=1)
        elif what == "vibrations":
            vibrations(pdh, atoms)
        else:
            refine_saddle(pdh, atoms, steps=0)


@pytest.mark.parametrize("name", ["NaN position", "infinite position", "escaped atom", "NaN cell"])
def test_ipi_client_refuses_bad_frames(pdh, name):
    template, bad = slab(), BAD_ATOMS[name]()
    evaluator = BeadEvaluator(pdh, template)
    with pytest.raises(NempError):
        evaluator.evaluate([Frame(bad.cell.array, bad.positions)])


def test_overlapping_atoms_are_named(pdh):
    with pytest.warns(ExtrapolationWarning, match="Pd0 and Pd1 are 0 Å apart"):
        result = pdh.evaluate([overlapping()])
    assert result.outside[0]


def test_left_handed_and_wide_cells_are_right(pdh):
    """Allowed, and the same crystal: no warning, the same numbers."""
    atoms, mirrored = slab(), slab()
    mirrored.set_cell(atoms.cell.array[[1, 0, 2]])
    assert np.linalg.det(mirrored.cell.array) < 0 < np.linalg.det(atoms.cell.array)
    wide = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    wide.set_cell([*atoms.cell[:2], [0, 0, 5e3]])
    energies = pdh.evaluate([atoms, mirrored, wide]).energy
    np.testing.assert_allclose(energies, energies[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("given", [None, "Pd", 3, [None], ["Pd"], slab()], ids=repr)
def test_evaluate_wants_a_list_of_atoms(pdh, given):
    with pytest.raises((NempError, TypeError)):
        pdh.evaluate(given)
