"""Free-energy barrier of one atom along a line, classical and quantum, by umbrella windows.

Without options: H from fcc to hcp across the bridge of Pd(111), classical (1 bead) and with 8
beads. The umbrella acts on the centroid of the atom; i-PI moves, NEMP computes. A job of your own,
with any files that ASE reads: --initial a.traj --final b.traj. Stopped with Ctrl-C, it goes on.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import kB

from nemp_sim.command import workflow_app
from nemp_sim.config import require, require_plain_name
from nemp_sim.console import Show, logged
from nemp_sim.errors import InputError
from nemp_sim.files import read_structure, read_structures, write_structures
from nemp_sim.ipi.client import BeadEngine
from nemp_sim.locks import alone, clear
from nemp_sim.pathintegral.files import read_properties
from nemp_sim.pathintegral.forces import Umbrella
from nemp_sim.pathintegral.free_energy import (
    Profile,
    Window,
    tst_rate,
    umbrella_integration,
)
from nemp_sim.pathintegral.input import PREFIX, Dynamics, check_sampling, prepare_start
from nemp_sim.pathintegral.plots import free_energy_profiles
from nemp_sim.pathintegral.run import Job, simulate_together
from nemp_sim.plots import save_figure
from nemp_sim.reactions.ends import check_ends
from nemp_sim.relax import relax
from nemp_sim.report import Quantity, Report, write_report
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.workflow import WorkflowResult, ended, engine_of

END_FMAX = 0.02  # eV/Å
END_STEPS = 300
LARGEST_GAP = 2.0  # of neighbouring windows, in standard deviations of their difference


@dataclass(frozen=True)
class Settings:
    """Everything that fixes a run.

    Attributes:
        initial: file of the initial state (its last frame); None: H from fcc to hcp on
            Pd(111).
        final: file of the final state, where ``initial`` is given.
        potential: path or name of a potential.
        head: read-out of the potential; None: the only one.
        atom: index of the atom that crosses; None: the one that moves farthest.
        beads: numbers of beads, a profile each; 1 is classical.
        windows: umbrellas from ``margin`` before the initial to ``margin`` behind the final state.
        margin: how far the windows reach beyond both ends, Å.
        spring: spring constant of the umbrellas, eV/Å².
        temperature: temperature, K.
        steps: time steps of each window, equilibration included.
        equilibration: first steps, left out of the averages.
        timestep: time step, fs.
        tau: time constant of the PILE thermostat, fs.
        seed: seed of the random numbers.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32" or "float64"; None: that of the potential.
        mode: "unix" socket or shared memory, "shm".
        fresh: discard an older run in the same directory.
        on_extrapolation: outside the domain of the potential: "warn", "raise" or "ignore".
        out: directory of all results.
        name: the results go to ``out``/umbrella-``name``; None: made from the file names.
    """

    initial: Path | None = None
    final: Path | None = None
    potential: str = "pdh.pt"
    head: str | None = None
    atom: int | None = None
    beads: tuple[int, ...] = (1, 8)
    windows: int = 11
    margin: float = 0.1
    spring: float = 4.0
    temperature: float = 300.0
    steps: int = 400
    equilibration: int = 100
    timestep: float = 0.5
    tau: float = 50.0
    seed: int = 1
    device: str = "auto"
    dtype: str | None = None
    mode: str = "unix"
    fresh: bool = False
    on_extrapolation: str = "warn"
    out: Path = Path("results")
    name: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without files."""
        for name in ("initial", "final", "out"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, Path(getattr(self, name)))
        if (self.initial is None) != (self.final is None):
            raise InputError("give both --initial and --final, or neither for H on Pd(111).")
        require(self.windows >= 3, "windows", self.windows, "3 or more")
        require(self.spring > 0, "spring", self.spring, "positive (eV/Å²)")
        require(self.margin >= 0, "margin", self.margin, "0 or more (Å)")
        check_sampling(self.steps, self.equilibration, self.beads, (self.device,), self.mode)
        require_plain_name(self.name)
        for beads in self.beads:
            self.dynamics(beads)

    def dynamics(self, beads: int, umbrella: Umbrella | None = None) -> Dynamics:
        """The part that concerns i-PI.

        Raises:
            InputError: a value out of its range.
        """
        return Dynamics(
            beads=beads,
            temperature_K=self.temperature,
            steps=self.steps,
            timestep_fs=self.timestep,
            tau_fs=self.tau,
            every=1,
            frames_every=max(self.steps // 10, 1),
            seed=self.seed,
            batch_size=beads,
            fix_com=False,
            umbrella=umbrella,
        )

    def plan(self) -> str:
        """What a run would do, in words."""
        beads = ", ".join(map(str, sorted(set(self.beads))))
        return (
            f"Relax both ends, then {self.windows} windows of {self.steps} steps at "
            f"{self.temperature:g} K, for each of these numbers of beads: {beads}."
        )

    @property
    def directory(self) -> Path:
        """Where the results go."""
        made = "h-pd111-fcc-hcp"
        if self.initial and self.final:
            made = f"{self.initial.stem}-{self.final.stem}"
        return self.out / f"umbrella-{self.name or made}"


@dataclass(frozen=True)
class Result(WorkflowResult[Settings]):
    """Outcome of a run, besides its settings, directory and report.

    Attributes:
        profiles: by number of beads.
    """

    profiles: dict[int, Profile]


@logged
@alone
def run(settings: Settings, engine: BeadEngine | None = None, show: Show | None = None) -> Result:
    """Relax both ends, sample every window with each number of beads, integrate, write the files.

    Args:
        settings: what to do.
        engine: evaluates the structures; None loads ``settings.potential``.
        show: called with the name of a window and its progress.

    Raises:
        PotentialFileError: no such potential.
        InputError: ends that cannot be used, or a directory with another simulation.
        EvaluationError: forces that are not finite, or i-PI failed.
    """
    started = time.perf_counter()
    ends = _ends(settings)
    check_ends(*ends)
    engine = engine_of(engine, settings, settings.potential, settings.head)
    if settings.fresh:
        clear(settings.directory)
    ends = _relaxed(settings, engine, ends)
    atom, path = _line(settings, ends)
    profiles = {}
    for beads in sorted(set(settings.beads)):
        jobs = _jobs(settings, ends, (atom, path), beads)
        label = f"beads-{beads}, {len(jobs)} windows"
        told = None if show is None else (lambda at, label=label: show(label, at))
        simulate_together(engine, jobs, mode=settings.mode, show=told)
        windows = [_window(settings, job) for job in jobs]
        profiles[beads] = umbrella_integration(windows, settings.temperature)
    along = jobs[0].dynamics.umbrella.direction
    origin = float(prepare_start(ends[0]).atoms.positions[atom] @ along)
    profiles = {b: _from(origin, p) for b, p in profiles.items()}
    report = _report(settings, profiles, ends[0], atom)
    report = ended(report, engine, settings, started, None)
    save_figure(free_energy_profiles(profiles), settings.directory / "profile.png")
    write_report(report, settings.directory)
    return Result(settings, report, profiles)


def _ends(settings: Settings) -> tuple[Atoms, Atoms]:
    if settings.initial is None or settings.final is None:
        slab = fcc_slab()
        return place(slab, "H", "fcc"), place(slab, "H", "hcp")
    return read_structure(settings.initial, "initial"), read_structure(settings.final, "final")


def _relaxed(
    settings: Settings, engine: BeadEngine, ends: tuple[Atoms, Atoms]
) -> tuple[Atoms, Atoms]:
    """Both ends at their minima; those of an earlier run here, so that it goes on exactly."""
    path = settings.directory / "ends.extxyz"
    if not path.is_file():
        structures = relax(engine, ends, END_FMAX, END_STEPS).structures
        for atoms in structures:
            atoms.calc, atoms.info = None, {}
        write_structures(path, structures)
    first, last = read_structures(path, "ends")
    return first, last


def _line(settings: Settings, ends: tuple[Atoms, Atoms]) -> tuple[int, np.ndarray]:
    """The atom that crosses, and its way (3,) in Å."""
    moves = ends[1].positions - ends[0].positions
    atom = settings.atom
    if atom is None:
        atom = int(np.linalg.norm(moves, axis=1).argmax())
    inside = 0 <= atom < len(moves)
    require(inside, "atom", atom, f"an index between 0 and {len(moves) - 1}")
    length = float(np.linalg.norm(moves[atom]))
    require(length > 0.1, "atom", atom, f"one that moves: this one does by {length:.3f} Å")
    return atom, moves[atom]


def _shares(settings: Settings, path: np.ndarray) -> np.ndarray:
    """Places of the windows in units of the way, from before 0 to behind 1."""
    margin = settings.margin / np.linalg.norm(path)
    return np.linspace(-margin, 1 + margin, settings.windows)


def _between(ends: tuple[Atoms, Atoms], share: float) -> Atoms:
    atoms = ends[0].copy()
    atoms.set_positions(
        ends[0].positions + share * (ends[1].positions - ends[0].positions), apply_constraint=False
    )
    return atoms


def _jobs(
    settings: Settings, ends: tuple[Atoms, Atoms], line: tuple[int, np.ndarray], beads: int
) -> list[Job]:
    """The simulation of each window."""
    atom, path = line
    jobs = []
    for number, share in enumerate(_shares(settings, path)):
        start = prepare_start(_between(ends, share))
        along = start.rotation @ (path / np.linalg.norm(path))
        centre = round(float(start.atoms.positions[atom] @ along), 6)
        umbrella = Umbrella(atom, tuple(along.tolist()), centre, settings.spring)
        directory = settings.directory / f"beads-{beads}/window-{number:02d}"
        jobs.append(Job(start, settings.dynamics(beads, umbrella), directory))
    return jobs


def _window(settings: Settings, job: Job) -> Window:
    rows, umbrella = read_properties(job.directory / f"{PREFIX}.out"), job.dynamics.umbrella
    places = rows[f"atom_x({umbrella.atom})"][rows["step"] > settings.equilibration]
    samples = places @ np.array(umbrella.direction)
    return Window(umbrella.centre_angstrom, umbrella.spring_eV_per_A2, samples)


def _from(origin: float, profile: Profile) -> Profile:
    """The profile with s from the initial state."""
    moved = {name: getattr(profile, name) - origin for name in ("path_A", "well_A", "top_A")}
    return replace(profile, **moved)


def _report(settings: Settings, profiles: dict[int, Profile], initial: Atoms, atom: int) -> Report:
    rows, notes, said = [], [], []
    for beads, profile in profiles.items():
        kind = "classical" if beads == 1 else f"{beads} beads"
        for key, label, average in (
            ("barrier", "Free-energy barrier", profile.barrier_eV),
            ("reaction", "Free energy of reaction", profile.reaction_eV),
        ):
            quantity = Quantity(f"{key}_{beads}_eV", f"{label}, {kind}", average.mean, "eV", 4)
            rows.append(replace(quantity, error=average.error))
        barrier = profile.barrier_eV
        rate = tst_rate(profile, initial.get_masses()[atom], settings.temperature)
        within = np.exp(barrier.error / (kB * settings.temperature))
        label = f"Rate from the initial state, {kind}"
        rows.append(Quantity(f"rate_{beads}_per_s", label, f"{rate:.2e}", "1/s"))
        rows.append(Quantity(f"rate_{beads}_factor", "… within a factor of", within, "", 1))
        said.append(f"{barrier.mean:.3f} ± {barrier.error:.3f} eV ({kind})")
        if profile.gap > LARGEST_GAP:
            notes.append(
                f"{kind}: windows are up to {profile.gap:.1f} standard deviations apart: there is "
                "no data between them. Give more --windows or a softer --spring."
            )
        if not profile.resolved:
            notes.append(f"{kind}: some windows are too short for their error bars. More --steps.")
    return Report(
        title=f"Umbrellas: {initial.symbols[atom]} (atom {atom}) along a line at "
        f"{settings.temperature:g} K",
        verdict=f"Free-energy barrier {', '.join(said)}.",
        quantities=(
            *rows,
            Quantity("n_windows", "Windows", settings.windows),
            Quantity("spring_eV_per_A2", "Spring of the umbrellas", settings.spring, "eV/Å²"),
            Quantity("steps", "Steps of each window", settings.steps),
        ),
        notes=tuple(notes),
        files={
            "profile.png": "free energy along the line",
            "ends.extxyz": "the relaxed initial and final state",
            "beads-*/window-*/": "i-PI's own files of each window",
        },
        data={
            "profiles": {
                str(b): {"path_A": p.path_A, "free_energy_eV": p.free_energy_eV}
                for b, p in profiles.items()
            }
        },
    )


app = workflow_app(Settings, run, goes_on=True)
