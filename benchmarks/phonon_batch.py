"""Displaced supercells in one batched call against one call each, on the same device.

python benchmarks/phonon_batch.py                 bulk Pd, PdH and H on Pd(111) with pdh.pt
python benchmarks/phonon_batch.py --device cuda   the same on a GPU

Correctness first: both ways must give the same force constants, or nothing is timed. Then the times
of the two ways, taken in turn so that both see the same machine; the smallest of several rounds.
Bulk Pd needs one displacement only: nothing to gain there.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms

from nemp_sim.checkpoint import load_potential
from nemp_sim.errors import NempError
from nemp_sim.phonons.convergence import LENGTHS_ANGSTROM
from nemp_sim.phonons.force_constants import boxed, build_phonopy, to_ase
from nemp_sim.phonons.qha import volume_ratios
from nemp_sim.potential import Potential
from nemp_sim.report import device_name
from nemp_sim.systems import SYSTEMS

TOLERANCE_EV_PER_A = {torch.float64: 1e-9, torch.float32: 2e-4}


@dataclass(frozen=True)
class Job:
    """Displaced supercells that one analysis needs.

    Attributes:
        name: of the analysis.
        structures: displaced supercells.
    """

    name: str
    structures: list[Atoms]


def displaced(atoms: Atoms, radius: float, length: float = 0.01) -> list[Atoms]:
    """The displaced supercells of a structure."""
    phonon = build_phonopy(atoms, radius_angstrom=radius)
    phonon.generate_displacements(distance=length)
    return [to_ase(cell, atoms.pbc) for cell in phonon.supercells_with_displacements]


def jobs(radius: float) -> list[Job]:
    """Bulk, sweep, volumes, slab."""
    palladium, hydride, slab = (boxed(SYSTEMS[n].build()) for n in ("Pd", "PdH", "h-pd111"))
    sweep = [
        cell
        for reach in (4.0, radius, 1.25 * radius)
        for length in LENGTHS_ANGSTROM
        for cell in displaced(palladium, reach, length)
    ]
    volumes = []
    for ratio in volume_ratios():
        scaled = hydride.copy()
        scaled.set_cell(hydride.cell.array * ratio ** (1 / 3), scale_atoms=True)
        volumes += displaced(scaled, radius)
    return [
        Job("Pd, bulk", displaced(palladium, radius)),
        Job("Pd, sweep", sweep),
        Job("PdH, bulk", displaced(hydride, radius)),
        Job("PdH, nine volumes", volumes),
        Job("H on Pd(111)", displaced(slab, radius)),
    ]


def batched(potential: Potential, structures: list[Atoms]) -> list[np.ndarray]:
    """One call for all."""
    return list(potential.evaluate(structures).forces)


def serial(potential: Potential, structures: list[Atoms]) -> list[np.ndarray]:
    """One call each."""
    return [potential.evaluate([atoms]).forces[0] for atoms in structures]


def seconds(way: Callable[..., object], potential: Potential, structures: list[Atoms]) -> float:
    """Wall time of one pass; the forces are on the host at its end."""
    start = time.perf_counter()
    way(potential, structures)
    return time.perf_counter() - start


def main() -> None:
    """Check, time, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--potential", default="pdh.pt")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--dtype", default="float64", help="float32 or float64")
    parser.add_argument("--radius", type=float, default=5.5, help="of the supercells, Å")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    try:
        potential = load_potential(options.potential, options.device, options.dtype)
    except NempError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{potential.name}, {options.dtype}, {device_name(potential.device)}")
    print(
        f"{'':20s} {'cells':>6s} {'atoms':>7s} {'ΔF (eV/Å)':>10s} {'serial (s)':>11s} "
        f"{'batch (s)':>10s} {'ratio':>6s}"
    )
    for job in jobs(options.radius):
        pairs = zip(
            batched(potential, job.structures), serial(potential, job.structures), strict=True
        )
        worst = max(np.abs(a - b).max() for a, b in pairs)
        if not worst <= TOLERANCE_EV_PER_A[potential.dtype]:
            raise SystemExit(
                f"error: {job.name}: batch and serial {worst:.1e} eV/Å apart; not timed"
            )
        times = {serial: [], batched: []}
        for _ in range(options.rounds):
            for way, found in times.items():
                found.append(seconds(way, potential, job.structures))
        one, all_of = min(times[serial]), min(times[batched])
        atoms = sum(len(structure) for structure in job.structures)
        print(
            f"{job.name:20s} {len(job.structures):6d} {atoms:7d} {worst:10.1e} {one:11.3f} "
            f"{all_of:10.3f} {one / all_of:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
