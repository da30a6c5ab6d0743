"""The nn.Modules that a model is made of, built on ops."""
