import json

import numpy as np
import phonopy
import pytest
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms
from ase.io import read, write
from typer.testing import CliRunner

from nemp_sim.errors import EvaluationError, InputError, PotentialFileError
from nemp_sim.phonon_files import FILES
from tests.engines import StressEMT
from workflows.phonons import Settings, app, run

WRITTEN = {
    *FILES,
    "structure.extxyz",
    *("bands.png", "bands.pdf", "thermal.png", "thermal.pdf", "velocities.png", "velocities.pdf"),
    *("report.json", "report.md"),
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
    assert "translations at Γ" in text and "Frequencies in THz at Γ 0.00 0.00 0.00; X" in text


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

    monkeypatch.setattr("workflows.phonons.write_report", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run(job, StressEMT())
    assert not job.out.exists()


def test_an_older_result_survives_an_error(settings):
    job = settings()
    directory = run(job, StressEMT()).directory
    before = (directory / "report.json").read_bytes()
    with pytest.raises(EvaluationError):
        run(job, FailsWhenDisplaced())
    assert (directory / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structure": "Xy", "potential": "p.pt"}, "neither a built-in one"),
        (
            {"structure": "cu.vasp"},
            "only Pd, Ag, PdH, PdD, AgPd, ice-Ih, CH3OH, H-Pd111 have one of",
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
