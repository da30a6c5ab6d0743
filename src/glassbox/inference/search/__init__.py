"""Beam search and contrastive search."""
