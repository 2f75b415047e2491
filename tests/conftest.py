"""Fixtures of all tests: networks with random weights, and structures to run them on."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from scipy.spatial.transform import Rotation

from nemp_sim.checkpoint import new_model
from nemp_sim.config import MLPShape, ModelConfig
from nemp_sim.graph import AtomGraph
from nemp_sim.neighbors import build_graph, edge_list
from nemp_sim.potential import Potential

torch.set_num_threads(1)  # the networks here are small: more threads only wait for each other

ELEMENTS = (1, 6, 8, 46)
SMALL_MLP = MLPShape(n_blocks=1, width=8, layers_per_block=1)
SMALL = {
    "elements": ELEMENTS,
    "cutoff_angstrom": 4.0,
    "n_channels": 4,
    "n_radial": 4,
    "n_pair_code": 6,
    "radial_mlp": SMALL_MLP,
    "message_mlp": SMALL_MLP,
    "output_mlp": SMALL_MLP,
    "embedding_mlp": SMALL_MLP,
}
FORMS = {
    "smooth": {"form": "smooth", "species_code": "table"},
    "published": {"form": "published", "species_code": "atomic_number"},
}


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


def make_potential(
    form, dtype=torch.float64, seed=1, device="cpu", n_members=0, head=None, **changes
):
    """A potential in which no parameter has its starting value, zero or one."""
    model = new_model(ModelConfig(**SMALL | FORMS[form] | changes), seed).cast(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.1 * noise
        for shift, readout in enumerate(model.readouts.values()):
            readout.reference_energies += shift + torch.linspace(
                -3.0, 2.0, len(model.config.elements), dtype=torch.float64
            )
            width = readout.members.shape[1]
            members = torch.randn(n_members, width, generator=generator, dtype=torch.float64)
            readout.members = 0.1 * (members - members.mean(0)) if n_members else readout.members
            readout.force_calibration.fill_(1.25)
    return Potential(model.cast(dtype), name=f"random {form}", head=head, device=device)


@pytest.fixture(scope="session")
def random_potential() -> Callable[..., Potential]:
    """Factory ``random_potential(form, dtype, seed, **config)``; equal calls share one object."""
    made: dict[str, Potential] = {}

    def get(form: str, **options: object) -> Potential:
        key = repr((form, sorted(options.items())))
        if key not in made:
            made[key] = make_potential(form, **options)
        return made[key]

    return get


@pytest.fixture(params=list(FORMS))
def potential(request, random_potential) -> Potential:
    """Both forms of the network in turn, float64."""
    return random_potential(request.param)


@pytest.fixture
def rng(request) -> np.random.Generator:
    """Random numbers that depend on the name of the test alone."""
    seed = zlib.crc32(request.node.nodeid.encode())
    print(f"rng seed: {seed}")
    return np.random.default_rng(seed)


@pytest.fixture
def rotation(rng) -> np.ndarray:
    """A random improper rotation (3, 3), to be applied as r → r R^T."""
    matrix = -Rotation.random(random_state=rng).as_matrix()
    print(f"random frame:\n{matrix!r}")
    return matrix


def make_slab():
    """H on Pd(111) 2×2×3, pbc (T, T, F), rattled."""
    slab = fcc111("Pd", (2, 2, 3), a=3.94, vacuum=8.0)
    add_adsorbate(slab, "H", 0.9, "fcc")
    slab.rattle(0.08, seed=3)
    return slab


def make_water():
    """Eight water molecules of random orientation in a cube of 6.2 Å."""
    rng = np.random.default_rng(8)
    box = Atoms(cell=[6.2, 6.2, 6.2], pbc=True)
    for corner in np.ndindex(2, 2, 2):
        water = molecule("H2O")
        water.positions -= water.get_center_of_mass()
        water.positions = water.positions @ Rotation.random(random_state=rng).as_matrix()
        water.positions += (np.array(corner) + 0.5) * 3.1
        box += water
    return box


def make_methanol():
    """A molecule without a cell."""
    atoms = molecule("CH3OH")
    atoms.rattle(0.05, seed=2)
    return atoms


def make_tilted():
    """Two atoms in a tilted cell so small that a pair has many images within the cutoff."""
    cell = [[2.6, 0.1, 0.0], [1.7, 2.2, 0.2], [-0.9, 0.8, 2.5]]
    return Atoms("PdH", scaled_positions=[[0.1, 0.2, 0.3], [0.62, 0.7, 0.75]], cell=cell, pbc=True)


MAKERS = {
    "slab": make_slab,
    "water": make_water,
    "methanol": make_methanol,
    "tilted": make_tilted,
    "lone_atom": lambda: Atoms("O", [[0.3, -0.2, 0.1]]),
    "empty": Atoms,
}


@pytest.fixture
def slab() -> Atoms:
    """H on Pd(111), pbc (T, T, F)."""
    return make_slab()


@pytest.fixture
def water() -> Atoms:
    """A periodic box of water."""
    return make_water()


@pytest.fixture
def methanol() -> Atoms:
    """A molecule without a cell."""
    return make_methanol()


@pytest.fixture
def tilted() -> Atoms:
    """A tiny tilted cell."""
    return make_tilted()


@pytest.fixture
def structures() -> dict[str, Atoms]:
    """Every kind of structure by name: slab, water, methanol, tilted, lone_atom, empty."""
    return {name: make() for name, make in MAKERS.items()}


@pytest.fixture(params=[name for name in MAKERS if name != "empty"])
def structure(request) -> Atoms:
    """Every kind of structure in turn, but the empty one."""
    return MAKERS[request.param]()


@pytest.fixture(params=["slab", "water", "tilted"])
def periodic(request) -> Atoms:
    """Every kind of periodic structure in turn."""
    return MAKERS[request.param]()


@pytest.fixture(scope="session")
def graph_of() -> Callable[[Potential, Sequence[Atoms]], AtomGraph]:
    """Function that joins structures into the AtomGraph that a potential evaluates."""

    def build(potential: Potential, structures: Sequence[Atoms]) -> AtomGraph:
        species = torch.full((119,), -1)
        species[list(potential.config.elements)] = torch.arange(len(potential.config.elements))
        edges = [edge_list(atoms, potential.cutoff_angstrom) for atoms in structures]
        return build_graph(structures, edges, species, potential.device)

    return build
