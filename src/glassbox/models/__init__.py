"""ModelConfig, CausalLM, families, and weights in and out."""
