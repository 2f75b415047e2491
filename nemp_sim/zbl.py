"""Ziegler–Biersack–Littmark screened nuclear repulsion, switched off at bond length."""

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from nemp_sim.units import BOHR_ANGSTROM, HARTREE_EV

COULOMB = HARTREE_EV * BOHR_ANGSTROM  # e²/4πε₀ in eV Å
SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))


class ZBL(nn.Module):
    """Half of the pair energy for each directed edge, so that the two directions make the whole.

    E_ab(d) = (e²/4πε₀) Z_a Z_b / d · φ(d/s) · f_c(d/d_ab), s = 0.8854 a_B / (Z_a^0.23 + Z_b^0.23),
    φ the universal screening function, d_ab the reach of the pair, f_c the polynomial cutoff of
    degree 6 (value and two derivatives vanish at d_ab). ``cutoff`` (S²,) is the largest reach, the
    sum of the covalent radii, Å.

    Source: J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Solids
    (Pergamon, 1985).
    """

    charge: Tensor
    length: Tensor
    cutoff: Tensor

    def __init__(self, elements: tuple[int, ...]) -> None:
        """Tabulate the constants of each ordered pair of ``elements`` (atomic numbers)."""
        super().__init__()
        z = torch.tensor(elements, dtype=torch.float64)
        radii = torch.tensor([covalent_radii[e] for e in elements], dtype=torch.float64)
        pair_sum = z[:, None] ** 0.23 + z[None, :] ** 0.23
        self.register_buffer("charge", (z[:, None] * z[None, :]).flatten(), persistent=False)
        length = 0.8854 * BOHR_ANGSTROM / pair_sum.flatten()
        self.register_buffer("length", length, persistent=False)
        cutoff = (radii[:, None] + radii[None, :]).flatten()
        self.register_buffer("cutoff", cutoff, persistent=False)

    def forward(self, d: Tensor, pair: Tensor, reach: Tensor) -> Tensor:
        """Distances (E,) in Å and pair indices a·S + b (E,) → half pair energies (E,), eV.

        Args:
            d: distances (E,), Å.
            pair: ordered pairs of elements a·S + b (E,).
            reach: d_ab of each ordered pair (S²,), Å.
        """
        s = d / self.length.index_select(0, pair)
        phi = sum(weight * torch.exp(-rate * s) for weight, rate in SCREENING)
        x = d / reach.index_select(0, pair)
        envelope = 1 - x**6 * (28 - x * (48 - x * 21))
        envelope = torch.where(x < 1, envelope, torch.zeros_like(x))
        return 0.5 * COULOMB * self.charge.index_select(0, pair) / d * phi * envelope
