"""Data sources, curation, packing, token shards and batch loaders."""
