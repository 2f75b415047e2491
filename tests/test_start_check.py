"""Slabs that lost their cell and lengths in another unit are refused before any step."""

import warnings

import ase.io
import pytest
from ase import Atoms
from ase.build import bulk
from typer.testing import CliRunner

from nemp_sim.checkpoint import load_potential
from nemp_sim.console import plain_warnings
from nemp_sim.errors import InputError
from nemp_sim.start_check import check_start
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.units import BOHR_ANGSTROM
from nemp_sim.workflows import neb, relax
from tests.engines import EMTEngine


@pytest.fixture(scope="module")
def engine():
    return load_potential("pdh.pt", "cpu")


def hydrogen(site="fcc"):
    return place(fcc_slab(), "H", site)


def lost():
    atoms = hydrogen()
    return Atoms(atoms.numbers, atoms.positions)


def scaled(factor):
    atoms = hydrogen()
    atoms.set_constraint()
    atoms.set_cell(atoms.cell * factor, scale_atoms=True)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (lost(), r"start \(HPd12\) is not periodic, and pdh.pt knows no such atoms in vacuum"),
        (scaled(1 / BOHR_ANGSTROM), "inside if its lengths are in Bohr"),
    ],
)
def test_what_is_refused(engine, atoms, message):
    with pytest.raises(InputError, match=message):
        check_start(engine, {"start": atoms})


def test_what_is_not(engine):
    """Good structures, poor guesses, molecules, other engines; and no trace is left."""
    seen = engine.watch.n_structures
    poor = hydrogen()
    poor.rattle(0.3, seed=1)
    good = {"slab": hydrogen(), "crystal": bulk("Pd", a=3.7), "poor": poor}
    check_start(engine, good | {"molecule": Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])})
    check_start(EMTEngine(), {"lost": lost()})
    check_start(load_potential("pdh.pt", "cpu", on_extrapolation="ignore"), {"lost": lost()})
    assert engine.watch.n_structures == seen and engine.watch.policy == "warn"


def test_commands_say_it_first(tmp_path):
    ends = [lost(), lost()]
    ends[1].positions[-1] += [0.8, 0.8, 0]
    for name, atoms in zip("ab", ends, strict=True):
        ase.io.write(tmp_path / f"{name}.xyz", atoms, format="xyz")
    files = [str(tmp_path / f"{name}.xyz") for name in "ab"]
    given = ["--initial", files[0], "--final", files[1]], ["--structures", files[0]]
    for app, options in zip((neb.app, relax.app), given, strict=True):
        more = ["--potential", "pdh.pt", "--device", "cpu", "--out", str(tmp_path / "out")]
        done = CliRunner().invoke(app, [*options, *more])
        assert done.exit_code == 2 and "Was the cell lost?" in done.stderr, done.output
        assert not list((tmp_path / "out").rglob("report.*"))


def test_warnings_of_commands_are_one_line(capsys):
    with plain_warnings():
        warnings.simplefilter("always")
        warnings.warn("careful", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: careful\n"
