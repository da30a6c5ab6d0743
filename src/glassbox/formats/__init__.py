"""Model files: reading and writing Hugging Face folders, GGUF, llama2.c, PEFT and checkpoints."""
