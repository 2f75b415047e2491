"""What each analysis adds to the report of a phonon run: numbers, remarks, files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from ase.io import write

from nemp_sim.phonons.anharmonic import Effective, VelocitySpectrum
from nemp_sim.phonons.convergence import Convergence
from nemp_sim.phonons.files import write_force_constants
from nemp_sim.phonons.force_constants import ForceConstants, to_ase
from nemp_sim.phonons.gamma import GammaModes
from nemp_sim.phonons.gruneisen import Gruneisen
from nemp_sim.phonons.md import Dynamics
from nemp_sim.phonons.qha import FILES as QHA_FILES
from nemp_sim.phonons.qha import QuasiHarmonic, write_qha_files
from nemp_sim.phonons.velocity import SpeedsOfSound
from nemp_sim.report import Quantity, Report

LISTED_MODES = 30


@dataclass(frozen=True)
class Part:
    """An addition to a report.

    Attributes:
        quantities: rows of its table.
        notes: remarks.
        files: name and meaning of each file that ``write`` makes.
        data: further values for report.json.
        write: writes the files into a directory.
    """

    quantities: tuple[Quantity, ...] = ()
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, object] = field(default_factory=dict)
    write: Callable[[Path], object] = lambda directory: None


def with_parts(report: Report, parts: list[Part]) -> Report:
    """The report with everything that ``parts`` add."""
    for part in parts:
        report = replace(
            report,
            quantities=(*report.quantities, *part.quantities),
            notes=(*report.notes, *part.notes),
            files={**report.files, **part.files},
            data={**report.data, **part.data},
        )
    return report


def gamma_part(modes: GammaModes, constants: ForceConstants, what: str, name: str) -> Part:
    """Modes at Γ of a molecule, or of chosen atoms on a frozen slab: a list and an animation."""
    listed = [f"{what}, mode {i}: {modes.describe(i)}." for i in range(len(modes.frequencies_THz))]
    if len(listed) > LISTED_MODES:
        listed = [*listed[-LISTED_MODES:], f"All {len(listed)} modes are in report.json."]
    zero = "zero_point_adsorbate_eV" if name == "adsorbate" else "zero_point_eV"
    quantities = [
        Quantity(zero, f"Zero-point energy, {what}", modes.zero_point_eV, "eV", 4),
        Quantity(f"{name}_imaginary", f"Imaginary modes at Γ, {what}", modes.n_imaginary),
    ]
    if modes.n_rigid:
        label = f"Largest frequency in the {modes.n_rigid} translations and rotations"
        quantities.append(Quantity("rigid_THz", label, modes.rigid_THz, "THz"))
    return Part(
        quantities=tuple(quantities),
        notes=tuple(listed),
        files={f"{name}_modes.extxyz": f"{what}: displacements of each mode at Γ (one frame each)"},
        data={
            f"{name}_modes": {
                "atoms": modes.indices,
                "frequencies_THz": modes.frequencies_THz,
                "wavenumbers_per_cm": modes.wavenumbers_per_cm,
                "eigenvectors": modes.eigenvectors,
            }
        },
        write=lambda directory: _write_modes(modes, constants, directory / f"{name}_modes.extxyz"),
    )


def _write_modes(modes: GammaModes, constants: ForceConstants, path: Path) -> None:
    """One frame for each mode, with Cartesian displacements whose longest is 1 Å."""
    frames = []
    for frequency, vector in zip(modes.frequencies_THz, modes.eigenvectors, strict=True):
        atoms = to_ase(constants.phonon.primitive, constants.periodic)
        moved = np.zeros((len(atoms), 3))
        moved[modes.indices] = vector / np.sqrt(atoms.get_masses()[modes.indices, None])
        atoms.set_array("mode", moved / np.linalg.norm(moved, axis=1).max())
        atoms.info["frequency_THz"] = float(frequency)
        frames.append(atoms)
    write(path, frames, format="extxyz")


def velocity_part(speeds: tuple[SpeedsOfSound, ...]) -> Part:
    """Speeds of sound along the path."""
    if not speeds:
        return Part()
    listed = "; ".join(str(s) for s in speeds)
    return Part(
        notes=(f"Speeds of sound in km/s along {listed}.",),
        data={
            "speeds_of_sound": [
                {"towards": s.label, "q": s.q, "km_per_s": s.km_per_s} for s in speeds
            ]
        },
    )


def gruneisen_part(found: Gruneisen) -> Part:
    """Mean Grüneisen parameters, and phonopy's file of all of them."""
    low, high = found.parameters.min(), found.parameters.max()

    def write(directory: Path) -> None:
        found.raw.write_yaml_band_structure(directory / "gruneisen.yaml")
        found.raw.write_yaml_mesh(directory / "gruneisen_mesh.yaml")

    return Part(
        quantities=(
            Quantity("gruneisen_300K", "Grüneisen parameter at 300 K", found.mean(300.0)),
            Quantity("gruneisen_min", "Smallest of the mode parameters", float(low)),
            Quantity("gruneisen_max", "Largest of the mode parameters", float(high)),
        ),
        notes=(
            f"Grüneisen parameters of {found.weights.sum()} modes of the mesh; {found.n_skipped} "
            "(translations and imaginary modes) are left out.",
        ),
        files={
            "gruneisen.yaml": "Grüneisen parameters along the path",
            "gruneisen_mesh.yaml": "the same on the mesh",
        },
        write=write,
    )


def qha_part(found: QuasiHarmonic, n_atoms: int) -> Part:
    """Thermal expansion, bulk modulus and heat capacity, and phonopy's files of them."""
    at = int(np.abs(found.temperatures_K - 300.0).argmin())
    kelvin = f"at {found.temperatures_K[at]:g} K"
    notes = [
        "Quasi-harmonic sums at zero pressure; the shape of the cell is kept. Anharmonicity at "
        "constant volume and electrons are left out."
    ]
    if found.dropped_K is not None:
        notes.append(
            f"From {found.dropped_K:g} K on the equilibrium volume lies outside the volumes "
            "computed: widen --volume-range for those temperatures."
        )
    heat, expansion = found.heat_capacity_J_per_K_mol[at], found.expansion_per_K[at] / 3
    rows = (
        ("static_volume_A3", "Volume, static", found.static_volume_A3, "Å³"),
        ("qha_volume_0K_A3", "Volume at 0 K", found.volumes_A3[0], "Å³"),
        ("qha_volume_300K_A3", f"Volume {kelvin}", found.volumes_A3[at], "Å³"),
        ("qha_expansion_300K_per_MK", f"Linear expansion {kelvin}", 1e6 * expansion, "10⁻⁶/K"),
        ("static_bulk_modulus_GPa", "Bulk modulus, static", found.static_bulk_modulus_GPa, "GPa"),
        ("qha_bulk_modulus_300K_GPa", f"Bulk modulus {kelvin}", found.bulk_modulus_GPa[at], "GPa"),
        ("qha_misfit_meV", "Misfit of the equation of state, static", found.misfit_meV, "meV"),
        ("qha_cp_300K_J_per_K_mol", f"Heat capacity C_p {kelvin}", heat, "J/(K mol)"),
    )
    return Part(
        quantities=tuple(Quantity(key, what, float(x), unit) for key, what, x, unit in rows),
        notes=tuple(notes),
        files=QHA_FILES,
        data={
            "qha": {
                "temperatures_K": found.temperatures_K,
                "volumes_A3": found.volumes_A3,
                "volumetric_expansion_per_K": found.expansion_per_K,
                "bulk_modulus_GPa": found.bulk_modulus_GPa,
                "heat_capacity_p_J_per_K_mol": found.heat_capacity_J_per_K_mol,
                "gruneisen": found.gruneisen,
                "atoms_in_a_cell": n_atoms,
            }
        },
        write=lambda directory: write_qha_files(found.raw, directory),
    )


def convergence_part(found: Convergence) -> Part:
    """Table and recommendation of a sweep."""
    return Part(
        quantities=(
            Quantity("sweep_trials", "Trials of the sweep, in one call", len(found.trials)),
        ),
        notes=(f"Sweep: {found.recommendation()}",),
        files={"convergence.md": "every supercell with every length of displacements"},
        data={
            "sweep": [
                {
                    "supercell": trial.supercell,
                    "displacement_A": trial.displacement_angstrom,
                    "n_atoms": trial.n_atoms,
                    "n_displacements": trial.n_displacements,
                    "edge_ratio": trial.edge_ratio,
                    "change_THz": trial.change_THz,
                }
                for trial in found.trials
            ]
        },
        write=lambda directory: (directory / "convergence.md").write_text(
            convergence_table(found), encoding="utf-8"
        ),
    )


def convergence_table(found: Convergence) -> str:
    """All trials as Markdown, with the recommendation."""
    lines = [
        "# Convergence of frequencies",
        "",
        found.recommendation(),
        "",
        "Largest change anywhere on the path against "
        f"{found.reference.n_atoms} atoms with {found.reference.displacement_angstrom:g} Å.",
        "",
        "| atoms | supercell, by rows | reach (Å) | edge ratio | displacement (Å) | change (THz) |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {t.n_atoms} | {' '.join(str(n) for n in t.supercell.ravel())} | {t.reach_angstrom:.2f} "
        f"| {t.edge_ratio:.4f} | {t.displacement_angstrom:g} | {t.change_THz:.4f} |"
        for t in found.trials
    ]
    return "\n".join(lines) + "\n"


def dynamics_part(
    dynamics: Dynamics, spectrum: VelocitySpectrum, effective: Effective, harmonic_THz: float
) -> Part:
    """Classical dynamics beside harmonic phonons.

    Args:
        dynamics: the trajectory.
        spectrum: of its velocities.
        effective: force constants fitted to it.
        harmonic_THz: mean of the harmonic modes of its supercell without translations, THz.
    """
    mean = np.trapezoid(spectrum.frequencies_THz * spectrum.total, spectrum.frequencies_THz)
    mean /= np.trapezoid(spectrum.total, spectrum.frequencies_THz)
    drift = dynamics.drift_meV_per_atom
    rows = (
        ("md_temperature_K", "Temperature of the dynamics", dynamics.temperature_K, "K"),
        ("md_mean_THz", "Mean frequency, dynamics", mean, "THz"),
        ("harmonic_mean_THz", "Mean frequency, harmonic, same supercell", harmonic_THz, "THz"),
        ("md_residual", "Part of the forces that no harmonic crystal has", effective.residual, ""),
        ("md_drift_meV_per_atom", "Drift of the total energy", drift, "meV/atom"),
    )
    return Part(
        quantities=tuple(Quantity(key, what, float(x), unit) for key, what, x, unit in rows),
        notes=(
            f"Dynamics are classical: {dynamics.velocities.shape[1]} replicas of "
            f"{len(dynamics.supercell)} atoms, {dynamics.velocities.shape[0]} steps of "
            f"{dynamics.timestep_fs:.2f} fs; lines are {spectrum.resolution_THz:.2f} THz wide by "
            f"the window; effective force constants from {effective.n_frames} frames.",
        ),
        files={
            "velocity_dos.dat": "frequency (THz), modes per THz and primitive cell, by element",
            "effective_force_constants.hdf5": "fitted to the dynamics, eV/Å²",
        },
        write=lambda directory: _write_dynamics(spectrum, effective, directory),
    )


def _write_dynamics(spectrum: VelocitySpectrum, effective: Effective, directory: Path) -> None:
    columns = [spectrum.frequencies_THz, spectrum.total, *spectrum.projected.values()]
    header = "THz total " + " ".join(spectrum.projected)
    np.savetxt(directory / "velocity_dos.dat", np.column_stack(columns), "%14.8f", header=header)
    write_force_constants(effective.constants, directory / "effective_force_constants.hdf5")
