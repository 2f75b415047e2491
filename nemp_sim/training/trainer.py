"""Training steps: on a GPU the whole step is compiled and is one CUDA graph."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import vector_to_parameters

from nemp_sim.derivatives import differentiate
from nemp_sim.memory import bytes_per_edge, total_memory
from nemp_sim.model import NEMP
from nemp_sim.training.config import TrainConfig
from nemp_sim.training.optimizer import Optimizer
from nemp_sim.training.processes import Processes
from nemp_sim.training.tables import BatchSize, FrameTable

GRAPH_WARMUP_STEPS = 3
VALIDATION_EDGES = 2**15  # of frames whose errors are computed together
STEP_COPIES = 2.1  # memory of a step with second derivatives over that of energy and forces
MEMORY_SHARE = 0.25  # of a device, for a step: others may use it too
N_TERMS = 3


def most_edges(model: NEMP, config: TrainConfig, device: torch.device) -> float:
    """Edges of the frames that are computed together, as ``config`` says or the memory allows."""
    if config.share_edges:
        return config.share_edges
    bytes_each = STEP_COPIES * bytes_per_edge(model.config, model.species_mix.dtype)
    return MEMORY_SHARE * total_memory(device) / bytes_each


class Trainer:
    """The steps of a run: loss of a batch, its gradient, sum over processes, optimizer."""

    def __init__(
        self,
        model: NEMP,
        table: FrameTable,
        size: BatchSize,
        config: TrainConfig,
        processes: Processes,
    ) -> None:
        """Start from the weights of ``model``; those that require no gradient stay as they are."""
        self.model, self.table, self.config, self.processes = model, table, config, processes
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = Optimizer(self.parameters, config)
        self.device = device = table.energy.device
        frames = size.frames * size.shares
        self.given = torch.zeros(2 + frames, dtype=torch.float64, device=device)  # rate, w_E, index
        self.controls = self.given[:2]
        self.sums = torch.zeros(2 + N_TERMS, dtype=torch.float64, device=device)  # terms, loss, 1
        self.index = torch.zeros(frames, dtype=torch.int64, device=device)
        self.share = self.index[: size.frames].clone()  # frames that are computed together
        self.objective = Objective(model, size, config)
        self.gradient = self.objective.gradient
        self.cuda_graph: torch.cuda.CUDAGraph | None = None

    def step(self, index: Tensor, rate: float, energy_weight: float) -> None:
        """One optimizer step on the frames ``index`` (batch,), those of all processes."""
        self._give(index, rate, energy_weight)
        if self.cuda_graph is None:
            self._step()
        else:
            self.cuda_graph.replay()

    def gradient_of(self, index: Tensor, energy_weight: float) -> tuple[Tensor, Tensor]:
        """Terms and loss (4,) of the frames ``index``, and the gradient, over this process's."""
        self._give(index, 0.0, energy_weight)
        return self._gradient()

    def _give(self, index: Tensor, rate: float, energy_weight: float) -> None:
        given = torch.cat([torch.tensor([rate, energy_weight], dtype=torch.float64), index])
        if self.device.type == "cuda":  # so that the GPU need not wait for this process
            given = given.pin_memory()
        self.given.copy_(given, non_blocking=True)

    def prepare(self, index: Tensor) -> None:
        """On a GPU: compile the step and capture it, trying it on the frames ``index``."""
        if self.device.type == "cpu" or self.cuda_graph is not None:
            return
        self._give(index, 0.0, self.config.energy_weight)
        self.index.copy_(index)
        self.share.copy_(index[: len(self.share)])
        if self.config.compile:
            self.gradient = compiled(self.objective.gradient, self._inputs())
        saved = {name: tensor.clone() for name, tensor in self.optimizer.state().items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(GRAPH_WARMUP_STEPS):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        self.cuda_graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.cuda_graph):
            self._step()
        self.optimizer.restore(saved)
        self.sums.zero_()

    def _inputs(self) -> list[Tensor]:
        fixed = self.index, self.share, self.controls
        return [*fixed, *self.parameters, *vars(self.table).values()]

    def _step(self) -> None:
        terms, gradient = self._gradient()
        with torch.no_grad():
            self.processes.sum_(gradient)
            self.optimizer.step(gradient, self.controls[0])
            self.sums += torch.cat([terms, torch.ones_like(terms[:1])])

    def _gradient(self) -> tuple[Tensor, Tensor]:
        """Sums over the shares of this process, one after the other."""
        self.index.copy_(self.given[2:])
        rank, count, shares = self.processes.rank, self.processes.count, self.objective.size.shares
        (terms, gradient), *others = map(self._gradient_of, range(rank, shares, count))
        for more_terms, more in others:
            terms, gradient = terms + more_terms, gradient + more
        return terms, gradient

    def _gradient_of(self, share: int) -> tuple[Tensor, Tensor]:
        """Terms and gradient of the frames of one share of the batch."""
        self.share.copy_(self.index[share :: self.objective.size.shares])
        return self.gradient(*self._inputs())

    def mean_terms(self) -> list[float]:
        """Means of the loss terms and of the loss since the last call, over all processes."""
        sums = self.sums.clone()
        self.processes.sum_(sums[: 1 + N_TERMS])
        self.sums.zero_()
        *means, steps = sums.tolist()
        return [value / max(steps, 1.0) for value in means]

    def averaged_model(self) -> NEMP:
        """A copy of the network that holds the averaged weights."""
        model = copy.deepcopy(self.model)
        trained = [p for p in model.parameters() if p.requires_grad]
        vector_to_parameters(self.optimizer.average.to(self.optimizer.weights.dtype), trained)
        return model


class Objective(nn.Module):
    """The loss of one share of a batch, and its gradient, as a function of tensors alone.

    With b frames in the whole batch, n atoms in those that have forces and s that have a stress,
    the terms are Σ w (ΔE/N)²/b in eV², Σ w ΔF²/3n in (eV/Å)², Σ w Δσ²/9s in (eV/Å³)², w the weight
    of the frame, or one outside training; they add up over the shares.
    """

    def __init__(self, model: NEMP, size: BatchSize, config: TrainConfig) -> None:
        """Keep the network and what fixes the loss."""
        super().__init__()
        self.model, self.size, self.config = model, size, config
        self.names = [f"model.{n}" for n, p in model.named_parameters() if p.requires_grad]

    def forward(
        self, index: Tensor, mine: Tensor, table: FrameTable, training: bool = True
    ) -> Tensor:
        """Loss terms (3,) float64 of the frames ``mine`` of a batch of the frames ``index``."""
        graph, labels = table.batch(mine, self.size)
        with_stress = self.config.stress_weight > 0
        result = differentiate(
            self.model, graph, forces=True, stress=with_stress, create_graph=training
        )
        n_atoms = table.n_atoms.index_select(0, mine)
        weight = table.weight.index_select(0, mine)
        weight = weight if training else torch.ones_like(weight)
        error = (result.energy[:-1] - table.energy.index_select(0, mine)) / n_atoms
        of_forces = weight * table.has_forces.index_select(0, mine)
        of_forces = torch.cat([of_forces, of_forces.new_zeros(1)])  # (b+1,), none for the padding
        wrong = (result.forces - labels) ** 2 * of_forces.index_select(0, graph.structure)[:, None]
        atoms = (table.n_atoms * table.has_forces).index_select(0, index).sum().clamp(min=1)
        terms = [(weight * error**2).sum() / len(index), wrong.sum() / (3 * atoms)]
        if not with_stress:
            return torch.stack([*terms, torch.zeros_like(terms[0])])
        volume = table.volume.index_select(0, mine)[:, None, None]
        stress = (result.virial[:-1] - table.virial.index_select(0, mine)) / volume
        of_stress = (weight * table.has_stress.index_select(0, mine))[:, None, None]
        count = table.has_stress.index_select(0, index).sum().clamp(min=1)
        return torch.stack([*terms, (stress**2 * of_stress).sum() / (9 * count)])

    def gradient(
        self, index: Tensor, mine: Tensor, controls: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Terms and loss (4,), and the flat gradient of the loss.

        ``tensors`` are the trained parameters, then the fields of the FrameTable.
        """
        n = len(self.names)
        parameters = [p.detach().requires_grad_() for p in tensors[:n]]
        table = FrameTable(*tensors[n:])
        with torch.enable_grad():
            weights = dict(zip(self.names, parameters, strict=True))
            terms = functional_call(self, weights, (index, mine, table))
            loss = controls[1] * terms[0] + self.config.force_weight * terms[1]
            loss = loss + self.config.stress_weight * terms[2]
            gradients = torch.autograd.grad(loss, parameters)
        shown = torch.cat([terms.detach(), loss.detach()[None]])
        return shown, torch.cat([g.flatten() for g in gradients])


def compiled(function: Callable, inputs: Sequence[Tensor]) -> Callable:
    """``function`` with its second derivatives traced into one graph and fused by the compiler."""
    traced = make_fx(function)(*inputs)
    with warnings.catch_warnings():  # tf32 is left off on purpose: forces need float32
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
        return torch._inductor.compile(traced, list(inputs))


def learning_rate(config: TrainConfig, step: int, share: float) -> float:
    """Linear warm-up, then half a cosine from ``learning_rate`` to ``final_learning_rate``.

    Args:
        config: the rates.
        step: steps done.
        share: share of the run that is done, 0 … 1.
    """
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    low, high = config.final_learning_rate, config.learning_rate
    return warm * (low + (high - low) * 0.5 * (1 + math.cos(math.pi * share)))


def energy_weight(config: TrainConfig, share: float) -> float:
    """w_E: geometric from ``energy_weight`` to ``final_energy_weight``.

    Forces first, energies last; without a jump, which throws an optimizer off that is scaled by
    past gradients. ``share`` is the share of the run that is done, 0 … 1.
    """
    return config.energy_weight * (config.final_energy_weight / config.energy_weight) ** share


def table_errors(model: NEMP, table: FrameTable, config: TrainConfig) -> list[float]:
    """RMSE over a table: energy per atom (eV), force (eV/Å), stress (eV/Å³); 0 without labels."""
    totals, n_atoms = torch.zeros(N_TERMS), table.n_atoms * table.has_forces
    counts = len(table), n_atoms.sum().clamp(min=1), table.has_stress.sum().clamp(min=1)
    weights = torch.tensor(counts)
    for index in table.split(VALIDATION_EDGES):
        objective = Objective(model, table.size_of(index), config)
        terms = objective(index, index, table, training=False).detach().cpu()
        share = [len(index), n_atoms[index].sum(), table.has_stress[index].sum()]
        totals = totals + terms * torch.tensor(share)
    return torch.sqrt(totals / weights).tolist()
