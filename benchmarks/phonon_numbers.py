"""The numbers of docs/phonons.md that depend on the shipped weights, measured anew.

python benchmarks/phonon_numbers.py                   all jobs, one after another
python benchmarks/phonon_numbers.py Pd co-pd111 qha   those whose name begins so

Each job is a command of the document. Its report stays in --out; what the document quotes is
printed as rows of Markdown, with the integral of total_dos.dat, which must be 3 for each atom.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

WORKFLOW = Path(__file__).parents[1] / "workflows" / "phonons.py"
AG_LIQUID, AG_CRYSTAL = "--structure Ag --head liquid", "--structure Ag --head crystal"
PD_AGPD = "--structure Pd --potential agpd.pt --head"
JOBS = {
    "Pd pdh": "",
    "Pd agpd metals": f"{PD_AGPD} metals",
    "Pd agpd liquid": f"{PD_AGPD} liquid",
    "Pd agpd crystal": f"{PD_AGPD} crystal",
    "Ag metals": "--structure Ag",
    "Ag liquid": AG_LIQUID,
    "Ag crystal": AG_CRYSTAL,
    "AgPd liquid": "--structure AgPd",
    "AgPd crystal": "--structure AgPd --head crystal",
    "PdH": "--structure PdH",
    "PdH 4.09": "--structure PdH --relax none",
    "PdH follow": "--structure PdH --follow-imaginary",
    "h-pd111": "--structure h-pd111",
    "co-pd111": "--structure co-pd111",
    "methanol": "--structure methanol",
    "ice-Ih": "--structure ice-Ih",
    "qha Pd": "--qha --gruneisen",
    "qha Ag metals": "--structure Ag --qha --gruneisen",
    "qha Ag liquid": f"{AG_LIQUID} --qha --gruneisen",
    "qha Ag crystal": f"{AG_CRYSTAL} --qha --gruneisen",
    "qha Pd agpd metals": f"{PD_AGPD} metals --qha --gruneisen",
    "qha Pd agpd liquid": f"{PD_AGPD} liquid --qha --gruneisen",
    "sweep Pd": "--converge",
    "md Pd": "--md 300 --md-ps 4 --md-replicas 2",
}
QUOTED = (
    *("max_THz", "entropy_300K_J_per_K_mol", "zero_point_adsorbate_eV", "zero_point_eV"),
    *("float32_frequency_THz", "qha_expansion_300K_per_MK", "gruneisen_300K"),
    *("static_bulk_modulus_GPa", "qha_bulk_modulus_300K_GPa", "qha_cp_300K_J_per_K_mol"),
    *("qha_misfit_meV", "md_mean_THz", "harmonic_mean_THz", "md_residual"),
)


def measured(name: str, options: str, out: Path, device: str) -> list[str]:
    """Rows of Markdown of one job.

    Raises:
        subprocess.CalledProcessError: the workflow ended with an error.
    """
    label = name.replace(" ", "-")
    command = [sys.executable, str(WORKFLOW), *options.split(), "--out", str(out)]
    directory = out / f"phonons-{label}"
    report = directory / "report.json"
    report.unlink(missing_ok=True)
    done = subprocess.run([*command, "--name", label, "--device", device], check=False)
    if not report.is_file():  # with an exit code of 1 it may be outside the domain
        raise subprocess.CalledProcessError(done.returncode, command)
    values = json.loads(report.read_text(encoding="utf-8"))
    rows = [f"| {name} | `{options}` | {values['verdict']} |"]
    rows += [f"| {name} | {key} | {values[key]:.6g} |" for key in QUOTED if key in values]
    if values.get("n_primitive_atoms", 9) <= 2:
        edge = (4 * values["primitive_volume_A3"]) ** (1 / 3)
        rows.append(f"| {name} | lattice constant, if fcc | {edge:.4f} Å |")
        for point in values["special_points"]:
            frequencies = " ".join(f"{f:.2f}" for f in point["frequencies_THz"])
            rows.append(f"| {name} | {point['label']} | {frequencies} THz |")
    if (dos := directory / "total_dos.dat").is_file():
        frequency, density = np.loadtxt(dos).T
        modes = np.trapezoid(density, frequency)
        rows.append(f"| {name} | integral of total_dos.dat | {modes:.6f} |")
    return rows


def main() -> None:
    """Run the jobs that are asked for and print what they gave."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("jobs", nargs="*", help=f"beginnings of: {', '.join(JOBS)}")
    parser.add_argument("--out", type=Path, default=Path("results/phonon-numbers"))
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    wanted = tuple(arguments.jobs) or ("",)
    rows = ["| job | quantity | value |", "|---|---|---|"]
    for name, options in JOBS.items():
        if name.startswith(wanted):
            rows += measured(name, options, arguments.out, arguments.device)
    print("\n".join(rows))


if __name__ == "__main__":
    main()
