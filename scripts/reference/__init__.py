"""Reference PyTorch models, float64 gradients and scores."""
