import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from ase.units import kB
from typer.testing import CliRunner

from nemp_sim.errors import InputError
from nemp_sim.pathintegral.files import Frames, last_row
from nemp_sim.report import RUN_FILES
from nemp_sim.workflows.pimd import Settings, app, run
from tests.engines import EMTEngine
from tests.ipi_server import ENVIRONMENT, ROOT, HarmonicEngine
from tests.pathintegral.ring_polymer import frequencies

pytest.importorskip("ipi", reason="i-PI is not installed")


class BeadEMT(EMTEngine):
    """EMT for beads, by the members of a bead engine."""

    cutoff_angstrom = 5.0

    def evaluate(self, structures, forces=True, stress=False, neighbors=None):
        result = super().evaluate(structures)
        result.stress = np.zeros((len(structures), 6))
        result.energy_std = result.energy_members = None
        return result


@pytest.fixture
def settings(tmp_path):
    """Function that makes settings with changes."""
    small = {"steps": 12, "equilibration": 2, "every": 1, "frames_every": 2, "out": tmp_path}
    return lambda **changes: Settings(**small | changes)


def test_surface_run_writes_everything_and_becomes_longer(settings):
    engine = BeadEMT()
    result = run(settings(beads=(3,), isotope=("H", "D")), engine)
    assert result.directory.name == "pimd-h-pd111"
    assert {p.name for p in result.directory.iterdir()} == {
        *("beads-3", "beads-3-1.3830amu", "beads-3-2.0141amu", "start.extxyz", "beads.extxyz"),
        *(f"{name}.{form}" for name in ("time", "pairs", "surface-H") for form in ("png", "pdf")),
        *RUN_FILES,
    }
    assert max(engine.batches) == 3
    start = read(result.directory / "start.extxyz")
    beads = read(result.directory / "beads.extxyz", ":")
    assert len(beads) == 3 and len(start.constraints[0].index) == 4
    for atoms in beads:
        np.testing.assert_allclose(atoms.cell, start.cell, atol=1e-6)
        np.testing.assert_allclose(atoms.positions[:4], start.positions[:4], atol=2e-4)
        assert np.abs(atoms.positions - start.positions).max() < 0.5
    isotope = result.findings.isotope
    assert isotope.masses_amu[[0, -1]] == pytest.approx([1.00794, 2.0141])
    classical = -1.5 * kB * 300 * np.log(2.0141 / 1.00794)
    assert isotope.classical_eV == pytest.approx(classical) and len(isotope.kinetic_eV) == 3
    labels = (result.directory / "beads-3-2.0141amu" / "init.xyz").read_text().split()
    assert labels.count("D") == 1
    values = json.loads((result.directory / "report.json").read_text(encoding="utf-8"))
    assert values["free_energy_H_D_meV"] == pytest.approx(1e3 * isotope.change_eV.mean)
    assert values["n_samples"] == 10 and values["beads"] == [3] and values["n_frames"] == 5
    assert values["kinetic_cv_H_meV"] > 0 and "kinetic_cv_H_meV_error" in values
    assert 0.3 < values["height_H_A"] < 2.2
    calls = len(engine.batches)
    again = run(settings(beads=(3,), isotope=("H",), steps=16), engine)
    assert 4 <= len(engine.batches) - calls <= 7
    assert again.findings.runs[0].n_samples == 14
    with pytest.raises(InputError, match="another simulation .temperature_K 300.0 → 200.0"):
        run(settings(beads=(3,), isotope=("H",), steps=16, temperature=200.0), engine)


def test_interrupted_command_says_so_and_goes_on(tmp_path):
    """With a potential file, one helper client, and Ctrl-C."""
    command = [sys.executable, str(ROOT / "workflows" / "pimd.py"), "--system", "methanol"]
    command += ["--beads", "2", "--equilibration", "2", "--every", "1", "--frames-every", "1"]
    command += ["--device", "cpu,cpu", "--out", str(tmp_path), "--steps"]
    options = {"env": ENVIRONMENT, "stderr": subprocess.PIPE, "text": True}
    written = tmp_path / "pimd-methanol" / "beads-2" / "run.out"
    with subprocess.Popen([*command, "100000"], **options) as process:
        end = time.monotonic() + 60
        while time.monotonic() < end and not (last_row(written) or [0])[0] > 10:
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130 and "the same command goes on" in said, said
    last = int(last_row(written)[0])
    options["stdout"] = subprocess.PIPE
    done = subprocess.run([*command, str(last + 300)], **options, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        "Kinetic energy of H" in done.stdout and "start is that of the earlier run" in done.stdout
    )
    helper = (written.parent / "client-1.log").read_text()
    assert "frames in" in helper or not helper.strip(), helper


def test_momentum_and_cheap_force(settings, pdh):
    """With EMT as the full force and a potential file as the cheap one."""
    wishes = {"beads": (4,), "momentum": "H", "momentum_frames": 9, "cheap": str(pdh)}
    steps = {"steps": 12, "frames_every": 1, "inner_steps": 2, "full_beads": 2}
    engine = BeadEMT()
    result = run(settings(**wishes, **steps, device=("cpu",)), engine)
    assert (result.directory / "momentum-H.png").is_file()
    assert engine.batches[-1] == 4 + 3 * 8 * 5 and max(engine.batches[:-9]) <= 2
    values = json.loads((result.directory / "report.json").read_text(encoding="utf-8"))
    assert values["momentum"]["n_samples"] == 9 and values["kinetic_momentum_H_z_meV"] > 0
    with pytest.raises(InputError, match="momentum is 'D', but must be one of H, Pd"):
        run(settings(**wishes | {"momentum": "D"}, name="other"), engine)


class Wells(HarmonicEngine):
    """A harmonic well about the place of each atom."""

    def __init__(self, places):
        super().__init__()
        self.places = places

    def evaluate(self, structures, **options):
        moved = [atoms.copy() for atoms in structures]
        for atoms in moved:
            atoms.positions -= self.places
        return super().evaluate(moved, **options)


def test_spectrum_goes_on_from_the_ring_of_the_averages(settings, tmp_path):
    """The centroids oscillate at the frequency of their wells."""
    atoms = Atoms("H8", 2.0 * np.array(list(np.ndindex(2, 2, 2))))
    write(tmp_path / "wells.extxyz", atoms)
    own = {"system": str(tmp_path / "wells.extxyz"), "potential": "none.pt", "beads": (4,)}
    steps = {"steps": 60, "timestep": 1.0, "tau": 15.0, "spectrum": 320}
    result = run(settings(**own, **steps), Wells(atoms.positions))
    values = json.loads((result.directory / "report.json").read_text(encoding="utf-8"))
    wavenumber = np.array(values["spectrum"]["wavenumber_per_cm"])
    density = np.array(values["spectrum"]["density_cm"]["H"])
    well, _ = frequencies(4, atoms.get_masses()[0])
    assert abs(wavenumber[density.argmax()] - well * 8065.544) < 1.5 * wavenumber[1]
    assert density.sum() * wavenumber[1] == pytest.approx(3.0, rel=1e-3)
    _, _, first = next(iter(Frames(result.directory / "beads-4-trpmd-from-60", "run")))
    ring = result.findings.structure.last_beads
    assert np.abs(first - first.mean(axis=0)).max() > 0.05
    assert np.abs(first - ring).max() < 0.5 * np.abs(ring - ring.mean(axis=0)).max()


def test_unusable_settings_are_refused(tmp_path):
    for values, message in (
        ({"beads": ()}, "beads is"),
        ({"equilibration": 1000}, "equilibration is 1000.*below 1000"),
        ({"isotope": ("H", "He")}, "isotope is"),
        ({"system": "H2O"}, "potential is not given.*h-pd111, co-pd111, methanol, water"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"mode": "inet"}, "mode is 'inet'"),
        ({"full_beads": 4}, "full_beads is 4, but must be left out without --cheap"),
        ({"cheap": "a.pt", "inner_steps": 0}, "inner_steps is 0"),
        ({"momentum": "H", "momentum_frames": 3}, "momentum_frames is 3"),
        ({"thermostat": "gle"}, "gle_file is None"),
        ({"spectrum": 100}, "spectrum is 100, but must be 0, or 128 steps or more"),
        ({"spectrum": 400, "ensemble": "nve"}, "spectrum is 400, but must be 0 but for"),
    ):
        with pytest.raises(InputError, match=message):
            Settings(**values)
    result = CliRunner().invoke(app, ["--beads", "four"])
    assert result.exit_code == 2 and "as in --beads '2 3'" in result.output
    result = CliRunner().invoke(app, ["--system", "nothing.xyz", "--potential", "pdh.pt"])
    assert result.exit_code == 2 and "nor a file" in result.output
