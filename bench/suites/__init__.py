"""Benchmarks, run by pytest: one file an op or a part of the library."""
