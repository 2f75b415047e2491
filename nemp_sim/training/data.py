"""Extended XYZ → labelled frames: their split, reference energies, and checks of their units."""

import hashlib
import io
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.stress import voigt_6_to_full_3x3_stress

from nemp_sim.errors import InputError
from nemp_sim.neighbors import edge_list
from nemp_sim.structures import GAP_ANGSTROM, check_structure, in_vacuum, vacuum_gaps
from nemp_sim.training.config import DataConfig
from nemp_sim.units import BOHR_ANGSTROM, HARTREE_EV, KCAL_PER_MOL_EV

LARGEST_STRESS = 1.0  # eV/Å³, 160 GPa
LARGEST_FORCE = 12.0  # eV/Å, RMS over a frame, in half of all frames


class Keys(Protocol):
    """Names of the labels in a file: ``DataConfig``, or anything with these."""

    @property
    def energy_key(self) -> str:
        """Of the energy."""

    @property
    def forces_key(self) -> str:
        """Of the forces."""

    @property
    def stress_key(self) -> str:
        """Of the stress."""


@dataclass(frozen=True)
class Frame:
    """One labelled structure.

    Attributes:
        atoms: the structure, without calculator.
        energy: total energy, eV.
        forces: (N, 3), eV/Å; None where there is no label.
        stress: (3, 3), eV/Å³, tensile positive; None where there is no label.
        config_type: kind of structure, for error tables.
        group: frames of one group stay on one side of a split.
        head: level of theory of the labels.
        excluded: whether ``DataConfig.exclude`` names it.
        weight: factor of its squared errors in the loss.
    """

    atoms: Atoms
    energy: float
    forces: np.ndarray | None
    stress: np.ndarray | None
    config_type: str
    group: str
    head: str = "default"
    excluded: bool = False
    weight: float = 1.0


def read_xyz(path: Path) -> list[Atoms]:
    """All frames of an extended-XYZ file; ``.xz`` is decompressed first.

    Raises:
        InputError: a missing or unreadable file.
    """
    try:
        raw = path.read_bytes()
        text = (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode("utf-8")
        structures = list(ase.io.iread(io.StringIO(text), ":", format="extxyz"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except Exception as error:  # ASE's reader raises many kinds for malformed text
        raise InputError(f"{path}: no readable extended XYZ ({error!r}).") from error
    if not structures:
        raise InputError(f"{path}: holds no frames.")
    return structures


def read_frames(
    path: Path, config: DataConfig, with_stress: bool = False, head: str = "default"
) -> list[Frame]:
    """Labelled frames of an extended-XYZ file, of one level of theory (``head``).

    Raises:
        InputError: an unreadable file, frames without labels (counted and named), labels that are
            not finite or of the wrong shape.
    """
    structures = read_xyz(path)
    frames, problems = [], []
    group, previous = -1, None
    for index, atoms in enumerate(structures):
        labels = labels_of(atoms, config, with_stress, config.allow_missing_forces)
        if isinstance(labels, str):
            problems.append(f"frame {index} ({atoms.get_chemical_formula()}): {labels}")
            continue
        check_structure(atoms, index)
        key = _group_key(atoms, config, index)
        group += key != previous
        previous = key
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        kind = str(atoms.info.get(config.type_key, path.name.split(".")[0]))
        excluded = any(str(atoms.info.get(k)) in named for k, named in config.exclude.items())
        place = f"{path.name}:{group}", head
        weight = float(config.type_weights.get(kind, 1.0))
        frames.append(Frame(bare, *labels, kind, *place, excluded, weight))
    if problems:
        raise InputError(
            f"{path}: {len(problems)} of {len(structures)} frames have no usable labels: "
            + "; ".join(problems[:5])
            + (" …" if len(problems) > 5 else "")
            + f". Wanted: info['{config.energy_key}'] and arrays['{config.forces_key}']; set "
            "data.energy_key and data.forces_key, or remove these frames. Frames that have "
            "energies alone are trained on with data.allow_missing_forces = true."
        )
    return frames


def labels_of(
    atoms: Atoms, keys: Keys, with_stress: bool = False, allow_missing_forces: bool = False
) -> tuple[float, np.ndarray | None, np.ndarray | None] | str:
    """Energy (eV), forces (N, 3) in eV/Å and stress of a frame, or what is wrong with them.

    Args:
        atoms: the frame; lone atoms need no forces.
        keys: names of the labels.
        with_stress: whether to read the stress; None where there is none.
        allow_missing_forces: whether forces may be missing; None where they are.
    """
    results = atoms.calc.results if atoms.calc is not None else {}  # ASE moves plain keys there
    info, arrays = results | atoms.info, results | atoms.arrays
    energy, forces = info.get(keys.energy_key), arrays.get(keys.forces_key)
    if forces is None and len(atoms) == 1:
        forces = np.zeros((1, 3))
    wanted = {keys.energy_key: energy}
    wanted |= {} if allow_missing_forces else {keys.forces_key: forces}
    missing = [key for key, value in wanted.items() if value is None]
    if missing:
        return f"no {' and no '.join(missing)}"
    if forces is not None:
        forces = np.asarray(forces)
        if not np.issubdtype(forces.dtype, np.number):
            return f"{keys.forces_key} holds no numbers"
        if forces.shape != (len(atoms), 3):
            return f"{keys.forces_key} has shape {forces.shape}, wanted {(len(atoms), 3)}"
    if np.size(energy) != 1 or not isinstance(np.asarray(energy).item(), int | float):
        return f"{keys.energy_key} is {energy!r}, no number"
    if not np.isfinite(energy) or not (forces is None or np.isfinite(forces).all()):
        return "a label is not finite"
    stress = info.get(keys.stress_key) if with_stress else None
    if stress is not None:
        stress = np.asarray(stress, dtype=float)
        if stress.size not in (6, 9) or not np.isfinite(stress).all():
            return f"{keys.stress_key} is no finite stress of 6 or 9 components"
        if stress.size == 6:
            stress = voigt_6_to_full_3x3_stress(stress.ravel())
        stress = stress.reshape(3, 3)
    return float(energy), forces, stress


def _group_key(atoms: Atoms, config: DataConfig, index: int) -> object:
    if config.group_by == "frame":
        return index
    if config.group_by.startswith("block:"):
        return index // int(config.group_by.removeprefix("block:"))
    if config.group_by == "cell":
        return atoms.get_chemical_formula(), tuple(atoms.cell.array.round(6).ravel())
    if config.group_by not in atoms.info:
        raise InputError(
            f"data.group_by is '{config.group_by}', but frame {index} has no such info key. "
            "Use 'cell', 'frame', 'block:20' or a key that every frame has."
        )
    return atoms.info[config.group_by]


def frame_key(frame: Frame) -> tuple[object, ...]:
    """What two frames of one structure and one head share; positions within 10⁻⁴ Å."""
    atoms = frame.atoms
    places = (np.round(x, 4) + 0.0 for x in (atoms.positions, atoms.cell.array))
    return frame.head, atoms.numbers.tobytes(), *(x.tobytes() for x in places)


def split_groups(
    frames: Sequence[Frame], fraction: float, seed: int
) -> tuple[list[Frame], list[Frame]]:
    """Hold out about ``fraction`` of the groups: those whose first frame hashes below it.

    A group's side depends on its own first frame and ``seed`` alone, so frames that are added
    later move no frame to the other side. Frames of single atoms always stay for training.
    Returns (training, held-out) frames.
    """
    side: dict[str, bool] = {}
    for frame in frames:
        if frame.group not in side:
            content = (
                f"{seed} {frame.atoms.numbers.tolist()} {frame.atoms.positions.round(4) + 0.0}"
            )
            digest = hashlib.sha256(content.encode()).digest()
            share = int.from_bytes(digest[:8], "big") / 2**64
            side[frame.group] = len(frame.atoms) > 1 and share < fraction
    train = [f for f in frames if not side[f.group]]
    return train, [f for f in frames if side[f.group]]


@dataclass(frozen=True)
class References:
    """Per-element energies.

    Attributes:
        lone_atom: energy of the lone atom by symbol, eV; where unknown the least-squares energy.
        bound: least-squares mean energy in the training structures relative to ``lone_atom``, eV.
        known: symbols whose lone-atom energy is known.
    """

    lone_atom: dict[str, float]
    bound: dict[str, float]
    known: tuple[str, ...]


def reference_energies(frames: Sequence[Frame], isolated: Mapping[str, float]) -> References:
    """Lone-atom energies where known (given, or from single-atom frames), else least squares.

    The least-squares energies e solve min Σ_frames w ((E − Σ_i e_{Z_i})/N)², w the weights of the
    frames, over frames of two or more atoms and over crystals of one atom in the cell. Where
    compositions do not determine them (one molecule only), they are the ones nearest to the known
    lone-atom energies.
    """
    elements = sorted({s for f in frames for s in f.atoms.symbols}, key=atomic_numbers.__getitem__)
    lone_frames = [f for f in frames if in_vacuum(f.atoms, most=1)]
    known = {f.atoms.symbols[0]: f.energy for f in lone_frames} | dict(isolated)
    many = [f for f in frames if not in_vacuum(f.atoms, most=1)]
    counts = np.array([[f.atoms.symbols.count(e) / len(f.atoms) for e in elements] for f in many])
    energy = np.array([f.energy / len(f.atoms) for f in many])
    root = np.array([f.weight**0.5 for f in many])
    fitted = np.array([known.get(e, 0.0) for e in elements])
    if many:
        residual = energy - counts @ fitted
        fitted += np.linalg.lstsq(counts * root[:, None], residual * root, rcond=1e-6)[0]
    lone = {e: known.get(e, float(x)) for e, x in zip(elements, fitted, strict=True)}
    bound = {e: float(x) - lone[e] for e, x in zip(elements, fitted, strict=True)}
    return References(lone, bound if many else dict.fromkeys(elements, 0.0), tuple(known))


def unit_findings(frames: Sequence[Frame], references: References) -> list[str]:
    """Sentences on labels that look like other units than eV and Å; empty where all looks right."""
    return [
        *_length_finding([f for f in frames if len(f.atoms) > 1]),
        *_slope_finding([f for f in frames if f.forces is not None]),
        *_force_finding([f.forces for f in frames if f.forces is not None and len(f.atoms) > 1]),
        *_binding_finding(frames, references),
        *_stress_finding([f for f in frames if f.stress is not None]),
    ]


def _length_finding(frames: Sequence[Frame]) -> list[str]:
    """Nearest neighbours far from the sum of covalent radii."""
    ratios = []
    for frame in frames[:200]:
        edges = edge_list(frame.atoms, 6.0)
        if not len(edges.centre):
            continue
        radii = covalent_radii[frame.atoms.numbers]
        lengths = np.linalg.norm(edges.vectors(frame.atoms), axis=1)
        ratios.append((lengths / (radii[edges.centre] + radii[edges.neighbour])).min())
    ratio = float(np.median(ratios)) if ratios else 1.0
    if 0.55 <= ratio <= 1.6:
        return []
    guess = "bohr (multiply by 0.529)" if ratio > 1.6 else "nm or another long unit"
    return [
        f"the shortest distances are {ratio:.2f} times the sum of covalent radii: are positions in "
        f"{guess}? Å are wanted."
    ]


def _force_finding(forces: Sequence[np.ndarray]) -> list[str]:
    """Forces beyond chemistry: energies and forces in one wrong unit have the right slope."""
    if not forces:
        return []
    median = float(np.median([np.sqrt(np.mean(f**2)) for f in forces]))
    if median <= LARGEST_FORCE:
        return []
    return [
        f"half of the frames have force components above {median:.3g} eV/Å (RMS; usual: up to 3): "
        "are energies and forces in kcal/mol (multiply both by 0.04336) or kJ/mol (by 0.01036)?"
    ]


def _slope_finding(frames: Sequence[Frame]) -> list[str]:
    """Energy differences of neighbouring frames against −F·Δr: the slope is one in equal units."""
    work, change = [], []
    for a, b in zip(frames, frames[1:], strict=False):
        if a.group != b.group or len(a.atoms) != len(b.atoms) or len(a.atoms) < 2:
            continue
        step = b.atoms.positions - a.atoms.positions
        if np.sqrt((step**2).sum(axis=1)).max() < 0.5:
            work.append(-0.5 * ((a.forces + b.forces) * step).sum())
            change.append(b.energy - a.energy)
    if len(work) < 5 or np.std(work) == 0 or abs(np.corrcoef(work, change)[0, 1]) < 0.9:
        return []
    slope = float(np.dot(work, change) / np.dot(work, work))
    if 0.75 < slope < 1.33:
        return []
    factors = {
        "energies in Hartree and forces in eV/Å": 1 / HARTREE_EV,
        "energies in eV and forces in Hartree/bohr": HARTREE_EV / BOHR_ANGSTROM,
        "energies in eV and forces in Hartree/Å": HARTREE_EV,
        "forces in eV/bohr, or energies in Hartree and forces in Hartree/bohr": 1 / BOHR_ANGSTROM,
        "energies in kcal/mol and forces in eV/Å": 1 / KCAL_PER_MOL_EV,
        "energies in eV and forces in kcal/mol/Å": KCAL_PER_MOL_EV,
        "forces with the opposite sign": -1.0,
    }
    same_sign = {name: f for name, f in factors.items() if f * slope > 0}
    guess = min(same_sign, key=lambda name: abs(np.log(slope / same_sign[name])))
    return [
        f"energy differences are {slope:.3g} times −force × displacement; looks like {guess}. "
        "Both must be in eV and Å."
    ]


def _binding_finding(frames: Sequence[Frame], references: References) -> list[str]:
    """Binding energy per atom outside chemistry, where lone-atom energies are known."""
    values = [
        (f.energy - sum(references.lone_atom[s] for s in f.atoms.symbols)) / len(f.atoms)
        for f in frames
        if len(f.atoms) > 1 and set(f.atoms.symbols) <= set(references.known)
    ]
    if not values:
        return []
    median = float(np.median(values))
    if -15.0 < median < -0.5:
        return []
    return [
        f"the median binding energy is {median:.3g} eV per atom relative to lone atoms (usual: −1 "
        "to −8): are energies in Hartree (multiply by 27.2114) or kcal/mol (by 0.04336), or are "
        "the lone-atom energies of another level of theory?"
    ]


def _stress_finding(frames: Sequence[Frame]) -> list[str]:
    """Stresses beyond matter, or that fall as the volume of a composition grows."""
    if not frames:
        return []
    largest = float(np.median([np.abs(f.stress).max() for f in frames]))
    if largest > LARGEST_STRESS:
        return [
            f"the median largest stress is {largest:.3g} eV/Å³: are stresses in GPa (multiply by "
            "0.006242) or kbar (by 0.0006242)? eV/Å³ are wanted."
        ]
    rows: dict[str, list[tuple[float, float]]] = {}
    bulk = [f for f in frames if (vacuum_gaps(f.atoms) < GAP_ANGSTROM).all()]
    for f in bulk:
        volume = f.atoms.get_volume() / len(f.atoms)
        rows.setdefault(f.atoms.symbols.formula.reduce()[0].format("hill"), []).append(
            (volume, np.trace(f.stress) / 3)
        )
    if len(bulk) < 8:
        return []
    about = [np.array(r) - np.mean(r, axis=0) for r in rows.values()]
    volume, tension = np.concatenate(about).T
    spread = np.std(volume) / np.mean([v for r in rows.values() for v, _ in r])
    if spread < 0.01 or np.std(tension) == 0 or np.corrcoef(volume, tension)[0, 1] > -0.7:
        return []
    return [
        "stresses fall as the volume grows: they look like pressures, with the opposite sign. "
        "Tension must be positive, as in ASE."
    ]
