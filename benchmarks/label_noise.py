"""Noise of the first H/Pd labels: the same frames computed again with a tighter density.

    python benchmarks/label_noise.py [POTENTIAL ...]

Compares the labels at commit 7fae08c (GPAW, density converged to 1e-3) with those in the tree that
are converged to 1e-4 and, for each potential, its errors against both. Needs the git history.
Forces in meV/Å, energies in meV/atom, root mean squares.
"""

import io
import lzma
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from nemp_sim import load_potential
from nemp_sim.labelling.queue import structure_hash
from nemp_sim.training.data import read_xyz

BEFORE = "7fae08c"
ROOT = Path(__file__).resolve().parents[1]
SETS = {"held out": ("pd_h_pw350", "pd_h_chosen"), "sites": ("pd_h_sites",)}


def before(name: str) -> list[Atoms]:
    """Frames of a data file at the commit BEFORE."""
    shown = ["git", "-C", str(ROOT), "show", f"{BEFORE}:potentials/data/{name}.xyz.xz"]
    packed = subprocess.run(shown, check=True, capture_output=True).stdout
    return ase.io.read(io.StringIO(lzma.decompress(packed).decode()), ":", format="extxyz")


def twins(names: tuple[str, ...]) -> list[tuple[Atoms, Atoms]]:
    """Frames with an old label and a tight one."""
    now = [a for n in names for a in read_xyz(ROOT / f"potentials/data/{n}.xyz.xz")]
    tight = {structure_hash(a): a for a in now if "density_convergence" in a.info}
    old = [a for n in names for a in before(n)]
    return [(a, tight[h]) for a in old if (h := structure_hash(a)) in tight]


def rms(values: list[np.ndarray]) -> float:
    """Root mean square in thousandths."""
    return float(1e3 * np.sqrt(np.mean(np.concatenate(values) ** 2)))


def main() -> None:
    """Print the table."""
    for title, names in SETS.items():
        pairs = twins(names)
        noise = [a.arrays["REF_forces"] - b.arrays["REF_forces"] for a, b in pairs]
        energy = [[(a.info["REF_energy"] - b.info["REF_energy"]) / len(a)] for a, b in pairs]
        print(f"{title}, {len(pairs)} frames: forces {rms(noise):.1f}, energies {rms(energy):.2f}")
        for name in sys.argv[1:] or ["pdh.pt"]:
            potential = load_potential(name, on_extrapolation="ignore")
            found = potential.evaluate([a for a, _ in pairs], stress=False)
            for said, side in (("old", 0), ("tight", 1)):
                labels = [pair[side] for pair in pairs]
                df = [f - a.arrays["REF_forces"] for f, a in zip(found.forces, labels, strict=True)]
                de = [
                    [(e - a.info["REF_energy"]) / len(a)]
                    for e, a in zip(found.energy, labels, strict=True)
                ]
                print(f"  {name} against {said:5s} forces {rms(df):.1f}, energies {rms(de):.2f}")


if __name__ == "__main__":
    main()
