"""The same bad structures through ASE calculators: what comes back?

    python benchmarks/reliability.py nemp
    python benchmarks/reliability.py mace       # in an environment with mace-torch
    python benchmarks/reliability.py sevennet   # in an environment with sevenn

Each input runs in a process of its own (some end it), with a limit of time and memory. A column of
outcomes: "number" (and whether with a warning), "refused" with the error, or how the process ended.
``SAME`` are inputs that mean the same as the good one: is the number the same?
MACE has random weights here, SevenNet those of the SevenNet-0 in its package: the question is what
the code around the weights does.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import warnings

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.calculator import Calculator

LIMIT_S, LIMIT_BYTES = 120, 16 << 30
TOLERANCE_EV = 1e-4


def slab() -> Atoms:
    """H on a small Pd(111) slab."""
    atoms = fcc111("Pd", (1, 1, 2), a=3.95, vacuum=5.0)
    add_adsorbate(atoms, "H", 0.9, "fcc")
    return atoms


def spoiled(name: str) -> Atoms:
    """One of ``INPUTS``."""
    atoms = slab()
    cells = {
        "NaN cell": [[np.nan, 0, 0], [0, 2.8, 0], [0, 0, 20]],
        "zero cell": np.zeros((3, 3)),
        "coplanar cell": [[2.8, 0, 0], [5.6, 0, 0], [0, 0, 20]],
        "cell of 1e6 Å": [[1e6, 0, 0], [0, 2.8, 0], [0, 0, 20]],
        "cell of 0.01 Å": atoms.cell.array * 0.004,
        "lengths in nm": atoms.cell.array * 0.1,
        "lengths in Bohr": atoms.cell.array / 0.529,
    }
    places = {"NaN position": np.nan, "infinite position": np.inf, "escaped atom": 1e7}
    if name in cells:
        atoms.set_cell(cells[name], scale_atoms=name.startswith(("lengths", "cell of 0.01")))
    elif name in places:
        atoms.positions[1, 2] = places[name]
    elif name == "overlapping atoms":
        atoms.positions[1] = atoms.positions[0]
    elif name == "unknown element":
        atoms.symbols[0] = "Au"
    elif name == "no atoms":
        atoms = Atoms()
    return atoms


def reworded(name: str) -> Atoms:
    """One of ``SAME``: another description of ``slab()``."""
    atoms = slab()
    if name == "left-handed cell":
        atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    elif name == "atoms in other cells":
        atoms.positions[1] += 3 * atoms.cell[0] - 2 * atoms.cell[1]
    elif name == "1e6 Å away":
        atoms.positions += 1e6
    elif name == "open axis without a cell vector":
        atoms.cell[2] = 0.0
    elif name == "open axis, tilted cell vector":
        atoms.cell[2] = [3.0, 1.0, 20.0]
    elif name == "periodic through the vacuum":
        atoms.pbc = True
        atoms.cell[2, 2] = 40.0
    elif name == "skewed cell":
        atoms.cell[0] += 3 * atoms.cell[1]
    return atoms


SAME = (
    *("left-handed cell", "atoms in other cells", "1e6 Å away", "skewed cell"),
    *("open axis without a cell vector", "open axis, tilted cell vector"),
    *("periodic through the vacuum", "autocast set by the caller"),
)
INPUTS = (
    *("NaN position", "infinite position", "escaped atom", "NaN cell", "zero cell"),
    *("coplanar cell", "cell of 1e6 Å", "cell of 0.01 Å", "lengths in nm", "lengths in Bohr"),
    *("overlapping atoms", "unknown element", "no atoms", "good"),
)


def calculator(kind: str) -> Calculator:
    """The calculator whose outcomes are wanted."""
    if kind == "nemp":
        from nemp_sim import NEMP

        return NEMP("pdh.pt", device="cpu")
    if kind == "sevennet":
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator("7net-0", device="cpu")
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # e3nn 0.4 unpickles its tables
    import torch
    from e3nn import o3
    from mace.calculators import MACECalculator
    from mace.modules import MACE, gate_dict, interaction_classes

    torch.manual_seed(0)
    block = interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = MACE(
        r_max=4.5,
        num_bessel=4,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=2,
        hidden_irreps=o3.Irreps("8x0e"),
        MLP_irreps=o3.Irreps("8x0e"),
        gate=gate_dict["silu"],
        atomic_energies=np.zeros(2),
        avg_num_neighbors=12.0,
        atomic_numbers=[1, 46],
        correlation=2,
    )
    return MACECalculator(models=[model.float()], device="cpu", default_dtype="float32")


def compared(name: str, good: Atoms) -> str:
    """Whether the same crystal in other words has the energy of the good one."""
    import torch

    wanted, atoms = good.get_potential_energy(), reworded(name)
    atoms.calc = good.calc
    if name == "autocast set by the caller":
        good.calc.reset()
    with torch.autocast("cpu", torch.bfloat16, enabled=name == "autocast set by the caller"):
        off = abs(atoms.get_potential_energy() - wanted)
    return "the same number" if off < TOLERANCE_EV else f"ANOTHER NUMBER, by {off:.2g} eV, no word"


def outcome(kind: str, name: str) -> str:
    """Evaluate one input in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms = spoiled(name)
        atoms.calc = calculator(kind)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            if name in SAME:
                return compared(name, atoms)
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    except Exception as error:  # whatever a calculator raises
        return f"refused: {type(error).__name__}: {' '.join(str(error).split())[:70]}"
    finite = np.isfinite(energy) and np.isfinite(forces).all()
    said = [w for w in told if "outside" in str(w.message)]
    words = "number" if finite else "NOT A NUMBER, no error"
    return f"{words}, with a warning" if said else f"{words}, no word"


def main() -> None:
    """Run every input in a process of its own and print the column."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("nemp", "mace", "sevennet"))
    parser.add_argument("--only", help="one input, in this process")
    options = parser.parse_args()
    if options.only:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
        print(json.dumps(outcome(options.kind, options.only)))
        return
    for name in (*INPUTS, *SAME):
        command = [sys.executable, __file__, options.kind, "--only", name]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=LIMIT_S, env=os.environ
            )
            lines = done.stdout.strip().splitlines()
            last = (done.stderr.strip().splitlines() or [""])[-1][:70]
            said = f"DIED ({done.returncode}) {last}"
            said = json.loads(lines[-1]) if done.returncode == 0 else said
        except subprocess.TimeoutExpired:
            said = f"no answer within {LIMIT_S} s"
        print(f"{name:31} {said}", flush=True)


if __name__ == "__main__":
    main()
