"""Uncertainties by an ensemble of read-outs on shared features.

The members differ in the weights w of the last layer alone, in which energies and forces are
linear: with A the derivatives of all training labels with respect to w, weighted as in the loss,
the posterior of w is a Gaussian of covariance (AᵀA + ς²)⁻¹ (last-layer Laplace approximation; F.
Bigi, S. Chong, M. Ceriotti, F. Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024)). M
deviations drawn from it become ``ReadOut.members``; they carry the uncertainty to every derived
quantity (M. Kellner, M. Ceriotti, Mach. Learn.: Sci. Technol. 5, 035006 (2024)). ς² and the overall
scale are those of the largest likelihood of held-out energies and forces.

The posterior knows where the training had labels, not where the network errs. So the draw is the
prior of a second step, ``fit_to_errors``: the deviations of largest posterior probability given the
held-out errors. Directions that no held-out frame shows stay as drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nemp_sim.model import NEMP
from nemp_sim.statistics import rank_correlation
from nemp_sim.training.tables import FrameTable

RIDGES = tuple(10.0**k for k in range(-9, 0))  # ς² over the mean diagonal of AᵀA
MAX_ATOMS = 6000  # of the frames whose forces enter
BATCH_ATOMS = 400
VARIANCE_FLOOR = 1e-4
MIN_FRAMES = 8  # held-out frames from which the deviations are fitted to their errors
FIT_STEPS = 300  # of L-BFGS


@dataclass(frozen=True)
class Sensitivity:
    """Derivatives of labels with respect to the last layer, and the errors of the labels.

    Attributes:
        energy: (F, W) of the total energies, eV.
        energy_error: (F,) eV.
        n_atoms: (F,).
        weight: (F,) of the frames in the loss.
        has_forces: (F,) bool; N are the atoms of the frames that have force labels.
        forces: (3N, W), eV/Å.
        force_error: (3N,), eV/Å.
    """

    energy: np.ndarray
    energy_error: np.ndarray
    n_atoms: np.ndarray
    weight: np.ndarray
    has_forces: np.ndarray
    forces: np.ndarray
    force_error: np.ndarray

    def components(self, values: np.ndarray) -> np.ndarray:
        """``values`` (F,) of the frame of each labelled force component (3N,)."""
        return np.repeat(values, 3 * self.n_atoms.astype(int) * self.has_forces)


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
    has_forces = table.has_forces.index_select(0, index) > 0
    real = torch.cat([has_forces, has_forces.new_zeros(1)])[graph.structure]  # none of the padding
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
        weight=array(table.weight.index_select(0, index)),
        has_forces=has_forces.cpu().numpy(),
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
        crossed_spearman: rank correlation of predicted and true force errors on either half of
            these frames, fitted to the other half; None where too few were held out.
        crossed_ratio: root mean square of true over predicted force errors, likewise.
    """

    ridge: float
    force_calibration: float
    n_frames: int
    held_out: bool
    crossed_spearman: float | None = None
    crossed_ratio: float | None = None


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
        force, force_loss = energy, 0.0
        if len(unknown.force_error):
            force, force_loss = _scale(unknown.forces @ factor, unknown.force_error)
        if best is None or energy_loss + force_loss < best[0]:
            best = energy_loss + force_loss, ridge, energy * factor, force / energy
    _, ridge, factor, ratio = best
    deviations = draw_deviations(factor, n_members, rng)
    crossed: tuple[float, float] | tuple[None, None] = None, None
    if len(held) >= MIN_FRAMES:
        if unknown.has_forces.sum() >= MIN_FRAMES:
            crossed = _crossed(deviations, factor, ratio, unknown)
        deviations, ratio = fit_to_errors(deviations, factor, ratio, unknown)
    readout = next(iter(model.readouts.values()))
    readout.members = torch.from_numpy(deviations).to(readout.members)
    readout.force_calibration = readout.force_calibration.new_tensor(ratio)
    return Calibration(ridge, float(ratio), len(unknown.energy), bool(len(held)), *crossed)


def fit_to_errors(
    deviations: np.ndarray, factor: np.ndarray, ratio: float, held: Sensitivity
) -> tuple[np.ndarray, float]:
    """Deviations of largest posterior probability given held-out errors, and the factor of forces.

    Minimises −log L + Σ_m |z_m − z_m⁰|² over the whitened deviations z = B⁻¹ δw and over the factor
    of the forces. L: Gaussians of the errors of the energies, and of the forces with one variance
    for the three components of an atom; z⁰: the draw. The prior counts twice (|…|² in place of
    |…|²/2), for errors of neighbouring atoms are not independent.

    Args:
        deviations: (M, W) the draw, adding up to zero.
        factor: B (W, W), BBᵀ the covariance of the draw.
        ratio: standard deviations of forces over those that the deviations show.
        held: frames that were not trained on.
    """
    n_atoms = int(held.n_atoms.sum())
    start = torch.from_numpy(np.linalg.solve(factor, deviations.T))  # (W, M)
    forces, energies = (torch.from_numpy(a @ factor) for a in (held.forces, held.energy))
    force_error = torch.from_numpy(held.force_error).reshape(-1, 3).square().mean(1)  # (N,)
    energy_error = torch.from_numpy(held.energy_error).square()
    z = start.clone(memory_format=torch.contiguous_format).requires_grad_()
    log_ratio = torch.tensor(ratio, dtype=torch.float64).log().requires_grad_()

    def variances() -> tuple[Tensor, Tensor]:
        centred = z - z.mean(1, keepdim=True)
        of_force = (forces @ centred).square().mean(1).reshape(-1, 3).mean(1)
        return of_force * (2 * log_ratio).exp(), (energies @ centred).square().mean(1)

    floors = [VARIANCE_FLOOR * v.detach().mean() + 1e-300 for v in variances()]
    optimizer = torch.optim.LBFGS(
        [z, log_ratio], max_iter=FIT_STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (z - start).square().sum()
        for variance, error, floor, labels in zip(
            variances(), (force_error, energy_error), floors, (3, 1), strict=True
        ):
            loss = (
                loss + 0.5 * labels * ((variance + floor).log() + error / (variance + floor)).sum()
            )
        loss = loss / n_atoms
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    fitted = (z - z.mean(1, keepdim=True)).detach().numpy()
    return (factor @ fitted).T, float(log_ratio.detach().exp())


def _crossed(
    deviations: np.ndarray, factor: np.ndarray, ratio: float, held: Sensitivity
) -> tuple[float, float]:
    """Rank correlation and true over predicted error of forces, each half fitted to the other."""
    frame = np.arange(len(held.energy))
    spread, error = [], []
    for side in (0, 1):
        other, mine = (_frames_of(held, frame % 2 == k) for k in (1 - side, side))
        fitted, factor_of_forces = fit_to_errors(deviations, factor, ratio, other)
        std = factor_of_forces * np.sqrt(np.square(mine.forces @ fitted.T).mean(1))
        spread.append(np.linalg.norm(std.reshape(-1, 3), axis=1))
        error.append(np.linalg.norm(mine.force_error.reshape(-1, 3), axis=1))
    predicted, true = np.concatenate(spread), np.concatenate(error)
    rms = np.sqrt(np.mean(true**2) / np.mean(predicted**2))
    return rank_correlation(predicted, true), float(rms)


def _frames_of(values: Sensitivity, chosen: np.ndarray) -> Sensitivity:
    """The frames where ``chosen`` (F,) is true."""
    rows = values.components(chosen)
    return Sensitivity(
        energy=values.energy[chosen],
        energy_error=values.energy_error[chosen],
        n_atoms=values.n_atoms[chosen],
        weight=values.weight[chosen],
        has_forces=values.has_forces[chosen],
        forces=values.forces[rows],
        force_error=values.force_error[rows],
    )


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
    energy = weights[0] * (known.weight[:, None] * per_atom).T @ per_atom
    force = (known.components(known.weight)[:, None] * known.forces).T @ known.forces
    force *= weights[1] * n_frames / max(len(known.forces), 1)
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
