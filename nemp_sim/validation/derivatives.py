"""Forces and stress against central differences of the energy, by the five-point formula.

f'(x) = (f(x−2h) − 8 f(x−h) + 8 f(x+h) − f(x+2h)) / 12h + O(h⁴).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

from nemp_sim.evaluation import VOIGT
from nemp_sim.potential import Potential

STENCIL = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}
WEIGHTS = np.array(list(STENCIL.values()))


def force_errors(
    potential: Potential, atoms: Atoms, indices: Sequence[int], step_A: float
) -> np.ndarray:
    """Forces less central differences of the energy, (n, 3), eV/Å.

    Args:
        potential: what is tested.
        atoms: N atoms.
        indices: n of them, which are moved.
        step_A: step of the formula, Å.
    """
    moved = []
    for atom in indices:
        for axis in range(3):
            for k in STENCIL:
                moved.append(atoms.copy())
                moved[-1].positions[atom, axis] += k * step_A
    quiet: dict[str, Any] = {"on_extrapolation": "ignore"}
    energy = potential.evaluate(moved, forces=False, **quiet).energy.reshape(-1, 3, len(STENCIL))
    forces = potential.evaluate([atoms], **quiet).forces[0][list(indices)]
    return forces + energy @ WEIGHTS / step_A


def stress_errors(potential: Potential, atoms: Atoms, step: float) -> np.ndarray:
    """Stress less central differences of the energy with strain, (6,) in Voigt order, eV/Å³.

    Args:
        potential: what is tested.
        atoms: a periodic structure.
        step: strain of the formula.
    """
    strained = []
    for component in VOIGT:
        for k in STENCIL:
            strain = np.zeros((3, 3))
            strain[component] = k * step
            strained.append(atoms.copy())
            deformed = atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2)
            strained[-1].set_cell(deformed, scale_atoms=True)
    quiet: dict[str, Any] = {"on_extrapolation": "ignore"}
    energy = potential.evaluate(strained, forces=False, **quiet).energy.reshape(6, len(STENCIL))
    stress = potential.evaluate([atoms], stress=True, **quiet).stress[0]
    return stress - energy @ WEIGHTS / step / atoms.get_volume()
