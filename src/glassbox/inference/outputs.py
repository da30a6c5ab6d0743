"""What the engine hands back: whole answers, single tokens, and figures about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True)
class Completion:
    """One answer.

    token_ids: all generated tokens, the stop token included where one ended the answer (training
        on the answer wants it), and those of a stop string.
    text: without stop token and stop string; None without a tokenizer.
    finish_reason: "stop" by a stop token or string, "length" by max_tokens or the model's context.
    log_probs: log softmax(logits)[token] of each, the model's own logits, in float32: no
        temperature, penalty or filter; None unless `logprobs` was asked for.
    sampling_log_probs: log softmax(logits / temperature)[token], still without penalty and filter;
        equal to log_probs at temperature 1 and for greedy.
    stop: the stop string found, if one was.
    prompt_index, sample_index: which prompt, and which of its n answers, this is.
    """

    token_ids: list[int]
    text: str | None
    finish_reason: FinishReason
    log_probs: list[float] | None
    sampling_log_probs: list[float] | None
    stop: str | None
    prompt_index: int
    sample_index: int


@dataclass(frozen=True)
class TokenEvent:
    """One token of a stream, what it adds to the text, and, with the last one, why it ended.

    request_id, sample_index: whose token it is.
    top_log_probs: (token, log-probability) of the likeliest, where they were asked for.
    is_end: the token is one that ends answers and no part of the text, though text that was held
        back may come with it.
    error: what went wrong, in a line, where finish_reason is "error"; token_id is then -1.
    """

    token_id: int
    text: str | None
    log_prob: float | None
    finish_reason: FinishReason | None
    stop: str | None = None
    request_id: int = 0
    sample_index: int = 0
    top_log_probs: list[tuple[int, float]] | None = None
    is_end: bool = False
    error: str | None = None


@dataclass(frozen=True)
class EngineStats:
    """How things stand: sequences in line and at work, the cache's blocks, and counts since the start.

    packed_bytes: memory that packed copies of the weights hold now.
    """

    waiting: int = 0
    running: int = 0
    blocks_total: int = 0
    blocks_free: int = 0
    blocks_cached: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    tokens_generated: int = 0
    drafted: int = 0
    accepted: int = 0
    verifications: int = 0
    packed_bytes: int = 0
