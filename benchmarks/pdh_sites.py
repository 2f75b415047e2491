"""H on Pd(111) at its sites: pdh.pt against DFT single points on the same geometries.

    python benchmarks/pdh_sites.py --potential pdh.pt

The geometries and their DFT labels are potentials/data/pd_h_sites.xyz.xz, which is never trained
on. Energies are relative to the fcc site of the same series; "clean" is the adsorption energy
E(fcc) − E(clean slab), up to the constant energy of the H reference.
"""

import argparse
from pathlib import Path

import numpy as np

from nemp_sim import load_potential
from nemp_sim.training.config import DataConfig
from nemp_sim.training.data import read_frames

DATA = Path(__file__).parents[1] / "potentials" / "data" / "pd_h_sites.xyz.xz"


def main() -> None:
    """Print one table for each series of geometries."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--potential", default="pdh.pt")
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    potential = load_potential(options.potential)
    frames = read_frames(options.data, DataConfig(train=(str(options.data),)))
    series = sorted({frame.config_type.split("_")[0] for frame in frames})
    for name in series:
        chosen = [f for f in frames if f.config_type.startswith(f"{name}_")]
        sites = [f.config_type.removeprefix(f"{name}_") for f in chosen]
        result = potential.evaluate([f.atoms for f in chosen])
        fcc, labels = sites.index("fcc"), np.array([f.energy for f in chosen])
        dft, ours = 1e3 * (labels - labels[fcc]), 1e3 * (result.energy - result.energy[fcc])
        with_h = np.array([site != "clean" for site in sites])
        print(f"\n{name} geometries: energy relative to fcc, meV")
        print(f"{'site':>10} {'DFT':>8} {'potential':>10} {'difference':>11} {'F RMSE meV/Å':>13}")
        for site, a, b, f, p in zip(sites, dft, ours, chosen, result.forces, strict=True):
            if site == "clean":
                continue
            rmse = 1e3 * np.sqrt(((p - f.forces) ** 2).mean())
            print(f"{site:>10} {a:8.0f} {b:10.0f} {b - a:11.0f} {rmse:13.0f}")
        difference = (ours - dft)[with_h & (np.arange(len(sites)) != fcc)]
        forces = np.concatenate(
            [(p - f.forces).ravel() for p, f in zip(result.forces, chosen, strict=True)]
        )
        print(f"RMS difference {np.sqrt((difference**2).mean()):.1f} meV relative to fcc, ", end="")
        total = 1e3 * (result.energy - labels)[with_h]
        print(f"{total.std():.1f} meV about the mean; ", end="")
        print(f"forces RMSE {1e3 * np.sqrt((forces**2).mean()):.0f} meV/Å")
        if "clean" in sites:
            error = dft[sites.index("clean")] - ours[sites.index("clean")]
            print(f"error of E(fcc) - E(clean slab): {error:.0f} meV")


if __name__ == "__main__":
    main()
