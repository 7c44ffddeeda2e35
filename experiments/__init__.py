"""Runnable studies: `python -m experiments.NAME`, one file each."""
