"""Evaluation tasks: what is asked of a model, how its answers are judged, and the result files."""
