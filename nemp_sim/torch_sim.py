"""A potential for torch-sim: its ``ModelInterface`` in front of ``Potential.evaluate``."""

from typing import Any

import numpy as np
import torch
import torch_sim
from ase import Atoms
from torch import Tensor
from torch_sim.models.interface import ModelInterface

from nemp_sim.evaluation import VOIGT
from nemp_sim.neighbors import NeighborLists
from nemp_sim.potential import Potential


class TorchSimModel(ModelInterface):
    """torch-sim's integrators and optimisers on a NEMP potential.

    ``torch_sim.optimize(atoms, TorchSimModel(load_potential("pdh.pt")), ...)``. Neighbour lists
    are made on the CPU, so the positions visit the host in each step.
    """

    def __init__(
        self, potential: Potential, *, compute_stress: bool = True, skin_angstrom: float = 0.5
    ) -> None:
        """Wrap ``potential``; states live on its device, in its dtype.

        Args:
            potential: the potential.
            compute_stress: whether to return stresses; every system then needs a volume.
            skin_angstrom: neighbour lists are kept until an atom has moved half of this, Å.
        """
        super().__init__()
        self.potential = potential
        self._device = potential.device
        self._dtype = potential.dtype
        self._compute_forces = True
        self._compute_stress = compute_stress
        self._memory_scales_with = "n_atoms_x_density"
        self._neighbors = NeighborLists(potential.cutoff_angstrom, skin_angstrom)

    def forward(
        self,
        state: torch_sim.SimState | dict[str, Tensor],
        **kwargs: Any,  # noqa: ANN401, ARG002 (of the interface)
    ) -> dict[str, Tensor]:
        """Energy (B,) eV, forces (N, 3) eV/Å and stress (B, 3, 3) eV/Å³ of B systems.

        Raises:
            NempError: as ``Potential.evaluate``.
        """
        if isinstance(state, dict):
            state = torch_sim.SimState(**state)
        result = self.potential.evaluate(
            structures_of(state), stress=self.compute_stress, neighbors=self._neighbors
        )
        arrays = {"energy": result.energy, "forces": np.concatenate(result.forces)}
        if self.compute_stress:
            stress = np.empty((len(result.energy), 3, 3))
            for component, (a, b) in enumerate(VOIGT):
                stress[:, a, b] = stress[:, b, a] = result.stress[:, component]
            arrays["stress"] = stress
        return {
            name: torch.as_tensor(array, dtype=self._dtype, device=self._device)
            for name, array in arrays.items()
        }


def structures_of(state: torch_sim.SimState) -> list[Atoms]:
    """The systems of a state; torch-sim stores cell vectors as columns."""
    positions, numbers, system = (
        tensor.detach().cpu().numpy()
        for tensor in (state.positions, state.atomic_numbers, state.system_idx)
    )
    cells = state.cell.detach().cpu().numpy().transpose(0, 2, 1)
    pbc = np.broadcast_to(torch.as_tensor(state.pbc).cpu().numpy(), 3)
    return [
        Atoms(numbers[system == index], positions[system == index], cell=cell, pbc=pbc)
        for index, cell in enumerate(cells)
    ]
