"""Quasi-harmonic approximation: thermal expansion, bulk modulus, heat capacity at zero pressure.

    G(T) = min_V [ U(V) + F_vib(T; V) ]

with the static energy U and the harmonic free energy F_vib at several volumes, joined at each
temperature by Vinet's equation of state: phonopy's ``run_qha``. What it leaves out: anharmonicity
at constant volume, which grows with temperature, and electrons.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from phonopy import QHAResult, run_qha
from phonopy.physical_units import get_physical_units
from phonopy.qha import output
from phonopy.qha.core import BulkModulus
from phonopy.qha.eos import get_eos

from nemp_sim.config import require
from nemp_sim.errors import EvaluationError
from nemp_sim.phonons.imaginary import ZERO_THZ
from nemp_sim.phonons.volumes import Volumes
from nemp_sim.statistics import rms

N_VOLUMES = 9
PERCENT = (-4.0, 8.0)  # range of the volumes: more room for expansion than for compression
EQUATION_OF_STATE = "vinet"
FILES = {
    "helmholtz-volume.dat": "free energy (eV) against volume (Å³) of the primitive cell at each T",
    "volume-temperature.dat": "temperature (K), volume of the primitive cell (Å³)",
    "thermal_expansion.dat": "temperature (K), volumetric expansion coefficient (1/K)",
    "gibbs-temperature.dat": "temperature (K), Gibbs energy of the primitive cell (eV)",
    "bulk_modulus-temperature.dat": "temperature (K), isothermal bulk modulus (GPa)",
    "Cp-temperature.dat": "temperature (K), heat capacity at constant pressure (J/(K mol))",
    "gruneisen-temperature.dat": "temperature (K), thermodynamic Grüneisen parameter",
}


@dataclass(frozen=True)
class QuasiHarmonic:
    """Results at t temperatures and zero pressure; a mole is one of primitive cells.

    Attributes:
        temperatures_K: (t,) those at which the equilibrium volume lies within the range computed.
        volumes_A3: (t,) equilibrium volume of the primitive cell.
        expansion_per_K: (t,) volumetric expansion coefficient (1/V) dV/dT; linear: a third.
        bulk_modulus_GPa: (t,) isothermal.
        heat_capacity_J_per_K_mol: (t,) at constant pressure.
        gruneisen: (t,) thermodynamic Grüneisen parameter; not a number at 0 K.
        static_volume_A3: minimum of the static energy alone.
        static_bulk_modulus_GPa: there.
        misfit_meV: root mean square by which the equation of state misses the static energies of
            the primitive cell; kT is 26 meV at 300 K.
        dropped_K: lowest temperature whose volume is out of range, or None.
        raw: phonopy's result.
    """

    temperatures_K: np.ndarray
    volumes_A3: np.ndarray
    expansion_per_K: np.ndarray
    bulk_modulus_GPa: np.ndarray
    heat_capacity_J_per_K_mol: np.ndarray
    gruneisen: np.ndarray
    static_volume_A3: float
    static_bulk_modulus_GPa: float
    misfit_meV: float
    dropped_K: float | None
    raw: QHAResult


def volume_ratios(percent: Sequence[float] = PERCENT, n_volumes: int = N_VOLUMES) -> np.ndarray:
    """Evenly spaced volumes over the relaxed one, (n_volumes,).

    Raises:
        InputError: fewer than five, or a range that does not hold the relaxed volume.
    """
    require(n_volumes >= 5, "volumes", n_volumes, "5 or more, for an equation of state")
    good = len(percent) == 2 and percent[0] < 0 < percent[1] and -25 < percent[0] < percent[1] < 40
    wanted = "two numbers, below and above zero, between -25 and 40 (%)"
    require(good, "volume_range", list(percent), wanted)
    return 1 + np.linspace(percent[0], percent[1], n_volumes) / 100


def quasi_harmonic(
    volumes: Volumes, mesh: Sequence[int], temperatures_K: Sequence[float] | np.ndarray
) -> QuasiHarmonic:
    """Minimise the free energy over the volume at each temperature.

    Args:
        volumes: five or more.
        mesh: points of the mesh; even ones are raised by one, which centres phonopy's mesh on Γ.
        temperatures_K: evenly spaced, ascending; one more is appended for the derivatives.

    Raises:
        EvaluationError: an imaginary mode at one of the volumes, or no minimum at any temperature.
    """
    mesh = [int(n) | 1 for n in mesh]
    _refuse_imaginary(volumes, mesh)
    kelvin = np.asarray(temperatures_K, dtype=float)
    require(len(kelvin) >= 2, "temperatures", kelvin.tolist(), "two or more (K)")
    raw = _run(volumes, mesh, np.append(kelvin, 2 * kelvin[-1] - kelvin[-2]))
    low, high = volumes.volumes_A3[[0, -1]]
    inside = (raw.equilibrium_volumes >= low) & (raw.equilibrium_volumes <= high)
    count = len(inside) if inside.all() else int(inside.argmin())
    if count < 2:
        raise EvaluationError(
            f"the free energy has no minimum between {low:.3f} and {high:.3f} Å³, the volumes "
            "computed. Widen --volume-range."
        )
    dropped = None if inside.all() else float(raw.temperatures[count])
    if dropped is not None:
        raw = _run(volumes, mesh, kelvin[: count + 1])
    units = get_physical_units()
    static = BulkModulus(volumes.volumes_A3, volumes.energies_eV, eos=EQUATION_OF_STATE)
    curve = get_eos(EQUATION_OF_STATE)(volumes.volumes_A3, np.array(static.get_parameters()))
    heat = raw.heat_capacity_P.heat_capacities
    return QuasiHarmonic(
        temperatures_K=np.array(raw.temperatures),
        volumes_A3=np.array(raw.equilibrium_volumes),
        expansion_per_K=np.array(raw.thermal_expansion),
        bulk_modulus_GPa=raw.bulk_moduli * units.EVAngstromToGPa,
        heat_capacity_J_per_K_mol=heat * units.EvTokJmol * 1e3,
        gruneisen=np.where(raw.temperatures > 0, raw.gruneisen_parameters, np.nan),
        static_volume_A3=float(static.equilibrium_volume),
        static_bulk_modulus_GPa=float(static.bulk_modulus) * units.EVAngstromToGPa,
        misfit_meV=1e3 * rms(curve - volumes.energies_eV),
        dropped_K=dropped,
        raw=raw,
    )


def _refuse_imaginary(volumes: Volumes, mesh: list[int]) -> None:
    for ratio, constants in zip(volumes.ratios, volumes.constants, strict=True):
        frequencies = constants.phonon.run_mesh(mesh, is_gamma_center=True).frequencies
        if frequencies.min() < -ZERO_THZ:
            raise EvaluationError(
                f"at {100 * ratio:.1f} % of the relaxed volume there are imaginary modes, up to "
                f"{-frequencies.min():.3f}i THz, so the free energy has no meaning there. Narrow "
                "--volume-range, or leave --qha out."
            )


def _run(volumes: Volumes, mesh: list[int], kelvin: np.ndarray) -> QHAResult:
    """Phonopy's result; a failed fit is an error here, not a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Lattice parameter")
        warnings.filterwarnings("error", message="EOS fitting failed")
        try:
            return run_qha(
                [c.phonon for c in volumes.constants],
                kelvin,
                internal_energies=volumes.energies_eV,
                mesh=mesh,
                eos=EQUATION_OF_STATE,
                exclude_gamma_acoustic=True,
            )
        except (RuntimeError, UserWarning) as error:
            raise EvaluationError(
                f"no equation of state fits the free energies ({error}). Look at "
                "energies and volumes, and change --volume-range."
            ) from error


def write_qha_files(result: QHAResult, directory: Path) -> None:
    """Write every file of ``FILES`` with phonopy's own writers."""
    writers = (
        output.write_helmholtz_volume,
        output.write_volume_temperature,
        output.write_thermal_expansion,
        output.write_gibbs_temperature,
        output.write_bulk_modulus_temperature,
        output.write_gruneisen_temperature,
    )
    names = [name for name in FILES if name != "Cp-temperature.dat"]
    for write, name in zip(writers, names, strict=True):
        write(result, directory / name)
    heat = result.heat_capacity_P.heat_capacities * get_physical_units().EvTokJmol * 1e3
    table = np.column_stack([result.temperatures, heat])
    np.savetxt(directory / "Cp-temperature.dat", table, fmt="%20.15f")
