"""The training loop, the objective and source protocols, checkpoints."""
