"""Band structure, densities of states, thermal properties and imaginary modes of a crystal.

All by phonopy from its force constants; here they become plain results with units, and imaginary
modes are counted and named instead of being left out silently.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import seekpath
from ase.cell import Cell
from phonopy import Phonopy
from phonopy.phonon.band_structure import BandStructure
from phonopy.phonon.mesh import Mesh
from phonopy.phonon.thermal_properties import ThermalProperties

from nemp_sim.config import require
from nemp_sim.phonons.density import DensityOfStates, density_of_states
from nemp_sim.phonons.force_constants import SYMPREC_ANGSTROM, ForceConstants
from nemp_sim.phonons.imaginary import ZERO_THZ, ImaginaryMode, SpecialPoint, imaginary_modes

Q_SPACING_PER_ANGSTROM = 0.004  # between points of the band path, without 2π
MESH_LENGTH_ANGSTROM = 45.0
GREEK = {"GAMMA": "Γ", "SIGMA": "Σ", "DELTA": "Δ", "LAMBDA": "Λ"}


@dataclass(frozen=True)
class Bands:
    """A band structure along s segments of a path.

    Attributes:
        distances: s arrays (n_s,) of the distance along the path, 1/Å, without 2π.
        frequencies_THz: s arrays (n_s, bands); negative: imaginary.
        ticks: distance of each named point.
        tick_labels: its name; two names where the path jumps, as in "U|K".
        points: every named wave vector once.
    """

    distances: tuple[np.ndarray, ...]
    frequencies_THz: tuple[np.ndarray, ...]
    ticks: tuple[float, ...]
    tick_labels: tuple[str, ...]
    points: tuple[SpecialPoint, ...]


@dataclass(frozen=True)
class Thermal:
    """Harmonic sums at constant volume, for one mole of primitive cells.

    Attributes:
        temperatures_K: (t,).
        free_energy_kJ_per_mol: (t,) with the zero-point energy.
        entropy_J_per_K_mol: (t,).
        heat_capacity_J_per_K_mol: (t,) at constant volume.
        zero_point_kJ_per_mol: zero-point energy of the real modes.
        n_modes: modes of the mesh.
        n_acoustic: those at Γ that are pure translations, left out of the sums.
        n_imaginary: those below −``ZERO_THZ``, left out of the sums.
        n_near_zero: others within ``ZERO_THZ`` of zero, left out of the sums.
    """

    temperatures_K: np.ndarray
    free_energy_kJ_per_mol: np.ndarray
    entropy_J_per_K_mol: np.ndarray
    heat_capacity_J_per_K_mol: np.ndarray
    zero_point_kJ_per_mol: float
    n_modes: int
    n_acoustic: int
    n_imaginary: int
    n_near_zero: int

    def remark(self) -> str:
        """How many modes the sums leave out."""
        skipped = self.n_acoustic + self.n_imaginary + self.n_near_zero
        return (
            f"The thermal sums hold {self.n_modes - skipped} of {self.n_modes} modes of the mesh; "
            f"skipped: {self.n_acoustic} translations at Γ, {self.n_imaginary} imaginary, "
            f"{self.n_near_zero} nearer to zero than {ZERO_THZ} THz."
        )


@dataclass(frozen=True)
class Spectra:
    """Everything that follows from the force constants, with phonopy's objects for its files.

    Attributes:
        bands: along the path.
        dos: total and by element.
        thermal: harmonic sums.
        imaginary: imaginary modes of path and mesh, the most unstable first.
        mesh_numbers: (3,) Γ-centred mesh of wave vectors.
        gamma_acoustic_THz: largest of the three frequencies at Γ that are nearest to zero.
        max_THz: highest frequency of the mesh.
        raw: phonopy's band structure, mesh and thermal properties.
    """

    bands: Bands
    dos: DensityOfStates
    thermal: Thermal
    imaginary: tuple[ImaginaryMode, ...]
    mesh_numbers: tuple[int, int, int]
    gamma_acoustic_THz: float
    max_THz: float
    raw: "Raw"

    @property
    def unstable(self) -> bool:
        """Whether an imaginary mode is more than small and interpolated next to Γ."""
        return any(not mode.interpolated for mode in self.imaginary)


@dataclass(frozen=True)
class Raw:
    """phonopy's own result objects."""

    bands: BandStructure
    mesh: Mesh
    thermal: ThermalProperties


def spectra(
    constants: ForceConstants,
    mesh: Sequence[int] | None = None,
    temperatures_K: Sequence[float] | np.ndarray = tuple(range(0, 1001, 10)),
) -> Spectra:
    """Bands, densities of states, thermal properties and imaginary modes.

    Args:
        constants: force constants of bulk or a slab.
        mesh: points of the Γ-centred mesh along each reciprocal vector; None: from
            ``mesh_numbers``.
        temperatures_K: of the thermal sums.

    Raises:
        InputError: a mesh or a temperature that cannot be.
    """
    phonon, periodic = constants.phonon, constants.periodic
    chosen = mesh_numbers(phonon.primitive.cell, periodic)
    numbers: Sequence[int] = chosen if mesh is None else mesh
    good = len(numbers) == 3 and all(int(n) == n and n >= 1 for n in numbers)
    require(good, "mesh", mesh, "three whole numbers, 1 or more")
    kelvin = np.asarray(temperatures_K, dtype=float)
    require(len(kelvin) > 0 and kelvin.min() >= 0, "temperatures", temperatures_K, "0 K or above")
    raw_bands, bands = band_structure(phonon, periodic)
    full = phonon.run_mesh(
        numbers, is_gamma_center=True, is_mesh_symmetry=False, with_eigenvectors=True
    )
    imaginary = imaginary_modes(constants, raw_bands, full, bands.points)
    reduced = phonon.run_mesh(numbers, is_gamma_center=True, with_group_velocities=True)
    raw_thermal = phonon.run_thermal_properties(
        temperatures=kelvin, cutoff_frequency=ZERO_THZ, exclude_gamma_acoustic=True
    )
    at_gamma = np.sort(np.abs(phonon.run_qpoints([[0, 0, 0]]).frequencies[0]))[:3]
    return Spectra(
        bands=bands,
        dos=density_of_states(full),
        thermal=_thermal(raw_thermal, reduced),
        imaginary=imaginary,
        mesh_numbers=(int(numbers[0]), int(numbers[1]), int(numbers[2])),
        gamma_acoustic_THz=float(at_gamma.max()),
        max_THz=float(reduced.frequencies.max()),
        raw=Raw(raw_bands, reduced, raw_thermal),
    )


def mesh_numbers(
    cell: np.ndarray, periodic: np.ndarray, length_angstrom: float = MESH_LENGTH_ANGSTROM
) -> tuple[int, int, int]:
    """Mesh n_i = l · |b_i| for the length l and reciprocal vectors b_i without 2π; 1 in vacuum."""
    reciprocal = np.linalg.norm(np.linalg.inv(cell), axis=0)
    numbers = np.maximum(1, np.rint(length_angstrom * reciprocal)).astype(int)
    first, second, third = (int(n) for n in np.where(periodic, numbers, 1))
    return first, second, third


def band_structure(phonon: Phonopy, periodic: np.ndarray) -> tuple[BandStructure, Bands]:
    """Bands along the path of seekpath for bulk, of ASE's two- or one-dimensional cell for slabs.

    Paths of seekpath: Y. Hinuma et al., Comp. Mat. Sci. 128, 140 (2017),
    10.1016/j.commatsci.2016.10.015, in the basis of the primitive cell as it is.
    """
    primitive = phonon.primitive
    if all(periodic):
        structure = (primitive.cell, primitive.scaled_positions, primitive.numbers)
        found = seekpath.get_path_orig_cell(structure, symprec=SYMPREC_ANGSTROM)
        named, path = found["point_coords"], [tuple(pair) for pair in found["path"]]
    else:
        flat = Cell(primitive.cell).bandpath(npoints=0, pbc=list(periodic))
        named = flat.special_points
        pieces = [piece for piece in _split(flat.path) if len(piece) > 1]
        path = [pair for piece in pieces for pair in zip(piece, piece[1:], strict=False)]
    named = {name: np.asarray(q, dtype=float) for name, q in named.items()}
    reciprocal = np.linalg.inv(primitive.cell)  # columns, 1/Å
    segments = []
    for start, end in path:
        step = np.linalg.norm(reciprocal @ (named[end] - named[start]))
        n_points = max(2, int(np.ceil(step / Q_SPACING_PER_ANGSTROM)) + 1)
        segments.append(np.linspace(named[start], named[end], n_points))
    joined = [path[i][1] == path[i + 1][0] for i in range(len(path) - 1)] + [False]
    labels = [name for i, pair in enumerate(path) for name in (pair if not joined[i] else pair[:1])]
    raw = phonon.run_band_structure(
        segments,
        with_eigenvectors=True,
        with_group_velocities=True,
        path_connections=joined,
        labels=[_plain(_pretty(name)) for name in labels],
    )
    return raw, _bands(raw, path, named)


def _split(path: str) -> list[list[str]]:
    """Names in each piece of a path of ASE, such as "GMKG,XA1"."""
    pieces = []
    for text in path.split(","):
        names: list[str] = []
        for character in text:
            if character.isdigit():
                names[-1] += character
            else:
                names.append(character)
        pieces.append(names)
    return pieces


def _pretty(name: str) -> str:
    """Greek letters and indices: SIGMA_0 as Σ0, G as Γ."""
    base, _, index = name.partition("_")
    return GREEK.get("GAMMA" if name == "G" else base, base) + index


def _plain(label: str) -> str:
    """In ASCII for band.yaml, as phonopy writes it: Greek letters in TeX."""
    for name, letter in GREEK.items():
        label = label.replace(letter, f"$\\{name.capitalize()}$")
    return label


def _bands(
    raw: BandStructure, path: Sequence[tuple[str, str]], named: Mapping[str, np.ndarray]
) -> Bands:
    ticks, labels = [0.0], [_pretty(path[0][0])]
    points: dict[str, SpecialPoint] = {}
    for index, (start, end) in enumerate(path):
        if index and path[index - 1][1] != start:
            labels[-1] += f"|{_pretty(start)}"
        ticks.append(float(raw.distances[index][-1]))
        labels.append(_pretty(end))
        for place, name in ((0, start), (-1, end)):
            values = np.sort(raw.frequencies[index][place])
            points.setdefault(name, SpecialPoint(_pretty(name), named[name], values))
    return Bands(
        distances=tuple(np.array(d) for d in raw.distances),
        frequencies_THz=tuple(np.array(f) for f in raw.frequencies),
        ticks=tuple(ticks),
        tick_labels=tuple(labels),
        points=tuple(points.values()),
    )


def _thermal(raw: ThermalProperties, mesh: Mesh) -> Thermal:
    weighted = mesh.weights[:, None] * np.ones_like(mesh.frequencies)
    imaginary = int(weighted[mesh.frequencies < -ZERO_THZ].sum())
    skipped = int(raw.number_of_modes - raw.number_of_integrated_modes)
    acoustic = 0 if mesh.gamma_index is None else 3
    return Thermal(
        temperatures_K=np.array(raw.temperatures),
        free_energy_kJ_per_mol=np.array(raw.free_energy),
        entropy_J_per_K_mol=np.array(raw.entropy),
        heat_capacity_J_per_K_mol=np.array(raw.heat_capacity),
        zero_point_kJ_per_mol=float(raw.zero_point_energy),
        n_modes=int(raw.number_of_modes),
        n_acoustic=acoustic,
        n_imaginary=imaginary,
        n_near_zero=skipped - imaginary - acoustic,
    )
