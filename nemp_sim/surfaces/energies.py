"""Energies of adsorbed structures, and how far they lie above one another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemp_sim.domain import Finding
from nemp_sim.statistics import combination_std
from nemp_sim.surfaces.adsorption import Minimum
from nemp_sim.vibrations import Vibrations

BOUND = ("adsorbed", "absorbed")


@dataclass(frozen=True)
class Energies:
    """Energies of one structure.

    Attributes:
        adsorption_eV: E(slab with adsorbate) − E(slab) − Σ ν E(gas), without zero-point energy.
        members_eV: (M,) the same of each member of the ensemble; None without one.
        zero_point_eV: zero-point energy of the adsorbate minus that of the gas; None: not computed.
        modes: vibrations of the adsorbate, the metal held; None likewise.
        outside: where the structure leaves the domain of the potential; None: not judged.
    """

    adsorption_eV: float
    members_eV: np.ndarray | None
    zero_point_eV: float | None
    modes: Vibrations | None
    outside: tuple[Finding, ...] | None = None

    @property
    def std_eV(self) -> float | None:  # noqa: N802 (a unit in a name)
        """Predicted standard deviation of the adsorption energy; None without an ensemble."""
        return None if self.members_eV is None else combination_std(self.members_eV[None], [1.0])

    @property
    def corrected_eV(self) -> float | None:  # noqa: N802 (a unit in a name)
        """The adsorption energy with zero-point energies; None where these are not known."""
        return None if self.zero_point_eV is None else self.adsorption_eV + self.zero_point_eV

    @property
    def n_imaginary(self) -> int:
        """Imaginary modes, none where they were not computed."""
        return 0 if self.modes is None else self.modes.n_imaginary

    def above(self, other: "Energies") -> tuple[float, float | None]:
        """How far this lies above another structure of the adsorbate, and the ± of that, eV.

        The ± is that of the difference, member by member: what both share, the clean slab and the
        gas above all, cancels.
        """
        apart = self.adsorption_eV - other.adsorption_eV
        if self.members_eV is None or other.members_eV is None:
            return apart, None
        return apart, combination_std(np.array([self.members_eV, other.members_eV]), [1, -1])


Found = Sequence[tuple[Minimum, Energies]]


def energy_of(pair: tuple[Minimum, Energies]) -> float:
    """Adsorption energy, eV: what structures are ordered by."""
    return pair[1].adsorption_eV


def bound_of(found: Found, adsorbate: str) -> list[tuple[Minimum, Energies]]:
    """The bound structures of an adsorbate, the lowest first."""
    ours = [p for p in found if p[0].adsorbate == adsorbate and p[0].state in BOUND]
    return sorted(ours, key=energy_of)
