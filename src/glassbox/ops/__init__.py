"""Pure tensor functions, plain and fast. No modules, no state."""
