import json

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io import read, write
from ase.thermochemistry import HarmonicThermo
from ase.vibrations import Vibrations

from nemp_sim.errors import InputError
from nemp_sim.workflows.vibrations import Settings, run


def test_adsorbate_modes_are_those_of_ase(emt, tmp_path):
    result = run(Settings(vibrating=(12,), fmax=1e-4, out=tmp_path), emt)
    assert result.trusted and result.directory.name == "vibrations-h-pd111"
    assert {p.name for p in result.directory.iterdir()} == set(result.report.files)
    atoms = read(result.directory / "structure.extxyz")
    assert atoms.constraints[0].index.tolist() == list(range(8))
    atoms.set_constraint()
    atoms.calc = EMT()
    job = Vibrations(atoms, [12], name=str(tmp_path / "ase"))
    job.run()
    energies = job.get_energies().real
    np.testing.assert_allclose(result.found.energies_eV, energies, rtol=1e-3)
    report = json.loads((result.directory / "report.json").read_text(encoding="utf-8"))
    assert report["zero_point_eV"] == pytest.approx(energies.sum() / 2, rel=1e-3)
    wanted = HarmonicThermo(energies).get_helmholtz_energy(300, verbose=False)
    assert report["vibrational_free_energy_eV"] == pytest.approx(wanted, rel=1e-3)
    assert report["vibrating"] == [12] and report["method"] == "differences"
    assert len(read(result.directory / "modes.extxyz", ":")) == 3 * 20
    free = atoms.cell[2, 2] - np.ptp(atoms.positions[:, 2])
    assert report["notes"][0] == (
        f"Positions were relaxed in the given cell ({free:.1f} Å of vacuum and no periodicity "
        "along the normal). Modes: harmonic, central differences of forces; 1 of 13 atoms (H) "
        "vibrates, the others are held."
    )
    assert report["fmax_eV_per_A"] <= 1e-4


def test_a_molecule_loses_translations_and_rotations_and_takes_isotopes(emt, tmp_path):
    light, heavy = (
        run(Settings("H2O", isotopes=masses, potential="emt", out=tmp_path), emt).found
        for masses in (None, "H=2.014")
    )
    assert len(light.modes) == 3 and light.n_projected == 6
    ratio = light.wavenumbers_cm1 / heavy.wavenumbers_cm1
    assert (ratio > 1.3).all() and (ratio < 2**0.5).all()


def test_what_is_no_minimum_is_refused_or_named(emt, tmp_path):
    write(tmp_path / "water.xyz", molecule("H2O"))
    given = {"structure": str(tmp_path / "water.xyz"), "potential": "emt", "out": tmp_path}
    with pytest.raises(InputError, match="not at a minimum.*--relax"):
        run(Settings(**given, relax=False), emt)
    line = molecule("H2O")
    line.positions[:] = [[0, 0, 0], [0, 0, 1.0], [0, 0, -1.0]]
    write(tmp_path / "line.xyz", line)
    given["structure"] = str(tmp_path / "line.xyz")
    result = run(Settings(**given), emt)
    assert result.found.n_imaginary == 2 and result.found.n_projected == 5
    assert not result.trusted and result.report.verdict.startswith("NO MINIMUM: 2 imaginary of 4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fmax": 0.0}, "fmax is 0.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"method": "magic"}, "method is 'magic'"),
        ({"vibrating": (99,)}, "indices is"),
        ({"structure": "H2O"}, "potential is not given"),
        ({"isotopes": "O=18"}, "isotopes is 'O=18'"),
        ({"fixed_layers": 4}, "fixed_layers is 4"),
    ],
)
def test_unusable_settings_are_refused(changes, message, tmp_path, emt):
    with pytest.raises(InputError, match=message):
        run(Settings(**changes, out=tmp_path / "results"), emt)
    assert not (tmp_path / "results").exists()
