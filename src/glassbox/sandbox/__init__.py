"""Untrusted Python and untrusted templates in processes of their own."""
