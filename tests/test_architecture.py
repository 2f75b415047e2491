"""The imports of the package: no cycles, and each subpackage needs only those that it may."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import nemp_sim

HOUSE = Path(nemp_sim.__file__).parent
MODULES = {
    ".".join(path.relative_to(HOUSE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in HOUSE.rglob("*.py")
}
MAY_IMPORT = {  # besides modules of the top level
    "kernels": set(),
    "validation": set(),
    "training": set(),
    "labelling": set(),
    "md": set(),
    "surfaces": set(),
    "reactions": set(),
    "ipi": set(),
    "phonons": {"surfaces"},
    "pathintegral": {"surfaces", "ipi"},
    "workflows": {
        *("surfaces", "reactions", "md", "phonons", "ipi", "pathintegral", "labelling", "training"),
    },
}
ABOVE = {  # modules that import subpackages
    "cli": {"training", "ipi", "validation", "workflows"},
    "systems": {"surfaces"},
    "potential": {"kernels"},
    "memory": {"kernels"},
    "padding": {"kernels"},
    "resident": {"kernels"},
}


def imports_of(path):
    """Modules of the package that a module imports anywhere, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in full}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.partition(".")[0] == "nemp_sim"}


def test_every_subpackage_is_listed():
    assert {path.parent.name for path in HOUSE.glob("*/__init__.py")} == {*MAY_IMPORT}


def test_no_cycles():
    graph = {name: imports_of(path) - {"nemp_sim"} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", MODULES)
def test_imports_are_allowed(name):
    imported = imports_of(MODULES[name])
    assert imported <= MODULES.keys()
    part = name.removeprefix("nemp_sim").lstrip(".").partition(".")[0]
    allowed = {part, *MAY_IMPORT.get(part, ABOVE.get(part, set()))}
    packages = {parts[1] for parts in (name.split(".") for name in imported) if len(parts) > 1}
    assert (packages & MAY_IMPORT.keys()) <= allowed


def test_the_calculator_is_imported_without_what_it_does_not_need():
    """``ase.io`` alone is a fifth of the import time; the others are much more."""
    code = "import sys; from nemp_sim import NEMP; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    unwanted = {"ase.io", "scipy.integrate", "matplotlib", "phonopy", "ipi", "typer", "distributed"}
    assert not unwanted & set(loaded)
