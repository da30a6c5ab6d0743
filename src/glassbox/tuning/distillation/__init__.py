"""Distillation: logits, hidden states, on-policy, sequence level."""
