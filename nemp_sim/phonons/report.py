"""The report of a phonon run: every number with its unit, imaginary modes by name."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.spacegroup.symmetrize import check_symmetry
from ase.units import GPa

from nemp_sim.phonons.files import FILES, FORCE_FILES
from nemp_sim.phonons.force_constants import SYMPREC_ANGSTROM, ForceConstants, boxed
from nemp_sim.phonons.gamma import GammaModes
from nemp_sim.phonons.spectra import Spectra
from nemp_sim.relax import largest_force
from nemp_sim.report import Quantity, Report

NAMED_IMAGINARY = (
    10  # imaginary modes listed in report.md, named points first; all are in report.json
)


def phonon_report(
    title: str,
    atoms: Atoms,
    constants: ForceConstants,
    found: Spectra,
    notes: Sequence[str] = (),
) -> Report:
    """The report of a phonon run, without its provenance.

    Args:
        title: heading.
        atoms: the structure, with forces and stress attached where known.
        constants: its force constants.
        found: what follows from them.
        notes: remarks on how the structure was made.
    """
    verdict = (
        f"Stable: no imaginary mode on path and mesh; highest frequency {found.max_THz:.3f} THz."
    )
    if found.unstable:
        verdict = (
            f"UNSTABLE: imaginary modes at {len({str(m.q) for m in found.imaginary})} wave vectors "
            f"of path and mesh; the worst: {found.imaginary[0]}. The structure is no minimum, and "
            "thermal properties without these modes are not those of a crystal."
        )
    elif found.imaginary:
        worst = abs(found.imaginary[0].frequency_THz)
        verdict = (
            f"Stable: but for {len(found.imaginary)} acoustic modes next to Γ, up to {worst:.3f}i "
            "THz, at wave vectors that only a larger supercell can judge, "
            f"no imaginary mode; highest frequency {found.max_THz:.3f} THz."
        )
    if found.imaginary:
        listed = sorted(found.imaginary, key=lambda mode: not mode.label)[:NAMED_IMAGINARY]
        notes = [*notes, *(f"Imaginary: {mode}" for mode in listed)]
        if len(found.imaginary) > len(listed):
            notes.append(f"{len(found.imaginary)} imaginary modes in all: see report.json.")
    if len(constants.phonon.primitive) <= 2:
        named = "; ".join(
            f"{p.label} {' '.join(f'{f:z.2f}' for f in p.frequencies_THz)}"
            for p in found.bands.points
        )
        notes = [*notes, f"Frequencies in THz at {named}."]
    return Report(
        title=title,
        verdict=verdict,
        quantities=(*_results(constants, found), *_setting(atoms, constants, found)),
        notes=(*notes, found.thermal.remark()),
        files={
            **FILES,
            "structure.extxyz": "the structure that the phonons are of",
            "bands.png": "bands and density of states",
            "thermal.png": "thermal properties",
            "report.json": "these numbers for programs",
        },
        data=_data(atoms, constants, found),
    )


def molecule_report(title: str, atoms: Atoms, modes: GammaModes) -> Report:
    """The report of a molecule, whose modes another part lists, without its provenance.

    Args:
        title: heading.
        atoms: the molecule, with forces attached where known.
        modes: at Γ.
    """
    lowest, highest = modes.wavenumbers_per_cm[[0, -1]]
    verdict = (
        f"Stable: {len(modes.frequencies_THz)} vibrations from {lowest:.1f} to {highest:.1f} cm⁻¹, "
        f"zero-point energy {modes.zero_point_eV:.4f} eV."
    )
    if modes.n_imaginary:
        verdict = (
            f"UNSTABLE: {modes.n_imaginary} imaginary modes, the worst {modes.describe(0)}. The "
            "structure is no minimum."
        )
    known = atoms.calc.results if atoms.calc else {}
    fmax = largest_force(known["forces"]) if "forces" in known else None
    return Report(
        title=title,
        verdict=verdict,
        quantities=(
            Quantity("n_atoms", "Atoms", len(atoms)),
            Quantity("fmax_eV_per_A", "Largest force of the structure", fmax, "eV/Å", 6),
        ),
        files={
            **FORCE_FILES,
            "structure.extxyz": "the structure that the vibrations are of",
            "report.json": "these numbers for programs",
        },
    )


def _results(constants: ForceConstants, found: Spectra) -> tuple[Quantity, ...]:
    """What was found."""
    thermal = found.thermal
    at = int(np.abs(thermal.temperatures_K - 300.0).argmin())
    kelvin = f"at {thermal.temperatures_K[at]:g} K"
    return (
        Quantity("imaginary_modes", "Imaginary modes, path and mesh", len(found.imaginary)),
        Quantity("max_THz", "Highest frequency", found.max_THz, "THz"),
        Quantity(
            "gamma_acoustic_THz",
            "Largest acoustic frequency at Γ",
            found.gamma_acoustic_THz,
            "THz",
            6,
        ),
        Quantity(
            "zero_point_kJ_per_mol", "Zero-point energy", thermal.zero_point_kJ_per_mol, "kJ/mol"
        ),
        Quantity(
            "free_energy_300K_kJ_per_mol",
            f"Free energy {kelvin}",
            float(thermal.free_energy_kJ_per_mol[at]),
            "kJ/mol",
        ),
        Quantity(
            "entropy_300K_J_per_K_mol",
            f"Entropy {kelvin}",
            float(thermal.entropy_J_per_K_mol[at]),
            "J/(K mol)",
        ),
        Quantity(
            "heat_capacity_300K_J_per_K_mol",
            f"Heat capacity {kelvin}",
            float(thermal.heat_capacity_J_per_K_mol[at]),
            "J/(K mol)",
        ),
    )


def _setting(atoms: Atoms, constants: ForceConstants, found: Spectra) -> tuple[Quantity, ...]:
    """What it was found with."""
    phonon = constants.phonon
    known = atoms.calc.results if atoms.calc else {}
    fmax = largest_force(known["forces"]) if "forces" in known else None
    smax = float(np.abs(known["stress"]).max() / GPa) if "stress" in known else None
    primitive_volume = abs(np.linalg.det(phonon.primitive.cell))
    repeats = " ".join(str(n) for n in phonon.supercell_matrix.ravel())
    symmetry = check_symmetry(boxed(atoms), symprec=SYMPREC_ANGSTROM)
    return (
        Quantity(
            "n_primitive_atoms",
            "Atoms in the primitive cell (a mole above is of these)",
            len(phonon.primitive),
        ),
        Quantity("primitive_volume_A3", "Volume of the primitive cell", primitive_volume, "Å³"),
        Quantity(
            "space_group",
            "Space group (with vacuum as if it were bulk)",
            f"{symmetry.international} ({symmetry.number})",
        ),
        Quantity("supercell_matrix", "Supercell matrix, row by row", repeats),
        Quantity("n_supercell_atoms", "Atoms in the supercell", len(phonon.supercell)),
        Quantity("n_displacements", "Displaced supercells", constants.n_displacements),
        Quantity("model_calls", "Model calls for all of them", constants.model_calls),
        Quantity(
            "reach_angstrom",
            "Half the shortest vector of the supercell",
            constants.reach_angstrom,
            "Å",
        ),
        Quantity(
            "edge_ratio",
            "Force constants at its edge over the largest",
            constants.edge_ratio,
            "",
            4,
        ),
        Quantity(
            "drift_eV_per_A2",
            "Broken sum rule before symmetrisation",
            constants.drift_eV_per_A2,
            "eV/Å²",
            6,
        ),
        Quantity("mesh", "Mesh of wave vectors", " ".join(map(str, found.mesh_numbers))),
        Quantity(
            "dos_width_THz",
            "Bins of the densities of states (tetrahedron method)",
            found.dos.width_THz,
            "THz",
            4,
        ),
        Quantity("fmax_eV_per_A", "Largest force of the structure", fmax, "eV/Å", 6),
        Quantity("smax_GPa", "Largest stress of the structure", smax, "GPa", 5),
    )


def _data(atoms: Atoms, constants: ForceConstants, found: Spectra) -> dict[str, object]:
    """Arrays for report.json."""
    return {
        "cell_A": atoms.cell.array,
        "primitive_matrix": constants.phonon.primitive_matrix,
        "special_points": [
            {"label": p.label, "q": p.q, "frequencies_THz": p.frequencies_THz}
            for p in found.bands.points
        ],
        "imaginary": [
            {
                "q": m.q,
                "label": m.label,
                "band": m.band,
                "frequency_THz": m.frequency_THz,
                "eigenvector_real": m.eigenvector.real,
                "eigenvector_imag": m.eigenvector.imag,
            }
            for m in found.imaginary
        ],
        "thermal_modes": {
            "mesh": found.thermal.n_modes,
            "skipped_acoustic": found.thermal.n_acoustic,
            "skipped_imaginary": found.thermal.n_imaginary,
            "skipped_near_zero": found.thermal.n_near_zero,
        },
    }
