"""LoRA and its variants, bottlenecks, prefix and prompt tuning, as module swaps on a CausalLM."""
