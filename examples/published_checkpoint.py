"""Read a checkpoint of the published JAX code and compare with what that code computed."""

from pathlib import Path

import numpy as np
from ase import Atoms

from nemp_sim import NEMP, read_checkpoint

folder = Path(__file__).parents[1] / "tests" / "data" / "authors_checkpoint"
expected = np.load(folder / "expected.npz")
atoms = Atoms(
    expected["numbers"], expected["positions"], cell=expected["cell"], pbc=expected["pbc"]
)
atoms.calc = NEMP(read_checkpoint(folder))
print(f"energy  here {atoms.get_potential_energy():.10f} eV, JAX {expected['energy']:.10f} eV")
difference = np.abs(atoms.get_forces() - expected["forces"]).max()
print(f"forces  largest difference {difference:.1e} eV/Å")
