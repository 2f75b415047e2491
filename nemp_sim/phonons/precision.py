"""How good force constants are: the error of float32, and the potential's own uncertainty."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms

from nemp_sim.phonons.force_constants import ForceConstants, force_constants, phonopy_like, to_ase
from nemp_sim.phonons.parts import Part
from nemp_sim.potential import Potential
from nemp_sim.report import Quantity

UNCERTAIN_EV_PER_A = 0.5  # a predicted error of forces above this at a minimum is worth a warning


@dataclass(frozen=True)
class Float32Error:
    """Force constants by a float32 network against those by a float64 one.

    Attributes:
        constants_eV_per_A2: largest difference of a force constant.
        frequency_THz: largest difference of a frequency at the wave vectors compared.
    """

    constants_eV_per_A2: float
    frequency_THz: float


def in_float32(potential: Potential) -> Potential:
    """The same potential with its network in float32; both have one watch."""
    rough = Potential(
        copy.deepcopy(potential.model).cast(torch.float32),
        potential.metadata,
        head=potential.head,
        name=potential.name,
        sha256=potential.sha256,
        device=potential.device,
    )
    rough.watch = potential.watch
    return rough


def float32_error(
    potential: Potential,
    atoms: Atoms,
    constants: ForceConstants,
    displacement_angstrom: float,
    qpoints: np.ndarray,
) -> Float32Error:
    """Evaluate the same displacements again in float32, in one call.

    Args:
        potential: in float64.
        atoms: what ``constants`` is of.
        constants: by ``potential``.
        displacement_angstrom: of the displacements.
        qpoints: (n, 3) wave vectors at which frequencies are compared.
    """
    exact = constants.phonon
    unit = to_ase(exact.unitcell, atoms.pbc)
    rough = force_constants(
        in_float32(potential), unit, phonopy_like(exact, unit), displacement_angstrom
    )
    difference = rough.phonon.force_constants - exact.force_constants
    frequencies = [p.run_qpoints(qpoints).frequencies for p in (rough.phonon, exact)]
    return Float32Error(
        constants_eV_per_A2=float(np.abs(difference).max()),
        frequency_THz=float(np.abs(frequencies[0] - frequencies[1]).max()),
    )


def predicted_force_error(potential: Potential, atoms: Atoms) -> float | None:
    """Largest predicted standard deviation of a force component, eV/Å; None without an ensemble."""
    if not potential.n_members:
        return None
    return float(potential.evaluate([atoms], uncertainty=True).forces_std[0].max())


def precision_of(
    engine: object,
    atoms: Atoms,
    constants: ForceConstants,
    displacement_angstrom: float,
    qpoints: np.ndarray,
) -> Part:
    """Both, as a part of a report; nothing for engines that are no ``Potential``.

    Args:
        engine: what evaluated ``constants``.
        atoms: what they are of.
        constants: force constants.
        displacement_angstrom: of the displacements.
        qpoints: (n, 3) wave vectors at which frequencies are compared.
    """
    if not isinstance(engine, Potential):
        return Part()
    error = None
    if engine.dtype == torch.float64:
        error = float32_error(engine, atoms, constants, displacement_angstrom, qpoints)
    return _part(error, predicted_force_error(engine, atoms))


def _part(error: Float32Error | None, predicted: float | None) -> Part:
    """Float32 against float64, and the uncertainty that the potential states."""
    quantities, notes = [], []
    if error is not None:
        quantities += [
            Quantity(
                "float32_frequency_THz",
                "Error of float32, largest on the path",
                error.frequency_THz,
                "THz",
                5,
            ),
            Quantity(
                "float32_constants_eV_per_A2",
                "Error of float32, largest force constant",
                error.constants_eV_per_A2,
                "eV/Å²",
                6,
            ),
        ]
    if predicted is not None:
        label = "Predicted error of the forces (largest standard deviation)"
        quantities.append(Quantity("force_std_eV_per_A", label, predicted, "eV/Å"))
        if predicted > UNCERTAIN_EV_PER_A:
            notes.append(
                f"UNCERTAIN: the potential predicts errors of {predicted:.2f} eV/Å for its own "
                "forces at this structure, as far from its training data. Read its card."
            )
    return Part(tuple(quantities), tuple(notes))
