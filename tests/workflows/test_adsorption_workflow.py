import json
from dataclasses import replace

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.optimize import BFGS
from ase.vibrations import Vibrations
from matplotlib.image import imread
from typer.testing import CliRunner

from nemp_sim import load_potential, workflow
from nemp_sim.errors import EvaluationError
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.adsorption import Candidate, outcome
from nemp_sim.surfaces.report import adsorption_report
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.workflows import adsorption
from nemp_sim.workflows.adsorption import Settings, app, run

FILES = [
    *("adsorption.extxyz", "adsorption.pdf", "adsorption.png"),
    *("report.json", "report.md", "run.log", "settings.toml", "sites.pdf", "sites.png"),
]


def relaxed(atoms):
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=0.005)
    return atoms


def test_energies_are_those_of_ase_one_by_one(emt, tmp_path):
    settings = Settings(metal="Pd", adsorbates=("O",), sites=("fcc", "hcp"), zpe=True, out=tmp_path)
    result = run(settings, emt)
    names = sorted(path.name for path in result.directory.iterdir())
    assert names == FILES and result.directory.name == "adsorption-Pd111-O"
    a = np.linalg.norm(result.slab.cell[0]) / np.sqrt(2)
    slab = relaxed(fcc_slab(lattice_constant_angstrom=a))
    gas = {name: relaxed(molecule(name)) for name in ("H2", "H2O")}
    reference = slab.get_potential_energy() + gas["H2O"].get_potential_energy()
    reference -= gas["H2"].get_potential_energy()
    for minimum, energies in result.minima:
        covered = relaxed(place(slab, "O", minimum.starts[0]))
        direct = covered.get_potential_energy() - reference
        assert energies.adsorption_eV == pytest.approx(direct, abs=2e-3)
        modes = []
        for number, atoms in enumerate([covered, gas["H2O"], gas["H2"]]):
            moving = [12] if number == 0 else None
            free = atoms.copy()
            free.set_constraint()
            free.calc = EMT()
            job = Vibrations(free, moving, name=str(tmp_path / f"{minimum.site}{number}"))
            job.run()
            rigid = (0, 6, 5)[number]  # adsorbate, bent, linear
            modes.append(0.5 * job.get_energies().real[rigid:].sum())
        assert energies.zero_point_eV == pytest.approx(modes[0] - modes[1] + modes[2], abs=0.02)
    report = json.loads((result.directory / "report.json").read_text())
    assert report["minima"][0]["adsorption_eV"] == result.minima[0][1].adsorption_eV
    assert report["coverage_ML"] == 0.25
    frames = read(result.directory / "adsorption.extxyz", ":")
    assert len(frames) == 1 + len(result.minima)
    assert imread(result.directory / "adsorption.png").shape[0] > 300


def test_uncertainty_above_the_threshold_is_no_success(random_file, tmp_path):
    options = ["--potential", random_file, "--adsorbates", "H", "--sites", "top"]
    options += ["--lattice-constant", 3.95, "--steps", 1, "--out", tmp_path]
    done = CliRunner().invoke(app, [str(option) for option in options])
    assert done.exit_code == 1 and "NOT CONVERGED: H from top" in done.stdout
    assert (tmp_path / "adsorption-Pd111-H" / "report.md").is_file()


def test_slab_of_a_file(emt, tmp_path):
    slab = fcc_slab(lattice_constant_angstrom=3.9)
    slab.symbols[8] = "Ag"
    write(tmp_path / "mine.extxyz", slab)
    settings = Settings(slab=tmp_path / "mine.extxyz", sites=("fcc",), out=tmp_path, steps=60)
    result = run(settings, emt)
    assert result.directory.name == "adsorption-mine-H"
    assert {m.site for m, _ in result.minima} <= {"fcc", "fcc AgPd2"}
    assert sum(len(m.starts) for m, _ in result.minima) == 2


def test_a_run_that_breaks_off_keeps_its_last_step(emt, tmp_path):
    class Failing:
        calls = 0

        def evaluate(self, structures):
            result = emt.evaluate(structures)
            Failing.calls += len(structures) > 2
            if Failing.calls > 2 and len(structures) != 9:
                result.forces[0][0] = np.nan
            return result

    settings = Settings(sites=("fcc", "hcp", "top"), out=tmp_path, lattice_constant=3.95)
    with pytest.raises(EvaluationError):
        run(settings, Failing())
    assert {p.name for p in settings.directory.iterdir()} == {"broken-off.extxyz", "run.log"}
    log = (settings.directory / "run.log").read_text(encoding="utf-8").splitlines()
    assert "start: Settings(" in log[0] and "relaxation: step 1, largest" in log[2]
    assert "BROKEN OFF: EvaluationError" in log[-1]


def test_what_is_not_bound_has_no_energy_and_is_not_judged(emt, tmp_path, monkeypatch):
    """An atom that left the surface lies outside every domain, and says nothing of the others."""
    real, judged = adsorption.outcome, []

    def outcome(slab, candidate, *rest):
        found = real(slab, candidate, *rest)
        return replace(found, state="desorbed") if found.site == "top" else found

    monkeypatch.setattr(adsorption, "outcome", outcome)
    monkeypatch.setattr(
        workflow, "with_domain", lambda report, engine, final: judged.extend(final) or report
    )
    settings = Settings(sites=("fcc", "top"), subsurface=False, lattice_constant=3.95, out=tmp_path)
    result = run(settings, emt)
    assert [m.state for m, _ in result.minima] == ["adsorbed", "desorbed"]
    assert [len(atoms) for atoms in judged] == [12, 13]
    values = json.loads((result.directory / "report.json").read_text(encoding="utf-8"))["minima"]
    assert values[0]["adsorption_eV"] < 0 and values[1]["adsorption_eV"] is None
    assert "| desorbed | top | — | — | — |" in (result.directory / "report.md").read_text("utf-8")


def test_each_row_says_whether_it_is_inside_the_domain(pdh):
    """Against an evaluation of each structure alone; one H is squeezed into the surface."""
    engine = load_potential(pdh, dtype="float64")
    slab = fcc_slab()
    good = Candidate("H", "fcc", place(slab, "H", "fcc"))
    squeezed = good.atoms.copy()
    squeezed.positions[-1] = slab.positions[-1] + [0.0, 0.0, 0.6]
    structures = [slab, good.atoms, squeezed]
    evaluated = engine.evaluate(structures, uncertainty=True, on_extrapolation="ignore")
    minima = []
    for atoms, energy in zip(structures[1:], evaluated.energy[1:], strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
        minima.append(outcome(slab, good, atoms, True))
    gases = {"H2": molecule("H2")}
    found = adsorption.energies(Settings(), engine, slab, gases, minima)
    assert not found[0].outside and found[1].outside
    assert list(map(str, found[1].outside)) == list(map(str, evaluated.outside[2]))
    report = adsorption_report("H", slab, list(zip(minima, found, strict=True)), 9.0, [])
    rows = report.sections["Minima"].splitlines()[2:]
    assert rows[0].endswith("| inside |") and "| OUTSIDE: Pd11 and H12 are 0.6 Å" in rows[1]
    assert report.data["minima"][1]["domain"].startswith("OUTSIDE")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--metal", "Xx"), "composition is"),
        (("--facet", "211"), "facet is '211'"),
        (("--adsorbates", "N2"), "adsorbates is 'N2', but must be one of H, H2"),
        (("--size", "2 2"), "size is (2, 2)"),
        (("--size", "a b c"), "size is 'a b c', but must be whole numbers"),
        (("--sites", "hollow"), "site is 'hollow'"),
        (("--slab", "none.xyz"), "there is no such file"),
        (("--fmax", "0"), "fmax is 0.0"),
        (("--metal", "Au"), "contains Au"),
        (("--optimizer", "cg"), "optimizer is 'cg'"),
        (("--name", "a/b"), "name is 'a/b'"),
    ],
)
def test_bad_options_end_with_one_clear_line(options, message, random_file, tmp_path):
    always = ["--potential", str(random_file), "--lattice-constant", "3.95", "--steps", "1"]
    if options == ("--metal", "Au"):
        always[2:4] = []
    done = CliRunner().invoke(app, [*always, "--out", str(tmp_path), *options])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1
