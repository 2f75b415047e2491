"""Minimum-energy path and barrier between two structures, by batched nudged elastic band.

Without options: H from fcc to hcp on Pd(111). A job of your own, with any files that ASE reads:
nemp neb --initial a.traj --final b.traj
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from ase import Atoms
from matplotlib.figure import Figure

from nemp_sim.command import workflow_app
from nemp_sim.config import require, require_plain_name
from nemp_sim.console import Show, logged
from nemp_sim.errors import InputError, NempError
from nemp_sim.files import read_structure, read_structures
from nemp_sim.locks import alone
from nemp_sim.plots import remove_figure, save_figure
from nemp_sim.reactions.ends import check_ends
from nemp_sim.reactions.matching import match_atoms
from nemp_sim.reactions.neb import BandSettings, NEBResult, run_neb
from nemp_sim.reactions.neb_report import (
    band_report,
    is_uncertain,
    with_reaction,
    with_steps,
    write_images,
    write_reaction,
)
from nemp_sim.reactions.path_std import PathStd, band_stds
from nemp_sim.reactions.plots import neb_profile
from nemp_sim.reactions.reaction import Reaction, analyse
from nemp_sim.reactions.steps import elementary_steps
from nemp_sim.relax import Engine, KeptStep, Relaxation, Step, relax
from nemp_sim.report import Quantity, Report, concluded, write_report
from nemp_sim.start_check import check_start
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import (
    PD_LATTICE_ANGSTROM,
    fcc_slab,
    freeze_lowest_layers,
    slab_words,
    vacuum_words,
)
from nemp_sim.views import two_views
from nemp_sim.workflow import WorkflowResult, ended, engine_of


@dataclass(frozen=True)
class Settings:
    """Everything that fixes a run.

    Attributes:
        initial: file of the initial state (its last frame); None: H from fcc to hcp on
            Pd(111).
        final: file of the final state, where ``initial`` is given.
        potential: path or name of a potential.
        head: read-out of the potential; None: the only one.
        images: moving images between the ends.
        fmax: largest force on an atom at convergence, of the ends and of the band, eV/Å.
        steps: most optimiser steps, of the ends and of the band each.
        spring: spring constant between images, eV/Å².
        climb: let the highest image climb onto the saddle.
        max_images: add images beside the highest, up to this many; None: ``images`` throughout.
        match: put the atoms of the final state into the order that moves them least.
        restart: start from the band that an earlier run of this name has left.
        split: a band for each elementary step, where minima lie on the way.
        fixed_layers: lowest layers held where a file holds no constraints; None: one layer in the
            default job, none in files.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32" or "float64"; None: that of the potential.
        on_extrapolation: outside the domain of the potential: "warn", "raise" or "ignore".
        out: directory of all results.
        name: the results go to ``out``/neb-``name``; None: made from the file names.
        full: go on from the band to a proved saddle, vibrations and rate constants.
        temperatures: temperatures of the rate constants, K.
        instanton: temperatures of instanton rates, K, below the crossover; empty: none.
        vibrating: atoms that vibrate; None: all that are free.
        max_std: largest predicted standard deviation of a barrier that is accepted, eV.
        lattice_constant_angstrom: lattice constant of Pd in the default job, Å.
    """

    initial: Path | None = None
    final: Path | None = None
    potential: str = "pdh.pt"
    head: str | None = None
    images: int = 7
    fmax: float = 0.02
    steps: int = 500
    spring: float = 0.1
    climb: bool = True
    max_images: int | None = None
    match: bool = False
    restart: bool = False
    split: bool = False
    fixed_layers: int | None = None
    device: str = "auto"
    dtype: str | None = None
    on_extrapolation: str = "warn"
    out: Path = Path("results")
    name: str | None = None
    full: bool = False
    temperatures: tuple[float, ...] = tuple(range(100, 601, 50))
    instanton: tuple[float, ...] = ()
    vibrating: tuple[int, ...] | None = None
    max_std: float = 0.2
    lattice_constant_angstrom: float = PD_LATTICE_ANGSTROM

    def __post_init__(self) -> None:
        """Check what can be checked without files."""
        for name in ("initial", "final", "out"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, Path(getattr(self, name)))
        self.band()
        good = self.temperatures and min(self.temperatures) > 0
        require(bool(good), "temperatures", self.temperatures, "above 0 K, at least one")
        require(self.max_std > 0, "max_std", self.max_std, "positive (eV)")
        good = min(self.instanton, default=1.0) > 0 and (self.full or not self.instanton)
        require(good, "instanton", self.instanton, "above 0 K, and left out without --full")
        for given, missing in (("initial", "final"), ("final", "initial")):
            if getattr(self, given) and not getattr(self, missing):
                raise InputError(
                    f"{given} is {str(getattr(self, given))!r}, but {missing} is not given. Give "
                    "both --initial and --final, or neither for H on Pd(111)."
                )
        require_plain_name(self.name)

    def band(self) -> BandSettings:
        """The part that concerns the band.

        Raises:
            InputError: a value out of its range.
        """
        return BandSettings(
            self.images, self.fmax, self.steps, self.spring, self.climb, self.max_images
        )

    def plan(self) -> str:
        """What a run would do, in words."""
        job = prepare(self)
        more = "; then the saddle, its proof, vibrations and rates" if self.full else ""
        return (
            f"{job.title}: relax both ends ({len(job.ends[0])} atoms), then a band of "
            f"{self.images} images, at most {self.steps} steps each{more}."
        )

    @property
    def directory(self) -> Path:
        """Where the results go."""
        made = "h-pd111-fcc-hcp"
        if self.initial and self.final:
            made = f"{self.initial.stem}-{self.final.stem}"
        return self.out / f"neb-{self.name or made}"


@dataclass(frozen=True)
class Job:
    """Two ends as read or built, before relaxation.

    Attributes:
        title: what is done.
        ends: initial and final state.
        names: their names in the figure.
        notes: what was done to them, for the report.
    """

    title: str
    ends: tuple[Atoms, Atoms]
    names: tuple[str, str] = ("initial", "final")
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result(WorkflowResult[Settings]):
    """Outcome of a run, besides its settings, directory and report.

    Attributes:
        relaxation: the two ends, relaxed together.
        band: the band between them.
        converged: whether ends and band both are.
        reaction: saddle, proof, modes and rates, where asked for and the band converged.
        std: predicted standard deviations of the band; None without an ensemble.
    """

    relaxation: Relaxation
    band: NEBResult
    converged: bool
    reaction: Reaction | None = None
    std: PathStd | None = None

    @property
    def trusted(self) -> bool:
        """Whether all that was asked for is there: converged, the saddle proved, certain."""
        std = self.std if self.reaction is None else self.reaction.std
        uncertain = is_uncertain(std, self.settings.max_std)
        if self.reaction is None:
            return self.converged and self.band.has_saddle and not uncertain
        lacking = self.reaction.problems or self.reaction.missing_instantons_K
        return self.converged and not lacking and not uncertain


@logged
@alone
def run(settings: Settings, engine: Engine | None = None, show: Show | None = None) -> Result:
    """Relax both ends, find the path, write the files.

    Args:
        settings: what to do.
        engine: evaluates the structures; None loads ``settings.potential``.
        show: called after each optimiser step.

    Raises:
        PotentialFileError: no such potential.
        InputError: ends that cannot be used, or an element that the potential does not know.
        EvaluationError: energies or forces that are not finite; the last complete band is kept.
    """
    started = time.perf_counter()
    job = matched(prepare(settings), settings.match)
    check_ends(*job.ends)
    path = earlier_band(settings) if settings.restart else None
    dtype = "float64" if settings.full else None  # second derivatives
    engine = engine_of(engine, settings, settings.potential, settings.head, dtype)
    check_start(engine, dict(zip(("initial", "final"), job.ends, strict=True)))
    settings.directory.mkdir(parents=True, exist_ok=True)
    kept = KeptStep(show or (lambda step: None), _on_the_way(settings))
    try:
        relaxation = relax(engine, job.ends, settings.fmax, settings.steps, kept)
        first, last = relaxation.structures
        band = run_neb(engine, first, last, settings.band(), kept, path)
        steps = elementary_steps(engine, band, settings.band()) if settings.split else []
    except (NempError, KeyboardInterrupt) as error:
        if kept.step:
            _write_unfinished(settings, engine, job, kept.step, error, started)
        raise
    converged = relaxation.converged and band.converged
    std, *of_steps = band_stds(engine, [band, *steps])
    limits = settings.fmax, relaxation, band, std, settings.max_std
    report = band_report(job.title, job.notes, *limits)
    write_images(settings.directory / "neb.extxyz", band.images, band.path_length_A)
    if steps:
        report = with_steps(report, steps, of_steps)
        for number, step in enumerate(steps, 1):
            path_A = step.path_length_A
            write_images(settings.directory / f"step-{number}.extxyz", step.images, path_A)
    converged = converged and all(step.converged for step in steps)
    reaction = None
    if settings.full and converged:
        wanted = settings.temperatures, settings.vibrating, kept, settings.instanton
        reaction = analyse(engine, band, *wanted)
        report = with_reaction(report, reaction, settings.max_std)
        write_reaction(settings.directory, reaction, job.title)
    report = ended(report, engine, settings, started, band.images)
    drawn = replace(band, converged=relaxation.converged and band.converged)
    save_figure(neb_profile(drawn, job.names, std), settings.directory / "neb.png")
    save_figure(_geometry(job, band, reaction), settings.directory / "geometry.png")
    write_report(report, settings.directory)
    _on_the_way(settings).unlink(missing_ok=True)
    return Result(settings, report, relaxation, band, converged, reaction, std)


def prepare(settings: Settings) -> Job:
    """Read the two ends, or build the default job.

    Raises:
        InputError: an unreadable file, or a number of fixed layers that does not fit.
    """
    if settings.initial is None or settings.final is None:
        slab = fcc_slab(
            lattice_constant_angstrom=settings.lattice_constant_angstrom,
            fixed_layers=1 if settings.fixed_layers is None else settings.fixed_layers,
        )
        ends = place(slab, "H", "fcc"), place(slab, "H", "hcp")
        a = settings.lattice_constant_angstrom
        whose = " of PBE, of the Pd–H training data" if a == PD_LATTICE_ANGSTROM else ""
        note = (
            f"Pd(111), 2 × 2 cell, {slab_words(slab)}; lattice constant {a} Å{whose}, not the "
            "potential's own, at which nemp adsorption builds its slabs."
        )
        return Job("H from fcc to hcp on Pd(111)", ends, ("fcc", "hcp"), (note,))
    ends = read_structure(settings.initial, "initial"), read_structure(settings.final, "final")
    title = f"{settings.initial.name} to {settings.final.name}"
    layers, space = settings.fixed_layers, vacuum_words(ends[0])
    cell = f" The cell: {space}." if space else ""
    if any(atoms.constraints for atoms in ends):
        ignored = f" --fixed-layers {layers} was not used." if layers is not None else ""
        return Job(title, ends, notes=(f"Constraints are those of the files.{ignored}{cell}",))
    if not layers:
        return Job(title, ends, notes=(f"No atom is held.{cell}",))
    initial = freeze_lowest_layers(ends[0], layers)
    final = ends[1].copy()
    final.set_constraint(initial.constraints)
    held = len(initial.constraints[0].index)
    words = f"the lowest {layers} layers are held" if layers > 1 else "the lowest layer is held"
    note = f"The files hold no constraints: {words} ({held} atoms).{cell}"
    return Job(title, (initial, final), notes=(note,))


def matched(job: Job, apply: bool) -> Job:
    """The job with its atoms matched, or with a note that another order is shorter."""
    if job.ends[0].numbers.tolist() != job.ends[1].numbers.tolist():
        return job  # check_ends says what differs
    found = match_atoms(*job.ends)
    ways = f"{found.way_A:.2f} Å instead of {found.given_way_A:.2f} Å"
    if apply and (found.order != range(len(found.order))).any():
        final = found.applied(job.ends[1])
        note = f"Atoms of the final state were matched to those of the initial one: {ways}."
        return replace(job, ends=(job.ends[0], final), notes=(*job.notes, note))
    if found.is_shorter and not apply:
        note = f"WARNING: another order of like atoms makes the way shorter ({ways}): --match."
        return replace(job, notes=(*job.notes, note))
    return job


def earlier_band(settings: Settings) -> list[Atoms]:
    """The moving images that an earlier run of this name has left, or had written when killed.

    Raises:
        InputError: there is none.
    """
    on_the_way = _on_the_way(settings)
    path = on_the_way if on_the_way.is_file() else settings.directory / "neb.extxyz"
    images = read_structures(path, "restart")
    if len(images) < 3:
        raise InputError(
            f"restart: {path} holds {len(images)} structures and no "
            "band: the run broke off before. Leave --restart out."
        )
    return images[1:-1]


def _write_unfinished(
    settings: Settings,
    engine: Engine,
    job: Job,
    step: Step,
    error: BaseException,
    started: float,
) -> None:
    """The last complete structures and a report that says where and why the run broke off."""
    write_images(settings.directory / "neb.extxyz", step.images)
    for name in ("neb.png", "geometry.png"):
        remove_figure(settings.directory / name)
    reason = str(error) or type(error).__name__
    report = Report(
        title=f"Nudged elastic band: {job.title}",
        verdict=f"BROKEN OFF after step {step.number} of stage '{step.stage}': {reason}",
        quantities=(Quantity("converged", "Converged", False),),
        notes=job.notes,
        files={"neb.extxyz": "the structures of the last complete step"},
    )
    write_report(concluded(report, engine, settings, started), settings.directory)
    _on_the_way(settings).unlink(missing_ok=True)


def _on_the_way(settings: Settings) -> Path:
    """The band that a run writes now and then, until it ends."""
    return settings.directory / "on-the-way.extxyz"


def _geometry(job: Job, band: NEBResult, reaction: Reaction | None) -> Figure:
    """Both ends and what lies highest between them: the saddle, where it is known."""
    states = band.images[0], band.images[band.saddle_index], band.images[-1]
    middle = "highest image"
    if reaction is not None:
        states, middle = reaction.states, "saddle"
    return two_views(states, (job.names[0], middle, job.names[1]))


app = workflow_app(Settings, run)
