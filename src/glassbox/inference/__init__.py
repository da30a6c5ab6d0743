"""Caches, sampling and generation."""

from glassbox.inference.beam import BeamParams
from glassbox.inference.chat import ChatSession, end_of_turn_ids
from glassbox.inference.constraints import Choice, JsonSchema, Regex, json_object
from glassbox.inference.contrastive import ContrastiveParams
from glassbox.inference.draft_model import DraftModel
from glassbox.inference.engine import Completion, Engine, TokenEvent
from glassbox.inference.evaluating import evaluating
from glassbox.inference.sampling import SamplingParams
from glassbox.inference.search import SearchResult, search
from glassbox.inference.speculation import NgramProposer

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
