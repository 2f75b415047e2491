"""The optimizer: weights in one flat vector, updated by a few kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nemp_sim.training.config import TrainConfig

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MATRIX_RATE = 0.5  # RMS of the update of a matrix over the learning rate
MIN_MATRIX_SIDE = 8


class Optimizer:
    """Weights, their running average, and the moments of their gradients.

    All trained weights live in one flat vector of which the parameters are views, so that clipping,
    decay and averaging are single kernels. The update is that of Adam (Kingma and Ba, arXiv
    1412.6980; with AMSGrad, Reddi et al., arXiv 1904.09237, where wanted). For the matrices of the
    network Muon replaces it (K. Jordan et al., kellerjordan.github.io/posts/muon, 2024; J. Liu et
    al., arXiv 2502.16982): the momentum M is replaced by its nearest semi-orthogonal matrix, found
    by five Newton–Schulz steps X ← aX + b(XXᵀ)X + c(XXᵀ)²X, of all matrices in one padded batch.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], config: TrainConfig) -> None:
        """Take over ``parameters``, which become views of ``weights``."""
        self.config = config
        self.weights = parameters_to_vector(parameters).detach()
        vector_to_parameters(self.weights, parameters)
        self.average = self.weights.to(torch.float64, copy=True)  # float32 loses small steps
        self.moments = [torch.zeros_like(self.weights) for _ in range(3)]  # m, v, max v̂
        self.n_steps = torch.zeros((), dtype=torch.float64, device=self.weights.device)
        self.matrices = _MatrixBatch(parameters)

    def state(self) -> dict[str, Tensor]:
        """Everything that a later run needs to go on."""
        names = ("weights", "average", "n_steps")
        moments = {f"moment_{i}": m for i, m in enumerate(self.moments)}
        return {name: getattr(self, name) for name in names} | moments

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def step(self, gradient: Tensor, rate: Tensor) -> None:
        """Clip, update, decay, average: in place, in a fixed order.

        Args:
            gradient: of the loss, shaped like ``weights``.
            rate: learning rate, scalar.
        """
        config, (m, v, v_max), (b1, b2) = self.config, self.moments, ADAM_BETAS
        self.n_steps += 1
        gradient = gradient * (config.clip_norm / (gradient.norm() + 1e-12)).clamp(max=1.0)
        m.lerp_(gradient, 1 - b1)
        v.lerp_(gradient * gradient, 1 - b2)
        v_max.copy_(torch.maximum(v_max, v) if config.amsgrad else v)
        unbias = torch.sqrt(1 - b2**self.n_steps).to(m.dtype)
        first = (1 - b1**self.n_steps).to(m.dtype)
        move = m / first / (v_max.sqrt() / unbias + ADAM_EPSILON)
        if config.optimizer == "muon":
            self.matrices.orthogonalise(torch.lerp(m, gradient, 1 - b1), move)
        if config.weight_decay:
            self.matrices.shrink(self.weights, (1 - rate * config.weight_decay).to(m.dtype))
        self.weights.sub_(move * rate.to(m.dtype))
        decay = torch.clamp((1 + self.n_steps) / (10 + self.n_steps), max=config.ema_decay)
        self.average.lerp_(self.weights.double(), 1 - decay)


class _MatrixBatch:
    """The matrices among the parameters, as a padded batch (P, R, C) with R ≤ C.

    The last two axes of a parameter are a matrix where both have MIN_MATRIX_SIDE entries or more.
    Zero rows and columns stay zero in every Newton–Schulz step, so padding changes nothing.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        """Find the matrices."""
        places, offset = [], 0
        for parameter in parameters:
            place = torch.arange(offset, offset + parameter.numel()).view(parameter.shape)
            offset += parameter.numel()
            if parameter.dim() >= 2 and min(parameter.shape[-2:]) >= MIN_MATRIX_SIDE:
                flat = place.flatten(0, -3) if place.dim() > 2 else place[None]
                places += [p.T if p.shape[0] > p.shape[1] else p for p in flat]
        rows = max((p.shape[0] for p in places), default=0)
        columns = max((p.shape[1] for p in places), default=0)
        index = torch.full((len(places), rows, columns), offset)  # one past the end: a zero
        for k, place in enumerate(places):
            index[k, : place.shape[0], : place.shape[1]] = place
        device = parameters[0].device
        self.index = index.to(device)
        self.filled = (index < offset).flatten().nonzero()[:, 0].to(device)
        self.target = index.flatten()[index.flatten() < offset].to(device)
        longer = torch.tensor([p.shape[1] for p in places], dtype=parameters[0].dtype)
        self.scale = (MATRIX_RATE * longer.sqrt())[:, None, None].to(device)

    def shrink(self, weights: Tensor, factor: Tensor) -> None:
        """Multiply the matrices in ``weights`` by ``factor``, in place."""
        weights.index_copy_(0, self.target, weights.index_select(0, self.target) * factor)

    def orthogonalise(self, momentum: Tensor, move: Tensor) -> None:
        """Write the orthogonal factors of the matrices in ``momentum`` into ``move``, in place."""
        if not len(self.index):
            return
        padded = torch.cat([momentum, momentum.new_zeros(1)])
        x = padded.index_select(0, self.index.flatten()).view(self.index.shape)
        x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-30)
        a, b, c = NEWTON_SCHULZ
        for _ in range(NEWTON_SCHULZ_STEPS):
            square = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
        x = (x * self.scale).flatten().index_select(0, self.filled)
        move.index_copy_(0, self.target, x)
