"""Perplexity, tasks, scoring: every figure with its standard error and n."""
