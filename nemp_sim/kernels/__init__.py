"""Fused GPU kernels of the network; the plain form in ``model.py`` is their oracle."""
