"""Runs ``nemp_sim/workflows/pimd.py``, as ``nemp pimd`` does."""

from nemp_sim.workflows.pimd import app

if __name__ == "__main__":
    app()
