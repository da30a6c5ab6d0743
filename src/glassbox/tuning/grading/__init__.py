"""Graders of completions, and how a recipe names them."""
