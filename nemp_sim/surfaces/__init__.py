"""Surfaces: slabs, their sites, molecules on them, and adsorption energies.

Read ``slabs.py`` first, then ``sites.py`` and ``adsorbates.py``, which build on it;
``adsorption.py`` relaxes every site at once and ``report.py`` says what was found.
"""
