"""Training steps (on a GPU one CUDA graph each) and the run that logs, saves and resumes them."""

import csv
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nemp_sim.checkpoint import new_model
from nemp_sim.config import TrainConfig
from nemp_sim.data import FrameTable
from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.files import replacing
from nemp_sim.model import NEMP
from nemp_sim.potential import differentiate

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
GRAPH_WARMUP_STEPS = 3


class Trainer:
    """Weights, averaged weights and optimizer state of a run, and its steps.

    All weights live in one flat vector of which the parameters are views, so that clipping, Adam
    with AMSGrad (Kingma and Ba, arXiv 1412.6980; Reddi et al., arXiv 1904.09237), the decoupled
    weight decay and the averaging are a few kernels. On a GPU the whole step, with its second
    derivatives, is one CUDA graph.
    """

    def __init__(self, model: NEMP, table: FrameTable, config: TrainConfig) -> None:
        """Start from the weights of ``model``."""
        self.model, self.table, self.config = model, table, config
        self.parameters = list(model.parameters())
        self.weights = parameters_to_vector(self.parameters).detach()
        vector_to_parameters(self.weights, self.parameters)  # views of the vector
        zeros = torch.zeros_like(self.weights)
        device = self.weights.device
        self.average = self.weights.clone()
        self.moments = [zeros.clone(), zeros.clone(), zeros.clone()]  # m, v, max v̂
        self.n_steps = torch.zeros((), dtype=torch.float64, device=device)
        self.controls = torch.zeros(2, dtype=torch.float64, device=device)  # rate, w_E
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)  # loss, E², F², steps
        self.index = torch.zeros(min(config.batch_size, len(table)), dtype=torch.int64).to(device)
        self.cuda_graph: torch.cuda.CUDAGraph | None = None

    def state(self) -> dict[str, Tensor]:
        """Everything that a later run needs to go on."""
        names = ("weights", "average", "n_steps")
        moments = {f"moment_{i}": m for i, m in enumerate(self.moments)}
        return {name: getattr(self, name) for name in names} | moments

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def step(self, index: Tensor, rate: float, energy_weight: float) -> None:
        """One optimizer step on the frames ``index`` (batch,)."""
        self.index.copy_(index, non_blocking=True)
        self.controls.copy_(torch.tensor([rate, energy_weight], dtype=torch.float64))
        if self.weights.device.type == "cpu":
            self._step()
            return
        if self.cuda_graph is None:
            self._capture()
        self.cuda_graph.replay()

    def _capture(self) -> None:
        saved = {name: tensor.clone() for name, tensor in self.state().items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(GRAPH_WARMUP_STEPS):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        self.cuda_graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.cuda_graph):
            self._step()
        self.restore(saved)
        self.sums.zero_()

    def _step(self) -> None:
        terms = loss_terms(
            self.model, self.table, self.index, with_stress=self.config.stress_weight > 0
        )
        weights = torch.stack([self.controls[1], *self._fixed_weights()])
        loss = (weights * terms).sum()
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            self.update(torch.cat([g.flatten() for g in gradients]))
            one = torch.ones_like(loss)
            self.sums += torch.stack([loss, terms[0], terms[1], one]).detach()

    def _fixed_weights(self) -> tuple[Tensor, Tensor]:
        like = self.controls.new_full
        return like((), self.config.force_weight), like((), self.config.stress_weight)

    def update(self, gradient: Tensor) -> None:
        """Clip, Adam with AMSGrad, decay, average: in place, in a fixed order."""
        m, v, v_max = self.moments
        (b1, b2), rate = ADAM_BETAS, self.controls[0]
        self.n_steps += 1
        norm = gradient.norm()
        gradient = gradient * (self.config.clip_norm / (norm + 1e-12)).clamp(max=1.0)
        m.lerp_(gradient, 1 - b1)
        v.lerp_(gradient * gradient, 1 - b2)
        torch.maximum(v_max, v, out=v_max)
        unbias = torch.sqrt(1 - b2**self.n_steps).to(m.dtype)
        move = m / (v_max.sqrt() / unbias + ADAM_EPSILON)
        self.weights.mul_((1 - rate * self.config.weight_decay).to(m.dtype))
        self.weights.sub_(move * (rate / (1 - b1**self.n_steps)).to(m.dtype))
        decay = torch.clamp((1 + self.n_steps) / (10 + self.n_steps), max=self.config.ema_decay)
        self.average.lerp_(self.weights, (1 - decay).to(m.dtype))

    def averaged_model(self) -> NEMP:
        """A copy of the network that holds the averaged weights."""
        model = new_model(self.model.config).cast(self.weights.dtype).to(self.weights.device)
        model.reference_energies.copy_(self.model.reference_energies)
        vector_to_parameters(self.average.clone(), model.parameters())
        return model


def loss_terms(
    model: NEMP, table: FrameTable, index: Tensor, *, with_stress: bool, training: bool = True
) -> Tensor:
    """Mean squares of the batch ``index``: (ΔE/N)² eV², ΔF² (eV/Å)², Δσ² (eV/Å³)²; shape (3,)."""
    graph = table.graph(index)
    result = differentiate(model, graph, forces=True, stress=with_stress, create_graph=training)

    def rows(values: Tensor) -> Tensor:
        return values.index_select(0, index)

    mask, n_atoms = rows(table.is_atom), rows(table.n_atoms)
    total = (result.atomic_energies.reshape(mask.shape) * mask).sum(1)
    energy = ((total - rows(table.energy)) / n_atoms) ** 2
    forces = result.forces.reshape(mask.shape[0], -1, 3) - rows(table.forces)
    force = (forces**2).sum(2) * mask
    stress = energy.new_zeros(())
    if with_stress:
        wrong = (result.virial - rows(table.virial)) / rows(table.volume)[:, None, None]
        labelled = rows(table.has_stress)
        stress = ((wrong**2).mean((1, 2)) * labelled).sum() / labelled.sum().clamp(min=1)
    return torch.stack([energy.mean(), force.sum() / (3 * mask.sum()), stress])


def learning_rate(config: TrainConfig, step: int, n_steps: int) -> float:
    """Linear warm-up, then half a cosine from ``learning_rate`` to ``final_learning_rate``."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    wave = 0.5 * (1 + math.cos(math.pi * step / max(1, n_steps)))
    low, high = config.final_learning_rate, config.learning_rate
    return warm * (low + (high - low) * wave)


def epoch_batches(n_frames: int, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Frame indices of each batch of an epoch; depends on ``seed`` and ``epoch`` alone.

    A last incomplete batch is filled up from the start of the same order, so that every step has
    the same shape.
    """
    order = np.random.default_rng([seed, epoch]).permutation(n_frames)
    n_batches = math.ceil(n_frames / batch_size)
    filled = np.resize(order, n_batches * batch_size)
    yield from torch.from_numpy(filled).split(batch_size)


def table_errors(model: NEMP, table: FrameTable, batch_size: int) -> tuple[float, float]:
    """RMSE of the energy per atom (eV) and of the force components (eV/Å) over a table."""
    totals = np.zeros(2)
    for index in torch.arange(len(table), device=table.energy.device).split(batch_size):
        terms = loss_terms(model, table, index, with_stress=False, training=False)
        atoms = float(table.n_atoms.index_select(0, index).sum())
        totals += terms.detach().cpu().numpy()[:2] * [len(index), atoms]
    return tuple(np.sqrt(totals / [len(table), float(table.n_atoms.sum())]).tolist())


class Run:
    """One training run in its directory: log, saved state, early stop."""

    LOG_FIELDS = (
        "epoch",
        "learning_rate",
        "energy_weight",
        "train_loss",
        "train_energy_rmse_eV_per_atom",
        "train_force_rmse_eV_per_A",
        "validation_energy_rmse_eV_per_atom",
        "validation_force_rmse_eV_per_A",
        "seconds",
    )

    def __init__(
        self, trainer: Trainer, validation: FrameTable | None, directory: Path, fingerprint: str
    ) -> None:
        """Go on from ``state.pt`` in ``directory`` where there is one of the same run.

        Raises:
            InputError: the directory holds the state of another run.
        """
        self.trainer, self.validation = trainer, validation
        self.directory, self.fingerprint = directory, fingerprint
        self.epoch, self.seconds, self.best_epoch = 0, 0.0, 0
        self.best_loss, self.best_average = math.inf, trainer.average.clone()
        self.rows: list[dict[str, float]] = []
        self.state_file = directory / "state.pt"
        if self.state_file.is_file():
            self._resume()

    def _resume(self) -> None:
        device = self.trainer.weights.device
        saved = torch.load(self.state_file, map_location=device, weights_only=True)
        if saved["fingerprint"] != self.fingerprint:
            raise InputError(
                f"{self.directory} holds an unfinished run with other settings, data or versions. "
                "Choose another --out, or remove that directory."
            )
        self.trainer.restore(saved["trainer"])
        self.best_average.copy_(saved["best_average"])
        for name in ("epoch", "seconds", "best_epoch", "best_loss", "rows"):
            setattr(self, name, saved[name])

    def save(self) -> None:
        """Write the state and the log; either is replaced only by a complete file."""
        names = ("epoch", "seconds", "best_epoch", "best_loss", "rows", "fingerprint")
        state = {name: getattr(self, name) for name in names}
        state |= {"trainer": self.trainer.state(), "best_average": self.best_average}
        with replacing(self.state_file) as temporary:
            torch.save(state, temporary)
        with replacing(self.directory / "log.csv") as temporary, temporary.open("w") as handle:
            writer = csv.DictWriter(handle, self.LOG_FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)

    def epochs(self) -> Iterator[int]:
        """Train epoch by epoch, yielding after each; validates, logs and saves on the way."""
        config, trainer = self.trainer.config, self.trainer
        n_batches = math.ceil(len(trainer.table) / config.batch_size)
        n_steps = n_batches * config.epochs
        while self.epoch < config.epochs and not self.stopped_early():
            started = time.perf_counter()
            late = self.epoch >= (1 - config.final_part) * config.epochs
            energy_weight = config.final_energy_weight if late else config.energy_weight
            batches = epoch_batches(len(trainer.table), config.batch_size, config.seed, self.epoch)
            for k, index in enumerate(batches):
                rate = learning_rate(config, self.epoch * n_batches + k, n_steps)
                trainer.step(index, rate, energy_weight)
            self.epoch += 1
            if self.epoch % config.validate_every == 0 or self.epoch == config.epochs:
                self._validate(rate, energy_weight)
                self.seconds += time.perf_counter() - started
                self.rows[-1]["seconds"] = self.seconds
                self.save()
            else:
                self.seconds += time.perf_counter() - started
            yield self.epoch

    def _validate(self, rate: float, energy_weight: float) -> None:
        config, trainer = self.trainer.config, self.trainer
        loss, energy, force, steps = trainer.sums.tolist()
        trainer.sums.zero_()
        if not math.isfinite(loss):
            raise EvaluationError(
                f"the loss is not finite in epoch {self.epoch}. The state of the last validation "
                f"is in {self.state_file}. Lower learning_rate, or look for overlapping atoms."
            )
        row = dict.fromkeys(self.LOG_FIELDS, math.nan) | {
            "epoch": self.epoch,
            "learning_rate": rate,
            "energy_weight": energy_weight,
            "train_loss": loss / steps,
            "train_energy_rmse_eV_per_atom": math.sqrt(energy / steps),
            "train_force_rmse_eV_per_A": math.sqrt(force / steps),
        }
        if self.validation is not None:
            model = trainer.averaged_model()
            errors = table_errors(model, self.validation, 8 * config.batch_size)
            row["validation_energy_rmse_eV_per_atom"] = errors[0]
            row["validation_force_rmse_eV_per_A"] = errors[1]
            weights = config.final_energy_weight, config.force_weight
            loss = weights[0] * errors[0] ** 2 + weights[1] * errors[1] ** 2
            if loss < self.best_loss:
                self.best_loss, self.best_epoch = loss, self.epoch
                self.best_average.copy_(trainer.average)
        self.rows.append(row)

    def stopped_early(self) -> bool:
        """Whether ``patience`` validations have passed without improvement."""
        config = self.trainer.config
        waited = (self.epoch - self.best_epoch) / config.validate_every
        return bool(config.patience) and self.validation is not None and waited >= config.patience

    def final_model(self) -> NEMP:
        """The last averaged weights, or the best ones where early stopping is on."""
        if self.trainer.config.patience and self.validation is not None:
            self.trainer.average.copy_(self.best_average)
        return self.trainer.averaged_model()
