"""Quantum averages of atoms by path-integral molecular dynamics: i-PI moves, NEMP computes.

Without options: H on Pd(111) at 300 K with 16 beads. One bead is classical dynamics; several
numbers (--beads 1,4,16) show the convergence. --isotope H,D adds the free energy of the heavier
isotope. Stopped with Ctrl-C, the same command goes on; with more --steps it makes a run longer.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import kB

from nemp_sim.command import workflow_app
from nemp_sim.config import require, require_plain_name
from nemp_sim.console import Show, logged
from nemp_sim.ipi.client import BeadEngine
from nemp_sim.locks import alone, clear
from nemp_sim.pathintegral.averages import (
    Thermodynamics,
    isotope_free_energy,
    isotope_masses,
    thermodynamics,
)
from nemp_sim.pathintegral.dynamics import FEWEST_FRAMES, CentroidDynamics, centroid_dynamics
from nemp_sim.pathintegral.forces import CheapForce
from nemp_sim.pathintegral.input import (
    ISOTOPES,
    Dynamics,
    Start,
    check_sampling,
    prepare_start,
)
from nemp_sim.pathintegral.momentum import Momentum, check_momentum, momentum_distribution
from nemp_sim.pathintegral.processes import Helper
from nemp_sim.pathintegral.report import Findings, IsotopeChange, pimd_report, write_findings
from nemp_sim.pathintegral.run import load_clients, simulate
from nemp_sim.pathintegral.structure import Structure, structure_averages
from nemp_sim.report import write_report
from nemp_sim.start_check import check_start
from nemp_sim.starts import start_structure
from nemp_sim.structures import with_mass
from nemp_sim.systems import read_system, systems_of
from nemp_sim.workflow import WithSystem, WorkflowResult, ended

BUILT_IN = systems_of("slab", "molecule", "liquid")  # crystals are cells of too few atoms


@dataclass(frozen=True)
class Settings(WithSystem):
    """Everything that fixes a run.

    Attributes:
        system: h-pd111, co-pd111, methanol or H2O (gas), water (64 molecules), or a file (its last
            frame).
        potential: path or name of a potential; None: that of the built-in system.
        head: read-out of the potential; None: that of the built-in system, or the only one.
        beads: numbers of beads; 1 is classical dynamics.
        temperature: temperature, K.
        steps: time steps of each run, equilibration included.
        equilibration: first steps, left out of the averages.
        timestep: time step, fs.
        ensemble: one of nvt, npt, nve (ring-polymer dynamics), trpmd or sc (Suzuki–Chin).
        thermostat: one of pile_l, pile_g, langevin, svr, gle, nm_gle (PIGLET) or nm_gle_g.
        tau: time constant of the thermostat, fs.
        gle_file: matrices of a coloured-noise thermostat.
        pressure: pressure of npt, MPa.
        isotope: mass of all hydrogen atoms: H, D or T, or two of them for the free energy between
            them; None: as given.
        cheap: path or name of a second, faster potential, which takes ``inner_steps`` steps in
            every step of the first (multiple time stepping); ``timestep`` is that of the first.
        inner_steps: steps of the cheap potential in one of the first.
        full_beads: beads of the first potential (ring-polymer contraction); None: all.
        momentum: species (H, D, O …) whose momentum distribution is wanted; None: none.
        momentum_frames: frames of the simulation used for it.
        spectrum: steps of TRPMD that go on from the last ring of nvt with the most beads, for the
            vibrational spectrum of the centroids; 0: none.
        every: steps between two lines of properties.
        frames_every: steps between two frames.
        heat_capacity: also the heat capacity; two more evaluations of all beads a line.
        fixed_layers: lowest layers held where the structure holds no constraints; None: one in
            built-in slabs, none in files.
        seed: seed of the random numbers.
        device: "auto", "cpu", "cuda" …; several, one client each.
        dtype: "float32" or "float64"; None: that of the potential.
        mode: "unix" socket or shared memory, "shm".
        fresh: discard an older run in the same directory.
        on_extrapolation: outside the domain of the potential: "warn", "raise" or "ignore".
        out: directory of all results.
        name: the results go to ``out``/pimd-``name``; None: made from the system.
    """

    system_field = "system"
    built_in = BUILT_IN
    system: str = "h-pd111"
    potential: str | None = None
    head: str | None = None
    beads: tuple[int, ...] = (16,)
    temperature: float = 300.0
    steps: int = 1000
    equilibration: int = 200
    timestep: float = 0.5
    ensemble: str = "nvt"
    thermostat: str = "pile_l"
    tau: float = 100.0
    gle_file: Path | None = None
    pressure: float = 0.1
    isotope: tuple[str, ...] | None = None
    cheap: str | None = None
    inner_steps: int = 4
    full_beads: int | None = None
    momentum: str | None = None
    momentum_frames: int = 40
    spectrum: int = 0
    every: int = 2
    frames_every: int = 10
    heat_capacity: bool = False
    fixed_layers: int | None = None
    seed: int = 1
    device: tuple[str, ...] = ("auto",)
    dtype: str | None = None
    mode: str = "unix"
    fresh: bool = False
    on_extrapolation: str = "warn"
    out: Path = Path("results")
    name: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without files."""
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "system", str(self.system))
        if self.gle_file is not None:
            object.__setattr__(self, "gle_file", Path(self.gle_file))
        check_sampling(self.steps, self.equilibration, self.beads, self.device, self.mode)
        require_plain_name(self.name)
        names = self.isotope or ()
        known = len(names) <= 2 and set(names) <= set(ISOTOPES)
        require(known, "isotope", self.isotope, f"one or two of {', '.join(ISOTOPES)}")
        alone = self.cheap is None and self.full_beads is not None
        require(not alone, "full_beads", self.full_beads, "left out without --cheap")
        frames = self.momentum_frames
        require(frames >= 8, "momentum_frames", frames, "8 or more")
        steps, few = self.spectrum, FEWEST_FRAMES * self.every
        require(steps == 0 or steps >= few, "spectrum", steps, f"0, or {few} steps or more")
        apart = steps and self.ensemble != "nvt"
        require(not apart, "spectrum", steps, "0 but for the ensemble nvt (nve, trpmd have theirs)")
        for beads in self.beads:
            self.dynamics(beads)
        self.potential_and_head()

    def dynamics(self, beads: int) -> Dynamics:
        """The part that concerns i-PI.

        Raises:
            InputError: a value out of its range.
        """
        cheap = CheapForce(self.inner_steps, self.full_beads) if self.cheap else None
        return Dynamics(
            beads=beads,
            temperature_K=self.temperature,
            steps=self.steps,
            timestep_fs=self.timestep,
            ensemble=self.ensemble,
            thermostat=self.thermostat,
            tau_fs=self.tau,
            gle_file=self.gle_file,
            pressure_MPa=self.pressure,
            every=self.every,
            frames_every=self.frames_every,
            heat_capacity=self.heat_capacity,
            seed=self.seed,
            batch_size=-(-(self.full_beads or beads) // len(self.device)),
            cheap=cheap,
        )

    def plan(self) -> str:
        """What a run would do, in words."""
        beads = ", ".join(map(str, sorted(set(self.beads))))
        length = self.steps * self.timestep * 1e-3
        return (
            f"{self.system} with {self.potential_and_head()[0]}: {self.ensemble} at "
            f"{self.temperature:g} K with {beads} beads, {self.steps} steps ({length:g} ps) each."
        )

    @property
    def directory(self) -> Path:
        """Where the results go."""
        return self.out / f"pimd-{self.name or Path(self.system).stem}"


@dataclass(frozen=True)
class Result(WorkflowResult[Settings]):
    """Outcome of a run, besides its settings, directory and report.

    Attributes:
        findings: averages of all simulations.
    """

    findings: Findings


@logged
@alone
def run(settings: Settings, engine: BeadEngine | None = None, show: Show | None = None) -> Result:
    """Simulate with each number of beads and each mass, average, write the files.

    Args:
        settings: what to do.
        engine: evaluates the structures; None loads the potential.
        show: called with the name of a simulation and its progress.

    Raises:
        PotentialFileError: no such potential.
        InputError: a structure that cannot be used, or a directory with another simulation.
        EvaluationError: forces that are not finite, or i-PI failed.
    """
    started = time.perf_counter()
    cheap, policy = None, settings.on_extrapolation
    helpers: tuple[Helper, ...] = ()
    if settings.cheap is not None:
        cheap, _ = load_clients(settings.cheap, settings.device[:1], settings.dtype, None, policy)
    if engine is None:
        name, head = settings.potential_and_head()
        engine, helpers = load_clients(name, settings.device, settings.dtype, head, policy)
    built = _built(settings)
    check_start(engine, {"system": built})
    if settings.fresh:
        clear(settings.directory)
    kept, built_in = settings.directory / "start.extxyz", settings.system in BUILT_IN
    atoms, notes = start_structure(kept, engine, built, built_in)
    first = (settings.isotope or (None,))[0]
    atoms = atoms if first is None else with_mass(atoms, "H", ISOTOPES[first])

    def moved(label: str, start: Start, dynamics: Dynamics) -> Path:
        directory = settings.directory / label
        told = None if show is None else (lambda progress: show(label, progress))
        clients: dict[str, Any] = {"mode": settings.mode, "helpers": helpers, "cheap": cheap}
        simulate(engine, start, dynamics, directory, **clients, show=told)
        return directory

    def one(label: str, structure: Atoms, beads: int) -> tuple[Path, Start, Thermodynamics]:
        start, dynamics = prepare_start(structure), settings.dynamics(beads)
        directory = moved(label, start, dynamics)
        return directory, start, thermodynamics(directory, start, dynamics, skip)

    most, skip = settings.dynamics(max(settings.beads)), settings.equilibration
    if settings.momentum is not None:
        check_momentum(prepare_start(atoms), most, settings.momentum)
    runs = [one(f"beads-{beads}", atoms, beads) for beads in sorted(set(settings.beads))]
    directory, start, _ = runs[-1]
    structure = structure_averages(directory, start, skip)
    moving = None
    if settings.spectrum:
        moving = _spectrum(settings.spectrum, start, structure, most, moved)
    elif settings.ensemble in ("nve", "trpmd"):
        moving = centroid_dynamics(directory, start, most, skip)
    findings = Findings(
        runs=tuple(found for *_, found in runs),
        structure=structure,
        dynamics=moving,
        isotope=_isotope_change(settings, atoms, runs[-1][-1], one),
        momentum=_momentum(settings, engine, *runs[-1]),
    )
    files = write_findings(settings.directory, start, findings)
    title = f"Path integrals: {atoms.get_chemical_formula(mode='metal')} ({settings.system})"
    report = pimd_report(title, findings, notes, files)
    report = ended(report, engine, settings, started, None)
    write_report(report, settings.directory)
    return Result(settings, report, findings)


def _spectrum(
    steps: int,
    start: Start,
    structure: Structure,
    dynamics: Dynamics,
    moved: Callable[[str, Start, Dynamics], Path],
) -> CentroidDynamics:
    """Motion of the centroids in TRPMD from the last ring of ``dynamics``."""
    atoms = start.atoms.copy()
    atoms.positions = structure.last_beads.mean(axis=0)
    onwards = replace(start, atoms=atoms, ring=structure.last_beads)
    own: dict[str, Any] = {"heat_capacity": False, "gle_file": None}
    own |= {"ensemble": "trpmd", "thermostat": "pile_l"}
    free = replace(dynamics, steps=steps, **own)
    label = f"beads-{dynamics.beads}-trpmd-from-{dynamics.steps}"
    return centroid_dynamics(moved(label, onwards, free), onwards, free)


def _momentum(
    settings: Settings, engine: BeadEngine, directory: Path, start: Start, found: Thermodynamics
) -> Momentum | None:
    """Momentum distribution from the simulation with the most beads."""
    if (species := settings.momentum) is None:
        return None
    run = (directory, start, settings.dynamics(found.beads), species)
    kinetic = found.kinetic_cv_eV[species].mean
    frames = settings.momentum_frames
    return momentum_distribution(engine, *run, kinetic, settings.equilibration, frames)


def _isotope_change(
    settings: Settings,
    atoms: Atoms,
    first: Thermodynamics,
    one: Callable[[str, Atoms, int], tuple[Path, Start, Thermodynamics]],
) -> IsotopeChange | None:
    """Further simulations on the way to the second isotope; the first is done."""
    if settings.isotope is None or len(settings.isotope) < 2:
        return None
    names, beads = settings.isotope, max(settings.beads)
    require(1 in atoms.numbers, "isotope", names, "left out: the structure holds no hydrogen")
    masses = isotope_masses(ISOTOPES[names[0]], ISOTOPES[names[1]])
    found = [first]
    for mass in masses[1:]:
        found.append(one(f"beads-{beads}-{mass:.4f}amu", with_mass(atoms, "H", mass), beads)[-1])
    kinetic = []
    for result in found:
        (label,) = set(result.kinetic_cv_eV) & set(ISOTOPES)
        kinetic.append(result.kinetic_cv_eV[label])
    classical = -1.5 * kB * settings.temperature * np.log(masses[-1] / masses[0])
    change = isotope_free_energy(masses, kinetic)
    return IsotopeChange((names[0], names[1]), masses, tuple(kinetic), change, float(classical))


def _built(settings: Settings) -> Atoms:
    """The structure as it is built or read, with its lowest layers held."""
    built_in = BUILT_IN.get(settings.system)
    held = settings.fixed_layers
    if held is None:
        held = 1 if built_in and built_in.kind == "slab" else 0
    return read_system(settings.system, BUILT_IN, fixed_layers=held)


app = workflow_app(Settings, run, goes_on=True)
