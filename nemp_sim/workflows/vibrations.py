"""Vibrations of a molecule, or of an adsorbate on its slab: modes, zero-point and free energies.

Without options: H on Pd(111). Your own, from any file that ASE reads: nemp vibrations --structure
co.traj --vibrating 12,13 --potential my.pt
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms

from nemp_sim.command import workflow_app
from nemp_sim.config import require, require_plain_name
from nemp_sim.console import Show, logged
from nemp_sim.errors import InputError
from nemp_sim.files import write_structures
from nemp_sim.locks import alone
from nemp_sim.mode_files import conditions, mode_table, remarks, write_modes
from nemp_sim.phonons.extra_plots import modes_of_molecule
from nemp_sim.phonons.isotopes import with_isotopes
from nemp_sim.plots import SUBSCRIPTS, save_figure
from nemp_sim.reactions.kinetics import harmonic_free_energy_eV
from nemp_sim.relax import Engine, largest_force, relax
from nemp_sim.report import Quantity, Report, decimals, write_report
from nemp_sim.start_check import check_start
from nemp_sim.surfaces.slabs import vacuum_words
from nemp_sim.systems import read_system, systems_of
from nemp_sim.vibrations import METHODS, Vibrations, check_chosen, vibrations
from nemp_sim.workflow import WithSystem, WorkflowResult, ended, engine_of

BUILT_IN = systems_of("slab", "molecule")


@dataclass(frozen=True)
class Settings(WithSystem):
    """Everything that fixes a run.

    Attributes:
        structure: h-pd111, co-pd111, methanol or H2O (gas), or a file (its last frame).
        vibrating: numbers of the atoms that vibrate, from 0; None: all that are free.
        fixed_layers: lowest layers held where the structure holds no constraints; None: two of
            built-in slabs, none in files.
        isotopes: masses in amu, as in "H=2.014"; None: natural ones, or those of the file.
        relax: relax first; a structure that is not relaxed must be at its minimum.
        fmax: largest force on a free atom, eV/Å.
        steps: most optimiser steps.
        method: "analytic", "differences" or "auto": analytic where the potential can.
        displacement: displacement of the differences, Å.
        temperature: temperature of the free energy, K.
        potential: path or name of a potential; None: that of the built-in structure.
        head: read-out of the potential; None: that of the built-in structure, or the only one.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32" or "float64"; second derivatives want float64.
        on_extrapolation: outside the domain of the potential: "warn", "raise" or "ignore".
        out: directory of all results.
        name: the results go to ``out``/vibrations-``name``; None: made from the structure.
    """

    built_in = BUILT_IN
    structure: str = "h-pd111"
    vibrating: tuple[int, ...] | None = None
    fixed_layers: int | None = None
    isotopes: str | None = None
    relax: bool = True
    fmax: float = 1e-3
    steps: int = 500
    method: str = "auto"
    displacement: float = 0.01
    temperature: float = 300.0
    potential: str | None = None
    head: str | None = None
    device: str = "auto"
    dtype: str | None = "float64"
    on_extrapolation: str = "warn"
    out: Path = Path("results")
    name: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without files."""
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "structure", str(self.structure))
        for name in ("fmax", "displacement", "temperature"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        require(self.steps >= 1, "steps", self.steps, "1 or more")
        require(self.method in METHODS, "method", self.method, f"one of {', '.join(METHODS)}")
        require_plain_name(self.name)
        self.potential_and_head()

    def plan(self) -> str:
        """What a run would do, in words."""
        atoms = prepare(self)
        count = len(check_chosen(atoms, self.vibrating))
        before = "relax, then " if self.relax else ""
        potential, _ = self.potential_and_head()
        return (
            f"{atoms.get_chemical_formula()} with {potential}: {before}the Hessian of {count} of "
            f"{len(atoms)} atoms."
        )

    @property
    def directory(self) -> Path:
        """Where the results go."""
        return self.out / f"vibrations-{self.name or Path(self.structure).stem}"


@dataclass(frozen=True)
class Result(WorkflowResult[Settings]):
    """Outcome of a run, besides its settings, directory and report.

    Attributes:
        found: the modes.
    """

    found: Vibrations

    @property
    def trusted(self) -> bool:
        """Whether no mode is imaginary."""
        return self.found.n_imaginary == 0


@logged
@alone
def run(settings: Settings, engine: Engine | None = None, show: Show | None = None) -> Result:
    """Relax, take the second derivatives, write the modes.

    Args:
        settings: what to do.
        engine: evaluates the structures; None loads the potential.
        show: called after each optimiser step, and with what is being done.

    Raises:
        PotentialFileError: no such potential.
        InputError: a structure that cannot be used or is not at a minimum, or an unknown element.
        EvaluationError: results that are not finite.
    """
    started, show = time.perf_counter(), show or (lambda event: None)
    atoms = prepare(settings)
    check_chosen(atoms, settings.vibrating)
    engine = engine_of(engine, settings, *settings.potential_and_head())
    check_start(engine, {"structure": atoms})
    relaxed = relax(engine, [atoms], settings.fmax, settings.steps * settings.relax, show)
    if not relaxed.converged:
        raise InputError(
            f"structure {atoms.get_chemical_formula()} is not at a minimum: the largest force is "
            f"{relaxed.fmax_eV_per_A:.2g} eV/Å, but must be at most {settings.fmax:.2g} eV/Å. "
            "Relax it (--relax, more --steps), or allow a larger --fmax."
        )
    (atoms,) = relaxed.structures
    show("second derivatives")
    options: dict[str, Any] = {
        "method": settings.method,
        "displacement_angstrom": settings.displacement,
    }
    found = vibrations(engine, atoms, settings.vibrating, **options)
    report = _report(settings, atoms, found)
    report = ended(report, engine, settings, started, [atoms])
    write_structures(settings.directory / "structure.extxyz", atoms)
    write_modes(found, settings.directory / "modes.extxyz")
    label = atoms.get_chemical_formula(mode="metal").translate(SUBSCRIPTS)
    save_figure(modes_of_molecule(found.wavenumbers_cm1, label), settings.directory / "modes.png")
    write_report(report, settings.directory)
    return Result(settings, report, found)


def prepare(settings: Settings) -> Atoms:
    """The structure with its masses and its held layers.

    Raises:
        InputError: neither a name nor a file that can be read; no such layers or isotopes.
    """
    built = BUILT_IN.get(settings.structure)
    held = settings.fixed_layers
    if held is None:
        held = 2 if built and built.kind == "slab" else 0
    atoms = read_system(settings.structure, BUILT_IN, "structure", held)
    return atoms if settings.isotopes is None else with_isotopes(atoms, settings.isotopes)


def _report(settings: Settings, atoms: Atoms, found: Vibrations) -> Report:
    zero, temperature = found.zero_point_energy_eV, settings.temperature
    fmax = largest_force(atoms.get_forces())
    free = harmonic_free_energy_eV(found.real_energies_eV, temperature)
    how = "Positions were relaxed in the given cell" if settings.relax else "Nothing was relaxed"
    space = vacuum_words(atoms)
    notes = [
        f"{how}{f' ({space})' if space else ''}. Modes: {conditions(found)}.",
        *remarks(found, "The structure"),
    ]
    if found.rigid == "molecule":
        notes.append("Translations and rotations are not in the free energy: a molecule alone.")
    elif found.rigid == "crystal":
        notes.append("Translations are not in the free energy: every atom vibrates.")
    verdict = f"{len(found.modes)} modes, zero-point energy {zero:.4f} eV."
    if found.n_imaginary:
        verdict = f"NO MINIMUM: {found.n_imaginary} imaginary of {len(found.modes)} modes."
    return Report(
        title=f"Vibrations: {atoms.get_chemical_formula(mode='metal')} ({settings.structure})",
        verdict=verdict,
        quantities=(
            Quantity(
                "fmax_eV_per_A", "Largest force of the structure", fmax, "eV/Å", decimals(fmax)
            ),
            Quantity("energy_eV", "Potential energy", atoms.get_potential_energy(), "eV", 4),
            Quantity("zero_point_eV", "Zero-point energy", zero, "eV", 4),
            Quantity("vibrational_free_energy_eV", "Free energy of the modes", free, "eV", 4),
            Quantity("temperature_K", "… at", temperature, "K", 1),
            Quantity("n_modes", "Modes", len(found.modes)),
            Quantity("n_imaginary", "Imaginary modes", found.n_imaginary),
            Quantity("n_projected", "Translations and rotations left out", found.n_projected),
            Quantity("n_vibrating", "Atoms that vibrate", len(found.indices)),
            Quantity("method", "Second derivatives", found.method),
        ),
        notes=tuple(notes),
        files={
            "structure.extxyz": "the structure at its minimum",
            "modes.extxyz": "animation of each mode, lowest first: ase gui modes.extxyz",
            "modes.png": "wavenumbers",
        },
        sections={"Modes": mode_table(found)},
        data={
            "wavenumbers_cm1": found.wavenumbers_cm1,
            "energies_of_modes_eV": found.energies_eV,
            "vibrating": found.indices,
        },
    )


app = workflow_app(Settings, run, sections=("Modes",))
