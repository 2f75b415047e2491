"""Adsorption energies of molecules on all distinct sites of an fcc surface, relaxed in one batch.

Without options: H on Pd(111) with pdh.pt. Another job: nemp adsorption --metal Pd3Ag
--facet 100 --adsorbates "CO OH" --potential my.pt --zpe
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from nemp_sim.command import workflow_app
from nemp_sim.config import require, require_plain_name
from nemp_sim.console import Show, logged
from nemp_sim.errors import NempError
from nemp_sim.files import read_structure, write_structures
from nemp_sim.locks import alone
from nemp_sim.plots import save_figure
from nemp_sim.potential import Potential
from nemp_sim.relax import Engine, KeptStep, Relaxation, relax
from nemp_sim.report import write_report
from nemp_sim.start_check import check_start
from nemp_sim.surfaces.adsorbates import FORMS, gas_molecule
from nemp_sim.surfaces.adsorption import Minimum, candidates, merged, outcome
from nemp_sim.surfaces.energies import BOUND, Energies
from nemp_sim.surfaces.plots import energy_levels, site_map
from nemp_sim.surfaces.report import adsorption_report
from nemp_sim.surfaces.slabs import (
    FACETS,
    composition_shares,
    equation_of_state,
    fcc_slab,
    slab_words,
)
from nemp_sim.vibrations import Vibrations, vibrations
from nemp_sim.workflow import WorkflowResult, ended, engine_of


@dataclass(frozen=True)
class Settings:
    """Everything that fixes a run.

    Attributes:
        metal: one metal ("Pd") or a formula whose elements are dealt at random ("Pd3Ag").
        facet: "111", "100" or "110".
        size: surface cells along both in-plane vectors, and layers.
        slab: file of a slab of your own order, in the cell of ``slabs.fcc_slab``; None: built.
        adsorbates: names of ``surfaces.adsorbates.FORMS``: H, CO, OH …
        sites: kinds of sites (top, bridge, fcc, hcp, hollow …); None: all.
        subsurface: also the holes below the surface, for lone atoms.
        lattice_constant: lattice constant, Å; None: from the equation of state of the potential.
        fixed_layers: lowest layers held.
        seed: seed of the order of an alloy.
        fmax: largest force on an atom at convergence, eV/Å.
        steps: most optimiser steps.
        optimizer: "lbfgs" or "fire".
        zpe: zero-point energies of the adsorbates and gas molecules as well.
        max_std: largest predicted standard deviation of an adsorption energy that is accepted, eV.
        potential: path or name of a potential.
        head: read-out of the potential; None: the only one.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32" or "float64".
        on_extrapolation: outside the domain of the potential: "warn", "raise" or "ignore".
        out: directory of all results.
        name: the results go to ``out``/adsorption-``name``; None: made from metal and facet.
    """

    metal: str = "Pd"
    facet: str = "111"
    size: tuple[int, int, int] = (2, 2, 3)
    slab: Path | None = None
    adsorbates: tuple[str, ...] = ("H",)
    sites: tuple[str, ...] | None = None
    subsurface: bool = True
    lattice_constant: float | None = None
    fixed_layers: int = 1
    seed: int = 0
    fmax: float = 0.01
    steps: int = 500
    optimizer: str = "lbfgs"
    zpe: bool = False
    max_std: float = 0.4
    potential: str = "pdh.pt"
    head: str | None = None
    device: str = "auto"
    dtype: str | None = "float64"
    on_extrapolation: str = "warn"
    out: Path = Path("results")
    name: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without files."""
        object.__setattr__(self, "out", Path(self.out))
        composition_shares(self.metal)
        require(self.facet in FACETS, "facet", self.facet, f"one of {', '.join(FACETS)}")
        require(bool(self.adsorbates), "adsorbates", self.adsorbates, "at least one name")
        for name in self.adsorbates:
            require(name in FORMS, "adsorbates", name, f"one of {', '.join(FORMS)}")
        for name in ("fmax", "max_std"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        require(self.steps >= 1, "steps", self.steps, "1 or more")
        require_plain_name(self.name)

    def plan(self) -> str:
        """What a run would do, in words."""
        zero = ", with zero-point energies" if self.zpe else ""
        return (
            f"{_title(self)}: relax the slab, the gas molecules and a candidate on every distinct "
            f"site, at most {self.steps} steps{zero}."
        )

    @property
    def directory(self) -> Path:
        """Where the results go."""
        made = self.slab.stem if self.slab else f"{self.metal}{self.facet}"
        return self.out / f"adsorption-{self.name or f'{made}-' + '-'.join(self.adsorbates)}"


@dataclass(frozen=True)
class Result(WorkflowResult[Settings]):
    """Outcome of a run, besides its settings, directory and report.

    Attributes:
        slab: the clean slab, relaxed.
        minima: without duplicates, saddles that a symmetric start ended on among them, with
            their energies.
        converged: whether the slab and the gas molecules did.
    """

    slab: Atoms
    minima: tuple[tuple[Minimum, Energies], ...]
    converged: bool

    @property
    def trusted(self) -> bool:
        """Whether every candidate converged too, and every uncertainty is accepted."""
        return self.converged and self.report.data["trusted"]


@logged
@alone
def run(settings: Settings, engine: Engine | None = None, show: Show | None = None) -> Result:
    """Relax slab, gas molecules and all candidates, compare, write the files.

    Args:
        settings: what to do.
        engine: evaluates the structures; None loads ``settings.potential``.
        show: called after each optimiser step.

    Raises:
        PotentialFileError: no such potential.
        InputError: a slab or a molecule that cannot be used, or an unknown element.
        EvaluationError: results that are not finite; the last complete step is kept.
    """
    started = time.perf_counter()
    engine = engine_of(engine, settings, settings.potential, settings.head)
    clean, notes = build_slab(settings, engine)
    check_start(engine, {"slab": clean})
    names = sorted({gas for name in settings.adsorbates for gas in FORMS[name].gas})
    settings.directory.mkdir(parents=True, exist_ok=True)
    kept = KeptStep(show or (lambda step: None))
    try:
        references = _relax(settings, engine, [clean, *map(gas_molecule, names)], kept)
        slab = references.structures[0]
        slab.info = clean.info
        start = candidates(slab, settings.adsorbates, _kinds(settings))
        relaxed = _relax(settings, engine, [c.atoms for c in start], kept)
    except (NempError, KeyboardInterrupt):
        if kept.step:
            write_structures(settings.directory / "broken-off.extxyz", kept.step.images)
        raise
    if not references.converged:
        notes.append("The clean slab or a gas molecule did NOT converge.")
    ends = zip(start, relaxed.structures, relaxed.fmax_each_eV_per_A, strict=True)
    every = [outcome(slab, c, atoms, fmax <= settings.fmax) for c, atoms, fmax in ends]
    minima = merged(slab, every)
    gases = dict(zip(names, references.structures[1:], strict=True))
    gas_modes = {name: vibrations(engine, gases[name]) for name in names if settings.zpe}
    values = energies(settings, engine, slab, gases, minima, gas_modes)
    found = tuple(zip(minima, values, strict=True))
    limits = settings.max_std, notes, gas_modes
    report = adsorption_report(_title(settings), slab, found, *limits)
    bound = [slab, *(m.atoms for m in minima if m.state in BOUND)]
    report = ended(report, engine, settings, started, bound)
    write_structures(settings.directory / "adsorption.extxyz", [slab, *(m.atoms for m in minima)])
    save_figure(energy_levels(found, _title(settings)), settings.directory / "adsorption.png")
    save_figure(site_map(slab, found), settings.directory / "sites.png")
    write_report(report, settings.directory)
    (settings.directory / "broken-off.extxyz").unlink(missing_ok=True)
    return Result(settings, report, slab, found, references.converged)


def build_slab(settings: Settings, engine: Engine) -> tuple[Atoms, list[str]]:
    """The clean slab, and what is said of it.

    Raises:
        InputError: an unreadable file, or a potential that does not hold the metal.
    """
    if settings.slab is not None:
        slab = read_structure(settings.slab, "slab")
        words = f"{slab.get_chemical_formula()}, {slab_words(slab)}"
        return slab, [f"Slab of {settings.slab.name}: {words}."]
    a, how = settings.lattice_constant, "as given"
    if a is None:
        bulk = equation_of_state(engine, settings.metal, settings.seed)
        a, how = bulk.lattice_constant_angstrom, "from the equation of state of the potential"
    slab = fcc_slab(
        settings.metal,
        settings.facet,
        lattice_constant_angstrom=a,
        size=settings.size,
        fixed_layers=settings.fixed_layers,
        seed=settings.seed,
    )
    cells = f"{settings.size[0]} × {settings.size[1]} cell, {slab_words(slab)}"
    return slab, [f"{settings.metal}({settings.facet}), {cells}; a = {a:.4f} Å {how}."]


def energies(  # noqa: PLR0913 (everything that is compared)
    settings: Settings,
    engine: Engine,
    slab: Atoms,
    gases: dict[str, Atoms],
    minima: list[Minimum],
    gas_modes: dict[str, Vibrations],
) -> list[Energies]:
    """Adsorption energy, uncertainty, zero-point correction and domain of each structure."""
    names = list(gases)
    wanted: dict[str, Any] = {}
    if isinstance(engine, Potential):
        wanted = {"uncertainty": engine.n_members > 0, "on_extrapolation": "ignore"}
    evaluated = engine.evaluate([slab, *gases.values(), *(m.atoms for m in minima)], **wanted)
    members = getattr(evaluated, "energy_members", None)
    found = []
    for number, minimum in enumerate(minima):
        weights = np.zeros(len(evaluated.energy))
        weights[0], weights[1 + len(names) + number] = -1.0, 1.0
        gas = FORMS[minimum.adsorbate].gas
        for name, amount in gas.items():
            weights[1 + names.index(name)] = -amount
        own = None if members is None else weights @ members
        modes = _modes(settings, engine, slab, minimum)
        correction = None
        if modes is not None:
            of_gas = sum(n * gas_modes[g].zero_point_energy_eV for g, n in gas.items())
            correction = modes.zero_point_energy_eV - of_gas
        outside = evaluated.outside[1 + len(names) + number] if wanted else None
        found.append(Energies(float(weights @ evaluated.energy), own, correction, modes, outside))
    return found


def _modes(settings: Settings, engine: Engine, slab: Atoms, minimum: Minimum) -> Vibrations | None:
    if not settings.zpe or minimum.state == "not converged":
        return None
    return vibrations(engine, minimum.atoms, range(len(slab), len(minimum.atoms)))


def _kinds(settings: Settings) -> list[str] | None:
    if settings.sites is not None or not settings.subsurface:
        return list(settings.sites) if settings.sites else None
    above = {"111": ["top", "bridge", "fcc", "hcp"], "100": ["top", "bridge", "hollow"]}
    above["110"] = ["top", "shortbridge", "longbridge", "hollow"]
    return [*above[settings.facet], "sub_oct", "sub_tet"]


def _relax(
    settings: Settings, engine: Engine, structures: list[Atoms], kept: KeptStep
) -> Relaxation:
    return relax(engine, structures, settings.fmax, settings.steps, kept, settings.optimizer)


def _title(settings: Settings) -> str:
    surface = settings.slab.stem if settings.slab else f"{settings.metal}({settings.facet})"
    return f"{', '.join(settings.adsorbates)} on {surface}"


app = workflow_app(Settings, run, sections=("Structures",))
