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
from nemp_sim.reactions.plots import arrhenius_figure
from nemp_sim.reactions.reaction import NAMES, Reaction
from nemp_sim.relax import Relaxation
from nemp_sim.report import Quantity, Report


def band_report(
    title: str, notes: Sequence[str], fmax_eV_per_A: float, ends: Relaxation, band: NEBResult
) -> Report:
    """The report of a band, without provenance.

    Args:
        title: what moves.
        notes: what was done to the ends.
        fmax_eV_per_A: largest force wanted.
        ends: the relaxed ends.
        band: the band between them.
    """
    unconverged = []
    for what, part in (("ends", ends), ("band", band)):
        if not part.converged:
            unconverged.append(
                f"the {what} after {part.optimizer_steps} steps (largest force "
                f"{part.fmax_eV_per_A:.3f} eV/Å, wanted {fmax_eV_per_A} eV/Å)"
            )
    verdict = (
        f"Barrier {band.barrier_forward_eV:.3f} eV forward, {band.barrier_reverse_eV:.3f} eV "
        f"reverse; reaction energy {band.reaction_energy_eV:+.3f} eV. Converged."
    )
    if unconverged:
        verdict = (
            f"NOT CONVERGED: {' and '.join(unconverged)}. The numbers are no barrier. Give more "
            "--steps, or look at neb.extxyz for what went wrong on the way."
        )
    return Report(
        title=f"Nudged elastic band: {title}",
        verdict=verdict,
        quantities=_quantities(fmax_eV_per_A, ends, band, not unconverged),
        notes=(*notes, *([] if unconverged else remarks(band))),
        files={
            "neb.extxyz": "all images with energies (eV) and forces (eV/Å): ase gui neb.extxyz",
            "neb.png": "energy along the path, eV and Å",
            "geometry.png": "both ends and the highest structure between them, from two sides",
        },
        data={
            "path_A": band.path_length_A,
            "energies_eV": band.energies_eV,
            "energy_zero": "as the potential gives it; barriers are differences",
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


def with_steps(report: Report, steps: Sequence[NEBResult]) -> Report:
    """The report of a band with a table of its elementary steps."""
    lines = ["| step | barrier eV | reverse eV | reaction eV | largest force eV/Å | converged |"]
    lines.append("|---:|---:|---:|---:|---:|---|")
    for number, step in enumerate(steps, 1):
        values = f"{step.barrier_forward_eV:.3f} | {step.barrier_reverse_eV:.3f} | "
        values += f"{step.reaction_energy_eV:+.3f} | {step.fmax_eV_per_A:.4f}"
        lines.append(f"| {number} | {values} | {'yes' if step.converged else 'NO'} |")
    names = ("barrier_forward_eV", "barrier_reverse_eV", "reaction_energy_eV", "converged")
    plain = [{name: getattr(step, name) for name in names} for step in steps]
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


def is_uncertain(found: Reaction, max_std_eV: float) -> bool:
    """Whether a barrier has a larger standard deviation than accepted."""
    return found.std_eV is not None and max(found.std_eV) > max_std_eV


def _verdict(found: Reaction, max_std_eV: float) -> str:
    forward, reverse = found.barriers_eV
    here, top, _ = found.zero_point_eV()
    spread = f" ± {found.std_eV[0]:.3f}" if found.std_eV else ""
    barrier = f"Barrier {forward:.3f}{spread} eV forward, {reverse:.3f} eV reverse"
    corrected = f"{forward + top - here:.3f} eV with zero-point energies"
    if found.problems:
        return f"NOT PROVED: {'; '.join(found.problems)}. {barrier}."
    middle = int(np.abs(found.rates.temperature_K - 300).argmin())
    temperature = float(found.rates.temperature_K[middle])
    method = found.rates.headline(temperature)
    rate = found.rates.rate_per_s[method][middle]
    told = f"k({temperature:g} K) = {rate:.1e} 1/s ({method.capitalize()})"
    if is_uncertain(found, max_std_eV):
        barrier = f"UNCERTAIN (above {max_std_eV} eV): {barrier}"
    missing = ", ".join(f"{t:g}" for t in found.missing_instantons_K)
    lost = f"NO INSTANTON RATE at {missing} K. " if missing else ""
    return f"{lost}{barrier}; {corrected}. Saddle proved: {found.proof.sentence()}. {told}."


def _labelled(atoms: Atoms, name: str) -> Atoms:
    copy = atoms.copy()
    copy.calc = atoms.calc
    copy.info = {"state": name}
    return copy


def _quantities(
    fmax_eV_per_A: float, ends: Relaxation, band: NEBResult, converged: bool
) -> tuple[Quantity, ...]:
    length = float(band.path_length_A[-1])
    climbing = "highest image, climbing" if band.climbing else "highest image"
    return (
        Quantity("converged", "Converged (ends and band)", converged),
        Quantity(
            "barrier_forward_eV", f"Barrier, forward ({climbing})", band.barrier_forward_eV, "eV"
        ),
        Quantity("barrier_reverse_eV", "Barrier, reverse", band.barrier_reverse_eV, "eV"),
        Quantity("reaction_energy_eV", "Reaction energy", band.reaction_energy_eV, "eV"),
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
