"""The engine: prompts and settings in, completions out. Everything that generates does it here."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from glassbox.core.errors import UserError
from glassbox.inference.outputs import Completion, EngineStats, FinishReason, TokenEvent
from glassbox.inference.sampling import SamplingParams
from glassbox.inference.text import TextStream, decode
from glassbox.inference.wave import Request, Wave, evaluating
from glassbox.models.causal_lm import CausalLM

if TYPE_CHECKING:
    from glassbox.tokenizers.tokenizer import Tokenizer

__all__ = ["Completion", "Engine", "EngineStats", "FinishReason", "TokenEvent"]


@dataclass
class _Running:
    """One sample of a request that `step` carries on."""

    request_id: int
    sample_index: int
    events: Iterator[TokenEvent]


class Engine:
    """Generates with a model.

    The same request gives the same answer whatever else is in the batch and however large it is:
    chance comes from (seed, sample, step) alone. What remains is the rounding of the matrix
    products, which differs between batch shapes by about 1e-7 and can tip a draw that falls that
    close to a border, or two best tokens that close to each other.

    `dtype` below the weights' own runs the model under autocast and keeps its cache in that type.
    Raises UserError for prompts and settings that do not fit the model.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer | None = None,
        *,
        max_batch: int = 256,
        dtype: torch.dtype | None = None,
    ) -> None:
        if max_batch < 1:
            raise UserError(f"max_batch = {max_batch}: give at least 1")
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        self.dtype = dtype
        named = tokenizer is not None and "eos_token" in tokenizer.roles
        self._eos_id = tokenizer.eos_id if tokenizer is not None and named else None
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []
        self._next_id = 0
        self._generated = 0

    @property
    def context_length(self) -> int:
        """The most tokens that prompt and answer may have together."""
        return self.model.config.context_length

    def add(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        tenant: str = "",
        truncate_prompt: bool = False,
    ) -> int:
        """Put a request in line; its number, by which its tokens are known.

        Raises UserError for what does not fit the model.
        """
        params = SamplingParams() if params is None else params
        (request,) = self._requests([prompt], params, truncate_prompt)
        number, self._next_id = self._next_id, self._next_id + 1
        for sample in range(request.count):
            one = replace(request, first_sample=sample, count=1)
            self._waiting.append(_Running(number, sample, self._stream(one)))
        return number

    def step(self) -> list[TokenEvent]:
        """One more token of every sequence that runs; [] when there is nothing to do."""
        while self._waiting and len(self._running) < self.max_batch:
            self._running.append(self._waiting.popleft())
        events = []
        for one in list(self._running):
            try:
                event = next(one.events)
            except UserError as error:
                event = TokenEvent(-1, "", None, "error", error=str(error))
            self._generated += event.finish_reason != "error"
            events.append(replace(event, request_id=one.request_id, sample_index=one.sample_index))
            if event.finish_reason is not None:
                self._running.remove(one)
        return events

    def cancel(self, request_id: int) -> None:
        """Give up a request, at any moment; numbers that nobody has are ignored."""
        self._waiting = deque(one for one in self._waiting if one.request_id != request_id)
        self._running = [one for one in self._running if one.request_id != request_id]

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._waiting or self._running)

    def stats(self) -> EngineStats:
        """How things stand."""
        return EngineStats(
            waiting=len(self._waiting),
            running=len(self._running),
            tokens_generated=self._generated,
        )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        truncate_prompt: bool = False,
    ) -> list[Completion]:
        """All answers, prompt by prompt in the order given, each prompt's n answers together.

        `params` is one for all prompts or one each. `truncate_prompt` cuts a prompt that is too
        long from the left, down to context_length - max_tokens but never below half the context.
        """
        requests = self._requests(prompts, params, truncate_prompt)
        results: dict[tuple[int, int], Completion] = {}
        with evaluating(self.model):
            for group in _waves(requests, self.max_batch):
                for completion in self._run(group):
                    results[completion.prompt_index, completion.sample_index] = completion
        return [results[key] for key in sorted(results)]

    def stream(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        *,
        truncate_prompt: bool = False,
    ) -> Iterator[TokenEvent]:
        """Tokens of one answer as they are made. Closing the iterator frees the cache."""
        params = SamplingParams() if params is None else params
        if params.n != 1:
            raise UserError(f"n = {params.n}: a stream has one answer; use n = 1 or generate()")
        (request,) = self._requests([prompt], params, truncate_prompt)
        return self._stream(request)

    def _stream(self, request: Request) -> Iterator[TokenEvent]:
        text = None
        if self.tokenizer is not None:
            text = TextStream(self.tokenizer, request.params.stop)
        # eval mode and inference mode hold inside each step only: the caller runs in between
        with evaluating(self.model):
            wave = Wave(self.model, [request], dtype=self.dtype)
        while wave.num_alive:
            with evaluating(self.model):
                token = int(wave.step()[0])
            at_stop_token = bool(wave.stopped[0])
            piece = None
            if text is not None:
                piece = "" if at_stop_token else text.push(token)
                if text.matched is not None:
                    wave.finish([0])
                elif not wave.num_alive:
                    piece += text.flush()
            reason: FinishReason | None = None
            if not wave.num_alive:
                reason = "stop" if bool(wave.stopped[0]) else "length"
            log_prob = (
                float(wave.log_probs[0, 0, -1 + wave.step_index])
                if request.params.logprobs
                else None
            )
            yield TokenEvent(token, piece, log_prob, reason, None if text is None else text.matched)

    def complete(
        self,
        text: str | Sequence[str],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        truncate_prompt: bool = False,
    ) -> list[Completion]:
        """`generate` from text. Special tokens written in the text are plain text."""
        tokenizer = self._need_tokenizer()
        texts = [text] if isinstance(text, str) else list(text)
        prompts = [tokenizer.encode(one) for one in texts]
        return self.generate(prompts, params, truncate_prompt=truncate_prompt)

    def stream_text(
        self,
        text: str,
        params: SamplingParams | None = None,
        *,
        truncate_prompt: bool = False,
    ) -> Iterator[str]:
        """The continuation in pieces: whole characters only, and nothing of a stop string."""
        prompt = self._need_tokenizer().encode(text)
        events = self.stream(prompt, params, truncate_prompt=truncate_prompt)
        return (event.text for event in events if event.text)

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UserError(
                "this engine has no tokenizer; give Engine(model, tokenizer) one for text"
            )
        return self.tokenizer

    def _requests(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None,
        truncate: bool,
    ) -> list[Request]:
        if params is None:
            params = SamplingParams()
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if len(each) != len(prompts):
            raise UserError(
                f"{len(prompts)} prompts but {len(each)} params; give one for all or one each"
            )
        pairs = enumerate(zip(prompts, each, strict=True))
        return [self._request(index, prompt, one, truncate) for index, (prompt, one) in pairs]

    def _request(
        self, index: int, prompt: Sequence[int], params: SamplingParams, truncate: bool
    ) -> Request:
        context, vocab = self.context_length, self.model.config.vocab_size
        if not prompt:
            raise UserError(
                f"prompt {index} is empty; begin with at least one token, such as end-of-text"
            )
        if min(prompt) < 0 or max(prompt) >= vocab:
            raise UserError(
                f"prompt {index} has token ids from {min(prompt)} to {max(prompt)}; "
                f"this model knows 0 to {vocab - 1}: is it another model's tokenizer?"
            )
        if params.stop and self.tokenizer is None:
            raise UserError(
                f"stop = {params.stop!r} needs a tokenizer; use stop_token_ids or give one"
            )
        room = max(context - params.max_tokens, context // 2, 1)
        if truncate and len(prompt) > room:
            prompt = prompt[-room:]
        if len(prompt) >= context:
            raise UserError(
                f"prompt {index} has {len(prompt)} tokens; the model's context is {context} and the "
                "answer needs at least one: shorten it or set truncate_prompt=True"
            )
        stop_ids = set(params.stop_token_ids)
        if self._eos_id is not None and not params.ignore_eos:
            stop_ids.add(self._eos_id)
        return Request(
            prompt=prompt,
            params=params,
            seed=secrets.randbits(63) if params.seed is None else params.seed,
            max_new=min(params.max_tokens, context - len(prompt)),
            stop_ids=tuple(sorted(stop_ids)),
            count=params.n,
            index=index,
        )

    def _run(self, requests: Sequence[Request]) -> list[Completion]:
        """One wave to its end."""
        wave = Wave(self.model, requests, dtype=self.dtype)
        owners = [(r, r.first_sample + i) for r in requests for i in range(r.count)]
        streams = {
            row: TextStream(self.tokenizer, request.params.stop)
            for row, (request, _) in enumerate(owners)
            if request.params.stop and self.tokenizer is not None
        }
        texts: dict[int, list[str]] = {row: [] for row in streams}
        while wave.num_alive:
            wave.step()
            if streams:
                wave.finish(self._scan(wave, streams, texts))
            wave.compact()
        return self._collect(wave, owners, streams, texts)

    @staticmethod
    def _scan(wave: Wave, streams: dict[int, TextStream], texts: dict[int, list[str]]) -> list[int]:
        """Hand the rows that watch for stop strings their new token; the rows where one was found."""
        counts, stopped = wave.counts.tolist(), wave.stopped.tolist()
        newest = wave.tokens[:, wave.step_index - 1].tolist()
        found = []
        for row, stream in streams.items():
            if counts[row] == wave.step_index and not stopped[row]:
                texts[row].append(stream.push(newest[row]))
                if stream.matched is not None:
                    found.append(row)
        return found

    def _collect(
        self,
        wave: Wave,
        owners: Sequence[tuple[Request, int]],
        streams: dict[int, TextStream],
        texts: dict[int, list[str]],
    ) -> list[Completion]:
        tokens, counts, stopped = wave.tokens.tolist(), wave.counts.tolist(), wave.stopped.tolist()
        log_probs = wave.log_probs.tolist()
        completions = []
        for row, (request, sample) in enumerate(owners):
            ids = tokens[row][: counts[row]]
            stream = streams.get(row)
            text = None
            if stream is not None:
                text = "".join(texts[row]) + stream.flush()
            elif self.tokenizer is not None:
                text = decode(self.tokenizer, ids[:-1] if stopped[row] else ids)
            asked = request.params.logprobs
            completions.append(
                Completion(
                    token_ids=ids,
                    text=text,
                    finish_reason="stop" if stopped[row] else "length",
                    log_probs=log_probs[0][row][: counts[row]] if asked else None,
                    sampling_log_probs=log_probs[1][row][: counts[row]] if asked else None,
                    stop=None if stream is None else stream.matched,
                    prompt_index=request.index,
                    sample_index=sample,
                )
            )
        return completions


def _waves(requests: Sequence[Request], max_batch: int) -> Iterator[list[Request]]:
    """Requests of similar prompt length together, at most `max_batch` answers in each wave."""
    wave: list[Request] = []
    room = max_batch
    for request in sorted(requests, key=lambda request: len(request.prompt)):
        first = 0
        while first < request.count:
            take = min(room, request.count - first)
            wave.append(replace(request, first_sample=first, count=take))
            first, room = first + take, room - take
            if room == 0:
                yield wave
                wave, room = [], max_batch
    if wave:
        yield wave
