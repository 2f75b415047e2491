"""The ± of barriers and reaction energies are those of differences, member by member."""

import numpy as np
import pytest

from nemp_sim.reactions.neb import BandSettings, run_neb
from nemp_sim.reactions.path_std import band_stds, path_std
from nemp_sim.reactions.plots import neb_profile
from nemp_sim.relax import relax
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab
from tests.engines import CommitteeEMT, EMTEngine


@pytest.fixture(scope="module")
def band():
    slab = fcc_slab()
    start = [place(slab, "H", "fcc"), place(slab, "H", "hcp")]
    ends = relax(EMTEngine(), start, 0.02, 200).structures
    return run_neb(EMTEngine(), *ends, BandSettings(3, fmax_eV_per_A=0.1))


def test_what_the_structures_share_cancels(band):
    engine = CommitteeEMT()
    (std,) = band_stds(engine, [band])
    assert engine.batches == [5]
    x = np.array([image.positions[-1, 0] for image in band.images])
    slope = engine.slopes.std()
    np.testing.assert_allclose(std.energies_eV, slope * np.abs(x - x[0]), atol=1e-9)
    top = band.saddle_index
    assert std.forward_eV == pytest.approx(slope * abs(x[top] - x[0]))
    assert std.reverse_eV == pytest.approx(slope * abs(x[top] - x[-1]))
    assert std.reaction_eV == pytest.approx(slope * abs(x[-1] - x[0]))
    assert std.barrier_eV == max(std.forward_eV, std.reverse_eV) < 1 < engine.shared.std()


def test_several_bands_in_one_call_and_engines_without_members(band, random_potential):
    engine = CommitteeEMT()
    one, other = band_stds(engine, [band, band])
    assert engine.batches == [10] and one.forward_eV == other.forward_eV
    assert band_stds(EMTEngine(), [band, band]) == [None, None]
    assert path_std(None, 1) is None
    potential = random_potential("smooth", n_members=6)
    (std,) = band_stds(potential, [band])
    members = potential.evaluate(list(band.images)).energy_members
    assert std.reaction_eV == pytest.approx(np.std(members[-1] - members[0]))


def test_the_figure_prints_and_draws_them(band):
    (std,) = band_stds(CommitteeEMT(), [band])
    (axes,) = neb_profile(band, ("fcc", "hcp"), std).axes
    wanted = f"{band.barrier_forward_eV:.3f} ± {std.forward_eV:.3f} eV"
    assert any(wanted in text.get_text() for text in axes.texts)
    (drawn,) = (part for part in axes.collections if part.get_label().startswith("± 1"))
    corners = drawn.get_paths()[0].vertices
    at_end = corners[np.isclose(corners[:, 0], band.path_length_A[-1])][:, 1]
    assert np.ptp(at_end) == pytest.approx(2 * std.reaction_eV, abs=1e-9)
