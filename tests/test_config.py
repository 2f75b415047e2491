"""ModelConfig: refusals by name, plain-value round trip, and that every documented form runs."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from nemp_sim.config import MLPShape, ModelConfig, to_atomic_numbers
from nemp_sim.errors import InputError
from nemp_sim.training.config import DataConfig, TrainConfig

BAD_VALUES = [
    ("elements", ()),
    ("elements", "H"),
    ("elements", ("H", "Xx")),
    ("elements", ("H", 1)),
    ("elements", (0,)),
    ("elements", (119,)),
    ("elements", (1.0,)),
    ("elements", (True,)),
    ("cutoff_angstrom", 0.0),
    ("cutoff_angstrom", -5.0),
    ("cutoff_angstrom", float("nan")),
    ("cutoff_angstrom", float("inf")),
    ("cutoff_angstrom", "5"),
    ("max_l", -1),
    ("max_l", 5),
    ("max_l", 2.5),
    ("max_l", None),
    ("pmax_l", -1),
    ("pmax_l", 3),
    ("n_channels", 0),
    ("n_channels", 1.5),
    ("n_radial", 0),
    ("n_message_passing", 0),
    ("n_pair_code", 0),
    ("envelope_power", 1.0),
    ("envelope_power", float("nan")),
    ("radial_mlp", 64),
    ("message_mlp", "wide"),
    ("use_norm", "no"),
    ("zbl", 1),
    ("zbl_reach", "far"),
    ("energy_scale_eV", 0.0),
    ("energy_scale_eV", float("inf")),
    ("form", "rough"),
    ("species_code", "one-hot"),
    ("output_bias", True),
    ("heads", ()),
    ("heads", "pbe"),
    ("heads", ("pbe", "pbe")),
    ("heads", ("pbe.0",)),
    ("heads", ("",)),
    ("heads", ("größe",)),
    ("heads", (1,)),
]
BAD_TRAINING = [
    ("epochs", 0),
    ("batch_size", 0),
    ("validate_every", 0),
    ("time_limit_s", -1.0),
    ("energy_weight", 0.0),
    ("final_energy_weight", 0.0),
    ("force_weight", -1.0),
    ("amsgrad", 1),
    ("n_members", 1),
    ("n_members", -2),
    ("freeze_features", True),  # without start_from
    ("compile", "yes"),
    ("ema_decay", 1.0),
    ("clip_norm", 0.0),
]
BAD_SHAPES = [
    ({"n_blocks": -1}, "n_blocks"),
    ({"n_blocks": 1.5}, "n_blocks"),
    ({"width": 0}, "width"),
    ({"width": "64"}, "width"),
    ({"layers_per_block": 0}, "layers_per_block"),
    ({"linear": "no"}, "linear"),
]
LINEAR = MLPShape(linear=True)
DOCUMENTED = {
    "defaults": {},
    "max_l 0": {"max_l": 0, "pmax_l": 0},
    "max_l 1": {"max_l": 1, "pmax_l": 0},
    "max_l 2": {"max_l": 2, "pmax_l": 1},
    "max_l 3": {"max_l": 3, "pmax_l": 2},
    "max_l 4": {"max_l": 4, "pmax_l": 4},
    "one step": {"n_message_passing": 1},
    "three steps": {"n_message_passing": 3},
    "linear networks": {"radial_mlp": LINEAR, "message_mlp": LINEAR, "output_mlp": LINEAR},
    "linear embedding": {"embedding_mlp": LINEAR},
    "no blocks": {"message_mlp": MLPShape(n_blocks=0, width=6)},
    "two blocks": {"radial_mlp": MLPShape(2, 6, 2), "message_mlp": MLPShape(2, 6, 2)},
    "numbers as code": {"species_code": "atomic_number"},
    "table as code": {"species_code": "table"},
    "no norm": {"use_norm": False},
    "zbl": {"zbl": True},
    "envelope": {"envelope_power": 2.5},
    "two heads": {"heads": ("pbe", "rpbe_d3")},
    "one element, one channel": {"n_channels": 1, "n_radial": 1, "n_pair_code": 1},
}


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_bad_value_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=rf"{name} is .*must be"):
        ModelConfig(**{"elements": (1, 8)} | {name: value})


@pytest.mark.parametrize(("name", "value"), BAD_TRAINING)
def test_bad_training_setting_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=rf"{name} is .*must be"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("train", ()), ("validation_fraction", 1.0), ("max_force_eV_per_A", -1.0)],
)
def test_bad_data_setting_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=rf"data\.{name} is .*must be"):
        DataConfig(**{"train": ("x.xyz",)} | {name: value})


@pytest.mark.parametrize(("values", "name"), BAD_SHAPES)
def test_bad_mlp_shape_is_refused_by_name(values, name):
    with pytest.raises(InputError, match=rf"{name} is .*must be"):
        MLPShape(**values)


@pytest.mark.parametrize("form", ["smooth", "published"])
@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_form_runs(name, form, random_potential, structures):
    potential = random_potential(form, **DOCUMENTED[name])
    assert potential.config.form == form
    result = potential.evaluate(list(structures.values()))
    assert np.isfinite(result.energy).all()
    assert np.abs(result.forces[0]).max() > 1e-6


def test_output_bias_of_the_published_form(random_potential, methanol):
    config = random_potential("published", output_bias=True).config
    assert config.output_bias
    result = random_potential("published", output_bias=True).evaluate([methanol])
    plain = random_potential("published").evaluate([methanol])
    assert np.isfinite(result.energy).all()
    assert not np.isclose(result.energy, plain.energy)


@pytest.mark.parametrize("name", [f.name for f in fields(ModelConfig) if f.name != "elements"])
def test_every_field_reaches_the_dictionary(name):
    assert name in ModelConfig(elements=(1,)).to_dict()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_plain_values_round_trip(name):
    config = ModelConfig(elements=("Pd", "H"), **DOCUMENTED[name])
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "shape",
    [[2, 32, 3, True], (2, 32, 3, True), {"n_blocks": 2, "width": 32, "layers_per_block": 3}],
)
def test_shapes_as_lists_and_tables(shape):
    config = ModelConfig.from_dict({"elements": ["H"], "message_mlp": shape})
    want = MLPShape(2, 32, 3, not isinstance(shape, dict))
    assert config.message_mlp == want


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cutof_angstrom": 5.0}, "unknown key 'cutof_angstrom'. Did you mean 'cutoff_angstrom'?"),
        ({"zzz": 1}, "unknown key 'zzz'. Known keys: elements, cutoff_angstrom"),
        ({"radial_mlp": {"widht": 3}}, "radial_mlp: unknown key 'widht'. Did you mean 'width'?"),
        ({"radial_mlp": [1, 2, 3, False, 0.5, 6]}, "radial_mlp is"),
        ({"radial_mlp": [1, 2, 3, False, 0.0]}, "MLPShape.bend is 0.0"),
        ({"radial_mlp": []}, "radial_mlp is"),
        ({"radial_mlp": 64}, "radial_mlp is"),
    ],
)
def test_bad_plain_values(values, message):
    with pytest.raises(InputError) as error:
        ModelConfig.from_dict({"elements": ["H"]} | values)
    assert message in str(error.value)


def test_repulsion_must_end_before_the_cutoff():
    """Cs–Cs reaches 4.88 Å: cut at 4 Å it would leave a step in the energy."""
    with pytest.raises(InputError, match=r"cutoff_angstrom is 4\.0.*4\.88"):
        ModelConfig(elements=("Cs", "H"), cutoff_angstrom=4.0, zbl=True)
    assert ModelConfig(elements=("Cs", "H"), cutoff_angstrom=4.9, zbl=True).zbl


def test_missing_elements():
    with pytest.raises(InputError, match="elements is None"):
        ModelConfig.from_dict({"max_l": 2})


@pytest.mark.parametrize("given", [("Pd", "H", "O"), [8, 46, 1], ("O", 1, 46)])
def test_elements_are_sorted_numbers(given):
    assert to_atomic_numbers(given) == (1, 8, 46)
    assert ModelConfig(elements=given).symbols == ("H", "O", "Pd")


def test_config_is_frozen_and_replace_checks_again():
    config = ModelConfig(elements=(1,))
    with pytest.raises(FrozenInstanceError):
        config.max_l = 3
    with pytest.raises(InputError, match="pmax_l"):
        replace(config, max_l=1)
