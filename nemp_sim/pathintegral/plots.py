"""Figures of path-integral runs: convergence, time series, distances, densities, spectra."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase.units import kB
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nemp_sim.pathintegral.averages import Thermodynamics
from nemp_sim.pathintegral.dynamics import CentroidDynamics
from nemp_sim.pathintegral.free_energy import Profile
from nemp_sim.pathintegral.momentum import AXES, Momentum
from nemp_sim.pathintegral.structure import SurfaceDensity
from nemp_sim.plots import (
    BLACK,
    BLUE,
    ELEMENT_COLOURS,
    FONT_POINTS,
    GREY,
    VERMILLION,
    new_figure,
    style_axes,
)

DASHED = (0, (4, 3))
SLOW_PER_CM = 150.0  # translation, rotation and diffusion


def bead_convergence(runs: Sequence[Thermodynamics]) -> Figure:
    """Quantum kinetic energy of each species against the number of beads, with error bars."""
    figure, axes = new_figure()
    runs = sorted(runs, key=lambda run: run.beads)
    beads = [run.beads for run in runs]
    for colour, species in zip(ELEMENT_COLOURS, runs[-1].kinetic_cv_eV, strict=False):
        found = [run.kinetic_cv_eV[species] for run in runs]
        means, errors = ([1e3 * getattr(k, name) for k in found] for name in ("mean", "error"))
        style: dict[str, Any] = {
            "ms": 5,
            "lw": 1.2,
            "capsize": 3,
            "color": colour,
            "label": species,
        }
        axes.errorbar(beads, means, errors, fmt="o-", **style)
    classical = 1.5e3 * kB * runs[0].temperature_K
    axes.axhline(classical, color=GREY, linewidth=0.8, linestyle=DASHED, zorder=0)
    text: dict[str, Any] = {
        "xytext": (-4, -3),
        "textcoords": "offset points",
        "ha": "right",
        "va": "top",
    }
    where: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "color": GREY,
        "fontsize": FONT_POINTS - 1,
    }
    axes.annotate("classical", (1.0, classical), **text, **where)
    axes.set_xscale("log", base=2)
    axes.set_xticks(beads, [str(p) for p in beads])
    axes.minorticks_off()
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("Beads", fontsize=FONT_POINTS)
    axes.set_ylabel("Kinetic energy of an atom (meV)", fontsize=FONT_POINTS)
    axes.legend(fontsize=FONT_POINTS - 1, frameon=False)
    return figure


def time_series(run: Thermodynamics) -> Figure:
    """Total energy with its running average, and the change of the conserved quantity."""
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    time, energy = run.series["time_ps"], run.series["energy_eV"]
    shifted = energy - energy.mean()
    running = np.cumsum(shifted) / np.arange(1, len(shifted) + 1)
    upper.plot(time, shifted, color=BLUE, linewidth=0.6, alpha=0.6, label="virial estimator")
    upper.plot(time, running, color=VERMILLION, linewidth=1.4, label="running average")
    upper.axhspan(-run.energy_eV.error, run.energy_eV.error, color=GREY, alpha=0.3, linewidth=0)
    upper.set_ylabel("Energy − mean (eV)", fontsize=FONT_POINTS)
    upper.legend(fontsize=FONT_POINTS - 1.5, frameon=False, ncols=2, loc="upper right")
    top = np.abs(shifted).max()
    upper.set_ylim(-1.1 * top, 1.5 * top)
    conserved = 1e3 * (run.series["conserved_eV"] - run.series["conserved_eV"][0])
    lower.plot(time, conserved, color=BLACK, linewidth=0.8)
    lower.set_ylabel("Conserved\n(meV)", fontsize=FONT_POINTS)
    lower.set_xlabel("Time (ps)", fontsize=FONT_POINTS)
    for axes in (upper, lower):
        style_axes(axes)
    figure.align_ylabels()
    return figure


def surface_density(density: SurfaceDensity) -> Figure:
    """Where the atoms of a species are: map of the beads over the surface, and their heights."""
    figure = Figure(figsize=(7.2, 3.3), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    ticks = np.linspace(0, 1, len(density.map_per_A2) + 1)
    grid = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), -1) @ density.in_plane
    mesh = left.pcolormesh(
        grid[..., 0], grid[..., 1], density.map_per_A2, cmap="Blues", rasterized=True
    )
    images = [[0, 0], [1, 0], [0, 1], [1, 1], [-1, 0], [0, -1], [-1, 1], [1, -1]]
    places = (np.array(images) @ density.in_plane)[:, None] + density.top_layer
    inside = (places @ np.linalg.inv(density.in_plane)).reshape(-1, 2)
    shown = ((inside > -0.02) & (inside < 1.02)).all(axis=1)
    left.plot(*places.reshape(-1, 2)[shown].T, "o", mfc="none", mec=GREY, ms=11, label="top layer")
    corner = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) @ density.in_plane
    left.set_xlim(corner[:, 0].min() - 0.5, corner[:, 0].max() + 0.5)
    left.set_ylim(corner[:, 1].min() - 0.5, corner[:, 1].max() + 0.5)
    left.set_aspect("equal")
    left.set_xlabel("x (Å)", fontsize=FONT_POINTS)
    left.set_ylabel("y (Å)", fontsize=FONT_POINTS)
    bar = figure.colorbar(mesh, ax=left)
    bar.set_label(f"{density.species} per Å², beads", fontsize=FONT_POINTS)
    bar.ax.tick_params(labelsize=FONT_POINTS - 1)
    right.plot(density.height_per_A, density.height_A, color=BLUE, linewidth=1.4)
    right.axhline(density.mean_height_A.mean, color=VERMILLION, linewidth=1.0, linestyle=DASHED)
    right.set_xlim(left=0.0)
    right.set_ylabel("Height above the top layer (Å)", fontsize=FONT_POINTS)
    right.set_xlabel("Probability density (1/Å)", fontsize=FONT_POINTS)
    for axes in (left, right):
        style_axes(axes)
    return figure


def spectrum(found: CentroidDynamics) -> Figure:
    """Vibrational density of states of the centroids of each species."""
    figure, axes = new_figure((5.4, 3.1))
    for colour, (name, density) in zip(ELEMENT_COLOURS, found.density_cm.items(), strict=False):
        axes.plot(found.wavenumber_per_cm, 1e3 * density, color=colour, linewidth=1.0, label=name)
    axes.set_xlim(0.0, found.wavenumber_per_cm[-1])
    every = 1e3 * np.array(list(found.density_cm.values()))
    slow = found.wavenumber_per_cm < SLOW_PER_CM
    top, highest = 1.2 * every[:, ~slow].max(initial=0.0), every.max()
    axes.set_ylim(0.0, top if 0 < 2 * top < highest else 1.05 * highest)
    if 0 < 2 * top < highest:  # rotation of a molecule, diffusion
        said = f"below {SLOW_PER_CM:.0f} cm$^{{-1}}$\nup to {highest:.0f}"
        axes.text(0.06, 0.95, said, transform=axes.transAxes, va="top", fontsize=FONT_POINTS - 1)
    axes.set_xlabel("Wavenumber (cm$^{-1}$)", fontsize=FONT_POINTS)
    axes.set_ylabel("Modes per atom and 1000 cm$^{-1}$", fontsize=FONT_POINTS)
    axes.legend(fontsize=FONT_POINTS - 1, frameon=False)
    return figure


def momentum_profile(found: Momentum) -> Figure:
    """Momentum distribution along each axis with its standard error, and the classical one."""
    figure, axes = new_figure()
    p = found.momentum_per_A
    for colour, name in zip((BLUE, VERMILLION, BLACK), AXES, strict=True):
        density, error = found.density_A[name], found.density_error_A[name]
        axes.plot(p, density, color=colour, linewidth=1.3, label=name)
        axes.fill_between(p, density - error, density + error, color=colour, alpha=0.2, lw=0)
    style: dict[str, Any] = {
        "color": GREY,
        "linewidth": 0.9,
        "linestyle": DASHED,
        "label": "classical",
    }
    axes.plot(p, found.classical_A(), **style)
    axes.set_xlim(0.0, p[-1])
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel(
        f"Momentum of {found.species} along an axis, $p/\\hbar$ (1/Å)", fontsize=FONT_POINTS
    )
    axes.set_ylabel("Probability density (Å)", fontsize=FONT_POINTS)
    axes.legend(fontsize=FONT_POINTS - 1, frameon=False)
    return figure


def free_energy_profiles(profiles: Mapping[int, Profile]) -> Figure:
    """Free energy along the line for each number of beads, with the barriers in the legend."""
    figure, axes = new_figure()
    for colour, (beads, profile) in zip(ELEMENT_COLOURS, profiles.items(), strict=False):
        barrier = profile.barrier_eV
        kind = "classical" if beads == 1 else f"{beads} beads"
        label = f"{kind}: {barrier.mean:.3f} ± {barrier.error:.3f} eV"
        style: dict[str, Any] = {"color": colour, "linewidth": 1.5, "label": label}
        axes.plot(profile.path_A, profile.free_energy_eV, **style)
    axes.axhline(0.0, color=GREY, linewidth=0.8, linestyle=DASHED, zorder=0)
    top = max(p.free_energy_eV.max() for p in profiles.values())
    axes.set_ylim(top=1.35 * top)
    axes.set_xlabel("Centroid along the line (Å)", fontsize=FONT_POINTS)
    axes.set_ylabel("Free energy (eV)", fontsize=FONT_POINTS)
    axes.legend(fontsize=FONT_POINTS - 1.5, frameon=False, loc="upper center")
    return figure
