"""Workspace: room for the outputs of the edge networks and for what their derivatives need."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from nemp_sim.kernels.edge_mlp import EdgeMLP, Run
from nemp_sim.memory import free_memory

# Outputs and slopes that are kept from the energy for the forces: bytes at most, also as a share of
# the free memory, and bytes that are kept without asking how much is free.
KEPT_BYTES, KEPT_SHARE, KEPT_ALWAYS = 8 * 2**30, 0.3, 2**28


def fits(mlps: Sequence[EdgeMLP], like: Tensor, n_edges: int) -> bool:
    """Whether the outputs and slopes of all networks may be kept for all edges."""
    size = sum(
        mlp.n_outputs * like.itemsize + mlp.n_slopes * mlp.slope_dtype.itemsize for mlp in mlps
    )
    wanted = n_edges * size
    if wanted <= KEPT_ALWAYS or wanted > KEPT_BYTES:
        return wanted <= KEPT_ALWAYS
    return wanted <= KEPT_SHARE * free_memory(like.device)


class Workspace:
    """Outputs and slopes of the networks: of one chunk of edges at a time, or of all, kept.

    Attributes:
        keeps: outputs and slopes of the evaluations are kept for the derivative, which then
            evaluates no network again; the derivative uses them up.
    """

    def __init__(
        self, mlps: Sequence[EdgeMLP], like: Tensor, n_edges: int, rows: int, keeps: bool
    ) -> None:
        """Room for chunks of ``rows`` edges of ``n_edges``, of all edges where ``keeps``."""
        self.keeps, self.n_edges = keeps, n_edges
        self.rows = n_edges if keeps else min(n_edges, rows)
        self._like, self._kept = like, {}
        self._outputs = max(mlp.n_outputs for mlp in mlps)
        self._slopes = max(mlp.n_slopes for mlp in mlps)
        self._slope_dtype = mlps[0].slope_dtype
        self._shared: list[Tensor | None] = [None, None]

    @property
    def is_full(self) -> bool:
        """Whether outputs are kept that no derivative has used up."""
        return bool(self._kept)

    def chunks(self, stretch: tuple[int, int] | None = None) -> Iterator[tuple[int, int]]:
        """First edge and number of edges of each chunk; of a stretch of edges, or of all."""
        start, count = stretch or (0, self.n_edges)
        for first in range(start, start + count, self.rows):
            yield first, min(self.rows, start + count - first)

    def evaluate(self, run: Run, mlp: EdgeMLP, state: Tensor, chunk: tuple[int, int]) -> Tensor:
        """Outputs (rows, R K) of a network for a chunk; slopes too where they are kept."""
        if not self.keeps:
            out = self._view(0, chunk[1], mlp.n_outputs)
            mlp.forward(run, state, chunk, out, None)
            return out
        out = self._like.new_empty(chunk[1], mlp.n_outputs)
        slopes = self._like.new_empty(chunk[1] * mlp.n_slopes, dtype=mlp.slope_dtype)
        mlp.forward(run, state, chunk, out, slopes)
        self._kept[mlp] = out, slopes
        return out

    def recall(
        self, run: Run, mlp: EdgeMLP, state: Tensor, chunk: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Outputs and slopes for the derivative: those kept, or evaluated again."""
        if self.keeps:
            return self._kept.pop(mlp)
        out = self._view(0, chunk[1], mlp.n_outputs)
        slopes = self._view(1, chunk[1], mlp.n_slopes)
        mlp.forward(run, state, chunk, out, slopes)
        return out, slopes

    def _view(self, which: int, rows: int, columns: int) -> Tensor:
        """The first numbers of the shared outputs (0) or slopes (1)."""
        if self._shared[which] is None:
            count = self.rows * (self._slopes if which else self._outputs)
            dtype = self._slope_dtype if which else self._like.dtype
            self._shared[which] = self._like.new_empty(count, dtype=dtype)
        return self._shared[which][: rows * columns].view(rows, columns)
