"""Caches, sampling and generation."""

from glassbox.inference.chat import ChatSession, end_of_turn_ids
from glassbox.inference.engine import Completion, Engine, TokenEvent
from glassbox.inference.sampling import SamplingParams
from glassbox.inference.wave import evaluating

__all__ = [
    "ChatSession",
    "Completion",
    "Engine",
    "SamplingParams",
    "TokenEvent",
    "end_of_turn_ids",
    "evaluating",
]
