"""A harmonic umbrella along a line for i-PI's ``<ffdirect><pes>custom</pes>``.

    w(s) = ½ κ (s − s₀)²,   s = e · r of one atom

As a ``<bias>`` with ``nbeads='1'`` it acts on the centroid.
"""

from typing import Any

import numpy as np
from ipi.pes.dummy import Dummy_driver

from nemp_sim.units import BOHR_ANGSTROM, HARTREE_EV

__DRIVER_NAME__ = "umbrella"
__DRIVER_CLASS__ = "UmbrellaDriver"


class UmbrellaDriver(Dummy_driver):
    """The umbrella; Bohr and Hartree outside, Å and eV in its parameters."""

    def __init__(
        self,
        atom: int,
        x: float,
        y: float,
        z: float,
        centre_angstrom: float,
        spring_eV_per_A2: float,  # noqa: N803 (a unit in a name)
        **options: Any,  # noqa: ANN401 (i-PI adds verbose, verbosity …)
    ) -> None:
        """Take the parameters.

        Args:
            atom: index of the atom.
            x: of the unit vector e.
            y: likewise.
            z: likewise.
            centre_angstrom: s₀.
            spring_eV_per_A2: κ.
            options: passed on to i-PI's base class.
        """
        self._atom, self._direction = int(atom), np.array([x, y, z], dtype=np.float64)
        self._centre, self._spring = float(centre_angstrom), float(spring_eV_per_A2)
        super().__init__(**options)

    def compute_structure(
        self, cell: np.ndarray, pos: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray, str]:
        """Energy, forces, virial (zero) and extras (none) in atomic units.

        Args:
            cell: (3, 3) Bohr.
            pos: (N, 3) Bohr.
        """
        places = pos.reshape(-1, 3)
        away = places[self._atom] @ self._direction * BOHR_ANGSTROM - self._centre
        forces = np.zeros_like(places)
        pull = -self._spring * away * BOHR_ANGSTROM / HARTREE_EV
        forces[self._atom] = pull * self._direction
        energy = 0.5 * self._spring * away**2 / HARTREE_EV
        return energy, forces.reshape(pos.shape), np.zeros_like(cell), ""
