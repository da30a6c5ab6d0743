"""Caches, sampling and generation."""

from glassbox.inference.chat import ChatSession, end_of_turn_ids
from glassbox.inference.engine import Completion, Engine, TokenEvent
from glassbox.inference.evaluating import evaluating
from glassbox.inference.sampling import SamplingParams

__all__ = [
    "ChatSession",
    "Completion",
    "Engine",
    "SamplingParams",
    "TokenEvent",
    "end_of_turn_ids",
    "evaluating",
]
