"""The kinds of run, one file a kind: what its recipe says, and what it builds for the one loop."""
