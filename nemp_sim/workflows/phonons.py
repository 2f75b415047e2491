"""Phonons of a crystal, a slab or a molecule: bands, density of states, thermal properties.

Without options: bulk Pd with pdh.pt. Also built in: Ag, PdH, PdD, AgPd, ice-Ih, h-pd111,
co-pd111, methanol, H2O. Your own, from any file that ASE reads: nemp phonons
--structure POSCAR --potential my.pt
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write

from nemp_sim.command import workflow_app
from nemp_sim.config import require, require_plain_name
from nemp_sim.console import Show, logged
from nemp_sim.errors import InputError
from nemp_sim.locks import alone
from nemp_sim.minimum import SMAX_GPA, StressEngine
from nemp_sim.phonons.analyses import Crystal, Wanted, analyse, drawn
from nemp_sim.phonons.extra_plots import modes_of_molecule
from nemp_sim.phonons.files import publishing, write_force_files, write_phonopy_files
from nemp_sim.phonons.follow import descend
from nemp_sim.phonons.force_constants import (
    RADIUS_ANGSTROM,
    ForceConstants,
    build_phonopy,
    force_constants,
    refuse_small,
    remarks,
    supercell_matrix,
)
from nemp_sim.phonons.frequency_std import std_at
from nemp_sim.phonons.gamma import gamma_modes
from nemp_sim.phonons.isotopes import with_isotopes
from nemp_sim.phonons.minimum import RELAX, Limits, to_minimum
from nemp_sim.phonons.parts import Part, gamma_part, with_parts
from nemp_sim.phonons.plots import bands_and_dos, thermal_properties
from nemp_sim.phonons.precision import precision_of
from nemp_sim.phonons.report import lattice_remark, molecule_report, phonon_report
from nemp_sim.phonons.spectra import Spectra, spectra
from nemp_sim.plots import save_figure
from nemp_sim.potential import Potential
from nemp_sim.report import Report, write_report
from nemp_sim.systems import read_system, systems_of
from nemp_sim.workflow import WithSystem, WorkflowResult, ended, engine_of

Say = Callable[[str], None]
BUILT_IN = systems_of("crystal", "slab", "molecule")


@dataclass(frozen=True)
class Settings(WithSystem, Wanted):
    """Everything that fixes a run; ``Wanted`` holds what the analyses need.

    Attributes:
        structure: name of a built-in structure or a file (its last frame).
        potential: path or name of a potential; None: that of the built-in structure.
        head: read-out of the potential; None: that of the built-in structure, or the only one.
        isotopes: masses in amu, as in "H=2.014"; None: natural ones, or those of the file.
        relax: "cell" (positions and cell), "positions", "none", or "auto": that of the built-in
            structure, else the cell of bulk, the positions of slabs and molecules.
        smax: largest stress component allowed after a relaxed cell, GPa.
        supercell: three repeats or nine numbers (a matrix row by row); None: chosen.
        radius: half the shortest lattice vector of a chosen supercell, Å; None: 5.5 Å or the cutoff
            of the potential, whichever is larger.
        small_supercell: allow half the shortest lattice vector to be less than the cutoff.
        follow_imaginary: displace along the softest mode, relax, and try again while unstable.
        mesh: three points of the Γ-centred mesh; None: chosen.
        uncertainty: predicted standard deviations of the frequencies at the named points, at some
            ten times the cost of the force constants; None: where the displaced supercells hold
            1000 atoms or fewer.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32" or "float64"; force constants want float64.
        on_extrapolation: outside the domain of the potential: "warn", "raise" or "ignore".
        out: directory of all results.
        name: the results go to ``out``/phonons-``name``; None: made from the structure.
    """

    built_in = BUILT_IN
    structure: str = "Pd"
    potential: str | None = None
    head: str | None = None
    isotopes: str | None = None
    relax: str = "auto"
    smax: float = SMAX_GPA
    supercell: tuple[int, ...] | None = None
    radius: float | None = None
    small_supercell: bool = False
    follow_imaginary: bool = False
    mesh: tuple[int, ...] | None = None
    uncertainty: bool | None = None
    device: str = "auto"
    dtype: str | None = "float64"
    on_extrapolation: str = "warn"
    out: Path = Path("results")
    name: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without files."""
        super().__post_init__()
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "structure", str(self.structure))
        require(self.smax > 0, "smax", self.smax, "positive")
        require(self.radius is None or self.radius > 0, "radius", self.radius, "positive")
        require(self.relax in RELAX, "relax", self.relax, f"one of {', '.join(RELAX)}")
        if self.supercell is not None:
            supercell_matrix(self.supercell)
        good = self.mesh is None or (len(self.mesh) == 3 and min(self.mesh) >= 1)
        require(good, "mesh", self.mesh, "three whole numbers, 1 or more")
        require_plain_name(self.name)
        self.potential_and_head()

    def plan(self) -> str:
        """What a run would do, in words."""
        analyses = [n for n in ("gruneisen", "qha", "converge", "md") if getattr(self, n)]
        more = f"; also {', '.join(analyses)}" if analyses else ""
        potential, head = self.potential_and_head()
        where = f"{potential}, {head}" if head else potential
        return f"{self.structure} with {where}: relax, displace, force constants, spectra{more}."

    @property
    def directory(self) -> Path:
        """Where the results go."""
        return self.out / f"phonons-{self.name or Path(self.structure).stem}"


@dataclass(frozen=True)
class Result(WorkflowResult[Settings]):
    """Outcome of a run, besides its settings, directory and report.

    Attributes:
        atoms: the structure at its minimum.
        constants: force constants.
        spectra: what follows from them; None for molecules.
        extras: results of the further analyses by name: see ``phonons.analyses.analyse``.
    """

    atoms: Atoms
    constants: ForceConstants
    spectra: Spectra | None
    extras: dict[str, object] = field(default_factory=dict)


@logged
@alone
def run(settings: Settings, engine: StressEngine | None = None, show: Show | None = None) -> Result:
    """Relax, displace, evaluate, write the files: all of them, or none after an error.

    Args:
        settings: what to do.
        engine: evaluates the structures; None loads the potential.
        show: called with what is being done.

    Raises:
        PotentialFileError: no such potential.
        InputError: a structure that cannot be used or is not at a minimum, a supercell that is too
            small or breaks the symmetry, or an element that the potential does not know.
        EvaluationError: forces that are not finite.
    """
    started, say = time.perf_counter(), show or (lambda text: None)
    start = read_system(settings.structure, BUILT_IN, "structure")
    if settings.isotopes is not None:
        start = with_isotopes(start, settings.isotopes)
    built = BUILT_IN.get(settings.structure)
    engine = engine_of(engine, settings, *settings.potential_and_head())
    say("relaxing")
    wanted = built.relax if built and settings.relax == "auto" else settings.relax
    limits = Limits(wanted, settings.fmax, settings.smax, settings.steps)
    minimum = to_minimum(engine, start, limits)
    atoms, notes = minimum.atoms, [*minimum.notes, f"Optimiser steps: {minimum.optimizer_steps}."]
    if built and built.measured_angstrom and wanted in ("auto", "cell"):
        notes.append(lattice_remark(atoms, built.measured_angstrom))
    say("evaluating displaced supercells")
    constants = _constants(settings, engine, atoms)
    if settings.follow_imaginary:
        descent = descend(engine, atoms, constants, limits, settings.displacement, say)
        atoms, constants = descent.atoms, descent.constants
        notes += descent.notes
    outcome = _crystal if constants.periodic.any() else _molecule
    report, parts, found, extras = outcome(settings, engine, atoms, constants, notes, say)
    say("estimating errors")
    points = [[0.0, 0.0, 0.0]] if found is None else np.concatenate(found.raw.bands.qpoints)
    parts.append(precision_of(engine, atoms, constants, settings.displacement, np.array(points)))
    report = with_parts(report, parts)
    report = ended(report, engine, settings, started, [atoms])
    say("writing files")
    with publishing(settings.directory) as directory:
        write(directory / "structure.extxyz", atoms, format="extxyz")
        for part in parts:
            part.write(directory)
        write_report(report, directory)
    return Result(settings, report, atoms, constants, found, extras)


def _constants(settings: Settings, engine: StressEngine, atoms: Atoms) -> ForceConstants:
    """Force constants of the supercell that was given or is large enough."""
    cutoff = getattr(engine, "cutoff_angstrom", None)
    radius = settings.radius or max(RADIUS_ANGSTROM, cutoff or 0.0)
    phonon = build_phonopy(atoms, settings.supercell, settings.primitive, radius)
    if not settings.small_supercell:
        refuse_small(phonon, atoms, cutoff)
    return force_constants(engine, atoms, phonon, settings.displacement)


Outcome = tuple[Report, list[Part], Spectra | None, dict[str, object]]


def _crystal(
    settings: Settings,
    engine: StressEngine,
    atoms: Atoms,
    constants: ForceConstants,
    notes: list[str],
    say: Say,
) -> Outcome:
    """Bands, densities of states, thermal properties, and everything else that is wanted."""
    say("bands and densities of states")
    found = spectra(constants, settings.mesh, settings.temperatures_K())
    notes = [*notes, *remarks(constants, getattr(engine, "cutoff_angstrom", None))]
    title = f"Phonons: {_formula(atoms)} ({settings.structure})"
    say("uncertainties of frequencies")
    how = engine, atoms, constants, settings.displacement, settings.uncertainty
    report = phonon_report(title, atoms, constants, found, notes, std_at(found.bands.points, *how))
    label = f"{_formula(atoms)}, {_name_of(engine)}"

    def write_all(directory: Path) -> None:
        write_phonopy_files(constants, found, directory)
        save_figure(bands_and_dos(found, label), directory / "bands.png")
        figure = thermal_properties(found.thermal, len(constants.phonon.primitive), label)
        save_figure(figure, directory / "thermal.png")

    crystal = Crystal(engine, atoms, constants, found, label)
    parts, extras = analyse(crystal, settings, say)
    return report, [Part(write=write_all), *parts], found, extras


def _molecule(
    settings: Settings,
    engine: StressEngine,
    atoms: Atoms,
    constants: ForceConstants,
    notes: list[str],
    say: Say,
) -> Outcome:
    """Modes at Γ of a molecule in its box."""
    unfit = [name for name in ("gruneisen", "qha", "converge", "md") if getattr(settings, name)]
    if unfit:
        raise InputError(
            f"{unfit[0]} is wanted, but {_formula(atoms)} is a molecule. Leave "
            f"--{unfit[0]} out; it needs a crystal or a slab."
        )
    modes = gamma_modes(constants)
    report = molecule_report(f"Vibrations: {_formula(atoms)} ({settings.structure})", atoms, modes)
    report = replace(report, notes=(*notes, *report.notes))
    label = f"{_formula(atoms)}, {_name_of(engine)}"
    figures = {"modes.png": (modes_of_molecule(modes.wavenumbers_per_cm, label), "wavenumbers")}
    files = Part(write=lambda directory: write_force_files(constants, directory))
    part = drawn(gamma_part(modes, constants, _formula(atoms), "molecule"), figures)
    return report, [files, part], None, {"modes": modes}


def _formula(atoms: Atoms) -> str:
    return atoms.get_chemical_formula(mode="metal", empirical=bool(atoms.pbc.any()))


def _name_of(engine: StressEngine) -> str:
    name = getattr(engine, "name", type(engine).__name__)
    if isinstance(engine, Potential) and len(engine.heads) > 1:
        return f"{name} ({engine.head})"
    return name


app = workflow_app(Settings, run)
