from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from nemp_sim.errors import InputError
from nemp_sim.reactions.instanton import Instanton
from nemp_sim.reactions.kinetics import rates
from nemp_sim.reactions.neb import BandSettings, run_neb
from nemp_sim.reactions.neb_report import with_reaction
from nemp_sim.reactions.path_std import path_std
from nemp_sim.reactions.plots import arrhenius_figure
from nemp_sim.reactions.reaction import analyse, deuterated
from nemp_sim.reactions.reaction_report import data, rate_table, sections, sentences
from nemp_sim.relax import relax
from nemp_sim.report import Report
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from nemp_sim.vibrations import vibrations
from nemp_sim.workflows.neb import Result, Settings
from tests.engines import EMTEngine
from tests.reactions.test_neb import MuellerBrown

TEMPERATURES = (150.0, 300.0, 600.0)


@pytest.fixture(scope="module")
def band():
    slab = fcc_slab()
    start = [place(slab, "H", "fcc"), place(slab, "H", "hcp")]
    ends = relax(EMTEngine(), start, 0.02, 200).structures
    return run_neb(EMTEngine(), *ends, BandSettings(5, fmax_eV_per_A=0.05))


@pytest.fixture(scope="module")
def found(band):
    return analyse(EMTEngine(), band, TEMPERATURES)


def test_the_chain_from_band_to_rate(found, band):
    assert found.problems == () and found.proof.holds
    assert found.barriers_eV[0] == pytest.approx(band.barrier_forward_eV, abs=2e-3)
    assert found.std is None  # EMT has no ensemble
    assert [modes.n_imaginary for modes in found.modes] == [0, 1, 0]
    again = rates(*found.modes, found.energies_eV, TEMPERATURES)
    for name, series in found.rates.rate_per_s.items():
        np.testing.assert_allclose(series, again.rate_per_s[name])
    assert found.rates.barrier_eV == pytest.approx(found.barriers_eV[0])


def test_a_rate_is_known_within_a_factor_by_the_std_of_its_barrier(found):
    stds = path_std(np.array([[0.0, 0.0], [0.13, 0.09], [0.01, 0.03]]), top=1)
    assert stds.forward_eV == pytest.approx(0.02)
    known = replace(found, std=stds)
    factor = np.exp(0.02 / (8.617333e-5 * 300))
    report = with_reaction(Report("t", "v", ()), known, max_std_eV=0.2)
    forward = known.barriers_eV[0]
    assert f"Barrier {forward:.3f} ± 0.020 eV forward" in report.verdict
    assert f"within a factor of {factor:.1f} by the ± of the barrier" in report.verdict
    assert f"| {factor:.1f} |" in report.sections["Rate constants, 1/s"]
    values = {q.key: q.value for q in report.quantities}
    assert values["saddle_barrier_forward_std_eV"] == stds.forward_eV
    assert "within a factor" not in with_reaction(Report("t", "v", ()), found, 0.2).verdict


def test_deuterium_has_its_own_modes_from_the_same_hessian(found):
    assert found.heavy is not None
    heavy = found.states[1].copy()
    heavy.set_masses(deuterated(heavy, found.modes[1].indices))
    assert heavy.get_masses()[12] == pytest.approx(2.014, abs=1e-3)
    direct = vibrations(EMTEngine(), heavy)
    assert -direct.energies_eV[0] == pytest.approx(found.heavy.imaginary_eV, rel=1e-6)
    ratio = found.rates.imaginary_eV / found.heavy.imaginary_eV
    assert ratio == pytest.approx(np.sqrt(2.0141 / 1.008), abs=0.02)
    assert deuterated(Atoms("Pd2"), np.arange(2)) is None


def test_chosen_atoms_vibrate(band):
    found = analyse(EMTEngine(), band, TEMPERATURES, vibrating=[12])
    assert len(found.modes[0].energies_eV) == 3 and found.problems == ()


def test_instantons_stand_in_the_report(found):
    path = Instanton(60.0, 32, (), 20.0, 1.3, 10.0, 5e3, True, 9)
    lost = replace(path, converged=False, temperature_K=40.0)
    with_paths = replace(found, instantons=(path, lost))
    table = sections(with_paths)["Instanton rates"].splitlines()
    assert "| 60 | 5.00e+03 | 20.00 |" in table[2] and "NOT CONVERGED" in table[3]
    values = data(with_paths)["instantons"]
    assert values[0]["rate_per_s"] == 5e3 and values[1]["rate_per_s"] is None


def test_an_instanton_above_the_crossover_is_missing_and_the_rates_stay(band):
    found = analyse(EMTEngine(), band, TEMPERATURES, [12], instanton_temperatures_K=[5000.0])
    assert found.rates is not None and found.instantons == ()
    assert found.too_hot_K == found.missing_instantons_K == (5000.0,)
    (said,) = (note for note in sentences(found) if note.startswith("NO INSTANTON at 5000 K"))
    limit = 0.97 * found.rates.crossover_K
    assert f"up to {limit:.0f} K" in said and data(found)["no_instanton_K"] == (5000.0,)
    result = Result(Settings(), None, None, None, True, found)
    assert not result.trusted and replace(result, reaction=replace(found, too_hot_K=())).trusted


def test_an_end_that_is_no_minimum_is_named(band):
    surface = MuellerBrown()
    a, c = surface.stationary(-0.56, 1.44), surface.stationary(0.21, 0.29)
    ends = [Atoms("H", [[*xy, 0.0]]) for xy in (a, c)]
    path = run_neb(surface, *ends, BandSettings(7, 0.05))
    found = analyse(surface, path, TEMPERATURES)
    assert found.rates is None
    assert any("of the final state" in p and "not a minimum" in p for p in found.problems)


def test_a_wrong_saddle_is_not_proved(band):
    found = analyse(EMTEngine(), replaced_saddle(band), TEMPERATURES)
    assert found.rates is None and found.problems


def replaced_saddle(band):
    return replace(band, saddle_index=0)


def test_table_and_figure(found):
    table = rate_table(found.rates, found.heavy, 0.05)
    lines = table.splitlines()
    assert len(lines) == 2 + len(TEMPERATURES) and "k(H)/k(D)" in lines[0]
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    figure = arrhenius_figure(found.rates, found.heavy, "H on Pd(111)")
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[:4] == ["classical", "quantum, no tunnelling", "Wigner", "Eckart"]
    assert len(arrhenius_figure(found.rates, None, "H").axes) == 1


def test_temperatures_must_be_positive(band):
    with pytest.raises(InputError, match="temperatures is"):
        analyse(EMTEngine(), band, [])
