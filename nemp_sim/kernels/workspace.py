"""Workspace: what the networks of one chunk of edges read and write, in memory used again."""

from collections.abc import Hashable

from torch import Tensor

ALL_PAIRS = 2**21  # edges up to which h⁰ of all of them is kept, not of one chunk


class Workspace:
    """Room for h⁰, the outputs of an edge network, and gradients, of one chunk of edges.

    Attributes:
        keeps_outputs: outputs have room for all edges, those of each network its own.
        first: first edge of the chunk.
        rows: number of its edges.
        keeps_pairs: h⁰ and its gradient have room for all edges.
    """

    def __init__(
        self, like: Tensor, n_edges: int, chunk: int, n_pair: int, n_outputs: int,
        keeps_outputs: bool = False,
    ) -> None:  # fmt: skip
        """Room for chunks of up to ``chunk`` edges; other room than for h⁰ comes when asked for."""
        self._like, self._n_pair, self._n_edges = like, n_pair, n_edges
        self.keeps_outputs = keeps_outputs
        self._most = rows = min(n_edges, chunk)
        self.keeps_pairs = n_edges <= ALL_PAIRS
        self._sizes = (n_edges if self.keeps_pairs else rows) * n_pair, rows * n_outputs
        self._pair = like.new_empty(self._sizes[0])
        self._outputs: dict[Hashable, Tensor] = {}
        self._grads: list[Tensor] = []
        self.first = self.rows = 0

    def take(self, chunk: tuple[int, int]) -> None:
        """Go to a chunk (first, rows)."""
        self.first, self.rows = chunk

    @property
    def pair_state(self) -> Tensor:
        """h⁰ (rows, 2 K)."""
        return self._pair_view(self._pair)

    @property
    def grad_pair_state(self) -> Tensor:
        """Its gradient."""
        return self._pair_view(self._gradients()[0])

    @property
    def grad_last_state(self) -> Tensor:
        """Gradient of the last state, s^(T−1) (rows, K)."""
        return self._gradients()[2][: self.rows * (self._n_pair // 2)].view(self.rows, -1)

    def outputs(self, network: Hashable, columns: int) -> Tensor:
        """Outputs (rows, columns) of a network."""
        if self.keeps_outputs:
            if network not in self._outputs:
                self._outputs[network] = self._like.new_empty(self._n_edges, columns)
            return self._outputs[network][self.first : self.first + self.rows]
        if None not in self._outputs:
            self._outputs[None] = self._like.new_empty(self._sizes[1])
        return self._outputs[None][: self.rows * columns].view(self.rows, columns)

    def grad_outputs(self, columns: int) -> Tensor:
        """Their gradient."""
        return self._gradients()[1][: self.rows * columns].view(self.rows, columns)

    def _gradients(self) -> list[Tensor]:
        if not self._grads:
            last = self._most * (self._n_pair // 2)
            self._grads = [self._like.new_empty(size) for size in (*self._sizes, last)]
        return self._grads

    def _pair_view(self, whole: Tensor) -> Tensor:
        first = self.first if self.keeps_pairs else 0
        return whole.view(-1, self._n_pair)[first : first + self.rows]
