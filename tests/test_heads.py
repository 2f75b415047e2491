"""Several read-outs (levels of theory) in one network: evaluation, training, going on."""

import copy
import json
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from typer.testing import CliRunner

from nemp_sim import NEMP
from nemp_sim.checkpoint import load_model, load_potential, save_potential
from nemp_sim.cli import app
from nemp_sim.derivatives import differentiate
from nemp_sim.errors import InputError, UnknownElementError
from nemp_sim.graph import AtomGraph
from nemp_sim.potential import Potential, PotentialMetadata
from nemp_sim.training.data import reference_energies
from nemp_sim.training.job import Splits, read_config, read_splits
from nemp_sim.training.start import _with_elements, continued_model
from nemp_sim.training.train import train
from tests.conftest import SMALL, make_potential
from tests.training.test_data import emt_trajectory
from tests.training.test_train import MODEL, read_log

HEADS = ("pbe", "rpbe", "hse")
SHIFT_EV = {"Pd": 3.0, "H": -1.5}  # second head: labels 1.2 E + Σ shift
SCALE = 1.2
CONFIG = (
    MODEL
    + """\
{heads}
[training]
name = "heads"
epochs = {epochs}
batch_size = 4
learning_rate = {rate}
warmup_steps = 2
validate_every = 5
dtype = "float64"
device = "cpu"
n_members = 3
{training}
"""
)
SECTION = """
[heads.{head}]
train = ["{head}.xyz"]
validation_fraction = 0.3
group_by = "frame"
check_units = false
level_of_theory = "EMT {head}"
"""


@pytest.fixture(scope="module")
def network():
    """A network of three heads with different weights, its potentials by head."""
    metadata = PotentialMetadata(
        heads={
            "pbe": {"level_of_theory": "PBE", "elements": ["H", "C", "O", "Pd"]},
            "rpbe": {"level_of_theory": "RPBE+D3", "elements": ["H", "Pd"]},
        }
    )
    first = make_potential("smooth", heads=HEADS, head="pbe").model
    model = copy.deepcopy(first)
    for head in HEADS[1:]:
        other = make_potential("smooth", heads=HEADS, head=head).model
        model.readouts[head] = copy.deepcopy(other.readouts[head])
    model.config = type(model.config)(**SMALL, form="smooth", heads=HEADS)
    return model, metadata


# --- evaluation


def test_each_structure_is_read_out_by_its_head(network, slab, graph_of):
    model, metadata = network
    potentials = [Potential(model, metadata, head=head) for head in HEADS]
    graph = graph_of(potentials[0], [slab] * 4)
    graph = AtomGraph(**vars(graph) | {"head": torch.tensor([1, 0, 2, 1])})
    result = differentiate(model, graph, forces=True, stress=True)
    for place, head in enumerate([1, 0, 2, 1]):
        alone = potentials[head].evaluate([slab], stress=True)
        np.testing.assert_allclose(result.energy[place], alone.energy[0], rtol=0, atol=1e-10)
        mine = result.forces[graph.structure == place]
        np.testing.assert_allclose(mine, alone.forces[0], rtol=0, atol=1e-10)
        virial = result.virial[place].numpy().ravel()[[0, 4, 8, 5, 2, 1]] / slab.get_volume()
        np.testing.assert_allclose(virial, alone.stress[0], rtol=0, atol=1e-12)
    assert np.ptp(result.energy[:3].numpy()) > 0.1


def test_first_head_is_the_default_and_the_network_stays_whole(network):
    model, metadata = network
    assert Potential(model, metadata).head == "pbe"
    potential = Potential(model, metadata, head="hse")
    assert potential.heads == HEADS and potential.config.heads == ("hse",)
    assert tuple(model.readouts) == model.config.heads == HEADS
    assert potential.level_of_theory == "not stated"
    assert Potential(model, metadata, head="rpbe").level_of_theory == "RPBE+D3"


@pytest.mark.parametrize("head", ["pbe0", "PBE", "", "0"])
def test_unknown_head_is_refused_with_the_names(network, head):
    with pytest.raises(InputError, match=rf"head is '{head}'.*one of pbe, rpbe, hse"):
        Potential(*network, head=head)


def test_a_head_refuses_elements_without_labels(network):
    model, metadata = network
    potential = Potential(model, metadata, head="rpbe")
    assert potential.elements == ("H", "Pd") and set(potential.reference_energies_eV) == {"H", "Pd"}
    assert np.isfinite(potential.evaluate([Atoms("PdH", [[0, 0, 0], [0, 0, 1.7]])]).energy).all()
    with pytest.raises(UnknownElementError, match="contains C, O.*knows only H, Pd"):
        potential.evaluate([Atoms("COH", [[0, 0, 0], [0, 0, 1.1], [0, 0, 2.2]])])
    assert Potential(model, metadata, head="hse").elements == ("H", "C", "O", "Pd")


def test_file_and_calculator_know_all_heads(network, tmp_path, slab):
    model, metadata = network
    path = save_potential(model, metadata, tmp_path / "three.pt")
    for head in HEADS:
        want = Potential(model, metadata, head=head).evaluate([slab])
        loaded = load_potential(path, "cpu", head=head)
        np.testing.assert_array_equal(loaded.evaluate([slab]).energy, want.energy)
        slab.calc = NEMP(path, device="cpu", head=head)
        assert slab.get_potential_energy() == want.energy[0]
    again, described = load_model(path)
    assert described == metadata
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with pytest.raises(InputError, match="one of pbe, rpbe, hse"):
        load_potential(path, "cpu", head="scan")
    with pytest.raises(InputError, match="head is 'pbe'"):
        NEMP(load_potential(path, "cpu", head="pbe"), head="pbe")
    with pytest.raises(InputError, match=r"has several.*'rpbe' \(H, Pd; RPBE\+D3\).*--head pbe"):
        NEMP(path, device="cpu")


def test_members_of_each_head_survive_the_file(network, tmp_path):
    model, metadata = copy.deepcopy(network[0]), network[1]
    width = model.readouts["rpbe"].members.shape[1]
    model.readouts["rpbe"].members = torch.randn(4, width, dtype=torch.float64)
    path = save_potential(model, metadata, tmp_path / "some.pt")
    assert [load_potential(path, "cpu", head=h).n_members for h in HEADS] == [0, 4, 0]


def test_command_line_shows_every_head(network, tmp_path, monkeypatch):
    model, metadata = network
    path = save_potential(model, metadata, tmp_path / "three.pt")
    monkeypatch.setenv("NEMP_POTENTIALS", str(tmp_path))
    environment = {"COLUMNS": "250"}
    shown = CliRunner().invoke(app, ["info", str(path)], env=environment).output
    listed = CliRunner().invoke(app, ["list"], env=environment).output
    for text in ("pbe: level of theory", "RPBE+D3", "hse: lone atoms", "rpbe: elements"):
        assert text in shown
    rows = [line for line in listed.splitlines() if "three.pt" in line]
    assert len(rows) == 3
    assert "RPBE+D3" in rows[1] and "H, Pd" in rows[1] and "C, O" not in rows[1]
    header = json.loads(CliRunner().invoke(app, ["info", str(path), "--json"]).output)
    assert header["model"]["heads"] == list(HEADS)
    assert set(header["reference_energies_eV"]["rpbe"]) == {"H", "Pd"}


# --- training


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labels of two levels of theory for the same structures, and a third one of Pd alone."""
    path = tmp_path_factory.mktemp("heads")
    frames = emt_trajectory(6)
    ase.io.write(path / "first.xyz", frames, format="extxyz")
    for atoms in frames:
        shift = sum(SHIFT_EV[s] for s in atoms.symbols)
        atoms.info["REF_energy"] = SCALE * atoms.info["REF_energy"] + shift
        atoms.arrays["REF_forces"] *= SCALE
    ase.io.write(path / "second.xyz", frames, format="extxyz")
    pure = [atoms for atoms in emt_trajectory(6, seed=3) if "H" not in atoms.symbols]
    ase.io.write(path / "third.xyz", pure, format="extxyz")
    return path


def write_config(folder, name, heads, epochs=4, rate=0.02, training=""):
    sections = "".join(SECTION.format(head=head) for head in heads)
    text = CONFIG.format(heads=sections, epochs=epochs, rate=rate, training=training)
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def state_of(result, *prefixes):
    model, _ = load_model(result.directory / "heads.pt")
    return {k: v for k, v in model.state_dict().items() if k.startswith(prefixes)}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.fixture(scope="module")
def both(folder):
    """Trained on two heads."""
    return train(write_config(folder, "both", ("first", "second"), epochs=50), folder / "both")


def test_training_learns_both_heads(both):
    rows = {row.head: row for row in both.errors["train"] if row.config_type == "all"}
    rms = np.sqrt(
        np.mean(np.concatenate([f.forces.ravel() for f in both.splits.train if len(f.atoms) > 1])
                ** 2)
    )  # fmt: skip
    for head in ("first", "second"):
        assert rows[head].force_rmse_meV_per_A < 0.45e3 * rms
    log = read_log(both.directory)
    assert float(log[-1]["train_force_rmse_eV_per_A"]) < 0.6 * float(
        log[0]["train_force_rmse_eV_per_A"]
    )


def test_heads_differ_as_their_labels_do(both):
    """Forces of the second head are 1.2 times those of the first one."""
    path = both.directory / "heads.pt"
    first, second = (load_potential(path, "cpu", head=h) for h in ("first", "second"))
    batch = [f.atoms for f in both.splits.train if f.head == "first" and len(f.atoms) > 1]
    a, b = (np.concatenate(p.evaluate(batch).forces).ravel() for p in (first, second))
    assert (a @ b) / (a @ a) == pytest.approx(SCALE, abs=0.15)


def test_reference_energies_are_those_of_each_head(both):
    path = both.directory / "heads.pt"
    for head in ("first", "second"):
        potential = load_potential(path, "cpu", head=head)
        lone = [f for f in both.splits.train if f.head == head and len(f.atoms) == 1]
        assert len(lone) == 2
        for frame in lone:
            symbol = frame.atoms.symbols[0]
            assert potential.reference_energies_eV[symbol] == pytest.approx(frame.energy, abs=1e-9)
            assert potential.evaluate([frame.atoms]).energy[0] == pytest.approx(frame.energy)
    levels = [load_potential(path, "cpu", head=h).level_of_theory for h in ("first", "second")]
    assert levels == ["EMT first", "EMT second"]


def test_each_head_has_its_own_members_and_errors(both):
    model, metadata = load_model(both.directory / "heads.pt")
    members = [readout.members for readout in model.readouts.values()]
    assert [len(m) for m in members] == [3, 3] and not torch.equal(*members)
    assert set(both.calibrations) == set(metadata.training["uncertainties"]) == {"first", "second"}
    assert {row["head"] for row in metadata.errors["validation"]} == {"first", "second"}
    report = (both.directory / "report.md").read_text()
    assert "of first" in report and "of second" in report
    assert "validation, second, all" in report and "Spearman" in report
    values = json.loads((both.directory / "report.json").read_text())
    assert values["validation_second_all_force_rmse_meV_per_A"] > 0
    assert "validation_force_ratio" in values
    assert (both.directory / "reliability.png").read_bytes().startswith(b"\x89PNG")


# --- going on


def go_on(folder, both, name, heads, **options):
    start = f'start_from = "{both.directory / "heads.pt"}"\n'
    options["training"] = start + options.get("training", "")
    text = write_config(folder, name, heads, rate=0.002, **options)
    return train(text, folder / name)


def test_frozen_features_keep_the_other_heads_to_the_bit(folder, both):
    frozen = "freeze_features = true"
    result = go_on(folder, both, "frozen", ("third",), epochs=30, training=frozen)
    model, metadata = load_model(result.directory / "heads.pt")
    assert model.config.heads == ("first", "second", "third")
    assert set(metadata.heads) == {"first", "second", "third"}
    assert metadata.heads["second"]["level_of_theory"] == "EMT second"
    assert metadata.heads["third"]["elements"] == ["Pd"]
    assert [
        row["head"] for row in metadata.errors["validation"] if row["config_type"] == "all"
    ] == [*("first", "second", "third")]
    old, new = state_of(both, ""), state_of(result, "")
    assert same(old, {k: v for k, v in new.items() if not k.startswith("readouts.third.")})
    untouched = [f.atoms for f in both.splits.train[:4]]
    path = both.directory / "heads.pt", result.directory / "heads.pt"
    a, b = (load_potential(p, "cpu", head="second") for p in path)
    np.testing.assert_array_equal(a.evaluate(untouched).energy, b.evaluate(untouched).energy)
    log = read_log(result.directory)
    name = "train_force_rmse_eV_per_A"
    assert float(log[-1][name]) < float(log[0][name])
    assert not torch.equal(
        model.readouts["third"].output_mlp.output_layer.kernel,
        model.readouts["first"].output_mlp.output_layer.kernel,
    )


def test_a_head_without_data_is_dropped_where_features_move(folder, both):
    result = go_on(folder, both, "dropped", ("second", "third"), epochs=5)
    model, metadata = load_model(result.directory / "heads.pt")
    assert model.config.heads == ("second", "third")
    assert set(metadata.heads) == {"second", "third"}
    assert not same(state_of(both, "species_mix"), state_of(result, "species_mix"))


def test_elements_that_no_head_holds_are_left_out(folder, both):
    """A head of Pd alone: the network of H and Pd without H, which is the same for Pd."""
    result = go_on(folder, both, "smaller", ("third",), epochs=1)
    model, _ = load_model(result.directory / "heads.pt")
    assert model.config.symbols == ("Pd",) and len(model.species_mix) == 1


@pytest.mark.parametrize("options", [{}, {"zbl": True}], ids=str)
@pytest.mark.parametrize("form", ["smooth", "published"])
def test_fewer_elements_give_the_same_numbers(form, options, random_potential, rng):
    whole = random_potential(form, n_members=3, **options)
    kept = sorted(whole.config.symbols)[:2]
    smaller = Potential(_with_elements(whole.model, {*kept}))
    batch = [
        Atoms(rng.choice(kept, 7), 1.5 * rng.random((7, 3)) + np.arange(7)[:, None]) for _ in "abc"
    ]
    ours, theirs = (p.evaluate(batch, uncertainty=True) for p in (smaller, whole))
    assert {*smaller.config.symbols} == {*kept} < {*whole.config.symbols}
    np.testing.assert_allclose(ours.energy, theirs.energy, rtol=0, atol=1e-10)
    for name in ("forces", "forces_std"):
        for mine, other in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-10)


def test_replay_keeps_both(folder, both):
    result = go_on(folder, both, "replay", ("first", "second", "third"), epochs=10)
    model, _ = load_model(result.directory / "heads.pt")
    assert model.config.heads == ("first", "second", "third")
    rows = [
        {row.head: row for row in r.errors["train"] if row.config_type == "all"}
        for r in (both, result)
    ]
    for head in ("first", "second"):  # as good as before, or nearly
        before, after = (r[head].force_rmse_meV_per_A for r in rows)
        assert after < 1.2 * before


def test_a_head_that_goes_on_keeps_its_reference_energies(folder, both):
    result = go_on(folder, both, "on", ("second",), epochs=5)
    name = "readouts.second.reference_energies"
    assert same(state_of(both, name), state_of(result, name))


def test_frozen_head_that_has_data_moves_alone(folder, both):
    frozen = "freeze_features = true"
    result = go_on(folder, both, "alone", ("second",), epochs=5, training=frozen)
    kept = state_of(both, "readouts.first."), state_of(result, "readouts.first.")
    assert same(*kept)
    moved = state_of(both, "readouts.second."), state_of(result, "readouts.second.")
    assert not same(*moved)


def test_no_epochs_fit_the_uncertainties_alone(folder, both):
    """Another draw of members: the same weights, another ensemble, and no curves of a training."""
    frozen = "freeze_features = true\nseed = 3"
    result = go_on(folder, both, "anew", ("second",), epochs=0, training=frozen)
    old, new = (load_model(r.directory / "heads.pt")[0].state_dict() for r in (both, result))
    fitted = {f"readouts.second.{name}" for name in ("members", "force_calibration")}
    assert {name for name, value in old.items() if not torch.equal(value, new[name])} == fitted
    assert result.epochs == 0 and set(result.calibrations) == {"second"}
    assert not [name for name in ("log.csv", "learning.png") if (result.directory / name).exists()]
    assert "learning.png" not in (result.directory / "report.md").read_text()
    with pytest.raises(InputError, match="epochs is 0.*freeze_features"):
        go_on(folder, both, "moving", ("second",), epochs=0)


def test_command_line_goes_on_from_a_potential(folder, both):
    config = write_config(folder, "from", ("third",), epochs=2)
    start = both.directory / "heads.pt"
    arguments = ["train", str(config), "--out", str(folder / "from"), "--from", str(start)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    potential = load_potential(folder / "from" / "heads.pt", "cpu")
    assert potential.heads == ("third",)
    assert potential.metadata.training["start_sha256"] == both.potential.sha256
    missing = CliRunner().invoke(app, [*arguments[:-1], str(folder / "none.pt")])
    assert missing.exit_code == 2 and "not found" in missing.output


def test_elements_that_the_start_does_not_know_are_refused(folder, both):
    frames = [atoms.copy() for atoms in ase.io.read(folder / "first.xyz", ":")]
    for atoms in frames:
        atoms.symbols[0] = "Ag"
    ase.io.write(folder / "silver.xyz", frames, format="extxyz")
    with pytest.raises(InputError, match=r"\['Ag'\], which .* does not know"):
        go_on(folder, both, "silver", ("silver",))


def test_a_new_head_starts_where_its_labels_are(folder, both):
    """On shifted labels the copied head is off by eV before, and by what the copy misses after."""
    job = read_config(write_config(folder, "third_level", ("second",)))
    shifted = [
        replace(
            f, head="third", energy=f.energy + 7.5 * f.atoms.symbols.count("H") - 2.0 * len(f.atoms)
        )
        for f in read_splits(job.heads, False).train
    ]
    splits = Splits(shifted, [], [])
    references = {"third": reference_energies(shifted, {})}
    config = replace(job.training, start_from=str(both.directory / "heads.pt"))
    model, _ = continued_model({}, splits, references, config)
    potential = Potential(model, head="third")
    many = [f for f in shifted if len(f.atoms) > 1]
    energy = potential.evaluate([f.atoms for f in many], forces=False).energy
    error = np.array([(e - f.energy) / len(f.atoms) for e, f in zip(energy, many, strict=True)])
    source = Potential(load_model(both.directory / "heads.pt")[0], head="first")
    raw = source.evaluate([f.atoms for f in many], forces=False).energy
    own = np.array([(e - f.energy) / len(f.atoms) for e, f in zip(raw, many, strict=True)])
    assert np.abs(own).mean() > 1.0
    assert np.abs(error).mean() < 0.3 * np.std(own) + 0.05
    for f in shifted:  # lone atoms are met exactly
        if len(f.atoms) == 1:
            assert potential.evaluate([f.atoms]).energy[0] == pytest.approx(f.energy, abs=1e-9)
