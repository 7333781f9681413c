"""Pallas kernels: one package per op; imports jax only, never jgraph."""
