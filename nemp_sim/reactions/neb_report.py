"""Report and files of a nudged elastic band, and of the reaction that follows from it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms

from nemp_sim.files import write_structures
from nemp_sim.mode_files import write_modes
from nemp_sim.plots import remove_figure, save_figure
from nemp_sim.reactions import reaction_report
from nemp_sim.reactions.neb import NEBResult, remarks
from nemp_sim.reactions.path_std import PathStd
from nemp_sim.reactions.plots import arrhenius_figure
from nemp_sim.reactions.reaction import NAMES, Reaction
from nemp_sim.relax import Relaxation
from nemp_sim.report import Quantity, Report, plus_minus


def band_report(  # noqa: PLR0913 (what the report is of)
    title: str,
    notes: Sequence[str],
    fmax_eV_per_A: float,
    ends: Relaxation,
    band: NEBResult,
    std: PathStd | None,
    max_std_eV: float,
) -> Report:
    """The report of a band, without provenance.

    Args:
        title: what moves.
        notes: what was done to the ends.
        fmax_eV_per_A: largest force wanted.
        ends: the relaxed ends.
        band: the band between them.
        std: its predicted standard deviations; None without an ensemble.
        max_std_eV: largest accepted one of a barrier.
    """
    unconverged = []
    for what, part in (("ends", ends), ("band", band)):
        if not part.converged:
            unconverged.append(
                f"the {what} after {part.optimizer_steps} steps (largest force "
                f"{part.fmax_eV_per_A:.3f} eV/Å, wanted {fmax_eV_per_A} eV/Å)"
            )
    reaction = plus_minus(band.reaction_energy_eV, std.reaction_eV if std else None, "+.3f")
    verdict = (
        f"{_barriers((band.barrier_forward_eV, band.barrier_reverse_eV), std, max_std_eV)}; "
        f"reaction energy {reaction} eV. Converged."
    )
    if not band.has_saddle:
        told = f"NO SADDLE between the ends: the {band.highest_end} state is the highest image."
        verdict = f"{told} {verdict}"
    if unconverged:
        verdict = (
            f"NOT CONVERGED: {' and '.join(unconverged)}. The numbers are no barrier. Give more "
            "--steps, or look at neb.extxyz for what went wrong on the way."
        )
    return Report(
        title=f"Nudged elastic band: {title}",
        verdict=verdict,
        quantities=_quantities(fmax_eV_per_A, ends, band, not unconverged, std),
        notes=(*notes, *([] if unconverged else remarks(band))),
        files={
            "neb.extxyz": "all images with energies (eV) and forces (eV/Å): ase gui neb.extxyz",
            "neb.png": "energy along the path, eV and Å",
            "geometry.png": "both ends and the highest structure between them, from two sides",
        },
        data={
            "path_A": band.path_length_A,
            "energies_eV": band.energies_eV,
            "energies_std_eV": std.energies_eV if std else None,
            "energy_zero": "as the potential gives it; barriers are differences, "
            "and energies_std_eV is of differences from the first image",
        },
    )


def with_reaction(report: Report, found: Reaction, max_std_eV: float) -> Report:
    """The report of a band with the proof, the modes and the rates of its reaction."""
    files = {"states.extxyz": "initial state, saddle and final state with energies and forces"}
    files |= {f"modes-{name}.extxyz": f"animation of the modes, {name} state" for name in NAMES}
    if found.rates is not None:
        files["rates.png"] = "Arrhenius plot of every approximation"
    return replace(
        report,
        verdict=_verdict(found, max_std_eV),
        quantities=(*reaction_report.quantities(found), *report.quantities),
        notes=(*report.notes, *reaction_report.sentences(found)),
        files={**report.files, **files},
        sections={**report.sections, **reaction_report.sections(found)},
        data={**report.data, **reaction_report.data(found)},
    )


def with_steps(
    report: Report, steps: Sequence[NEBResult], stds: Sequence[PathStd | None]
) -> Report:
    """The report of a band with a table of its elementary steps and their ±."""
    lines = ["| step | barrier eV | reverse eV | reaction eV | largest force eV/Å | converged |"]
    lines.append("|---:|---:|---:|---:|---:|---|")
    plain = []
    for number, (step, std) in enumerate(zip(steps, stds, strict=True), 1):
        energies = _energies(step, std)
        values = [plus_minus(v, s, form) for _, _, v, s, form in energies]
        values += [f"{step.fmax_eV_per_A:.4f}", "yes" if step.converged else "NO"]
        lines.append(f"| {number} | {' | '.join(values)} |")
        plain.append({f"{key}_eV": value for key, _, value, _, _ in energies})
        plain[-1] |= {f"{key}_std_eV": spread for key, _, _, spread, _ in energies}
        plain[-1]["converged"] = step.converged
    files = {f"step-{k + 1}.extxyz": f"band of elementary step {k + 1}" for k in range(len(steps))}
    lost = [str(k) for k, step in enumerate(steps, 1) if not step.converged]
    verdict = f"{report.verdict} {len(steps)} elementary steps."
    if lost:
        verdict = f"NOT CONVERGED: step {', '.join(lost)}. {verdict}"
    return replace(
        report,
        verdict=verdict,
        files={**report.files, **files},
        sections={**report.sections, "Elementary steps": "\n".join(lines)},
        data={**report.data, "steps": plain},
    )


def write_reaction(directory: Path, found: Reaction, title: str) -> None:
    """Write the states, the animations of their modes, and the figure of the rates."""
    states = [_labelled(a, n) for a, n in zip(found.states, NAMES, strict=True)]
    write_structures(directory / "states.extxyz", states)
    for name, modes in zip(NAMES, found.modes, strict=True):
        write_modes(modes, directory / f"modes-{name}.extxyz")
    remove_figure(directory / "rates.png")
    if found.rates is not None:
        save_figure(arrhenius_figure(found.rates, found.heavy, title), directory / "rates.png")


def is_uncertain(std: PathStd | None, max_std_eV: float) -> bool:
    """Whether a barrier has a larger standard deviation than accepted."""
    return std is not None and std.barrier_eV > max_std_eV


def _verdict(found: Reaction, max_std_eV: float) -> str:
    here, top, _ = found.zero_point_eV()
    barrier = _barriers(found.barriers_eV, found.std, max_std_eV)
    corrected = f"{found.barriers_eV[0] + top - here:.3f} eV with zero-point energies"
    if found.problems:
        return f"NOT PROVED: {'; '.join(found.problems)}. {barrier}."
    middle = int(np.abs(found.rates.temperature_K - 300).argmin())
    temperature = float(found.rates.temperature_K[middle])
    method = found.rates.headline(temperature)
    rate = found.rates.rate_per_s[method][middle]
    told = f"k({temperature:g} K) = {rate:.1e} 1/s ({method.capitalize()})"
    if found.std is not None:
        factor = reaction_report.factor_of(found.std.forward_eV, temperature)
        told += f", within a factor of {factor:.1f} by the ± of the barrier"
    missing = ", ".join(f"{t:g}" for t in found.missing_instantons_K)
    lost = f"NO INSTANTON RATE at {missing} K. " if missing else ""
    return f"{lost}{barrier}; {corrected}. Saddle proved: {found.proof.sentence()}. {told}."


def _barriers(barriers_eV: tuple[float, float], std: PathStd | None, max_std_eV: float) -> str:
    """Both barriers with their ±, and in capitals where that is too much."""
    stds = (std.forward_eV, std.reverse_eV) if std else (None, None)
    forward, reverse = map(plus_minus, barriers_eV, stds)
    uncertain = f"UNCERTAIN (above {max_std_eV} eV): " if is_uncertain(std, max_std_eV) else ""
    return f"{uncertain}Barrier {forward} eV forward, {reverse} eV reverse"


def _energies(
    band: NEBResult, std: PathStd | None
) -> tuple[tuple[str, str, float, float | None, str], ...]:
    """Key, name, value, standard deviation and format of barriers and reaction energy."""
    forward, reverse, whole = (
        (std.forward_eV, std.reverse_eV, std.reaction_eV) if std else (None, None, None)
    )
    top = "highest image, climbing" if band.climbing else "highest image"
    name = f"Barrier, forward ({top})"
    return (
        ("barrier_forward", name, band.barrier_forward_eV, forward, ".3f"),
        ("barrier_reverse", "Barrier, reverse", band.barrier_reverse_eV, reverse, ".3f"),
        ("reaction_energy", "Reaction energy", band.reaction_energy_eV, whole, "+.3f"),
    )


def _labelled(atoms: Atoms, name: str) -> Atoms:
    copy = atoms.copy()
    copy.calc = atoms.calc
    copy.info = {"state": name}
    return copy


def _quantities(
    fmax_eV_per_A: float,
    ends: Relaxation,
    band: NEBResult,
    converged: bool,
    std: PathStd | None,
) -> tuple[Quantity, ...]:
    length = float(band.path_length_A[-1])
    energies = []
    for key, name, value, spread, _ in _energies(band, std):
        energies.append(Quantity(f"{key}_eV", name, value, "eV"))
        energies.append(Quantity(f"{key}_std_eV", reaction_report.STD, spread, "eV"))
    return (
        Quantity("converged", "Converged (ends and band)", converged),
        *energies,
        Quantity(
            "barrier_spline_eV", "Barrier, forward, of the spline", band.spline_barrier_eV, "eV"
        ),
        Quantity("fmax_eV_per_A", "Largest force of the band", band.fmax_eV_per_A, "eV/Å", 4),
        Quantity("fmax_wanted_eV_per_A", "Largest force wanted", fmax_eV_per_A, "eV/Å", 4),
        Quantity("ends_fmax_eV_per_A", "Largest force of the ends", ends.fmax_eV_per_A, "eV/Å", 4),
        Quantity("path_length_A", "Length of the path", length, "Å"),
        Quantity("n_images", "Moving images", len(band.images) - 2),
        Quantity("saddle_index", "Highest image (0 is the initial state)", band.saddle_index),
        Quantity("optimizer_steps", "Optimiser steps of the band", band.optimizer_steps),
        Quantity("model_calls", "Model calls of the band", band.model_calls),
        Quantity("ends_model_calls", "Model calls to relax both ends", ends.model_calls),
    )


def write_images(
    path: Path, images: tuple[Atoms, ...], path_A: Sequence[float] | np.ndarray = ()
) -> None:
    """Write all images with their numbers, energies and forces as extended XYZ."""
    written = []
    for index, image in enumerate(images):
        atoms = image.copy()
        atoms.calc = image.calc
        atoms.info = {"image": index}
        written.append(atoms)
    for atoms, length in zip(written, path_A, strict=False):
        atoms.info["path_length_A"] = round(float(length), 6)
    write_structures(path, written)
