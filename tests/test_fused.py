"""The fused kernels against the plain form: on a GPU, or anywhere by Triton's interpreter.

TRITON_INTERPRET=1 pytest tests/test_fused.py
"""

import copy
import importlib.util
from functools import partial

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from nemp_sim import load_potential
from nemp_sim.config import MLPShape
from nemp_sim.errors import InputError
from nemp_sim.kernels.choice import PRECISIONS, choose
from nemp_sim.kernels.sizes import interpreted
from nemp_sim.mlp import MLP
from nemp_sim.potential import Potential
from nemp_sim.tabulation import PairTable

CUDA = torch.cuda.is_available()
RUNS = importlib.util.find_spec("triton") is not None and (CUDA or interpreted())
needs_triton = pytest.mark.skipif(
    not RUNS, reason="needs triton, and a CUDA device or TRITON_INTERPRET=1"
)
DEVICE, DTYPE = ("cuda", torch.float32) if CUDA else ("cpu", torch.float64)
# relative to the largest value; the published harmonics have a norm with ε that the kernels take
# to first order, and the interpreter's products are exact in every precision but the halves
TOLERANCE = {torch.float64: {"smooth": 1e-12, "published": 1e-7}, torch.float32: 1e-4}
COARSE = {"bf16x3": 5e-4, "tf32": 2e-2, "bf16": 1e-1, "fp16": 1e-2}
SHAPES = {
    "L1 T1": {"max_l": 1, "pmax_l": 1, "n_message_passing": 1, "zbl": True},
    "L0 T1 repulsion below trained distances": {
        "max_l": 0,
        "pmax_l": 0,
        "n_message_passing": 1,
        "zbl": True,
        "zbl_reach": "trained_distances",
    },
    "L2 T2 published": {"form": "published", "n_channels": 16},
    "L3 P1 K20": {
        "max_l": 3,
        "pmax_l": 1,
        "n_channels": 20,
        "message_mlp": MLPShape(2, 24, 2, bend=0.4),
    },
    "L1 T3 linear": {
        "max_l": 1,
        "pmax_l": 1,
        "n_message_passing": 3,
        "message_mlp": MLPShape(linear=True),
    },
    "P0 bare no norm": {
        "max_l": 1,
        "pmax_l": 0,
        "message_mlp": MLPShape(n_blocks=0),
        "use_norm": False,
    },
}
ON_GPU = {
    "L3 P3 T3 K48": {"max_l": 3, "pmax_l": 3, "n_message_passing": 3, "n_channels": 48},
    "reference": {
        "form": "published",
        "n_channels": 16,
        "n_message_passing": 3,
        "message_mlp": MLPShape(2, 64, 2),
    },
    "K64": {"n_channels": 64, "message_mlp": MLPShape(1, 64, 1), "zbl": True},
}


def structures():
    """Three, the last an atom without neighbours; centres with more edges than a tile holds."""
    close = Atoms("PdH", scaled_positions=[[0, 0, 0], [0.4, 0.5, 0.6]], cell=[2.9] * 3, pbc=True)
    return [molecule("OH"), close, Atoms("O")]


def networks(random_potential, shape, dtype=DTYPE):
    """Plain form with a table of the pairs, and the kernels with the same table."""
    from nemp_sim.kernels.edge_mlp import Launch
    from nemp_sim.kernels.fused import FusedNetwork

    shape = dict(shape)
    potential = random_potential(shape.pop("form", "smooth"), dtype=dtype, device=DEVICE, **shape)
    model = potential.model
    if model.zbl is not None:
        model.inner_radius.fill_(0.9)
    table = PairTable(model, dtype)
    plain = partial(model.describe, pair_functions=table)
    launch = Launch(chunk=64) if CUDA else Launch(tile=16, block=4, chunk=16, keep=False)
    return potential, plain, partial(FusedNetwork, model, table, launch=launch)


def probe(describe, graph):
    """Descriptors, and the gradient of a random projection of them by the positions."""
    graph = graph.__class__(**vars(graph) | {"positions": graph.positions.requires_grad_()})
    density, saturation, repulsion = describe(graph)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(density.shape, generator=generator, dtype=torch.float64)
    total = (density.double() * weights.to(DEVICE)).sum() + 0.3 * saturation.double().sum()
    if repulsion is not None:
        total = total + 0.1 * repulsion.sum()
    (gradient,) = torch.autograd.grad(total, graph.positions)
    return density.detach(), saturation.detach(), gradient


def assert_close(got, want, tolerance):
    for mine, theirs in zip(got, want, strict=True):
        assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max()


@needs_triton
@pytest.mark.parametrize("name", SHAPES | (ON_GPU if CUDA else {}))
def test_fused_equals_plain(random_potential, graph_of, name):
    shape = (SHAPES | ON_GPU)[name]
    potential, plain, fused = networks(random_potential, shape)
    graph = graph_of(potential, structures())
    tolerance = TOLERANCE[DTYPE]
    if DTYPE == torch.float64:
        tolerance = tolerance[shape.get("form", "smooth")]
    mode = "fp16x3" if CUDA else "ieee"  # the default, where it runs
    assert_close(probe(fused(mode).describe, graph), probe(plain, graph), tolerance)


@needs_triton
@pytest.mark.parametrize("mode", PRECISIONS if CUDA else ["tf32x3", "fp16x3", "fp16"])
def test_precisions(random_potential, graph_of, mode):
    shape = {"max_l": 1, "pmax_l": 1, "n_channels": 16}
    potential, plain, fused = networks(random_potential, shape, torch.float32)
    graph = graph_of(potential, structures()[:1])
    tolerance = COARSE.get(mode, TOLERANCE[torch.float32])
    assert_close(probe(fused(mode).describe, graph), probe(plain, graph), tolerance)


@needs_triton
def test_states_in_16_bits(random_potential, graph_of):
    """As many edges need them: to 2e-4, and not what whole numbers give."""
    from nemp_sim.kernels.edge_mlp import Launch

    shape = {"max_l": 1, "pmax_l": 1, "n_channels": 20, "n_message_passing": 2}
    potential, plain, fused = networks(random_potential, shape, torch.float32)
    graph = graph_of(potential, structures())
    half = fused("fp16x3", launch=Launch(chunk=64, half=True, keep=False)).describe
    assert_close(probe(half, graph), probe(plain, graph), 2e-4)
    whole = fused("fp16x3", launch=Launch(chunk=64, half=False)).describe
    assert not torch.equal(probe(half, graph)[2], probe(whole, graph)[2])


@needs_triton
def test_kept_outputs_change_nothing(random_potential, graph_of):
    """Outputs of all edges, chunk by chunk, or of one chunk and computed again."""
    from nemp_sim.kernels.edge_mlp import Launch

    shape = {"max_l": 1, "pmax_l": 0, "n_message_passing": 2}
    potential, _, fused = networks(random_potential, shape)
    graph = graph_of(potential, structures()[:1])
    kept, again = (
        probe(fused("ieee", launch=Launch(tile=16, chunk=16, keep=keep)).describe, graph)
        for keep in (True, False)
    )
    assert_close(kept, again, 1e-12 if DTYPE == torch.float64 else 1e-5)


@needs_triton
def test_halves_keep_gradients_of_all_sizes():
    """Rows of gradients from 1e-6 to 1e6, far beyond float16, against float64."""
    from nemp_sim.kernels.edge_mlp import EdgeMLP, Launch
    from nemp_sim.kernels.states import States
    from nemp_sim.kernels.workspace import Workspace

    torch.manual_seed(0)
    mlp = MLP(48, 96, MLPShape(1, 32, 1)).to(DEVICE)
    state, grad = torch.randn(64, 48, device=DEVICE), torch.randn(64, 96, device=DEVICE)
    grad = grad * torch.logspace(-6, 6, 64, device=DEVICE)[:, None]
    net = EdgeMLP(mlp, 16, "fp16x3", Launch(tile=32))
    room, rest = Workspace(state, 64, 64, 32, 96), States.empty(state, 64, 0, 16, False)
    room.take((0, 64))
    room.pair_state.copy_(state[:, :32])
    room.grad_outputs(96).copy_(grad)

    def run(kernel, grid, *inputs, **constants):
        kernel[grid](*inputs, **constants)

    own = state[:, 32:].contiguous()
    out = net.gradient(run, room, States(own, own), rest, False, add=False)
    got = torch.cat([room.grad_pair_state, room.grad_last_state], 1)
    exact = state.double().requires_grad_()
    value = mlp.double()(exact)
    (want,) = torch.autograd.grad(value, exact, grad.double())
    assert (out - value).abs().max() < 2e-6 * value.abs().max()
    assert ((got - want).abs().amax(1) < 1e-5 * want.abs().amax(1)).all()


@needs_triton
def test_runs_repeat_bit_by_bit(random_potential, graph_of):
    potential, _, fused = networks(random_potential, SHAPES["L1 T1"])
    graph = graph_of(potential, structures()[:2])
    mode = "fp16x3" if CUDA else "ieee"
    first, second = (probe(fused(mode).describe, graph) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@needs_triton
def test_potential_with_uncertainties(random_potential):
    shape = {"max_l": 1, "pmax_l": 1, "n_message_passing": 1, "n_members": 3}
    plain = random_potential("smooth", dtype=DTYPE, device=DEVICE, **shape)
    precision = "fp16x3" if CUDA else "ieee"  # the interpreter has no halves of float64
    fused = Potential(
        copy.deepcopy(plain.model), device=DEVICE, kernel="fused", precision=precision
    )
    assert fused.kernel == f"fused ({precision})"
    batch = [molecule("OH"), molecule("H2O"), Atoms("H")]
    got, want = (p.evaluate(batch, uncertainty=True) for p in (fused, plain))
    for name in ("energies", "forces", "energies_std", "forces_std"):
        for mine, theirs in zip(getattr(got, name), getattr(want, name), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-4 if CUDA else 1e-6)


@needs_triton
def test_too_high_order_is_refused_by_name(random_potential):
    model = random_potential("smooth", max_l=4, pmax_l=1, dtype=DTYPE, device=DEVICE).model
    with pytest.raises(InputError, match="max_l is 4, above 3. Use kernel='reference' or 'auto'"):
        choose(model, "fused", "tf32x3")


def test_cpu_runs_the_plain_form(random_potential):
    model = random_potential("smooth").model
    kernel = choose(model, "auto", "fp16x3")[1]
    assert kernel == "reference (the device is cpu, not an NVIDIA GPU)"
    if not RUNS:
        with pytest.raises(InputError, match="the device is cpu, not an NVIDIA GPU"):
            choose(model, "fused", "tf32x3")


@pytest.mark.parametrize("name", ["kernel", "precision"])
def test_unknown_kernel_or_precision(name):
    with pytest.raises(InputError, match=f"{name} is 'quick', but must be one of"):
        load_potential("pdh.pt", "cpu", **{name: "quick"})
