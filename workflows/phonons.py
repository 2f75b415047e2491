"""Runs ``nemp_sim/workflows/phonons.py``, as ``nemp phonons`` does."""

from nemp_sim.workflows.phonons import app

if __name__ == "__main__":
    app()
