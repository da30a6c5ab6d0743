"""Configuration, run folders, metrics, devices, process groups, seeding. Knows no language model."""
