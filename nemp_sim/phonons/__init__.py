"""Phonons of crystals, slabs and molecules: phonopy driven by batched displacements.

Read ``force_constants.py`` first, then ``spectra.py``, which makes bands, densities of states and
thermal properties of them. ``analyses.py`` runs everything else that the workflow offers; each of
the other modules is one such analysis, its figures or its files.
"""
