"""The composition root: one command a file, no logic."""
