"""Constrained output: JSON schemas, regular expressions and choices as token masks."""
