"""Fused GPU kernels of the network, whose plain form in ``model.py`` is their oracle.

Read ``fused.py`` first: it strings the kernels of ``triton_forward.py`` and ``triton_backward.py``
together. ``choice.py`` says when they run.
"""
