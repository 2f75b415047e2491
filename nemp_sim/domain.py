"""Where a potential may be trusted: the ranges that its training frames cover, and who leaves them.

A structure is outside where two atoms are closer than ``MARGIN`` times the shortest distance of
their elements in the training frames, where the coordination of an atom lies outside the trained
range, where an atom has more close neighbours of one element than any in the training frames
("crowding": a third and a fourth H beside H2), or where the ensemble read-out predicts a larger
error than is accepted. Where a file records no coordination, an atom is outside that has no
neighbour within ``ISOLATED`` times the shortest distance: atoms of condensed matter and of
molecules have one, those of a structure whose lengths are in Bohr have none. What a file does not
record is not judged; ``Domain.not_recorded`` names it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol, Self

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from nemp_sim.model import NEMP
from nemp_sim.structures import in_vacuum
from nemp_sim.surroundings import close_reach

MARGIN = 0.95  # 191 held-out frames of pdh, water and methanol reach down to 0.988
RECORD_FACTOR = 2.0  # accepted standard deviation over the largest one of the training frames
RMSE_FACTOR = 10.0  # the same over the held-out RMSE, for files that do not record the largest one
FEWEST = 1e-3  # a coordination below counts as this much
ISOLATED = 1.6  # 3639 frames of water, methanol and Ag–Pd reach up to 1.44; Bohr for Å gives 1.89
FARTHEST = 10.0  # shortest distances; beyond it, or with no neighbour at all, this is reported
FEW = 0.25  # close neighbours of an element that no atom has in the training frames
KINDS = ("distance", "isolation", "coordination", "crowding", "atom_std", "energy_std", "force_std")


@dataclass(frozen=True)
class Finding:
    """How far one structure is from what was trained, in one respect.

    Attributes:
        kind: one of ``KINDS``.
        atoms: indices of the atoms concerned; empty for the structure as a whole.
        value: what was found, in ``unit``.
        threshold: the limit of what is accepted, in ``unit``.
        unit: "Å", "eV", "eV/atom", "eV/Å", "neighbours" (weighted by the cutoff function), "close H
            neighbours", or "shortest distances" (of a pair in training).
        excess: how many times the limit is exceeded; 1 or less inside.
        formula: of the structure.
        symbols: elements of ``atoms``.
    """

    kind: str
    atoms: tuple[int, ...]
    value: float
    threshold: float
    unit: str
    excess: float
    formula: str
    symbols: tuple[str, ...]

    def __str__(self) -> str:
        """Atoms, value and threshold in words."""
        names = " and ".join(f"{s}{i}" for s, i in zip(self.symbols, self.atoms, strict=True))
        value = f"{self.value:.3g} {self.unit}, accepted {self.threshold:.3g}"
        return {
            "distance": f"{names} are {self.value:.3g} Å apart, accepted {self.threshold:.3g} Å",
            "isolation": f"{names} has no neighbour within {value} (are the lengths in Å?)",
            "coordination": f"{names} has {value}",
            "crowding": f"{names} has {value}",
            "atom_std": f"the energy of {names} is uncertain by {value}",
            "energy_std": f"the energy is uncertain by {value}",
            "force_std": f"the force on {names} is uncertain by {value}",
        }[self.kind]


class Spread(Protocol):
    """What has standard deviations: a ``potential.Evaluation``."""

    @property
    def energies(self) -> tuple[np.ndarray, ...]:
        """Atomic energies of B structures, eV."""

    @property
    def energy_std(self) -> np.ndarray | None:
        """(B,) eV."""

    @property
    def energies_std(self) -> tuple[np.ndarray, ...] | None:
        """Of the atomic energies, eV."""

    @property
    def forces_std(self) -> tuple[np.ndarray, ...] | None:
        """(N, 3) eV/Å of each structure."""


@dataclass(frozen=True)
class Domain:
    """Ranges of one head, as its potential file records them; None: not recorded.

    Attributes:
        symbols: the S elements.
        shortest_A: (S, S) shortest trained distance of each pair, Å; 0 where not recorded.
        coordination: (S, 2) smallest and largest trained n_i = Σ_j f_c of each element.
        crowding: (S, S) largest trained number of close neighbours of the second element that an
            atom of the first one has (``surroundings.py``); infinite where not known.
        accepted: largest accepted standard deviation by kind: "atom_std" (eV, of an atomic energy),
            "energy_std" (eV/atom, of a structure), "force_std" (eV/Å, norm on an atom).
    """

    symbols: tuple[str, ...]
    shortest_A: np.ndarray
    coordination: np.ndarray | None
    crowding: np.ndarray | None
    accepted: Mapping[str, float]

    @classmethod
    def of(cls, model: NEMP, of_head: Mapping[str, Any], held_out: Mapping[str, float]) -> Self:
        """The domain of a head.

        Args:
            model: the network.
            of_head: what the file says of the head; its "domain" is what ``record`` wrote.
            held_out: errors of the head on all held-out frames, for files without a record.
        """
        symbols, known = model.config.symbols, of_head.get("domain", {})
        index = {symbol: k for k, symbol in enumerate(symbols)}
        count = len(symbols)
        shortest = np.zeros((count, count))
        if "shortest_distance_A" in known:
            for pair, value in known["shortest_distance_A"].items():
                a, b = (index[symbol] for symbol in pair.split("-"))
                shortest[a, b] = shortest[b, a] = value
        elif model.config.zbl:
            shortest = np.array(model.inner_radius.tolist()).reshape(count, count)
        coordination = None
        if "coordination" in known:
            coordination = np.tile([0.0, np.inf], (count, 1))
            for symbol, bounds in known["coordination"].items():
                coordination[index[symbol]] = bounds
        crowding = None
        if "crowding" in known:
            crowding = np.full((count, count), np.inf)
            for pair, value in known["crowding"].items():
                a, b = pair.split("-")
                crowding[index[a], index[b]] = value
        accepted = {k: RECORD_FACTOR * v for k, v in known.get("largest_std", {}).items()}
        if not accepted:
            names = {"energy_std": "energy_rmse_meV_per_atom", "force_std": "force_rmse_meV_per_A"}
            found = {k: held_out.get(n) for k, n in names.items()}
            accepted = {k: RMSE_FACTOR * 1e-3 * v for k, v in found.items() if v is not None}
        return cls(symbols, shortest, coordination, crowding, accepted)

    @property
    def accepted_crowding(self) -> np.ndarray:
        """(S, S) accepted number of close neighbours; infinite where not recorded."""
        if self.crowding is None:
            return np.full(self.shortest_A.shape, np.inf)
        return np.maximum(self.crowding / MARGIN, FEW)

    def pair_limits(self, cutoff_angstrom: float) -> np.ndarray:
        """(S², 4) of each ordered pair: what ``surroundings.measure`` compares with.

        Shortest trained distance (0: none) and the two distances of ``close_reach``, Å; accepted
        number of close neighbours.
        """
        near, far = close_reach(self.symbols, cutoff_angstrom)
        columns = self.shortest_A, near, far, self.accepted_crowding
        return np.stack([column.ravel() for column in columns], axis=1)

    @cached_property
    def row_of_number(self) -> np.ndarray:
        """Row of ``shortest_A`` and ``coordination`` of each atomic number; 0 for others."""
        rows = np.zeros(len(atomic_numbers), dtype=int)
        rows[[atomic_numbers[s] for s in self.symbols]] = np.arange(len(self.symbols))
        return rows

    @property
    def _is_recorded(self) -> dict[str, bool]:
        return {
            "shortest distances": bool(self.shortest_A.any()),
            "coordination": self.coordination is not None,
            "crowding": self.crowding is not None,
            "accepted uncertainties": bool(self.accepted),
        }

    @property
    def not_recorded(self) -> tuple[str, ...]:
        """What the file does not record, in words."""
        return tuple(name for name, recorded in self._is_recorded.items() if not recorded)

    @property
    def is_recorded(self) -> bool:
        """Whether anything can be judged at all."""
        return any(self._is_recorded.values())

    def __str__(self) -> str:
        """What is recorded, and what is not."""
        known = ", ".join(name for name, recorded in self._is_recorded.items() if recorded)
        return f"{known or 'nothing'} recorded{partial(self.not_recorded)}"


def partial(not_recorded: Sequence[str]) -> str:
    """What a verdict adds where a file does not record everything; empty where it does."""
    return f" (the check is partial, not recorded: {', '.join(not_recorded)})" * bool(not_recorded)


def held_out_errors(errors: Mapping[str, Any], head: str) -> dict[str, float]:
    """Errors of a head on all held-out frames; empty where the file holds none."""
    for row in errors.get("validation", ()):
        if row["head"] == head and row["config_type"] == "all":
            return row
    return {}


def spreads_of(result: Spread) -> dict[str, np.ndarray]:
    """Standard deviations of an evaluation that a domain is compared with: those at hand."""
    if result.energy_std is None or not len(result.energy_std):
        return {}
    sizes = np.array([max(1, len(each)) for each in result.energies])
    atoms = np.concatenate(result.energies_std)
    spreads = {"atom_std": atoms, "energy_std": result.energy_std / sizes}
    if result.forces_std is not None:
        spreads["force_std"] = np.linalg.norm(np.concatenate(result.forces_std), axis=1)
    return spreads


@lru_cache(maxsize=64)
def _formula(numbers: bytes) -> str:
    """Formula of atomic numbers (int64); every step of a run asks for that of its worst value."""
    return Atoms(np.frombuffer(numbers, np.int64)).get_chemical_formula()


@dataclass(frozen=True)
class Measured:
    """What is judged of a list of B structures with N atoms in all.

    Attributes:
        nearest: (N,) smallest distance over the shortest trained one; inf without any.
        partner: (N,) int64, where the atom at that distance stands, counted from the atom itself
            (the first one of several, an image of any); 0 without any.
        coordination: (N,) n_i = Σ_j f_c(d/r_c).
        crowding: (N,) largest number of close neighbours of one element over the accepted one.
        crowd: (N,) int64, that element.
        spreads: standard deviations by kind: "atom_std" (N,) eV, "energy_std" (B,) eV/atom,
            "force_std" (N,) eV/Å; those that are at hand.
    """

    nearest: np.ndarray
    partner: np.ndarray
    coordination: np.ndarray
    crowding: np.ndarray
    crowd: np.ndarray
    spreads: Mapping[str, np.ndarray]


class Judgement:
    """Excesses of a list of structures: how many times each limit is exceeded.

    Attributes:
        worst: (B,) largest excess of each kind by its name; 1 or less inside.
    """

    def __init__(
        self,
        domain: Domain,
        structures: Sequence[Atoms],
        measured: Measured,
    ) -> None:
        """Compare what was measured with the domain."""
        self._domain, self._structures, self._measured = domain, structures, measured
        sizes = np.array([len(atoms) for atoms in structures], dtype=int)
        self._first = np.concatenate([[0], np.cumsum(sizes)])
        self._filled = sizes > 0
        self._few = self._need_no_neighbours(sizes)
        self._each = {"distance": MARGIN / np.maximum(measured.nearest, 1e-9)}
        if domain.coordination is not None:
            self._bounds = self._coordination_bounds()
            n = np.maximum(measured.coordination, FEWEST)
            self._each["coordination"] = np.maximum(self._bounds[:, 0] / n, n / self._bounds[:, 1])
        elif domain.shortest_A.all():
            far = np.minimum(measured.nearest, FARTHEST) / ISOLATED
            self._each["isolation"] = np.where(self._few, 0.0, far)
        if domain.crowding is not None:
            self._each["crowding"] = measured.crowding
        for kind, values in measured.spreads.items():
            if kind in domain.accepted:
                self._each[kind] = values / max(domain.accepted[kind], 1e-12)
        self.worst = {
            kind: values if kind == "energy_std" else self._by_structure(values)
            for kind, values in self._each.items()
        }

    def _need_no_neighbours(self, sizes: np.ndarray) -> np.ndarray:
        """(N,) atoms that may have few neighbours or none: lone atoms, bonded dimers in vacuum."""
        lone = np.array([in_vacuum(atoms, most=1) for atoms in self._structures], dtype=bool)
        few = np.array([in_vacuum(atoms) for atoms in self._structures], dtype=bool)
        bonded = self._measured.nearest <= ISOLATED  # crystals of two atoms in Bohr are not
        return np.repeat(lone, sizes) | np.repeat(few, sizes) & bonded

    def _coordination_bounds(self) -> np.ndarray:
        """(N, 2) accepted coordination of each atom."""
        row_of = self._domain.row_of_number
        numbers = [atoms.numbers for atoms in self._structures]
        rows = row_of[np.concatenate(numbers)] if numbers else np.zeros(0, dtype=int)
        bounds = self._domain.coordination[rows] * [MARGIN, 1 / MARGIN]
        bounds[self._few, 0] = 0.0
        return bounds

    def _by_structure(self, values: np.ndarray) -> np.ndarray:
        """(B,) largest of the values (N,) of the atoms."""
        worst = np.zeros(len(self._structures))
        if self._filled.any():
            worst[self._filled] = np.maximum.reduceat(values, self._first[:-1][self._filled])
        return worst

    def outside(self) -> Iterator[tuple[int, str]]:
        """Structure and kind of every excess above 1."""
        for kind, values in self.worst.items():
            for index in np.flatnonzero(values > 1):
                yield int(index), kind

    def finding(self, index: int, kind: str) -> Finding:
        """The worst of one kind in the structure ``index``, inside or not."""
        atoms, measured = self._structures[index], self._measured
        about: dict[str, Any] = {
            "kind": kind,
            "excess": float(self.worst[kind][index]),
            "formula": _formula(atoms.numbers.astype(np.int64).tobytes()),
        }
        if kind == "energy_std":
            value = float(measured.spreads[kind][index])
            limit = self._domain.accepted[kind]
            return Finding(
                atoms=(), symbols=(), value=value, threshold=limit, unit="eV/atom", **about
            )
        part = slice(*self._first[index : index + 2])
        atom = int(self._each[kind][part].argmax())
        chosen: tuple[int, ...] = (atom,)
        unit = {"atom_std": "eV", "force_std": "eV/Å"}.get(kind, "neighbours")
        if kind == "distance":
            chosen, value, limit = self._closest(index, atom)
            unit = "Å"
        elif kind == "isolation":
            value, limit = float(min(measured.nearest[part][atom], FARTHEST)), ISOLATED
            unit = "shortest distances"
        elif kind == "coordination":
            value = float(measured.coordination[part][atom])
            low, high = self._bounds[part][atom]
            limit = float(low if value < low else high)
        elif kind == "crowding":
            row = self._domain.row_of_number[atoms.numbers[atom]]
            other = int(measured.crowd[part][atom])
            limit = float(self._domain.accepted_crowding[row, other])
            value = float(measured.crowding[part][atom]) * limit
            unit = f"close {self._domain.symbols[other]} neighbours"
        else:
            value = float(measured.spreads[kind][part][atom])
            limit = self._domain.accepted[kind]
        symbols = tuple(str(atoms.symbols[i]) for i in chosen)
        return Finding(
            atoms=chosen, symbols=symbols, value=value, threshold=limit, unit=unit, **about
        )

    def _closest(self, index: int, atom: int) -> tuple[tuple[int, int], float, float]:
        """The pair of ``atom`` that is closest in terms of its limit, its distance and limit, Å."""
        place = self._first[index] + atom
        other = atom + int(self._measured.partner[place])
        rows = self._domain.row_of_number[self._structures[index].numbers[[atom, other]]]
        trained = float(self._domain.shortest_A[rows[0], rows[1]])
        pair = min(atom, other), max(atom, other)
        return pair, float(self._measured.nearest[place]) * trained, MARGIN * trained
