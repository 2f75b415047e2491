"""Potential: a batch equals its members, is never partial, and bad input is refused by name."""

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

import nemp_sim.batches as batches_module
import nemp_sim.memory as memory_module
import nemp_sim.potential as potential_module
from nemp_sim.derivatives import differentiate
from nemp_sim.errors import EvaluationError, InputError, UnknownElementError
from nemp_sim.memory import MemoryWarning, bytes_per_edge
from nemp_sim.neighbors import NeighborLists
from nemp_sim.potential import Potential

BATCH = {torch.float64: 1e-10, torch.float32: 1e-4}  # eV and eV/Å, batch against single
PRECISION_ENERGY = 5e-5  # eV/atom, float32 against float64
PRECISION_FORCE = 5e-4  # eV/Å
NO_NET_FORCE = {torch.float64: 1e-12, torch.float32: 1e-5}  # eV/Å, for each atom


def assert_same(got, want, tolerance=BATCH[torch.float64]):
    """Equal evaluations, of the same structures in the same order."""
    np.testing.assert_allclose(got.energy, want.energy, rtol=0, atol=tolerance)
    for name in ("energies", "forces"):
        pairs = list(zip(getattr(got, name), getattr(want, name), strict=True))
        for one, other in pairs:
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)
    if want.stress is not None:
        np.testing.assert_allclose(got.stress, want.stress, rtol=0, atol=tolerance)


def private_copy(potential):
    """A potential whose weights a test may change."""
    return Potential(copy.deepcopy(potential.model))


def joined(parts):
    """One Evaluation of several."""
    return potential_module.Evaluation(
        energy=np.concatenate([p.energy for p in parts]),
        energies=sum((p.energies for p in parts), ()),
        forces=sum((p.forces for p in parts), ()),
        stress=None if parts[0].stress is None else np.concatenate([p.stress for p in parts]),
    )


# --- a batch is its members


@pytest.mark.parametrize("dtype", BATCH, ids=str)
@pytest.mark.parametrize("form", ["smooth", "published"])
def test_batch_equals_single(random_potential, structures, form, dtype):
    potential = random_potential(form, dtype=dtype)
    batch = list(structures.values())
    singles = joined([potential.evaluate([atoms]) for atoms in batch])
    assert_same(potential.evaluate(batch), singles, BATCH[dtype])


def test_batch_of_stresses_equals_single(potential, structures):
    batch = [structures[name] for name in ("slab", "water", "tilted")]
    singles = joined([potential.evaluate([atoms], stress=True) for atoms in batch])
    assert_same(potential.evaluate(batch, stress=True), singles)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", BATCH, ids=str)
@pytest.mark.parametrize("form", ["smooth", "published"])
def test_gpu_equals_cpu(random_potential, structures, form, dtype):
    batch = [structures[name] for name in ("slab", "water", "tilted")]
    want = random_potential(form).evaluate(batch, stress=True)
    got = random_potential(form, dtype=dtype, device="cuda").evaluate(batch, stress=True)
    assert_same(got, want, {torch.float64: 1e-9, torch.float32: 1e-3}[dtype])


def test_order_of_the_list_is_kept(potential, structures, rng):
    batch = list(structures.values())
    want = potential.evaluate(batch)
    order = rng.permutation(len(batch))
    got = potential.evaluate([batch[k] for k in order])
    np.testing.assert_allclose(got.energy, want.energy[order], rtol=0, atol=1e-10)
    for place, k in enumerate(order):
        np.testing.assert_allclose(got.forces[place], want.forces[k], rtol=0, atol=1e-10)


def test_shapes_and_dtypes(potential, structures):
    batch = list(structures.values())
    result = potential.evaluate(batch)
    assert result.energy.shape == (len(batch),)
    assert [f.shape for f in result.forces] == [(len(atoms), 3) for atoms in batch]
    assert [e.shape for e in result.energies] == [(len(atoms),) for atoms in batch]
    assert result.stress is None
    assert potential.evaluate(batch, forces=False).forces is None


def test_generators_are_taken(potential, structures):
    want = potential.evaluate(list(structures.values()))
    assert_same(potential.evaluate(atoms for atoms in structures.values()), want)


@pytest.mark.parametrize("request_forces", [True, False])
@pytest.mark.parametrize("request_stress", [True, False])
def test_results_do_not_depend_on_what_is_asked(potential, water, request_forces, request_stress):
    full = potential.evaluate([water], forces=True, stress=True)
    part = potential.evaluate([water], forces=request_forces, stress=request_stress)
    np.testing.assert_allclose(part.energy, full.energy, rtol=1e-13)
    assert (part.forces is not None) == request_forces
    assert (part.stress is not None) == request_stress
    if request_forces:
        np.testing.assert_allclose(part.forces[0], full.forces[0], rtol=0, atol=1e-12)
    if request_stress:
        np.testing.assert_allclose(part.stress, full.stress, rtol=0, atol=1e-13)


def test_no_gradient_across_structures(potential, graph_of, water, methanol):
    """The first structure's energy has an exactly zero derivative by the second's positions."""
    graph = graph_of(potential, [water, methanol])
    positions = graph.positions.clone().requires_grad_()
    atomic = potential.model(type(graph)(**vars(graph) | {"positions": positions}))
    energy = graph.sum_atoms(atomic)
    (gradient,) = torch.autograd.grad(energy[0], positions)
    assert (gradient[len(water) :] == 0).all()
    assert gradient[: len(water)].abs().max() > 1e-3


def test_atomic_energies_add_up(potential, structures):
    result = potential.evaluate(list(structures.values()))
    sums = [energies.sum() for energies in result.energies]
    np.testing.assert_allclose(result.energy, sums, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", NO_NET_FORCE, ids=str)
@pytest.mark.parametrize("form", ["smooth", "published"])
def test_no_net_force(random_potential, structure, form, dtype):
    forces = random_potential(form, dtype=dtype).evaluate([structure]).forces[0]
    assert np.abs(forces.sum(axis=0)).max() < NO_NET_FORCE[dtype] * len(structure)


# --- precision


@pytest.mark.parametrize("form", ["smooth", "published"])
def test_float32_agrees_with_float64(random_potential, structure, form):
    single = random_potential(form, dtype=torch.float32).evaluate([structure])
    double = random_potential(form).evaluate([structure])
    error = np.abs(single.energy - double.energy).max() / len(structure)
    assert error < PRECISION_ENERGY
    np.testing.assert_allclose(single.forces[0], double.forces[0], rtol=0, atol=PRECISION_FORCE)
    assert single.energy.dtype == single.forces[0].dtype == np.float64


def test_energies_are_summed_in_float64(random_potential):
    """1000 atoms of −1e5 eV: summed in float32 the total would lose whole electronvolts."""
    potential = private_copy(random_potential("smooth", dtype=torch.float32))
    atoms = Atoms("H1000", 20.0 * np.array(list(np.ndindex(10, 10, 10))))
    potential.readout.reference_energies[0] = -100000.123456789
    got = potential.evaluate([atoms], forces=False).energy[0]
    np.testing.assert_allclose(got, -100000123.456789, rtol=1e-12)


# --- nothing to evaluate


def test_empty_list(potential):
    result = potential.evaluate([], stress=True)
    assert result.energy.shape == (0,)
    assert result.forces == result.energies == ()
    assert result.stress.shape == (0, 6)


@pytest.mark.parametrize("neighbours", [[], [0], [0, 0], [1], [1, 0, 1]])
def test_empty_structure_among_others(potential, methanol, neighbours):
    batch = [methanol if kind else Atoms() for kind in neighbours] + [Atoms()]
    result = potential.evaluate(batch)
    want = potential.evaluate([methanol]).energy[0]
    np.testing.assert_allclose(result.energy[:-1], [kind * want for kind in neighbours], atol=1e-12)
    assert result.energy[-1] == 0
    assert result.forces[-1].shape == (0, 3)


@pytest.mark.parametrize("pbc", [False, True])
def test_single_atom(potential, pbc):
    atoms = Atoms("Pd", cell=[30, 30, 30], pbc=pbc)
    result = potential.evaluate([atoms], stress=pbc)
    assert np.isfinite(result.energy).all()
    assert (result.forces[0] == 0).all()
    assert result.stress is None or (result.stress == 0).all()


# --- memory


def test_split_lists_give_the_same_results(potential, structures, monkeypatch):
    batch = [structures[name] for name in ("slab", "water", "tilted")] * 2
    want = potential.evaluate(batch, stress=True)
    sizes = spy_on_sizes(monkeypatch)
    monkeypatch.setattr(batches_module, "room", lambda device: 600.0)
    assert_same(potential.evaluate(batch, stress=True), want)
    assert sizes == [len(atoms) for atoms in batch]


def test_chunks_follow_the_free_memory(potential, water, monkeypatch, graph_of):
    n_edges = len(graph_of(potential, [water]).centre)
    per_water = n_edges * bytes_per_edge(potential.config, potential.dtype)
    sizes = spy_on_sizes(monkeypatch)
    monkeypatch.setattr(batches_module, "room", lambda device: 2.5 * per_water)
    potential.evaluate([water] * 5)
    assert sizes == [48, 48, 24]


def spy_on_sizes(monkeypatch, limit=10**9, error=None):
    """Number of atoms of each evaluated graph; above ``limit`` atoms ``error`` is raised."""
    sizes = []

    def spy(model, graph, **options):
        sizes.append(len(graph.species))
        if sizes[-1] > limit:
            raise error
        return differentiate(model, graph, **options)

    monkeypatch.setattr(potential_module, "differentiate", spy)
    return sizes


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    MemoryError("Unable to allocate 7 GiB for an array"),
]
KINDS = ["cuda", "cpu", "cublas", "triton", "numpy"]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=KINDS)
@pytest.mark.parametrize("limit", [24, 50, 75])
def test_out_of_memory_halves_and_completes(potential, water, monkeypatch, limit, error):
    batch = [water.copy() for _ in range(7)]
    for shift, atoms in enumerate(batch):
        atoms.positions[0] += 0.02 * shift
    want = potential.evaluate(batch, stress=True)
    sizes = spy_on_sizes(monkeypatch, limit, error)
    with pytest.warns(MemoryWarning, match="structures is evaluated in halves"):
        got = potential.evaluate(batch, stress=True)
    assert_same(got, want)
    assert sum(size for size in sizes if size <= limit) == 7 * len(water)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=KINDS)
def test_one_structure_too_large_is_an_error(potential, water, methanol, monkeypatch, error):
    spy_on_sizes(monkeypatch, limit=10, error=error)
    wanted = pytest.raises(EvaluationError, match=r"structure 1 \(24 atoms.*memory")
    with pytest.warns(MemoryWarning), wanted:
        potential.evaluate([methanol, water, methanol])


def test_a_structure_too_large_for_the_cpu_is_refused_before_it_ends_the_process(
    potential, water, methanol, monkeypatch, graph_of
):
    n_edges = len(graph_of(potential, [water]).centre)
    needed = n_edges * bytes_per_edge(potential.config, potential.dtype)
    monkeypatch.setattr(batches_module, "free_memory", lambda device: 1.01 * needed)
    potential.evaluate([methanol, water])
    monkeypatch.setattr(batches_module, "free_memory", lambda device: 0.99 * needed)
    sizes = spy_on_sizes(monkeypatch)
    message = rf"structure 1 \(24 atoms, {n_edges} .*takes some {needed / 1e9:.1f} GB"
    with pytest.raises(EvaluationError, match=message):
        potential.evaluate([methanol, water])
    assert sizes == [6]


def test_free_memory_is_within_the_limit_of_a_container(tmp_path, monkeypatch):
    available = memory_module.free_memory(torch.device("cpu"))
    assert 1e6 < available < 1e15
    monkeypatch.setattr(memory_module, "GROUP_OF_LINUX", tmp_path)
    (tmp_path / "memory.current").write_text("3000\n")
    for limit, want in (("max\n", available), ("5000\n", 2000)):
        (tmp_path / "memory.max").write_text(limit)
        assert memory_module.free_memory(torch.device("cpu")) == pytest.approx(want, rel=0.2)
    monkeypatch.setattr(memory_module, "MEMORY_OF_LINUX", tmp_path / "nowhere")
    assert memory_module.free_memory(torch.device("cpu")) > 1e6


def test_other_errors_pass(potential, water, monkeypatch):
    spy_on_sizes(monkeypatch, limit=10, error=RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        potential.evaluate([water])


@pytest.mark.gpu
def test_real_out_of_memory_is_an_error(random_potential, water):
    potential = random_potential("smooth", device="cuda")
    torch.cuda.set_per_process_memory_fraction(1e-3)
    try:
        with pytest.raises(EvaluationError, match="does not fit into the memory"):
            potential.evaluate([water * (6, 6, 6)])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.isfinite(potential.evaluate([water]).energy).all()


# --- refusals


def test_bare_atoms_are_refused(potential, water):
    with pytest.raises(InputError, match=r"evaluate\(\[atoms\]\)"):
        potential.evaluate(water)


@pytest.mark.parametrize(("symbols", "named"), [("NH", "N"), ("XH", "X"), ("AuHN", "N, Au")])
def test_unknown_element_is_refused_by_name(potential, methanol, symbols, named):
    atoms = Atoms(symbols, [[1.5 * k, 0, 0] for k in range(len(Atoms(symbols)))])
    with pytest.raises(UnknownElementError) as error:
        potential.evaluate([methanol, atoms])
    assert f"structure 1 ({atoms.get_chemical_formula()}) contains {named}, " in str(error.value)
    assert "knows only H, C, O, Pd." in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_that_are_not_finite_are_refused(potential, methanol, water, value):
    water.positions[0, 0] = value
    with pytest.raises(InputError, match=r"structure 1 .*positions\[0\]"):
        potential.evaluate([methanol, water])


@pytest.mark.parametrize("forces", [True, False])
def test_results_that_are_not_finite_are_an_error(random_potential, methanol, forces):
    potential = private_copy(random_potential("smooth"))
    potential.readout.energy_factor[2] = np.nan  # oxygen
    assert np.isfinite(potential.evaluate([molecule("CH4")]).energy).all()
    nearest = methanol.get_all_distances()[np.triu_indices(6, 1)].min()
    message = rf"structure 1 \(CH4O\).*shortest distance is {nearest:.3f} Å"
    with pytest.raises(EvaluationError, match=message):
        potential.evaluate([molecule("CH4"), methanol], forces=forces)


@pytest.mark.parametrize(
    "atoms",
    [
        molecule("H2O"),
        Atoms("H", cell=[5, 5, 5]),
        Atoms("H", cell=[5, 5, 0], pbc=(True, True, False)),
    ],
    ids=["no cell", "not periodic", "no volume"],
)
def test_stress_without_volume_is_refused(potential, atoms, water):
    with pytest.raises(InputError, match=r"structure 1 .*stress needs"):
        potential.evaluate([water, atoms], stress=True)


def test_neighbour_lists_of_another_cutoff_are_refused(potential, water):
    with pytest.raises(InputError, match=r"cutoff of 3\.0 Å.* needs 4\.0 Å"):
        potential.evaluate([water], neighbors=NeighborLists(3.0))


def test_input_is_left_alone(potential, water):
    before = water.copy()
    potential.evaluate([water], stress=True)
    assert water == before
    assert water.calc is None


def test_evaluation_keeps_the_grad_mode_and_leaves_no_graph(potential, methanol):
    potential.evaluate([methanol])
    assert torch.is_grad_enabled()
    assert not any(p.requires_grad or p.grad is not None for p in potential.model.parameters())


def test_frozen_weights_stay(random_potential, water):
    potential = random_potential("smooth")
    before = {k: v.clone() for k, v in potential.model.state_dict().items()}
    potential.evaluate([water], stress=True)
    assert all(torch.equal(v, before[k]) for k, v in potential.model.state_dict().items())


def test_a_model_moved_to_a_potential_is_frozen(random_potential):
    potential = random_potential("smooth")
    again = Potential(potential.model)
    assert not again.model.training
    assert again.elements == ("H", "C", "O", "Pd")
