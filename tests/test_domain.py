"""The domain of validity: what is outside is named, warned of once, refused on request."""

import json
import warnings
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculationFailed
from ase.data import covalent_radii
from ase.units import Bohr
from typer.testing import CliRunner

from nemp_sim import NEMP, load_potential
from nemp_sim.checkpoint import find_potential, load_model, save_potential
from nemp_sim.cli import app
from nemp_sim.domain import (
    FARTHEST,
    FEW,
    ISOLATED,
    MARGIN,
    RECORD_FACTOR,
    RMSE_FACTOR,
    Domain,
)
from nemp_sim.domain_report import with_domain
from nemp_sim.errors import ExtrapolationError, InputError
from nemp_sim.ipi.client import BeadEvaluator
from nemp_sim.ipi.wire import Frame
from nemp_sim.potential import Potential, PotentialMetadata
from nemp_sim.report import Report
from nemp_sim.surroundings import FAR, NEAR, close_reach, measure
from nemp_sim.systems import choose_potential, read_system
from nemp_sim.training.accuracy import predict
from nemp_sim.training.data import Frame as LabelledFrame
from nemp_sim.training.record import domain_record
from nemp_sim.watch import MOST_WARNINGS, ExtrapolationWarning, NoDomainWarning

SHORTEST = {"H-H": 0.7, "H-O": 0.9, "H-Pd": 1.5}
COORDINATION = {"H": [0.5, 3.0], "O": [0.5, 4.0]}
LARGEST_STD = {"atom_std": 1e3, "energy_std": 1e3, "force_std": 1e3}


def recorded(random_potential, **record):
    """A potential whose file would hold this record, everything else being wide."""
    model = random_potential("smooth", n_members=4).model
    domain = {"shortest_distance_A": SHORTEST, "largest_std": LARGEST_STD} | record
    return Potential(model, PotentialMetadata(heads={"default": {"domain": domain}}), name="p.pt")


def pair(distance, symbols="HH"):
    return Atoms(symbols, [[0, 0, 0], [distance, 0, 0]])


def findings(potential, atoms, **options):
    return potential.evaluate([atoms], on_extrapolation="ignore", **options).outside[0]


# --- what is recorded


def test_a_file_that_records_no_domain_is_told_of_when_it_is_loaded(random_potential, tmp_path):
    path = tmp_path / "old.pt"
    save_potential(random_potential("smooth").model, PotentialMetadata(), path)
    with pytest.warns(NoDomainWarning, match="old.pt records no domain of validity"):
        load_potential(path, "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_potential(path, "cpu", on_extrapolation="ignore")
        load_potential("water.pt", "cpu")


def without_coordination(name, directory):
    """A shipped potential without its record: the shortest distances are then the network's own."""
    model, known = load_model(find_potential(name))
    heads = {
        head: {k: v for k, v in of_head.items() if k != "domain"}
        for head, of_head in known.heads.items()
    }
    save_potential(model, replace(known, heads=heads), directory / name)
    return directory / name


def test_info_says_what_is_recorded():
    shown = " ".join(CliRunner().invoke(app, ["info", "pdh"]).output.split())
    assert "shortest distances, coordination, crowding, accepted uncertainties recorded" in shown
    assert "not recorded" not in shown


def test_info_and_verdicts_say_what_is_not_recorded(tmp_path):
    path = without_coordination("agcho.pt", tmp_path)
    said = "(the check is partial, not recorded: coordination, crowding)"
    shown = " ".join(CliRunner().invoke(app, ["info", str(path)]).output.split())
    assert said in shown
    potential = load_potential(path, "cpu")
    for stretch, verdict in ((1.0, "inside"), (3.0, "OUTSIDE")):
        atoms = molecule("CH4")
        atoms.positions *= stretch
        potential.watch.reset()
        potential.evaluate([atoms], on_extrapolation="ignore")
        report = with_domain(Report("t", "v", ()), potential, [atoms])
        assert said in potential.watch.verdict() and verdict in potential.watch.verdict()
        assert said in " ".join(report.notes)


# --- what is outside


@pytest.mark.parametrize(("symbols", "shortest"), [("HH", 0.7), ("OH", 0.9), ("PdH", 1.5)])
def test_short_distance_names_atoms_value_and_threshold(random_potential, symbols, shortest):
    potential = recorded(random_potential)
    assert not findings(potential, pair(1.001 * MARGIN * shortest, symbols))
    (found,) = findings(potential, pair(0.99 * MARGIN * shortest, symbols))
    assert (found.kind, found.atoms) == ("distance", (0, 1))
    assert found.value == pytest.approx(0.99 * MARGIN * shortest, rel=1e-12)
    assert found.threshold == pytest.approx(MARGIN * shortest, rel=1e-12)
    assert "0" in str(found) and "apart" in str(found)


def test_distance_to_a_periodic_image(random_potential):
    atoms = Atoms("H", cell=[0.6, 9, 9], pbc=[True, False, False])
    (found,) = findings(recorded(random_potential), atoms)
    assert found.atoms == (0, 0) and found.value == pytest.approx(0.6)


def test_pairs_that_are_not_recorded_are_not_judged(random_potential):
    assert not findings(recorded(random_potential), pair(0.3, "OO"))


def test_lengths_in_bohr_are_found_by_a_file_that_knows_pairs():
    """Pairs pressed together make the shortest distances small; coordination still tells."""
    potential = load_potential("methanol.pt", "cpu")
    atoms = molecule("CH3OH")
    assert not findings(potential, atoms)
    atoms.positions /= Bohr
    assert "coordination" in {f.kind for f in findings(potential, atoms)}


@pytest.mark.parametrize("name", ["water", "Ag", "AgPd", "ice-Ih"])
def test_lengths_in_bohr_are_found_without_a_record_of_coordination(name, tmp_path):
    """Files of before the record know the shortest distances alone."""
    file, head = choose_potential(name, None, None)
    potential = load_potential(without_coordination(file, tmp_path), "cpu", head=head)
    assert potential.domain.not_recorded == ("coordination", "crowding")
    atoms = read_system(name)
    assert "isolation" not in {f.kind for f in findings(potential, atoms)}
    wrong = atoms.copy()
    wrong.set_cell(atoms.cell / Bohr)
    wrong.positions = atoms.positions / Bohr
    (found,) = (f for f in findings(potential, wrong) if f.kind == "isolation")
    assert found.value > found.threshold == ISOLATED and "are the lengths in Å?" in str(found)
    with pytest.raises(ExtrapolationError, match="has no neighbour within"):
        potential.evaluate([wrong], on_extrapolation="raise")


def test_isolation_is_the_nearest_neighbour_in_shortest_distances(tmp_path):
    """Lone atoms and dimers whose atoms are near enough are not judged."""
    potential = load_potential(without_coordination("water.pt", tmp_path), "cpu")
    shortest = potential.domain.shortest_A[0, 1]
    atoms = Atoms("OH2", [[0, 0, 0], [1.4, 0, 0], [0, 9, 0]])
    found = [f for f in findings(potential, atoms) if f.kind == "isolation"]
    assert [(f.atoms, f.value) for f in found] == [((2,), FARTHEST)]
    far = Atoms("OH", [[0, 0, 0], [1.7 * shortest, 0, 0]])
    near = [f for f in findings(potential, far) if f.kind == "isolation"]
    assert near[0].value == pytest.approx(1.7)
    for few in (atoms[:1], atoms[:2]):
        assert "isolation" not in {f.kind for f in findings(potential, few)}


def test_crystals_of_two_atoms_in_bohr_are_no_dimers(random_potential):
    """One rule for both kinds: a dimer is bonded, in a wide box, and needs no third atom."""
    bounds = {"H": [2.0, 9.0], "O": [2.0, 9.0]}
    potential = recorded(random_potential, coordination=bounds)
    shortest = potential.domain.shortest_A
    length = shortest[shortest > 0].min()
    box = {"cell": [8.0, 8.0, 8.0], "pbc": True}
    for stretch, outside in ((1.5, False), (1.7, True)):
        atoms = Atoms("HH", [[0, 0, 0], [stretch * length, 0, 0]], **box)
        assert bool(findings(potential, atoms)) == outside
    assert not findings(potential, Atoms("H", **box))
    tight = Atoms("HH", [[0, 0, 0], [1.5 * length, 0, 0]], cell=[6.0, 9, 9], pbc=True)
    assert findings(potential, tight)


def test_coordination_against_a_sum_by_hand(random_potential):
    """n_i = Σ f_c with f_c of docs/theory.md, p = 6; H in the corners of a square around O."""
    potential = recorded(random_potential, coordination=COORDINATION)
    corners = np.array([[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0], [0, 0, 1.4]])
    atoms = Atoms("OH5", [[0, 0, 0], *corners])
    x = np.linalg.norm(corners, axis=1) / potential.cutoff_angstrom
    u = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
    found = {f.atoms: f for f in findings(potential, atoms) if f.kind == "coordination"}
    oxygen = found.get((0,))
    assert sum(u**2) > 4.0 / MARGIN  # O is outside; one H may be worse
    worst = next(iter(found.values()))
    assert worst.excess >= sum(u**2) / (4.0 / MARGIN) * (1 - 1e-9)
    lone = Atoms("O3", [[0, 0, 0], [50, 0, 0], [0, 50, 0]])
    (low,) = findings(potential, lone)
    assert low.kind == "coordination" and low.value < 0.5 * MARGIN == low.threshold
    only = recorded(random_potential, coordination={"O": [0.5, 4.0]})
    (oxygen,) = findings(only, atoms)
    assert oxygen.value == pytest.approx(sum(u**2), rel=1e-9)
    assert oxygen.threshold == pytest.approx(4.0 / MARGIN)


@pytest.mark.parametrize("kind", ["atom_std", "energy_std", "force_std"])
def test_uncertainty_above_the_accepted_one(random_potential, kind, water):
    wide = recorded(random_potential)
    result = wide.evaluate([water], uncertainty=True, on_extrapolation="ignore")
    value = {
        "atom_std": result.energies_std[0].max(),
        "energy_std": result.energy_std[0] / len(water),
        "force_std": np.linalg.norm(result.forces_std[0], axis=1).max(),
    }[kind]
    for factor, outside in ((1.01, False), (0.99, True)):
        limits = LARGEST_STD | {kind: factor * value / RECORD_FACTOR}
        potential = recorded(random_potential, largest_std=limits)
        found = [f for f in findings(potential, water, uncertainty=True) if f.kind == kind]
        assert bool(found) == outside
        assert all(f.value == pytest.approx(value) for f in found)


def test_files_without_a_record_use_the_held_out_errors_and_say_so(random_potential):
    model = random_potential("smooth", zbl=True, cutoff_angstrom=4.0).model
    errors = {"energy_rmse_meV_per_atom": 2.0, "force_rmse_meV_per_A": 30.0}
    model.inner_radius.fill_(1.0)
    try:
        domain = Domain.of(model, {}, errors)
    finally:
        model.inner_radius.zero_()
    assert (domain.shortest_A == 1.0).all()
    assert domain.accepted == pytest.approx(
        {"energy_std": RMSE_FACTOR * 2e-3, "force_std": RMSE_FACTOR * 30e-3}
    )
    assert domain.not_recorded == ("coordination", "crowding")
    bare = Domain.of(random_potential("smooth").model, {}, {})
    assert len(bare.not_recorded) == 4


def test_batched_verdicts_equal_single_ones(random_potential, structures):
    potential = recorded(random_potential, coordination=COORDINATION)
    listed = [*structures.values(), Atoms(), pair(0.4), pair(0.8)]
    together = potential.evaluate(listed, on_extrapolation="ignore").outside
    alone = [findings(potential, atoms) for atoms in listed]
    assert [[(f.kind, f.atoms) for f in found] for found in together] == [
        [(f.kind, f.atoms) for f in found] for found in alone
    ]
    assert any(together) and not all(together)


# --- policies


def test_warning_once_for_each_set_of_atoms(random_potential):
    potential = recorded(random_potential)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(50):
            potential.evaluate([pair(0.5 + 1e-3 * step)])
        assert [w.category for w in caught] == [ExtrapolationWarning]
        potential.evaluate([pair(0.5, "OH")])
        assert len(caught) == 2
        for k in range(40):
            potential.evaluate([Atoms("HH" + "O" * k, np.vstack([np.eye(3)[:2] * 0.3, *far(k)]))])
    assert len(caught) <= MOST_WARNINGS and "counted" in str(caught[-1].message)
    assert potential.watch.n_outside == 91 == potential.watch.n_structures


def far(k):
    return [np.array([[9.0 * (n + 1), 0, 0]]) for n in range(k)]


def test_raise_ignore_and_unknown_policies(random_potential):
    potential = recorded(random_potential)
    with pytest.raises(ExtrapolationError, match=r"H0 and H1 are 0.5 Å apart, accepted 0.665"):
        potential.evaluate([pair(0.5)], on_extrapolation="raise")
    potential.watch.policy = "raise"
    with pytest.raises(ExtrapolationError):
        potential.evaluate([pair(0.5)])
    potential.evaluate([pair(0.8)])
    potential.evaluate([pair(0.5)], on_extrapolation="ignore")
    with pytest.raises(InputError, match="on_extrapolation is 'stop'"):
        potential.evaluate([pair(0.5)], on_extrapolation="stop")


def test_nearest_and_partner_are_those_of_all_pairs(random_potential, graph_of, rng):
    """Images included; the pair O–Pd has no trained distance."""
    potential = random_potential("smooth")
    crystal = bulk("Pd", "fcc", a=3.9) * (2, 1, 1)
    made = [molecule("H2O", vacuum=3), crystal, Atoms("H"), Atoms("OPd", [[0] * 3, [1.8, 0, 0]])]
    for atoms in made:
        atoms.rattle(0.05, rng=rng)
    count = len(potential.config.elements)
    trained = np.ones((count, count))
    o, pd = potential.species_of_number[[8, 46]].tolist()
    trained[o, pd] = trained[pd, o] = 0.0
    graph = graph_of(potential, made)
    domain = Domain(potential.config.symbols, trained, None, None, {})
    limits = torch.from_numpy(domain.pair_limits(potential.cutoff_angstrom))
    nearest, partner, *_ = (x.numpy() for x in measure(potential.model, graph, limits))
    first = 0
    for atoms in made:
        for i in range(len(atoms)):
            images = atoms.repeat([3 if periodic else 1 for periodic in atoms.pbc])
            middle = len(images) // len(atoms) // 2 * len(atoms)
            apart = images.get_all_distances()[middle + i]
            apart[middle + i] = np.inf
            apart[images.numbers == {8: 46, 46: 8}.get(atoms.numbers[i])] = np.inf
            apart[apart >= potential.cutoff_angstrom] = np.inf
            assert nearest[first + i] == pytest.approx(apart.min())
            found = apart.argmin() % len(atoms) - i if np.isfinite(apart).any() else 0
            assert partner[first + i] == found
        first += len(atoms)


def test_close_neighbours_are_those_of_all_pairs(random_potential, graph_of, rng):
    """Images included, one element after the other; H beside Pd alone has no limit."""
    potential = random_potential("smooth")
    symbols, cutoff = potential.config.symbols, potential.cutoff_angstrom
    crystal = bulk("Pd", "fcc", a=3.9) * (2, 1, 1)
    made = [molecule("CH3OH"), crystal, Atoms("H"), Atoms("H3Pd", rng.uniform(0, 2, size=(4, 3)))]
    for atoms in made:
        atoms.rattle(0.05, rng=rng)
    trained = rng.uniform(0.1, 3.0, size=(len(symbols), len(symbols)))
    trained[symbols.index("H"), symbols.index("Pd")] = np.inf
    domain = Domain(symbols, np.zeros(trained.shape), None, trained, {})
    limits = torch.from_numpy(domain.pair_limits(cutoff))
    *_, crowding, crowd = measure(potential.model, graph_of(potential, made), limits)
    first = 0
    for atoms in made:
        for i in range(len(atoms)):
            images = atoms.repeat([3 if periodic else 1 for periodic in atoms.pbc])
            middle = len(images) // len(atoms) // 2 * len(atoms)
            sums = covalent_radii[atoms.numbers[i]] + covalent_radii[images.numbers]
            near, far = NEAR * sums, np.minimum(FAR * sums, cutoff)
            near = np.minimum(near, far / 1.5)
            t = np.clip((images.get_all_distances()[middle + i] - near) / (far - near), 0, 1)
            weight = 1 - 10 * t**3 + 15 * t**4 - 6 * t**5
            weight[middle + i] = 0.0
            own = symbols.index(atoms.symbols[i])
            excess = [
                weight[images.symbols == symbol].sum() / max(trained[own, k] / MARGIN, FEW)
                for k, symbol in enumerate(symbols)
            ]
            assert crowding[first + i].item() == pytest.approx(max(excess))
            assert crowd[first + i] == np.argmax(excess)
        first += len(atoms)


def test_more_close_neighbours_of_an_element_than_ever_are_named(random_potential):
    potential = recorded(random_potential, crowding={"H-H": 1.0, "H-O": 2.0, "O-H": 2.0})
    assert not findings(potential, pair(0.75))
    assert not findings(potential, molecule("H2O"))
    row = Atoms("H3", [[0, 0, 0], [0.78, 0, 0], [1.56, 0, 0]])
    (found,) = findings(potential, row)
    assert (found.kind, found.atoms) == ("crowding", (1,))
    assert found.value == pytest.approx(2.0) and found.threshold == pytest.approx(1 / MARGIN)
    assert str(found) == "H1 has 2 close H neighbours, accepted 1.05"
    assert not findings(potential, Atoms("H3", [[0, 0, 0], [0.78, 0, 0], [3.0, 0, 0]]))
    (found,) = findings(potential, pair(1.0, "PdH"))[-1:]
    assert found.kind == "distance"  # a pair without a limit


def test_reach_of_close_neighbours_is_within_the_cutoff():
    near, far = close_reach(("H", "Ag"), 4.5)
    h, ag = covalent_radii[[1, 47]]
    assert near[0, 0] == pytest.approx(2 * NEAR * h) and far[0, 0] == pytest.approx(2 * FAR * h)
    assert far[1, 1] == 4.5 and near[1, 1] == pytest.approx(3.0)
    assert 3.0 < 2 * NEAR * ag


def test_the_worst_value_of_a_run_is_kept_also_inside(random_potential):
    potential = recorded(random_potential)
    for distance in (1.0, 0.75, 0.9):
        potential.evaluate([pair(distance)])
    worst = potential.watch.summary()["worst"]["distance"]
    assert worst["value"] == pytest.approx(0.75) and worst["atoms"] == ["H0", "H1"]
    assert potential.watch.n_outside == 0 and "all 3 structures are inside" in (
        potential.watch.verdict()
    )
    json.dumps(potential.watch.summary())
    potential.watch.reset()
    assert not potential.watch.worst


@pytest.mark.parametrize("policy", ["warn", "raise", "ignore"])
def test_calculator(random_potential, policy):
    atoms = pair(0.5)
    atoms.calc = NEMP(recorded(random_potential), on_extrapolation=policy)
    if policy == "raise":
        with pytest.raises(CalculationFailed, match="outside"):
            atoms.get_forces()
    elif policy == "warn":
        with pytest.warns(ExtrapolationWarning, match="outside"):
            atoms.get_forces()
    else:
        atoms.get_forces()
    with pytest.raises(InputError, match="on_extrapolation"):
        NEMP(recorded(random_potential), on_extrapolation="never")


def test_ipi_client_refuses_to_answer(random_potential):
    potential = recorded(random_potential)
    potential.watch.policy = "raise"
    evaluator = BeadEvaluator(potential, pair(0.8))
    inside = Frame(np.eye(3), pair(0.8).positions)
    assert len(evaluator.evaluate([inside])) == 1
    with pytest.raises(ExtrapolationError):
        evaluator.evaluate([inside, Frame(np.eye(3), pair(0.5).positions)])


# --- record, reports, the command


def labelled(atoms):
    return LabelledFrame(atoms, 0.0, np.zeros((len(atoms), 3)), None, "all", "g", "default")


def test_dimers_do_not_widen_the_accepted_uncertainties(random_potential, methanol):
    potential = random_potential("smooth", n_members=4)
    frames = [labelled(atoms) for atoms in (pair(0.7, "OH"), methanol, Atoms("H"))]
    seen = [predict({"default": potential}, frames)]
    seen[0].energy_std[0], seen[0].energies_std[0] = 5.0, np.full(2, 5.0)
    largest = domain_record(potential, frames, seen)["largest_std"]
    assert largest["energy_std"] == pytest.approx(seen[0].energy_std[1] / len(methanol))
    assert largest["atom_std"] == pytest.approx(seen[0].energies_std[1].max())
    alone = [predict({"default": potential}, frames[:1])]
    largest = domain_record(potential, frames[:1], alone)["largest_std"]
    assert largest["energy_std"] == pytest.approx(alone[0].energy_std[0] / 2)


def test_record_of_the_training_frames(random_potential, tmp_path):
    potential = random_potential("smooth", n_members=4)
    near, far_apart = pair(0.8, "OH"), pair(1.3, "OH")
    frames = [labelled(atoms) for atoms in (near, far_apart, Atoms("H"))]
    seen = [predict({"default": potential}, frames)]
    record = domain_record(potential, frames, seen)
    assert record["shortest_distance_A"] == pytest.approx({"H-O": 0.8})
    x = 0.8 / potential.cutoff_angstrom
    largest = (1 - 28 * x**6 + 48 * x**7 - 21 * x**8) ** 2
    assert record["coordination"]["H"] == pytest.approx([0.0, largest])
    reach = sum(covalent_radii[[1, 8]])
    t = (0.8 / reach - NEAR) / (FAR - NEAR)
    assert t < 0 and record["crowding"]["H-O"] == record["crowding"]["O-H"] == 1.0
    assert record["crowding"]["H-H"] == record["crowding"]["O-O"] == 0.0
    assert record["largest_std"]["force_std"] == pytest.approx(
        max(np.linalg.norm(f, axis=1).max() for f in seen[0].forces_std)
    )
    metadata = PotentialMetadata(heads={"default": {"domain": record}})
    path = save_potential(potential.model, metadata, tmp_path / "p.pt")
    loaded = load_potential(path, "cpu", on_extrapolation="raise")
    assert loaded.domain.not_recorded == ()
    loaded.evaluate([f.atoms for f in frames], uncertainty=True)
    with pytest.raises(ExtrapolationError, match="0.7 Å"):
        loaded.evaluate([pair(0.7, "OH")])


def test_report_opens_with_what_is_outside(random_potential):
    potential = recorded(random_potential)
    plain = Report("title", "E = 1 eV.", ())
    good = with_domain(plain, potential, [pair(0.8)])
    assert good.verdict == plain.verdict and good.data["domain"]["outside_at_end"] == 0
    bad = with_domain(plain, potential, [pair(0.8), pair(0.5)])
    assert bad.verdict.startswith("OUTSIDE THE TRAINED DOMAIN")
    assert "0.5 Å" in bad.notes[0] and bad.data["domain"]["outside_at_end"] == 1
    potential.watch.policy = "ignore"
    assert with_domain(plain, potential, [pair(0.5)]).verdict == plain.verdict
    potential.watch.policy = "raise"
    with pytest.raises(ExtrapolationError):
        with_domain(plain, potential, [pair(0.5)])
    assert with_domain(plain, object(), [pair(0.5)]) == plain


def test_lone_water_is_outside_the_potential_of_the_liquid():
    """Predicted force errors of 20 eV/Å must not pass with a note."""
    potential = load_potential("water.pt", "cpu", on_extrapolation="raise")
    with pytest.raises(ExtrapolationError, match="energy is uncertain"):
        potential.evaluate([molecule("H2O")])


def test_check_prints_a_verdict_for_each_frame(tmp_path):
    inside, outside = tmp_path / "inside.xyz", tmp_path / "outside.xyz"
    ase.io.write(inside, bulk("Pd", a=3.95, cubic=True), format="extxyz")
    ase.io.write(outside, [bulk("Pd", a=3.95), Atoms("H2", [[0, 0, 0], [0, 0, 0.3]])])
    good = CliRunner().invoke(app, ["check", "pdh", str(inside), "--device", "cpu"])
    assert good.exit_code == 0 and "0 Pd4: inside" in good.output
    assert "all 1 structures are inside what pdh.pt was trained on" in good.output
    bad = CliRunner().invoke(app, ["check", "pdh", str(outside), "--device", "cpu"])
    assert bad.exit_code == 1
    assert "1 H2: OUTSIDE: H0 and H1 are 0.3 Å apart" in bad.output
