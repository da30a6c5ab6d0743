"""Serving a model. Knows only the engine."""
