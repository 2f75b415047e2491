"""Rate constants from a saddle: transition-state theory, zero-point energy, tunnelling.

Every rate is  k(T) = (k_B T / h) exp(−ΔA‡(T) / k_B T) · κ(T)  with, from poor to better,

- classical:  A from classical harmonic modes: k = Π ν_i / Π' ν‡_i · exp(−ΔE / k_B T) (Vineyard),
- quantum:    A from quantum harmonic modes (ASE's thermochemistry), which holds the zero-point
  energy; κ = 1,
- Wigner:     quantum, with κ = 1 + (ħω‡ / k_B T)² / 24,
- Eckart:     quantum, with κ of Eckart's asymmetric barrier of the same ω‡ and the two
  zero-point-corrected heights.

ω‡ is the imaginary frequency, and below the crossover temperature ħω‡ / 2πk_B tunnelling through
the barrier prevails: Wigner's expansion is then no approximation, and Eckart's barrier a guess.
Sources: G. H. Vineyard, J. Phys. Chem. Solids 3, 121 (1957); E. Wigner, Z. Phys. Chem. B 19, 203
(1932); C. Eckart, Phys. Rev. 35, 1303 (1930); H. S. Johnston and J. Heicklen, J. Phys. Chem. 66,
532 (1962), 10.1021/j100809a040; J. T. Fermann and S. Auerbach, J. Chem. Phys. 112, 6787 (2000).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.thermochemistry import HarmonicThermo, HinderedThermo, IdealGasThermo
from ase.units import _hplanck, _k, kB
from scipy.integrate import quad

from nemp_sim.config import require
from nemp_sim.errors import InputError
from nemp_sim.vibrations import Vibrations

WIGNER_ABOVE = 1.5  # times the crossover temperature: Wigner's κ is then within some per cent
GEOMETRIES: dict[int, Any] = {3: "monatomic", 5: "linear", 6: "nonlinear"}  # by what is left out
APPROXIMATIONS = ("classical", "quantum", "wigner", "eckart")


def crossover_temperature_K(imaginary_eV: float) -> float:  # noqa: N802 (a unit in a name)
    """T_c = ħω‡ / 2πk_B, K, of an imaginary mode of ħω‡ (eV, positive)."""
    return imaginary_eV / (2 * np.pi * kB)


def wigner(imaginary_eV: float, temperature_K: float) -> float:
    """κ = 1 + (ħω‡ / k_B T)² / 24; ħω‡ positive, eV."""
    return 1 + (imaginary_eV / (kB * temperature_K)) ** 2 / 24


def eckart(
    imaginary_eV: float, forward_eV: float, reverse_eV: float, temperature_K: float
) -> float:
    """κ of Eckart's barrier: quantum over classical flux across it.

    κ = e^{V₁/kT} ∫ P(E) e^{−E/kT} dE/kT from the higher of the two bottoms, with

    P = 1 − (cosh 2π(a−b) + cosh 2πd) / (cosh 2π(a+b) + cosh 2πd),
    2πa = 2√(α₁E/V₁)/s, 2πb = 2√(α₁(E/V₁ − 1) + α₂)/s, 2πd = 2√(α₁α₂ − π²/4),
    s = α₁^(−1/2) + α₂^(−1/2), α_i = 2πV_i/ħω‡ (here with ħω‡ = hν‡).

    Args:
        imaginary_eV: ħω‡ of the imaginary mode, positive.
        forward_eV: V₁, barrier above the initial state.
        reverse_eV: V₂, barrier above the final state.
        temperature_K: temperature.

    Raises:
        InputError: a value that is not positive: there is no barrier.
    """
    values = (imaginary_eV, forward_eV, reverse_eV, temperature_K)
    for name, value in zip(("imaginary", "forward", "reverse", "temperature"), values, strict=True):
        require(value > 0, name, value, "positive: Eckart's barrier has two sides")
    kt = kB * temperature_K
    alpha_1, alpha_2 = (2 * np.pi * v / imaginary_eV for v in (forward_eV, reverse_eV))
    lowest = max(0.0, forward_eV - reverse_eV)

    def integrand(energy: float) -> float:
        ratio = energy / forward_eV
        p = _eckart_transmission(alpha_1, alpha_2, ratio)
        return p * np.exp(min((forward_eV - energy) / kt, 700.0)) / kt

    top = forward_eV + 60 * kt + 4 * imaginary_eV
    edges = np.unique(np.clip(np.linspace(lowest, top, 41), lowest, top))
    pieces = zip(edges, edges[1:], strict=False)
    return float(sum(quad(integrand, low, high, epsrel=1e-8)[0] for low, high in pieces))


def _eckart_transmission(alpha_1: float, alpha_2: float, ratio: float) -> float:
    """P at the energy ``ratio`` · V₁; exponents are kept small by a common factor."""
    s = 1 / np.sqrt(alpha_1) + 1 / np.sqrt(alpha_2)
    a = 2 * np.sqrt(alpha_1 * ratio) / s
    b = 2 * np.sqrt(max(alpha_1 * (ratio - 1) + alpha_2, 0.0)) / s
    square = 4 * alpha_1 * alpha_2 - np.pi**2
    d = np.sqrt(abs(square))
    scale = max(a + b, d if square > 0 else 0.0)

    def cosh(x: float) -> float:
        return 0.5 * (np.exp(x - scale) + np.exp(-x - scale))

    cosh_d = cosh(d) if square > 0 else np.cos(d) * np.exp(-scale)
    up, down = cosh(a + b), cosh(a - b)
    return float((up - down) / (up + cosh_d))


def classical_free_energy_eV(energies_eV: np.ndarray, temperature_K: float) -> float:  # noqa: N802
    """Σ k_B T ln(ħω / k_B T) of classical harmonic modes, eV."""
    kt = kB * temperature_K
    return float(kt * np.log(np.asarray(energies_eV) / kt).sum())


def harmonic_free_energy_eV(energies_eV: np.ndarray, temperature_K: float) -> float:  # noqa: N802
    """Free energy of quantum harmonic modes with their zero-point energy, eV, by ASE."""
    thermo = HarmonicThermo([float(energy) for energy in energies_eV])
    return float(thermo.get_helmholtz_energy(temperature_K, verbose=False))


def ideal_gas_free_energy_eV(  # noqa: N802 (a unit in a name)
    modes: Vibrations,
    temperature_K: float,
    pressure_Pa: float,
    symmetry_number: int = 1,
    spin: float = 0.0,
) -> float:
    """Gibbs energy of a molecule of the gas above its potential energy, eV, by ASE.

    Args:
        modes: vibrations of the molecule, translations and rotations taken out.
        temperature_K: temperature.
        pressure_Pa: partial pressure.
        symmetry_number: of rotation (H2, H2O 2; CO, CH3OH 1).
        spin: total electronic spin.

    Raises:
        InputError: modes of something else, or an imaginary mode.
    """
    require(modes.rigid == "molecule", "modes.rigid", modes.rigid, "'molecule': a free one")
    require(modes.n_imaginary == 0, "modes.n_imaginary", modes.n_imaginary, "0: a minimum")
    thermo = IdealGasThermo(
        modes.real_energies_eV.tolist(),
        GEOMETRIES[modes.n_projected],
        atoms=modes.atoms,
        symmetrynumber=symmetry_number,
        spin=spin,
    )
    return float(thermo.get_gibbs_energy(temperature_K, pressure_Pa, verbose=False))


def hindered_free_energy_eV(  # noqa: N802, PLR0913 (ASE's parameters)
    modes: Vibrations,
    temperature_K: float,
    translation_barrier_eV: float,
    rotation_barrier_eV: float,
    site_density_cm2: float,
    adsorbate: Atoms,
    minima: int = 1,
    symmetry_number: int = 1,
) -> float:
    """Free energy of an adsorbate that hops and turns, above its potential energy, eV, by ASE.

    The three lowest modes are replaced by two hindered translations and one hindered rotation (L.
    H. Sprowl, C. T. Campbell and L. Árnadóttir, J. Phys. Chem. C 120, 9719 (2016)). ASE's standard
    state is in it: a concentration on the surface as in two thirds of the dimensions of a gas at
    1 bar. So compare it with gases, not with ``harmonic_free_energy_eV``.

    Args:
        modes: all modes of the adsorbate, at held metal.
        temperature_K: temperature.
        translation_barrier_eV: of hopping, without zero-point energy.
        rotation_barrier_eV: of turning about the surface normal.
        site_density_cm2: sites per cm².
        adsorbate: the adsorbed molecule alone.
        minima: of one turn.
        symmetry_number: of the turn.
    """
    require(modes.n_imaginary == 0, "modes.n_imaginary", modes.n_imaginary, "0: a minimum")
    thermo = HinderedThermo(
        modes.energies_eV,
        trans_barrier_energy=translation_barrier_eV,
        rot_barrier_energy=rotation_barrier_eV,
        sitedensity=site_density_cm2,
        rotationalminima=minima,
        symmetrynumber=symmetry_number,
        atoms=adsorbate,
    )
    return float(thermo.get_helmholtz_energy(temperature_K, verbose=False))


@dataclass(frozen=True)
class Rates:
    """Rate constants of one elementary step at n temperatures.

    Attributes:
        temperature_K: (n,).
        rate_per_s: (n,) by approximation: "classical", "quantum", "wigner", "eckart", 1/s.
        free_energy_barrier_eV: (n,) quantum harmonic ΔA‡.
        barrier_eV: saddle minus initial state, potential energy.
        zero_point_barrier_eV: the same with zero-point energies.
        reverse_zero_point_barrier_eV: saddle minus final state, with zero-point energies.
        imaginary_eV: ħω‡.
        crossover_K: crossover temperature.
    """

    temperature_K: np.ndarray
    rate_per_s: dict[str, np.ndarray]
    free_energy_barrier_eV: np.ndarray
    barrier_eV: float
    zero_point_barrier_eV: float
    reverse_zero_point_barrier_eV: float
    imaginary_eV: float
    crossover_K: float

    def headline(self, temperature_K: float) -> str:
        """The approximation to be quoted at a temperature, below the crossover Eckart's at best."""
        return "wigner" if temperature_K >= WIGNER_ABOVE * self.crossover_K else "eckart"

    def remark(self, temperature_K: float) -> str:
        """What limits the rate at a temperature; empty where nothing does."""
        if temperature_K >= WIGNER_ABOVE * self.crossover_K:
            return ""
        if temperature_K >= self.crossover_K:
            return "near the crossover: Wigner's expansion is not quoted"
        return "below the crossover: tunnelling prevails, an instanton is wanted"


def rates(
    initial: Vibrations,
    saddle: Vibrations,
    final: Vibrations,
    energies_eV: Sequence[float] | np.ndarray,
    temperatures_K: Sequence[float] | np.ndarray,
) -> Rates:
    """Rate constants from the initial to the final state.

    Args:
        initial: modes of the initial state, none imaginary.
        saddle: modes of the saddle, one imaginary.
        final: modes of the final state, none imaginary.
        energies_eV: potential energies of the three.
        temperatures_K: temperatures, above 0.

    Raises:
        InputError: modes that are not those of two minima and a saddle, other atoms, or a
            temperature that is not positive.
    """
    _check_modes(initial, saddle, final)
    temperatures = np.asarray(temperatures_K, dtype=float)
    require(bool((temperatures > 0).all()), "temperatures", temperatures_K, "above 0 K")
    barrier, reverse = energies_eV[1] - energies_eV[0], energies_eV[1] - energies_eV[2]
    require(barrier > 0 and reverse > 0, "barriers", (barrier, reverse), "both positive (eV)")
    imaginary = float(-saddle.energies_eV[0])
    here, there = initial.real_energies_eV, saddle.real_energies_eV
    with_zero_point = barrier + saddle.zero_point_energy_eV - initial.zero_point_energy_eV
    back = reverse + saddle.zero_point_energy_eV - final.zero_point_energy_eV
    heights = (max(with_zero_point, 1e-3), max(back, 1e-3))
    found: dict[str, list[float]] = {name: [] for name in APPROXIMATIONS}
    free = []
    for t in temperatures:
        kt = kB * t
        change = classical_free_energy_eV(there, t) - classical_free_energy_eV(here, t)
        found["classical"].append(attempt_rate(barrier + change, t))
        change = harmonic_free_energy_eV(there, t) - harmonic_free_energy_eV(here, t)
        free.append(barrier + change)
        quantum = attempt_rate(free[-1], t)
        found["quantum"].append(quantum)
        found["wigner"].append(quantum * wigner(imaginary, t))
        found["eckart"].append(quantum * eckart(imaginary, *heights, t))
        if not np.isfinite(found["eckart"][-1]):
            raise InputError(f"temperatures: {t} K is too low for Eckart's barrier ({kt:.1e} eV).")
    return Rates(
        temperature_K=temperatures,
        rate_per_s={name: np.array(values) for name, values in found.items()},
        free_energy_barrier_eV=np.array(free),
        barrier_eV=float(barrier),
        zero_point_barrier_eV=float(with_zero_point),
        reverse_zero_point_barrier_eV=float(back),
        imaginary_eV=imaginary,
        crossover_K=crossover_temperature_K(imaginary),
    )


def attempt_rate(barrier_eV: float, temperature_K: float) -> float:
    """(k_B T / h) exp(−ΔA‡ / k_B T), 1/s."""
    return float(_k * temperature_K / _hplanck * np.exp(-barrier_eV / (kB * temperature_K)))


def arrhenius(temperatures_K: np.ndarray, rate_per_s: np.ndarray) -> tuple[float, float]:
    """Activation energy (eV) and prefactor (1/s) of the line through ln k against 1/T."""
    slope, intercept = np.polyfit(1 / np.asarray(temperatures_K), np.log(rate_per_s), 1)
    return float(-slope * kB), float(np.exp(intercept))


def _check_modes(initial: Vibrations, saddle: Vibrations, final: Vibrations) -> None:
    states = ("initial", initial, 0), ("saddle", saddle, 1), ("final", final, 0)
    for name, modes, wanted in states:
        if modes.n_imaginary != wanted:
            right = "a saddle has one" if wanted else "a minimum has none"
            raise InputError(
                f"{name}: {modes.n_imaginary} imaginary modes, but {right}. Converge it further "
                "(--fmax), or look at its modes: it may be another stationary point."
            )
        same = modes.indices.tolist() == initial.indices.tolist()
        require(same, f"{name}.indices", modes.indices.tolist(), "the atoms of the initial state")
        require(
            modes.n_projected == initial.n_projected,
            f"{name}.n_projected",
            modes.n_projected,
            "that of the initial state",
        )
