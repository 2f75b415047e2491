"""Training: labelled frames in, a potential file with its measured errors out.

Read ``train.py`` first: from the settings file to the report. ``data.py`` and ``job.py`` read and
check what the user gives, ``tables.py`` makes batches of it, ``trainer.py`` holds one step,
``run.py`` the loop over epochs, and ``accuracy.py`` what came out.
"""
