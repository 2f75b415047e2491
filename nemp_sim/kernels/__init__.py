"""Fused GPU kernels of the network, whose plain form in ``model.py`` is their oracle.

Read ``fused.py`` first: it strings together the kernels of the edge networks (``edge_mlp.py``,
``triton_mlp.py``) and of the sums over edges (``triton_forward.py``, ``triton_backward.py``).
``choice.py`` says when they run.
"""
