"""The nn.Modules of a model, each with the spec that builds it."""
