"""Sampling: parameters, filters, penalties, random numbers."""
