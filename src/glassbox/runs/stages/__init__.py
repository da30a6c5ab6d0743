"""The kinds of runs, one file each: the recipe, and the parts that it builds for the training loop."""
