"""Phonons of a crystal or a slab: bands, density of states, thermal properties, by phonopy.

Without options: bulk Pd with pdh.pt. Also built in: Ag, PdH, AgPd. Your own, from any file that ASE
reads: python workflows/phonons.py --structure POSCAR --potential my.pt
"""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from ase import Atoms
from ase.build import bulk
from ase.io import write

from nemp_sim.checkpoint import load_potential
from nemp_sim.config import require
from nemp_sim.errors import InputError, NempError
from nemp_sim.files import read_with_ase
from nemp_sim.minimum import (
    FMAX_EV_PER_A,
    SMAX_GPA,
    StressEngine,
    check_minimum,
    relax_crystal,
)
from nemp_sim.phonon_files import publishing, write_phonopy_files
from nemp_sim.phonon_plots import bands_and_dos, save_both, thermal_properties
from nemp_sim.phonon_report import phonon_report
from nemp_sim.phonon_spectra import Spectra, spectra
from nemp_sim.phonons import (
    DISPLACEMENT_ANGSTROM,
    RADIUS_ANGSTROM,
    ForceConstants,
    boxed,
    build_phonopy,
    force_constants,
    periodic_axes,
    remarks,
    supercell_matrix,
)
from nemp_sim.relax import relax
from nemp_sim.report import Report, provenance, write_report

POTENTIALS = {"Pd": "pdh.pt", "PdH": "pdh.pt", "Ag": "agpd.pt", "AgPd": "agpd.pt"}
HEADS = {"Ag": "liquid", "AgPd": "liquid"}  # fitted to displaced atoms: docs/phonons.md
RELAX = ("auto", "cell", "positions", "none")


@dataclass(frozen=True)
class Settings:
    """Everything that fixes a run.

    Attributes:
        structure: name of a built-in crystal (Pd, Ag, PdH, AgPd) or a file (its last frame).
        potential: path or name of a potential; None: that of the built-in crystal.
        head: read-out of the potential; None: that of the built-in crystal, or the first.
        relax: "cell" (positions and cell), "positions", "none", or "auto": the cell of bulk, the
            positions of slabs.
        fmax: largest force allowed on an atom, eV/Å.
        smax: largest stress component allowed after a relaxed cell, GPa.
        steps: most optimiser steps.
        supercell: three repeats or nine numbers (a matrix row by row); None: chosen.
        radius: half the shortest lattice vector of a chosen supercell, Å.
        displacement: of the atoms, Å.
        primitive: "auto" or "P"; None: "auto" for bulk, "P" for slabs.
        mesh: three points of the Γ-centred mesh; None: chosen.
        t_max: highest temperature, K.
        t_step: between temperatures, K.
        device: "auto", "cpu", "cuda" …
        dtype: "float32" or "float64"; force constants want float64.
        out: directory of all results.
        name: the results go to ``out``/phonons-``name``; None makes one from the structure.
    """

    structure: str = "Pd"
    potential: str | None = None
    head: str | None = None
    relax: str = "auto"
    fmax: float = FMAX_EV_PER_A
    smax: float = SMAX_GPA
    steps: int = 500
    supercell: tuple[int, ...] | None = None
    radius: float = RADIUS_ANGSTROM
    displacement: float = DISPLACEMENT_ANGSTROM
    primitive: str | None = None
    mesh: tuple[int, ...] | None = None
    t_max: float = 1000.0
    t_step: float = 10.0
    device: str = "auto"
    dtype: str | None = "float64"
    out: Path = Path("results")
    name: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without files."""
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "structure", str(self.structure))
        for name in ("fmax", "smax", "radius", "displacement", "t_step"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        require(self.t_max >= 0, "t_max", self.t_max, "0 K or above")
        require(self.steps >= 1, "steps", self.steps, "1 or more")
        require(self.relax in RELAX, "relax", self.relax, f"one of {', '.join(RELAX)}")
        if self.supercell is not None:
            supercell_matrix(self.supercell)
        good = self.mesh is None or (len(self.mesh) == 3 and min(self.mesh) >= 1)
        require(good, "mesh", self.mesh, "three whole numbers, 1 or more")
        plain = self.name is None or (self.name and Path(self.name).name == self.name)
        require(bool(plain), "name", self.name, "a plain name, without '/'")
        if self.structure not in POTENTIALS and self.potential is None:
            raise InputError(
                f"structure is {self.structure!r} and potential is not given, but only "
                f"{', '.join(POTENTIALS)} have one of their own. Give --potential."
            )

    @property
    def directory(self) -> Path:
        """Where the results go."""
        return self.out / f"phonons-{self.name or Path(self.structure).stem}"


@dataclass(frozen=True)
class Result:
    """Outcome of a run.

    Attributes:
        settings: the settings of the run.
        directory: where its files are.
        atoms: the structure at its minimum.
        constants: force constants.
        spectra: what follows from them.
        report: what report.json and report.md hold.
    """

    settings: Settings
    directory: Path
    atoms: Atoms
    constants: ForceConstants
    spectra: Spectra
    report: Report


def run(settings: Settings, engine: StressEngine | None = None) -> Result:
    """Relax, displace, evaluate, write the files: all of them, or none after an error.

    Args:
        settings: what to do.
        engine: evaluates the structures; None loads the potential.

    Raises:
        PotentialFileError: no such potential.
        InputError: a structure that cannot be used or is not at a minimum, or an element that the
            potential does not know.
        EvaluationError: forces that are not finite.
    """
    started = time.perf_counter()
    start = read_structure(settings.structure)
    if engine is None:
        name, head = settings.potential, settings.head
        if name is None:
            name, head = POTENTIALS[settings.structure], head or HEADS.get(settings.structure)
        engine = load_potential(name, settings.device, settings.dtype, head)
    atoms, notes, steps = minimise(settings, engine, start)
    supercell = settings.supercell
    phonon = build_phonopy(atoms, supercell, settings.primitive, settings.radius)
    constants = force_constants(engine, atoms, phonon, settings.displacement)
    temperatures = np.arange(0.0, settings.t_max + 0.5 * settings.t_step, settings.t_step)
    found = spectra(constants, settings.mesh, temperatures)
    notes += remarks(constants, getattr(engine, "cutoff_angstrom", None))
    title = f"Phonons: {_formula(atoms)} ({settings.structure})"
    report = phonon_report(title, atoms, constants, found, (*notes, f"Optimiser steps: {steps}."))
    report = replace(report, provenance=provenance(engine, settings, time.perf_counter() - started))
    with publishing(settings.directory) as directory:
        write_phonopy_files(constants, found, directory)
        write(directory / "structure.extxyz", atoms, format="extxyz")
        label = f"{_formula(atoms)}, {_potential_name(report)}"
        save_both(bands_and_dos(found, label), directory / "bands.png")
        n_atoms = len(phonon.primitive)
        figure = thermal_properties(found.thermal, n_atoms, label)
        save_both(figure, directory / "thermal.png")
        write_report(report, directory)
    return Result(settings, settings.directory, atoms, constants, found, report)


def read_structure(structure: str) -> Atoms:
    """A built-in crystal by its name, or the last frame of a file.

    Pd and Ag are fcc, PdH has the structure of rock salt (H in every octahedral hole), AgPd is
    L1₁: layers of Ag and Pd in turn along [111]. Lattice constants are starting values.

    Raises:
        InputError: neither a name nor a file that can be read.
    """
    if structure in ("Pd", "Ag"):
        return bulk(structure, "fcc", a={"Pd": 3.95, "Ag": 4.15}[structure])
    if structure == "PdH":
        return bulk("PdH", "rocksalt", a=4.09)
    if structure == "AgPd":
        cell = 4.04 * (np.full((3, 3), 0.5) + 0.5 * np.eye(3))
        return Atoms("AgPd", scaled_positions=[[0, 0, 0], [0.5] * 3], cell=cell, pbc=True)
    path = Path(structure)
    if not path.is_file():
        raise InputError(
            f"structure is {structure!r}, but that is neither a built-in crystal "
            f"({', '.join(POTENTIALS)}) nor a file. Check the path."
        )
    return read_with_ase(path, "structure")


def minimise(
    settings: Settings, engine: StressEngine, start: Atoms
) -> tuple[Atoms, list[str], int]:
    """The structure at its minimum, what was done to get there, and the optimiser steps.

    Raises:
        InputError: not at a minimum afterwards, or a cell that cannot be relaxed.
    """
    atoms = boxed(start)
    is_bulk = bool(periodic_axes(atoms).all())
    wanted = settings.relax
    if wanted == "auto":
        wanted = "cell" if is_bulk else "positions"
    if wanted == "cell" and not is_bulk:
        raise InputError(
            "relax is 'cell', but the structure has vacuum along a cell vector. Use --relax "
            "positions for slabs."
        )
    steps = 0
    if wanted == "cell":
        relaxed = relax_crystal(engine, atoms, settings.fmax, settings.smax, settings.steps)
        atoms, steps = relaxed.atoms, relaxed.optimizer_steps
    elif wanted == "positions":
        together = relax(engine, [atoms], settings.fmax, settings.steps)
        atoms, steps = together.structures[0], together.optimizer_steps
    limit = settings.smax if wanted == "cell" else np.inf if is_bulk else None
    _, smax = check_minimum(engine, atoms, settings.fmax, limit)
    done = {
        "cell": "Positions and cell were relaxed.",
        "positions": "Positions were relaxed in the given cell.",
        "none": "Nothing was relaxed: cell and positions are as given.",
    }
    notes = [done[wanted]]
    if is_bulk and smax > settings.smax:
        notes.append(f"The cell is under stress: largest component {smax:.2f} GPa.")
    if start.constraints:
        notes.append("Constraints of the file were not used: every atom vibrates.")
    return atoms, notes, steps


def _formula(atoms: Atoms) -> str:
    return atoms.get_chemical_formula(mode="metal", empirical=True)


def _potential_name(report: Report) -> str:
    potential = report.provenance["potential"]
    several = potential["head"] not in ("", "default")
    return potential["name"] + (f" ({potential['head']})" if several else "")


def _numbers(name: str, text: str | None) -> tuple[int, ...] | None:
    """Whole numbers of an option such as "4 4 4" or "4,4,4"."""
    if text is None:
        return None
    try:
        return tuple(int(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise InputError(
            f"{name} is {text!r}, but must be whole numbers, as in --{name} '4 4 4'."
        ) from None


DEFAULT = Settings()
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(  # noqa: PLR0913 (one argument for each option)
    structure: Annotated[str, typer.Option(help="Pd, Ag, PdH, AgPd or a file.")] = "Pd",
    potential: Annotated[str | None, typer.Option(help="Path or name.")] = None,
    head: Annotated[str | None, typer.Option(help="Read-out of the potential.")] = None,
    relax: Annotated[str, typer.Option(help="auto, cell, positions or none.")] = DEFAULT.relax,
    fmax: Annotated[float, typer.Option(help="Largest force left, eV/Å.")] = DEFAULT.fmax,
    smax: Annotated[float, typer.Option(help="Largest stress left, GPa.")] = DEFAULT.smax,
    steps: Annotated[int, typer.Option(help="Most optimiser steps.")] = DEFAULT.steps,
    supercell: Annotated[str | None, typer.Option(help="3 repeats or 9 numbers.")] = None,
    radius: Annotated[float, typer.Option(help="Sets a supercell, Å.")] = DEFAULT.radius,
    displacement: Annotated[float, typer.Option(help="Å.")] = DEFAULT.displacement,
    primitive: Annotated[str | None, typer.Option(help="auto or P.")] = None,
    mesh: Annotated[str | None, typer.Option(help="3 points of the mesh.")] = None,
    t_max: Annotated[float, typer.Option(help="Highest temperature, K.")] = DEFAULT.t_max,
    t_step: Annotated[float, typer.Option(help="Temperature step, K.")] = DEFAULT.t_step,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda …")] = DEFAULT.device,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float64",
    out: Annotated[Path, typer.Option(help="Directory of all results.")] = DEFAULT.out,
    name: Annotated[str | None, typer.Option(help="Results go to OUT/phonons-NAME.")] = None,
) -> None:
    """Read the options, run, and say how it went: exit code 0, or 2 (error)."""
    options = dict(locals())
    try:
        for option in ("supercell", "mesh"):
            options[option] = _numbers(option, options[option])
        result = run(Settings(**options))
    except (NempError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    print(f"{result.report.title}\n{result.report.verdict}")
    for note in result.report.notes:
        print(f"- {note}")
    print(f"files in {result.directory}/")


if __name__ == "__main__":
    app()
