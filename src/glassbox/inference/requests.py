"""A request on its way through the engine: what is asked for, the state of each of its samples, and what comes out."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from glassbox.core.errors import UserError
from glassbox.inference.constraints.grammar import ConstraintMatcher
from glassbox.inference.detokenizer import TextStream, decode
from glassbox.inference.plan import SequenceState
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.sampler import SamplingRow, check_bias

if TYPE_CHECKING:
    from glassbox.tokenizers.tokenizer import Tokenizer


FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True)
class Completion:
    """One completion.

    token_ids: all generated tokens, including the stop token where one ended the completion
        (training needs it) and those of a stop string.
    text: without stop token and stop string; None without a tokenizer.
    finish_reason: "stop" by a stop token or string, "length" by max_tokens or the model's context.
    log_probs: log softmax(logits)[token] of each, of the model's raw logits in float32, before
        temperature and logits processors (but after guidance); None unless `logprobs` was requested.
    sampling_log_probs: log softmax(logits / temperature)[token], still without penalty and filter;
        equal to log_probs at temperature 1 and for greedy.
    stop: the stop string found, if one was.
    prompt_index, sample_index: which prompt, and which of its n samples, this is.
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
    """One token of a stream, the text it adds, and, with the last one, the finish reason.

    request_id, sample_index: the sample it belongs to.
    top_log_probs: (token, log-probability) of the most likely tokens, where requested; with them
        `entropy`, that of the model's distribution in nats.
    is_end: a stop token, which is no part of the text; text that was held back may come with it.
    error: one line, where finish_reason is "error"; token_id is then -1.
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
    entropy: float | None = None


@dataclass(frozen=True)
class EngineStats:
    """Waiting and running sequences, cache blocks, and totals since the start.

    prepacked_bytes: memory of the prepacked copies of the weights.
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
    prepacked_bytes: int = 0


@dataclass(frozen=True)
class Request:
    """One prompt that fits the model, and its sampling settings."""

    prompt: Sequence[int]
    params: SamplingParams
    seed: int
    max_new: int
    stop_ids: frozenset[int]


def one_each(
    count: int,
    params: SamplingParams | Sequence[SamplingParams] | None,
    adapter: str | Sequence[str | None] | None,
) -> tuple[Sequence[SamplingParams], Sequence[str | None]]:
    """Settings and adapters of `count` prompts, given one for all or one each.

    Raises UserError for another number of them.
    """
    if params is None:
        params = SamplingParams()
    each = [params] * count if isinstance(params, SamplingParams) else list(params)
    if adapter is None or isinstance(adapter, str):
        adapter = [adapter] * count
    for name, number in (("params", len(each)), ("adapters", len(adapter))):
        if number != count:
            raise UserError(f"{count} prompts but {number} {name}; give one for all or one each")
    return each, adapter


def make_request(
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    context_length: int,
    vocab_size: int,
    tokenizer: Tokenizer | None,
    truncate: bool,
    name: str = "the prompt",
) -> Request:
    """Check a request against the model. Raises UserError for what does not fit it.

    `truncate` cuts a prompt that is too long from the left, down to context_length - max_tokens but
    never below half the context.
    """
    if not prompt:
        raise UserError(f"{name} is empty; begin with at least one token, such as end-of-text")
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        raise UserError(
            f"{name} has token ids from {min(prompt)} to {max(prompt)}; "
            f"this model knows 0 to {vocab_size - 1}: is it another model's tokenizer?"
        )
    if params.stop and tokenizer is None:
        raise UserError(f"stop = {params.stop!r} needs a tokenizer; use stop_token_ids or give one")
    params = _with_ids(params, tokenizer)
    check_bias(params, vocab_size)
    room = max(context_length - params.max_tokens, context_length // 2, 1)
    if truncate and len(prompt) > room:
        prompt = prompt[-room:]
    if len(prompt) >= context_length:
        raise UserError(
            f"{name} has {len(prompt)} tokens; the model's context is {context_length} and the "
            "answer needs at least one: shorten it (in Python: or pass truncate_prompt=True)"
        )
    max_new = min(params.max_tokens, context_length - len(prompt))
    if params.guidance_scale != 1 and len(params.negative_prompt_ids) + max_new > context_length:
        raise UserError(
            f"the negative prompt has {len(params.negative_prompt_ids)} tokens; with max_tokens = {max_new} "
            f"it exceeds the model's context of {context_length}: shorten one of them"
        )
    stop_ids = set(params.stop_token_ids)
    if tokenizer is not None and "eos_token" in tokenizer.roles and not params.ignore_eos:
        stop_ids.add(tokenizer.eos_id)
    return Request(
        prompt=list(prompt),
        params=params,
        seed=secrets.randbits(63) if params.seed is None else params.seed,
        max_new=max_new,
        stop_ids=frozenset(stop_ids),
    )


def _with_ids(params: SamplingParams, tokenizer: Tokenizer | None) -> SamplingParams:
    """The settings with `bad_words` and `negative_prompt` as tokens.

    A bad word is banned as it stands and with a space before it, as its first token differs.
    """
    if not params.bad_words and params.negative_prompt is None:
        return params
    if tokenizer is None:
        name = "bad_words" if params.bad_words else "negative_prompt"
        raise UserError(f"{name} needs a tokenizer; use {name}_ids or give one")
    banned = {
        tuple(ids): None
        for word in params.bad_words
        for text in (word, " " + word.lstrip())
        if (ids := tokenizer.encode(text))
    }
    update: dict[str, object] = {
        "bad_words": (),
        "bad_words_ids": (*params.bad_words_ids, *banned),
        "negative_prompt": None,
    }
    if params.negative_prompt is not None:
        update["negative_prompt_ids"] = tuple(tokenizer.encode(params.negative_prompt))
    return params.model_copy(update=update)


@dataclass(eq=False)
class SampleState:
    """One sample of a request while it runs: its sequence, detokenizer, constraint and log-probabilities.

    sink: where its events go; None where only the whole completion is wanted.
    """

    request: Request
    sequence: SequenceState
    sink: list[TokenEvent] | None
    text: TextStream | None
    matcher: ConstraintMatcher | None = None
    pieces: list[str] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    sampling_log_probs: list[float] = field(default_factory=list)
    reason: FinishReason | None = None
    error: str | None = None

    @classmethod
    def of(
        cls,
        request: Request,
        sequence: SequenceState,
        tokenizer: Tokenizer | None,
        sink: list[TokenEvent] | None,
        matcher: ConstraintMatcher | None = None,
    ) -> SampleState:
        """The state of a new sequence; text is decoded incrementally only where it is streamed or has stop strings."""
        followed = tokenizer is not None and (sink is not None or bool(request.params.stop))
        text = TextStream(tokenizer, request.params.stop) if followed and tokenizer else None
        return cls(request, sequence, sink, text, matcher)

    def row(self) -> SamplingRow:
        """What the sampler needs to know of it."""
        sequence = self.sequence
        return SamplingRow(
            params=self.request.params,
            seed=self.request.seed,
            sample=sequence.sample_index,
            prompt=self.request.prompt,
            generated=sequence.tokens[sequence.prompt_length :],
            stop_ids=tuple(self.request.stop_ids),
            matcher=self.matcher,
            max_new=self.request.max_new,
        )

    def fail(self, message: str) -> None:
        """End it with an error."""
        self.reason, self.error = "error", message
        if self.sink is not None:
            number, sample = self.sequence.request_id, self.sequence.sample_index
            self.sink.append(
                TokenEvent(
                    -1, "", None, "error",
                    request_id=number, sample_index=sample, error=message,
                )
            )  # fmt: skip

    @property
    def constraint_error(self) -> str | None:
        """Why its constraint allows no further token though the output is not complete."""
        return None if self.matcher is None else self.matcher.error

    def append_token(self, token: int, ahead: int = 0, *, final: bool = True) -> bool:
        """Append a token, the one `ahead` positions after the sequence's end; True if it is the last.

        The constraint has already accepted all of this step's tokens: where it is finished, the
        sample ends with the `final` one.
        """
        piece = ""
        if token in self.request.stop_ids:
            self.reason = "stop"
        elif self.text is not None:
            piece = self.text.push(token)
            if self.text.matched is not None:
                self.reason = "stop"
        if self.reason is None and final and self.matcher is not None and self.matcher.finished:
            self.reason = "stop"
        if (
            self.reason is None
            and len(self.sequence.tokens) + ahead + 1 >= self.sequence.max_length
        ):
            self.reason = "length"
        if self.text is not None:
            if self.reason is not None:
                piece += self.text.flush()
                if self.text.matched is not None:  # what was held back completes a stop string
                    self.reason = "stop"
            self.pieces.append(piece)
        return self.reason is not None

    def emit(
        self, token: int, top: list[tuple[int, float]] | None, entropy: float | None = None
    ) -> None:
        """Send the event of the token that was just appended."""
        if self.sink is None:
            return
        self.sink.append(
            TokenEvent(
                token_id=token,
                text=None if self.text is None else self.pieces[-1],
                log_prob=self.log_probs[-1] if self.request.params.logprobs else None,
                finish_reason=self.reason,
                stop=None if self.text is None else self.text.matched,
                request_id=self.sequence.request_id,
                sample_index=self.sequence.sample_index,
                top_log_probs=top,
                is_end=token in self.request.stop_ids,
                entropy=entropy,
            )
        )

    @property
    def mean_log_prob(self) -> float:
        """The score that `best_of` ranks by."""
        return sum(self.log_probs) / max(len(self.log_probs), 1)

    def completion(self, index: int, sample: int, tokenizer: Tokenizer | None) -> Completion:
        """The completion, with the indices of its prompt and of its sample."""
        assert self.reason is not None
        ids = self.sequence.tokens[self.sequence.prompt_length :]
        text = None
        if self.text is not None:
            text = "".join(self.pieces)
        elif tokenizer is not None:
            ended = bool(ids) and ids[-1] in self.request.stop_ids
            text = decode(tokenizer, ids[:-1] if ended else ids)
        asked = self.request.params.logprobs
        return Completion(
            token_ids=ids,
            text=text,
            finish_reason=self.reason,
            log_probs=self.log_probs if asked else None,
            sampling_log_probs=self.sampling_log_probs if asked else None,
            stop=None if self.text is None else self.text.matched,
            prompt_index=index,
            sample_index=sample,
        )
