"""From recipes to runs: stages, the quickstart, evaluation, curation."""
