"""The numbers of the documents that depend on the shipped weights, measured anew.

python benchmarks/workflow_numbers.py --device cuda --parallel 4   all jobs, four at a time
python benchmarks/workflow_numbers.py pimd umbrella                docs/pimd.md
python benchmarks/workflow_numbers.py neb diffusion                docs/rates.md, docs/diffusion.md
python benchmarks/workflow_numbers.py adsorption                   docs/adsorption.md

Names are beginnings. Each job is a command of the document. Its report stays in --out; verdict,
remarks and tables are printed as Markdown, for path integrals with the harmonic values of as many
beads at the relaxed minimum. --steps takes the place of the steps of path-integral jobs (a look).
"""

import argparse
import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from ase.io import write
from ase.units import kB

from nemp_sim import load_potential
from nemp_sim.relax import relax
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.systems import choose_potential, read_system
from nemp_sim.vibrations import vibrations

WORKFLOWS = Path(__file__).parents[1] / "workflows"
WATER = "--system water --beads 32 --timestep 0.5 --every 4 --frames-every 40"
SILVER = (
    "adsorption --metal Ag --potential agcho --lattice-constant 3.89 --size '4 4 4' "
    "--fixed-layers 2 --no-subsurface --zpe --adsorbates"
)
JOBS = {
    "pimd-h": "pimd --steps 3000 --equilibration 400 --momentum H --spectrum 2000",
    "pimd-d": "pimd --steps 3000 --equilibration 400 --isotope D",
    "pimd-isotopes": "pimd --beads 1,4,16 --steps 1500 --equilibration 300 --isotope H,D",
    "pimd-methanol": "pimd --system methanol --beads 32 --timestep 0.25 --steps 5000 "
    "--equilibration 500",
    "pimd-water": f"pimd {WATER} --steps 3000 --equilibration 600 --momentum H "
    "--momentum-frames 12",
    "pimd-cheap": f"pimd {WATER} --cheap water-small.pt --inner-steps 2 --full-beads 8 "
    "--steps 3000 --equilibration 600",
    "umbrella": "umbrella --beads 1,8 --steps 1200 --equilibration 200",
    "neb": "neb --full",
    "neb-instanton": "neb --full --vibrating 12 --temperatures '60 100 300' --instanton 60",
    "neb-subsurface": "neb --full --initial {out}/fcc.traj --final {out}/below.traj",
    "diffusion": "diffusion --picoseconds 3 --replicas 6 --timestep 1",
    "adsorption-h": "adsorption --zpe",
    "adsorption-co": "adsorption --adsorbates CO --potential pdco.pt --head pw450 --zpe",
    **{f"adsorption-silver-{name}": f"{SILVER} {name}" for name in ("CO", "H", "OH", "O", "CH3O")},
}
HARMONIC = {"pimd-h": "h-pd111", "pimd-methanol": "methanol"}  # job and built-in system
SECTIONS = ("Minima", "Rate constants", "Instanton", "Vibrations")  # beginnings of those printed
TEMPERATURE_K = 300.0


def measured(name: str, chosen: argparse.Namespace) -> list[str]:
    """Lines of Markdown of one job.

    Raises:
        subprocess.CalledProcessError: the workflow wrote no report.
    """
    workflow, *options = shlex.split(JOBS[name].format(out=chosen.out))
    if chosen.steps and workflow in ("pimd", "umbrella"):
        options += ["--steps", str(chosen.steps), "--equilibration", str(chosen.steps // 5)]
    command = [sys.executable, str(WORKFLOWS / f"{workflow}.py"), *options, "--name", name]
    command += ["--out", str(chosen.out), "--device", chosen.device]
    directory = chosen.out / f"{workflow}-{name}"
    report = directory / "report.json"
    report.unlink(missing_ok=True)
    with (chosen.out / f"{name}.log").open("w") as log:
        done = subprocess.run(command, check=False, stdout=log, stderr=log)
    if not report.is_file():  # with an exit code of 1 it may be outside the domain
        raise subprocess.CalledProcessError(done.returncode, command)
    values = json.loads(report.read_text(encoding="utf-8"))
    lines = [f"\n## {name}: `{workflow} {shlex.join(options)}`\n", values["verdict"], ""]
    lines += [f"- {note}" for note in values["notes"]]
    head, *parts = (directory / "report.md").read_text(encoding="utf-8").split("\n## ")
    lines += ["", *(line for line in head.splitlines() if line.startswith("|"))]
    source = f"{values['device']}, {values['potential']['sha256'][:8]}…"
    lines += [f"| wall time | {values['wall_time_s']:.0f} | s, {source} |"]
    if name in HARMONIC:
        lines += harmonic(HARMONIC[name], values, chosen.device)
    return lines + [f"\n### {part.rstrip()}" for part in parts if part.startswith(SECTIONS)]


def write_ends(directory: Path) -> None:
    """H in an fcc hollow of Pd(111) and in the octahedral hole straight below it."""
    slab = fcc_slab()
    write(directory / "fcc.traj", place(slab, "H", "fcc"))
    write(directory / "below.traj", place(slab, "H", "sub_oct"))


def harmonic(system: str, values: dict, device: str) -> list[str]:
    """Rows: energies of the harmonic ring polymer, and what the run has beyond them.

    A mode has the energy k_B T Σ_k ω²/(ω² + ω_k²) above the minimum, half of it kinetic; the zero
    modes of a molecule have ½ k_B T each. On a slab, H vibrates alone.
    """
    potential, head = choose_potential(system, None, None)
    engine = load_potential(potential, device, "float64", head)
    molecule = not read_system(system).pbc.any()
    start = read_system(system, fixed_layers=0 if molecule else 1)
    atoms = relax(engine, [start], 1e-3, 500).structures[0]
    hydrogen = [i for i in range(len(atoms)) if atoms.numbers[i] == 1]
    modes = vibrations(engine, atoms, None if molecule else hydrogen, molecule=molecule)
    thermal, beads = kB * TEMPERATURE_K, values["n_beads"]
    ring = 2 * beads * thermal * np.sin(np.arange(beads) * np.pi / beads)
    squares = modes.energies_eV[:, None] ** 2
    few = thermal * (squares / (squares + ring**2)).sum()
    many = (modes.energies_eV / 2 / np.tanh(modes.energies_eV / 2 / thermal)).sum()
    listed = ", ".join(f"{1e3 * e:.1f}" for e in modes.energies_eV)
    rows = [f"| harmonic modes | {listed} | meV |"]
    rows.append(f"| zero-point energy | {modes.zero_point_energy_eV:.4f} | eV |")
    if not molecule:
        return [
            *rows,
            f"| ⟨K⟩ of H, harmonic, {beads} beads | {500 * few:.1f} | meV |",
            f"| ⟨K⟩ of H, harmonic, many beads | {500 * many:.1f} | meV |",
        ]
    floating = 0.5 * thermal * modes.n_projected  # the estimator counts all 3N coordinates
    above = values["energy_eV"] - atoms.get_potential_energy() - floating
    error = values["energy_eV_error"]
    return [
        *rows,
        f"| energy less minimum, translation, rotation | {above:.4f} ± {error:.4f} | eV |",
        f"| harmonic, {beads} beads | {few:.4f} | eV |",
        f"| harmonic, many beads | {many:.4f} | eV |",
        f"| anharmonic lowering | {1e3 * (above - few):.1f} ± {1e3 * error:.1f} | meV |",
    ]


def main() -> None:
    """Run the jobs that are asked for and print what they gave."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("jobs", nargs="*", help=f"beginnings of: {', '.join(JOBS)}")
    parser.add_argument("--out", type=Path, default=Path("results/workflow-numbers"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parallel", type=int, default=1, help="jobs at a time")
    parser.add_argument("--steps", type=int, help="of path-integral jobs")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_ends(chosen.out)
    wanted = [name for name in JOBS if name.startswith(tuple(chosen.jobs) or ("",))]
    with ThreadPoolExecutor(chosen.parallel) as pool:
        for lines in pool.map(lambda name: measured(name, chosen), wanted):
            print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
