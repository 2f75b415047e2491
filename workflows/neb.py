"""Runs ``nemp_sim/workflows/neb.py``, as ``nemp neb`` does."""

from nemp_sim.workflows.neb import app

if __name__ == "__main__":
    app()
