"""Glassbox: every part of a large language model, written by hand in PyTorch."""

__version__ = "0.1.0"
