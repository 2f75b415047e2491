"""The potential inside LAMMPS: an object for ML-IAP's unified interface, and its export.

LAMMPS hands over the pairs within the cutoff on one MPI rank, and takes back the energies of the
atoms that the rank owns and ∂E/∂r_ij of every pair; it adds the forces on ghosts to their owners.
After T message-passing steps an energy depends on atoms T + 1 cutoffs away. There are two ways:

* without Kokkos LAMMPS cannot exchange what a network makes of its atoms, so the ghost shell is
  T + 1 cutoffs thick, LAMMPS lists the pairs of ghosts as well, and each rank evaluates those that
  its own atoms depend on, part by part where they do not fit the memory;
* with Kokkos the shell is one cutoff thick and the orbitals of the ghosts are fetched from their
  owners in each step, their gradients sent back (``forward_exchange``, ``reverse_exchange``).

Source: ``pair_style mliap unified`` of LAMMPS; ``mliap_unified_couple.pyx`` states what it calls.
"""

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nemp_sim.batches import MEMORY_SHARE
from nemp_sim.checkpoint import find_potential, load_potential
from nemp_sim.config import require
from nemp_sim.derivatives import pair_gradients
from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.files import private_directory, replacing
from nemp_sim.lammps_graph import Pairs, rank_graph
from nemp_sim.memory import bytes_per_edge, free_memory
from nemp_sim.potential import Potential

SKIN_ANGSTROM = 2.0  # LAMMPS' default in metal units
FORBIDDEN_SUFFIXES = (".pt", ".pth")  # LAMMPS reads those by torch.load, which needs a setting


class LammpsModel:
    """What ``pair_style mliap unified FILE`` loads; holds a whole potential file.

    Attributes:
        element_types: symbols that ``pair_coeff`` may name.
        ndescriptors, nparams: LAMMPS wants these numbers and does not use them here.
        rcutfac: half the cutoff, Å.
        interface: set by LAMMPS.
    """

    ndescriptors = 1
    nparams = 1

    def __init__(self, content: bytes, name: str, options: dict[str, Any]) -> None:
        """Read the potential.

        Args:
            content: bytes of the potential file.
            name: its name, for messages.
            options: device, dtype and head of ``load_potential``, and ``memory_gb``.
        """
        self._state = (content, name, options)
        options = dict(options)
        room = options.pop("memory_gb", None)
        self._room = None if room is None else 1e9 * room
        self.interface = None
        self._checked = False
        self.potential = _from_bytes(content, name, options)
        symbols = self.potential.config.symbols
        self.element_types = list(self.potential.elements)
        self.rcutfac = 0.5 * self.potential.cutoff_angstrom
        index = [symbols.index(element) for element in self.element_types]
        self._species = torch.tensor(index, device=self.potential.device)

    def __reduce__(self) -> tuple:
        """The pickle holds the bytes of the potential file alone."""
        return type(self), self._state

    @property
    def n_steps(self) -> int:
        """Message-passing steps T."""
        return self.potential.config.n_message_passing

    @property
    def shell_angstrom(self) -> float:
        """Thickness of the shell of ghosts without Kokkos: T + 1 cutoffs and LAMMPS' skin, Å."""
        return (self.n_steps + 1) * self.potential.cutoff_angstrom + SKIN_ANGSTROM

    def compute_descriptors(self, data: Any) -> None:  # noqa: ANN401 (MLIAPDataPy of LAMMPS)
        """Nothing: ``compute_forces`` does it all."""

    def compute_gradients(self, data: Any) -> None:  # noqa: ANN401
        """Nothing: ``compute_forces`` does it all."""

    def compute_forces(self, data: Any) -> None:  # noqa: ANN401
        """Energies of the owned atoms and pair forces of this rank.

        Raises:
            InputError: atoms of a type that ``pair_coeff`` maps to NULL, or Kokkos and the
                potential on different devices.
            EvaluationError: results that are not finite.
        """
        if hasattr(data, "forward_exchange"):
            self._check_device(data)
            graph = rank_graph(self._species_of(data), *self._pairs(data), exchange=data)
            energies, forces = pair_gradients(self.potential.model, graph, data.nlocal)
        else:
            energies, forces = self._in_parts(data)
        if not (energies.isfinite().all() and forces.isfinite().all()):
            raise EvaluationError(
                "energies or forces are not finite. Check for overlapping atoms, a time step that "
                "is too long, or units other than metal."
            )
        _hand_over(data, energies, forces)

    def _in_parts(self, data: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Energies (n,) of the owned atoms and ∂E/∂r_ij (E, 3), by parts that fit the memory.

        A part is atoms near one another and all that their energies depend on; what does not fit
        is halved.
        """
        cut = Pairs(self._species_of(data), *self._pairs(data))
        if not self._checked:
            self._warn_of_a_thin_shell(cut.reach_of_ghosts(data.nlocal))
        most, device = self._most_edges(), self.potential.device
        energies = torch.zeros(data.nlocal, dtype=torch.float64, device=device)
        forces = torch.zeros(data.npairs, 3, dtype=torch.float64, device=device)
        todo = [torch.arange(data.nlocal, device=device)]
        while todo:
            owned = todo.pop()
            part = cut.part(owned, self.n_steps)
            if len(part.edges) > most and len(owned) > 1:
                todo += cut.halves(owned)
                continue
            energies[owned], gradients = pair_gradients(
                self.potential.model, part.graph, len(owned)
            )
            forces[part.edges] += gradients
        return energies, forces

    def _most_edges(self) -> float:
        """Pairs of the largest part."""
        device, form = self.potential.device, self.potential.config
        room = MEMORY_SHARE * free_memory(device) if self._room is None else self._room
        return room / bytes_per_edge(form, self.potential.dtype)

    def _tensor(self, values: Any) -> Tensor:  # noqa: ANN401 (an array of numpy or cupy)
        return torch.as_tensor(values, device=self.potential.device)

    def _pairs(self, data: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        """Centre and neighbour (E,) int64 and r_ij (E, 3) of the pairs, which may be none."""
        if not data.npairs:
            none = torch.zeros(0, dtype=torch.int64, device=self.potential.device)
            return none, none, torch.zeros(0, 3, dtype=torch.float64, device=none.device)
        return (
            self._tensor(data.pair_i).long(),
            self._tensor(data.pair_j).long(),
            self._tensor(data.rij),
        )

    def _species_of(self, data: Any) -> Tensor:  # noqa: ANN401
        elements = self._tensor(data.elems)[: data.ntotal].long()
        if len(elements) and int(elements.min()) < 0:
            raise InputError(
                "pair_coeff maps a type to NULL, but the network needs every atom. Name an "
                f"element for each type: one of {', '.join(self.element_types)}."
            )
        return self._species[elements]

    def _check_device(self, data: Any) -> None:  # noqa: ANN401
        """LAMMPS exchanges by bare addresses, so its arrays and ours must lie on one device."""
        on_gpu = hasattr(data.elems, "__cuda_array_interface__")
        if on_gpu != (self.potential.device.type == "cuda"):
            raise InputError(
                f"device is {str(self.potential.device)!r}, but Kokkos runs on the "
                f"{'GPU' if on_gpu else 'CPU'}. Export with --device {'cuda' if on_gpu else 'cpu'}."
            )

    def _warn_of_a_thin_shell(self, reach_angstrom: float) -> None:
        """Say once that the input lacks ``comm_modify``, of which LAMMPS tells nothing itself."""
        self._checked = True
        cutoff = self.potential.cutoff_angstrom
        if 0 < reach_angstrom < self.n_steps * cutoff:
            warnings.warn(
                f"the ghosts reach {reach_angstrom:.1f} Å beyond the atoms of a rank, but must "
                f"reach {self.n_steps + 1} cutoffs of {cutoff:g} Å: energies are wrong unless the "
                f"structure ends there. Put 'comm_modify cutoff {self.shell_angstrom:.1f}' into "
                "the input.",
                stacklevel=2,
            )


def _hand_over(data: Any, energies: Tensor, forces: Tensor) -> None:  # noqa: ANN401
    """Give LAMMPS the energies (n,) of its atoms, eV, and ∂E/∂r_ij (E, 3), eV/Å."""
    data.energy = float(energies.sum())
    if data.nlistatoms:
        if hasattr(data, "forward_exchange"):
            torch.as_tensor(data.eatoms, device=energies.device).copy_(energies)
        else:
            data.eatoms = energies.cpu().numpy()
    if data.npairs:
        on_gpu = hasattr(data.rij, "__cuda_array_interface__")
        data.update_pair_forces(forces if on_gpu else forces.cpu().numpy())


def _from_bytes(content: bytes, name: str, options: dict[str, Any]) -> Potential:
    with private_directory() as directory:
        path = directory / name
        path.write_bytes(content)
        return load_potential(path, **options)


def export_lammps(
    potential: str | Path,
    output: str | Path,
    device: str = "auto",
    dtype: str | None = None,
    head: str | None = None,
    memory_gb: float | None = None,
) -> LammpsModel:
    """Write a potential as the file of ``pair_style mliap unified``.

    The file is a pickle of the bytes of the potential file; reading it needs nemp_sim.

    Args:
        potential: a path, or the name of a potential.
        output: the file to write.
        device: where LAMMPS' ranks evaluate: "auto" (a GPU where there is one), "cpu", "cuda" …
        dtype: "float32" or "float64"; None takes that of the file.
        head: read-out (level of theory); None: the only one.
        memory_gb: what one rank may take, GB, without Kokkos: atoms that need more are evaluated
            part by part. None: a share of what is free, which suits one rank on a device.

    Raises:
        InputError: an output that ends in .pt or .pth, or an unusable option.
        PotentialFileError: no such potential, or an unreadable file.
    """
    output = Path(output)
    if output.suffix in FORBIDDEN_SUFFIXES:
        raise InputError(
            f"output is {str(output)!r}, but LAMMPS reads {' and '.join(FORBIDDEN_SUFFIXES)} in a "
            "way that torch refuses. Use another ending, such as .mliap."
        )
    room = np.inf if memory_gb is None else memory_gb
    require(room > 0, "memory_gb", memory_gb, "positive (GB)")
    source = find_potential(potential)
    options = {"device": device, "dtype": dtype, "head": head, "memory_gb": memory_gb}
    model = LammpsModel(source.read_bytes(), source.name, options)
    with replacing(output) as temporary, temporary.open("wb") as handle:
        pickle.dump(model, handle)
    return model


def input_lines(model: LammpsModel, file: str | Path) -> str:
    """The lines of a LAMMPS input that use an exported potential."""
    cutoff = model.potential.cutoff_angstrom
    elements = " ".join(model.element_types)
    return "\n".join(
        [
            "units metal",
            "atom_style atomic",
            "newton on",
            f"pair_style mliap unified {file} 1   # with Kokkos: 0, and no comm_modify",
            f"pair_coeff * * {elements}   # the element of each type, in their order",
            f"comm_modify cutoff {model.shell_angstrom:.1f}   # {model.n_steps + 1} cutoffs of "
            f"{cutoff:g} Å, and the skin",
        ]
    )
