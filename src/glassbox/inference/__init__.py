"""Caches, sampling and generation."""
