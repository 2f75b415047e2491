"""Diffusion of H on Pd(111) by batched Langevin replicas, against transition-state theory.

Without options: pdh.pt, 600 K. Another structure: nemp diffusion --structure
my.extxyz --atom 48 --dimensions 3 --potential my.pt. Stopped or killed, the same command
goes on.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from matplotlib.figure import Figure

from nemp_sim.command import workflow_app
from nemp_sim.config import require, require_plain_name
from nemp_sim.console import Show, logged, time_left
from nemp_sim.files import read_structure, write_structures
from nemp_sim.locks import alone
from nemp_sim.plots import BLUE, FONT_POINTS, VERMILLION, new_figure, save_figure
from nemp_sim.reactions.diffusion import Diffusion, diffusion_constant, hollow_diffusion, langevin
from nemp_sim.reactions.kinetics import rates
from nemp_sim.reactions.neb import BandSettings, run_neb
from nemp_sim.reactions.reaction import Reaction, analyse
from nemp_sim.relax import Engine, relax
from nemp_sim.report import Quantity, Report, write_report
from nemp_sim.start_check import check_start
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import PD_LATTICE_ANGSTROM, fcc_slab
from nemp_sim.workflow import WorkflowResult, ended, engine_of

HOP_ANGSTROM = 1.6  # between hollows of Pd(111); of other structures, the order of it
FEWEST_HOPS = 10  # of all replicas: with fewer, the displacements are vibrations


@dataclass(frozen=True)
class Settings:
    """Everything that fixes a run.

    Attributes:
        structure: file of the start; None: H on Pd(111), fcc, with the prediction of hops.
        atom: the atom that diffuses; None: the last.
        dimensions: 2 (along the surface: x and y) or 3.
        temperature: temperature, K.
        replicas: independent runs in one batch; their spread is the error.
        picoseconds: length of each, ps.
        timestep: time step, fs.
        friction: friction of the Langevin bath, 1/ps.
        seed: seed of the random numbers.
        potential: path or name of a potential.
        head: read-out of the potential; None: the only one.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32" or "float64"; None: that of the potential.
        on_extrapolation: outside the domain of the potential: "warn", "raise" or "ignore".
        out: directory of all results.
        name: the results go to ``out``/diffusion-``name``; None: made from the start.
    """

    structure: Path | None = None
    atom: int | None = None
    dimensions: int = 2
    temperature: float = 600.0
    replicas: int = 16
    picoseconds: float = 5.0
    timestep: float = 0.5
    friction: float = 1.0
    seed: int = 0
    potential: str = "pdh.pt"
    head: str | None = None
    device: str = "auto"
    dtype: str | None = None
    on_extrapolation: str = "warn"
    out: Path = Path("results")
    name: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without files."""
        object.__setattr__(self, "out", Path(self.out))
        for name in ("temperature", "picoseconds", "timestep"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        require(self.dimensions in (2, 3), "dimensions", self.dimensions, "2 or 3")
        require(self.replicas >= 2, "replicas", self.replicas, "2 or more, for an error")
        require(self.n_steps >= 100, "picoseconds", self.picoseconds, "100 time steps or more")
        require_plain_name(self.name)

    @property
    def n_steps(self) -> int:
        """Steps of each replica."""
        return round(1e3 * self.picoseconds / self.timestep)

    def plan(self) -> str:
        """What a run would do, in words."""
        start = "H on Pd(111), and rates of its hops" if self.structure is None else self.structure
        return (
            f"{start}: {self.replicas} replicas of {self.picoseconds:g} ps at "
            f"{self.temperature:g} K."
        )

    @property
    def directory(self) -> Path:
        """Where the results go."""
        made = self.structure.stem if self.structure else "h-pd111"
        return self.out / f"diffusion-{self.name or f'{made}-{self.temperature:g}K'}"


@dataclass(frozen=True)
class Result(WorkflowResult[Settings]):
    """Outcome of a run, besides its settings, directory and report.

    Attributes:
        found: D of the replicas.
        hops_A2_per_ps: D from the rate constants, by approximation; None for other structures.
    """

    found: Diffusion
    hops_A2_per_ps: dict[str, float] | None

    @property
    def trusted(self) -> bool:
        """Whether the replicas moved farther than vibrations do."""
        return hop_lengths(self.found, self.settings.replicas) >= FEWEST_HOPS


@logged
@alone
def run(settings: Settings, engine: Engine | None = None, show: Show | None = None) -> Result:
    """Run the replicas, predict D from the rates, compare, write the files.

    Args:
        settings: what to do.
        engine: evaluates the structures; None loads ``settings.potential``.
        show: called with what is being done.

    Raises:
        PotentialFileError: no such potential.
        InputError: a structure or an atom that cannot be used, or the state of another run there.
        EvaluationError: forces that are not finite.
    """
    started = time.perf_counter()
    engine = engine_of(engine, settings, settings.potential, settings.head)
    show = show or (lambda event: None)
    start, reaction = _start(settings, engine, show)
    atom = len(start) - 1 if settings.atom is None else settings.atom
    require(0 <= atom < len(start), "atom", atom, f"between 0 and {len(start) - 1}")
    check_start(engine, {"structure": start})
    every = max(1, settings.n_steps // 400)
    positions = langevin(
        engine,
        [start] * settings.replicas,
        settings.temperature,
        settings.n_steps,
        settings.timestep,
        settings.friction,
        every,
        settings.seed,
        settings.directory / "state.npz",
        _countdown(show, settings.n_steps),
    )
    tracks = positions[:, :, atom, : settings.dimensions]
    if not start.constraints:
        others = np.delete(np.arange(len(start)), atom)
        tracks = tracks - positions[:, :, others, : settings.dimensions].mean(axis=2)
    found = diffusion_constant(tracks, every * settings.timestep * 1e-3)
    hops = None
    if reaction is not None and reaction.rates is not None:
        hops = _hops(reaction)
    report = _report(settings, start, atom, found, hops, reaction)
    report = ended(report, engine, settings, started, None)
    final = [_moved(start, p) for p in positions[-1]]
    write_structures(settings.directory / "final.extxyz", final)
    save_figure(msd_figure(found, hops), settings.directory / "msd.png")
    write_report(report, settings.directory)
    (settings.directory / "state.npz").unlink(missing_ok=True)
    return Result(settings, report, found, hops)


def msd_figure(found: Diffusion, hops_A2_per_ps: dict[str, float] | None) -> Figure:
    """Mean-square displacement against lag time, with the fit and the prediction of hops."""
    figure, axes = new_figure()
    lag, msd, error = found.lag_ps, found.msd_A2, found.msd_error_A2
    axes.fill_between(lag, msd - error, msd + error, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(lag, msd, color=BLUE, linewidth=1.6, label="replicas ± standard error")
    inside = lag >= found.fit_from_ps
    if hops_A2_per_ps:
        line = 4 * hops_A2_per_ps["classical"] * lag
        style: dict[str, Any] = {"color": VERMILLION, "linewidth": 1.2, "linestyle": (0, (4, 2))}
        axes.plot(lag, line, label="hops, classical TST", **style)
    axes.axvspan(lag[inside][0], lag[-1], color="black", alpha=0.05, linewidth=0)
    axes.set_xlim(0, lag[-1])
    axes.set_ylim(0, None)
    axes.set_xlabel("Lag time (ps); shaded: fitted", fontsize=FONT_POINTS)
    axes.set_ylabel("Mean-square displacement (Å²)", fontsize=FONT_POINTS)
    axes.legend(fontsize=FONT_POINTS - 1.5, frameon=False, loc="upper left")
    return figure


def hop_lengths(found: Diffusion, replicas: int) -> float:
    """Mean-square displacement of the longest lag in squared hop lengths, of all replicas."""
    return float(replicas * found.msd_A2[-1] / HOP_ANGSTROM**2)


def _countdown(show: Show, n_steps: int) -> Callable[[int], None]:
    """Says how far the dynamics is, and how long it takes at the pace so far."""
    begun = time.perf_counter()

    def tell(step: int) -> None:
        show(f"dynamics: step {step} of {n_steps}, {time_left(begun, step, n_steps)}")

    return tell


def _start(settings: Settings, engine: Engine, show: Show) -> tuple[Atoms, Reaction | None]:
    if settings.structure is not None:
        return read_structure(settings.structure, "structure"), None
    slab = fcc_slab()
    hollows = [place(slab, "H", site) for site in ("fcc", "hcp")]
    first, last = relax(engine, hollows, 0.01, 500, show).structures
    band = run_neb(engine, first, last, BandSettings(), show)
    return first, analyse(engine, band, [settings.temperature])


def _hops(reaction: Reaction) -> dict[str, float]:
    """D of hops between hollows; the rates back follow from the free energies of both ends."""
    nearest = PD_LATTICE_ANGSTROM / np.sqrt(2)
    back = rates_back(reaction)
    return {
        name: hollow_diffusion(float(forth[0]), back[name], nearest)
        for name, forth in reaction.rates.rate_per_s.items()
    }


def rates_back(reaction: Reaction) -> dict[str, float]:
    """Rate constants from the final to the initial state at the first temperature, 1/s."""
    here, top, there = reaction.modes
    reverse = rates(there, top, here, reaction.energies_eV[::-1], reaction.rates.temperature_K[:1])
    return {name: float(values[0]) for name, values in reverse.rate_per_s.items()}


def _report(  # noqa: PLR0913 (all that is reported)
    settings: Settings,
    start: Atoms,
    atom: int,
    found: Diffusion,
    hops: dict[str, float] | None,
    reaction: Reaction | None,
) -> Report:
    constant, error = found.constant_A2_per_ps, found.error_A2_per_ps
    quantities = [
        Quantity("diffusion_A2_per_ps", "Diffusion constant of the replicas", constant, "Å²/ps", 4),
        Quantity("diffusion_error_A2_per_ps", "… its standard error", error, "Å²/ps", 4),
        Quantity("diffusion_cm2_per_s", "The same", f"{constant * 1e-4:.2e}", "cm²/s"),
        Quantity("fit_from_ps", "Fitted from a lag of", found.fit_from_ps, "ps"),
        Quantity("fit_to_ps", "Fitted to a lag of", found.fit_to_ps, "ps"),
    ]
    for name, value in (hops or {}).items():
        label = f"Hops between hollows, {name} TST"
        quantities.append(Quantity(f"hops_{name}_A2_per_ps", label, value, "Å²/ps", 4))
    notes = [
        f"{settings.replicas} replicas of {settings.picoseconds:g} ps at {settings.temperature:g} "
        f"K; friction {settings.friction:g} 1/ps; the atom is {start.symbols[atom]}{atom}.",
        "Nuclei move classically: compare with classical TST.",
    ]
    if hops:
        notes.append(
            "Hops are single and forget one another; in molecular dynamics, barriers of a few k_B T"
            " allow long jumps and recrossings, and friction slows."
        )
    if reaction is not None and reaction.problems:
        notes.append(f"No prediction: {'; '.join(reaction.problems)}.")
    hopped = hop_lengths(found, settings.replicas)
    label = "Squared hop lengths moved, all replicas"
    quantities.append(Quantity("hop_lengths", label, hopped, "", 1))
    verdict = f"D = {constant:.3f} ± {error:.3f} Å²/ps at {settings.temperature:g} K"
    if hops:
        verdict += f"; classical hops give {hops['classical']:.3f} Å²/ps"
    if hopped < FEWEST_HOPS:
        verdict = (
            f"NO DIFFUSION CONSTANT: the replicas moved {hopped:.1f} squared hop lengths in all, "
            f"{FEWEST_HOPS} are wanted; the slope is of vibrations. More --picoseconds or "
            f"--replicas. {verdict}"
        )
    return Report(
        title=f"Diffusion of {start.symbols[atom]} in {start.get_chemical_formula()}",
        verdict=f"{verdict}.",
        quantities=tuple(quantities),
        notes=tuple(notes),
        files={
            "msd.png": "mean-square displacement against lag time",
            "final.extxyz": "the last structure of each replica",
        },
        data={
            "lag_ps": found.lag_ps,
            "msd_A2": found.msd_A2,
            "msd_error_A2": found.msd_error_A2,
        },
    )


def _moved(start: Atoms, positions: np.ndarray) -> Atoms:
    atoms = start.copy()
    atoms.set_constraint()
    atoms.positions = positions
    return atoms


app = workflow_app(Settings, run, goes_on=True)
