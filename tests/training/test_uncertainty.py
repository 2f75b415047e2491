"""Ensemble read-out: derivatives, draws, spreads and calibration against explicit ensembles."""

import copy

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from nemp_sim.checkpoint import load_potential, save_potential
from nemp_sim.errors import InputError
from nemp_sim.potential import Potential, PotentialMetadata
from nemp_sim.statistics import rank_correlation
from nemp_sim.training.accuracy import predict, reliability
from nemp_sim.training.data import Frame
from nemp_sim.training.tables import build_table
from nemp_sim.training.uncertainty import (
    BATCH_ATOMS,
    MAX_ATOMS,
    Sensitivity,
    _choose,
    _crossed,
    draw_deviations,
    fit_members,
    fit_to_errors,
    sensitivity,
)
from tests.conftest import MAKERS, make_methanol

LINEAR = {"rtol": 1e-9, "atol": 1e-9}  # eV, eV/Å: energies are linear in the last layer
EXPLICIT = {"rtol": 0, "atol": 1e-9}
N_MEMBERS = 5
NAMES = [name for name in MAKERS if name != "empty"]
CPU = torch.device("cpu")


@pytest.fixture(params=["smooth", "published"])
def uncertain(request, random_potential):
    """A potential with five members, float64."""
    return random_potential(request.param, n_members=N_MEMBERS)


def frame_of(atoms, energy=0.0, forces=0.0):
    return Frame(atoms, float(energy), np.zeros((len(atoms), 3)) + forces, None, "any", "0")


def table_of(frames, potential):
    return build_table(frames, potential.config.elements, potential.cutoff_angstrom, CPU)


def with_last_layer(potential, change):
    """A potential whose weights of the last layer differ by ``change`` (W,), without members."""
    model = copy.deepcopy(potential.model)
    (readout,) = model.readouts.values()
    readout.output_mlp.output_layer.kernel[:, 0] += torch.as_tensor(change)
    readout.members = readout.members[:0]
    return Potential(model)


def width_of(potential):
    return potential.readout.members.shape[1]


# --- sensitivities


def test_sensitivity_is_a_difference_by_the_last_layer(uncertain, structures):
    frames = [frame_of(structures[name], 0.3, 0.1) for name in NAMES]
    order = [3, 0, 4, 1, 2]
    known = sensitivity(uncertain.model, table_of(frames, uncertain), order)
    batch = [frames[k].atoms for k in order]
    base = uncertain.evaluate(batch)
    for k, unit in enumerate(np.eye(width_of(uncertain))):
        moved = with_last_layer(uncertain, unit).evaluate(batch)
        np.testing.assert_allclose(known.energy[:, k], moved.energy - base.energy, **LINEAR)
        change = np.concatenate(moved.forces) - np.concatenate(base.forces)
        np.testing.assert_allclose(known.forces[:, k], change.ravel(), **LINEAR)
    np.testing.assert_allclose(known.energy_error, base.energy - 0.3, **LINEAR)
    np.testing.assert_allclose(
        known.force_error, np.concatenate(base.forces).ravel() - 0.1, **LINEAR
    )
    assert known.n_atoms.tolist() == [len(atoms) for atoms in batch]


def test_sensitivity_does_not_depend_on_its_batches(uncertain, structures, monkeypatch):
    table = table_of([frame_of(structures[name]) for name in NAMES], uncertain)
    together = sensitivity(uncertain.model, table, range(5))
    assert table.n_atoms.sum() < BATCH_ATOMS
    monkeypatch.setattr("nemp_sim.training.uncertainty.BATCH_ATOMS", 1)
    alone = sensitivity(uncertain.model, table, range(5))
    for name in ("energy", "energy_error", "forces", "force_error"):
        np.testing.assert_allclose(getattr(alone, name), getattr(together, name), **EXPLICIT)


# --- draws


@pytest.mark.parametrize("n_members", [2, 3, 8, 9, 40])
def test_deviations_add_up_to_zero(rng, n_members):
    deviations = draw_deviations(rng.normal(size=(8, 8)), n_members, rng)
    assert deviations.shape == (n_members, 8)
    assert np.abs(deviations.sum(0)).max() < 1e-12 * np.abs(deviations).max() * n_members


def test_covariance_of_many_members_is_that_of_the_posterior(rng):
    factor = rng.normal(size=(5, 5))
    deviations = draw_deviations(factor, 200_000, rng)
    covariance = deviations.T @ deviations / len(deviations)
    want = factor @ factor.T
    assert np.abs(covariance - want).max() < 0.02 * np.abs(want).max()


@pytest.mark.parametrize("n_members", [2, 3, 4, 5])
def test_mean_square_does_not_depend_on_the_number_of_members(rng, n_members):
    """⟨δδᵀ⟩ over draws is B Bᵀ for few (orthogonal) as for many (independent) members."""
    factor = rng.normal(size=(4, 4))
    draws = np.stack([draw_deviations(factor, n_members, rng) for _ in range(20_000)])
    covariance = np.einsum("dmi,dmj->ij", draws, draws) / (len(draws) * n_members)
    want = factor @ factor.T
    assert np.abs(covariance - want).max() < 0.04 * np.abs(want).max()


# --- spreads against an explicit ensemble


def explicit_ensemble(potential, batch, **options):
    members = potential.readout.members.numpy()
    return [with_last_layer(potential, member).evaluate(batch, **options) for member in members]


def test_spreads_are_those_of_an_explicit_ensemble(uncertain, structures):
    batch = list(structures.values())
    got = uncertain.evaluate(batch, uncertainty=True)
    every = explicit_ensemble(uncertain, batch)
    energy = np.stack([e.energy for e in every])
    np.testing.assert_allclose(energy.mean(0), got.energy, **EXPLICIT)
    np.testing.assert_allclose(energy.std(0), got.energy_std, **EXPLICIT)
    assert got.energy_std[:4].min() > 1e-4
    factor = uncertain.readout.force_calibration.item()
    assert factor == 1.25
    for k in range(len(batch)):
        atomic, forces = (
            np.stack([getattr(e, n)[k] for e in every]) for n in ("energies", "forces")
        )
        np.testing.assert_allclose(atomic.std(0), got.energies_std[k], **EXPLICIT)
        np.testing.assert_allclose(forces.mean(0), got.forces[k], **EXPLICIT)
        np.testing.assert_allclose(factor * forces.std(0), got.forces_std[k], **EXPLICIT)
        np.testing.assert_allclose(forces, got.forces_members[k], **EXPLICIT)
    assert got.stress_members is None


def test_stresses_of_members_are_those_of_an_explicit_ensemble(uncertain, water, tilted):
    got = uncertain.evaluate([water, tilted], stress=True, uncertainty=True)
    every = explicit_ensemble(uncertain, [water, tilted], stress=True)
    stress = np.stack([e.stress for e in every], axis=1)
    np.testing.assert_allclose(stress, got.stress_members, **EXPLICIT)
    np.testing.assert_allclose(stress.mean(1), got.stress, **EXPLICIT)
    assert np.ptp(stress, axis=1).max() > 1e-6
    assert uncertain.evaluate([water], stress=True).stress_members is None


def test_batch_of_spreads_equals_single(uncertain, structures):
    batch = list(structures.values())
    together = uncertain.evaluate(batch, uncertainty=True)
    for k, atoms in enumerate(batch):
        alone = uncertain.evaluate([atoms], uncertainty=True)
        np.testing.assert_allclose(together.energy_std[k], alone.energy_std[0], **EXPLICIT)
        np.testing.assert_allclose(together.energies_std[k], alone.energies_std[0], **EXPLICIT)
        np.testing.assert_allclose(together.forces_std[k], alone.forces_std[0], **EXPLICIT)


@pytest.mark.parametrize("forces", [True, False])
@pytest.mark.parametrize("stress", [True, False])
def test_asking_for_spreads_changes_no_other_result(uncertain, water, forces, stress):
    plain = with_last_layer(uncertain, np.zeros(width_of(uncertain)))
    want = plain.evaluate([water], forces=forces, stress=stress)
    for uncertainty in (True, False):
        got = uncertain.evaluate([water], forces=forces, stress=stress, uncertainty=uncertainty)
        np.testing.assert_allclose(got.energy, want.energy, rtol=0, atol=1e-11)
        np.testing.assert_allclose(got.energies[0], want.energies[0], rtol=0, atol=1e-11)
        assert (got.forces is None) == (not forces) and (got.stress is None) == (not stress)
        if forces:
            np.testing.assert_allclose(got.forces[0], want.forces[0], rtol=0, atol=1e-11)
        if stress:
            np.testing.assert_allclose(got.stress, want.stress, rtol=0, atol=1e-11)
        assert got.energy_std is not None and got.energies_std is not None
        assert (got.forces_std is not None) == uncertainty


def test_empty_list_has_empty_spreads(uncertain):
    result = uncertain.evaluate([], uncertainty=True)
    assert result.energy_std.shape == (0,) and result.forces_std == result.energies_std == ()


def test_without_members_uncertainties_are_refused(potential, water):
    assert potential.n_members == 0
    with pytest.raises(InputError, match="has no ensemble read-out.*n_members > 0"):
        potential.evaluate([water], uncertainty=True)
    result = potential.evaluate([water])
    assert result.energy_std is result.energies_std is result.forces_std is None


def test_lone_atom_is_certain(random_potential, structures):
    """In the smooth form a lone atom has its reference energy, whatever the members."""
    result = random_potential("smooth", n_members=N_MEMBERS).evaluate(
        [structures["lone_atom"]], uncertainty=True
    )
    assert result.energy_std[0] == 0 and not result.forces_std[0].any()


def test_spreads_of_moved_turned_and_reordered_atoms(uncertain, slab, rotation, rng):
    """Energy spreads are invariant; so is √(σ_x² + σ_y² + σ_z²) of an atom, not its components."""
    result = uncertain.evaluate([slab], uncertainty=True)
    order = rng.permutation(len(slab))
    turned = slab.copy()
    turned.set_cell(slab.cell.array @ rotation.T)
    turned.positions = slab.positions @ rotation.T
    turned = turned[order]
    turned.positions += [0.3, -0.7, 1.1]
    other = uncertain.evaluate([turned], uncertainty=True)
    np.testing.assert_allclose(other.energy_std, result.energy_std, **EXPLICIT)
    np.testing.assert_allclose(other.energies_std[0], result.energies_std[0][order], **EXPLICIT)
    lengths = [np.linalg.norm(r.forces_std[0], axis=1) for r in (other, result)]
    np.testing.assert_allclose(lengths[0], lengths[1][order], **EXPLICIT)
    assert np.abs(other.forces_std[0] - result.forces_std[0][order]).max() > 1e-3


def test_file_keeps_the_members(uncertain, water, tmp_path):
    path = save_potential(uncertain.model, PotentialMetadata(), tmp_path / "members.pt")
    loaded = load_potential(path, "cpu")
    assert loaded.n_members == N_MEMBERS
    assert torch.equal(loaded.readout.members, uncertain.readout.members)
    want, got = (p.evaluate([water], uncertainty=True) for p in (uncertain, loaded))
    np.testing.assert_array_equal(got.energy_std, want.energy_std)
    np.testing.assert_array_equal(got.forces_std[0], want.forces_std[0])


@pytest.mark.parametrize("form", ["smooth", "published"])
def test_spreads_in_float32(random_potential, form, water):
    double, single = (
        random_potential(form, dtype=dtype, n_members=N_MEMBERS).evaluate([water], uncertainty=True)
        for dtype in (torch.float64, torch.float32)
    )
    np.testing.assert_allclose(single.energy_std, double.energy_std, rtol=1e-3)
    np.testing.assert_allclose(single.forces_std[0], double.forces_std[0], rtol=1e-2, atol=1e-4)


@pytest.mark.gpu
def test_gpu_spreads_equal_cpu(random_potential, structures):
    batch = list(structures.values())
    want, got = (
        random_potential("smooth", n_members=N_MEMBERS, device=device).evaluate(
            batch, uncertainty=True
        )
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(got.energy_std, want.energy_std, **EXPLICIT)
    for a, b in zip(got.forces_std, want.forces_std, strict=True):
        np.testing.assert_allclose(a, b, **EXPLICIT)


# --- a fit whose truth is known

NOISE_EV_PER_ATOM, NOISE_EV_PER_A = 0.002, 0.03
N_TRAIN, N_OTHER = 12, 30
# weights of the loss that make it the log-likelihood of this noise: 18 components in a frame
WEIGHTS = (NOISE_EV_PER_A**2 / (18 * NOISE_EV_PER_ATOM**2), 1.0)


def rattled(rng, count, width=0.06):
    batch = [make_methanol() for _ in range(count)]
    for atoms in batch:
        atoms.positions += rng.normal(scale=width, size=(6, 3))
    return batch


def true_frames(potential, batch, rng, noise):
    """Frames labelled by ``potential``, with Gaussian noise on energies and forces."""
    exact = potential.evaluate(batch)
    return [
        frame_of(
            atoms,
            energy + noise * rng.normal() * NOISE_EV_PER_ATOM * len(atoms),
            forces + noise * rng.normal(size=(len(atoms), 3)) * NOISE_EV_PER_A,
        )
        for atoms, energy, forces in zip(batch, exact.energy, exact.forces, strict=True)
    ]


@pytest.fixture(scope="module")
def fitted(random_potential):
    """Last layer fitted by least squares to noisy labels of a network with known last layer.

    Returns the fitted potential, its calibration, exact frames that it has not seen, and the
    training frames.
    """
    rng = np.random.default_rng(4)
    truth = random_potential("smooth")
    train, held, test = (
        true_frames(truth, rattled(rng, n), rng, noise)
        for n, noise in ((N_TRAIN, 1.0), (N_OTHER, 0.0), (N_OTHER, 0.0))
    )
    known = sensitivity(truth.model, table_of(train, truth), range(N_TRAIN))
    rows = np.concatenate([known.energy / 6 / NOISE_EV_PER_ATOM, known.forces / NOISE_EV_PER_A])
    noise = np.concatenate(
        [-known.energy_error / 6 / NOISE_EV_PER_ATOM, -known.force_error / NOISE_EV_PER_A]
    )
    potential = with_last_layer(truth, np.linalg.lstsq(rows, noise, rcond=None)[0])
    tables = table_of(train, truth), table_of(held, truth)
    calibration = fit_members(potential.model, tables, 0, 64, WEIGHTS, seed=1)
    covariance = np.linalg.inv(rows.T @ rows)
    return potential, calibration, test, train, covariance


def test_spreads_are_calibrated_on_frames_never_seen(fitted):
    potential, calibration, test, _, _ = fitted
    assert calibration.held_out and calibration.n_frames == N_OTHER
    judged = reliability(predict({"default": potential}, test))
    print(f"force {judged.force_ratio:.3f}, energy {judged.energy_ratio:.3f}")
    assert 0.8 < judged.force_ratio < 1.25
    assert 0.8 < judged.energy_ratio < 1.25
    assert judged.force_spearman > 0.2


def test_spreads_have_the_shape_of_the_exact_posterior(fitted):
    """The least-squares covariance is exact here; the fit may scale it and add its ridge."""
    potential, _, test, _, covariance = fitted
    known = sensitivity(potential.model, table_of(test, potential), range(N_OTHER))
    exact = np.sqrt(np.einsum("fi,ij,fj->f", known.forces, covariance, known.forces))
    got = potential.evaluate([f.atoms for f in test], uncertainty=True).forces_std
    got = np.concatenate(got).ravel()
    assert np.corrcoef(exact, got)[0, 1] > 0.8
    assert 0.5 < got.mean() / exact.mean() < 2.0


def test_unlike_structures_are_less_certain(fitted, rng):
    potential, _, _, train, _ = fitted
    unlike = rattled(rng, 10, width=0.06)
    for atoms in unlike:
        atoms.set_distance(0, 1, 2.1, fix=0)
    near, far = (
        potential.evaluate(batch, uncertainty=True) for batch in ([f.atoms for f in train], unlike)
    )
    assert far.energy_std.min() > near.energy_std.max()
    assert np.mean(far.forces_std) > 1.5 * np.mean(near.forces_std)


def test_members_leave_the_fit_alone(fitted):
    potential, *_ = fitted
    assert potential.n_members == 64
    assert potential.readout.members.sum(0).abs().max() < 1e-10
    assert potential.readout.members.dtype == torch.float64


def test_without_held_out_frames_training_errors_scale(fitted):
    potential, _, _, train, _ = fitted
    model = copy.deepcopy(potential.model)
    calibration = fit_members(model, (table_of(train, potential), None), 0, 4, WEIGHTS)
    assert not calibration.held_out and calibration.n_frames == N_TRAIN


def test_lone_atoms_alone_give_no_members(random_potential, structures):
    model = copy.deepcopy(random_potential("smooth").model)
    table = table_of([frame_of(structures["lone_atom"])], random_potential("smooth"))
    assert fit_members(model, (table, table), 0, 4, WEIGHTS) is None
    (readout,) = model.readouts.values()
    assert len(readout.members) == 0


def test_frames_of_the_fit_are_those_of_the_head_up_to_a_number_of_atoms(random_potential, rng):
    potential = random_potential("smooth")
    frames = [frame_of(make_methanol()) for _ in range(3)] + [frame_of(MAKERS["lone_atom"]())]
    table = table_of(frames, potential)
    assert sorted(_choose(table, 0, rng)) == [0, 1, 2]
    assert len(_choose(table, 1, rng)) == 0
    many = table_of([frame_of(make_methanol())] * (MAX_ATOMS // 6 + 5), potential)
    assert len(_choose(many, 0, rng)) == MAX_ATOMS // 6


def test_rotated_training_gives_spreads_of_the_same_length(fitted):
    potential, _, test, _, _ = fitted
    turn = Rotation.random(random_state=3).as_matrix()
    batch = [f.atoms.copy() for f in test[:4]]
    want = potential.evaluate(batch, uncertainty=True).forces_std
    for atoms in batch:
        atoms.positions = atoms.positions @ turn.T
    got = potential.evaluate(batch, uncertainty=True).forces_std
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1), atol=1e-9)


# --- deviations fitted to held-out errors


def held_out(rng, n_frames, seen, covariance):
    """Sensitivities of a last layer of width 6 and errors drawn from N(0, A C Aᵀ).

    The forces on an atom depend on one direction in ``seen`` each; no frame shows the others.
    """
    width, atoms = len(covariance), 4
    forces = np.zeros((n_frames * atoms * 3, width))
    direction = np.repeat(rng.choice(seen, n_frames * atoms), 3)
    forces[np.arange(len(forces)), direction] = rng.choice([-1, 1], len(forces))
    energy = rng.normal(size=(n_frames, width)) * np.isin(np.arange(width), seen)
    weights = rng.multivariate_normal(np.zeros(width), covariance, size=len(forces) + n_frames)
    errors = np.einsum("nw,nw->n", np.concatenate([forces, energy]), weights)
    counts = np.full(n_frames, atoms)
    weight, has_forces = np.ones(n_frames), np.ones(n_frames, dtype=bool)
    split = errors[len(forces) :], errors[: len(forces)]
    values = Sensitivity(energy, split[0], counts, weight, has_forces, forces, split[1])
    return values, direction[::3]


def test_deviations_learn_where_the_network_errs(rng):
    """Errors of direction k have the standard deviation 2ᵏ; the draw holds all for alike."""
    true_std = 2.0 ** np.arange(6)
    seen, unseen = [0, 1, 2, 3], [4, 5]
    values, _ = held_out(rng, 400, seen, np.diag(true_std**2))
    factor = np.eye(6)
    draw = draw_deviations(factor, 64, rng)
    fitted, ratio = fit_to_errors(draw, factor, 1.0, values)
    got = np.sqrt(np.square(fitted).mean(0))
    np.testing.assert_allclose((got * ratio)[seen], true_std[seen], rtol=0.1)
    np.testing.assert_allclose(fitted[:, unseen], draw[:, unseen], atol=1e-9)
    assert np.abs(fitted.sum(0)).max() < 1e-9 * np.abs(fitted).max()


def test_few_errors_leave_the_draw_nearly_alone(rng):
    values, _ = held_out(rng, 1, [0, 1, 2, 3], np.diag(2.0 ** np.arange(6)))
    draw = draw_deviations(np.eye(6), 8, rng)
    fitted, _ = fit_to_errors(draw, np.eye(6), 1.0, values)
    assert 0.4 < np.square(fitted).mean() / np.square(draw).mean() < 2.5


def test_crossed_reliability_judges_frames_that_the_fit_has_not_seen(rng):
    """It finds the order of the true spreads, and none where errors have no order."""
    ordered, direction = held_out(rng, 300, [0, 1, 2, 3], np.diag(4.0 ** np.arange(6)))
    draw = draw_deviations(np.eye(6), 8, rng)
    rank, ratio = _crossed(draw, np.eye(6), 1.0, ordered)
    length = np.linalg.norm(ordered.force_error.reshape(-1, 3), axis=1)
    assert rank == pytest.approx(rank_correlation(2.0**direction, length), abs=0.1)
    assert ratio == pytest.approx(1, abs=0.15)
    alike, _ = held_out(rng, 300, [0, 1, 2, 3], np.eye(6))
    assert abs(_crossed(draw, np.eye(6), 1.0, alike)[0]) < 0.1
