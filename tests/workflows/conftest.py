"""Fixtures of the workflow tests."""

import pytest

from nemp_sim.checkpoint import save_potential, shipped_directory
from nemp_sim.potential import PotentialMetadata
from tests.engines import EMTEngine


@pytest.fixture
def emt():
    """An engine that knows Pd and H and needs no potential file."""
    return EMTEngine()


@pytest.fixture(scope="session")
def random_file(random_potential, tmp_path_factory):
    """A potential file with random weights for H, C, O and Pd."""
    path = tmp_path_factory.mktemp("potentials") / "random.pt"
    return save_potential(random_potential("smooth").model, PotentialMetadata(), path)


@pytest.fixture
def pdh():
    """The shipped Pd–H potential; a visible skip where it is not there yet."""
    path = shipped_directory() / "pdh.pt"
    if not path.is_file():
        pytest.skip(f"the shipped potential {path} does not exist yet")
    return path
