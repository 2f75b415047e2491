"""Steps of other potentials for ``speed.py``: MACE, with and without cuEquivariance.

The networks have random weights, which change no time; shapes as in the published comparisons: two
layers, body order four, spherical harmonics up to 3, 8 Bessel functions, readout of 16. What is not
installed is left out. Both kinds of MACE must give the same forces before either is timed.
"""

import importlib.util
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from ase import Atoms

from nemp_sim.neighbors import edge_list

# e3nn 0.4.4, which MACE pins, reads its constants in a way that torch >= 2.6 refuses by default.
os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
SHAPES = {"64x L=0": "64x0e", "128x L=1": "128x0e + 128x1o"}
AGREEMENT = 1e-4  # of the forces with and without cuEquivariance, of their RMS

Energies = Callable[[], tuple[torch.Tensor, torch.Tensor]]  # energy (eV), forces (eV/Å)


def versions() -> str:
    """Versions of the packages that are there; empty without MACE."""
    found = []
    for name in ("mace-torch", "e3nn", "cuequivariance", "cuequivariance-ops-torch-cu13"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found) if importlib.util.find_spec("mace") else ""


def mace(
    irreps: str, cutoff: float, numbers: tuple[int, ...], n_neighbours: float
) -> torch.nn.Module:
    """A MACE network with random weights, of the default dtype of torch."""
    from e3nn import o3
    from mace import modules

    torch.manual_seed(0)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=cutoff,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps(irreps),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=n_neighbours,
        atomic_numbers=list(numbers),
        correlation=3,
        radial_type="bessel",
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )


def batch_of(atoms: Atoms, cutoff: float, numbers: tuple[int, ...], device: str) -> dict:
    """What MACE reads of one structure, its neighbour list given."""
    edges = edge_list(atoms, cutoff)
    dtype = torch.get_default_dtype()
    kind = torch.from_numpy(np.searchsorted(numbers, atoms.numbers))
    shifts = torch.from_numpy(edges.shifts).to(dtype)
    cell = torch.from_numpy(atoms.cell.array).to(dtype)
    index = torch.from_numpy(np.stack([edges.centre, edges.neighbour]))
    batch = {
        "positions": torch.from_numpy(atoms.positions).to(dtype),
        "node_attrs": torch.nn.functional.one_hot(kind, len(numbers)).to(dtype),
        "edge_index": index,
        "unit_shifts": shifts,
        "shifts": shifts @ cell,
        "cell": cell,
        "batch": torch.zeros(len(atoms), dtype=torch.long),
        "ptr": torch.tensor([0, len(atoms)]),
        "head": torch.zeros(1, dtype=torch.long),
    }
    return {name: value.to(device) for name, value in batch.items()}


def step_of(model: torch.nn.Module, batch: dict) -> Energies:
    """Energy and forces of the batch, the neighbour list given."""

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        fresh = batch | {"positions": batch["positions"].detach().requires_grad_()}
        found = model(fresh, training=False, compute_force=True)
        return found["energy"].detach(), found["forces"].detach()

    return step


def each(device: str, cutoff: float, numbers: tuple[int, ...], small: Atoms) -> dict[str, Callable]:
    """Makers of steps by name, each a function of a structure; those that disagree are left out.

    Args:
        device: torch device.
        cutoff: Å.
        numbers: atomic numbers, ascending.
        small: structure on which both kinds are compared.
    """
    if not versions():
        return {}
    makers, slow = {}, {}
    n_neighbours = len(edge_list(small, cutoff).centre) / len(small)
    for name, irreps in SHAPES.items():
        plain = mace(irreps, cutoff, numbers, n_neighbours).to(device).requires_grad_(False)
        slow[f"MACE {name} e3nn"] = _maker(plain, cutoff, numbers, device)
        if device == "cpu" or not importlib.util.find_spec("cuequivariance_ops_torch"):
            continue
        from mace.cli.convert_e3nn_cueq import run as convert

        fast = convert(plain, device=device, return_model=True).to(device).requires_grad_(False)
        batch = batch_of(small, cutoff, numbers, device)
        forces = [step_of(model, batch)()[1] for model in (plain, fast)]
        off = float((forces[0] - forces[1]).square().mean().sqrt() / forces[0].std())
        print(f"MACE {name}: cuEquivariance against e3nn, forces differ by {off:.1e} of their RMS")
        if off < AGREEMENT:
            makers[f"MACE {name} cuEquivariance"] = _maker(fast, cutoff, numbers, device)
    return makers | slow


def _maker(
    model: torch.nn.Module, cutoff: float, numbers: tuple[int, ...], device: str
) -> Callable[[Atoms], Energies]:
    return lambda atoms: step_of(model, batch_of(atoms, cutoff, numbers, device))
