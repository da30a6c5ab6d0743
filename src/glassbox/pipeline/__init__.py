"""The stages of a model's life, composed: recipes, quickstart, report."""
