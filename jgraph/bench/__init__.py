"""Benchmarks: every number beside its rival, measured in the same run, correctness first."""
