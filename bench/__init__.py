"""Benchmarks: `tandem bench NAME` runs the `run` of ``bench/NAME.py``."""
