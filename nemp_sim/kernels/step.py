"""FusedStep: energies, forces and stresses through the kernels, without autograd."""

from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor

from nemp_sim.derivatives import Derivatives
from nemp_sim.graph import AtomGraph
from nemp_sim.kernels.edges import Edges
from nemp_sim.kernels.fused import FusedNetwork
from nemp_sim.kernels.packing import pad
from nemp_sim.kernels.sizes import PROGRAMS, edges_at_once, padded_size
from nemp_sim.kernels.triton_step import geometry, pull, read_out, sum_structures
from nemp_sim.readout import ReadOut

TILE = 16  # atoms of a tile of the read-out
SUM_BLOCK = 1024  # atoms of a structure whose numbers are summed at once
WIDEST = 64  # read-out whose layers a tile holds


def _has_kernel(readout: ReadOut) -> bool:
    """Whether the read-out is one that ``triton_step.read_out`` can hold in registers."""
    mlp = readout.output_mlp
    width = mlp.output_layer.kernel.shape[0]
    return not mlp.linear and mlp.output_layer.bias is None and width <= WIDEST


class FusedStep:
    """What ``differentiate`` and ``surroundings.measure`` give, from the kernels alone."""

    def __init__(self, network: FusedNetwork, limits: Tensor) -> None:
        """Pack the read-out, where there is a kernel for it.

        Args:
            network: the kernels of a network with one head.
            limits: (S², 4) as ``surroundings.measure``.
        """
        self._network, self._limits = network, limits.double().contiguous()
        model = network.model
        (self._readout,) = model.readouts.values()
        self._n_members = len(self._readout.members)
        self._constants: dict[str, Any] | None = None
        if not _has_kernel(self._readout):
            return
        readout, mlp = self._readout, self._readout.output_mlp
        every = torch.arange(len(readout.energy_factor), device=readout.energy_factor.device)
        self._floor = model.normaliser(torch.zeros_like(readout.energy_factor), every)
        self._weights, width = _packed(readout, network.k)
        self._members = _packed_members(readout, width)
        self._constants = {
            "SCALE": float(readout.energy_scale_eV),
            "Q": network.steps + 2,
            "K": network.kp,
            "W": width,
            "BLOCKS": len(mlp.blocks),
            "LAYERS": len(mlp.blocks[0].layers) if len(mlp.blocks) else 0,
            "MEMBERS": self._members.shape[1],
            "SMOOTH": model.smooth,
            "ZBL": model.zbl is not None,
            "TILE": TILE,
        }

    def __call__(
        self, graph: AtomGraph, *, forces: bool, stress: bool
    ) -> tuple[Derivatives, tuple[Tensor, ...]]:
        """Derivatives, and the results of ``surroundings.measure``, of a graph that has edges."""
        with torch.cuda.device_of(graph.positions):
            vectors, edges, measured = self._geometry(graph)
            self._network.prepare(vectors, edges)
            density, count, repulsion, record = self._network.forward(vectors, edges)
            reader = self._by_autograd if self._constants is None else self._by_kernel
            energies, changes, grad_density, grad_count = reader(density, count, repulsion, edges)
            found = Derivatives(energies, _sums(graph, energies))
            if forces or stress:
                grad = self._network.backward(
                    record, grad_density, grad_count, torch.ones_like(repulsion)
                )
                pulled, of_atoms = self._pull(grad, vectors, edges, stress)
                virial: Tensor | None = None
                if stress:
                    whole = _sums(graph, of_atoms).view(-1, 3, 3)
                    virial = 0.5 * (whole + whole.transpose(1, 2))
                found = replace(found, forces=pulled if forces else None, virial=virial)
            if self._n_members:
                changes = changes[:, : self._n_members]
                of_energy = _sums(graph, changes)
                found = replace(
                    found,
                    atomic_std=changes.double().square().mean(1).sqrt(),
                    energy_std=of_energy.square().mean(1).sqrt(),
                    energy_deviations=of_energy,
                )
        return found, measured

    def _geometry(self, graph: AtomGraph) -> tuple[Tensor, Edges, tuple[Tensor, ...]]:
        n, n_edges = len(graph.species), len(graph.centre)
        config = self._network.model.config
        vectors = self._readout.energy_factor.new_empty(n_edges, 3)
        index = graph.centre.new_empty(4, n_edges, dtype=torch.int32)
        species, start = (graph.centre.new_empty(n + k, dtype=torch.int32) for k in (0, 1))
        nearest, coordination, crowding = graph.positions.new_empty(3, n)
        partner, crowd = (torch.empty_like(graph.species) for _ in range(2))
        geometry[(min(n, PROGRAMS),)](
            graph.positions, graph.cells, graph.shifts, graph.species, graph.structure,
            graph.neighbour, graph.by_neighbour, graph.row_start, self._limits,
            vectors, *index, species, start, nearest, partner, coordination, crowding, crowd, n,
            CUTOFF=float(config.cutoff_angstrom), POWER=float(config.envelope_power),
            SPECIES=len(config.elements),
            WIDE=max(2, triton.next_power_of_2(len(config.elements))),
            **edges_at_once(n <= self._network.few_atoms),
        )  # fmt: skip
        pair, centre, neighbour, order = index
        edges = Edges(pair, centre, neighbour, order, species, start)
        return vectors, edges, (nearest, partner, coordination, crowding, crowd)

    def _by_kernel(
        self, density: Tensor, count: Tensor, repulsion: Tensor, edges: Edges
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        n, readout = edges.n_atoms, self._readout
        energies = torch.empty(n, dtype=torch.float64, device=density.device)
        changes = density.new_empty(n, self._members.shape[1])
        grad_density, grad_count = torch.empty_like(density), torch.empty_like(count)
        read_out[(triton.cdiv(n, TILE),)](
            density, count, repulsion, edges.species, self._floor, readout.energy_factor,
            readout.energy_shift, readout.reference_energies, self._weights, self._members,
            energies, changes, grad_density, grad_count, n,
            **(self._constants or {}), num_warps=4,
        )  # fmt: skip
        return energies, changes, grad_density, grad_count

    def _by_autograd(
        self, density: Tensor, count: Tensor, repulsion: Tensor, edges: Edges
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As ``_by_kernel``, for read-outs of any shape."""
        model, species = self._network.model, edges.species.long()
        with torch.enable_grad():
            rho, n = density.requires_grad_(), count.requires_grad_()
            m = model.normaliser(n, species)
            flat = rho[..., : self._network.k].transpose(0, 1).flatten(1) / m[:, None]
            energies = self._readout(flat, n / m, species)
            grad_density, grad_count = torch.autograd.grad(
                energies.sum(), (rho, n), materialize_grads=True
            )
        changes = flat.new_empty(len(n), 0)
        if self._n_members:
            changes = self._readout.features(flat, species).detach() @ self._readout.members.T
        energies = energies.detach()
        if model.zbl is not None:
            energies = energies + repulsion.double()
        return energies, changes, grad_density, grad_count

    def _pull(
        self, grad: Tensor, vectors: Tensor, edges: Edges, stress: bool
    ) -> tuple[Tensor, Tensor]:
        n = edges.n_atoms
        forces = torch.empty(n, 3, dtype=torch.float64, device=grad.device)
        virial = forces.new_empty(n if stress else 0, 9)
        pull[(min(n, PROGRAMS),)](
            grad, vectors, edges.by_neighbour, edges.row_start, forces, virial, n,
            STRESS=stress, **edges_at_once(n <= self._network.few_atoms),
        )  # fmt: skip
        return forces, virial


def _sums(graph: AtomGraph, values: Tensor) -> Tensor:
    """As ``graph.sum_atoms`` of values (N,) or (N, C) of any stride between atoms, in float64."""
    shape = graph.n_structures, *values.shape[1:]
    out = torch.empty(shape, dtype=torch.float64, device=values.device)
    columns = out[0].numel()
    sum_structures[(graph.n_structures, columns)](
        values, graph.first_atom, out, STRIDE=values.stride(0), COLUMNS=columns, BLOCK=SUM_BLOCK,
        num_warps=4,
    )  # fmt: skip
    return out


def _packed(readout: ReadOut, k: int) -> tuple[Tensor, int]:
    """Scaled weights in the order of ``triton_step.read_out``, and the padded width."""
    mlp, kp = readout.output_mlp, padded_size(k)
    width = padded_size(mlp.output_layer.kernel.shape[0])
    first = (mlp.input_layer.kernel * mlp.input_layer.scale).unflatten(0, (-1, k))
    hidden = [layer.kernel * layer.scale for block in mlp.blocks for layer in block.layers]
    last = (mlp.output_layer.kernel * mlp.output_layer.scale)[:, 0]
    parts = [pad(first, kp, width), *(pad(w, width, width) for w in hidden), pad(last, width)]
    return torch.cat([part.detach().flatten() for part in parts]), width


def _packed_members(readout: ReadOut, width: int) -> Tensor:
    """Deviations of the last layer of the members, scaled, (width, members padded)."""
    members = readout.members * readout.output_mlp.output_layer.scale
    if not len(members):
        return members.new_zeros(width, 0)
    return pad(members, padded_size(len(members)), width).t().contiguous()
