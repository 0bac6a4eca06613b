"""Benchmarks: `pytest bench` runs all, `python -m clippo.bench.gpu` those of the kernels on a GPU."""
