"""Classical molecular dynamics: NVE, NVT or NPT, many replicas and temperatures in one batch.

Without options: 1 ps of H on Pd(111) at 300 K. Your own, from any file that ASE reads: nemp md
--structure my.extxyz --temperature 300,600 --replicas 8 --picoseconds 20 --potential my.pt.
Stopped or killed, the same command goes on; with more --picoseconds it makes the run longer.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from nemp_sim.command import workflow_app
from nemp_sim.config import require, require_plain_name
from nemp_sim.console import Show, logged, time_left
from nemp_sim.files import write_structures
from nemp_sim.locks import alone, clear
from nemp_sim.md.averages import averages, frames_of, read_log
from nemp_sim.md.files import LOG, trajectory_paths
from nemp_sim.md.plots import time_series
from nemp_sim.md.report import Findings, conserves, md_report
from nemp_sim.md.run import STATE, Dynamics, simulate
from nemp_sim.pairs import pair_distances, pair_figure
from nemp_sim.plots import save_figure
from nemp_sim.relax import Engine
from nemp_sim.report import write_report
from nemp_sim.start_check import check_start
from nemp_sim.starts import start_structure
from nemp_sim.systems import SYSTEMS, read_system
from nemp_sim.workflow import WithSystem, WorkflowResult, ended, engine_of


@dataclass(frozen=True)
class Settings(WithSystem):
    """Everything that fixes a run.

    Attributes:
        structure: name of a built-in structure, or a file (its last frame).
        repeat: copies of the cell along its three vectors.
        fixed_layers: lowest layers held where the structure holds no constraints; None: one of
            built-in slabs, none in files.
        ensemble: nve, nvt (Langevin) or npt (Langevin, volume too; bulk with a potential that was
            trained on stress).
        temperature: temperatures, K; of nve those of the first velocities, of which a start at a
            minimum keeps half.
        pressure: pressure of npt, MPa.
        replicas: independent runs at each temperature, all in one batch.
        picoseconds: length of each, ps, equilibration included.
        equilibration: of it, left out of the averages, ps.
        timestep: time step, fs: 0.5 with H, 1 with C and O, 2 with metals alone.
        friction: friction of the Langevin bath, 1/ps.
        barostat: time constant of the volume in npt, fs.
        velocities: the first ones: "maxwell" draws them, "file" takes those of the structure,
            "zero" none, "auto" those of the structure where it has any, or else draws.
        every: steps between two lines of the log.
        frames_every: steps between two frames of the trajectories.
        seed: seed of the random numbers.
        fresh: discard an older run in the same directory.
        potential: path or name of a potential; None: that of the built-in structure.
        head: read-out of the potential; None: that of the built-in structure, or the only one.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32" or "float64"; None: that of the potential.
        on_extrapolation: outside the domain of the potential: "warn", "raise" or "ignore".
        out: directory of all results.
        name: the results go to ``out``/md-``name``; None: made from structure, ensemble and
            temperatures.
    """

    structure: str = "h-pd111"
    repeat: tuple[int, ...] = (1, 1, 1)
    fixed_layers: int | None = None
    ensemble: str = "nvt"
    temperature: tuple[float, ...] = (300.0,)
    pressure: float = 0.1
    replicas: int = 1
    picoseconds: float = 1.0
    equilibration: float = 0.2
    timestep: float = 0.5
    friction: float = 5.0
    barostat: float = 1000.0
    velocities: str = "auto"
    every: int = 10
    frames_every: int = 50
    seed: int = 0
    fresh: bool = False
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
        object.__setattr__(self, "structure", str(self.structure))
        three = len(self.repeat) == 3 and min(self.repeat) >= 1
        require(three, "repeat", self.repeat, "three whole numbers, as in '2 2 1'")
        once = len(set(self.temperature)) == len(self.temperature) > 0
        require(once, "temperature", self.temperature, "different numbers, at least one (K)")
        require(self.replicas >= 1, "replicas", self.replicas, "1 or more")
        require(self.timestep > 0, "timestep", self.timestep, "positive")
        least = 4 * self.every * self.timestep * 1e-3
        skip, length = self.equilibration, self.picoseconds
        require(0 <= skip < length, "equilibration", skip, f"0 or more, below {length:g} ps")
        enough = length - skip >= least
        wanted = f"{least:g} ps (four lines of the log) longer than the equilibration of {skip:g}"
        require(enough, "picoseconds", length, wanted)
        frame = self.frames_every * self.timestep * 1e-3
        wanted = f"so many that a frame falls between {skip:g} and {length:g} ps"
        require(length // frame * frame > skip, "frames_every", self.frames_every, wanted)
        require_plain_name(self.name)
        self.dynamics()
        self.potential_and_head()

    def dynamics(self) -> Dynamics:
        """What the integrator needs.

        Raises:
            InputError: a value out of its range.
        """
        return Dynamics(
            temperatures_K=tuple(t for t in self.temperature for _ in range(self.replicas)),
            ensemble=self.ensemble,
            timestep_fs=self.timestep,
            friction_per_ps=self.friction,
            pressure_MPa=self.pressure,
            barostat_fs=self.barostat,
            velocities=self.velocities,
            every=self.every,
            frames_every=self.frames_every,
            seed=self.seed,
        )

    @property
    def n_steps(self) -> int:
        """Steps of each replica."""
        return round(1e3 * self.picoseconds / self.timestep)

    def plan(self) -> str:
        """What a run would do, in words."""
        atoms, count = prepare(self), self.replicas * len(self.temperature)
        kelvins = ", ".join(f"{t:g}" for t in self.temperature)
        return (
            f"{atoms.get_chemical_formula()} with {self.potential_and_head()[0]}: {self.ensemble} "
            f"at {kelvins} K, {self.n_steps} steps of {count * len(atoms)} atoms in {count} "
            f"replicas ({self.picoseconds:g} ps each)."
        )

    @property
    def directory(self) -> Path:
        """Where the results go."""
        kelvins = "-".join(f"{t:g}K" for t in self.temperature)
        made = f"{Path(self.structure).stem}-{self.ensemble}-{kelvins}"
        return self.out / f"md-{self.name or made}"


@dataclass(frozen=True)
class Result(WorkflowResult[Settings]):
    """Outcome of a run, besides its settings, directory and report.

    Attributes:
        found: averages at each temperature.
        final: the last frame of each replica, with momenta.
    """

    found: Findings
    final: tuple[Atoms, ...]

    @property
    def trusted(self) -> bool:
        """Whether the energy of nve is conserved."""
        return conserves(self.found, self.settings.dynamics())


@logged
@alone
def run(settings: Settings, engine: Engine | None = None, show: Show | None = None) -> Result:
    """Move all replicas, average, write the files.

    Args:
        settings: what to do.
        engine: evaluates the structures; None loads the potential.
        show: called with how far it is.

    Raises:
        PotentialFileError: no such potential.
        InputError: a structure that cannot be used, or a directory with another run.
        EvaluationError: forces that are not finite.
    """
    started, show = time.perf_counter(), show or (lambda event: None)
    structure = prepare(settings)
    engine = engine_of(engine, settings, *settings.potential_and_head())
    check_start(engine, {"structure": structure})
    if settings.fresh:
        clear(settings.directory)
    kept, built_in = settings.directory / "start.extxyz", settings.structure in SYSTEMS
    start, notes = start_structure(kept, engine, structure, built_in)
    dynamics, n_steps = settings.dynamics(), settings.n_steps
    told = _countdown(show, n_steps)
    final = simulate(engine, start, dynamics, n_steps, settings.directory, told)
    write_structures(settings.directory / "final.extxyz", final)
    show("averages")
    found, files = _findings(settings, dynamics, start)
    title = f"Molecular dynamics: {start.get_chemical_formula(mode='metal')} ({settings.structure})"
    report = md_report(title, found, dynamics, notes, files)
    report = ended(report, engine, settings, started, None)
    write_report(report, settings.directory)
    return Result(settings, report, found, final)


def prepare(settings: Settings) -> Atoms:
    """The structure, repeated, with its held layers.

    Raises:
        InputError: neither a name nor a file that can be read; no such layers.
    """
    built = SYSTEMS.get(settings.structure)
    held = settings.fixed_layers
    if held is None:
        held = 1 if built and built.kind == "slab" else 0
    atoms = read_system(settings.structure, SYSTEMS, "structure", held)
    return atoms if max(settings.repeat) == 1 else atoms.repeat(settings.repeat)


def _findings(
    settings: Settings, dynamics: Dynamics, start: Atoms
) -> tuple[Findings, dict[str, str]]:
    """Averages and pair distances at each temperature, drawn; and what each file holds."""
    directory, skip = settings.directory, settings.equilibration
    every, series = dynamics.temperatures_K, read_log(directory)
    paths = trajectory_paths(directory, every)
    runs, pairs = [], []
    files = {"time.png": "temperature and energy in time"}
    for temperature in sorted(set(every)):
        mine = [k for k, t in enumerate(every) if t == temperature]
        runs.append(averages(series.of(mine, skip), temperature, len(start)))
        cells, places = frames_of([paths[k] for k in mine], skip)
        pairs.append(pair_distances(start, [*start.symbols], cells, places))
        if pairs[-1]:
            name = "pairs.png" if len(set(every)) == 1 else f"pairs-{temperature:g}K.png"
            save_figure(pair_figure(pairs[-1]), directory / name)
            files[name] = "distances of pairs, with standard errors"
    conserved = dynamics.ensemble == "nve"
    save_figure(time_series(series, every, len(start), conserved, skip), directory / "time.png")
    files |= {path.name: "frames with energy, forces and momenta" for path in paths}
    files |= {
        LOG: "temperature, energies and, where it is known, pressure of each replica in time",
        "final.extxyz": "all replicas at the end, with momenta",
        "start.extxyz": "the structure that all started from",
        STATE: "where the run stands: the same command with more --picoseconds goes on",
    }
    found = Findings(tuple(runs), tuple(pairs), settings.picoseconds, skip)
    return found, files


def _countdown(show: Show, n_steps: int) -> Callable[[int, int], None]:
    """Says how far the dynamics is, and how long it takes at the pace so far."""
    begun = time.perf_counter()

    def tell(step: int, first: int) -> None:
        left = time_left(begun, step - first, n_steps - first)
        show(f"dynamics: step {step} of {n_steps}, {left}")

    return tell


app = workflow_app(Settings, run, goes_on=True)
