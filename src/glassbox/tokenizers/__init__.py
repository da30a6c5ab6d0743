"""Text to ids and back: byte-level BPE, pre-tokenization, chat templates."""
