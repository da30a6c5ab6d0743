"""How a run is spread over ranks: the `parallel` key of a recipe."""
