"""Labelling: which structures to compute with a reference method, and computing them.

Read ``queue.py`` first. It and ``labels.py`` need only ASE and NumPy, so that
``python -m nemp_sim.labelling`` runs where torch is not installed. ``candidates.py`` and
``selection.py`` fill the queue with structures that are uncertain, sensible and new;
``report.py`` compares the labels with what the potential had said.
"""
