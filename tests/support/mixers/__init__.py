"""Every mixer that the common tests hold: a module here adds its own by naming specs in MIXERS."""

from __future__ import annotations

import importlib
import pkgutil

from glassbox.core.config import Spec

SIZE = 12
"""hidden_size of the common tests."""

UNREACHED = ("indexer.",)
"""Prefixes of parameters that the output's gradient never reaches: the indexer's choice of tokens has
no derivative, and it learns from a loss of its own (held in test_layers_latent.py)."""


def all_mixers() -> dict[str, Spec]:
    """name -> spec, of all modules of this package."""
    found: dict[str, Spec] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        mixers = importlib.import_module(f"{__name__}.{module.name}").MIXERS
        assert not found.keys() & mixers.keys()
        found |= mixers
    return found
