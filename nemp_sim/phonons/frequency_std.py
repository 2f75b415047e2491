"""How uncertain frequencies are: force constants of every member of the ensemble."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from ase import Atoms

from nemp_sim.config import require
from nemp_sim.phonons.force_constants import ForceConstants, force_constants, phonopy_like, to_ase
from nemp_sim.phonons.imaginary import SpecialPoint
from nemp_sim.potential import Potential

CHEAP_ATOMS = 1000  # in all displaced supercells


class Ensemble(Protocol):
    """An engine whose members have forces of their own."""

    def evaluate(self, structures: Sequence[Atoms], *, uncertainty: bool) -> Any:  # noqa: ANN401
        """Results with ``forces`` and ``forces_members``, as those of ``Potential``."""


class _Members:
    """Forces of the displaced supercells by all members, evaluated once, handed out in turn."""

    def __init__(self, engine: Ensemble) -> None:
        self._engine = engine
        self._members: list[list[np.ndarray]] = []

    def evaluate(self, structures: Sequence[Atoms]) -> Any:  # noqa: ANN401
        """Forces of the next member."""
        if not self._members:
            found = self._engine.evaluate(list(structures), uncertainty=True).forces_members
            self._members = [list(forces) for forces in zip(*found, strict=True)]
        return SimpleNamespace(forces=self._members.pop(0))

    def __bool__(self) -> bool:
        """Whether a member is left."""
        return bool(self._members)


def frequency_std(
    engine: Ensemble,
    atoms: Atoms,
    constants: ForceConstants,
    displacement_angstrom: float,
    qpoints: np.ndarray,
) -> np.ndarray:
    """Predicted standard deviation of every frequency at q wave vectors, (q, bands), THz.

    Each member of the ensemble has forces, and so force constants and frequencies, of its own; the
    geometry, the minimum of their mean, is that of all. All displaced supercells are one call, at
    the cost of one evaluation for each member and one more.

    Args:
        engine: with an ensemble.
        atoms: what ``constants`` is of.
        constants: force constants by the mean of the members.
        displacement_angstrom: of the displacements.
        qpoints: (q, 3) in the reciprocal vectors of the primitive cell.
    """
    unit = to_ase(constants.phonon.unitcell, atoms.pbc)
    members = _Members(engine)
    frequencies: list[np.ndarray] = []
    while not frequencies or members:
        own = force_constants(
            members, unit, phonopy_like(constants.phonon, unit), displacement_angstrom
        )
        frequencies.append(np.sort(own.phonon.run_qpoints(qpoints).frequencies, axis=1))
    return np.array(frequencies).std(axis=0)


def std_at(
    points: Sequence[SpecialPoint],
    engine: object,
    atoms: Atoms,
    constants: ForceConstants,
    displacement_angstrom: float,
    wanted: bool | None,
) -> np.ndarray | None:
    """``frequency_std`` at named wave vectors; None where it is not wanted or cannot be had.

    Args:
        points: the wave vectors.
        engine: what evaluated ``constants``.
        atoms: what they are of.
        constants: force constants.
        displacement_angstrom: of the displacements.
        wanted: None: where it is cheap, ``CHEAP_ATOMS``.

    Raises:
        InputError: wanted of an engine without an ensemble.
    """
    n_atoms = len(constants.phonon.supercell) * constants.n_displacements
    if wanted is False or (wanted is None and n_atoms > CHEAP_ATOMS):
        return None
    if not isinstance(engine, Potential) or not engine.n_members:
        lacking = "left out: the potential has no ensemble read-out"
        require(wanted is None, "uncertainty", wanted, lacking)
        return None
    qpoints = np.array([point.q for point in points])
    return frequency_std(engine, atoms, constants, displacement_angstrom, qpoints)
