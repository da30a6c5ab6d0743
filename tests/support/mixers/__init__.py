"""Every mixer that the common tests hold: a module here adds its own by naming specs in MIXERS."""

from __future__ import annotations

import importlib
import pkgutil
import typing

from glassbox.core.config import Spec
from glassbox.models.config import Mixer

SIZE = 12
"""hidden_size of the common tests."""

UNREACHED = ("indexer.",)
"""Prefixes of parameters that the output's gradient never reaches: the indexer's choice of tokens has
no derivative, and it learns from a loss of its own (held in test_layers_latent.py)."""


def all_mixers() -> dict[str, Spec]:
    """name -> spec: those of all modules of this package, and one of every kind that none names."""
    found: dict[str, Spec] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        mixers = importlib.import_module(f"{__name__}.{module.name}").MIXERS
        assert not found.keys() & mixers.keys()
        found |= mixers
    for kind in mixer_kinds():
        if not any(type(spec) is kind for spec in found.values()):
            found[f"{kind.__name__}, as it comes"] = as_it_comes(kind)
    return found


def mixer_kinds() -> tuple[type[Spec], ...]:
    """The specs of the union in `models.config`: a mixer named there is tested, named here or not."""
    union, *_ = typing.get_args(Mixer)
    return typing.get_args(union)


def as_it_comes(kind: type[Spec]) -> Spec:
    """A spec of this kind with its defaults, and small sizes for what has none."""
    sizes = {"num_heads": 3, "size": 20}
    needed = [name for name, field in kind.model_fields.items() if field.is_required()]
    assert sizes.keys() >= set(needed), f"name a {kind.__name__} in support/mixers: {needed}"
    return kind(**{name: sizes[name] for name in needed})
