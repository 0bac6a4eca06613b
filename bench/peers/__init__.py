"""Other implementations of the same ops, with which the benchmarks compare ours."""
