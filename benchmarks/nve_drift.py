"""Energy conservation: NVE molecular dynamics, drift and largest deviation of the total energy.

    python benchmarks/nve_drift.py pdh.pt --temperature 300 --ps 5 --timestep 0.5

Without --structure the structure is H on Pd(111) 2×2×3, relaxed first, as in the tests.
"""

import argparse

from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.io import read

from nemp_sim import NEMP, load_potential
from nemp_sim.validation.dynamics import conservation, relax


def hydrogen_on_palladium() -> Atoms:
    """H in the fcc hollow of Pd(111) 2×2×3, pbc (T, T, F)."""
    slab = fcc111("Pd", (2, 2, 3), a=3.94, vacuum=8.0)
    add_adsorbate(slab, "H", 0.9, "fcc")
    return slab


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("potential", help="name or path of a potential")
    parser.add_argument("--structure", help="file that ASE reads (default: H on Pd(111))")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--ps", type=float, default=5.0, help="duration, ps")
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float64", choices=["float32", "float64"])
    parser.add_argument("--precision", default="fp16x3", help="of the GPU kernels (float32)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    atoms = read(args.structure) if args.structure else hydrogen_on_palladium()
    potential = load_potential(args.potential, args.device, args.dtype, precision=args.precision)
    atoms.calc = NEMP(potential)
    relax(atoms)
    result = conservation(atoms, args.temperature, args.ps, args.timestep, args.seed)
    print(
        f"{atoms.get_chemical_formula()}, {args.ps} ps NVE, {args.timestep} fs, {args.dtype}, "
        f"{potential.kernel}, mean {result.temperature_K:.0f} K\n"
        f"drift (linear fit)   {result.drift_meV:+.6f} meV/atom, "
        f"{result.drift_meV / args.ps:+.6f} meV/atom/ps\n"
        f"largest deviation    {result.largest_deviation_meV:.6f} meV/atom\n"
        f"standard deviation   {result.fluctuation_meV:.6f} meV/atom\n"
        f"speed                {result.steps_per_second:.0f} steps/s"
    )


if __name__ == "__main__":
    main()
