"""Caches, sampling and generation."""

from glassbox.inference.chat import ChatSession, end_of_turn_ids
from glassbox.inference.constraints.specs import Choice, JsonSchema, Regex, json_object
from glassbox.inference.engine import Completion, Engine, TokenEvent
from glassbox.inference.evaluating import evaluating
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.search.beam import BeamParams
from glassbox.inference.search.contrastive import ContrastiveParams
from glassbox.inference.search.run import SearchResult, search
from glassbox.inference.speculation.draft_model import DraftModel
from glassbox.inference.speculation.proposers import NgramProposer

__all__ = [
    "BeamParams",
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
    "evaluating",
    "json_object",
    "search",
]
