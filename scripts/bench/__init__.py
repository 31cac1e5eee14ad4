"""What the benchmarks share: networks, data, PyTorch's ways to per-sample gradients, measuring, writing."""
