"""The workflows, one file each; start with ``neb.py``. ``workflows/neb.py`` runs it."""
