"""Kernels that are wrong or fail are not used."""

from dataclasses import replace

import pytest
import torch

from nemp_sim.errors import InputError
from nemp_sim.kernels import choice, self_check
from nemp_sim.kernels.choice import KernelWarning, choose_checked


@pytest.fixture
def model(random_potential):
    return random_potential("smooth").model


def scaled(model, factor):
    """The features of ``model`` with the densities wrong by ``factor``."""

    def describe(graph):
        density, *rest = model.describe(graph)
        return density * factor, *rest

    return describe


def test_equal_forms_agree(model):
    assert self_check.fault(model, scaled(model, 1.0), None, "fp16x3") == ""


@pytest.mark.parametrize(
    ("factor", "precision"), [(1.01, "fp16x3"), (2.5, "bf16"), (float("nan"), "bf16")]
)
def test_wrong_features_are_found(model, factor, precision):
    assert "differ from the plain form" in self_check.fault(
        model, scaled(model, factor), None, precision
    )


def test_rounded_products_may_differ_more(model):
    assert self_check.fault(model, scaled(model, 1.0001), None, "bf16") == ""


def test_failing_kernels_are_found(model):
    def describe(graph):
        raise RuntimeError("an illegal memory access was encountered")

    assert "illegal memory access" in self_check.fault(model, describe, None, "fp16x3")


def test_a_wrong_step_is_found(model):
    graph = self_check.sample(model)
    right = self_check.differentiate(model, graph, forces=True, stress=False)
    wrong = replace(right, forces=1.01 * right.forces)

    def step(graph, *, forces, stress):
        return wrong, None, None

    assert "differ" in self_check.fault(model, scaled(model, 1.0), step, "fp16x3")


class OnCuda:
    """A network that says that it is on a GPU."""

    def __init__(self, model):
        self.model, self.species_mix = model, type("Weights", (), {"is_cuda": True})()

    def __getattr__(self, name):
        return getattr(self.model, name)


@pytest.fixture
def broken(monkeypatch):
    """Kernels that were chosen and fail their check."""

    def choose(model, kernel, precision):
        return ("plain", "reference") if kernel == "reference" else ("kernels", "fused (fp16x3)")

    monkeypatch.setattr(choice, "choose", choose)
    monkeypatch.setattr(choice, "direct", lambda describe, limits: object())
    monkeypatch.setattr(self_check, "fault", lambda *_: "the kernels differ")


def test_auto_takes_the_plain_form_and_says_so(model, broken):
    with pytest.warns(KernelWarning, match="the kernels differ"):
        describe, name, step = choose_checked(OnCuda(model), "auto", "fp16x3", torch.zeros(1))
    assert (describe, step) == ("plain", None)
    assert name == "reference (the kernels differ)"


def test_fused_is_refused(model, broken):
    with pytest.raises(InputError, match="the kernels differ"):
        choose_checked(OnCuda(model), "fused", "fp16x3", torch.zeros(1))
