"""The structure that a run of dynamics starts from: the same one again where the run goes on."""

from pathlib import Path

from ase import Atoms

from nemp_sim.files import read_structure, write_structures
from nemp_sim.relax import Engine, relax

START_FMAX = 0.1  # eV/Å, and at most so many steps: a start for dynamics, no minimum
START_STEPS = 40


def start_structure(
    path: Path, engine: Engine, atoms: Atoms, built_in: bool
) -> tuple[Atoms, list[str]]:
    """The start, and how it was made, in words.

    Args:
        path: where it is kept; a built-in structure that lies there already is taken from there.
        engine: relaxes built-in structures a little.
        atoms: the structure as built or read.
        built_in: whether it was built; structures of files stay as they are.
    """
    if path.is_file() and built_in:
        return read_structure(path, "start"), ["The start is that of the earlier run here."]
    if not built_in:
        write_structures(path, atoms)
        return atoms, ["The start is the structure of the file."]
    relaxed = relax(engine, [atoms], START_FMAX, START_STEPS)
    found = relaxed.structures[0]
    found.calc, found.info = None, {}
    write_structures(path, found)
    notes = [f"Built-in structure, relaxed to forces of {relaxed.fmax_eV_per_A:.2f} eV/Å."]
    return read_structure(path, "start"), notes  # rounded by the file, as when the run goes on
