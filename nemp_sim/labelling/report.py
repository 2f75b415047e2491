"""Predictions made before labelling against the labels: errors, and worth of the uncertainty."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from nemp_sim.report import Quantity, Report
from nemp_sim.statistics import Sample, rank_correlation, rms

MOST_ATOMS = 100_000  # whose errors are ranked

FILES = {
    "labels.extxyz": "structures with labels (eV, eV/Å): add it to train in [data]",
    "selection.extxyz": "the chosen structures with predictions, most uncertain first",
    "selection.json": "settings and counts of the choice",
    "labels/": "one file for each labelled structure",
    "failures/": "why a structure has no label; not there where all have one",
}


@dataclass(frozen=True)
class LabelCheck:
    """Errors on structures that the potential had not seen.

    Attributes:
        n_structures: number of structures.
        energy_rmse_meV_per_atom: of the total energy divided by the number of atoms.
        energy_shift_meV_per_atom: mean of prediction − label; large where the labels have another
            zero of energy.
        energy_rmse_about_shift_meV_per_atom: root mean square about that mean.
        force_rmse_meV_per_A: over all force components.
        max_force_error_eV_per_A: largest norm of a force error of an atom.
        max_force_label_eV_per_A: largest norm of a labelled force.
        error_over_std: root mean square of force errors over that of predicted standard
            deviations; 1 where the uncertainties are calibrated.
        spearman_structures: rank correlation, over structures, of the largest predicted standard
            deviation with the largest force error; None for fewer than three or equal values.
        spearman_atoms: likewise over atoms, norms of standard deviation and error; of more than
            ``MOST_ATOMS`` a regular sample.
    """

    n_structures: int
    energy_rmse_meV_per_atom: float
    energy_shift_meV_per_atom: float
    energy_rmse_about_shift_meV_per_atom: float
    force_rmse_meV_per_A: float
    max_force_error_eV_per_A: float
    max_force_label_eV_per_A: float
    error_over_std: float | None
    spearman_structures: float | None
    spearman_atoms: float | None


class LabelErrors:
    """Errors of frames that come one after the other; memory does not grow with the atoms."""

    def __init__(self) -> None:
        """No frames yet."""
        self._energies: list[float] = []
        self._largest: list[tuple[float, float, float]] = []  # std, error, label of each structure
        self._squares = np.zeros(2)  # Σ std², Σ error²
        self._components = 0
        self._atoms = Sample(MOST_ATOMS)

    def add(self, atoms: Atoms) -> None:
        """A frame with nemp_energy, nemp_forces, REF_energy, REF_forces; nemp_forces_std or not."""
        label = atoms.arrays["REF_forces"]
        error = atoms.arrays["nemp_forces"] - label
        std = atoms.arrays.get("nemp_forces_std", np.zeros_like(error))
        norms = [np.linalg.norm(values, axis=1) for values in (std, error, label)]
        energy = atoms.info["nemp_energy"] - atoms.info["REF_energy"]
        self._energies.append(1e3 * energy / len(atoms))
        largest = [float(values.max()) for values in norms]
        self._largest.append((largest[0], largest[1], largest[2]))
        self._squares += [(std**2).sum(), (error**2).sum()]
        self._components += error.size
        self._atoms.add(np.stack(norms[:2], axis=1))

    def check(self) -> LabelCheck | None:
        """What the frames so far say; None without any."""
        if not self._energies:
            return None
        energy, largest = np.array(self._energies), np.array(self._largest)
        std, error = np.sqrt(self._squares / self._components)
        return LabelCheck(
            n_structures=len(energy),
            energy_rmse_meV_per_atom=rms(energy),
            energy_shift_meV_per_atom=float(energy.mean()),
            energy_rmse_about_shift_meV_per_atom=float(energy.std()),
            force_rmse_meV_per_A=1e3 * float(error),
            max_force_error_eV_per_A=float(largest[:, 1].max()),
            max_force_label_eV_per_A=float(largest[:, 2].max()),
            error_over_std=float(error / std) if std else None,
            spearman_structures=_spearman(largest[:, 0], largest[:, 1]),
            spearman_atoms=_spearman(*self._atoms.rows().T),
        )


def check_labels(frames: Iterable[Atoms]) -> LabelCheck | None:
    """Compare nemp_energy, nemp_forces and, where they are, nemp_forces_std of frames with labels.

    Labels are REF_energy and REF_forces. None without frames.
    """
    errors = LabelErrors()
    for atoms in frames:
        errors.add(atoms)
    return errors.check()


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    value = rank_correlation(a, b)
    return None if np.isnan(value) else value


def label_report(
    counts: Mapping[str, Any], check: LabelCheck | None, failures: Sequence[str], left: int
) -> Report:
    """What report.json and report.md say of a labelling round.

    Args:
        counts: of the choice: candidates, known, selected, too_certain, already_known,
            not_reached, refused (by reason), max_uncertainty_eV_per_A,
            least_chosen_uncertainty_eV_per_A.
        check: errors on the new labels; None where there are none.
        failures: a line for each structure whose calculation failed.
        left: structures still to be labelled.
    """
    labelled = check.n_structures if check else 0
    verdict = f"{counts['selected']} of {counts['candidates']} candidates chosen"
    verdict += f": {labelled} labelled, {len(failures)} failed, {left} left."
    if not counts["selected"]:
        verdict = (
            f"None of {counts['candidates']} candidates is sensible, uncertain and new: nothing to "
            "label. Give other candidates, or a smaller --novelty."
        )
    notes = [f"refused: {n} with {reason}" for reason, n in counts["refused"].items()]
    if not counts["known"]:
        notes.append("No known structures were given: candidates were compared with each other.")
    notes += [f"failed: {line}" for line in failures]
    if check:
        notes.append(
            "These structures were chosen for large uncertainty: errors on them are larger than in "
            "everyday use."
        )
    if left:
        notes.append("Structures are left: the same command goes on.")
    return Report(
        title="Labels for structures of large uncertainty",
        verdict=verdict,
        quantities=(*_choice(counts), *_outcome(check, labelled, len(failures), left)),
        notes=tuple(notes),
        files=FILES,
        data={"refused": counts["refused"], "failures": list(failures)},
    )


def _choice(counts: Mapping[str, Any]) -> tuple[Quantity, ...]:
    return (
        Quantity("candidates", "Candidates", counts["candidates"]),
        Quantity("known", "Known structures", counts["known"]),
        Quantity("refused_total", "Refused as senseless", sum(counts["refused"].values())),
        Quantity("too_certain", "Too certain", counts["too_certain"]),
        Quantity("already_known", "Like known or chosen ones", counts["already_known"]),
        Quantity("not_reached", "Not needed, enough were chosen", counts["not_reached"]),
        Quantity("selected", "Chosen", counts["selected"]),
        Quantity(
            "max_uncertainty_eV_per_A",
            "Largest predicted standard deviation of a force, of all candidates",
            counts["max_uncertainty_eV_per_A"],
            "eV/Å",
        ),
        Quantity(
            "least_chosen_uncertainty_eV_per_A",
            "Smallest of the chosen ones",
            counts["least_chosen_uncertainty_eV_per_A"],
            "eV/Å",
        ),
    )


def _outcome(
    check: LabelCheck | None, labelled: int, failed: int, left: int
) -> tuple[Quantity, ...]:
    rows = [
        Quantity("labelled", "Labelled", labelled),
        Quantity("failed", "Failed", failed),
        Quantity("left", "Left", left),
    ]
    return tuple(rows) + (check_quantities(check) if check else ())


def check_quantities(check: LabelCheck) -> tuple[Quantity, ...]:
    """The errors as a report shows them."""
    labels = {
        "energy_rmse_meV_per_atom": ("Energy RMSE on the labels", "meV/atom", 1),
        "energy_shift_meV_per_atom": ("Mean of prediction − label, energy", "meV/atom", 1),
        "energy_rmse_about_shift_meV_per_atom": ("Energy RMSE about that mean", "meV/atom", 1),
        "force_rmse_meV_per_A": ("Force RMSE on the labels", "meV/Å", 1),
        "max_force_error_eV_per_A": ("Largest force error of an atom", "eV/Å", 3),
        "max_force_label_eV_per_A": ("Largest labelled force on an atom", "eV/Å", 3),
        "error_over_std": ("Force RMSE over predicted standard deviation", "", 2),
        "spearman_structures": ("Rank correlation of uncertainty and error, structures", "", 2),
        "spearman_atoms": ("Rank correlation of uncertainty and error, atoms", "", 2),
    }
    return tuple(
        Quantity(k, text, getattr(check, k), unit, d) for k, (text, unit, d) in labels.items()
    )
