"""The studio: a page on this machine for chatting with models and watching what they compute."""
