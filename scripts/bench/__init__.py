"""Shared parts of the benchmarks: networks, data, PyTorch's methods for per-sample gradients, measuring, writing."""
