"""How far frequencies depend on the supercell and on the length of the displacements.

Every supercell with every length, all displaced cells in one batched call. Frequencies are compared
along the whole path with those of the largest supercell at the reference length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from phonopy import Phonopy

from nemp_sim.config import require
from nemp_sim.phonons.force_constants import (
    DISPLACEMENT_ANGSTROM,
    ForceConstants,
    build_phonopy,
    force_constants_together,
    phonopy_like,
    to_ase,
)
from nemp_sim.phonons.spectra import band_structure
from nemp_sim.relax import Engine

LENGTHS_ANGSTROM = (0.005, 0.01, 0.02, 0.04)
RADII_ANGSTROM = (2.5, 4.0, 5.5, 6.9, 8.3)
TOLERANCE_THZ = 0.05


@dataclass(frozen=True)
class Trial:
    """One supercell with one length of displacements.

    Attributes:
        supercell: (3, 3) its matrix.
        displacement_angstrom: length of the displacements.
        n_atoms: atoms in the supercell.
        n_displacements: displaced supercells.
        reach_angstrom: half its shortest lattice vector.
        edge_ratio: force constants at its edge over the largest.
        frequencies_THz: (n_q, bands) along the path.
        change_THz: largest difference to the reference anywhere on the path.
    """

    supercell: np.ndarray
    displacement_angstrom: float
    n_atoms: int
    n_displacements: int
    reach_angstrom: float
    edge_ratio: float
    frequencies_THz: np.ndarray
    change_THz: float


@dataclass(frozen=True)
class Convergence:
    """All trials, supercells ascending, lengths ascending within each.

    Attributes:
        trials: every combination.
        reference: the one that the others are compared with.
        tolerance_THz: largest change that counts as none.
        supercell: matrix of the smallest supercell within the tolerance; None: only the largest
            is, which nothing confirms.
        displacement_angstrom: the length whose frequencies differ least from those of its
            neighbours in the sweep: between noise and anharmonicity.
        model_calls: engine calls: one.
    """

    trials: tuple[Trial, ...]
    reference: Trial
    tolerance_THz: float
    supercell: np.ndarray | None
    displacement_angstrom: float
    model_calls: int = 1

    def at_reference_length(self) -> list[Trial]:
        """One trial for each supercell."""
        length = self.reference.displacement_angstrom
        return [trial for trial in self.trials if trial.displacement_angstrom == length]

    def at_largest_supercell(self) -> list[Trial]:
        """One trial for each length."""
        return [trial for trial in self.trials if trial.n_atoms == self.reference.n_atoms]

    def recommendation(self) -> str:
        """What to use, in a sentence."""
        length = f"--displacement {self.displacement_angstrom:g}"
        if self.supercell is None:
            return (
                f"No supercell but the largest ({self.reference.n_atoms} atoms) agrees with it "
                f"within {self.tolerance_THz:g} THz, so it is not shown to be large enough: sweep "
                f"larger ones with --sweep-radii. Use {length}."
            )
        matrix = " ".join(str(n) for n in self.supercell.ravel())
        if np.array_equal(self.supercell, np.diag(np.diag(self.supercell))):
            matrix = " ".join(str(n) for n in np.diag(self.supercell))
        return (
            f"Use --supercell '{matrix}' {length}: within {self.tolerance_THz:g} THz of "
            f"{self.reference.n_atoms} atoms along the whole path."
        )


def sweep(
    engine: Engine,
    atoms: Atoms,
    lengths_angstrom: Sequence[float] = LENGTHS_ANGSTROM,
    radii_angstrom: Sequence[float] = RADII_ANGSTROM,
    tolerance_THz: float = TOLERANCE_THZ,
    primitive: str | None = None,
) -> Convergence:
    """Try every supercell with every length of displacements in one call.

    Args:
        engine: evaluates all structures at once.
        atoms: bulk or slab at its minimum.
        lengths_angstrom: lengths of the displacements, Å.
        radii_angstrom: half the shortest lattice vector of each supercell, Å.
        tolerance_THz: largest change that counts as none.
        primitive: as for ``build_phonopy``.

    Raises:
        InputError: fewer than two lengths or supercells.
        EvaluationError: forces that are not finite.
    """
    lengths = sorted({float(x) for x in lengths_angstrom})
    require(len(lengths) >= 2, "sweep_displacements", lengths, "two different lengths or more (Å)")
    built: dict[bytes, Phonopy] = {}
    for radius in sorted(radii_angstrom):
        phonon = build_phonopy(atoms, None, primitive, radius)
        built.setdefault(phonon.supercell_matrix.tobytes(), phonon)
    wanted = "radii of two different supercells or more (Å)"
    require(len(built) >= 2, "sweep_radii", list(radii_angstrom), wanted)
    phonons = sorted(built.values(), key=lambda phonon: len(phonon.supercell))
    pairs = [(phonon, length) for phonon in phonons for length in lengths]
    copies = [phonopy_like(phonon, to_ase(phonon.unitcell, atoms.pbc)) for phonon, _ in pairs]
    used = [length for _, length in pairs]
    found = force_constants_together(engine, [atoms] * len(pairs), copies, used)
    path = np.concatenate(band_structure(found[-1].phonon, found[-1].periodic)[0].qpoints)
    values = [constants.phonon.run_qpoints(path).frequencies for constants in found]
    nearest = int(np.abs(np.log(np.array(lengths) / DISPLACEMENT_ANGSTROM)).argmin())
    reference = len(pairs) - len(lengths) + nearest
    trials = tuple(
        _trial(constants, length, frequencies, values[reference])
        for constants, length, frequencies in zip(found, used, values, strict=True)
    )
    return _judge(trials, trials[reference], tolerance_THz)


def _trial(
    constants: ForceConstants, length: float, values: np.ndarray, reference: np.ndarray
) -> Trial:
    return Trial(
        supercell=constants.phonon.supercell_matrix,
        displacement_angstrom=length,
        n_atoms=len(constants.phonon.supercell),
        n_displacements=constants.n_displacements,
        reach_angstrom=constants.reach_angstrom,
        edge_ratio=constants.edge_ratio,
        frequencies_THz=values,
        change_THz=float(np.abs(values - reference).max()),
    )


def _judge(trials: tuple[Trial, ...], reference: Trial, tolerance: float) -> Convergence:
    """The smallest supercell and the length on the plateau."""
    unjudged = Convergence(trials, reference, tolerance, None, reference.displacement_angstrom)
    smaller = [t for t in unjudged.at_reference_length() if t.n_atoms < reference.n_atoms]
    good = None
    for trial in reversed(smaller):
        if trial.change_THz > tolerance:
            break
        good = trial.supercell
    row = [trial.frequencies_THz for trial in unjudged.at_largest_supercell()]
    steps = [np.abs(b - a).max() for a, b in zip(row, row[1:], strict=False)]
    worst = [max(steps[max(i - 1, 0) : i + 1]) for i in range(len(row))]
    length = unjudged.at_largest_supercell()[int(np.argmin(worst))].displacement_angstrom
    return Convergence(trials, reference, tolerance, good, length)
