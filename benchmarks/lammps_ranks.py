"""LAMMPS against our own evaluation: results, cost of the ghost shell, energy conservation.

    python benchmarks/lammps_ranks.py pdh --repeat 4 4 1 --ranks 1 2 4 --steps 40

Needs ``lmp`` (packages ML-IAP and PYTHON) and ``mpiexec`` on the PATH. Each number of ranks runs
the same NVE trajectory; the first forces are compared with ``Potential.evaluate``.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111

from nemp_sim.checkpoint import load_potential
from nemp_sim.lammps import LammpsModel, export_lammps, input_lines
from nemp_sim.potential import Potential
from nemp_sim.systems import water_box

INPUT = """
{before}
read_data atoms.data
{after}
velocity all create {temperature} 1
timestep {timestep_ps}
fix integrate all nve
thermo 1
thermo_style custom step temp pe etotal
thermo_modify format float %.12g
dump forces all custom {steps} forces.dump id fx fy fz
dump_modify forces sort id format float %.12g
run {steps}
"""


def structure(name: str, repeat: tuple[int, int, int]) -> Atoms:
    """H on Pd(111) or water, repeated; orthogonal and periodic."""
    if name.startswith("water"):
        return water_box(4, 12.44).repeat(repeat)
    slab = fcc111("Pd", (2, 2, 4), a=3.94, vacuum=6.0, orthogonal=True, periodic=True)
    add_adsorbate(slab, "H", 0.9, "fcc")
    return slab.repeat(repeat)


def run(
    directory: Path, model: LammpsModel, atoms: Atoms, ranks: int, args: argparse.Namespace
) -> tuple[np.ndarray, float]:
    """Rows of step, temperature, potential and total energy of an NVE run; seconds of a step."""
    ase.io.write(
        directory / "atoms.data",
        atoms,
        format="lammps-data",
        specorder=model.element_types,
        masses=True,
    )
    lines = input_lines(model, "model.mliap").splitlines()
    text = INPUT.format(
        before="\n".join(lines[:3]),
        after="\n".join(lines[3:]),
        temperature=args.temperature,
        timestep_ps=args.timestep_fs * 1e-3,
        steps=args.steps,
    )
    (directory / "in.lammps").write_text(text)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(
        ["mpiexec", "-n", str(ranks), "lmp", "-in", "in.lammps", "-screen", "none"],
        cwd=directory,
        env=environment,
        check=True,
    )
    log = (directory / "log.lammps").read_text().splitlines()
    first = next(i for i, line in enumerate(log) if line.split()[:1] == ["Step"]) + 1
    rows = [[float(word) for word in line.split()] for line in log[first : first + args.steps + 1]]
    loop = next(line for line in log if line.startswith("Loop time"))
    return np.array(rows), float(loop.split()[3]) / args.steps


def first_forces(path: Path) -> np.ndarray:
    """Forces of the first frame of a dump, (N, 3), eV/Å."""
    frame = path.read_text().split("ITEM: ATOMS id fx fy fz")[1].split("ITEM:")[0]
    return np.array([line.split() for line in frame.strip().splitlines()], float)[:, 1:]


def seconds_of_evaluate(potential: Potential, atoms: Atoms, repeats: int = 3) -> float:
    """Shortest time of one evaluation, s."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        potential.evaluate([atoms], stress=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("potential")
    parser.add_argument("--repeat", type=int, nargs=3, default=(4, 4, 1))
    parser.add_argument("--ranks", type=int, nargs="+", default=(1, 2, 4))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--temperature", type=float, default=300.0)
    parser.add_argument("--timestep-fs", type=float, default=0.5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--memory-gb", type=float, default=None)
    parser.add_argument("--alone", action="store_true", help="too large for one evaluation")
    args = parser.parse_args()
    torch.set_num_threads(1)
    potential = load_potential(args.potential, args.device, args.dtype)
    atoms = structure(potential.name, tuple(args.repeat))
    ours = None if args.alone else potential.evaluate([atoms], stress=True)
    seconds = np.nan if args.alone else seconds_of_evaluate(potential, atoms)
    print(f"{atoms.get_chemical_formula()}, {len(atoms)} atoms, {potential.name} {potential.dtype}")
    print(f"evaluate: {seconds:.3f} s")
    print("ranks  s/step  shell  dE eV    dF eV/Å  drift meV/atom  largest meV/atom  peak GB")
    for ranks in args.ranks:
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            options = {"device": args.device, "dtype": args.dtype, "memory_gb": args.memory_gb}
            model = export_lammps(args.potential, directory / "model.mliap", **options)
            rows, step = run(directory, model, atoms, ranks, args)
            forces = first_forces(directory / "forces.dump")
        energy_error = force_error = np.nan
        if ours is not None:
            energy_error = abs(rows[0, 2] - ours.energy[0])
            force_error = np.abs(forces - ours.forces[0]).max()
        total = (rows[:, 3] - rows[0, 3]) / len(atoms) * 1e3
        drift = np.polyfit(rows[:, 0], total, 1)[0] * args.steps
        # of the largest rank so far
        peak = 1e-6 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(
            f"{ranks:5d}  {step:6.3f}  {step * ranks / seconds:5.1f}  {energy_error:.1e}  "
            f"{force_error:.1e}  {drift:14.4f}  {np.abs(total).max():16.4f}  {peak:6.2f}"
        )


if __name__ == "__main__":
    main()
