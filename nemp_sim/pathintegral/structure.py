"""Where the quantum atoms are: radii of gyration, heights and maps above a slab, pair distances."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemp_sim.blocking import Average, block_average
from nemp_sim.errors import InputError
from nemp_sim.pairs import LIGHT_AMU, PairDistances, pair_distances
from nemp_sim.pathintegral.files import Frames
from nemp_sim.pathintegral.input import PREFIX, Start
from nemp_sim.surfaces.slabs import MIN_VACUUM_ANGSTROM, layers_from_below

PAIR_BEADS = 8  # of a frame that enter the pair distances; its beads are nearly copies
MAP_BINS = 40  # along each in-plane vector
HEIGHT_BIN_ANGSTROM = 0.04


@dataclass(frozen=True)
class SurfaceDensity:
    """Where the light atoms of a species are above a slab, all beads.

    Attributes:
        species: their label.
        map_per_A2: (M, M) atoms per Å² of the surface, over the fractions of both cell vectors.
        centroid_map_per_A2: (M, M) likewise, of the centroids.
        in_plane: (2, 2) in-plane cell vectors, rows, Å.
        top_layer: (L, 2) mean places of the atoms of the top layer, Å.
        height_A: (R,) middle of each bin, above the mean height of the top layer.
        height_per_A: (R,) probability density of the heights of beads.
        mean_height_A: mean height.
        spread_in_plane_A: root mean square distance of beads from their centroid in the plane.
        spread_normal_A: likewise along the normal.
    """

    species: str
    map_per_A2: np.ndarray
    centroid_map_per_A2: np.ndarray
    in_plane: np.ndarray
    top_layer: np.ndarray
    height_A: np.ndarray
    height_per_A: np.ndarray
    mean_height_A: Average
    spread_in_plane_A: float
    spread_normal_A: float


@dataclass(frozen=True)
class Structure:
    """Averages over the frames of one simulation.

    Attributes:
        n_frames: frames used.
        gyration_A: by species, √⟨r²⟩ of the beads about their centroid, Å.
        pairs: by "A–B".
        surface: densities above a slab, one for each light species.
        last_beads: (P, N, 3) Å, of the last frame, in i-PI's frame.
    """

    n_frames: int
    gyration_A: Mapping[str, Average]
    pairs: Mapping[str, PairDistances]
    surface: tuple[SurfaceDensity, ...]
    last_beads: np.ndarray


def structure_averages(directory: Path, start: Start, skip: int = 0) -> Structure:
    """Averages over the frames after step ``skip``.

    Raises:
        InputError: no frames are left.
    """
    frames = [frame for frame in Frames(directory, PREFIX) if frame[0] > skip]
    if not frames:
        raise InputError(
            f"no frame was written after step {skip}. Give more --steps, or a smaller "
            "--frames-every."
        )
    cells = np.array([cell for _, cell, _ in frames])
    beads = np.array([values for *_, values in frames])  # (F, P, N, 3)
    spread = ((beads - beads.mean(axis=1, keepdims=True)) ** 2).sum(-1).mean(1)  # (F, N)
    gyration = {}
    for species in start.species():
        chosen = [i for i in start.free if start.labels[i] == species]
        square = block_average(spread[:, chosen].mean(axis=1))
        root = np.sqrt(square.mean)
        error = 0.5 * square.error / root if root > 0 else 0.0
        gyration[species] = Average(root, error, square.inefficiency, square.resolved)
    some = beads[:, :: max(beads.shape[1] // PAIR_BEADS, 1)]
    return Structure(
        n_frames=len(frames),
        gyration_A=gyration,
        pairs=pair_distances(start.atoms, start.labels, cells, some),
        surface=_surface(start, cells, beads),
        last_beads=beads[-1],
    )


def _mass(start: Start, species: str) -> float:
    return float(start.atoms.get_masses()[start.labels.index(species)])


def _surface(start: Start, cells: np.ndarray, beads: np.ndarray) -> tuple[SurfaceDensity, ...]:
    """Densities where the structure is a slab: heavy atoms with vacuum above."""
    heavy = np.flatnonzero(start.atoms.get_masses() > LIGHT_AMU)
    light = [s for s in start.species() if _mass(start, s) <= LIGHT_AMU]
    if not is_slab(start) or not len(heavy) or not light:
        return ()
    top = heavy[layers_from_below(start.atoms[heavy])[-1]]
    plane = cells.mean(axis=0)[:2, :2]
    level = beads[:, :, top, 2].mean(axis=(1, 2))
    found = []
    for species in light:
        chosen = [i for i in start.free if start.labels[i] == species]
        places = beads[:, :, chosen]  # (F, P, n, 3)
        heights = places[..., 2] - level[:, None, None]
        low, high = heights.min() - 0.2, heights.max() + 0.2
        n_bins = max(int((high - low) / HEIGHT_BIN_ANGSTROM), 1)
        density, edges = np.histogram(heights, n_bins, range=(low, high), density=True)
        from_centroid = places - places.mean(axis=1, keepdims=True)
        found.append(
            SurfaceDensity(
                species=species,
                map_per_A2=_map(places.reshape(-1, 3), plane, len(chosen)),
                centroid_map_per_A2=_map(places.mean(axis=1).reshape(-1, 3), plane, len(chosen)),
                in_plane=plane,
                top_layer=beads[:, :, top, :2].mean(axis=(0, 1)),
                height_A=0.5 * (edges[1:] + edges[:-1]),
                height_per_A=density,
                mean_height_A=block_average(heights.mean(axis=(1, 2))),
                spread_in_plane_A=float(np.sqrt((from_centroid[..., :2] ** 2).sum(-1).mean())),
                spread_normal_A=float(np.sqrt((from_centroid[..., 2] ** 2).mean())),
            )
        )
    return tuple(found)


def is_slab(start: Start) -> bool:
    """Whether the structure repeats in the plane of the first two vectors, with vacuum above."""
    atoms = start.atoms
    if not atoms.pbc[:2].all():
        return False
    heights = np.sort(atoms.positions[:, 2] % atoms.cell[2, 2])
    gaps = np.diff(heights, append=heights[0] + atoms.cell[2, 2])
    return bool(not atoms.pbc[2] or gaps.max() > MIN_VACUUM_ANGSTROM)


def _map(places: np.ndarray, plane: np.ndarray, n_atoms: int) -> np.ndarray:
    fractions = (places[:, :2] @ np.linalg.inv(plane)) % 1.0
    along, across = fractions.T
    counts, *_ = np.histogram2d(along, across, bins=MAP_BINS, range=[[0, 1], [0, 1]])
    return counts / len(places) * n_atoms * MAP_BINS**2 / abs(np.linalg.det(plane))
