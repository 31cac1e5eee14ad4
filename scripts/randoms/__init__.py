"""Random networks, each defined by a seed."""
