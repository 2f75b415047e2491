import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from matplotlib.patches import Circle

from nemp_sim.errors import InputError
from nemp_sim.statistics import combination_std
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.adsorption import Candidate, candidates, merged, outcome
from nemp_sim.surfaces.plots import energy_levels, site_map
from nemp_sim.surfaces.report import Energies, adsorption_report
from nemp_sim.surfaces.sites import all_sites
from nemp_sim.surfaces.slabs import fcc_slab


def with_energy(atoms, energy=-1.0):
    atoms = atoms.copy()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((len(atoms), 3)))
    return atoms


@pytest.fixture(scope="module")
def slab():
    return fcc_slab()


def fate(slab, name, change, converged=True, energy=-1.0):
    start = Candidate(name, "fcc", place(slab, name, "fcc"))
    end = start.atoms.copy()
    end.set_constraint()
    change(end)
    return outcome(slab, start, with_energy(end, energy), converged)


def lift(height):
    def change(atoms):
        atoms.positions[12:, 2] += height

    return change


def stretch(atoms):
    atoms.positions[-1] += [1.5, 0, 0.5]


def push_metal(atoms):
    atoms.positions[9, 2] += 1.2


@pytest.mark.parametrize(
    ("name", "change", "converged", "state"),
    [
        ("CO", lift(0.0), True, "adsorbed"),
        ("CO", lift(0.5), True, "adsorbed"),
        ("CO", lift(3.0), True, "desorbed"),
        ("CO", lift(3.0), False, "not converged"),
        ("CO", stretch, True, "dissociated"),
        ("CO", push_metal, True, "surface changed"),
        ("H", lift(-1.9), True, "absorbed"),
    ],
)
def test_fates(name, change, converged, state, slab):
    assert fate(slab, name, change, converged).state == state


def test_geometry_of_a_minimum(slab):
    found = fate(slab, "CO", lift(0.0))
    assert found.site == "fcc" and found.offset_A < 1e-9
    assert found.bond_lengths_A == {"C–O": (1.151,)} or found.bond_lengths_A["C–O"][0] < 1.2
    top = slab.positions[:, 2].max()
    assert found.height_A == pytest.approx(found.atoms.positions[12, 2] - top)
    lateral = 3.95 / np.sqrt(6)
    assert found.metal_distance_A == pytest.approx(np.hypot(lateral, found.height_A))


def test_candidates_cover_all_distinct_sites(slab):
    starts = [(c.adsorbate, c.start) for c in candidates(slab, ["H", "OH"])]
    kinds = ["top", "bridge", "fcc", "hcp"]
    assert starts[:4] == [("H", kind) for kind in kinds]
    assert starts[4:] == [("OH", f"{kind} {turn}°") for kind in kinds for turn in (0, 90)]
    below = candidates(slab, ["H", "CO"], ["fcc", "sub_oct"])
    assert [(c.adsorbate, c.start) for c in below] == [
        ("H", "fcc"),
        ("H", "sub_oct"),
        ("CO", "fcc"),
    ]
    with pytest.raises(InputError, match="adsorbate is 'N2'"):
        candidates(slab, ["N2"])


def test_alike_by_symmetry_are_one_and_others_are_not(slab):
    minima = []
    for number, site in enumerate(all_sites(slab)):
        if site.kind in ("fcc", "hcp"):
            start = Candidate("H", f"{site.kind}{number}", place(slab, "H", site))
            energy = -1.0 if site.kind == "fcc" else -1.001
            minima.append(outcome(slab, start, with_energy(start.atoms, energy), True))
    assert len(minima) == 8
    kept = merged(slab, minima)  # energies nearly equal: geometry tells fcc from hcp
    assert sorted((m.site, len(m.starts)) for m in kept) == [("fcc", 4), ("hcp", 4)]
    apart = [minima[0], fate(slab, "H", lift(0.0), energy=-1.02)]
    assert len(merged(slab, apart)) == 2  # energies differ


def test_turned_molecules_are_matched_atom_by_atom(slab):
    ends = []
    for turn in (0.0, 120.0, 60.0):
        start = Candidate("OH", str(turn), place(slab, "OH", "fcc", azimuth_degree=turn))
        ends.append(outcome(slab, start, with_energy(start.atoms), True))
    assert sorted(m.starts for m in merged(slab, ends)) == [("0.0", "120.0"), ("60.0",)]


def test_shared_errors_cancel_in_differences():
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=1000), 0.1 * rng.normal(size=(2, 1000))
    members = np.array([shared + own[0], shared + own[1]])
    assert combination_std(members, [1, -1]) == pytest.approx(np.std(own[0] - own[1]))
    assert combination_std(members, [1, 1]) > 1.5


def test_report_names_what_is_not_to_be_trusted(slab):
    good = fate(slab, "H", lift(0.0))
    bad = fate(slab, "H", lift(0.5), converged=False)
    energies = [Energies(-0.5, 0.1, None, None), Energies(-0.4, None, None, None)]
    found = list(zip([good, bad], energies, strict=True))
    report = adsorption_report("H on Pd(111)", slab, found[:1], 0.2, [])
    assert report.data["trusted"] and "fcc, -0.500 ± 0.100 eV" in report.verdict
    assert any("− 0.5 E(H2); negative: bound" in note for note in report.notes)
    report = adsorption_report("H on Pd(111)", slab, found, 0.05, [])
    assert not report.data["trusted"]
    assert (
        "NOT CONVERGED: H from fcc" in report.verdict and "UNCERTAIN: above 0.05" in report.verdict
    )
    axes = energy_levels(found, "H on Pd(111)").axes[0]
    assert [text.get_text() for text in axes.texts] == ["fcc  −0.50"]
    assert "eV" in axes.get_ylabel()
    surface, beside = site_map(slab, found).axes
    (mark,) = surface.texts
    assert mark.get_text() == "1" and beside.texts[0].get_text() == "H, eV\n1  fcc  −0.50"
    atoms = np.array([p.center for p in surface.patches if isinstance(p, Circle)])
    to_metal = np.sort(np.linalg.norm(atoms - mark.xy, axis=1))
    wanted = np.linalg.norm((slab.positions - good.atoms.positions[-1])[:, :2], axis=1)
    np.testing.assert_allclose(to_metal, np.sort(wanted), atol=1e-6)


def test_nothing_bound(slab):
    gone = [(fate(slab, "H", lift(4.0)), Energies(0.0, None, None, None))]
    report = adsorption_report("H", slab, gone, 0.2, [])
    assert "no bound minimum" in report.verdict and not report.data["trusted"]
    assert any("left the surface" in note for note in report.notes)
    energy_levels(gone, "H")
    assert len(site_map(slab, gone).axes[0].texts) == 0
