"""Tiny configs of every family, in Hugging Face's words: a module here adds its own in CASES."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One tiny config in Hugging Face's words.

    tolerance: the largest relative difference from transformers that passes, in float32; looser than
        the default only with a `reason`, and never above 1e-4.
    inert: words of the config that change no output of this model, and that we do not keep.
    unreached: parts of names of weights that only choose, and so get no gradient from the loss.
    their_cache: False where transformers' `generate` loses what the model keeps from step to step; it
        is then given the whole sequence at every step.
    since: the release of transformers from which it computes this model as its authors do; the case is
        skipped with an older one, which is the newest for some Python.
    """

    model_type: str
    words: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-5
    reason: str = ""
    inert: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    their_cache: bool = True
    since: str = ""

    def __post_init__(self) -> None:
        assert self.tolerance <= 1e-5 or (self.reason and self.tolerance <= 1e-4)


def all_cases() -> dict[str, Case]:
    """name -> case, of all modules of this package."""
    found: dict[str, Case] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        cases = importlib.import_module(f"{__name__}.{module.name}").CASES
        assert not found.keys() & cases.keys()
        found |= cases
    return found
