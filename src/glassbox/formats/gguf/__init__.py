"""GGUF, llama.cpp's file format: one file with config, tokenizer, chat template and weights."""

from glassbox.formats.gguf.model import load_gguf, load_gguf_config, save_gguf
from glassbox.formats.gguf.reader import GGUFFile

__all__ = ["GGUFFile", "load_gguf", "load_gguf_config", "save_gguf"]
