"""The model in the box: `glassbox chat storyteller`, `glassbox.load("storyteller")`.

Its weights (bfloat16), tokenizer and chat template are in `model/`; `recipe.yaml` made it, and README.md says how good it is.
Code is in none of them.
"""
