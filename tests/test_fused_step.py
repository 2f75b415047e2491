"""Steps through the kernels alone against autograd of the plain form: GPU or Triton's interpreter.

TRITON_INTERPRET=1 pytest tests/test_fused_step.py
"""

import copy
import importlib.util

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from nemp_sim.config import MLPShape
from nemp_sim.derivatives import differentiate_members
from nemp_sim.domain import Domain
from nemp_sim.kernels.choice import choose, direct, interpreted
from nemp_sim.padding import padded
from nemp_sim.surroundings import measure

CUDA = torch.cuda.is_available()
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not (CUDA or interpreted()),
    reason="needs triton, and a CUDA device or TRITON_INTERPRET=1",
)
DEVICE, DTYPE = ("cuda", torch.float32) if CUDA else ("cpu", torch.float64)
LINEAR = MLPShape(linear=True)
SMALL = {"max_l": 1, "pmax_l": 1, "n_message_passing": 1, "elements": ("H", "O", "Pd")}
SHAPES = {
    "smooth, ZBL, members": SMALL | {"zbl": True, "n_members": 3},
    "published, deep read-out": SMALL | {"form": "published", "output_mlp": MLPShape(2, 24, 2)},
    "linear read-out": SMALL | {"output_mlp": MLPShape(linear=True), "n_members": 2, "zbl": True},
    "wide read-out": SMALL | {"output_mlp": MLPShape(1, 100, 1)},
    "linear edges": SMALL | {"message_mlp": LINEAR, "zbl": True, "n_channels": 16},
    "linear edges, P0, K20": SMALL
    | {"message_mlp": LINEAR, "max_l": 2, "pmax_l": 0, "n_channels": 20, "use_norm": False},
    "linear edges, L2, published": SMALL
    | {"message_mlp": LINEAR, "form": "published", "max_l": 2, "pmax_l": 2, "n_channels": 4},
    "K20, bare read-out": SMALL | {"n_channels": 20, "output_mlp": MLPShape(0, 40, 1)},
}


def structures():
    """A crystal whose atoms see their own images, a molecule, a lone atom."""
    crystal = bulk("Pd", "fcc", a=3.9, cubic=True)
    crystal.rattle(0.1, seed=2)
    return [crystal, molecule("H2O", cell=[4.0, 5.0, 6.0], pbc=(1, 1, 0)), Atoms("O")]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("pad", [False, True])
def test_step_equals_autograd(random_potential, graph_of, name, pad):
    shape = dict(SHAPES[name])
    form = shape.pop("form", "smooth")
    potential = random_potential(form, dtype=DTYPE, device=DEVICE, **shape)
    model, graph = potential.model, graph_of(potential, structures())
    graph = padded(graph) if pad else graph
    if model.zbl is not None:
        model.inner_radius.fill_(0.9)
    shortest = np.array([0.8, 1.0, 1.7, 1.0, 0.0, 2.0, 1.7, 2.0, 2.6]).reshape(3, 3)
    crowding = np.array([2.0, 1.0, 5.0, 2.0, 1.0, np.inf, 0.5, 3.0, 9.0]).reshape(3, 3)
    domain = Domain(("H", "O", "Pd"), shortest, None, crowding, {})
    limits = torch.from_numpy(domain.pair_limits(model.config.cutoff_angstrom)).to(DEVICE)
    precision = "fp16x3" if CUDA else "ieee"
    describe, _ = choose(copy.deepcopy(model), "fused", precision)
    step = direct(describe, limits)
    want = differentiate_members(model, graph, forces=True, stress=True, forces_std=False)
    with torch.no_grad():
        got, measured = step(graph, forces=True, stress=True)
        less, _ = step(graph, forces=False, stress=False)
    assert less.forces is None and less.virial is None
    torch.testing.assert_close(less.energy, got.energy)
    names = ["energy", "atomic_energies", "forces", "virial"]
    if potential.n_members:
        names += ["atomic_std", "energy_std", "energy_deviations"]
    # the table has errors of float32 rounding
    tolerance = 5e-5 if CUDA else 5e-6
    for each in names:
        mine, theirs = getattr(got, each), getattr(want, each)
        assert mine.shape == theirs.shape
        assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1)
    exact = measure(model, graph, limits)
    for mine, theirs in zip(measured, exact, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_the_plain_form_has_no_step_of_its_own(random_potential):
    model = random_potential("smooth", dtype=DTYPE, device=DEVICE, **SMALL).model
    describe, _ = choose(model, "reference", "ieee")
    assert direct(describe, torch.zeros(9, device=DEVICE)) is None
