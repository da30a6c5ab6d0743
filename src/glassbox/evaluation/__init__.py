"""Perplexity, tasks, scoring: every figure with its standard error and n."""

from glassbox.evaluation.hooks import LossHook, SampleHook
from glassbox.evaluation.perplexity import Text, TextScore, make_text, score_texts
from glassbox.evaluation.scoring import token_log_probs
from glassbox.evaluation.stats import Estimate
from glassbox.evaluation.storyworld import Limits, evaluate_story_world
from glassbox.evaluation.text import evaluate_text

__all__ = [
    "Estimate",
    "Limits",
    "LossHook",
    "SampleHook",
    "Text",
    "TextScore",
    "evaluate_story_world",
    "evaluate_text",
    "make_text",
    "score_texts",
    "token_log_probs",
]
