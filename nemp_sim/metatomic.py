"""A potential for metatomic: the file that its engines (LAMMPS, PLUMED, i-PI, ASE …) load.

Metatomic's models are TorchScript. The network is traced: a record of plain operations of any sizes
(``torch_state.is_traced`` in ``graph`` and ``angular``), whose derivatives the engine takes. The
record holds no Python, so the file needs neither this package nor its kernels where it is used.
"""

import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from ase.data import atomic_numbers
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)
from torch import Tensor, nn

from nemp_sim.files import replacing
from nemp_sim.lammps_graph import RankGraph
from nemp_sim.model import NEMP
from nemp_sim.potential import Potential

DEVICES = ["cuda", "cpu"]


class _Network(nn.Module):
    """Atomic energies (N,) of r_ij (E, 3), species (N,), centre and neighbour (E,)."""

    def __init__(self, model: NEMP) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, vectors: Tensor, species: Tensor, centre: Tensor, neighbour: Tensor
    ) -> Tensor:
        known = {"species": species, "centre": centre, "neighbour": neighbour, "vectors": vectors}
        names = (field.name for field in fields(RankGraph))  # the others: for sums in order
        every: dict[str, Any] = {name: known.get(name) for name in names}
        return self.model(RankGraph(**every))


class _Atomistic(nn.Module):
    """What metatomic calls; TorchScript compiles it."""

    species: Tensor

    def __init__(self, network: nn.Module, potential: Potential) -> None:
        super().__init__()
        self.network, self.dtype = network, potential.dtype
        self.register_buffer("species", potential.species_of_number.to(potential.device))
        cutoff = potential.cutoff_angstrom
        self.wanted = NeighborListOptions(cutoff=cutoff, full_list=True, strict=True)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        """Pairs in both directions within the cutoff."""
        return [self.wanted]

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        """Energies, eV, of systems or of their atoms."""
        results = torch.jit.annotate(Dict[str, TensorMap], {})
        if "energy" not in outputs:
            return results
        device = systems[0].positions.device
        species, places, ends, vectors = [], [], [], []
        before = 0
        for index, system in enumerate(systems):
            pairs, atoms = system.get_neighbor_list(self.wanted), torch.arange(len(system))
            ends.append(pairs.samples.values[:, :2].to(torch.int64) + before)
            vectors.append(pairs.values[:, :, 0].to(torch.float64))
            species.append(self.species[system.types.to(torch.int64)])
            places.append(torch.stack([torch.full_like(atoms, index), atoms], dim=1))
            before += len(system)
        centre, neighbour = torch.cat(ends).unbind(1)
        energies = self.network(torch.cat(vectors), torch.cat(species), centre, neighbour)
        place = torch.cat(places).to(device, torch.int32)
        if selected_atoms is not None:
            chosen = Labels(["system", "atom"], place).select(selected_atoms)
            place, energies = place[chosen], energies[chosen]
        samples = Labels(["system", "atom"], place)
        if outputs["energy"].sample_kind == "system":
            every = torch.arange(len(systems), device=device)
            total = torch.zeros(len(systems), dtype=energies.dtype, device=device)
            energies = total.index_add(0, place[:, 0].to(torch.int64), energies)
            samples = Labels(["system"], every.to(torch.int32)[:, None])
        block = TensorBlock(
            values=energies[:, None].to(self.dtype),
            samples=samples,
            components=torch.jit.annotate(List[Labels], []),
            properties=Labels("energy", torch.zeros(1, 1, dtype=torch.int32, device=device)),
        )
        key = Labels("_", torch.zeros(1, 1, dtype=torch.int32, device=device))
        results["energy"] = TensorMap(key, [block])
        return results


def atomistic_model(potential: Potential) -> AtomisticModel:
    """The potential as metatomic's model: "energy", eV, of systems and of atoms."""
    config = potential.config
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        traced = torch.jit.trace(_Network(potential.model), _example(potential), check_trace=False)
    capabilities = ModelCapabilities(
        outputs={"energy": ModelOutput(unit="eV", sample_kind="atom")},
        atomic_types=[atomic_numbers[symbol] for symbol in potential.elements],
        interaction_range=(config.n_message_passing + 1) * potential.cutoff_angstrom,
        length_unit="angstrom",
        supported_devices=DEVICES,
        dtype=str(potential.dtype).removeprefix("torch."),
    )
    about = ModelMetadata(
        name=potential.name,
        description=f"NEMP, {potential.level_of_theory}; sha256 {potential.sha256}",
        references={"architecture": ["https://doi.org/10.1039/d5sc07248d"]},
    )
    return AtomisticModel(_Atomistic(traced, potential).eval(), about, capabilities)


def _example(potential: Potential) -> tuple[Tensor, ...]:
    """Three atoms in a row; their elements and distances do not matter."""
    centre, neighbour = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    step = torch.tensor([1.5, 0.3, 0.1], dtype=torch.float64)
    vectors = (neighbour - centre)[:, None] * step
    inputs = vectors, torch.zeros(3, dtype=torch.int64), centre, neighbour
    return tuple(each.to(potential.device) for each in inputs)


def export_metatomic(potential: Potential, output: str | Path) -> Path:
    """Write the file that metatomic's engines load; an older one is replaced by a complete one."""
    output = Path(output)
    with replacing(output) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        atomistic_model(potential).save(str(temporary))
    return output
