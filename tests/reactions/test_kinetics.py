import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.units import _hplanck, _k, invcm, kB
from scipy.integrate import solve_ivp

from nemp_sim.errors import InputError
from nemp_sim.reactions.kinetics import (
    _eckart_transmission,
    arrhenius,
    crossover_temperature_K,
    eckart,
    harmonic_free_energy_eV,
    hindered_free_energy_eV,
    ideal_gas_free_energy_eV,
    rates,
    wigner,
)
from nemp_sim.vibrations import Vibrations

# Table 1 of H. S. Johnston and J. Heicklen, J. Phys. Chem. 66, 532 (1962): Γ* for u* = 2 … 16.
U = (2, 3, 4, 5, 6, 8, 10, 12, 16)
TABLE = {
    (0.5, 0.5): (1.16, 1.25, 1.34, 1.44, 1.55, 1.80, 2.09, 2.42, 3.26),
    (0.5, 4): (1.04, 1.07, 1.11, 1.16, 1.22, 1.35, 1.50, 1.69, 2.16),
    (1, 1): (1.27, 1.43, 1.62, 1.83, 2.09, 2.72, 3.56, 4.68, 8.19),
    (1, 20): (1.03, 1.08, 1.16, 1.26, 1.39, 1.70, 2.14, 2.72, 4.52),
    (2, 2): (1.32, 1.58, 1.91, 2.34, 2.90, 4.55, 7.34, 12.1, 34.0),
    (2, 20): (1.12, 1.27, 1.47, 1.74, 2.10, 3.18, 5.03, 8.22, 23.3),
    (4, 8): (1.25, 1.51, 1.93, 2.56, 3.56, 7.57, 18.0, 46.7, 376),
    (8, 8): (1.24, 1.56, 2.04, 2.94, 4.54, 13.8, 57.0, 307),
    (12, 20): (1.2, 1.5, 2.1, 3.1, 5.4, 26, 246, 3920),
}


@pytest.mark.parametrize("alphas", TABLE)
def test_eckart_against_the_published_table(alphas):
    kt = 0.025
    for u, value in zip(U, TABLE[alphas], strict=False):
        quantum = u * kt  # ħω‡
        heights = [alpha * quantum / (2 * np.pi) for alpha in alphas]
        assert eckart(quantum, *heights, kt / kB) == pytest.approx(value, rel=0.021)


def test_transmission_against_the_schroedinger_equation():
    """Symmetric barrier V / cosh² x with ħ = m = 1: the wave is integrated from right to left."""
    height, k = 3.0, 1.7
    quantum = np.sqrt(2 * height)  # ħω‡, curvature 2 V
    alpha = 2 * np.pi * height / quantum

    def schroedinger(x, psi):
        return [psi[1], 2 * (height / np.cosh(x) ** 2 - 0.5 * k**2) * psi[0]]

    end = 14.0
    start = np.exp(1j * k * end)
    run = solve_ivp(schroedinger, (end, -end), [start, 1j * k * start], rtol=1e-10, atol=1e-12)
    value, slope = run.y[:, -1]
    incoming = 0.5 * (value + slope / (1j * k))
    expected = 1 / abs(incoming) ** 2
    assert 1e-4 < expected < 0.9
    got = _eckart_transmission(alpha, alpha, 0.5 * k**2 / height)
    assert got == pytest.approx(expected, rel=1e-5)


def test_limits_of_tunnelling():
    quantum, hot = 0.1, 20000.0
    assert eckart(quantum, 3.0, 3.0, hot) == pytest.approx(wigner(quantum, hot), rel=2e-3)
    u = 4.0  # high barrier: the parabola (u/2) / sin(u/2)
    t = quantum / (u * kB)
    assert eckart(quantum, 20.0, 20.0, t) == pytest.approx(2 / np.sin(2), rel=0.02)
    same = eckart(quantum, 0.4, 0.3, 200), eckart(quantum, 0.3, 0.4, 200)
    assert same[0] == pytest.approx(same[1], rel=1e-6)  # detailed balance
    assert wigner(1218 * invcm, 300) == pytest.approx(2.42, abs=0.01)  # published: 2.4
    assert eckart(0.1, 0.3, 0.3, 20.0) > 1e10  # no overflow in the cold


def test_crossover_temperature():
    assert crossover_temperature_K(1000 * invcm) == pytest.approx(229.0, abs=0.1)  # 0.229 K cm


def modes(*energies, indices=(0,)):
    n = len(energies)
    return Vibrations(
        Atoms("H" * len(indices)),
        np.array(indices),
        np.zeros((n, n)),
        0.0,
        np.array(energies),
        np.zeros((n, len(indices), 3)),
        0,
        "nothing",
        "differences",
    )


HERE, TOP, THERE = modes(0.06, 0.07, 0.11), modes(-0.08, 0.09, 0.12), modes(0.05, 0.07, 0.1)


def test_classical_rate_is_that_of_vineyard():
    found = rates(HERE, TOP, THERE, (0.0, 0.2, 0.05), [150, 300, 1000])
    frequency = 0.06 * 0.07 * 0.11 / (0.09 * 0.12) / (_hplanck / 1.602176634e-19)
    expected = frequency * np.exp(-0.2 / (kB * found.temperature_K))
    np.testing.assert_allclose(found.rate_per_s["classical"], expected, rtol=1e-6)
    energy, prefactor = arrhenius(found.temperature_K, found.rate_per_s["classical"])
    assert energy == pytest.approx(0.2) and prefactor == pytest.approx(frequency, rel=1e-6)


def test_quantum_rate_from_partition_functions():
    t = 250.0
    found = rates(HERE, TOP, THERE, (0.0, 0.2, 0.05), [t])

    def partition(energies):
        x = np.array(energies) / (kB * t)
        return np.prod(np.exp(-x / 2) / (1 - np.exp(-x)))

    ratio = partition([0.09, 0.12]) / partition([0.06, 0.07, 0.11])
    expected = _k * t / _hplanck * ratio * np.exp(-0.2 / (kB * t))
    assert found.rate_per_s["quantum"][0] == pytest.approx(expected, rel=1e-6)
    assert found.zero_point_barrier_eV == pytest.approx(0.2 + 0.105 - 0.12)
    assert found.reverse_zero_point_barrier_eV == pytest.approx(0.15 + 0.105 - 0.11)
    ratio = found.rate_per_s["wigner"][0] / found.rate_per_s["quantum"][0]
    assert ratio == pytest.approx(wigner(0.08, t))
    ratio = found.rate_per_s["eckart"][0] / found.rate_per_s["quantum"][0]
    assert ratio == pytest.approx(eckart(0.08, 0.185, 0.145, t))


def test_quantum_is_classical_in_the_heat():
    found = rates(HERE, TOP, THERE, (0.0, 0.2, 0.05), [20000])
    for name in ("quantum", "wigner", "eckart"):
        assert found.rate_per_s[name][0] == pytest.approx(
            found.rate_per_s["classical"][0], rel=0.01
        )


def test_wigner_is_no_headline_in_the_cold():
    found = rates(HERE, TOP, THERE, (0.0, 0.2, 0.05), [100, 300])
    assert found.crossover_K == pytest.approx(0.08 / (2 * np.pi * kB))  # 148 K
    assert [found.headline(t) for t in (100, 180, 300)] == ["eckart", "eckart", "wigner"]
    assert "instanton" in found.remark(100) and "near" in found.remark(180)
    assert found.remark(300) == ""


def test_free_energies_of_ase():
    water = molecule("H2O")
    nu = np.array([1595, 3657, 3756]) * invcm
    gas = Vibrations(
        water, np.arange(3), np.zeros((9, 9)), 0.0, nu, np.zeros((3, 3, 3)), 6, "molecule", ""
    )
    g = ideal_gas_free_energy_eV(gas, 298.15, 1e5, symmetry_number=2)
    entropy = 188.84e-3 / 96.485  # NIST, eV/K at 1 bar
    enthalpy = nu.sum() / 2 + 4 * kB * 298.15
    assert g == pytest.approx(enthalpy - 298.15 * entropy, abs=2e-3)
    with pytest.raises(InputError, match="rigid is 'nothing'"):
        ideal_gas_free_energy_eV(HERE, 300, 1e5)


def test_hindered_hops_are_harmonic_behind_high_walls():
    """W = 1 eV: ν = √(W / 2ma²) of each translation and (1/2π) √(n²W / 2I) of the rotation."""
    carbon_monoxide = molecule("CO")
    carbon_monoxide.rotate(90, "x")  # flat, turning about z
    density, wall = 1.5e15, 1.0
    ev, amu = 1.602176634e-19, 1.66053906660e-27
    translation = np.sqrt(wall * ev / (2 * 28.01 * amu / (density * 1e4)))
    reduced = 12.011 * 15.999 / 28.01 * amu
    inertia = reduced * (carbon_monoxide.get_distance(0, 1) * 1e-10) ** 2
    rotation = np.sqrt(wall * ev / (2 * inertia)) / (2 * np.pi)
    soft = np.array([translation, translation, rotation]) * _hplanck / ev
    hard = [0.05, 0.06, 0.2]
    adsorbed = modes(0.005, 0.006, 0.007, *hard)
    hindered = hindered_free_energy_eV(adsorbed, 300, wall, wall, density, carbon_monoxide)
    expected = harmonic_free_energy_eV(np.array([*soft, *hard]), 300)
    per_area = np.exp(1 / 3) * (1e5 / (_k * 300)) ** (2 / 3)  # ASE's standard state
    expected -= 300 * kB * (1 - np.log(per_area / (density * 1e4)))
    assert hindered == pytest.approx(expected, abs=2e-3)


def test_isotope_effect_grows_in_the_cold():
    light = rates(HERE, TOP, THERE, (0, 0.2, 0.05), [150, 600]).rate_per_s["eckart"]
    heavy_modes = [modes(*(np.array(m.energies_eV) / np.sqrt(2))) for m in (HERE, TOP, THERE)]
    heavy = rates(*heavy_modes, (0, 0.2, 0.05), [150, 600]).rate_per_s["eckart"]
    ratio = light / heavy
    assert ratio[0] > ratio[1] > 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TOP, TOP, THERE), "initial: 1 imaginary modes, but a minimum has none"),
        ((HERE, HERE, THERE), "saddle: 0 imaginary modes, but a saddle has one"),
        ((HERE, TOP, modes(0.1, 0.1, 0.1, indices=(1,))), r"final.indices is \[1\]"),
    ],
)
def test_modes_of_something_else_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        rates(*arguments, (0, 0.2, 0.05), [300])


def test_unusable_numbers_are_refused():
    with pytest.raises(InputError, match="temperatures is"):
        rates(HERE, TOP, THERE, (0, 0.2, 0.05), [0])
    with pytest.raises(InputError, match="barriers is"):
        rates(HERE, TOP, THERE, (0, 0.2, 0.3), [300])
    with pytest.raises(InputError, match="forward is -1, but must be positive"):
        eckart(0.1, -1, 0.2, 300)
