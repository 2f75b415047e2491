"""Structures relaxed to their minima: all frames of a file side by side, constraints respected.

Without options: H on Pd(111). Your own, from any file that ASE reads: nemp relax --structures
start.xyz --potential my.pt, with --cell for crystals.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import GPa
from matplotlib.figure import Figure

from nemp_sim.command import workflow_app
from nemp_sim.config import require, require_plain_name
from nemp_sim.console import Show, logged
from nemp_sim.errors import InputError, NempError
from nemp_sim.files import read_structures, write_structures
from nemp_sim.locks import alone
from nemp_sim.minimum import SMAX_GPA, StressEngine, relax_crystals
from nemp_sim.plots import BLUE, FONT_POINTS, GREY, new_figure, save_figure
from nemp_sim.relax import OPTIMIZERS, KeptStep, Step, largest_force, relax
from nemp_sim.report import Quantity, Report, write_report
from nemp_sim.start_check import check_start
from nemp_sim.surfaces.slabs import freeze_lowest_layers
from nemp_sim.systems import SYSTEMS, read_system
from nemp_sim.workflow import WithSystem, WorkflowResult, ended, engine_of

LATTICE_EPS = 1e-4  # of the lengths: what is left by a relaxation


@dataclass(frozen=True)
class Settings(WithSystem):
    """Everything that fixes a run.

    Attributes:
        structures: name of a built-in structure or a file, all its frames.
        cell: relax the cell of crystals too; holds no atom.
        fmax: largest force left on a free atom, eV/Å.
        smax: largest stress component left, with ``cell``, GPa.
        steps: most optimiser steps.
        optimizer: "lbfgs" or "fire", without ``cell``.
        fixed_layers: lowest layers held where a structure holds no constraints.
        potential: path or name of a potential; None: that of the built-in structure.
        head: read-out of the potential; None: that of the built-in structure, or the only one.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32" or "float64"; None: that of the potential.
        on_extrapolation: outside the domain of the potential: "warn", "raise" or "ignore".
        out: directory of all results.
        name: the results go to ``out``/relax-``name``; None: made from the structures.
    """

    system_field = "structures"
    structures: str = "h-pd111"
    cell: bool = False
    fmax: float = 0.01
    smax: float = SMAX_GPA
    steps: int = 500
    optimizer: str = "lbfgs"
    fixed_layers: int = 0
    potential: str | None = None
    head: str | None = None
    device: str = "auto"
    dtype: str | None = None
    on_extrapolation: str = "warn"
    out: Path = Path("results")
    name: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without files."""
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "structures", str(self.structures))
        for name in ("fmax", "smax"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        require(self.steps >= 1, "steps", self.steps, "1 or more")
        known = self.optimizer in OPTIMIZERS
        require(known, "optimizer", self.optimizer, f"one of {', '.join(OPTIMIZERS)}")
        require(self.fixed_layers >= 0, "fixed_layers", self.fixed_layers, "0 or more")
        require_plain_name(self.name)
        self.potential_and_head()

    def plan(self) -> str:
        """What a run would do, in words."""
        what = "positions and cells" if self.cell else "positions"
        formulas = ", ".join(atoms.get_chemical_formula() for atoms in prepare(self))
        potential, _ = self.potential_and_head()
        return f"Relax {what} of {formulas} with {potential}, at most {self.steps} steps."

    @property
    def directory(self) -> Path:
        """Where the results go."""
        return self.out / f"relax-{self.name or Path(self.structures).stem}"


@dataclass(frozen=True)
class Result(WorkflowResult[Settings]):
    """Outcome of a run, besides its settings, directory and report.

    Attributes:
        structures: relaxed, with energy and forces attached, in the order given.
        converged: whether all of them did.
    """

    structures: tuple[Atoms, ...]
    converged: bool

    @property
    def trusted(self) -> bool:
        """Whether all converged."""
        return self.converged


@logged
@alone
def run(settings: Settings, engine: StressEngine | None = None, show: Show | None = None) -> Result:
    """Relax all structures in one batch, write the files.

    Args:
        settings: what to do.
        engine: evaluates the structures; None loads the potential.
        show: called after each optimiser step.

    Raises:
        PotentialFileError: no such potential.
        InputError: structures that cannot be used, or an element that the potential does not know.
        EvaluationError: results that are not finite; the last complete step is kept.
    """
    started = time.perf_counter()
    start = prepare(settings)
    engine = engine_of(engine, settings, *settings.potential_and_head())
    check_start(engine, {f"structure {k}": atoms for k, atoms in enumerate(start)})
    forces: list[list[float]] = []

    def keep(step: Step) -> None:
        forces.append([largest_force(atoms.get_forces()) for atoms in step.images])
        if show is not None:
            show(step)

    settings.directory.mkdir(parents=True, exist_ok=True)
    unfinished = settings.directory / "broken-off.extxyz"
    kept = KeptStep(keep)
    try:
        relaxed, converged = _relaxed(settings, engine, start, kept)
    except (NempError, KeyboardInterrupt):
        if kept.step:
            write_structures(unfinished, kept.step.images)
        raise
    report = _report(settings, start, relaxed, converged, len(forces) - 1)
    report = ended(report, engine, settings, started, relaxed)
    write_structures(settings.directory / "relaxed.extxyz", relaxed)
    save_figure(forces_figure(np.array(forces), settings.fmax), settings.directory / "forces.png")
    write_report(report, settings.directory)
    unfinished.unlink(missing_ok=True)
    return Result(settings, report, relaxed, all(converged))


def prepare(settings: Settings) -> list[Atoms]:
    """The structures, with their lowest layers held where that is wanted.

    Raises:
        InputError: an unreadable file, no such layers, or a cell that cannot be relaxed.
    """
    if settings.structures in SYSTEMS or not Path(settings.structures).is_file():
        found = [read_system(settings.structures, argument="structures")]
    else:
        found = read_structures(settings.structures, "structures")
    if settings.cell:
        for number, atoms in enumerate(found):
            if not atoms.pbc.all() or atoms.constraints or settings.fixed_layers:
                raise InputError(
                    f"cell is wanted, but structure {number} ({atoms.get_chemical_formula()}) is "
                    "not periodic along all axes, or atoms of it are held. Leave --cell out."
                )
    layers = settings.fixed_layers
    return [freeze_lowest_layers(a, layers) if layers and not a.constraints else a for a in found]


def forces_figure(forces_eV_per_A: np.ndarray, wanted_eV_per_A: float) -> Figure:
    """Largest force of each structure at each step, (steps, B), and the one that is wanted."""
    figure, axes = new_figure()
    axes.plot(forces_eV_per_A, color=BLUE, linewidth=1.2, alpha=0.8)
    axes.axhline(wanted_eV_per_A, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_yscale("log")
    axes.set_xlim(0, max(len(forces_eV_per_A) - 1, 1))
    axes.set_xlabel("Optimiser step", fontsize=FONT_POINTS)
    axes.set_ylabel("Largest force on an atom (eV/Å)", fontsize=FONT_POINTS)
    return figure


def _relaxed(
    settings: Settings, engine: StressEngine, start: list[Atoms], kept: KeptStep
) -> tuple[tuple[Atoms, ...], list[bool]]:
    """The structures at the end, and whether each converged."""
    if settings.cell:
        limits = settings.fmax, settings.smax, settings.steps
        found = relax_crystals(engine, start, *limits, on_step=kept)
        return tuple(f.atoms for f in found), [f.converged for f in found]
    done = relax(engine, start, settings.fmax, settings.steps, kept, settings.optimizer)
    return done.structures, [bool(f <= settings.fmax) for f in done.fmax_each_eV_per_A]


def _lattice(atoms: Atoms) -> str:
    """Bravais lattice with the constants of its conventional cell, Å and degrees."""
    found = atoms.cell.get_bravais_lattice(eps=LATTICE_EPS)
    return f"{found.name} " + ", ".join(f"{name} = {v:.4f}" for name, v in found.vars().items())


def _report(
    settings: Settings,
    start: list[Atoms],
    relaxed: tuple[Atoms, ...],
    converged: list[bool],
    steps: int,
) -> Report:
    lines = [
        "| structure | energy eV | largest force eV/Å | moved Å | volume Å³ | lattice, Å | "
        "largest stress GPa | converged |"
    ]
    lines.append("|---|---:|---:|---:|---:|---|---:|---|")
    rows = []
    for number, (before, after, done) in enumerate(zip(start, relaxed, converged, strict=True)):
        moved = np.linalg.norm(after.positions - before.positions, axis=1).max()
        row = {
            "formula": after.get_chemical_formula(),
            "energy_eV": after.get_potential_energy(),
            "fmax_eV_per_A": largest_force(after.get_forces()),
            "moved_A": float(moved),
            "volume_A3": float(after.get_volume()) if after.pbc.all() else None,
            "lattice": _lattice(after) if after.pbc.all() else None,
            "smax_GPa": float(np.abs(after.get_stress()).max() / GPa) if settings.cell else None,
            "converged": done,
        }
        rows.append(row)
        volume = "—" if row["volume_A3"] is None else f"{row['volume_A3']:.3f}"
        stress = "—" if row["smax_GPa"] is None else f"{row['smax_GPa']:.3f}"
        values = f"{row['energy_eV']:.4f} | {row['fmax_eV_per_A']:.4f} | {moved:.3f} | {volume}"
        values += f" | {row['lattice'] or '—'} | {stress}"
        lines.append(f"| {number} {row['formula']} | {values} | {'yes' if done else 'NO'} |")
    lost = [str(number) for number, done in enumerate(converged) if not done]
    verdict = f"{len(rows)} relaxed in {steps} steps, largest force {settings.fmax:g} eV/Å."
    if lost:
        verdict = (
            f"NOT CONVERGED: structure {', '.join(lost)} after {steps} steps. More --steps, or "
            "--optimizer fire."
        )
    what = "positions and cell" if settings.cell else "positions"
    smax = "Largest stress component wanted", settings.smax, "GPa", 4
    return Report(
        title=f"Relaxation of {what}: {settings.structures}",
        verdict=verdict,
        quantities=(
            Quantity("converged", "Converged", not lost),
            Quantity("n_structures", "Structures", len(rows)),
            Quantity("optimizer_steps", "Optimiser steps", steps),
            Quantity("fmax_wanted_eV_per_A", "Largest force wanted", settings.fmax, "eV/Å", 4),
            *([Quantity("smax_wanted_GPa", *smax)] if settings.cell else []),
        ),
        files={
            "relaxed.extxyz": "the structures with energies (eV) and forces (eV/Å)",
            "forces.png": "largest force of each structure at each step",
        },
        sections={"Structures": "\n".join(lines)},
        data={"structures": rows},
    )


app = workflow_app(Settings, run, sections=("Structures",))
