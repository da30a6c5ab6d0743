"""Generation: engine, scheduler, caches, sampling, search, speculative decoding."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glassbox.inference.chat import ChatPrompts, ChatSession, end_of_turn_ids
    from glassbox.inference.constraints.specs import Choice, JsonSchema, Regex, json_object
    from glassbox.inference.engine import Completion, Engine, TokenEvent
    from glassbox.inference.sampling.params import SamplingParams
    from glassbox.inference.search.beam import BeamParams
    from glassbox.inference.search.contrastive import ContrastiveParams
    from glassbox.inference.search.run import SearchResult
    from glassbox.inference.speculation.draft_model import DraftModel
    from glassbox.inference.speculation.proposers import NgramProposer

_PLACES = {
    "BeamParams": "glassbox.inference.search.beam",
    "ChatPrompts": "glassbox.inference.chat",
    "ChatSession": "glassbox.inference.chat",
    "Choice": "glassbox.inference.constraints.specs",
    "Completion": "glassbox.inference.engine",
    "ContrastiveParams": "glassbox.inference.search.contrastive",
    "DraftModel": "glassbox.inference.speculation.draft_model",
    "Engine": "glassbox.inference.engine",
    "JsonSchema": "glassbox.inference.constraints.specs",
    "NgramProposer": "glassbox.inference.speculation.proposers",
    "Regex": "glassbox.inference.constraints.specs",
    "SamplingParams": "glassbox.inference.sampling.params",
    "SearchResult": "glassbox.inference.search.run",
    "TokenEvent": "glassbox.inference.engine",
    "end_of_turn_ids": "glassbox.inference.chat",
    "json_object": "glassbox.inference.constraints.specs",
}

__all__ = [
    "BeamParams",
    "ChatPrompts",
    "ChatSession",
    "Choice",
    "Completion",
    "ContrastiveParams",
    "DraftModel",
    "Engine",
    "JsonSchema",
    "NgramProposer",
    "Regex",
    "SamplingParams",
    "SearchResult",
    "TokenEvent",
    "end_of_turn_ids",
    "json_object",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for, so that a recipe can be read without the engine."""
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_PLACES[name]), name)
