"""The potential inside LAMMPS, on one rank and on several, equals the one outside."""

import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import fcc111

from nemp_sim import lammps
from nemp_sim.checkpoint import save_potential
from nemp_sim.errors import EvaluationError, InputError
from nemp_sim.evaluation import VOIGT
from nemp_sim.lammps import export_lammps, input_lines
from tests.lammps_stand_in import World

TOLERANCE = 1e-9  # eV, eV/Å: float64, other orders of summation
PRINTED = 1e-8  # and as LAMMPS prints them


@pytest.fixture(scope="module")
def export(random_potential, tmp_path_factory):
    """Function: a potential of a form, the file for LAMMPS, and what LAMMPS loads of it."""
    directory = tmp_path_factory.mktemp("lammps")

    def get(form):
        potential = random_potential(form, n_message_passing=2, cutoff_angstrom=3.2)
        source = save_potential(potential.model, potential.metadata, directory / f"{form}.pt")
        file = source.with_suffix(".mliap")
        export_lammps(source, file, device="cpu")
        with file.open("rb") as handle:
            return potential, file, pickle.load(handle)

    return get


@pytest.mark.parametrize("exchange", [False, True], ids=["thick shell", "exchange"])
@pytest.mark.parametrize(
    ("form", "name", "n_ranks"),
    [
        ("smooth", "slab", 1),
        ("smooth", "water", 2),
        ("smooth", "tilted", 4),
        ("published", "water", 2),
    ],
)
def test_ranks_add_up_to_the_whole(export, structures, form, name, n_ranks, exchange):
    potential, _, model = export(form)
    atoms = structures[name]
    energy, forces, virial = World(atoms, model, n_ranks, exchange).run()
    whole = potential.evaluate([atoms], stress=True)
    assert energy == pytest.approx(whole.energy[0], abs=TOLERANCE)
    np.testing.assert_allclose(forces, whole.forces[0], atol=TOLERANCE)
    stress = [-virial[a, b] / atoms.get_volume() for a, b in VOIGT]
    np.testing.assert_allclose(stress, whole.stress[0], atol=TOLERANCE)


@pytest.mark.parametrize("name", ["slab", "water", "tilted"])
def test_parts_that_fit_the_memory_add_up_to_the_whole(export, structures, name, monkeypatch):
    potential, file, _ = export("smooth")
    small = file.with_name("small.mliap")
    export_lammps(file.with_suffix(".pt"), small, device="cpu", memory_gb=1e-4)
    with small.open("rb") as handle:
        model = pickle.load(handle)
    sizes = []
    taken = lammps.pair_gradients
    monkeypatch.setattr(lammps, "pair_gradients", lambda *a: sizes.append(a[2]) or taken(*a))
    world = World(structures[name], model, 1)
    energy, forces, _ = world.run()
    assert len(sizes) > 1 and sum(sizes) == len(structures[name])
    whole = potential.evaluate([structures[name]])
    assert energy == pytest.approx(whole.energy[0], abs=TOLERANCE)
    np.testing.assert_allclose(forces, whole.forces[0], atol=TOLERANCE)
    np.testing.assert_allclose(world.ranks[0].eatoms, whole.energies[0], atol=TOLERANCE)


def test_atomic_energies_and_a_lone_atom(export, structures):
    potential, _, model = export("smooth")
    atoms = structures["lone_atom"]
    world = World(atoms, model, 1)
    assert world.run()[0] == pytest.approx(potential.evaluate([atoms]).energy[0])
    world = World(structures["tilted"], model, 1)
    world.run()
    expected = potential.evaluate([structures["tilted"]]).energies[0]
    np.testing.assert_allclose(world.ranks[0].eatoms, expected, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["slab", "water", "tilted"])
def test_a_forgotten_comm_modify_is_wrong_and_said(export, structures, name):
    """So the comparison above can fail."""
    potential, _, model = export("smooth")
    world = World(structures[name], model, 1, shell_cutoffs=1.5)
    with pytest.warns(UserWarning, match=r"comm_modify cutoff 11\.6"):
        energy = world.run()[0]
    assert abs(energy - potential.evaluate([structures[name]]).energy[0]) > 100 * TOLERANCE


def test_refusals(export, tilted, tmp_path):
    _, file, model = export("smooth")
    with pytest.raises(InputError, match=r"\.mliap"):
        export_lammps(file.with_suffix(".pt"), tmp_path / "out.pt")
    world = World(tilted, model, 1, exchange=True)
    world.ranks[0].elems[0] = -1
    with pytest.raises(InputError, match="NULL"):
        world.run()
    world = World(tilted, model, 1, exchange=True)
    world.ranks[0].elems = SimpleNamespace(__cuda_array_interface__={})
    with pytest.raises(InputError, match="--device cuda"):
        world.run()
    world = World(tilted, model, 1, exchange=True)
    world.ranks[0].rij[0] = np.nan
    with pytest.raises(EvaluationError, match="finite"):
        world.run()


@cache
def missing_for_lammps():
    """What keeps LAMMPS from running here; empty if nothing does."""
    if shutil.which("lmp") is None or shutil.which("mpiexec") is None:
        return "no lmp and mpiexec on the PATH"
    if importlib.util.find_spec("lammps") is None:
        return "no Python module lammps"
    packages = subprocess.run(["lmp", "-h"], capture_output=True, text=True, check=True).stdout
    if not {"ML-IAP", "PYTHON"} <= set(packages.split()):
        return "LAMMPS was built without its packages ML-IAP and PYTHON, as the wheels of PyPI are"
    return ""


def in_lammps(directory, model, file, atoms, n_ranks):
    """Energy, atomic energies, forces and stress that LAMMPS computes on some MPI ranks."""
    elements = model.element_types
    data = directory / "atoms.data"
    ase.io.write(data, atoms, format="lammps-data", specorder=elements, masses=False)
    lines = input_lines(model, file).splitlines()
    text = "\n".join(
        [
            *lines[:3],
            "read_data atoms.data",
            *[f"mass {number} 1.0" for number in range(1, len(elements) + 1)],
            *lines[3:],
            "thermo_style custom step pe pxx pyy pzz pyz pxz pxy",
            "thermo_modify format float %.14g",
            "compute energies all pe/atom",
            "dump forces all custom 1 forces.dump id c_energies fx fy fz",
            "dump_modify forces sort id format float %.14g",
            "run 0",
        ]
    )
    (directory / "in.lammps").write_text(text)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
    }
    command = ["mpiexec", "-n", str(n_ranks), "lmp", "-in", "in.lammps"]
    result = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    log = (directory / "log.lammps").read_text().splitlines()
    header = next(i for i, line in enumerate(log) if line.split()[:1] == ["Step"])
    numbers = [float(word) for word in log[header + 1].split()]
    rows = (directory / "forces.dump").read_text().split("ITEM: ATOMS")[1]
    atomic = np.array([row.split() for row in rows.strip().splitlines()[1:]], float)
    return numbers[1], atomic[:, 1], atomic[:, 2:], -np.array(numbers[2:]) * units.bar


def long_slab():
    """H on Pd(111) in an orthogonal box that four ranks share."""
    slab = fcc111("Pd", (4, 4, 3), a=3.94, vacuum=4.0, orthogonal=True, periodic=True)
    slab += Atoms("H", [slab.positions[-1] + [1.4, 0.8, 0.9]])
    slab.rattle(0.05, seed=4)
    return slab


@pytest.mark.skipif(bool(missing_for_lammps()), reason=missing_for_lammps())
@pytest.mark.parametrize("n_ranks", [1, 2, 4])
@pytest.mark.parametrize("name", ["slab", "water"])
def test_lammps_itself(export, water, tmp_path, name, n_ranks):
    potential, file, model = export("smooth")
    atoms = {"slab": long_slab(), "water": water}[name]
    energy, energies, forces, stress = in_lammps(tmp_path, model, file, atoms, n_ranks)
    whole = potential.evaluate([atoms], stress=True)
    assert energy == pytest.approx(whole.energy[0], abs=PRINTED)
    np.testing.assert_allclose(energies, whole.energies[0], atol=PRINTED)
    np.testing.assert_allclose(forces, whole.forces[0], atol=PRINTED)
    np.testing.assert_allclose(stress, whole.stress[0], atol=PRINTED)
