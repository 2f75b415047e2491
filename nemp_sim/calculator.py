"""NEMP: the ASE calculator. It converts, calls Potential, and fills the results."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    CalculationFailed,
    Calculator,
    PropertyNotImplementedError,
    all_changes,
)

from nemp_sim.checkpoint import load_potential
from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.evaluation import has_stress
from nemp_sim.neighbors import NeighborLists
from nemp_sim.potential import Potential
from nemp_sim.watch import check_policy


class NEMP(Calculator):
    """ASE calculator of a NEMP potential.

    ``atoms.calc = NEMP("pdh.pt")``. Energy in eV, forces in eV/Å, stress in eV/Å³ (Voigt order
    xx yy zz yz xz xy, tensile positive), atomic energies in eV. ``free_energy`` is the energy.
    """

    implemented_properties: list[str] = [
        "energy",
        "free_energy",
        "forces",
        "stress",
        "energies",
    ]
    ignored_changes: set[str] = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        potential: str | Path | Potential = "pdh.pt",
        device: str = "auto",
        dtype: object = None,
        skin_angstrom: float = 0.5,
        head: str | None = None,
        on_extrapolation: str = "warn",
    ) -> None:
        """Load the potential.

        Args:
            potential: a path, the name of a shipped potential or of one in ``$NEMP_POTENTIALS``,
                or a loaded Potential (whose own device and dtype then hold).
            device: "auto", "cpu", "cuda" …
            dtype: "float32" or "float64"; None takes that of the file.
            skin_angstrom: neighbour lists are kept until an atom has moved half of this, Å.
            head: read-out (level of theory) to use; None: the only one of the file.
            on_extrapolation: what happens where a structure is outside the domain of the
                potential: "warn" (once for each set of atoms), "raise" or "ignore".

        Raises:
            PotentialFileError: no such potential, or an unreadable file.
            InputError: an unusable argument.
        """
        super().__init__()
        if isinstance(potential, Potential):
            if device != "auto" or dtype is not None or head is not None:
                raise InputError(
                    f"device is {device!r}, dtype is {dtype!r} and head is {head!r}, but a loaded "
                    "Potential has its own. Give them to load_potential() instead."
                )
            self.potential = potential
        else:
            self.potential = load_potential(potential, device, dtype, head)
        self.on_extrapolation = check_policy(on_extrapolation)
        self.neighbors = NeighborLists(self.potential.cutoff_angstrom, skin_angstrom)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation: ASE's check, at a tenth of its time.

        Numbers are compared exactly; ``tol`` is what ASE compares them with.
        """
        old = self.atoms
        if old is None:
            return list(all_changes)
        pairs = {name: (old.arrays[name], atoms.arrays[name]) for name in ("positions", "numbers")}
        pairs |= {"cell": (old.cell.array, atoms.cell.array), "pbc": (old.pbc, atoms.pbc)}
        return [name for name, (was, now) in pairs.items() if not np.array_equal(was, now)]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate ``atoms`` and fill ``self.results``.

        Raises:
            PropertyNotImplementedError: stress of a structure without periodic axis or volume.
            UnknownElementError: an element that the potential does not know.
            CalculationFailed: results that are not finite, too little memory, or a structure
                outside the domain where ``on_extrapolation`` is "raise".
        """
        super().calculate(atoms, properties, system_changes)
        stress = "stress" in properties
        if stress and not has_stress(self.atoms):
            raise PropertyNotImplementedError(
                f"stress needs a periodic axis and three cell vectors; pbc is "
                f"{self.atoms.pbc.tolist()} and the cell has rank {self.atoms.cell.rank}."
            )
        try:
            result = self.potential.evaluate(
                [self.atoms],
                stress=stress,
                neighbors=self.neighbors,
                on_extrapolation=self.on_extrapolation,
            )
        except EvaluationError as error:
            raise CalculationFailed(str(error)) from error
        energy = float(result.energy[0])
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": result.energies[0],
            "forces": result.forces[0],
        }
        if stress:
            self.results["stress"] = result.stress[0]
