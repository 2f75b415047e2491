"""Everything that may be asked of a crystal beyond its bands: run, drawn, and put into a report."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms
from matplotlib.figure import Figure

from nemp_sim.config import require
from nemp_sim.errors import InputError
from nemp_sim.minimum import FMAX_EV_PER_A
from nemp_sim.phonons import extra_plots as plots
from nemp_sim.phonons.anharmonic import effective_constants, velocity_spectrum
from nemp_sim.phonons.convergence import (
    LENGTHS_ANGSTROM,
    RADII_ANGSTROM,
    TOLERANCE_THZ,
    sweep,
)
from nemp_sim.phonons.force_constants import (
    DISPLACEMENT_ANGSTROM,
    ForceConstants,
    fitting_qpoints,
    to_ase,
)
from nemp_sim.phonons.gamma import choose_atoms, gamma_modes
from nemp_sim.phonons.gruneisen import DELTA, gruneisen
from nemp_sim.phonons.md import run_replicas, timestep_for
from nemp_sim.phonons.parts import (
    Part,
    convergence_part,
    dynamics_part,
    gamma_part,
    gruneisen_part,
    qha_part,
    velocity_part,
)
from nemp_sim.phonons.qha import N_VOLUMES, PERCENT, quasi_harmonic, volume_ratios
from nemp_sim.phonons.spectra import Spectra, band_structure
from nemp_sim.phonons.surface import adsorbate_atoms, groups_of_slab, projected_on
from nemp_sim.phonons.velocity import speeds_of_modes, speeds_of_sound
from nemp_sim.phonons.volumes import at_volumes
from nemp_sim.plots import save_figure
from nemp_sim.relax import Engine


@dataclass(frozen=True)
class Wanted:
    """Which analyses to do, and how.

    Attributes:
        displacement: of the atoms, Å.
        fmax: largest force allowed on an atom, eV/Å.
        steps: most optimiser steps.
        primitive: "auto" or "P"; None: "auto" for bulk, "P" for slabs.
        t_max: highest temperature, K.
        t_step: between temperatures, K.
        adsorbate: atoms of a slab ("H", "12 13") whose modes at Γ on a frozen slab are wanted;
            None: those of elements that the lowest layer does not hold.
        gruneisen: mode Grüneisen parameters (bulk).
        qha: quasi-harmonic approximation (bulk).
        volumes: how many volumes.
        volume_range: lowest and highest volume, % from the relaxed one.
        converge: sweep supercells and displacement lengths.
        sweep_displacements: lengths of the sweep, Å.
        sweep_radii: half the shortest lattice vector of each supercell of the sweep, Å.
        tolerance: largest change of a frequency that counts as none, THz.
        md: temperature of classical dynamics, K; None: none.
        md_ps: its length, ps.
        md_replicas: trajectories side by side.
        seed: of its random numbers.
    """

    displacement: float = DISPLACEMENT_ANGSTROM
    fmax: float = FMAX_EV_PER_A
    steps: int = 500
    primitive: str | None = None
    t_max: float = 1000.0
    t_step: float = 10.0
    adsorbate: str | None = None
    gruneisen: bool = False
    qha: bool = False
    volumes: int = N_VOLUMES
    volume_range: tuple[float, ...] = PERCENT
    converge: bool = False
    sweep_displacements: tuple[float, ...] = LENGTHS_ANGSTROM
    sweep_radii: tuple[float, ...] = RADII_ANGSTROM
    tolerance: float = TOLERANCE_THZ
    md: float | None = None
    md_ps: float = 5.0
    md_replicas: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked without a crystal."""
        for name in ("fmax", "displacement", "t_step", "tolerance", "md_ps"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        require(self.t_max >= 0, "t_max", self.t_max, "0 K or above")
        require(self.steps >= 1, "steps", self.steps, "1 or more")
        require(self.md is None or self.md > 0, "md", self.md, "positive (K)")
        require(self.md_replicas >= 1, "md_replicas", self.md_replicas, "1 or more")
        volume_ratios(self.volume_range, self.volumes)
        for name in ("sweep_displacements", "sweep_radii"):
            values = getattr(self, name)
            require(len(set(values)) >= 2 and min(values) > 0, name, values, "two or more (Å)")

    def temperatures_K(self) -> np.ndarray:
        """From 0 K on, (t,)."""
        return np.arange(0.0, self.t_max + 0.5 * self.t_step, self.t_step)


@dataclass(frozen=True)
class Crystal:
    """What the analyses work on.

    Attributes:
        engine: evaluates structures.
        atoms: at their minimum.
        constants: their force constants.
        found: what follows from them.
        title: of the figures.
    """

    engine: Engine
    atoms: Atoms
    constants: ForceConstants
    found: Spectra
    title: str


def analyse(
    crystal: Crystal, wanted: Wanted, say: Callable[[str], None] = lambda text: None
) -> tuple[list[Part], dict[str, object]]:
    """Do every analysis that is wanted, and those that cost nothing.

    Args:
        crystal: with force constants and spectra.
        wanted: which analyses.
        say: called with what is being done.

    Returns:
        What they add to the report, and their results by name ("modes", "gruneisen", "qha",
        "convergence", "dynamics", "spectrum", "effective", "speeds").

    Raises:
        InputError: an analysis that the structure does not allow.
        EvaluationError: one that could not be finished.
    """
    results: dict[str, object] = {}
    parts = [_velocities(crystal, results)]
    steps = (
        (True, "projecting on layers", _slab),
        (wanted.gruneisen or wanted.qha, "evaluating all volumes", _volumes),
        (wanted.converge, "sweeping supercells and displacements", _converge),
        (wanted.md is not None, "dynamics", _dynamics),
    )
    for do, text, analysis in steps:
        if do:
            say(text)
            parts += analysis(crystal, wanted, results, say)
    return parts, results


def drawn(part: Part, figures: dict[str, tuple[Figure, str]]) -> Part:
    """The part with figures (PNG and PDF) beside its files."""

    def write(directory: Path) -> None:
        part.write(directory)
        for name, (figure, _) in figures.items():
            save_figure(figure, directory / name)

    more = {name: what for name, (_, what) in figures.items()}
    return replace(part, files={**part.files, **more}, write=write)


def _velocities(crystal: Crystal, results: dict[str, object]) -> Part:
    speeds = results["speeds"] = speeds_of_sound(crystal.constants, crystal.found)
    figure = plots.group_velocities(*speeds_of_modes(crystal.found), crystal.title)
    what = "speed of every mode of the mesh"
    return drawn(velocity_part(speeds), {"velocities.png": (figure, what)})


def _slab(
    crystal: Crystal, wanted: Wanted, results: dict[str, object], say: Callable[[str], None]
) -> list[Part]:
    """Layers of a slab; modes of its adsorbate, or of the atoms that were asked for."""
    constants = crystal.constants
    cell = to_ase(constants.phonon.primitive, constants.periodic)
    slab = list(constants.periodic) == [True, True, False]
    chosen = adsorbate_atoms(cell) if slab else []
    if wanted.adsorbate is not None:
        chosen = choose_atoms(cell.get_chemical_symbols(), wanted.adsorbate)
    parts = []
    name = cell[chosen].get_chemical_formula() if chosen else ""
    if chosen:
        modes = results["modes"] = gamma_modes(constants, chosen)
        what = f"{name}, all other atoms held"
        parts.append(gamma_part(modes, constants, what, "adsorbate"))
    if slab and len(chosen) < len(cell):
        groups = projected_on(crystal.found, groups_of_slab(cell, chosen))
        figure = plots.slab_density(crystal.found, groups, crystal.title, name)
        data = {"layers_dos": {"frequencies_THz": crystal.found.dos.frequencies_THz, **groups}}
        figures = {"layers.png": (figure, "density of states of adsorbate and layers")}
        parts.append(drawn(Part(data=data), figures))
    return parts


def _volumes(
    crystal: Crystal, wanted: Wanted, results: dict[str, object], say: Callable[[str], None]
) -> list[Part]:
    """Grüneisen parameters and quasi-harmonic approximation, from one batch of volumes."""
    ratios = np.array([1 - DELTA, 1.0, 1 + DELTA])
    if wanted.qha:
        ratios = np.union1d(ratios, volume_ratios(wanted.volume_range, wanted.volumes))
    arguments = (crystal.engine, crystal.atoms, crystal.constants)
    volumes = at_volumes(*arguments, ratios, wanted.displacement, wanted.fmax, wanted.steps)
    mesh, parts = crystal.found.mesh_numbers, []
    if wanted.gruneisen:
        mode_parameters = gruneisen(volumes, mesh, crystal.found.raw.bands.qpoints)
        results["gruneisen"] = mode_parameters
        figure = plots.gruneisen_parameters(mode_parameters, crystal.title)
        figures = {"gruneisen.png": (figure, "mode parameters, and their mean")}
        parts.append(drawn(gruneisen_part(mode_parameters), figures))
    if wanted.qha:
        say("minimising the free energy at each temperature")
        found = quasi_harmonic(volumes, mesh, wanted.temperatures_K())
        results["qha"] = found
        thermal = crystal.found.thermal
        heat = np.interp(
            found.temperatures_K, thermal.temperatures_K, thermal.heat_capacity_J_per_K_mol
        )
        figure = plots.quasi_harmonic(found, heat, crystal.title)
        figures = {"qha.png": (figure, "volume, expansion, bulk modulus, heat capacity")}
        parts.append(drawn(qha_part(found, len(crystal.constants.phonon.primitive)), figures))
    return parts


def _converge(
    crystal: Crystal, wanted: Wanted, results: dict[str, object], say: Callable[[str], None]
) -> list[Part]:
    found = sweep(
        crystal.engine,
        crystal.atoms,
        wanted.sweep_displacements,
        wanted.sweep_radii,
        wanted.tolerance,
        wanted.primitive,
    )
    results["convergence"] = found
    figure = plots.convergence(found, crystal.title)
    figures = {"convergence.png": (figure, "change with supercell and displacement")}
    return [drawn(convergence_part(found), figures)]


def _dynamics(
    crystal: Crystal, wanted: Wanted, results: dict[str, object], say: Callable[[str], None]
) -> list[Part]:
    constants, found = crystal.constants, crystal.found
    if found.max_THz <= 0:
        raise InputError("md: no real mode sets a time step. Look at the bands first.")
    supercell = to_ase(constants.phonon.supercell, crystal.atoms.pbc)
    dynamics = run_replicas(
        crystal.engine,
        supercell,
        wanted.md,
        timestep_for(found.max_THz),
        wanted.md_ps,
        wanted.md_replicas,
        wanted.seed,
        lambda step, steps: say(f"dynamics: step {step} of {steps}"),
    )
    cells = len(supercell) / len(constants.phonon.primitive)
    spectrum = velocity_spectrum(dynamics, cells)
    effective = effective_constants(constants, dynamics)
    results |= {"dynamics": dynamics, "spectrum": spectrum, "effective": effective}
    _, bands = band_structure(effective.constants.phonon, constants.periodic)
    phonon = constants.phonon
    modes = np.maximum(phonon.run_qpoints(fitting_qpoints(phonon)).frequencies, 0.0)
    mean = float(modes.sum() / (modes.size - 3))
    figure = plots.dynamics(found, bands, spectrum, dynamics.temperature_K, crystal.title)
    figures = {"dynamics.png": (figure, "harmonic bands and DOS beside those of the dynamics")}
    return [drawn(dynamics_part(dynamics, spectrum, effective, mean), figures)]
