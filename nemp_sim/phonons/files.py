"""Phonons in the files that phonopy's own tools and its friends read."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phonopy.file_IO import write_force_constants_to_hdf5, write_FORCE_SETS
from phonopy.phonon.dos import write_projected_dos, write_total_dos

from nemp_sim.console import RUN_LOG
from nemp_sim.locks import missing_directories
from nemp_sim.phonons.force_constants import ForceConstants
from nemp_sim.phonons.spectra import Spectra

REPORT = "report.json"
FORCE_FILES = {
    "phonopy_params.yaml": 'cells, displacements, forces: `phonopy.load("phonopy_params.yaml")`',
    "FORCE_SETS": "displacements (Å) and forces (eV/Å)",
    "force_constants.hdf5": "force constants, eV/Å², rows of the primitive cell's atoms",
}
FILES = FORCE_FILES | {
    "band.yaml": "bands (THz) and group velocities (THz Å): `phonopy-bandplot band.yaml`",
    "mesh.yaml": "frequencies (THz) and group velocities (THz Å) on the irreducible mesh",
    "total_dos.dat": "frequency (THz), modes per THz and primitive cell",
    "projected_dos.dat": "the same for each atom of the primitive cell",
    "thermal_properties.yaml": "free energy, entropy, heat capacity: `phonopy-propplot`",
}


@contextmanager
def publishing(directory: Path) -> Iterator[Path]:
    """Yield a temporary directory; its files move to ``directory`` when the block succeeds.

    Files of an older report there that the new run does not write are removed, so that results of
    two runs never mix. Nothing is left, and ``directory`` is as it was, when the block fails. A
    kill can come between two files: the report goes first and comes last, so that a directory with
    a report.json is whole; what a killed run left beside it is removed here.
    """
    made = missing_directories(directory.parent)
    directory.parent.mkdir(parents=True, exist_ok=True)
    name_of_mkdtemp = re.compile(rf"\.{re.escape(directory.name)}\.[a-z0-9_]{{8}}")
    for path in directory.parent.iterdir():
        if name_of_mkdtemp.fullmatch(path.name):
            shutil.rmtree(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    complete = False
    try:
        yield temporary
        directory.mkdir(exist_ok=True)
        written = sorted(temporary.iterdir(), key=lambda path: (path.name == REPORT, path.name))
        outdated = _reported(directory) - {path.name for path in written} - {RUN_LOG}
        (directory / REPORT).unlink(missing_ok=True)
        for path in written:
            os.replace(path, directory / path.name)
        for name in outdated:
            (directory / name).unlink(missing_ok=True)
        complete = True
    finally:
        shutil.rmtree(temporary)
        for parent in made if not complete else ():
            if not any(parent.iterdir()):
                parent.rmdir()


def _reported(directory: Path) -> set[str]:
    """Files that the report in a directory names, with the PDF of every PNG."""
    try:
        report = json.loads((directory / REPORT).read_text(encoding="utf-8"))
        names = {Path(name).name for name in report["files"]}
    except (OSError, ValueError, TypeError, KeyError):
        return set()
    return names | {str(Path(name).with_suffix(".pdf")) for name in names if name.endswith(".png")}


def write_force_files(constants: ForceConstants, directory: Path) -> None:
    """Write every file of ``FORCE_FILES`` into an existing directory.

    Use within ``publishing``, so that no reader sees a partial set.
    """
    phonon = constants.phonon
    phonon.save(directory / "phonopy_params.yaml", settings={"force_constants": False})
    write_FORCE_SETS(phonon.dataset, directory / "FORCE_SETS")
    write_force_constants(constants, directory / "force_constants.hdf5")


def write_force_constants(constants: ForceConstants, path: Path) -> None:
    """Write force constants as phonopy reads them."""
    phonon = constants.phonon
    compact = len(phonon.force_constants) != len(phonon.supercell)
    write_force_constants_to_hdf5(
        phonon.force_constants,
        filename=str(path),
        p2s_map=phonon.primitive.p2s_map if compact else None,
        physical_unit="eV/angstrom^2",
    )


def write_phonopy_files(constants: ForceConstants, spectra: Spectra, directory: Path) -> None:
    """Write every file of ``FILES`` into an existing directory: see ``write_force_files``."""
    raw = spectra.raw
    write_force_files(constants, directory)
    raw.bands.write_yaml(filename=directory / "band.yaml")
    raw.mesh.write_yaml(directory / "mesh.yaml")
    dos = spectra.dos
    columns = (dos.frequencies_THz, dos.total, dos.method)
    write_total_dos(*columns, filename=directory / "total_dos.dat")
    columns = (dos.frequencies_THz, dos.by_atom, dos.method)
    write_projected_dos(*columns, filename=directory / "projected_dos.dat")
    raw.thermal.write_yaml(directory / "thermal_properties.yaml")
