"""Harmonic force constants from finite displacements: all of them in one batched model call.

An atom i of the supercell is moved by u along one direction; the forces on all atoms j give

    Φ_{jβ,iα} = ∂²E / ∂r_{jβ} ∂r_{iα} ≈ −F_{jβ}(u_{iα}) / u_{iα}.

phonopy chooses the fewest displacements that the symmetry of the crystal allows, solves for Φ, and
builds the dynamical matrix of every wave vector q from it: A. Togo, L. Chaput, T. Tadano and
I. Tanaka, J. Phys.: Condens. Matter 35, 353001 (2023), 10.1088/1361-648X/acd831. At the wave
vectors that fit into the supercell the result is exact; others are interpolated, which is good
once the force constants have died away at the edge of the supercell (``edge_ratio``).

Units are phonopy's: Å, eV/Å, eV/Å², amu, THz.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell, minkowski_reduce
from phonopy import Phonopy
from phonopy.harmonic.dynmat_to_fc import get_commensurate_points
from phonopy.structure.atoms import PhonopyAtoms
from phonopy.structure.cells import guess_primitive_matrix

from nemp_sim.config import require
from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.relax import Engine
from nemp_sim.structures import cell_heights

DISPLACEMENT_ANGSTROM = 0.01
RADIUS_ANGSTROM = 5.5
VACUUM_ANGSTROM = 6.0  # a wider gap along a cell vector makes a slab of a "bulk" cell
SYMPREC_ANGSTROM = 1e-4  # largest deviation from a symmetry that is still one
SYMMETRISE_LEVEL = 3  # rounds of translation and permutation symmetry


@dataclass(frozen=True)
class ForceConstants:
    """A crystal with its force constants.

    Attributes:
        phonon: phonopy's object: cells, displacements, forces, force constants (n_primitive,
            n_supercell, 3, 3) in eV/Å², made to obey Φ_ij = Φ_jiᵀ and Σ_j Φ_ij = 0.
        periodic: (3,) which cell vectors repeat the structure; False: vacuum.
        n_displacements: displaced supercells evaluated.
        model_calls: engine calls: one, shared with all that were evaluated together.
        drift_eV_per_A2: largest |Σ_j Φ_ij| before it was made zero: the noise of the forces.
        reach_angstrom: half the shortest lattice vector of the supercell: force constants between
            atoms further apart than this mix with those of periodic images.
        edge_ratio: largest force constant at 0.9 · reach or beyond over the largest of all.
    """

    phonon: Phonopy
    periodic: np.ndarray
    n_displacements: int
    model_calls: int
    drift_eV_per_A2: float
    reach_angstrom: float
    edge_ratio: float


def periodic_axes(atoms: Atoms) -> np.ndarray:
    """Which cell vectors repeat the structure, (3,): periodic ones without a vacuum along them."""
    cell, periodic = complete_cell(atoms.cell.array), atoms.pbc.copy()
    fractions = np.linalg.solve(cell.T, atoms.positions.T) % 1.0
    for axis in np.flatnonzero(periodic):
        ordered = np.sort(fractions[axis])
        gap = np.diff(ordered, append=ordered[0] + 1.0).max()
        lone = len(atoms) == 1 or gap > 1.0 - 1e-9
        height = cell_heights(cell)[axis]
        if not lone and gap * height > VACUUM_ANGSTROM:
            periodic[axis] = False
        elif lone and height > VACUUM_ANGSTROM:
            periodic[axis] = False
    return periodic


def half_shortest_vector(cell: np.ndarray, periodic: np.ndarray) -> float:
    """Half the shortest lattice vector along the periodic axes, Å; infinite without any."""
    if not any(periodic):
        return float("inf")
    reduced, _ = minkowski_reduce(cell, pbc=periodic)
    return float(np.linalg.norm(reduced[list(periodic)], axis=1).min() / 2)


def choose_supercell(atoms: Atoms, radius_angstrom: float = RADIUS_ANGSTROM) -> np.ndarray:
    """The smallest even-handed repeats n_a, n_b, n_c as a diagonal matrix (3, 3).

    Repeats are raised along the thinnest direction until half the shortest lattice vector is at
    least the radius; directions of equal height are raised together, so symmetry is kept.

    Args:
        atoms: bulk or slab; vacuum is not repeated.
        radius_angstrom: wanted half of the shortest lattice vector, Å.

    Raises:
        InputError: a radius that is not positive.
    """
    require(radius_angstrom > 0, "radius_angstrom", radius_angstrom, "positive (Å)")
    periodic = periodic_axes(atoms)
    cell = complete_cell(atoms.cell.array)
    height = cell_heights(cell)
    repeats = np.ones(3, dtype=int)
    while half_shortest_vector(repeats[:, None] * cell, periodic) < radius_angstrom:
        wanted = (height * (repeats + 1))[periodic].min()
        raised = np.floor(wanted / height + 1e-6).astype(int)
        repeats = np.where(periodic, np.maximum(repeats, raised), 1)
    return np.diag(repeats)


def supercell_matrix(given: Sequence[int] | Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """Three repeats or nine numbers (row by row) as a matrix (3, 3).

    Raises:
        InputError: anything else, or a matrix whose determinant is not positive.
    """
    values = np.asarray(given)
    wanted = "3 repeats or 9 whole numbers (a matrix row by row) with a positive determinant"
    whole = values.size in (3, 9) and np.array_equal(values, np.round(values))
    require(whole, "supercell", np.asarray(given).tolist(), wanted)
    matrix = np.diag(values.ravel()) if values.size == 3 else values.reshape(3, 3)
    good = np.linalg.det(matrix) > 0.5 and (values.size == 9 or values.min() > 0)
    require(bool(good), "supercell", np.asarray(given).tolist(), wanted)
    return matrix.astype(int)


def boxed(atoms: Atoms) -> Atoms:
    """A copy in a cell of rank 3, with the atoms in the middle of its vacuum; any pbc are kept.

    phonopy wraps atoms into the cell, which would tear a slab that lies across the boundary.
    """
    periodic = periodic_axes(atoms)
    copy = atoms.copy()
    copy.set_constraint()
    copy.calc = None
    for axis in np.flatnonzero(~periodic):
        if atoms.pbc[axis]:
            fractions = copy.get_scaled_positions(wrap=True)
            ordered = np.sort(fractions[:, axis])
            gaps = np.diff(ordered, append=ordered[0] + 1.0)
            start = ordered[(gaps.argmax() + 1) % len(ordered)]
            fractions[:, axis] = (fractions[:, axis] - start + 1e-9) % 1.0
            copy.set_scaled_positions(fractions)
        copy.center(vacuum=VACUUM_ANGSTROM, axis=int(axis))
    return copy


def build_phonopy(
    atoms: Atoms,
    supercell: Sequence[int] | Sequence[Sequence[int]] | np.ndarray | None = None,
    primitive: str | None = None,
    radius_angstrom: float = RADIUS_ANGSTROM,
) -> Phonopy:
    """Object of phonopy for a crystal, a slab or a molecule in a box, without displacements.

    Args:
        atoms: bulk, slab or molecule; masses set on it are kept.
        supercell: three repeats or a matrix; None chooses one from ``radius_angstrom``.
        primitive: "auto" (found by symmetry) or "P" (the cell as given); None: "auto" for bulk,
            "P" for slabs and molecules.
        radius_angstrom: half the shortest lattice vector of a chosen supercell, Å.

    Raises:
        InputError: no crystal, or a supercell or primitive cell that cannot be.
    """
    cell = boxed(atoms)
    periodic = periodic_axes(atoms)
    wanted = "right-handed, as phonopy needs it: swap two of its vectors"
    require(cell.cell.handedness == 1, "cell", cell.cell.tolist(), wanted)
    if primitive is None:
        primitive = "auto" if periodic.all() else "P"
    require(primitive in ("auto", "P"), "primitive", primitive, "'auto' or 'P'")
    given = choose_supercell(atoms, radius_angstrom) if supercell is None else supercell
    matrix = supercell_matrix(given)
    vacuum = ~periodic
    kept = np.eye(3, dtype=int)
    if not np.array_equal(matrix[vacuum], kept[vacuum]) or matrix[:, vacuum].sum() != vacuum.sum():
        raise InputError(
            f"supercell is {matrix.tolist()}, but cell vector {1 + int(vacuum.argmax())} holds "
            "vacuum and must not be repeated. Give 1 there, as in '3 3 1'."
        )
    unit = PhonopyAtoms(
        symbols=cell.get_chemical_symbols(),
        cell=cell.cell.array,
        scaled_positions=cell.get_scaled_positions(),
        masses=cell.get_masses(),
    )
    transform = np.eye(3)
    if primitive == "auto":
        transform = guess_primitive_matrix(unit, symprec=SYMPREC_ANGSTROM)
    phonon = _unchecked(unit, matrix, transform)
    if supercell is None and periodic.all() and not _keeps_symmetry(phonon):
        matrix = _even_supercell(cell.cell.array, transform, radius_angstrom)
        phonon = _unchecked(unit, matrix, transform)
    return _checked(phonon)


def _even_supercell(cell: np.ndarray, transform: np.ndarray, radius_angstrom: float) -> np.ndarray:
    """As many repeats of the primitive lattice along every vector, which any symmetry keeps."""
    n = 1
    while True:
        matrix = n * transform
        whole = np.abs(matrix - np.rint(matrix)).max() < 1e-6
        if whole and half_shortest_vector(matrix.T @ cell, np.full(3, True)) >= radius_angstrom:
            return np.rint(matrix).astype(int)
        n += 1


def _unchecked(unit: PhonopyAtoms, matrix: np.ndarray, transform: np.ndarray) -> Phonopy:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*symmetries of supercell and primitive")
        return Phonopy(unit, matrix, primitive_matrix=transform, symprec=SYMPREC_ANGSTROM)


def _keeps_symmetry(phonon: Phonopy) -> bool:
    crystal, repeated = phonon.primitive_symmetry, phonon.symmetry
    return len(crystal.pointgroup_operations) == len(repeated.pointgroup_operations)


def _checked(phonon: Phonopy) -> Phonopy:
    """``phonon``, refused where its supercell has another symmetry than the crystal."""
    if not _keeps_symmetry(phonon):
        raise InputError(
            f"supercell is {phonon.supercell_matrix.tolist()}, which has "
            f"{len(phonon.symmetry.pointgroup_operations)} point symmetries where the primitive "
            f"cell has {len(phonon.primitive_symmetry.pointgroup_operations)}: sums over symmetric "
            "wave vectors would be wrong. Use equal repeats along equivalent vectors, or leave "
            "--supercell out."
        )
    return phonon


def to_ase(cell: PhonopyAtoms, pbc: Sequence[bool] | np.ndarray | bool = True) -> Atoms:
    """Atoms of phonopy as those of ASE."""
    return Atoms(
        cell.symbols, positions=cell.positions, cell=cell.cell, pbc=pbc, masses=cell.masses
    )


def phonopy_like(phonon: Phonopy, atoms: Atoms) -> Phonopy:
    """Object of phonopy for the atoms of ``phonon`` in another geometry, cut up in the same way.

    Args:
        phonon: from ``build_phonopy``.
        atoms: in the order of the unit cell of ``phonon``, in its box.
    """
    unit = PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
        masses=phonon.unitcell.masses,
    )
    return _checked(_unchecked(unit, phonon.supercell_matrix, phonon.primitive_matrix))


def fitting_qpoints(phonon: Phonopy) -> np.ndarray:
    """Wave vectors (n, 3) that fit into the supercell, where frequencies are exact."""
    ratio = np.linalg.inv(phonon.primitive_matrix) @ phonon.supercell_matrix
    return get_commensurate_points(np.rint(ratio).astype(int))


def force_constants(
    engine: Engine,
    atoms: Atoms,
    phonon: Phonopy,
    displacement_angstrom: float = DISPLACEMENT_ANGSTROM,
    full: bool = False,
) -> ForceConstants:
    """Force constants of one crystal: see ``force_constants_together``."""
    return force_constants_together(engine, [atoms], [phonon], [displacement_angstrom], full)[0]


def force_constants_together(
    engine: Engine,
    structures: Sequence[Atoms],
    phonons: Sequence[Phonopy],
    displacements_angstrom: Sequence[float],
    full: bool = False,
) -> tuple[ForceConstants, ...]:
    """Displace, evaluate all displaced supercells in one call, solve for the force constants.

    Args:
        engine: evaluates all structures at once.
        structures: what each of ``phonons`` was built from; their pbc hold for the supercells.
        phonons: from ``build_phonopy``; filled in place.
        displacements_angstrom: length of the displacements of each, Å.
        full: keep the rows of all supercell atoms, not of the primitive cell alone.

    Raises:
        InputError: a displacement out of its range, or an element unknown to the engine.
        EvaluationError: forces that are not finite.
    """
    displaced: list[list[Atoms]] = []
    for atoms, phonon, length in zip(structures, phonons, displacements_angstrom, strict=True):
        require(0 < length <= 0.2, "displacement", length, "above 0 and at most 0.2 (Å)")
        phonon.generate_displacements(distance=length)
        cells = phonon.supercells_with_displacements
        displaced.append([to_ase(cell, atoms.pbc) for cell in cells])
    forces = list(engine.evaluate([atoms for group in displaced for atoms in group]).forces)
    for index, values in enumerate(forces):
        if not np.isfinite(values).all():
            raise EvaluationError(
                f"displaced supercell {index} of {len(forces)}: forces are not finite. Check the "
                "structure for overlapping atoms or a wrong length unit."
            )
    ends = np.cumsum([len(group) for group in displaced])
    done = []
    for atoms, phonon, group, end in zip(structures, phonons, displaced, ends, strict=True):
        phonon.forces = np.array(forces[end - len(group) : end])
        phonon.produce_force_constants(calculate_full_force_constants=full)
        done.append(solved(atoms, phonon))
    return tuple(done)


def solved(atoms: Atoms, phonon: Phonopy) -> ForceConstants:
    """The force constants that ``phonon`` holds, made to obey the sum rules."""
    drift = float(np.abs(phonon.force_constants.sum(axis=1)).max())
    phonon.symmetrize_force_constants(level=SYMMETRISE_LEVEL)
    periodic = periodic_axes(atoms)
    reach = half_shortest_vector(phonon.supercell.cell, periodic)
    return ForceConstants(
        phonon=phonon,
        periodic=periodic,
        n_displacements=len(phonon.forces),
        model_calls=1,
        drift_eV_per_A2=drift,
        reach_angstrom=reach,
        edge_ratio=_edge_ratio(phonon, periodic, reach),
    )


def _edge_ratio(phonon: Phonopy, periodic: np.ndarray, reach_angstrom: float) -> float:
    """Largest force constant at the edge of the supercell over the largest of all."""
    rows = phonon.primitive.p2s_map
    constants = phonon.force_constants
    if len(constants) == len(phonon.supercell):
        constants = constants[rows]
    supercell = to_ase(phonon.supercell, periodic)
    distances = np.array(
        [supercell.get_distances(i, range(len(supercell)), mic=True) for i in rows]
    )  # (n_primitive, n_supercell)
    size = np.abs(constants).max(axis=(2, 3))
    edge = size[distances >= 0.9 * reach_angstrom]
    return float(edge.max() / size.max()) if edge.size else 0.0


def refuse_small(phonon: Phonopy, atoms: Atoms, cutoff_angstrom: float | None) -> None:
    """Refuse a supercell in which an atom meets periodic images of another within the cutoff.

    Args:
        phonon: from ``build_phonopy``.
        atoms: what it was built from.
        cutoff_angstrom: of the potential; None: not known, nothing is refused.

    Raises:
        InputError: half the shortest lattice vector is less than the cutoff.
    """
    reach = half_shortest_vector(phonon.supercell.cell, periodic_axes(atoms))
    if cutoff_angstrom is not None and reach < cutoff_angstrom:
        raise InputError(
            f"the supercell is too small: half its shortest lattice vector is {reach:.2f} Å, less "
            f"than the cutoff of the potential, {cutoff_angstrom} Å, so force constants of "
            "different images add up. Give a larger --supercell or --radius, or allow it with "
            "--small-supercell: only wave vectors that fit into the supercell are exact then."
        )


def remarks(constants: ForceConstants, cutoff_angstrom: float | None) -> list[str]:
    """What a reader must know of the supercell, in sentences."""
    found = []
    reach = constants.reach_angstrom
    if cutoff_angstrom is not None and reach < cutoff_angstrom:
        found.append(
            f"The supercell is SMALL: half its shortest lattice vector is {reach:.2f} Å, less than "
            f"the cutoff of the potential, {cutoff_angstrom} Å. Only wave vectors that fit into "
            "the supercell are exact. Give a larger --supercell or --radius."
        )
    if constants.edge_ratio > 0.02:
        found.append(
            f"Force constants at the edge of the supercell are still "
            f"{100 * constants.edge_ratio:.1f} % of the largest: frequencies between the wave "
            "vectors that fit into the supercell are interpolated roughly. A larger --supercell "
            "shows how much that matters."
        )
    return found
