"""Mode Grüneisen parameters: how the frequencies change with the volume.

    γ_{qν} = −∂ ln ω_{qν} / ∂ ln V = −(V / 2ω²) ⟨e_{qν}| ∂D(q)/∂V |e_{qν}⟩,

with ∂D/∂V by central differences between two volumes: phonopy's PhonopyGruneisen. Their mean,
weighted with the heat capacity of each mode, is the thermodynamic γ = 3 α B V / C_V.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.units import kB
from phonopy import PhonopyGruneisen
from phonopy.physical_units import get_physical_units

from nemp_sim.errors import InputError
from nemp_sim.phonons.imaginary import ZERO_THZ
from nemp_sim.phonons.volumes import Volumes

DELTA = 0.01  # relative change of the volume on either side


@dataclass(frozen=True)
class Gruneisen:
    """Grüneisen parameters of n modes on the mesh, translations and imaginary modes left out.

    Attributes:
        frequencies_THz: (n,).
        parameters: (n,).
        weights: (n,) how many wave vectors of the full mesh each stands for.
        n_skipped: modes left out, counted on the full mesh.
        raw: phonopy's object, with mesh and bands run.
    """

    frequencies_THz: np.ndarray
    parameters: np.ndarray
    weights: np.ndarray
    n_skipped: int
    raw: PhonopyGruneisen

    def mean(self, temperature_K: float) -> float:
        """Mean weighted with the heat capacity of each mode; 0 K takes the zero-point energies."""
        energy = self.frequencies_THz * get_physical_units().THzToEv
        share = self.weights * energy
        if temperature_K > 0:
            x = np.minimum(energy / (2 * kB * temperature_K), 300.0)
            share = self.weights * (x / np.sinh(x)) ** 2
        return float(share @ self.parameters / share.sum())


def gruneisen(volumes: Volumes, mesh: Sequence[int], paths: Sequence[np.ndarray]) -> Gruneisen:
    """Grüneisen parameters at the middle of three volumes, on a mesh and along a path.

    Args:
        volumes: holding the ratios 1 − δ, 1 and 1 + δ with δ = ``DELTA``.
        mesh: points of the Γ-centred mesh.
        paths: segments (n, 3) of wave vectors.

    Raises:
        InputError: volumes without these three.
    """
    wanted = (1.0, 1.0 + DELTA, 1.0 - DELTA)
    indices = [volumes.nearest(ratio) for ratio in wanted]
    if not np.allclose(volumes.ratios[indices], wanted, atol=1e-9):
        raise InputError(
            f"volumes has the ratios {volumes.ratios.tolist()}, but {sorted(wanted)} are wanted."
        )
    whole, larger, smaller = (volumes.constants[i].phonon for i in indices)
    raw = PhonopyGruneisen(whole, larger, smaller)
    with np.errstate(divide="ignore", invalid="ignore"):  # translations at Γ: 0/0
        raw.set_mesh(list(mesh), is_gamma_center=True)
        raw.set_band_structure(paths)
    _, weights, frequencies, _, parameters = raw.get_mesh()
    real = frequencies > ZERO_THZ
    every = np.broadcast_to(weights[:, None], frequencies.shape)
    return Gruneisen(
        frequencies_THz=frequencies[real],
        parameters=parameters[real],
        weights=every[real],
        n_skipped=int(every[~real].sum()),
        raw=raw,
    )
