"""A request on its way through the engine: what was asked for, and what each of its answers has so far."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from glassbox.core.errors import UserError
from glassbox.inference.constraints.grammar import ConstraintMatcher
from glassbox.inference.detokenizer import TextStream, decode
from glassbox.inference.outputs import Completion, FinishReason, TokenEvent
from glassbox.inference.plan import SequenceState
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.sampler import SamplingRow, check_bias

if TYPE_CHECKING:
    from glassbox.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Request:
    """One prompt that fits the model, and how its answers are drawn."""

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
    """Settings and adapters of so many prompts, given one for all or one each.

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
    check_bias(params, vocab_size)
    room = max(context_length - params.max_tokens, context_length // 2, 1)
    if truncate and len(prompt) > room:
        prompt = prompt[-room:]
    if len(prompt) >= context_length:
        raise UserError(
            f"{name} has {len(prompt)} tokens; the model's context is {context_length} and the "
            "answer needs at least one: shorten it (in Python: or pass truncate_prompt=True)"
        )
    stop_ids = set(params.stop_token_ids)
    if tokenizer is not None and "eos_token" in tokenizer.roles and not params.ignore_eos:
        stop_ids.add(tokenizer.eos_id)
    return Request(
        prompt=list(prompt),
        params=params,
        seed=secrets.randbits(63) if params.seed is None else params.seed,
        max_new=min(params.max_tokens, context_length - len(prompt)),
        stop_ids=frozenset(stop_ids),
    )


@dataclass(eq=False)
class Answer:
    """One sample of a request.

    sink: where its events go; None where the answer is wanted whole.
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
    ) -> Answer:
        """The answer that a sequence is to become; its text is followed only where somebody looks."""
        followed = tokenizer is not None and (sink is not None or bool(request.params.stop))
        text = TextStream(tokenizer, request.params.stop) if followed and tokenizer else None
        return cls(request, sequence, sink, text, matcher)

    def row(self) -> SamplingRow:
        """How its next token is drawn."""
        sequence = self.sequence
        return SamplingRow(
            params=self.request.params,
            seed=self.request.seed,
            sample=sequence.sample_index,
            prompt=self.request.prompt,
            generated=sequence.tokens[sequence.prompt_length :],
            stop_ids=tuple(self.request.stop_ids),
            matcher=self.matcher,
        )

    def fail(self, message: str) -> None:
        """End it by an error."""
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
    def stuck(self) -> str | None:
        """Why its constraint lets nothing follow, though the answer is not complete."""
        return None if self.matcher is None else self.matcher.error

    def take(self, token: int, ahead: int = 0, *, final: bool = True) -> bool:
        """Take in a token, the one `ahead` places behind the sequence; whether it is the last.

        A constraint has taken in this step's tokens already: where it is at its end, so is the
        answer with the `final` one.
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

    def tell(self, token: int, top: list[tuple[int, float]] | None) -> None:
        """Hand out the token that was just taken."""
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
            )
        )

    @property
    def mean_log_prob(self) -> float:
        """What `best_of` ranks by."""
        return sum(self.log_probs) / max(len(self.log_probs), 1)

    def completion(self, index: int, sample: int, tokenizer: Tokenizer | None) -> Completion:
        """The whole answer, under the numbers of its prompt and among its prompt's answers."""
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
