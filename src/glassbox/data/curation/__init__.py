"""Curation: messy text in, clean, deduplicated documents out, and a count of everything dropped."""
