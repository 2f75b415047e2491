"""A NEMP potential inside i-PI or its own driver: a pes module, without a socket of ours.

<ffdirect> <pes>custom</pes> <pes_path>…/nemp_sim/ipi/pes.py</pes_path>
<parameters> {potential: pdh.pt, template: init.extxyz} </parameters> </ffdirect>, or
i-pi-driver-py -m custom -P …/nemp_sim/ipi/pes.py -o potential=pdh.pt,template=init.extxyz
"""

from typing import Any

import numpy as np
from ipi.pes.dummy import Dummy_driver

from nemp_sim.checkpoint import load_potential
from nemp_sim.files import read_structure
from nemp_sim.ipi.client import BeadEvaluator
from nemp_sim.ipi.guard import FIRST_FRAME_TOLERANCE_ANGSTROM, LARGEST_STEP_ANGSTROM
from nemp_sim.ipi.wire import Reply, frame_from_atomic_units, reply_in_atomic_units

__DRIVER_NAME__ = "nemp"
__DRIVER_CLASS__ = "NEMPDriver"

Result = tuple[float, np.ndarray, np.ndarray, str]


class NEMPDriver(Dummy_driver):
    """NEMP for i-PI: Bohr and Hartree outside, one engine call for all beads inside."""

    def __init__(  # noqa: PLR0913 (options of i-PI's input)
        self,
        potential: str,
        template: str,
        device: str = "auto",
        dtype: str | None = None,
        head: str | None = None,
        tolerance_angstrom: float = FIRST_FRAME_TOLERANCE_ANGSTROM,
        max_step_angstrom: float = LARGEST_STEP_ANGSTROM,
        committee_forces: bool = False,
        on_extrapolation: str = "warn",
        **options: Any,  # noqa: ANN401 (i-PI adds verbose, verbosity …)
    ) -> None:
        """Load the potential and the template.

        Args:
            potential: path or name of a potential.
            template: file with the atoms in the order of i-PI's file.
            device: "auto", "cpu", "cuda" …
            dtype: "float32" or "float64"; None takes that of the file.
            head: read-out to use; None: the only one.
            tolerance_angstrom: farthest that an atom of the first frames may be from the template.
            max_step_angstrom: farthest that an atom may move between frames.
            committee_forces: also tell forces and virials of the members of the ensemble.
            on_extrapolation: "warn", "raise" or "ignore" outside the domain of the potential.
            options: passed on to i-PI's base class.
        """
        self._evaluator = BeadEvaluator(
            load_potential(potential, device, dtype, head, on_extrapolation=on_extrapolation),
            read_structure(template, "template"),
            tolerance_angstrom=tolerance_angstrom,
            max_step_angstrom=max_step_angstrom,
            committee_forces=committee_forces,
        )
        super().__init__(**options)

    def compute(
        self, cell: np.ndarray | list[np.ndarray], pos: np.ndarray | list[np.ndarray]
    ) -> Result | list[Result]:
        """Energy, forces, virial and extras in atomic units, of one structure or of a list.

        Args:
            cell: (3, 3) Bohr, vectors as columns; or a list.
            pos: (N, 3) Bohr; or a list.
        """
        single = not isinstance(cell, list)
        cells, positions = ([cell], [pos]) if single else (cell, pos)
        frames = [frame_from_atomic_units(h, r) for h, r in zip(cells, positions, strict=True)]
        results = [_result(reply) for reply in self._evaluator.evaluate(frames)]
        return results[0] if single else results


def _result(reply: Reply) -> Result:
    return (*reply_in_atomic_units(reply), reply.extras)
