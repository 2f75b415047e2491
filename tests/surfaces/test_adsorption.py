from dataclasses import replace

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from matplotlib.patches import Circle

from nemp_sim.errors import InputError
from nemp_sim.statistics import combination_std
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.adsorption import Candidate, candidates, merged, outcome
from nemp_sim.surfaces.energies import Energies
from nemp_sim.surfaces.plots import energy_levels, site_map
from nemp_sim.surfaces.report import adsorption_report
from nemp_sim.surfaces.sites import all_sites
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.vibrations import Vibrations


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


def test_the_difference_of_two_sites_has_its_own_smaller_std(slab):
    """Members of E_ads of which nearly all is shared: the ± of a difference is what is not."""
    rng = np.random.default_rng(1)
    shared, own = 0.2 * rng.normal(size=64), 0.01 * rng.normal(size=(2, 64))
    members = -1.9 + shared + own
    low, high = (Energies(e, m, None, None) for e, m in zip((-1.9, -1.88), members, strict=True))
    apart, std = high.above(low)
    assert apart == pytest.approx(0.02) and std == pytest.approx(np.std(own[1] - own[0]))
    assert low.std_eV == pytest.approx(np.std(members[0])) and std < 0.1 * low.std_eV
    assert low.above(low) == (0.0, 0.0)
    assert high.above(Energies(-2.0, None, None, None))[1] is None
    hcp = replace(fate(slab, "H", lift(0.0)), site="hcp")
    found = [(hcp, low), (fate(slab, "H", lift(0.0)), high)]
    report = adsorption_report("H", slab, found, 1.0, [])
    assert f"H: hcp, -1.900 ± {low.std_eV:.3f} eV, fcc 0.020 ± {std:.3f} eV above it" in (
        report.verdict
    )
    row = report.sections["Structures"].splitlines()[3]
    assert f"| -1.880 | {high.std_eV:.3f} | 0.020 | {std:.3f} |" in row
    assert "ZPE" not in report.sections["Structures"]
    values = report.data["minima"][1]
    assert values["above_lowest_eV"] == apart and values["above_lowest_std_eV"] == std
    assert values["std_eV"] == high.std_eV and values["adsorption_zpe_eV"] is None


def modes_of(slab, energies_eV):
    """Vibrations with given energies, negative: imaginary."""
    energies = np.array(energies_eV)
    atoms = place(slab, "H", "fcc")
    shapes = np.zeros((len(energies), 13, 3))
    shapes[:, -1, 2] = 1.0
    return Vibrations(atoms, np.array([12]), None, 0.0, energies, shapes, 0, "nothing", "analytic")


def test_zero_point_energies_are_added_and_their_conditions_told(slab):
    gas = {"H2": modes_of(slab, [0.5])}
    low = Energies(-0.5, None, 0.06, modes_of(slab, [0.1, 0.1, 0.1]))
    high = Energies(-0.49, None, 0.03, modes_of(slab, [-0.05, 0.1, 0.1]))
    hcp = replace(fate(slab, "H", lift(0.0)), site="hcp")
    found = [(fate(slab, "H", lift(0.0)), low), (hcp, high)]
    report = adsorption_report("H", slab, found, 1.0, [], gas)
    assert "fcc, -0.500 eV (-0.440 with zero-point energies)." in report.verdict  # hcp: a saddle
    assert "| +0.030 | -0.460 |" in report.sections["Structures"]
    told = "\n".join(report.notes)
    assert "harmonic, analytic second derivatives; 1 of 13 atoms (H) vibrates, the others" in told
    assert "H2 in the gas phase: 4033 cm⁻¹, zero-point energy 0.2500 eV" in told
    assert "With zero-point energies H is lowest at hcp." in told
    assert report.data["gas"]["H2"]["zero_point_eV"] == 0.25
    assert report.data["minima"][0]["adsorption_zpe_eV"] == pytest.approx(-0.44)
    assert "Vibrations of H2 in the gas phase" in report.sections
    axes = energy_levels(found, "H").axes[0]
    styles = [line.get_linestyle() for line in axes.lines if len(line.get_xdata())][:2]
    assert styles == ["-", "--"]
    legend = [text.get_text() for text in energy_levels(found, "H").legends[0].get_texts()]
    assert legend == ["adsorbed", "no minimum (saddle)"]


def test_zero_is_left_out_of_the_figure_where_it_is_far(slab):
    far = [(fate(slab, "CO", lift(0.0)), Energies(e, None, None, None)) for e in (-1.9, -1.8)]
    assert energy_levels(far, "CO").axes[0].get_ylim()[1] < -1.5
    near = [(m, Energies(e.adsorption_eV + 1.8, None, None, None)) for m, e in far]
    low, high = energy_levels(near, "CO").axes[0].get_ylim()
    assert low < -0.1 and high > 0


def test_every_mark_lies_among_all_of_its_neighbours(slab):
    """The atoms drawn nearest to a mark are as near as the nearest periodic images."""
    for site in all_sites(slab)[::2]:
        if site.below:
            continue
        start = Candidate("H", site.label, place(slab, "H", site))
        found = [
            (outcome(slab, start, with_energy(start.atoms), True), Energies(0, None, None, None))
        ]
        axes = site_map(slab, found).axes[0]
        (mark,) = axes.texts
        atoms = np.array([p.center for p in axes.patches if isinstance(p, Circle)])
        drawn = np.sort(np.linalg.norm(atoms - mark.xy, axis=1))
        images = np.array([i * slab.cell[0] + j * slab.cell[1] for i, j in np.ndindex(7, 7)])
        images -= 3 * (slab.cell[0] + slab.cell[1])
        every = (slab.positions[:, None] + images - start.atoms.positions[-1])[..., :2]
        wanted = np.sort(np.linalg.norm(every, axis=-1).ravel())
        near = wanted < 1.9  # farther ones may lie outside of what is drawn
        assert near.sum() >= 3
        np.testing.assert_allclose(drawn[: near.sum()], wanted[near], atol=1e-6)


def test_report_names_what_is_not_to_be_trusted(slab):
    good = fate(slab, "H", lift(0.0))
    bad = fate(slab, "H", lift(0.5), converged=False)
    energies = [
        Energies(-0.5, np.array([-0.4, -0.6]), None, None),
        Energies(-0.4, None, None, None),
    ]
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
    assert mark.get_text() == "1"
    assert beside.texts[0].get_text() == "H, eV\n1  fcc  −0.50"


def test_nothing_bound(slab):
    gone = [(fate(slab, "H", lift(4.0)), Energies(0.0, None, None, None))]
    report = adsorption_report("H", slab, gone, 0.2, [])
    assert "no bound minimum" in report.verdict and not report.data["trusted"]
    assert any("left the surface" in note for note in report.notes)
    energy_levels(gone, "H")
    assert len(site_map(slab, gone).axes[0].texts) == 0
