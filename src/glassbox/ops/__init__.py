"""Pure tensor functions, each in a plain and a fast version. No modules, no state."""
