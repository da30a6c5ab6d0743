"""Graders of completions, and their specs in recipes."""
