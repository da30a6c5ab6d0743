"""Perplexity, tasks, scoring, standard errors."""
