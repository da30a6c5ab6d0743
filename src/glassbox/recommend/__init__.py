"""Playlists as sentences: item vectors, playlist models, and baselines that they must beat."""
