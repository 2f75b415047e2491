import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.units import GPa, _Nav, kB
from ase.units import J as joule

from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.phonons.force_constants import build_phonopy, force_constants
from nemp_sim.phonons.gruneisen import DELTA, gruneisen
from nemp_sim.phonons.qha import FILES, quasi_harmonic, volume_ratios, write_qha_files
from nemp_sim.phonons.volumes import at_volumes
from tests.engines import EMTEngine, StressEMT

A_CU = 3.5901  # minimum of EMT
MESH = (10, 10, 10)
KELVIN = np.arange(0.0, 601.0, 20.0)


@pytest.fixture(scope="module")
def crystal():
    """Fcc Cu of EMT with its force constants."""
    atoms = bulk("Cu", a=A_CU)
    return atoms, force_constants(EMTEngine(), atoms, build_phonopy(atoms, (4, 4, 4)))


@pytest.fixture(scope="module")
def volumes(crystal):
    """Nine volumes, with those of the Grüneisen parameters among them."""
    ratios = np.union1d(volume_ratios((-4.0, 6.0), 7), [1 - DELTA, 1, 1 + DELTA])
    return at_volumes(EMTEngine(), *crystal, ratios)


@pytest.fixture(scope="module")
def qha(volumes):
    return quasi_harmonic(volumes, MESH, KELVIN)


def test_volumes_are_evaluated_together(crystal):
    engine = EMTEngine()
    found = at_volumes(engine, *crystal, [0.98, 1.0, 1.02])
    assert engine.batches == [3, 3] and found.model_calls == 2
    np.testing.assert_allclose(found.volumes_A3, A_CU**3 / 4 * found.ratios)
    alone = bulk("Cu", a=A_CU * 1.02 ** (1 / 3))
    want = force_constants(EMTEngine(), alone, build_phonopy(alone, (4, 4, 4)))
    got = found.constants[2].phonon.force_constants
    np.testing.assert_allclose(got, want.phonon.force_constants, atol=1e-9)
    energy = EMTEngine().evaluate([alone]).energy[0]
    assert found.energies_eV[2] == pytest.approx(energy)


def test_energies_are_of_the_primitive_cell():
    cubic = bulk("Cu", a=A_CU, cubic=True)
    base = force_constants(EMTEngine(), cubic, build_phonopy(cubic, (2, 2, 2)))
    found = at_volumes(EMTEngine(), cubic, base, [1.0])
    want = EMTEngine().evaluate([bulk("Cu", a=A_CU)]).energy[0]
    assert found.energies_eV[0] == pytest.approx(want)


def test_bulk_modulus_is_that_of_the_stress(qha):
    """Static bulk modulus against −V dp/dV of EMT's stress."""
    pressures = []
    for ratio in (0.999, 1.001):
        atoms = bulk("Cu", a=(4 * qha.static_volume_A3 * ratio) ** (1 / 3))
        stress = StressEMT().evaluate([atoms], stress=True).stress[0]
        pressures.append(-stress[:3].mean() / GPa)
    want = -(pressures[1] - pressures[0]) / 0.002
    assert qha.static_bulk_modulus_GPa == pytest.approx(want, rel=0.02)
    assert np.all(np.diff(qha.bulk_modulus_GPa) < 0)
    assert 0 < qha.misfit_meV < 1


def test_frequencies_give_the_mode_parameters(volumes):
    """Against −d ln ω / d ln V of frequencies at X, which symmetry keeps apart."""
    found = gruneisen(volumes, (2, 2, 2), [np.array([[0.5, 0, 0.5], [0.4, 0, 0.4]])])
    low, high = volumes.nearest(1 - DELTA), volumes.nearest(1 + DELTA)
    logs = [
        np.log(volumes.constants[i].phonon.run_qpoints([[0.5, 0, 0.5]]).frequencies[0])
        for i in (low, high)
    ]
    want = -(logs[1] - logs[0]) / np.log(volumes.ratios[high] / volumes.ratios[low])
    _, _, _, _, values = found.raw.get_band_structure()
    np.testing.assert_allclose(np.sort(values[0][0]), np.sort(want), rtol=2e-3)
    assert found.n_skipped == 3 and found.weights.sum() == 3 * 8 - 3


def test_mean_is_the_thermodynamic_parameter(volumes, qha):
    """Two independent ways: mode average, and α B V / C_V of the quasi-harmonic sums."""
    mean = gruneisen(volumes, MESH, [np.array([[0.1, 0, 0.1], [0.2, 0, 0.2]])]).mean(100.0)
    at = qha.temperatures_K.tolist().index(100.0)
    assert qha.gruneisen[at] == pytest.approx(mean, rel=0.05)
    assert np.isnan(qha.gruneisen[0])


def test_thermal_expansion(qha, volumes):
    """Against the volume at the minimum of a free energy summed over modes by hand."""
    kelvin = 300.0
    at = qha.temperatures_K.tolist().index(kelvin)
    free = []
    for constants, static in zip(volumes.constants, volumes.energies_eV, strict=True):
        mesh = constants.phonon.run_mesh(MESH, is_gamma_center=True)
        energy = mesh.frequencies * 4.135667e-3
        weights = np.broadcast_to(mesh.weights[:, None], energy.shape)[energy > 1e-5]
        energy = energy[energy > 1e-5]
        vibration = energy / 2 + kB * kelvin * np.log1p(-np.exp(-energy / (kB * kelvin)))
        free.append(static + weights @ vibration / mesh.weights.sum())
    fit = np.polynomial.Polynomial.fit(volumes.volumes_A3, free, 4)
    dense = np.linspace(*volumes.volumes_A3[[0, -1]], 20001)
    assert qha.volumes_A3[at] == pytest.approx(dense[fit(dense).argmin()], rel=2e-4)
    slope = np.gradient(qha.volumes_A3, qha.temperatures_K)[at] / qha.volumes_A3[at]
    assert qha.expansion_per_K[at] == pytest.approx(slope, rel=1e-3)
    assert 1e-5 < qha.expansion_per_K[at] / 3 < 3e-5  # copper: 1.65e-5


def test_heat_capacities_differ_by_the_expansion(qha, volumes):
    """C_p − C_V = α² B V T, and C_V is near 3R at 600 K."""
    at = qha.temperatures_K.tolist().index(500.0)
    per_mole = _Nav / joule
    extra = qha.expansion_per_K[at] ** 2 * qha.bulk_modulus_GPa[at] * GPa * qha.volumes_A3[at]
    want = 3 * kB * per_mole * 0.985 + extra * 500.0 * per_mole
    assert qha.heat_capacity_J_per_K_mol[at] == pytest.approx(want, rel=0.02)


def test_files_are_those_of_phonopy(qha, tmp_path):
    write_qha_files(qha.raw, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == set(FILES)
    table = np.loadtxt(tmp_path / "volume-temperature.dat")
    np.testing.assert_allclose(table[: len(qha.volumes_A3), 1], qha.volumes_A3)
    heat = np.loadtxt(tmp_path / "Cp-temperature.dat")[:, 1]
    np.testing.assert_allclose(heat, qha.heat_capacity_J_per_K_mol)


def test_temperatures_out_of_the_range_of_volumes_are_dropped(crystal):
    narrow = at_volumes(EMTEngine(), *crystal, volume_ratios((-1.0, 1.5), 5))
    found = quasi_harmonic(narrow, (6, 6, 6), np.arange(0.0, 901.0, 50.0))
    assert found.dropped_K == found.temperatures_K[-1] + 50.0 < 900.0
    assert found.volumes_A3.max() <= narrow.volumes_A3[-1]


# --- refusals


def test_imaginary_modes_are_refused():
    atoms = bulk("Cu", "bcc", a=2.86)
    base = force_constants(EMTEngine(), atoms, build_phonopy(atoms, (3, 3, 3)))
    found = at_volumes(EMTEngine(), atoms, base, volume_ratios())
    with pytest.raises(EvaluationError, match=r"at 96.0 % of the relaxed volume .* imaginary"):
        quasi_harmonic(found, (6, 6, 6), KELVIN)


def test_slabs_have_no_volume():
    slab = fcc111("Cu", (1, 1, 2), a=A_CU, vacuum=6.0)
    base = force_constants(EMTEngine(), slab, build_phonopy(slab, (2, 2, 1)))
    with pytest.raises(InputError, match="its volume means nothing"):
        at_volumes(EMTEngine(), slab, base, [1.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((-4.0, 8.0), 4), "volumes is 4, but must be 5 or more"),
        (((1.0, 8.0), 9), r"volume_range is \[1.0, 8.0\]"),
        (((-40.0, 8.0), 9), "between -25 and 40"),
    ],
)
def test_bad_volumes_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        volume_ratios(*arguments)


def test_missing_volumes_are_named(crystal):
    found = at_volumes(EMTEngine(), *crystal, [1.0])
    with pytest.raises(InputError, match=r"but \[0.99, 1.0, 1.01\] are wanted"):
        gruneisen(found, MESH, [])
    with pytest.raises(InputError, match="ratios of volumes"):
        at_volumes(EMTEngine(), *crystal, [0.1])
