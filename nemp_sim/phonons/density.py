"""Density of states of a crystal by the tetrahedron method, averaged over bins of frequency.

The linear tetrahedron method, which phonopy sums, gives the number N(ν) of modes below every
frequency. Its slope at isolated points misses a mode without dispersion, or counts it too often.
The mean over a bin of width w,

    g_k = [N(ν_k + w/2) − N(ν_k − w/2)] / w,

misses none: the sum of w g_k is 3n for n atoms in the primitive cell, however narrow a band is,
and where bands are wider than w it is the density of states itself. Modes are shared out to atoms
by the squares of their eigenvectors, so that the projected densities add up to the total.

Source: P. E. Blöchl, O. Jepsen and O. K. Andersen, Phys. Rev. B 49, 16223 (1994),
10.1103/PhysRevB.49.16223.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from phonopy.phonon.mesh import Mesh
from phonopy.phonon.spectrum import TetrahedronDOSAccumulator

WIDTH_THZ = 0.05  # of a bin, unless there would be too few or too many of them
FEWEST_BINS, MOST_BINS = 160, 1000


@dataclass(frozen=True)
class DensityOfStates:
    """Modes per frequency and primitive cell: means over bins of equal width.

    Attributes:
        frequencies_THz: (m,) centres of the bins; negative: imaginary modes.
        by_atom: (n, m) share of each atom of the primitive cell, 1/THz.
        symbols: (n,) its element.
        width_THz: of a bin.
    """

    frequencies_THz: np.ndarray
    by_atom: np.ndarray
    symbols: tuple[str, ...]
    width_THz: float

    @property
    def total(self) -> np.ndarray:
        """(m,) 1/THz; the sum times the width of a bin is 3n."""
        return self.by_atom.sum(axis=0)

    @property
    def projected(self) -> Mapping[str, np.ndarray]:
        """(m,) of each element, 1/THz; they add up to the total."""
        symbols = np.array(self.symbols)
        return {
            symbol: self.by_atom[symbols == symbol].sum(axis=0)
            for symbol in dict.fromkeys(self.symbols)
        }

    @property
    def method(self) -> str:
        """How it was computed, for the files."""
        return f"Tetrahedron method, means over bins of {self.width_THz:.4f} THz"


def density_of_states(mesh: Mesh) -> DensityOfStates:
    """Total and projected density of states.

    The bins begin and end in empty ones, and zero is the border of two.

    Args:
        mesh: all wave vectors of a mesh, with eigenvectors (``is_mesh_symmetry=False``).
    """
    lowest, highest = float(mesh.frequencies.min()), float(mesh.frequencies.max())
    width = bin_width(highest - lowest)
    edges = width * np.arange(np.floor(lowest / width) - 2, np.ceil(highest / width) + 3)
    n_points, n_coordinates, n_bands = mesh.eigenvectors.shape
    squares = np.abs(mesh.eigenvectors) ** 2
    shares = squares.reshape(n_points, n_coordinates // 3, 3, n_bands).sum(axis=2)
    below = TetrahedronDOSAccumulator(
        mesh.frequencies,
        mesh.bz_grid,
        mode_property=shares.transpose(0, 2, 1)[None],
        sampling_points=edges,
    ).result.cumulative[0]  # (edges, atoms)
    return DensityOfStates(
        frequencies_THz=(edges[1:] + edges[:-1]) / 2,
        by_atom=np.diff(below, axis=0).T / width,
        symbols=tuple(str(symbol) for symbol in mesh.primitive.symbols),
        width_THz=width,
    )


def bin_width(span_THz: float) -> float:
    """Width of the bins of frequencies over a span, THz."""
    if span_THz < WIDTH_THZ:
        return WIDTH_THZ
    return min(span_THz / FEWEST_BINS, max(WIDTH_THZ, span_THz / MOST_BINS))
