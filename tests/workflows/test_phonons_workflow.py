import json
from dataclasses import replace

import numpy as np
import phonopy
import pytest
from ase.build import add_adsorbate, bulk, fcc111
from ase.constraints import FixAtoms
from ase.io import read, write
from typer.testing import CliRunner

from nemp_sim.checkpoint import shipped_directory
from nemp_sim.errors import EvaluationError, InputError, PotentialFileError
from nemp_sim.phonons.files import FILES, FORCE_FILES
from nemp_sim.report import RUN_FILES
from nemp_sim.workflows.phonons import Settings, app, run
from tests.engines import StressEMT

WRITTEN = {
    *FILES,
    "structure.extxyz",
    *("bands.png", "bands.pdf", "thermal.png", "thermal.pdf", "velocities.png", "velocities.pdf"),
    *RUN_FILES,
}
SMALL = {"supercell": (2, 2, 2), "mesh": (6, 6, 6), "t_step": 100.0}


@pytest.fixture
def settings(tmp_path):
    """Function that makes settings with changes."""
    return lambda **changes: Settings(**SMALL | {"out": tmp_path / "results"} | changes)


@pytest.fixture
def copper(tmp_path):
    """File of strained Cu."""
    write(tmp_path / "cu.vasp", bulk("Cu", cubic=True, a=3.5))
    return tmp_path / "cu.vasp"


@pytest.fixture
def shipped_methanol():
    """A visible skip where the shipped potential is not there yet."""
    if not (shipped_directory() / "methanol.pt").is_file():
        pytest.skip("methanol.pt is not shipped")


class FailsWhenDisplaced(StressEMT):
    """Not-a-number forces of the displaced supercells."""

    def evaluate(self, structures, forces=True, stress=False):
        result = super().evaluate(structures, forces, stress)
        if len(structures[0]) > 1:
            result.forces[0][:] = np.nan
        return result


def invoke(*options):
    return CliRunner().invoke(app, [str(option) for option in options])


def test_default_job_writes_everything(settings):
    engine = StressEMT()
    result = run(settings(), engine)
    assert result.directory.name == "phonons-Pd"
    assert {p.name for p in result.directory.iterdir()} == WRITTEN
    assert [p.name for p in result.directory.parent.iterdir()] == ["phonons-Pd"]
    assert engine.batches[-1] == result.constants.n_displacements == 1
    values = json.loads((result.directory / "report.json").read_text(encoding="utf-8"))
    assert values["imaginary_modes"] == 0 and values["smax_GPa"] < 0.01
    assert values["versions"]["phonopy"] == phonopy.__version__
    assert values["settings"]["supercell"] == [2, 2, 2]
    assert values["space_group"] == "Fm-3m (225)"
    assert values["special_points"][1]["frequencies_THz"][2] == pytest.approx(
        result.spectra.max_THz, rel=0.1
    )
    text = (result.directory / "report.md").read_text(encoding="utf-8")
    assert "translations at Γ" in text and "Frequencies in THz at Γ 0.00, 0.00, 0.00; X" in text


def test_a_file_is_relaxed_first(settings, copper):
    result = run(settings(structure=copper, potential="emt"), StressEMT())
    assert result.directory.name == "phonons-cu"
    assert len(result.constants.phonon.primitive) == 1
    assert result.atoms.get_volume() == pytest.approx(3.59**3, rel=2e-3)
    kept = read(result.directory / "structure.extxyz")
    np.testing.assert_allclose(kept.positions, result.atoms.positions, atol=1e-6)


def test_given_volume_is_kept(settings, copper):
    result = run(settings(structure=copper, potential="emt", relax="none"), StressEMT())
    assert result.atoms.get_volume() == pytest.approx(3.5**3)
    assert "Nothing was relaxed" in result.report.notes[0]
    assert "The cell is under stress: largest component 1" in result.report.notes[1]
    smax = next(q.value for q in result.report.quantities if q.key == "smax_GPa")
    assert smax == pytest.approx(float(result.report.notes[1].split()[-2]), abs=0.01)


def test_slab(settings, tmp_path):
    slab = fcc111("Cu", (1, 1, 3), a=3.59, vacuum=6.0)
    slab.set_constraint(FixAtoms([0]))
    write(tmp_path / "slab.traj", slab)
    changes = {"supercell": (2, 2, 1), "mesh": (6, 6, 1), "potential": "emt"}
    result = run(settings(structure=tmp_path / "slab.traj", **changes), StressEMT())
    assert len(result.constants.phonon.primitive) == 3
    assert "Constraints of the file were not used" in " ".join(result.report.notes)
    assert result.spectra.bands.tick_labels == ("Γ", "M", "K", "Γ")
    with pytest.raises(InputError, match="vacuum along a cell vector. Use --relax positions"):
        run(settings(structure=tmp_path / "slab.traj", **changes | {"relax": "cell"}), StressEMT())


def test_nothing_is_written_when_not_at_a_minimum(settings, tmp_path):
    rattled = bulk("Cu", cubic=True, a=3.59)
    rattled.rattle(0.05, seed=1)
    write(tmp_path / "rattled.vasp", rattled)
    job = settings(structure=tmp_path / "rattled.vasp", potential="emt", relax="none")
    with pytest.raises(InputError, match="not at a minimum"):
        run(job, StressEMT())
    assert not job.out.exists()


def test_nothing_is_half_written_after_an_error(settings, monkeypatch):
    job = settings()
    with pytest.raises(EvaluationError, match="not finite"):
        run(job, FailsWhenDisplaced())
    assert not job.out.exists()

    def full_disk(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr("nemp_sim.workflows.phonons.write_report", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run(job, StressEMT())
    assert not job.out.exists()


def test_an_older_result_is_replaced_and_survives_an_error(settings):
    job = settings()
    directory = run(replace(job, gruneisen=True), StressEMT()).directory
    (directory / "mine.txt").touch()
    assert (directory / "gruneisen.pdf").exists()
    assert run(job, StressEMT()).directory == directory
    assert {p.name for p in directory.iterdir()} == WRITTEN | {"mine.txt"}
    before = (directory / "report.json").read_bytes()
    with pytest.raises(EvaluationError):
        run(job, FailsWhenDisplaced())
    assert (directory / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structure": "Xy", "potential": "p.pt"}, "neither built in"),
        (
            {"structure": "cu.vasp"},
            "only Pd, Ag, PdH, PdD, AgPd, ice-Ih, h-pd111, co-pd111, methanol have a",
        ),
        ({"relax": "volume"}, "relax is 'volume', but must be one of auto, cell"),
        ({"mesh": (4, 4)}, "mesh is"),
        ({"fmax": 0.0}, "fmax is 0.0"),
        ({"name": "a/b"}, "without '/'"),
        ({"supercell": (0, 1, 1)}, "supercell is"),
    ],
)
def test_bad_settings_are_refused(settings, changes, message):
    with pytest.raises(InputError, match=message):
        run(settings(**changes), StressEMT())


def test_missing_potential(settings):
    with pytest.raises(PotentialFileError):
        run(settings(potential="absent.pt"))


def test_command_line(pdh, tmp_path):
    options = ("--potential", pdh, "--supercell", "2 2 2", "--mesh", "4,4,4", "--out", tmp_path)
    result = invoke(*options, "--name", "test", "--device", "cpu")
    assert result.exit_code == 2 and "the supercell is too small" in result.output
    assert "or allow it with --small-supercell" in result.output
    assert not (tmp_path / "phonons-test").exists()
    result = invoke(*options, "--name", "test", "--device", "cpu", "--small-supercell")
    assert result.exit_code == 0, result.output
    assert "Stable" in result.output and "SMALL: half its shortest" in result.output
    assert {p.name for p in (tmp_path / "phonons-test").iterdir()} == WRITTEN


def test_command_line_errors(tmp_path):
    result = invoke("--supercell", "two", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "error: supercell is 'two'" in result.output
    result = invoke("--structure", tmp_path / "none.cif", "--potential", "pdh.pt")
    assert result.exit_code == 2 and "nor a file" in result.output
    assert not (tmp_path / "out").exists()


# --- further analyses


def test_volumes_sweep_and_dynamics(settings):
    analyses = {"gruneisen": True, "qha": True, "volumes": 5, "converge": True, "md": 50.0}
    short = {"md_ps": 0.5, "md_replicas": 2, "sweep_radii": (2.5, 3.8), "t_max": 300.0}
    said = []
    result = run(settings(**analyses, **short), StressEMT(), said.append)
    assert {p.name for p in result.directory.iterdir()} == set(result.report.files)
    assert {"gruneisen.yaml", "qha.png", "convergence.md", "dynamics.png"} <= set(
        result.report.files
    )
    assert {"gruneisen", "qha", "convergence", "dynamics", "effective"} <= set(result.extras)
    assert result.extras["qha"].temperatures_K[-1] == 300.0
    values = json.loads((result.directory / "report.json").read_text(encoding="utf-8"))
    assert len(values["qha"]["volumes_A3"]) == 4 and len(values["sweep"]) == 8
    assert values["md_residual"] < 0.3
    assert values["md_mean_THz"] == pytest.approx(values["harmonic_mean_THz"], rel=0.15)
    table = (result.directory / "convergence.md").read_text(encoding="utf-8")
    assert table.count("\n| ") == 1 + 8 and "| 27 | 3 0 0 0 3 0 0 0 3 |" in table
    assert said[0] == "relaxing" and any(text.startswith("dynamics: step 2") for text in said)
    assert said[-1] == "writing files"


def test_saddles_are_followed_down(settings, tmp_path):
    write(tmp_path / "bcc.vasp", bulk("Cu", "bcc", a=2.86))
    job = settings(structure=tmp_path / "bcc.vasp", potential="emt")
    result = run(replace(job, supercell=(4, 4, 4), follow_imaginary=True), StressEMT())
    assert not result.spectra.unstable and len(result.atoms) == 2
    first = next(note for note in result.report.notes if note.startswith("Round 1: followed q"))
    assert "0.5" in first and "band 0: 1.1" in first  # one of the six N points


def test_adsorbate(settings, tmp_path):
    slab = fcc111("Cu", (1, 1, 3), a=3.59, vacuum=6.0)
    add_adsorbate(slab, "O", 1.2, "fcc")
    write(tmp_path / "o.traj", slab)
    changes = {"supercell": (2, 2, 1), "mesh": (4, 4, 1), "potential": "emt"}
    result = run(settings(structure=tmp_path / "o.traj", **changes), StressEMT())
    assert result.extras["modes"].symbols == ("O",)
    assert {"adsorbate_modes.extxyz", "layers.png"} <= set(result.report.files)
    values = json.loads((result.directory / "report.json").read_text(encoding="utf-8"))
    assert set(values["layers_dos"]) == {
        *("frequencies_THz", "adsorbate", "layer 1", "layer 2", "layer 3")
    }
    assert values["zero_point_adsorbate_eV"] > 0.03
    frames = read(result.directory / "adsorbate_modes.extxyz", ":")
    assert len(frames) == 3 and np.abs(frames[0].arrays["mode"][:3]).max() == 0
    with pytest.raises(InputError, match="its volume means nothing"):
        run(settings(structure=tmp_path / "o.traj", **changes, gruneisen=True), StressEMT())


def test_molecule(settings):
    job = settings(structure="H2O", potential="emt", isotopes="H=2.014", supercell=None)
    result = run(job, StressEMT())
    written = {p.name for p in result.directory.iterdir()}
    assert written == {*FORCE_FILES, "structure.extxyz", *RUN_FILES} | {
        *("molecule_modes.extxyz", "modes.png", "modes.pdf")
    }
    assert result.spectra is None and len(result.extras["modes"].frequencies_THz) == 3
    light = run(replace(job, isotopes=None), StressEMT()).extras["modes"]
    ratio = light.frequencies_THz[-1] / result.extras["modes"].frequencies_THz[-1]
    assert 1.3 < ratio < 2**0.5
    with pytest.raises(InputError, match="qha is wanted, but H2O is a molecule"):
        run(replace(job, qha=True), StressEMT())
    with pytest.raises(InputError, match="follow_imaginary is for crystals and slabs"):
        run(replace(job, follow_imaginary=True), StressEMT())


def test_methanol(shipped_methanol, tmp_path):
    """Gas-phase fundamentals of CH3OH: O–H stretch 3681, C–O stretch 1034 cm⁻¹ (NIST)."""
    result = run(Settings(structure="methanol", out=tmp_path, device="cpu"))
    wavenumbers = result.extras["modes"].wavenumbers_per_cm
    assert len(wavenumbers) == 12 and not result.extras["modes"].n_imaginary
    assert wavenumbers[-1] == pytest.approx(3681, rel=0.03)
    assert np.abs(wavenumbers - 1034).min() < 30
    error = next(q.value for q in result.report.quantities if q.key == "float32_frequency_THz")
    assert 0 < error < 0.05
