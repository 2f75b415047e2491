"""Time of the chain from two ends to rate constants, and of a Hessian; correctness comes first.

    python benchmarks/reaction_time.py --device cpu cuda

For each device, in one process: the analytic Hessian against central differences (1e-4 eV/Å²) and
batched against single relaxations, then the wall time of the Hessian and of ``workflows/neb.py
--full`` for H on Pd(111), loading left out, on a device warmed up by the checks. A chain that does
not reach a rate is an error.
"""

import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from nemp_sim import load_potential
from nemp_sim.errors import NempError
from nemp_sim.potential import Potential
from nemp_sim.relax import relax
from nemp_sim.report import device_name
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.vibrations import partial_hessian
from nemp_sim.workflows.neb import Settings, run

TOLERANCE_EV = 1e-6
TOLERANCE_EV_PER_A2 = 1e-4
DISPLACEMENT_A = 2e-4  # of the central differences


def checked(potential: Potential) -> None:
    """Stop unless analytic and numerical Hessians, and batched and single energies, agree."""
    start = [place(fcc_slab(), "H", site) for site in ("fcc", "hcp", "top")]
    together = relax(potential, start, 0.01, 300).structures
    for atoms, alone in zip(together, start, strict=True):
        single = relax(potential, [alone], 0.01, 300).structures[0]
        apart = abs(atoms.get_potential_energy() - single.get_potential_energy())
        if not apart < TOLERANCE_EV:
            raise SystemExit(f"error: batched relaxation is {apart:.1e} eV off; nothing is timed")
    chosen = np.array([8, 12])
    exact, _ = partial_hessian(potential, together[0], chosen, "analytic")
    numerical, _ = partial_hessian(potential, together[0], chosen, "differences", DISPLACEMENT_A)
    apart = np.abs(exact - numerical).max()
    if not apart < TOLERANCE_EV_PER_A2:
        raise SystemExit(f"error: Hessians differ by {apart:.1e} eV/Å²; nothing is timed")


def timed(potential: Potential) -> tuple[float, float, float, float]:
    """Seconds of a Hessian of 27 rows and of the chain; its barrier (eV) and k(300 K) (1/s)."""
    atoms = place(fcc_slab(), "H", "fcc")
    started = time.perf_counter()
    partial_hessian(potential, atoms, np.arange(4, 13), "analytic")  # on the host when it returns
    hessian = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            potential=potential.name, full=True, temperatures=(300.0,), out=Path(folder)
        )
        started = time.perf_counter()
        result = run(settings, potential)
        chain = time.perf_counter() - started
    if result.reaction is None or result.reaction.rates is None:
        raise SystemExit(f"error: no rate: {result.report.verdict}")
    rate = float(result.reaction.rates.rate_per_s["eckart"][0])
    return hessian, chain, result.reaction.barriers_eV[0], rate


def main() -> None:
    """Print one line for each device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--potential", default="pdh.pt")
    parser.add_argument("--device", nargs="+", default=["auto"], help="auto, cpu, cuda; several")
    options = parser.parse_args()
    try:
        loaded = [load_potential(options.potential, name, "float64") for name in options.device]
    except NempError as error:
        raise SystemExit(f"error: {error}") from None
    print(
        f"{'Hessian s':>10} {'--full s':>10} {'barrier eV':>11} {'k(300 K) 1/s':>13}  "
        f"{options.potential}, float64, {platform.machine()}, {torch.get_num_threads()} threads"
    )
    for potential in loaded:
        checked(potential)
        hessian, chain, barrier, rate = timed(potential)
        name = device_name(potential.device)
        print(f"{hessian:10.2f} {chain:10.1f} {barrier:11.4f} {rate:13.3e}  {name}", flush=True)


if __name__ == "__main__":
    main()
