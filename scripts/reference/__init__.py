"""PyTorch models, float64 gradients and scores that the project's own results are held against."""
