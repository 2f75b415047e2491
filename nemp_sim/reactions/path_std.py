"""How uncertain barriers and reaction energies are, by the members of the ensemble."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemp_sim.reactions.neb import NEBResult
from nemp_sim.relax import Engine
from nemp_sim.statistics import combination_std


@dataclass(frozen=True)
class PathStd:
    """Predicted standard deviations along a path: of differences, each taken member by member.

    Errors that the structures share cancel, so these are no sums of the ± of single energies.

    Attributes:
        forward_eV: of the highest structure minus the initial state.
        reverse_eV: of the highest structure minus the final state.
        reaction_eV: of the final minus the initial state.
        energies_eV: (n,) of each structure minus the initial state.
    """

    forward_eV: float
    reverse_eV: float
    reaction_eV: float
    energies_eV: np.ndarray

    @property
    def barrier_eV(self) -> float:  # noqa: N802 (a unit in a name)
        """The larger of both barriers', which ``--max-std`` is held against."""
        return max(self.forward_eV, self.reverse_eV)


def path_std(members_eV: np.ndarray | None, top: int) -> PathStd | None:
    """Standard deviations of a path; None without an ensemble.

    Args:
        members_eV: (n, M), ``Evaluation.energy_members`` of the structures from the initial to
            the final state; None: no ensemble.
        top: the highest structure.
    """
    if members_eV is None:
        return None
    states = members_eV[[0, top, -1]]
    differences = ([-1, 1, 0], [0, 1, -1], [-1, 0, 1])
    forward, reverse, reaction = (combination_std(states, weights) for weights in differences)
    each = np.array([combination_std(pair, [-1, 1]) for pair in _pairs(members_eV)])
    return PathStd(forward, reverse, reaction, each)


def band_stds(engine: Engine, bands: Sequence[NEBResult]) -> list[PathStd | None]:
    """Standard deviations of each band, all images of all bands in one engine call."""
    images = [image for band in bands for image in band.images]
    members = getattr(engine.evaluate(images), "energy_members", None)
    if members is None:
        return [None] * len(bands)
    parts = np.split(members, np.cumsum([len(band.images) for band in bands])[:-1])
    return [path_std(p, band.saddle_index) for p, band in zip(parts, bands, strict=True)]


def _pairs(members_eV: np.ndarray) -> list[np.ndarray]:
    """The initial state (2, M) with each structure of the path."""
    return [np.array([members_eV[0], own]) for own in members_eV]
