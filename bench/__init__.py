"""Benchmarks: `pytest bench` runs them here, `python -m bench.gpu` runs those of the kernels on a GPU."""
