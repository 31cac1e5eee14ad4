"""Architectures of many frameworks, exported, and gradalign's gradients held against the frameworks' own."""
