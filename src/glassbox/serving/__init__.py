"""Serving a model over HTTP. Knows only the engine's streams."""
