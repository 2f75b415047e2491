"""Every fenced block of Python in the README and in docs/ runs, and every link leads to a file.

A block that cannot run here stands below ``<!-- not run: reason -->``.
"""

import re
from pathlib import Path

import pytest
from ase.build import bulk

from nemp_sim.checkpoint import load_potential
from nemp_sim.reactions.neb import BandSettings, run_neb
from nemp_sim.relax import relax
from nemp_sim.surfaces.adsorbates import place
from nemp_sim.surfaces.slabs import fcc_slab

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"(?:\]\(|src=\")(?!https?:)([^)#\"]+)(?:#[^)]*)?[)\"]")
BLOCK = re.compile(r"(?:<!-- not run: ([^\n]+?) -->\n)?```python\n(.*?)```", re.DOTALL)
OPTIONAL = {"torch_sim", "janus_core"}  # programs that the tests do not install


def blocks():
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            reason, code = match.groups()
            line = text[: match.start(2)].count("\n")
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            yield pytest.param(page, "\n" * line + code, id=f"{page.name}:{line}", marks=marks)


@pytest.fixture(scope="module")
def engine():
    return load_potential("pdh.pt", dtype="float64")


def hydrogen(site):
    return place(fcc_slab(fixed_layers=2), "H", site)


@pytest.fixture
def names(request, engine):
    """What the text around the blocks has introduced."""
    page = request.node.callspec.params["page"].stem
    found = {"engine": engine, "potential": engine, "atoms": hydrogen("fcc")}
    found["list_of_atoms"] = found["structures"] = [hydrogen("fcc"), hydrogen("hcp")]
    found["initial"], found["final"] = hydrogen("fcc"), hydrogen("hcp")
    if page == "phonons":
        found["atoms"] = bulk("Pd", "fcc", a=3.95)
    if page == "rates":
        ends = relax(engine, found["structures"], fmax_eV_per_A=0.01, steps=300).structures
        found["atoms"] = ends[0]
        found["band"] = run_neb(engine, *ends, BandSettings(n_images=5))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not missing


def test_the_site_holds_every_page():
    listed = (ROOT / "mkdocs.yml").read_text()
    assert not [page.name for page in PAGES[2:] if f": {page.name}\n" not in listed]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch-sim and vesin
@pytest.mark.parametrize(("page", "code"), list(blocks()))
def test_blocks_run(page, code, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    try:
        exec(compile(code, str(page), "exec"), names)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")
