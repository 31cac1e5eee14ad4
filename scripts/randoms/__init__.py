"""Random networks: what a seed stands for."""
