"""Derivatives of the energy: taken here and nowhere else, for inference and for training."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nemp_sim.graph import AtomGraph
from nemp_sim.model import NEMP, Describe


@dataclass(frozen=True)
class Derivatives:
    """Energies of an AtomGraph and their derivatives, as tensors on its device.

    Attributes:
        atomic_energies: (N,) float64, eV.
        energy: (B,) float64, eV.
        forces: (N, 3) float64, eV/Å, −∂E/∂r; None where not asked for.
        virial: (B, 3, 3) float64, eV, ∂E/∂ε for the symmetric strain ε; None where not asked for.
        atomic_std: (N,) float64, eV, standard deviation of the atomic energies over the ensemble
            read-out; None where the network has none.
        energy_std: (B,) float64, eV, likewise.
        forces_std: (N, 3) float64, eV/Å, likewise; None where not asked for.
        energy_deviations: (B, M) float64, eV, of the energies of the M members from ``energy``;
            None where the network has none.
        force_deviations: (N, M, 3) float64, eV/Å, likewise; None where ``forces_std`` is.
        virial_deviations: (B, M, 3, 3) float64, eV, likewise; None without stress.
    """

    atomic_energies: Tensor
    energy: Tensor
    forces: Tensor | None = None
    virial: Tensor | None = None
    atomic_std: Tensor | None = None
    energy_std: Tensor | None = None
    forces_std: Tensor | None = None
    energy_deviations: Tensor | None = None
    force_deviations: Tensor | None = None
    virial_deviations: Tensor | None = None


def differentiate(
    model: NEMP,
    graph: AtomGraph,
    *,
    forces: bool,
    stress: bool,
    create_graph: bool = False,
    describe: Describe | None = None,
) -> Derivatives:
    """Energy, forces −∂E/∂r and virial ∂E/∂ε of a batch of structures.

    Args:
        model: the network.
        graph: the batch.
        forces: whether to take ∂E/∂r.
        stress: whether to take ∂E/∂ε.
        create_graph: keep the derivative differentiable (training, Hessians).
        describe: a faster equal of ``model.describe``.
    """
    if not (forces or stress):
        atomic = model(graph, describe)
        return Derivatives(atomic, graph.sum_atoms(atomic), None, None)
    with torch.enable_grad():
        moved, inputs = _movable(graph, stress)
        atomic = model(moved, describe)
        gradient = torch.autograd.grad(atomic.sum(), inputs, create_graph=create_graph)
    if not create_graph:
        atomic = atomic.detach()
    virial = gradient[1] if stress else None
    return Derivatives(atomic, graph.sum_atoms(atomic), -gradient[0] if forces else None, virial)


def differentiate_members(
    model: NEMP,
    graph: AtomGraph,
    *,
    forces: bool,
    stress: bool,
    forces_std: bool,
    batched: bool = True,
    describe: Describe | None = None,
) -> Derivatives:
    """As ``differentiate``, with standard deviations over the ensemble read-out of a single head.

    A member m changes the atomic energies by δ_m E_i = ∂E_i/∂w · δ_m w (w: weights of the last
    layer), so that the deviations of the energies cost one small matrix product, and those of the
    forces one backward pass for each member, all of them in one batch where ``batched``.
    """
    (readout,) = model.readouts.values()
    with torch.set_grad_enabled(forces or stress or forces_std):
        moved, inputs = _movable(graph, stress)
        atomic, features = model.forward_features(moved, describe)
        deviations = (features @ readout.members.T).double()  # (N, M)
        spread: Tensor | None = None
        each: tuple[Tensor, ...] = ()
        if forces_std:
            # (M, N, 3) and, for stress, (M, B, 3, 3)
            each = _member_gradients(deviations.sum(0), inputs, batched)
            spread = each[0].square().mean(0).sqrt() * readout.force_calibration
        gradient: tuple[Tensor, ...] = ()
        if forces or stress:
            gradient = torch.autograd.grad(atomic.sum(), inputs)
    atomic, deviations = atomic.detach(), deviations.detach()
    of_energy = graph.sum_atoms(deviations)
    return Derivatives(
        atomic,
        graph.sum_atoms(atomic),
        -gradient[0] if forces else None,
        gradient[1] if stress else None,
        atomic_std=deviations.square().mean(1).sqrt(),
        energy_std=of_energy.square().mean(1).sqrt(),
        forces_std=spread,
        energy_deviations=of_energy,
        force_deviations=-each[0].transpose(0, 1) if forces_std else None,
        virial_deviations=each[1].transpose(0, 1) if forces_std and stress else None,
    )


def pair_gradients(model: NEMP, graph: AtomGraph, n_owned: int) -> tuple[Tensor, Tensor]:
    """Energies E_i of the first atoms and ∂ΣE_i/∂r_ij, for a program that sums the forces itself.

    Args:
        model: the network.
        graph: a graph whose ``edge_vectors()`` are a leaf, such as ``lammps.RankGraph``.
        n_owned: number of atoms whose energies count.

    Returns:
        (n_owned,) float64, eV, and (E, 3) float64, eV/Å.
    """
    vectors = graph.edge_vectors().requires_grad_()
    with torch.enable_grad():
        energies = model(graph)[:n_owned]
        (gradient,) = torch.autograd.grad(energies.sum(), vectors)
    return energies.detach(), gradient


def hessian_rows(
    model: NEMP,
    graph: AtomGraph,
    rows: tuple[Tensor, Tensor],
    describe: Describe | None = None,
) -> Tensor:
    """One row ∂²E/∂r_{ia}∂r of the Hessian for each structure of a batch, (N, 3), eV/Å².

    Args:
        model: the network.
        graph: the batch, usually copies of one structure.
        rows: (B,) atoms i, counted through the batch, and (B,) axes a.
        describe: an equal of ``model.describe`` that has second derivatives.
    """
    with torch.enable_grad():
        moved, (positions,) = _movable(graph, stress=False)
        atomic = model(moved, describe)
        (gradient,) = torch.autograd.grad(atomic.sum(), positions, create_graph=True)
        chosen = gradient[rows].sum()
        (second,) = torch.autograd.grad(chosen, positions)
    return second


def _member_gradients(totals: Tensor, inputs: list[Tensor], batched: bool) -> tuple[Tensor, ...]:
    """∂totals/∂x (M, *x.shape) of totals (M,) for each x of ``inputs``; the graph is kept."""
    unit = torch.eye(len(totals), dtype=totals.dtype, device=totals.device)
    if batched:
        return torch.autograd.grad(totals, inputs, unit, is_grads_batched=True, retain_graph=True)
    rows = [torch.autograd.grad(totals, inputs, one, retain_graph=True) for one in unit]
    return tuple(torch.stack(each) for each in zip(*rows, strict=True))


def _movable(graph: AtomGraph, stress: bool) -> tuple[AtomGraph, list[Tensor]]:
    """The graph as a function of its positions and, for stress, of a strain; and these."""
    positions = graph.positions
    if not positions.requires_grad:  # a caller that wants second derivatives gives its own leaf
        positions = positions.detach().requires_grad_()
    moved = replace(graph, positions=positions)
    if not stress:
        return moved, [positions]
    strain = torch.zeros_like(graph.cells).requires_grad_()
    return moved.strained(0.5 * (strain + strain.transpose(1, 2))), [positions, strain]
