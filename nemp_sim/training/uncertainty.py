"""Uncertainties by an ensemble of read-outs on shared features.

The members differ in the weights w of the last layer alone, in which energies and forces are
linear: with A the derivatives of all training labels with respect to w, weighted as in the loss,
the posterior of w is a Gaussian of covariance (AᵀA + ς²)⁻¹ (last-layer Laplace approximation; F.
Bigi, S. Chong, M. Ceriotti, F. Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024)). M
deviations drawn from it become ``ReadOut.members``; they carry the uncertainty to every derived
quantity (M. Kellner, M. Ceriotti, Mach. Learn.: Sci. Technol. 5, 035006 (2024)). ς² and the overall
scale are those of the largest likelihood of held-out energies and forces.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nemp_sim.model import NEMP
from nemp_sim.training.tables import FrameTable

RIDGES = tuple(10.0**k for k in range(-9, 0))  # ς² over the mean diagonal of AᵀA
MAX_ATOMS = 6000  # of the frames whose forces enter
BATCH_ATOMS = 400
VARIANCE_FLOOR = 1e-4


@dataclass(frozen=True)
class Sensitivity:
    """Derivatives of labels with respect to the last layer, and the errors of the labels.

    Attributes:
        energy: (F, W) of the total energies, eV.
        energy_error: (F,) eV.
        n_atoms: (F,).
        forces: (3N, W), eV/Å.
        force_error: (3N,), eV/Å.
    """

    energy: np.ndarray
    energy_error: np.ndarray
    n_atoms: np.ndarray
    forces: np.ndarray
    force_error: np.ndarray


def sensitivity(model: NEMP, table: FrameTable, index: Sequence[int] | np.ndarray) -> Sensitivity:
    """Sensitivities of the frames ``index`` of a network of one head."""
    parts, batch, atoms = [], [], 0
    counts = table.n_atoms.tolist()
    for k in index:
        batch.append(int(k))
        atoms += counts[k]
        if atoms >= BATCH_ATOMS:
            parts.append(_sensitivity_of_batch(model, table, batch))
            batch, atoms = [], 0
    if batch:
        parts.append(_sensitivity_of_batch(model, table, batch))
    names = Sensitivity.__dataclass_fields__
    return Sensitivity(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def _sensitivity_of_batch(model: NEMP, table: FrameTable, batch: list[int]) -> Sensitivity:
    index = torch.tensor(batch, device=table.energy.device)
    graph, labels = table.batch(index, table.size_of(index))
    real = graph.structure < len(batch)
    positions = graph.positions.requires_grad_()
    with torch.enable_grad():
        atomic, features = model.forward_features(graph)
        rows = [
            torch.autograd.grad(column.sum(), positions, retain_graph=True)[0][real].flatten()
            for column in features.unbind(1)
        ]
        (gradient,) = torch.autograd.grad(atomic.sum(), positions)

    def array(values: Tensor) -> np.ndarray:
        return values.detach().double().cpu().numpy()

    energy = graph.sum_atoms(atomic)[:-1] - table.energy.index_select(0, index)
    return Sensitivity(
        energy=array(graph.sum_atoms(features.double())[:-1]),
        energy_error=array(energy),
        n_atoms=array(table.n_atoms.index_select(0, index)),
        forces=-array(torch.stack(rows, dim=1)),
        force_error=array((-gradient - labels)[real].flatten()),
    )


@dataclass(frozen=True)
class Calibration:
    """How the ensemble was fitted.

    Attributes:
        ridge: ς² over the mean diagonal of AᵀA.
        force_calibration: factor of the standard deviations of forces.
        n_frames: frames of the likelihood.
        held_out: whether these were held out of the training.
    """

    ridge: float
    force_calibration: float
    n_frames: int
    held_out: bool


def fit_members(
    model: NEMP,
    tables: tuple[FrameTable, FrameTable | None],
    head: int,
    n_members: int,
    weights: tuple[float, float],
    seed: int = 0,
) -> Calibration | None:
    """Fit the ensemble read-out of a network of one head, in place.

    Args:
        model: the trained network, with that head alone.
        tables: training frames and held-out frames (or None: the scale is then that of the
            training errors, too small).
        head: index of the head in the tables.
        n_members: M, two or more.
        weights: weights of energies per atom and of forces in the loss.
        seed: seed of the draw of the members and of the frames whose forces enter.

    Returns None where no frame of the head has two or more atoms.
    """
    rng = np.random.default_rng(seed)
    train = _choose(tables[0], head, rng)
    held = np.empty(0, dtype=int)
    if tables[1] is not None:
        held = _choose(tables[1], head, rng)
    if not len(train):
        return None
    known = sensitivity(model, tables[0], train)
    unknown = sensitivity(model, tables[1], held) if len(held) else known
    fisher = _fisher(known, weights)
    best = None
    for ridge in RIDGES:
        factor = _posterior_factor(fisher, ridge)
        energy, energy_loss = _scale(unknown.energy @ factor, unknown.energy_error)
        force, force_loss = _scale(unknown.forces @ factor, unknown.force_error)
        if best is None or energy_loss + force_loss < best[0]:
            best = energy_loss + force_loss, ridge, energy * factor, force / energy
    _, ridge, factor, ratio = best
    readout = next(iter(model.readouts.values()))
    deviations = draw_deviations(factor, n_members, rng)
    readout.members = torch.from_numpy(deviations).to(readout.members)
    readout.force_calibration = readout.force_calibration.new_tensor(ratio)
    return Calibration(ridge, float(ratio), len(unknown.energy), bool(len(held)))


def _choose(table: FrameTable, head: int, rng: np.random.Generator) -> np.ndarray:
    """Frames of the head with two or more atoms, at random up to MAX_ATOMS atoms."""
    counts = table.n_atoms.cpu().numpy()
    usable = np.flatnonzero((table.head.cpu().numpy() == head) & (counts > 1))
    order = rng.permutation(usable)
    return order[np.cumsum(counts[order]) <= max(MAX_ATOMS, counts.max(initial=0))]


def _fisher(known: Sensitivity, weights: tuple[float, float]) -> np.ndarray:
    """AᵀA (W, W): mean over frames of the weighted squares of the loss, times their number."""
    per_atom = known.energy / known.n_atoms[:, None]
    n_frames = len(per_atom)
    energy = weights[0] * per_atom.T @ per_atom
    force = weights[1] * known.forces.T @ known.forces * (n_frames / len(known.forces))
    return energy + force


def _posterior_factor(fisher: np.ndarray, ridge: float) -> np.ndarray:
    """B (W, W) with B Bᵀ = (AᵀA + ς²)⁻¹."""
    width = len(fisher)
    values, vectors = np.linalg.eigh(fisher)
    return vectors / np.sqrt(np.maximum(values, 0) + ridge * np.trace(fisher) / width)


def _scale(spread: np.ndarray, error: np.ndarray) -> tuple[float, float]:
    """Scale of the standard deviations of largest Gaussian likelihood, and −log L per label.

    L = Π N(error; 0, α² σ²) is largest for α² = ⟨error²/σ²⟩. Variances below VARIANCE_FLOOR of the
    mean (components that vanish by symmetry) count as that much.
    """
    variance = np.square(spread).sum(1)
    variance = np.maximum(variance, VARIANCE_FLOOR * variance.mean() + 1e-300)
    alpha_squared = max(float(np.mean(error**2 / variance)), 1e-300)
    return alpha_squared**0.5, 0.5 * float(np.log(alpha_squared) + np.log(variance).mean())


def draw_deviations(factor: np.ndarray, n_members: int, rng: np.random.Generator) -> np.ndarray:
    """M deviations (M, W) that add up to zero and whose mean square is that of N(0, B Bᵀ).

    The directions are orthogonal where M allows it, which makes the variance that they show less
    noisy than that of independent draws.
    """
    width = len(factor)
    normal = rng.normal(size=(width, max(width, n_members)))
    if n_members <= width:
        q, triangle = np.linalg.qr(normal)
        normal = q * np.sign(np.diag(triangle)) * width**0.5  # the signs make Q uniform (Haar)
    chosen = normal[:, :n_members]
    chosen = chosen - chosen.mean(axis=1, keepdims=True)
    return (factor @ chosen).T * (n_members / (n_members - 1)) ** 0.5
