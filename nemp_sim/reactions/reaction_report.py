"""The part of a report that says how a saddle was proved and what its rates are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.units import kB

from nemp_sim.mode_files import mode_table, remarks
from nemp_sim.reactions.instanton import Instanton, highest_temperature
from nemp_sim.reactions.kinetics import Rates, arrhenius
from nemp_sim.reactions.reaction import NAMES, Reaction
from nemp_sim.report import Quantity


def quantities(found: Reaction) -> tuple[Quantity, ...]:
    """Barriers of the refined saddle with zero-point energies, uncertainties and crossover."""
    forward, reverse = found.barriers_eV
    here, top, there = found.zero_point_eV()
    std = found.std_eV or (None, None, None)
    values = [
        Quantity("proved", "Saddle proved", not found.problems),
        Quantity("saddle_barrier_forward_eV", "Barrier of the refined saddle", forward, "eV"),
        Quantity("barrier_forward_std_eV", "… its predicted standard deviation", std[0], "eV"),
        Quantity("saddle_barrier_reverse_eV", "Reverse barrier of it", reverse, "eV"),
        Quantity("barrier_reverse_std_eV", "… its predicted standard deviation", std[1], "eV"),
        Quantity(
            "barrier_forward_zpe_eV", "Barrier with zero-point energies", forward + top - here, "eV"
        ),
        Quantity(
            "barrier_reverse_zpe_eV",
            "Reverse barrier with zero-point energies",
            reverse + top - there,
            "eV",
        ),
        Quantity("zpe_initial_eV", "Zero-point energy of the initial state", here, "eV", 4),
        Quantity("zpe_saddle_eV", "… of the saddle, without the imaginary mode", top, "eV", 4),
        Quantity("zpe_final_eV", "… of the final state", there, "eV", 4),
    ]
    imaginary = found.modes[1].wavenumbers_cm1[:1]
    if len(imaginary) and imaginary[0] < 0:
        value = float(-imaginary[0])
        values.append(Quantity("imaginary_cm1", "Imaginary mode of the saddle", value, "cm⁻¹", 1))
    if found.rates is not None:
        crossover = found.rates.crossover_K
        values.append(Quantity("crossover_K", "Crossover temperature", crossover, "K", 1))
        energy, prefactor = (
            arrhenius(found.rates.temperature_K, found.rates.rate_per_s["eckart"])
            if len(found.rates.temperature_K) > 1
            else (None, None)
        )
        values += [
            Quantity("arrhenius_energy_eV", "Arrhenius energy (Eckart, all T)", energy, "eV"),
            Quantity("arrhenius_prefactor_per_s", "Arrhenius prefactor", _text(prefactor), "1/s"),
        ]
    return tuple(values)


def sentences(found: Reaction) -> tuple[str, ...]:
    """Remarks: the proof, its problems, imaginary and soft modes, limits of the rates."""
    notes = [
        f"Saddle: {found.refinement.steps} steps of eigenvector following from the climbing image "
        f"({found.refinement.moved_A:.3f} Å), largest force "
        f"{found.refinement.fmax_eV_per_A:.1e} eV/Å.",
        f"Proof: {found.proof.sentence()}.",
        *(f"PROBLEM: {problem}." for problem in found.problems),
    ]
    for name, modes in zip(NAMES, found.modes, strict=True):
        notes += remarks(modes, f"{name} state", saddle=name == "saddle")
    if found.rates is not None:
        moving = found.modes[0].indices
        notes.append(
            f"Rates are for one path out of the initial state; {len(moving)} atoms vibrate, the "
            "others are held. No recrossing, no coupling to electrons."
        )
        cold = [t for t in found.rates.temperature_K if found.rates.remark(t).startswith("below")]
        if cold:
            notes.append(
                f"Below the crossover temperature ({found.rates.crossover_K:.0f} K), so at "
                f"{_listed(cold)} K, Wigner's factor is not quoted and "
                "Eckart's barrier is a guess: an instanton is wanted there."
            )
    if found.too_hot_K:
        notes.append(
            f"NO INSTANTON at {_listed(found.too_hot_K)} K: it exists only below the crossover "
            f"temperature, here up to {highest_temperature(found.modes[1]):.0f} K. Eckart's factor "
            "stands for it there."
        )
    return tuple(notes)


def sections(found: Reaction) -> dict[str, str]:
    """Tables of rates and of the modes of the three states."""
    parts = {}
    if found.rates is not None:
        std = found.std_eV[0] if found.std_eV else None
        parts["Rate constants, 1/s"] = rate_table(found.rates, found.heavy, std)
    if found.instantons:
        parts["Instanton rates"] = instanton_table(found.instantons)
    for name, modes in zip(NAMES, found.modes, strict=True):
        parts[f"Modes of the {name} state ({modes.method} Hessian)"] = mode_table(modes)
    return parts


def rate_table(light: Rates, heavy: Rates | None, std_eV: float | None) -> str:
    """Markdown table; a rate that is not quoted at its temperature stands as a dash."""
    head = ["T K", "ΔA‡ eV", "classical", "quantum", "Wigner", "Eckart", "within a factor of"]
    head += ["k(H)/k(D)"] if heavy else []
    head += ["remark"]
    lines = ["| " + " | ".join(head) + " |", "|---:" * (len(head) - 1) + "|---|"]
    for k, t in enumerate(light.temperature_K):
        values = {name: f"{series[k]:.2e}" for name, series in light.rate_per_s.items()}
        if light.headline(t) != "wigner":
            values["wigner"] = "—"
        factor = "—" if std_eV is None else f"{np.exp(std_eV / (kB * t)):.1f}"
        row = [f"{t:g}", f"{light.free_energy_barrier_eV[k]:.3f}", *values.values(), factor]
        if heavy:
            row.append(f"{light.rate_per_s['eckart'][k] / heavy.rate_per_s['eckart'][k]:.2f}")
        lines.append("| " + " | ".join([*row, light.remark(t)]) + " |")
    return "\n".join(lines)


def instanton_table(paths: Sequence[Instanton]) -> str:
    """Markdown table of instanton rates; one that did not converge has none."""
    lines = ["| T K | rate 1/s | S/ħ | path Å | beads | steps |", "|---:|---:|---:|---:|---:|---:|"]
    for one in paths:
        rate = f"{one.rate_per_s:.2e}" if one.converged else "NOT CONVERGED"
        row = f"{one.temperature_K:g} | {rate} | {one.action:.2f} | {one.path_A:.2f}"
        lines.append(f"| {row} | {one.n_beads} | {one.steps} |")
    return "\n".join(lines)


def data(found: Reaction) -> dict[str, Any]:
    """Plain values for report.json."""
    values: dict[str, Any] = {
        "proof": {
            "n_imaginary": found.proof.n_imaginary,
            "reached": found.proof.reached,
            "distances_A": found.proof.distances_A,
            "path_A": found.proof.path_A,
            "path_energies_eV": found.proof.path_energies_eV,
        },
        "problems": found.problems,
        "wavenumbers_cm1": {
            name: modes.wavenumbers_cm1 for name, modes in zip(NAMES, found.modes, strict=True)
        },
    }
    for name, series in (("rates_per_s", found.rates), ("rates_deuterium_per_s", found.heavy)):
        if series is not None:
            values["temperature_K"] = series.temperature_K
            values[name] = series.rate_per_s
    values["instantons"] = [
        {
            "temperature_K": one.temperature_K,
            "rate_per_s": one.rate_per_s if one.converged else None,
            "action_over_hbar": one.action,
            "n_beads": one.n_beads,
        }
        for one in found.instantons
    ]
    values["no_instanton_K"] = found.missing_instantons_K
    if found.rates is not None:
        values["free_energy_barrier_eV"] = found.rates.free_energy_barrier_eV
    return values


def _listed(temperatures_K: Sequence[float]) -> str:
    return ", ".join(f"{t:g}" for t in temperatures_K)


def _text(value: float | None) -> str | None:
    return None if value is None else f"{value:.2e}"
