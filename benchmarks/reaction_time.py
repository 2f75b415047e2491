"""Time of the chain from two ends to rate constants, and of a Hessian; correctness comes first.

    python benchmarks/reaction_time.py --devices cpu cuda

For each device, in one process: the analytic Hessian against central differences (1e-4 eV/Å²) and
batched against single relaxations, then the wall time of the Hessian and of ``workflows/neb.py
--full`` for H on Pd(111), with the potential loaded anew and the device warmed up by the checks.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from nemp_sim import load_potential
from nemp_sim.potential import Potential
from nemp_sim.relax import relax
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.vibrations import partial_hessian
from workflows.neb import Settings, run


def checked(potential: Potential) -> None:
    """Raise unless analytic and numerical Hessians, and batched and single energies, agree."""
    start = [place(fcc_slab(), "H", site) for site in ("fcc", "hcp", "top")]
    together = relax(potential, start, 0.01, 300).structures
    for atoms, alone in zip(together, start, strict=True):
        single = relax(potential, [alone], 0.01, 300).structures[0]
        apart = atoms.get_potential_energy() - single.get_potential_energy()
        assert abs(apart) < 1e-6, f"batched relaxation is {apart:.1e} eV off"
    chosen = np.array([8, 12])
    exact, _ = partial_hessian(potential, together[0], chosen, "analytic")
    numerical, _ = partial_hessian(potential, together[0], chosen, "differences", 1e-3)
    apart = np.abs(exact - numerical).max()
    assert apart < 1e-4, f"Hessians differ by {apart:.1e} eV/Å²"


def timed(device: str, name: str) -> tuple[float, float, float, float]:
    """Seconds of a Hessian of 27 rows and of the chain; its barrier (eV) and k(300 K) (1/s)."""
    potential = load_potential(name, device, "float64")
    checked(potential)
    atoms = place(fcc_slab(), "H", "fcc")
    started = time.perf_counter()
    partial_hessian(potential, atoms, np.arange(4, 13), "analytic")
    if device != "cpu":
        torch.cuda.synchronize()
    hessian = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        result = run(Settings(potential=name, device=device, full=True, out=Path(folder)))
        chain = time.perf_counter() - started
    rates = result.reaction.rates
    at = int(np.abs(rates.temperature_K - 300).argmin())
    return hessian, chain, result.reaction.barriers_eV[0], float(rates.rate_per_s["eckart"][at])


def main() -> None:
    """Print one line for each device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--potential", default="pdh.pt")
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    options = parser.parse_args()
    print(
        f"{'device':>8} {'Hessian s':>10} {'--full s':>10} {'barrier eV':>11} {'k(300 K) 1/s':>13}"
    )
    for device in options.devices:
        hessian, chain, barrier, rate = timed(device, options.potential)
        print(f"{device:>8} {hessian:10.2f} {chain:10.1f} {barrier:11.4f} {rate:13.3e}")


if __name__ == "__main__":
    main()
