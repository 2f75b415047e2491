"""No unsafe deserialisation, no download, no socket beyond what was asked; SECURITY.md says so."""

import ast
import stat
import tomllib
from pathlib import Path

import pytest

from nemp_sim.files import private_directory

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "nemp_sim").rglob("*.py"))
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load"),
    *("pickle.loads", "yaml.load", "yaml.unsafe_load", "marshal.loads", "shelve.open"),
    *("joblib.load", "dill.load", "dill.loads", "np.memmap", "torch.hub.load", "torch.jit.load"),
}
FORBIDDEN_MODULES = {
    *("dill", "joblib", "marshal", "shelve", "cloudpickle", "requests", "httpx", "ftplib"),
    *("urllib.request", "http.client", "smtplib", "telnetlib", "ssl"),
}
# The Unpickler of the first allows arrays and plain containers alone; the second writes a pickle,
# which LAMMPS asks for, and reads none.
PICKLE = {"nemp_sim/jax_import.py", "nemp_sim/lammps.py"}


def name_of(node):
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def findings(source):
    """Unsafe calls and imports of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in FORBIDDEN_MODULES | {"pickle"})
        elif isinstance(node, ast.ImportFrom) and node.module in FORBIDDEN_MODULES | {"pickle"}:
            yield node.module
        elif isinstance(node, ast.Call):
            name, given = name_of(node.func), {k.arg: k.value for k in node.keywords}
            if name in FORBIDDEN_CALLS:
                yield name
            if name == "torch.load" and not is_true(given.get("weights_only")):
                yield "torch.load without weights_only=True"
            if name in ("np.load", "numpy.load") and is_true(given.get("allow_pickle")):
                yield "np.load with allow_pickle"
            if is_true(given.get("shell")):
                yield f"{name} with shell=True"


def is_true(node):
    return isinstance(node, ast.Constant) and node.value is True


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_unsafe_deserialisation_and_no_network(path):
    found = set(findings(path.read_text("utf-8")))
    if str(path.relative_to(ROOT)) in PICKLE:
        found -= {"pickle"}
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "import urllib.request",
        "torch.hub.load('a', 'b')",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert list(findings(source))


def test_sockets_lie_in_private_directories():
    with private_directory() as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert not path.exists()


def test_the_policy_is_written_down():
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    for word in ("weights_only", "SHA256SUMS", "0700", "--calculator"):
        assert word in text


def pins(name):
    """Versions by package of a file of constraints."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_versions_are_pinned_from_the_oldest_to_those_of_the_tests():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["test"] + extras["scale"]
    wanted.remove("nemp_sim[scale]")  # of the tests
    lowest, tested = pins("constraints-lowest.txt"), pins("constraints.txt")
    assert len(wanted) == len(lowest)
    for requirement in wanted:
        name, bound = requirement.split(">=")
        assert f"{lowest[name]}.".startswith(f"{bound}."), requirement
        assert name in tested
