"""g(r) of an ideal gas: one everywhere, with error bars that the scatter confirms."""

import numpy as np
from ase import Atoms

from nemp_sim.pairs import pair_distances

BOX_ANGSTROM, N_ATOMS = 14.0, 24


def ideal_gas(rng, n_frames):
    gas = Atoms(["H"] * N_ATOMS, cell=[BOX_ANGSTROM] * 3, pbc=True)
    cells = np.repeat(np.eye(3)[None] * BOX_ANGSTROM, n_frames, axis=0)
    beads = rng.uniform(0, BOX_ANGSTROM, (n_frames, 1, N_ATOMS, 3))
    (found,) = pair_distances(gas, [*gas.symbols], cells, beads).values()
    return found


def test_ideal_gas_is_one_within_its_error(rng):
    found = ideal_gas(rng, 200)
    far = found.distance_A > 4.0  # enough pairs in a bin
    deviation = (found.rdf - 1)[far] / found.rdf_error[far]
    assert 0.7 < np.sqrt((deviation**2).mean()) < 1.4
    assert np.abs(deviation).max() < 5


def test_errors_are_the_scatter_of_repeated_runs(rng):
    runs = [ideal_gas(rng, 40) for _ in range(30)]
    far = runs[0].distance_A > 3.0
    scatter = np.std([run.neighbours_per_A[far] for run in runs], axis=0)
    said = np.mean([run.neighbours_error_per_A[far] for run in runs], axis=0)
    assert abs(np.log(np.mean(said / scatter))) < 0.25
