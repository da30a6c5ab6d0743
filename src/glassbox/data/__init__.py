"""Where text comes from and what becomes of it."""
