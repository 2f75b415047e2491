"""The pes module for i-PI and the nemp ipi command, with a potential file."""

import json
import subprocess
import sys

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.units import Bohr, Hartree
from typer.testing import CliRunner

from nemp_sim.checkpoint import load_potential, save_potential
from nemp_sim.cli import app
from nemp_sim.errors import InputError
from nemp_sim.files import private_directory, read_structure
from nemp_sim.ipi.client import BeadEvaluator
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from tests.conftest import make_potential
from tests.ipi_server import ENVIRONMENT, ROOT, HarmonicEngine, RealServer

pytest.importorskip("ipi", reason="i-PI is not installed")
MODULE = ROOT / "nemp_sim" / "ipi" / "pes.py"


@pytest.fixture(scope="module")
def files():
    """A directory with a potential of an ensemble and a cubic template of four atoms."""
    with private_directory() as path:
        potential = make_potential("smooth", n_members=3)
        save_potential(potential.model, potential.metadata, path / "p.pt")
        crystal = bulk("Pd", a=3.9, cubic=True)
        crystal.rattle(0.02, seed=3)
        ase.io.write(path / "init.extxyz", crystal)
        yield path, crystal


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def driver(files):
    from ipi.pes import load_pes, scan_pes_file

    assert scan_pes_file(str(MODULE)) == ("NEMPDriver", "nemp")
    path, _ = files
    return load_pes("custom", str(MODULE))(f"{path}/p.pt", f"{path}/init.extxyz", device="cpu")


def test_driver_computes_arrays_and_lists(files, driver):
    path, crystal = files
    expected = load_potential(path / "p.pt", "cpu").evaluate([crystal], stress=True)
    cell, positions = crystal.cell.array.T / Bohr, crystal.positions / Bohr
    energy, forces, virial, extras = driver(cell, positions)
    assert energy * Hartree == pytest.approx(expected.energy[0], rel=1e-12)
    assert np.allclose(forces * Hartree / Bohr, expected.forces[0], atol=1e-10)
    trace = -crystal.get_volume() * expected.stress[0, :3].sum()
    assert np.trace(virial) * Hartree == pytest.approx(trace, rel=1e-9)
    assert json.loads(extras)["energy_std_eV"] > 0
    moved = positions + 0.1
    moved[0] += 0.05
    both = driver([cell, cell], [positions, moved])
    assert len(both) == 2 and both[0][0] == pytest.approx(energy, rel=1e-12)
    assert both[1][0] == pytest.approx(driver(cell, moved)[0], rel=1e-12)
    assert both[1][0] != both[0][0]


def test_driver_refuses_what_the_client_refuses(files, driver):
    _, crystal = files
    with pytest.raises(InputError, match="Å that were read as Bohr"):
        driver(crystal.cell.array.T, crystal.positions)


def test_forces_of_the_committee_are_those_of_its_members(files, driver):
    """In atomic units; their means are the forces and the virial."""
    from ipi.pes import load_pes

    path, crystal = files
    options = {"device": "cpu", "committee_forces": True}
    driver = load_pes("custom", str(MODULE))(f"{path}/p.pt", f"{path}/init.extxyz", **options)
    _, forces, virial, extras = driver(crystal.cell.array.T / Bohr, crystal.positions / Bohr)
    told = json.loads(extras)
    every = np.array(told["committee_force"])
    assert every.shape == (3, 12) and np.ptp(every, axis=0).max() > 1e-6
    np.testing.assert_allclose(every.mean(0), forces.ravel(), atol=1e-12)
    np.testing.assert_allclose(np.mean(told["committee_virial"], axis=0), virial, atol=1e-12)
    expected = load_potential(path / "p.pt", "cpu").evaluate([crystal], uncertainty=True)
    members = expected.forces_members[0].reshape(3, 12)
    np.testing.assert_allclose(every * Hartree / Bohr, members, atol=1e-10)


def test_forces_of_members_need_an_ensemble(files):
    with pytest.raises(InputError, match="no ensemble read-out"):
        BeadEvaluator(HarmonicEngine(), files[1], committee_forces=True)


def direct(path, name="ff", more=""):
    return f"""<ffdirect name='{name}'><pes>custom</pes><pes_path>{MODULE}</pes_path><parameters>
    {{potential: {path}/p.pt, template: {path}/init.extxyz, device: cpu{more}}}</parameters>
    </ffdirect>"""


@pytest.fixture(scope="module")
def direct_energies(files):
    """Of two steps of i-PI with ffdirect."""
    path, crystal = files
    (path / "direct").mkdir()
    with RealServer(path / "direct", crystal, direct(path), beads=2, steps=2) as server:
        energies = server.energies()
    assert energies.shape == (3, 3) and np.ptp(energies[:, 2]) > 1e-7
    return energies


@pytest.mark.parametrize("more", ["", ", committee_forces: True"])
def test_committee_takes_the_members_from_the_extras(files, direct_energies, more):
    """The mean of committee_pot is the energy, that of committee_force the force."""
    path, crystal = files
    (path / f"committee{bool(more)}").mkdir()
    forcefield = f"""<ffcommittee name='ff'>{direct(path, "member", more)}<weights>[1.0]</weights>
    <parse_json>True</parse_json></ffcommittee>"""
    with RealServer(
        path / f"committee{bool(more)}", crystal, forcefield, beads=2, steps=2
    ) as server:
        got = server.energies()
    assert np.abs(direct_energies - got).max() < 2e-8 * np.abs(got).max()


def test_command_in_a_process_of_its_own(files, direct_energies):
    path, crystal = files
    there = path / "socket"
    there.mkdir()
    forcefield = """<ffsocket name='ff' mode='unix'><address>pd</address><batch_size>2</batch_size>
    <latency>1e-3</latency></ffsocket>"""
    command = [sys.executable, "-m", "nemp_sim.cli", "ipi", "--potential", f"{path}/p.pt"]
    command += ["--template", f"{path}/init.extxyz", "--address", "pd", "--prefix", str(there)]
    with RealServer(there, crystal, forcefield, beads=2, steps=2) as server:
        client = subprocess.run(
            [*command, "--device", "cpu"],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        got = server.energies()
    assert client.returncode == 0 and "EXIT: 6 frames in 3 requests" in client.stdout
    assert np.abs(direct_energies - got).max() < 2e-8 * np.abs(got).max()


def test_input_of_the_manual_runs():
    """H on Pd(111) with 16 beads; the slab is not periodic along its normal."""
    page = (ROOT / "docs" / "ipi.md").read_text()
    text = page.split("```xml\n")[1].split("```")[0].replace("10000</total", "2</total")
    text = text.replace("stride='10' filename", "stride='1' filename")
    std = "<trajectory filename='std' extra_type='energy_std_eV'>extras</trajectory>"
    assert std in page
    text = text.replace("<checkpoint", f"{std} <checkpoint")
    slab = place(fcc_slab(), "H", "fcc")
    slab.cell[2, 2] = 20.6
    with private_directory() as path:
        ase.io.write(path / "init.extxyz", slab)
        with RealServer(path, slab, text=text) as server:
            result = run(
                *("ipi", "--potential", "pdh.pt", "--template", path / "init.extxyz", "--unix"),
                *("--address", "pd", "--prefix", path, "--device", "cpu"),
            )
            energies = server.energies()
        assert result.exit_code == 0 and "48 frames in 3 requests" in result.output
        assert energies.shape == (3, 6) and np.ptp(energies[:, 2]) < 0.01
        stds = [np.loadtxt(p) for p in sorted(path.glob("run.std*"))]
    assert len(stds) == 16 and all((values > 0).all() for values in stds)


def test_command_ends_with_3_without_a_server_and_with_2_for_bad_input(files):
    path, crystal = files
    options = ["--potential", path / "p.pt", "--address", "none", "--device", "cpu"]
    options += ["--prefix", path, "--deadline-s", 0.2]
    result = run("ipi", *options, "--template", path / "init.extxyz")
    assert result.exit_code == 3 and "no i-PI server" in result.output
    result = run("ipi", *options, "--template", path / "missing.xyz")
    assert result.exit_code == 2 and "no such file" in result.output
    result = run("ipi", *options, "--template", path / "init.extxyz", "--unix", "--inet")
    assert result.exit_code == 2 and "mode is 'unix and inet'" in result.output
    ase.io.write(path / "co.extxyz", ase.Atoms("Au"))
    result = run("ipi", *options, "--template", path / "co.extxyz")
    assert result.exit_code == 2 and "Au" in result.output


def test_template_that_is_no_structure(files, tmp_path):
    (tmp_path / "ipi.xyz").write_text("1\n# CELL(abcABC): 9 9 9 90 90 90 cell{angstrom}\nH 0 0 0\n")
    with pytest.raises(InputError, match=r"xyz file of i-PI"):
        read_structure(tmp_path / "ipi.xyz", "template")
    (tmp_path / "broken.extxyz").write_text("three\natoms\n")
    with pytest.raises(InputError, match="ASE cannot read"):
        read_structure(tmp_path / "broken.extxyz", "template")
