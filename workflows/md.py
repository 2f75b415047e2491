"""Runs ``nemp_sim/workflows/md.py``, as ``nemp md`` does."""

from nemp_sim.workflows.md import app

if __name__ == "__main__":
    app()
