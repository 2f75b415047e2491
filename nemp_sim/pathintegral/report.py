"""The report of path-integral runs: quantum averages with error bars, and what they rest on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.units import kB

from nemp_sim.blocking import Average
from nemp_sim.files import write_structures
from nemp_sim.pairs import pair_figure
from nemp_sim.pathintegral.averages import Thermodynamics
from nemp_sim.pathintegral.dynamics import CentroidDynamics
from nemp_sim.pathintegral.input import Start
from nemp_sim.pathintegral.momentum import AXES, Momentum
from nemp_sim.pathintegral.plots import (
    bead_convergence,
    momentum_profile,
    spectrum,
    surface_density,
    time_series,
)
from nemp_sim.pathintegral.structure import Structure
from nemp_sim.plots import save_figure
from nemp_sim.report import Quantity, Report


@dataclass(frozen=True)
class IsotopeChange:
    """Free energy of a heavier isotope, by integration over the mass.

    Attributes:
        names: first and last isotope.
        masses_amu: masses of the runs.
        kinetic_eV: kinetic energy of one atom at each mass.
        change_eV: F(last) − F(first) of one atom.
        classical_eV: its classical part, −3/2 k_B T ln(m₂/m₁).
    """

    names: tuple[str, str]
    masses_amu: np.ndarray
    kinetic_eV: tuple[Average, ...]
    change_eV: Average
    classical_eV: float


@dataclass(frozen=True)
class Findings:
    """Everything that the runs of one workflow gave.

    Attributes:
        runs: one for each number of beads, fewest first.
        structure: of the run with the most beads.
        dynamics: of the same; None without velocities.
        isotope: None where not asked for.
        momentum: likewise.
    """

    runs: tuple[Thermodynamics, ...]
    structure: Structure
    dynamics: CentroidDynamics | None = None
    isotope: IsotopeChange | None = None
    momentum: Momentum | None = None


def pimd_report(
    title: str, found: Findings, notes: Sequence[str], files: Mapping[str, str]
) -> Report:
    """The report, without its provenance.

    Args:
        title: heading.
        found: results of the runs.
        notes: how the structure was made.
        files: name and content of each other file.
    """
    best = found.runs[-1]
    lightest = next(iter(best.kinetic_cv_eV))
    kinetic, classical = best.kinetic_cv_eV[lightest], 1.5e3 * kB * best.temperature_K
    verdict = (
        f"Kinetic energy of {lightest} {1e3 * kinetic.mean:.1f} ± {1e3 * kinetic.error:.1f} meV "
        f"(classical {classical:.1f} meV) with {best.beads} beads at {best.temperature_K:g} K, "
        f"averaged over {best.length_ps:.2f} ps."
    )
    remarks = [remark for run in found.runs for remark in run.remarks()]
    return Report(
        title=title,
        verdict=verdict,
        quantities=(
            *_energies(best),
            *_places(found.structure),
            *_motion(found.dynamics),
            *_isotope(found.isotope),
            *_momentum(found.momentum),
            *_quality(best, found.structure),
        ),
        notes=(*notes, *_convergence(found.runs, lightest), *remarks),
        files=files,
        data={
            "beads": [run.beads for run in found.runs],
            "by_beads": [_numbers(run) for run in found.runs],
            "pairs": {
                name: {k: v for k, v in vars(pair).items() if k != "bond_A"}
                for name, pair in found.structure.pairs.items()
            },
            "heights": {
                s.species: {"height_A": s.height_A, "density_per_A": s.height_per_A}
                for s in found.structure.surface
            },
            "momentum": None if found.momentum is None else vars(found.momentum),
            "spectrum": None if found.dynamics is None else vars(found.dynamics),
        },
    )


def _average(key: str, label: str, average: Average, unit: str, digits: int = 3) -> Quantity:
    return Quantity(key, label, average.mean, unit, digits, error=average.error)


def _energies(run: Thermodynamics) -> list[Quantity]:
    rows = []
    for key, name, values in (
        ("cv", "centroid virial", run.kinetic_cv_eV),
        ("td", "primitive", run.kinetic_td_eV),
    ):
        for species, average in values.items():
            label = f"Kinetic energy of {species} ({name})"
            scaled = average.scaled(1e3)
            rows.append(_average(f"kinetic_{key}_{species}_meV", label, scaled, "meV", 2))
    classical = 1.5e3 * kB * run.temperature_K
    rows.append(Quantity("kinetic_classical_meV", "Classical kinetic energy", classical, "meV", 2))
    rows.append(_average("potential_eV", "Potential energy", run.potential_eV, "eV", 4))
    label = "Kinetic (of the atoms that move) and potential energy"
    rows.append(_average("energy_eV", label, run.energy_eV, "eV", 4))
    for key, label, mean, unit, digits in (
        ("heat_capacity_kB", "Heat capacity at constant volume", run.heat_capacity_kB, "k_B", 1),
        ("pressure_MPa", "Pressure", run.pressure_MPa, "MPa", 1),
        ("volume_A3", "Volume", run.volume_A3, "Å³", 2),
        ("density_g_per_cm3", "Density", run.density_g_per_cm3, "g/cm³", 4),
    ):
        if mean is not None:
            rows.append(_average(key, label, mean, unit, digits))
    return rows


def _places(structure: Structure) -> list[Quantity]:
    rows = []
    for species, average in structure.gyration_A.items():
        label = f"Radius of gyration of {species}"
        rows.append(_average(f"gyration_{species}_A", label, average, "Å", 4))
    for name, pair in structure.pairs.items():
        if pair.bond_A is not None:
            key = f"bond_{name.replace('–', '_')}_A"
            rows.append(_average(key, f"Mean {name} distance of bonds", pair.bond_A, "Å", 4))
    for s in structure.surface:
        label = f"Mean height of {s.species} above the top layer"
        rows.append(_average(f"height_{s.species}_A", label, s.mean_height_A, "Å"))
        for key, what in (("in_plane", "in the plane"), ("normal", "along the normal")):
            label = f"Spread of the beads of {s.species} {what} (root mean square)"
            value = getattr(s, f"spread_{key}_A")
            rows.append(Quantity(f"spread_{key}_{s.species}_A", label, value, "Å"))
    return rows


def _motion(dynamics: CentroidDynamics | None) -> list[Quantity]:
    if dynamics is None:
        return []
    return [
        _average(f"diffusion_{species}_A2_per_ps", f"Diffusion of {species}", average, "Å²/ps", 4)
        for species, average in dynamics.diffusion_A2_per_ps.items()
    ]


def _isotope(isotope: IsotopeChange | None) -> list[Quantity]:
    if isotope is None:
        return []
    first, last = isotope.names
    rows = []
    for mass, average in zip(isotope.masses_amu, isotope.kinetic_eV, strict=True):
        key, label = f"kinetic_{mass:.3f}amu_meV", f"Kinetic energy at a mass of {mass:.3f} amu"
        rows.append(_average(key, label, average.scaled(1e3), "meV", 2))
    change = isotope.change_eV.scaled(1e3)
    quantum = change.scaled(1.0, -1e3 * isotope.classical_eV)
    key, label = f"free_energy_{first}_{last}", f"Free energy of one {last} instead of {first}"
    rows.append(_average(f"{key}_meV", label, change, "meV", 2))
    rows.append(_average(f"{key}_quantum_meV", f"{label}, quantum part", quantum, "meV", 2))
    return rows


def _momentum(momentum: Momentum | None) -> list[Quantity]:
    rows: list[Quantity] = []
    if momentum is None:
        return rows
    for axis in AXES:
        mean, error = momentum.kinetic_eV[axis], momentum.kinetic_error_eV[axis]
        key = f"kinetic_momentum_{momentum.species}_{axis}_meV"
        label = f"Kinetic energy of {momentum.species} along {axis} (momentum distribution)"
        rows.append(Quantity(key, label, 1e3 * mean, "meV", 2, error=1e3 * error))
    if momentum:
        label = "Share of the momentum distribution from paths outside the domain"
        value = 100 * momentum.outside_share
        rows.append(Quantity("momentum_outside_percent", label, value, "%", 2))
    return rows


def _quality(run: Thermodynamics, structure: Structure) -> list[Quantity]:
    temperature = run.kinetic_temperature_K
    worst = max(k.inefficiency for k in (run.energy_eV, *run.kinetic_cv_eV.values()))
    return [
        Quantity("n_beads", "Beads", run.beads),
        Quantity("temperature_K", "Temperature of the ensemble", run.temperature_K, "K", 1),
        _average("kinetic_temperature_K", "Temperature of the dynamics", temperature, "K", 1),
        Quantity("n_samples", "Lines averaged", run.n_samples),
        Quantity("n_frames", "Frames averaged", structure.n_frames),
        Quantity("inefficiency", "Lines for one independent value, at worst", worst, "", 1),
        Quantity(
            "conserved_meV_per_ps",
            "Drift of the conserved quantity for each atom",
            run.conserved_meV_per_ps,
            "meV/ps",
            3,
        ),
    ]


def _convergence(runs: Sequence[Thermodynamics], species: str) -> list[str]:
    if len(runs) < 2:
        return []
    before, last = (1e3 * run.kinetic_cv_eV[species].mean for run in runs[-2:])
    errors = [run.kinetic_cv_eV[species].error for run in runs[-2:]]
    error = 1e3 * np.hypot(errors[0], errors[1])
    return [
        f"From {runs[-2].beads} to {runs[-1].beads} beads the kinetic energy of {species} changes "
        f"by {last - before:+.1f} ± {error:.1f} meV."
    ]


def _numbers(run: Thermodynamics) -> dict[str, object]:
    kept = {k: v for k, v in vars(run).items() if k != "series"}
    return {k: dict(v) if isinstance(v, Mapping) else v for k, v in kept.items()}


def write_findings(directory: Path, start: Start, found: Findings) -> dict[str, str]:
    """Write the figures and the last beads; returns what each file of the directory holds."""
    figures = {"time.png": (time_series(found.runs[-1]), "energy and conserved quantity in time")}
    if len(found.runs) > 1:
        figures["beads.png"] = bead_convergence(found.runs), "kinetic energies, number of beads"
    if found.structure.pairs:
        figures["pairs.png"] = pair_figure(found.structure.pairs), "distances of pairs"
    for density in found.structure.surface:
        what = f"density of {density.species} above the surface"
        figures[f"surface-{density.species}.png"] = surface_density(density), what
    if found.dynamics is not None:
        what = "vibrational density of states of the centroids"
        figures["spectrum.png"] = spectrum(found.dynamics), what
    if found.momentum is not None:
        what = "momentum distribution along x, y, z, and the classical one"
        figures[f"momentum-{found.momentum.species}.png"] = momentum_profile(found.momentum), what
    for name, (figure, _) in figures.items():
        save_figure(figure, directory / name)
    beads = []
    for places in found.structure.last_beads:
        atoms = start.atoms.copy()
        atoms.positions = places @ start.rotation
        atoms.cell = start.atoms.cell.array @ start.rotation
        beads.append(atoms)
    write_structures(directory / "beads.extxyz", beads)
    files = {name: what for name, (_, what) in figures.items()}
    files["beads.extxyz"] = "all beads of the last frame, turned back as the structure was given"
    files["start.extxyz"] = "the structure that the simulations started from"
    files["beads-*/"] = "i-PI's own files: input.xml, run.out, run.pos_*.xyz, RESTART, i-pi.log"
    return files
