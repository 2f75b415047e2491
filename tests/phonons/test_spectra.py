import json

import numpy as np
import phonopy
import pytest
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.units import J as joule
from ase.units import _hplanck, _Nav, kB
from matplotlib.image import imread
from phonopy.physical_units import get_physical_units

from nemp_sim.phonons.files import FILES, publishing, write_phonopy_files
from nemp_sim.phonons.force_constants import (
    remarks,
)
from nemp_sim.phonons.imaginary import ZERO_THZ
from nemp_sim.phonons.plots import bands_and_dos, thermal_properties
from nemp_sim.phonons.report import phonon_report
from nemp_sim.phonons.spectra import _plain, _pretty, mesh_numbers
from nemp_sim.plots import BLUE, save_figure
from nemp_sim.relax import relax
from nemp_sim.report import to_json, to_markdown
from tests.engines import EMTEngine
from tests.phonons.emt import make

EV_PER_THZ = _hplanck * 1e12 * joule


@pytest.fixture(scope="module")
def copper():
    """Fcc Cu at the minimum of EMT."""
    return make(bulk("Cu", a=3.59), (5, 5, 5))


@pytest.fixture(scope="module")
def bcc():
    """Bcc Cu, which EMT makes unstable."""
    return make(bulk("Cu", "bcc", a=2.86), (5, 5, 5))


# --- what follows from force constants


def test_sum_rules(copper):
    constants, found = copper
    assert found.gamma_acoustic_THz < 1e-5
    assert np.abs(constants.phonon.force_constants.sum(axis=1)).max() < 1e-9
    assert constants.drift_eV_per_A2 < 1e-9
    assert constants.edge_ratio < 1e-4  # EMT reaches 4.5 Å or so, the supercell 6.3 Å


def test_bands_of_fcc(copper):
    _, found = copper
    assert found.bands.tick_labels == ("Γ", "X", "U|K", "Γ", "L", "W", "X")
    x = next(p for p in found.bands.points if p.label == "X")
    assert x.frequencies_THz[0] == pytest.approx(x.frequencies_THz[1], abs=1e-6)
    assert found.bands.ticks[1] == pytest.approx(1 / 3.59)


def test_branches_go_through_their_crossing(copper):
    """Between K and Γ the polarisations are fixed by symmetry: along q, along z, and across."""
    constants, found = copper
    segment = found.bands.tick_labels.index("U|K")
    points = found.raw.bands.qpoints[segment]
    reciprocal = np.linalg.inv(constants.phonon.primitive.cell)
    along = reciprocal @ points[0]
    along /= np.linalg.norm(along)
    (axis,) = np.eye(3)[np.abs(along) < 1e-6]
    factor = get_physical_units().DefaultToTHz
    matrices = constants.phonon.run_qpoints(points, with_dynamical_matrices=True)
    matrices = np.array(matrices.dynamical_matrices)
    wanted = []
    for polarisation in (along, axis, np.cross(along, axis)):
        values = (polarisation @ matrices @ polarisation).real
        wanted.append(factor * np.sqrt(np.maximum(values, 0)))
    drawn, in_order = found.bands.frequencies_THz[segment], found.raw.bands.frequencies[segment]
    assert np.abs(drawn - in_order).max() > 0.05  # they do cross
    for branch in drawn.T:
        assert min(np.abs(branch - line).max() for line in wanted) < 2e-3
    np.testing.assert_allclose(np.sort(drawn), in_order)


def test_path_is_that_of_the_cell_as_given(copper):
    """Another choice of primitive vectors gives the same bands."""
    atoms = bulk("Cu", a=3.59)
    atoms.set_cell(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]]) @ atoms.cell.array)
    _, found = make(atoms, np.linalg.inv([[1, 1, 0], [0, 1, 0], [0, 0, 1]]).round() * 5)
    for got, want in zip(found.bands.points, copper[1].bands.points, strict=True):
        np.testing.assert_allclose(got.frequencies_THz, want.frequencies_THz, atol=1e-4)


def test_density_counts_every_mode(copper):
    _, found = copper
    dos = found.dos
    assert np.trapezoid(dos.total, dos.frequencies_THz) == pytest.approx(3, abs=1e-6)
    np.testing.assert_allclose(dos.projected["Cu"], dos.total)


def test_thermal_sums(copper):
    """Against sums over the modes of the mesh, written out."""
    constants, found = copper
    mesh, thermal = found.raw.mesh, found.thermal
    energy = mesh.frequencies * EV_PER_THZ
    real = mesh.frequencies > ZERO_THZ
    assert thermal.n_modes == 3 * 8**3 and thermal.n_acoustic == 3
    assert thermal.n_imaginary == thermal.n_near_zero == 0
    weights = np.broadcast_to(mesh.weights[:, None], energy.shape)[real] / mesh.weights.sum()
    per_mole = _Nav / joule / 1e3
    zero_point = 0.5 * (weights @ energy[real]) * per_mole
    assert thermal.zero_point_kJ_per_mol == pytest.approx(zero_point, rel=1e-5)
    at = thermal.temperatures_K.tolist().index(300.0)
    x = energy[real] / (kB * 300.0)
    free = zero_point + kB * 300 * (weights @ np.log(1 - np.exp(-x))) * per_mole
    heat = kB * (weights @ (x**2 * np.exp(x) / np.expm1(x) ** 2)) * per_mole * 1e3
    assert thermal.free_energy_kJ_per_mol[at] == pytest.approx(free, rel=1e-5)
    assert thermal.heat_capacity_J_per_K_mol[at] == pytest.approx(heat, rel=1e-5)
    slope = np.gradient(thermal.free_energy_kJ_per_mol, thermal.temperatures_K)[at] * -1e3
    assert thermal.entropy_J_per_K_mol[at] == pytest.approx(slope, rel=0.05)


def test_imaginary_modes_are_counted_and_named(bcc):
    constants, found = bcc
    worst = found.imaginary[0]
    assert (worst.label, worst.band) == ("N", 0)
    assert found.unstable and not worst.interpolated
    assert worst.frequency_THz == pytest.approx(-1.141, abs=0.01)
    np.testing.assert_allclose(np.linalg.norm(worst.eigenvector), 1.0)
    assert "(N), band 0: 1.141i THz, mostly atom 0" in str(worst)
    again = constants.phonon.run_qpoints([worst.q]).frequencies[0]
    assert again.min() == pytest.approx(worst.frequency_THz)
    direction = np.abs(worst.eigenvector[0].real)  # transverse: along [1 -1 0] for q along [1 1 0]
    assert np.sort(direction) == pytest.approx([0, 0.5**0.5, 0.5**0.5], abs=1e-6)
    mesh = found.raw.mesh
    counted = (mesh.weights[:, None] * (mesh.frequencies < -ZERO_THZ)).sum()
    assert found.thermal.n_imaginary == counted > 0
    assert f"{counted} imaginary" in found.thermal.remark()
    report = phonon_report("bcc Cu", bulk("Cu", "bcc", a=2.86), constants, found)
    text = to_markdown(report)
    assert report.verdict.startswith("UNSTABLE") and "(N), band 0: 1.141i THz" in text
    assert f"skipped: 3 translations at Γ, {counted} imaginary" in text


def test_energy_falls_along_an_imaginary_mode(bcc):
    """The curvature along the mode at N, frozen into a doubled cell, is its frequency squared."""
    _, found = bcc
    worst = found.imaginary[0]
    atoms = bulk("Cu", "bcc", a=2.86) * np.where(np.abs(worst.q) > 0.1, 2, 1)
    cells = np.linalg.solve(bulk("Cu", "bcc", a=2.86).cell.T, atoms.positions.T).T.round()
    signs = np.cos(2 * np.pi * cells @ worst.q)
    energies = []
    for step in (-0.02, 0.0, 0.02):
        moved = atoms.copy()
        moved.positions += step * np.outer(signs, worst.eigenvector[0].real)
        moved.calc = EMT()
        energies.append(moved.get_potential_energy() / len(atoms))
    curvature = (energies[0] - 2 * energies[1] + energies[2]) / 0.02**2
    angular = np.sqrt(abs(curvature) / atoms.get_masses()[0])
    assert curvature < 0
    assert angular * 15.6333 == pytest.approx(-worst.frequency_THz, rel=0.01)


def test_names_of_wave_vectors():
    assert [_pretty(name) for name in ("GAMMA", "G", "SIGMA_0", "X", "H_2")] == [
        *("Γ", "Γ", "Σ0", "X", "H2")
    ]
    assert _plain("Γ") == r"$\Gamma$" and _plain("Σ0") == r"$\Sigma$0"


def test_mesh_numbers():
    cell = bulk("Pd", a=3.95).cell.array
    assert len(set(mesh_numbers(cell, [True] * 3))) == 1
    assert mesh_numbers(np.diag([4.0, 8.0, 20.0]), [True, True, False]) == (11, 6, 1)


def test_small_supercells_are_remarked(copper):
    constants, _ = make(bulk("Cu", a=3.59), (2, 2, 2))
    small = remarks(constants, 4.5)
    assert "SMALL: half its shortest lattice vector is 2.54 Å" in small[0] and "4.5 Å" in small[0]
    assert "edge of the supercell" in small[1]
    assert remarks(copper[0], 4.5) == []


def test_flexural_modes_next_to_gamma_are_no_instability():
    """Tiny, and absent at the wave vectors that fit into the supercell."""
    slab = fcc111("Al", (1, 1, 3), a=3.99, vacuum=6.0)
    slab = relax(EMTEngine(), [slab], 1e-4, 100).structures[0]
    constants, found = make(slab, (3, 3, 1), (24, 24, 1))
    fitting = [[i / 3, j / 3, 0] for i in range(3) for j in range(3)]
    assert constants.phonon.run_qpoints(fitting).frequencies.min() > -1e-4
    assert found.imaginary and not found.unstable
    assert all(-0.3 < mode.frequency_THz < 0 and mode.interpolated for mode in found.imaginary)
    verdict = phonon_report("slab", slab, constants, found).verdict
    assert verdict.startswith("Stable: but for") and "next to Γ" in verdict


# --- files and figures


def test_phonopy_reads_its_files(copper, tmp_path):
    constants, found = copper
    write_phonopy_files(constants, found, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == set(FILES)
    from_forces = phonopy.load(tmp_path / "phonopy_params.yaml", primitive_matrix="P")
    from_constants = phonopy.load(
        tmp_path / "phonopy_params.yaml",
        primitive_matrix="P",
        force_constants_filename=tmp_path / "force_constants.hdf5",
    )
    want = constants.phonon.run_qpoints([[0.5, 0, 0.5]]).frequencies
    for loaded in (from_forces, from_constants):
        got = loaded.run_qpoints([[0.5, 0, 0.5]]).frequencies
        np.testing.assert_allclose(got, want, atol=1e-5)
    assert r"- [ '$\Gamma$', 'X' ]" in (tmp_path / "band.yaml").read_text(encoding="ascii")
    dos = np.loadtxt(tmp_path / "total_dos.dat")
    assert np.trapezoid(dos[:, 1], dos[:, 0]) == pytest.approx(3, abs=1e-6)


def test_publishing_is_all_or_nothing(tmp_path):
    with publishing(tmp_path / "new" / "run") as directory:
        (directory / "a").write_text("1")
        assert not (tmp_path / "new" / "run").exists()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["run"]
    for target in (tmp_path / "new" / "run", tmp_path / "other" / "run"):
        with pytest.raises(RuntimeError), publishing(target) as directory:
            (directory / "a").write_text("2")
            raise RuntimeError
    assert (tmp_path / "new" / "run" / "a").read_text() == "1"
    assert not (tmp_path / "other").exists()


def test_figures(copper, bcc, tmp_path):
    for name, (_, found) in {"fcc": copper, "bcc": bcc}.items():
        figure = bands_and_dos(found, name)
        bands, dos = figure.axes[:2]
        assert [t.get_text() for t in bands.get_xticklabels()] == list(found.bands.tick_labels)
        assert sum(line.get_color() == BLUE for line in bands.lines) == 3 * len(
            found.bands.distances
        )
        assert ("UNSTABLE: 1.14i THz" in dos.get_title()) == (name == "bcc")
        assert (bands.get_ylim()[0] < -1) == (name == "bcc")
        png, pdf = save_figure(figure, tmp_path / f"{name}.png")
        assert imread(png).std() > 0.05 and pdf.read_bytes().startswith(b"%PDF")
    figure = thermal_properties(bcc[1].thermal, 1)
    assert "modes left out" in figure.axes[1].get_title()


def test_report_is_json(copper):
    atoms = bulk("Cu", a=3.59)
    values = json.loads(to_json(phonon_report("Cu", atoms, *copper)))
    assert values["verdict"].startswith("Stable") and values["imaginary_modes"] == 0
    assert values["special_points"][1]["label"] == "X"
    assert values["thermal_modes"]["skipped_acoustic"] == 3
