"""Where a training starts: reference energies, and a new network or that of a potential."""

import copy
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase.data import covalent_radii

from nemp_sim.checkpoint import find_potential, load_model, new_model
from nemp_sim.config import ModelConfig
from nemp_sim.errors import InputError
from nemp_sim.model import NEMP, REPULSION_REACH
from nemp_sim.neighbors import edge_list
from nemp_sim.potential import Potential, PotentialMetadata
from nemp_sim.readout import ReadOut
from nemp_sim.statistics import rms
from nemp_sim.training.config import DataConfig, TrainConfig
from nemp_sim.training.data import Frame, References, reference_energies, unit_findings
from nemp_sim.training.job import Splits


def references_of(splits: Splits, heads: Mapping[str, DataConfig]) -> dict[str, References]:
    """Reference energies of each head, from its training frames; checks the units of its labels.

    Raises:
        InputError: labels that look like other units than eV and Å.
    """
    references = {}
    for head, data in heads.items():
        train = [f for f in splits.train if f.head == head]
        references[head] = reference_energies(train, data.isolated_atoms_eV)
        held = [f for f in splits.validation if f.head == head]
        findings = unit_findings([*train, *held], references[head])
        if findings and data.check_units:
            raise InputError(
                f"labels of head {head}: {' '.join(findings)} If the labels are right, set "
                "check_units = false."
            )
    return references


def initial_model(
    options: dict[str, Any], splits: Splits, references: Mapping[str, References], seed: int
) -> NEMP:
    """A network with random weights, scaled to the data.

    The energy scale is the RMS force component of the training frames (× 1 Å; 1 eV without any); a
    lone atom has
    its reference energy, and the mean binding of each element is the first energy shift.

    Raises:
        InputError: elements in the data that [model] elements leaves out.
    """
    held = splits.elements()
    listed = options.get("elements", sorted(held))
    missing = sorted(held - set(listed))
    if missing:
        raise InputError(f"[model] elements is {listed}, but the frames also hold {missing}.")
    components = [f.forces.ravel() for f in splits.train if f.forces is not None]
    scale = (rms(np.concatenate(components)) if components else 0.0) or 1.0
    config = ModelConfig.from_dict(
        {"energy_scale_eV": scale, "zbl_reach": "trained_distances"}
        | options
        | {"elements": listed, "heads": list(references)}
    )
    model = new_model(config, seed)
    for head, reference in references.items():
        _set_references(model, head, reference)
    if config.zbl:
        model.inner_radius.copy_(shortest_distances(splits.train, config))
    return model


def shortest_distances(frames: Sequence[Frame], config: ModelConfig) -> torch.Tensor:
    """Shortest distance (S²,) of each ordered pair of elements in ``frames``, Å.

    Pairs that never meet within the cutoff get 0.8 times the sum of their covalent radii; or, with
    ``zbl_reach = "trained_distances"``, what keeps the reach of their repulsion at that sum.
    """
    species = {z: s for s, z in enumerate(config.elements)}
    radii = covalent_radii[list(config.elements)]
    count = len(config.elements)
    shortest = np.full((count, count), np.inf)
    for frame in frames:
        pairs = edge_list(frame.atoms, config.cutoff_angstrom)
        kinds = np.array([species[z] for z in frame.atoms.numbers])
        lengths = np.linalg.norm(pairs.vectors(frame.atoms), axis=1)
        np.minimum.at(shortest, (kinds[pairs.centre], kinds[pairs.neighbour]), lengths)
    share = 1 / REPULSION_REACH if config.zbl_reach == "trained_distances" else 0.8
    unmet = share * (radii[:, None] + radii[None, :])
    return torch.from_numpy(np.where(np.isfinite(shortest), shortest, unmet).flatten())


def _set_references(model: NEMP, head: str, references: References) -> None:
    readout, config = model.readouts[head], model.config
    for index, symbol in enumerate(config.symbols):
        readout.reference_energies[index] = references.lone_atom.get(symbol, 0.0)
        bound = references.bound.get(symbol, 0.0) / config.energy_scale_eV
        readout.energy_shift.data[index] = bound


def continued_model(
    options: dict[str, Any],
    splits: Splits,
    references: Mapping[str, References],
    config: TrainConfig,
) -> tuple[NEMP, PotentialMetadata]:
    """The network of an existing potential, to be trained further, and what its file says.

    Heads that the data name and the potential has not are new, and start from its first one. Heads
    that the potential has and the data do not name are kept where the features are frozen, else
    dropped. So are elements that neither the frames nor a kept head hold.

    Raises:
        InputError: [model] or the elements of the data do not fit that network.
    """
    start, metadata = load_model(find_potential(config.start_from), torch.float64)
    own = start.config.to_dict()
    asked = ModelConfig.from_dict(own | options).to_dict()
    for name, value in asked.items():
        if value != own[name]:
            raise InputError(
                f"[model] {name} is {value}, but {config.start_from} has {own[name]}. Leave it "
                "out, or train from the start."
            )
    unknown = sorted(splits.elements() - set(start.config.symbols))
    if unknown:
        raise InputError(f"the frames hold {unknown}, which {config.start_from} does not know.")
    kept = [head for head in own["heads"] if head in references or config.freeze_features]
    start = _with_elements(start, splits.elements().union(*_elements_of(start, metadata, kept)))
    heads = [*kept, *(head for head in references if head not in own["heads"])]
    model = new_model(replace(start.config, heads=tuple(heads))).cast(torch.float64)
    shared = {k: v for k, v in start.state_dict().items() if not k.startswith("readouts.")}
    model.load_state_dict(shared, strict=False)
    if start.config.zbl and not config.freeze_features:
        seen = shortest_distances(splits.train, start.config)
        model.inner_radius.copy_(torch.minimum(start.inner_radius, seen))
    for head in heads:
        source = start.readouts[head if head in own["heads"] else own["heads"][0]]
        _copy_readout(model, head, source, config.freeze_features and head not in references)
    for head in references:
        if head not in own["heads"]:
            _align(model, head, [f for f in splits.train if f.head == head], references[head])
    model.requires_grad_(not config.freeze_features)
    for head in references:
        model.readouts[head].requires_grad_(True)
    return model, metadata


def _elements_of(
    model: NEMP, metadata: PotentialMetadata, heads: Sequence[str]
) -> Iterator[Sequence[str]]:
    """Elements of the labels of each head; those of the network where its file does not say."""
    for head in heads:
        yield metadata.heads.get(head, {}).get("elements", model.config.symbols)


def _with_elements(model: NEMP, symbols: Set[str]) -> NEMP:
    """The network without the elements that ``symbols`` leaves out, the same for all others."""
    config, count = model.config, len(model.config.elements)
    kept = torch.tensor([s for s, symbol in enumerate(config.symbols) if symbol in symbols])
    pairs = (kept[:, None] * count + kept).flatten()
    elements = tuple(config.elements[s] for s in kept.tolist())
    smaller = new_model(replace(config, elements=elements)).cast(torch.float64)
    for head, readout in model.readouts.items():
        smaller.readouts[head].members = torch.zeros_like(readout.members)
    state = model.state_dict()
    for name, wanted in smaller.state_dict().items():
        for axis, (old, new) in enumerate(zip(state[name].shape, wanted.shape, strict=True)):
            if old != new:  # an axis of elements, or of ordered pairs of them
                index = kept if old == count else pairs
                state[name] = state[name].index_select(axis, index)
    smaller.load_state_dict(state)
    return smaller


def _copy_readout(model: NEMP, head: str, source: ReadOut, with_members: bool) -> None:
    """Weights of ``source`` into ``head``; the ensemble only where the head stays as it is."""
    target, state = model.readouts[head], source.state_dict()
    if not with_members:
        state["members"] = source.members.new_zeros(0, source.members.shape[1])
    target.members = torch.zeros_like(state["members"])
    target.load_state_dict(state)


def _align(model: NEMP, head: str, frames: Sequence[Frame], references: References) -> None:
    """Shift a copied head by element onto the labels of its frames.

    e of least squares, min Σ w ((E_label − E_head − Σ_i e_{Z_i})/N)², is added to the lone-atom
    energies; where these are known, they are kept exactly and e goes into the energy shifts.
    """
    symbols, readout = model.config.symbols, model.readouts[head]
    many = [f for f in frames if len(f.atoms) > 1]
    potential = Potential(copy.deepcopy(model), head=head)
    plain: dict[str, Any] = {"forces": False, "on_extrapolation": "ignore"}
    energy = potential.evaluate([f.atoms for f in many], **plain).energy
    counts = np.array([[f.atoms.symbols.count(e) / len(f.atoms) for e in symbols] for f in many])
    sizes = np.array([len(f.atoms) for f in many])
    root = np.array([f.weight**0.5 for f in many])
    residual = (np.array([f.energy for f in many]) - energy) / sizes
    shifts = np.zeros(len(symbols))
    if many:
        shifts = np.linalg.lstsq(counts * root[:, None], residual * root, rcond=1e-6)[0]
    for index, symbol in enumerate(symbols):
        wanted = float(readout.reference_energies[index]) + shifts[index]
        lone = references.lone_atom[symbol] if symbol in references.known else wanted
        readout.reference_energies[index] = lone
        readout.energy_shift.data[index] += (wanted - lone) / model.config.energy_scale_eV
