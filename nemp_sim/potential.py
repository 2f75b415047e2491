"""Potential: energies, forces, stresses and their uncertainties of many structures in one call."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers

from nemp_sim.batches import Batches, room
from nemp_sim.config import ModelConfig, require
from nemp_sim.derivatives import Derivatives, differentiate, differentiate_members, hessian_rows
from nemp_sim.domain import Domain, Judgement, Measured, held_out_errors, spreads_of
from nemp_sim.errors import EvaluationError, InputError, UnknownElementError
from nemp_sim.evaluation import Evaluation, has_stress, join_parts
from nemp_sim.graph import AtomGraph
from nemp_sim.kernels.choice import choose_checked
from nemp_sim.memory import bytes_per_edge, is_out_of_memory
from nemp_sim.model import NEMP
from nemp_sim.neighbors import NeighborLists, build_graph, species_table
from nemp_sim.replay import Named, Replays
from nemp_sim.structures import check_structure
from nemp_sim.surroundings import MEASURED, measure
from nemp_sim.torch_state import in_plain_torch, refuse_forked, warn_of_rounding
from nemp_sim.watch import Watch

HESSIAN_COPIES = 3  # memory of a row of the Hessian over that of energy and forces

FEW_EDGES = 50  # of an atom in dense matter, at least


@dataclass(frozen=True)
class PotentialMetadata:
    """What a potential file says of itself beside its weights; every value is plain JSON.

    Attributes:
        heads: for each head its "level_of_theory" (functional, code and settings of the labels),
            its "elements" (symbols that its labels hold) and its "domain" (ranges that its training
            frames cover, from ``training.record``).
        training: data sources, splits, settings and duration of the training.
        errors: measured errors, with units in the keys.
        licence: licence of the weights.
        created_by: program and version that wrote the file.
    """

    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, Any] = field(default_factory=dict)
    licence: str = "not stated"
    created_by: str = ""


class Potential:
    """A network with weights on a device, ready to evaluate lists of structures.

    Attributes:
        head: the read-out in use, one of ``heads``.
        heads: all read-outs that the network came with.
        elements: chemical symbols that the labels of the head hold; others are refused.
        readout: the module of the head.
        kernel: the form of the network in use, "reference" or "fused", and why.
        domain: ranges that the training frames of the head cover.
        species_of_number: (119,) int64, species index of each atomic number; −1: unknown.
        watch: looks at every evaluation; ``watch.policy`` is what happens outside the domain.
    """

    def __init__(
        self,
        model: NEMP,
        metadata: PotentialMetadata | None = None,
        *,
        head: str | None = None,
        name: str = "unnamed",
        sha256: str = "",
        device: str | torch.device = "cpu",
        kernel: str = "auto",
        precision: str = "fp16x3",
    ) -> None:
        """Freeze ``model`` and move it to ``device``.

        Args:
            model: the network, already cast to the wanted dtype.
            metadata: what is known of the weights.
            head: the read-out to use; None: the first one.
            name: name used in reports.
            sha256: checksum of the file that the weights came from.
            device: torch device.
            kernel: "reference", the plain form; "fused", the GPU kernels; "auto": these where
                they can be (float32 on an NVIDIA GPU, max_l up to 3), else the plain form;
                ``kernel`` says why.
            precision: of the matrix products of the kernels, one of ``kernels.choice.PRECISIONS``.

        Raises:
            InputError: no such head, or kernels that cannot run the network.
        """
        self.heads = model.config.heads
        self.head = self.heads[0] if head is None else head
        require(self.head in self.heads, "head", head, f"one of {', '.join(self.heads)}")
        if len(self.heads) > 1:
            model = copy.deepcopy(model).keep_head(self.head)
        self.device = torch.device(device)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.metadata = metadata or PotentialMetadata()
        self.name = name
        self.sha256 = sha256
        self.readout = model.readouts[self.head]
        labelled = self.metadata.heads.get(self.head, {}).get("elements")
        self.elements = self.config.symbols if labelled is None else tuple(labelled)
        self.domain = Domain.of(
            self.model,
            self.metadata.heads.get(self.head, {}),
            held_out_errors(self.metadata.errors, self.head),
        )
        self.watch = Watch(name, self.domain.not_recorded)
        limits = self.domain.pair_limits(self.cutoff_angstrom)
        self._limits = torch.from_numpy(limits).to(self.device)
        self._describe, self.kernel, self._direct = choose_checked(
            self.model, kernel, precision, self._limits
        )
        self.species_of_number = species_table(self.config.elements)
        self._is_known = np.zeros(len(self.species_of_number), dtype=bool)
        self._is_known[[atomic_numbers[symbol] for symbol in self.elements]] = True
        self._replays = (
            Replays(self.cutoff_angstrom, self.species_of_number, self.device)
            if self.is_fused
            else None
        )

    @property
    def config(self) -> ModelConfig:
        """Form of the network."""
        return self.model.config

    @property
    def level_of_theory(self) -> str:
        """Level of theory of the head."""
        return self.metadata.heads.get(self.head, {}).get("level_of_theory", "not stated")

    @property
    def reference_energies_eV(self) -> dict[str, float]:  # noqa: N802 (a unit in a name)
        """Energy of the lone atom of each element, eV."""
        every = zip(self.config.symbols, self.readout.reference_energies.tolist(), strict=True)
        return {symbol: value for symbol, value in every if symbol in self.elements}

    @property
    def is_fused(self) -> bool:
        """Whether the fused GPU kernels evaluate the network."""
        return self.kernel.startswith("fused")

    @property
    def n_members(self) -> int:
        """Members of the ensemble read-out; zero where there are no uncertainties."""
        return self.readout.members.shape[0]

    @property
    def cutoff_angstrom(self) -> float:
        """Neighbour cutoff, Å."""
        return self.config.cutoff_angstrom

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the network; energies are always summed in float64."""
        return self.model.species_mix.dtype

    @in_plain_torch
    def evaluate(
        self,
        structures: Sequence[Atoms],
        forces: bool = True,
        stress: bool = False,
        neighbors: NeighborLists | None = None,
        uncertainty: bool = False,
        on_extrapolation: str | None = None,
    ) -> Evaluation:
        """Energies, forces and stresses of all structures, batched on the device.

        Standard deviations of the energies come along wherever the potential has an ensemble
        read-out.

        Lists that do not fit into memory are split; the result is always complete.

        Args:
            structures: any number of structures of any size and composition.
            forces: whether to compute forces.
            stress: whether to compute stresses; every structure then needs a periodic axis and
                three independent cell vectors.
            neighbors: neighbour lists kept by the caller between calls with moving atoms.
            uncertainty: whether to compute standard deviations of forces as well.
            on_extrapolation: what happens where a structure is outside the domain: "warn" (once for
                each set of atoms), "raise" or "ignore"; None: ``watch.policy``.

        Raises:
            ExtrapolationError: a structure is outside and ``on_extrapolation`` is "raise".
            UnknownElementError: an element that the potential was not trained on.
            InputError: positions or cells that define no neighbours, a stress without volume, or
                uncertainties of a potential without an ensemble read-out.
            EvaluationError: not-a-number results, or one structure alone exceeds the memory.
        """
        if isinstance(structures, Atoms):
            raise InputError(
                "structures is one ase.Atoms, but must be a list of them: evaluate([atoms])."
            )
        if uncertainty and not self.n_members:
            raise InputError(
                f"uncertainty is True, but the potential {self.name} has no ensemble read-out. Use "
                "uncertainty=False, or a potential trained with n_members > 0."
            )
        structures = list(structures)
        lists = neighbors or NeighborLists(self.cutoff_angstrom)
        if lists.cutoff != self.cutoff_angstrom:
            raise InputError(
                f"neighbors was made for a cutoff of {lists.cutoff} Å, but the potential "
                f"{self.name} needs {self.cutoff_angstrom} Å."
            )
        self._check_torch()
        wanted = {"forces": forces, "stress": stress}
        if self.n_members:
            wanted["forces_std"] = uncertainty
        parts = self._again(wanted, structures, lists) or self._anew(wanted, structures, lists)
        of_atoms = [
            np.concatenate([part.pop(name).numpy() for part in parts] or [np.zeros(0)])
            for name in MEASURED
        ]
        result = join_parts(structures, [Derivatives(**part) for part in parts], **wanted)
        measured = Measured(*of_atoms, spreads_of(result))
        judgement = Judgement(self.domain, structures, measured)
        outside = self.watch.see(judgement, len(structures), on_extrapolation)
        return replace(result, outside=outside)

    def _again(
        self, wanted: dict[str, bool], structures: list[Atoms], lists: NeighborLists
    ) -> list[Named] | None:
        """Results of structures that are on the GPU and whose lists hold; else None.

        Where lists hold, all but the positions was checked when the structures came first, and the
        positions are within half the skin of what they were.
        """
        if self._replays is None or not structures:
            return None
        try:
            series = self._replays.residents.again(structures, lists)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._replays.clear()
            return None
        if series is None or tuple(wanted.values()) not in series.served:
            return None
        found = self._replayed(self._replays, wanted, series.graph, lasting=True)
        return None if found is None else [found]

    def _anew(
        self, wanted: dict[str, bool], structures: list[Atoms], lists: NeighborLists
    ) -> list[Named]:
        """Results of each batch of structures that may be anything."""
        for index, atoms in enumerate(structures):
            self._check(atoms, index, wanted["stress"])
        copies = 1 + self.n_members * wanted.get("forces_std", False)
        bytes_each = copies * bytes_per_edge(self.config, self.dtype, self.is_fused)
        if self._replays is not None and structures and all(map(len, structures)):
            found = self._together(self._replays, wanted, structures, lists, bytes_each)
            if found is not None:
                return [found]
        edges = [lists.edges(atoms, slot) for slot, atoms in enumerate(structures)]
        batches = Batches(structures, edges, self.species_of_number, self.device, bytes_each)
        return batches.run(
            lambda _, graph: [{k: v.cpu() for k, v in self._step(wanted, graph).items()}]
        )

    def _together(
        self,
        replays: Replays,
        wanted: dict[str, bool],
        structures: list[Atoms],
        lists: NeighborLists,
        bytes_each: float,
    ) -> Named | None:
        """Results of structures as one batch on the GPU; None where it has no room.

        With a skin they stay there for ``_again``.
        """
        limit = room(self.device) / bytes_each if len(structures) > 1 else np.inf
        if sum(map(len, structures)) * FEW_EDGES > limit:
            return None
        if lists.skin:
            try:
                series = replays.residents.anew(structures, lists)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                replays.clear()
                return None
            graph = series.graph
        else:
            edges = [lists.kept(atoms, slot) for slot, atoms in enumerate(structures)]
            graph = build_graph(structures, edges, self.species_of_number, self.device)
        if len(graph.centre) > limit:
            return None
        found = self._replayed(replays, wanted, graph, bool(lists.skin))
        if found is None:
            return None
        if lists.skin:
            series.served.add(tuple(wanted.values()))
        return found

    def _replayed(
        self, replays: Replays, wanted: dict[str, bool], graph: AtomGraph, lasting: bool
    ) -> Named | None:
        """Results of a step on the GPU; None where memory runs out."""
        try:
            with torch.no_grad():
                work, key = partial(self._step, wanted), tuple(wanted.values())
                return replays.step(work, graph, key, lasting)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            replays.clear()
            return None

    def _step(self, wanted: dict[str, bool], graph: AtomGraph) -> Named:
        """Derivatives that are not None, and what the domain is compared with, by name."""
        forces, stress = wanted["forces"], wanted["stress"]
        if self._direct is not None and not wanted.get("forces_std") and len(graph.centre):
            found, measured = self._direct(graph, forces=forces, stress=stress)
        else:
            found = self._differentiate(graph, **wanted)
            measured = measure(self.model, graph, self._limits)
        named = {name: value.detach() for name, value in vars(found).items() if value is not None}
        return named | dict(zip(MEASURED, measured, strict=True))

    def _differentiate(self, graph: AtomGraph, **wanted: bool) -> Derivatives:
        if not self.n_members:
            return differentiate(self.model, graph, describe=self._describe, **wanted)
        return differentiate_members(
            self.model, graph, describe=self._describe, batched=not self.is_fused, **wanted
        )

    def _check_torch(self) -> None:
        refuse_forked(self.device)
        warn_of_rounding(self.model.species_mix)

    def _check(self, atoms: Atoms, index: int, stress: bool) -> None:
        check_structure(atoms, index)
        if not self._is_known[atoms.numbers].all():
            unknown = sorted(set(atoms.symbols) - set(self.elements), key=atomic_numbers.get)
            raise UnknownElementError(
                f"structure {index} ({atoms.get_chemical_formula()}) contains "
                f"{', '.join(unknown)}, but the potential {self.name} knows only "
                f"{', '.join(self.elements)}. Use a potential trained on all elements."
            )
        if stress and not has_stress(atoms):
            raise InputError(
                f"structure {index} ({atoms.get_chemical_formula()}) has pbc "
                f"{atoms.pbc.tolist()} and {atoms.cell.rank} cell vectors, but stress needs a "
                "periodic axis and three independent cell vectors. Leave stress out, or set "
                "atoms.cell and atoms.pbc."
            )

    @in_plain_torch
    def hessian(self, atoms: Atoms, indices: Sequence[int]) -> np.ndarray:
        """Second derivatives of the energy, analytic, (n, 3, N, 3), eV/Å².

        Every row is one copy of the structure in a batch; rows that do not fit into memory together
        are taken one batch after the other.

        Args:
            atoms: N atoms.
            indices: n of them, whose rows are wanted.

        Raises:
            InputError, UnknownElementError, EvaluationError: as ``evaluate``.
        """
        self._check(atoms, 0, stress=False)
        self._check_torch()
        edges = NeighborLists(self.cutoff_angstrom).edges(atoms, 0)
        wanted = [(int(i), axis) for i in indices for axis in range(3)]

        def rows_of(chunk: list[int], graph: AtomGraph) -> list[np.ndarray]:
            atom, axis = torch.tensor([wanted[row] for row in chunk], device=self.device).T
            first = torch.arange(len(chunk), device=self.device) * len(atoms)
            plain = None if self.is_fused else self._describe  # the kernels have no second ones
            rows = hessian_rows(self.model, graph, (first + atom, axis), plain)
            return [rows.reshape(len(chunk), len(atoms), 3).cpu().numpy()]

        bytes_each = HESSIAN_COPIES * bytes_per_edge(self.config, self.dtype)
        every, lists = [atoms] * len(wanted), [edges] * len(wanted)
        batches = Batches(every, lists, self.species_of_number, self.device, bytes_each)
        rows = np.concatenate(batches.run(rows_of)).reshape(-1, 3, len(atoms), 3)
        if not np.isfinite(rows).all():
            raise EvaluationError(
                f"{atoms.get_chemical_formula()}: second derivatives of the energy are not finite. "
                "Check for overlapping atoms or a wrong length unit."
            )
        return rows
