"""The kernels against the plain form: once for each network, on the GPU that is to run them.

A compiler that meets a new GPU, driver or version of Triton can make kernels that fail, or that are
wrong (``docs/kernels.md`` has a case). So a potential that is to use them first evaluates a small
crystal with both forms.
"""

from types import SimpleNamespace

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from nemp_sim.derivatives import Derivatives, differentiate
from nemp_sim.graph import AtomGraph
from nemp_sim.kernels.sizes import FEW_ATOMS
from nemp_sim.model import NEMP, Describe
from nemp_sim.neighbors import build_graph, edge_list, species_table

CELLS = 4  # along each axis: 64 atoms
WIDTH = 0.06  # standard deviation of the displacements over the spacing
ACCURATE = ("tf32x3", "fp16x3", "bf16x3", "ieee")  # precisions that keep that of float32
TOLERANCE, ROUGH = 1e-3, 0.2  # largest disagreement of these, and of those that round products


def disagreement(want: Derivatives, got: Derivatives) -> float:
    """Largest difference of forces over their RMS, or of atomic energies over their spread."""
    differences = []
    pairs = (want.forces, got.forces), (want.atomic_energies, got.atomic_energies)
    for a, b in pairs:
        if a is None or b is None:
            raise ValueError("forces are missing")
        scale = (a - a.mean()).square().mean().sqrt() + 1e-6
        differences.append(float((a - b).abs().max() / scale))
    return max(differences, key=lambda x: np.inf if np.isnan(x) else x)


def sample(model: NEMP) -> AtomGraph:
    """A displaced simple cubic crystal of all elements in turn, on the device of the network."""
    numbers = np.resize(model.config.elements, CELLS**3)
    rng = np.random.default_rng(0)
    spacing = 2.1 * float(np.mean(covalent_radii[list(model.config.elements)]))
    places = spacing * np.indices((CELLS,) * 3).reshape(3, -1).T
    places = places + spacing * WIDTH * rng.normal(size=places.shape)
    atoms = Atoms(rng.permutation(numbers), places, cell=[CELLS * spacing] * 3, pbc=True)
    edges = edge_list(atoms, model.config.cutoff_angstrom)
    species = species_table(model.config.elements)
    return build_graph([atoms], [edges], species, model.species_mix.device)


def fault(model: NEMP, describe: Describe, step: object, precision: str) -> str:
    """What is wrong with the kernels on this device; empty where they agree with the plain form.

    Args:
        model: the network, of one head.
        describe: the features by the kernels.
        step: ``FusedStep`` of the same network, or None.
        precision: of the kernels.
    """
    graph, limit = sample(model), TOLERANCE if precision in ACCURATE else ROUGH
    want = differentiate(model, graph, forces=True, stress=False)
    network = getattr(describe, "__self__", SimpleNamespace())
    found: list[Derivatives] = []
    try:
        for network.few_atoms in (0, FEW_ATOMS):  # in the shapes for many atoms, and for few
            found.append(differentiate(model, graph, forces=True, stress=False, describe=describe))
            if callable(step):
                found.append(step(graph, forces=True, stress=False)[0])
        worst = max(disagreement(want, got) for got in found)
    except Exception as error:  # whatever the compiler, the driver or a kernel says
        return f"the kernels failed their check on this GPU ({error!r:.300})"
    if worst <= limit:
        return ""
    return (
        f"the kernels differ from the plain form by {worst:.2g} of the forces or energies of a "
        f"test crystal on this GPU, accepted {limit:g}"
    )
