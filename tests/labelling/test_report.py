import numpy as np
import pytest
from ase.build import bulk

from nemp_sim.labelling.report import check_labels, label_report
from nemp_sim.report import to_json, to_markdown

COUNTS = {
    "candidates": 10,
    "known": 3,
    "selected": 4,
    "too_certain": 1,
    "already_known": 2,
    "not_reached": 1,
    "refused": {"no atoms": 2},
    "max_uncertainty_eV_per_A": 0.7,
    "least_chosen_uncertainty_eV_per_A": 0.1,
}


def frames(rng, count, shift=0.0, std=None):
    """Structures whose errors have the predicted standard deviations; energies off by a shift."""
    made = []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True)
        sigma = std or 10 ** rng.uniform(-3, 0)
        atoms.arrays["REF_forces"] = rng.normal(size=(4, 3))
        atoms.arrays["nemp_forces"] = atoms.arrays["REF_forces"] + rng.normal(
            scale=sigma, size=(4, 3)
        )
        atoms.arrays["nemp_forces_std"] = np.full((4, 3), sigma)
        atoms.info["REF_energy"] = rng.normal()
        atoms.info["nemp_energy"] = atoms.info["REF_energy"] + shift + rng.normal(scale=0.04)
        made.append(atoms)
    return made


def test_calibrated_uncertainties_are_recognised(rng):
    check = check_labels(frames(rng, 400, shift=8.0))
    assert check.n_structures == 400
    assert check.error_over_std == pytest.approx(1.0, abs=0.05)
    assert check.spearman_structures > 0.9 and 0.7 < check.spearman_atoms < 1.0
    assert check.energy_shift_meV_per_atom == pytest.approx(2000.0, abs=2.0)
    assert check.energy_rmse_about_shift_meV_per_atom == pytest.approx(10.0, rel=0.1)
    assert check.energy_rmse_meV_per_atom == pytest.approx(2000.0, abs=2.0)


def test_force_errors_by_hand(rng):
    made = frames(rng, 2)
    for atoms in made:
        atoms.arrays["nemp_forces"] = atoms.arrays["REF_forces"].copy()
    made[0].arrays["nemp_forces"][0] += [0.3, 0.0, 0.4]
    made[1].arrays["REF_forces"][2] = made[1].arrays["nemp_forces"][2] = [8.0, 0.0, 6.0]
    check = check_labels(made)
    assert check.max_force_label_eV_per_A == pytest.approx(10.0)
    assert check.max_force_error_eV_per_A == pytest.approx(0.5)
    assert check.force_rmse_meV_per_A == pytest.approx(1e3 * np.sqrt(0.25 / 24))


def test_no_rank_correlation_of_two_or_of_equal_values(rng):
    assert check_labels(frames(rng, 2)).spearman_structures is None
    assert check_labels(frames(rng, 5, std=0.1)).spearman_atoms is None


def test_report_says_what_happened(rng):
    check = check_labels(frames(rng, 3))
    report = label_report(COUNTS, check, ["Cu4 (structure 2): did not converge"], 0)
    assert report.verdict == "4 of 10 candidates chosen: 3 labelled, 1 failed, 0 left."
    text = to_markdown(report)
    for wanted in (
        "refused: 2 with no atoms",
        "failed: Cu4 (structure 2): did not converge",
        "| Force RMSE on the labels |",
        "| Largest predicted standard deviation of a force, of all candidates | 0.700 | eV/Å |",
        "errors on them are larger than in everyday use",
    ):
        assert wanted in text
    assert '"refused_total": 2' in to_json(report)


def test_report_without_labels():
    waiting = label_report(COUNTS, None, [], 4)
    assert "0 labelled, 0 failed, 4 left" in waiting.verdict
    assert any("the same command goes on" in note for note in waiting.notes)
    nothing = COUNTS | {"selected": 0, "known": 0, "least_chosen_uncertainty_eV_per_A": None}
    report = label_report(nothing, None, [], 0)
    assert report.verdict.startswith("None of 10 candidates is sensible, uncertain and new")
    assert any("No known structures" in note for note in report.notes)
