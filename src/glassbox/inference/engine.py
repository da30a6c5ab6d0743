"""The engine: requests and settings in, tokens out. Everything that generates does it here.

One step is three lines: the scheduler plans, the runner computes, the answers take in what was drawn.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.inference.adapters import RequestAdapters
from glassbox.inference.block_manager import BlockManager
from glassbox.inference.constraints.grammar import Grammar, GrammarCompiler
from glassbox.inference.constraints.specs import Choice, JsonSchema, Regex
from glassbox.inference.evaluating import evaluating
from glassbox.inference.outputs import Completion, EngineStats, FinishReason, TokenEvent
from glassbox.inference.plan import Plan, SequenceState
from glassbox.inference.requests import Answer, Request, make_request, one_each
from glassbox.inference.runner import Runner
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.row_samplers import RowSamplers
from glassbox.inference.scheduler import QueueFull, Scheduler
from glassbox.inference.speculation.proposers import Proposer, Speculation
from glassbox.inference.speculation.verification import Guessing, verify
from glassbox.inference.weights_mark import WeightsMark
from glassbox.models.causal_lm import CausalLM

if TYPE_CHECKING:
    from glassbox.tokenizers.tokenizer import Tokenizer

__all__ = ["Completion", "Engine", "EngineStats", "FinishReason", "QueueFull", "TokenEvent"]

_BROKEN = (
    "the model's logits are NaN or infinite; its weights are broken (a diverged training run?) or "
    "overflow in this dtype: use float32 or another checkpoint"
)


class Engine:
    """Generates with a model: `generate` and `stream` for one caller, `add` and `step` for a server.

    The same request gives the same answer whatever else is in the batch and however large it is:
    chance comes from (seed, sample, step) alone. What remains is the rounding of the matrix
    products, which differs between batch shapes by about 1e-7 and can tip a draw that falls that
    close to a border, or two best tokens that close to each other.

    max_batch: answers that run at the same time. token_budget: the most tokens a step feeds;
        without `chunked_prefill` a prompt is read whole, however long.
    cache_tokens: how many tokens' keys and values fit the paged cache, for all rows together; None
        for as many as max_batch rows of the model's whole context could need. It grows as needed.
    prefix_sharing: prompts of one tenant that begin alike are computed once; off where a layer
        keeps a running state, which cannot be shared.
    keep_prefixes: remember what has been computed when nothing is running, for prompts to come. The
        first request after that looks whether the weights have changed (see `WeightsMark`) and if so
        all is forgotten; who writes past torch's count of writes calls `forget_prefixes`.
    adapters: name -> folder, as for `load_adapter`; a request chooses one by name.
    proposer, num_drafts: guesses at so many tokens ahead are verified by each step (see
        `speculation`); the answers stay the same.
    packed: copies of float32 matrices for faster products on a CPU; None: once they pay (`Packing`).
    compiled: one stream alone goes twice as fast on a CPU, once its steps are compiled (`CompiledStep`).
    dtype below the weights' own runs the model under autocast and keeps its cache in that type.
    Raises UserError for prompts and settings that do not fit the model.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer | None = None,
        *,
        max_batch: int = 256,
        dtype: torch.dtype | None = None,
        cache_tokens: int | None = None,
        block_size: int = 16,
        token_budget: int = 2048,
        chunked_prefill: bool = True,
        prefix_sharing: bool = True,
        keep_prefixes: bool = False,
        max_queue: int | None = None,
        proposer: Proposer | None = None,
        num_drafts: int = 4,
        adapters: Mapping[str, str | Path] | None = None,
        packed: bool | None = None,
        compiled: bool = False,
    ) -> None:
        if max_batch < 1:
            raise UserError(f"max_batch = {max_batch}: give at least 1")
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        self.dtype = dtype
        self.keep_prefixes = keep_prefixes
        cache_tokens = max_batch * self.context_length if cache_tokens is None else cache_tokens
        num_blocks = -(-cache_tokens // block_size)
        self._runner = Runner(
            model,
            max_rows=max_batch,
            max_blocks=num_blocks,
            block_size=block_size,
            dtype=dtype,
            packed=packed,
            compiled=compiled,
        )
        blocks = None
        if self._runner.has_pages:
            sharing = prefix_sharing and not self._runner.has_rows
            blocks = BlockManager(num_blocks, block_size, prefix_sharing=sharing)
        self._scheduler = Scheduler(
            max_running=max_batch,
            token_budget=max(token_budget, max_batch),
            max_queue=max_queue,
            chunked_prefill=chunked_prefill,
            blocks=blocks,
        )
        self._adapters = RequestAdapters(model)
        for name, folder in (adapters or {}).items():
            self.load_adapter(name, folder)
        self._mark = WeightsMark()
        self._guessing = None if proposer is None else Guessing(proposer, num_drafts)
        self._compiler: GrammarCompiler | None = None
        self._making_compiler = threading.Lock()
        self._answers: dict[SequenceState, Answer] = {}
        self._events: list[TokenEvent] = []
        self._samplers = RowSamplers(model.config.vocab_size, model.device)

    @property
    def context_length(self) -> int:
        """The most tokens that prompt and answer may have together."""
        return self.model.config.context_length

    @property
    def adapters(self) -> list[str]:
        """The names that requests may choose from."""
        return self._adapters.names

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Take in an adapter's folder, ours or PEFT's, between any two steps.

        The base stays to the last bit what it was. Raises UserError for a damaged folder, another
        base's, a name that is taken, and kinds that cannot be chosen a row (prefix, prompt, biases).
        """
        self._adapters.load(name, folder)

    # ---- a server's side ------------------------------------------------------------------------

    def add(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        tenant: str = "",
        truncate_prompt: bool = False,
        adapter: str | None = None,
    ) -> int:
        """Put a request in line; its number, by which its tokens are known.

        Of a higher `priority` goes first. Prefixes are never shared between tenants or `adapter`s;
        without one the model answers as it is. Raises QueueFull, and UserError for what can never fit.
        """
        request = self._request(prompt, params, truncate_prompt)
        return self._submit(request, self._events, adapter, priority, tenant)[0].sequence.request_id

    def step(self) -> list[TokenEvent]:
        """One scheduler step for everything that runs: the tokens it made; [] when there is nothing.

        A request that comes to grief ends alone, by an event whose finish_reason is "error". What raises
        instead is nobody's alone: cancel all that waits and runs. For one thread at a time.
        """
        if self.has_work:
            with evaluating(self.model):
                self._step()
        events = self._events.copy()
        self._events.clear()  # the same list stays everybody's sink
        return events

    def compile(self, constraint: JsonSchema | Regex | Choice) -> Grammar:
        """A constraint made ready for this model's tokenizer, and kept; `add` does it where it must.

        For any thread, several at a time.
        Raises UserError for one that is not valid, not supported or too large.
        """
        with self._making_compiler:
            if self._compiler is None:
                size = self.model.config.vocab_size
                self._compiler = GrammarCompiler(self._need_tokenizer(), size)
        return self._compiler.compile(constraint)

    def cancel(self, request_id: int) -> None:
        """Give up a request, at any moment; everything it held is free. Unknown numbers are ignored."""
        self._scheduler.cancel(request_id)
        for sequence in [s for s in self._answers if s.request_id == request_id]:
            self._end(sequence)
        self._settle()

    def forget_prefixes(self) -> None:
        """Remember nothing computed so far. Raises UserError while anything waits or runs."""
        if self.has_work:
            raise UserError("requests are waiting or running; finish or cancel them first")
        self._scheduler.forget_prefixes()
        self._runner.release()

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return self._scheduler.has_work

    @property
    def cache_bytes(self) -> int:
        """Memory that the caches hold now; 0 when nothing runs, unless prefixes are kept."""
        return self._runner.cache_bytes if self._runner.num_blocks or self._runner.num_rows else 0

    def stats(self) -> EngineStats:
        """How things stand."""
        counts = Speculation() if self._guessing is None else self._guessing.counts
        return EngineStats(
            **vars(self._scheduler.stats()),
            drafted=counts.drafted,
            accepted=counts.accepted,
            verifications=counts.passes,
            packed_bytes=self._runner.packing.num_bytes,
        )

    # ---- one caller's side ----------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        truncate_prompt: bool = False,
        adapter: str | Sequence[str | None] | None = None,
    ) -> list[Completion]:
        """All answers, prompt by prompt in the order given, each prompt's n answers together.

        `params` and `adapter` are one for all prompts or one each. `truncate_prompt` cuts one that is
        too long from the left, to context_length - max_tokens but never below half the context.
        """
        each, adapters = one_each(len(prompts), params, adapter)
        requests = [
            self._request(prompt, one, truncate_prompt, f"prompt {index}")
            for index, (prompt, one) in enumerate(zip(prompts, each, strict=True))
        ]
        groups: list[list[Answer]] = []
        try:
            pairs = zip(requests, adapters, strict=True)
            groups.extend(self._submit(request, None, name) for request, name in pairs)
            with evaluating(self.model):
                for answer in (answer for group in groups for answer in group):
                    while answer.reason is None:
                        self._step()
                    if answer.error is not None:
                        raise UserError(answer.error)
        finally:
            for group in groups:
                if any(answer.reason is None for answer in group):
                    self.cancel(group[0].sequence.request_id)
        completions = []
        for index, group in enumerate(groups):
            params = group[0].request.params
            if len(group) > params.n:
                group = sorted(group, key=lambda answer: -answer.mean_log_prob)[: params.n]
            for sample, answer in enumerate(group):
                completions.append(answer.completion(index, sample, self.tokenizer))
        return completions

    def stream(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        *,
        truncate_prompt: bool = False,
        adapter: str | None = None,
    ) -> Iterator[TokenEvent]:
        """Tokens of one answer as they are made. Closing the iterator frees the cache."""
        request = self._request(prompt, params, truncate_prompt)
        if request.params.num_samples != 1:
            raise UserError(
                f"n = {request.params.num_samples}: a stream has one answer; use n = 1 or generate()"
            )
        self._adapters.check(adapter)
        return self._stream(request, adapter)

    def _stream(self, request: Request, adapter: str | None) -> Iterator[TokenEvent]:
        sink: list[TokenEvent] = []
        (answer,) = self._submit(request, sink, adapter)
        try:
            while sink or answer.reason is None:
                if not sink:
                    # eval mode holds inside each step only: the caller runs in between
                    with evaluating(self.model):
                        self._step()
                events = sink.copy()
                sink.clear()
                for event in events:
                    if event.error is not None:
                        raise UserError(event.error)
                    yield event
        finally:
            if answer.reason is None:
                self.cancel(answer.sequence.request_id)

    def complete(
        self,
        text: str | Sequence[str],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        truncate_prompt: bool = False,
        adapter: str | Sequence[str | None] | None = None,
    ) -> list[Completion]:
        """`generate` from text. Special tokens written in the text are plain text."""
        tokenizer = self._need_tokenizer()
        prompts = [tokenizer.encode(one) for one in ([text] if isinstance(text, str) else text)]
        return self.generate(prompts, params, truncate_prompt=truncate_prompt, adapter=adapter)

    def stream_text(
        self,
        text: str,
        params: SamplingParams | None = None,
        *,
        truncate_prompt: bool = False,
        adapter: str | None = None,
    ) -> Iterator[str]:
        """The continuation in pieces: whole characters only, and nothing of a stop string."""
        prompt = self._need_tokenizer().encode(text)
        events = self.stream(prompt, params, truncate_prompt=truncate_prompt, adapter=adapter)
        return (event.text for event in events if event.text)

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UserError(
                "this engine has no tokenizer; give Engine(model, tokenizer) one for text"
            )
        return self.tokenizer

    # ---- a step -----------------------------------------------------------------------------------

    def _request(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None,
        truncate: bool,
        name: str = "the prompt",
    ) -> Request:
        return make_request(
            prompt,
            SamplingParams() if params is None else params,
            context_length=self.context_length,
            vocab_size=self.model.config.vocab_size,
            tokenizer=self.tokenizer,
            truncate=truncate,
            name=name,
        )

    def _submit(
        self,
        request: Request,
        sink: list[TokenEvent] | None,
        adapter: str | None = None,
        priority: int = 0,
        tenant: str = "",
    ) -> list[Answer]:
        """Hand a request to the scheduler: its answers."""
        self._adapters.check(adapter)
        if self.keep_prefixes and not self.has_work and self._mark.changed(self.model):
            self.forget_prefixes()
        constraint = request.params.constraint
        grammar = None if constraint is None else self.compile(constraint)
        sequences = self._scheduler.add(
            request.prompt,
            max_new_tokens=request.max_new,
            n=request.params.num_samples,
            priority=priority,
            tenant=tenant,
            adapter=adapter or "",
        )
        answers = []
        for one in sequences:
            matcher = None if grammar is None else grammar.matcher(request.stop_ids)
            answers.append(Answer.of(request, one, self.tokenizer, sink, matcher))
        self._answers.update(zip(sequences, answers, strict=True))
        return answers

    @torch.inference_mode()
    def _step(self) -> None:
        """Schedule, run, postprocess."""
        if self._guessing is not None:
            self._guessing.propose([(s, self._answers[s]) for s in self._scheduler.running])
        plan = self._scheduler.schedule()
        logits = self._runner.run(plan)
        self._take_in(plan, logits)

    def _take_in(self, plan: Plan, logits: Tensor) -> None:
        """Draw the next tokens, hand them to their answers, and end those that are complete."""
        if not plan.sampling:
            self._scheduler.commit(plan, [])
            return
        answers = [self._answers[sequence] for sequence in plan.sampling]
        sampler = self._samplers.of(answers)
        steps = torch.tensor([s.num_generated for s in plan.sampling], device=logits.device)
        guessed = {chunk.sequence: chunk for chunk in plan.chunks if chunk.drafted}
        drafts = [guessed[s].drafted if s in guessed else () for s in plan.sampling]
        verified = verify(sampler, logits, drafts, steps, [answer.matcher for answer in answers])
        scores, tops = verified.scores(), verified.tops()
        tokens, ended = verified.tokens, []
        for row, (answer, drawn) in enumerate(zip(answers, tokens, strict=True)):
            if not verified.sound[row]:
                answer.fail(answer.stuck or _BROKEN)
                ended.append(answer.sequence)
                continue
            for ahead, (token, (which, at)) in enumerate(
                zip(drawn, verified.places[row], strict=True)
            ):
                if (score := scores[which]) is not None and answer.request.params.scored:
                    answer.log_probs.append(score[0][at])
                    answer.sampling_log_probs.append(score[1][at])
                last = answer.take(token, ahead, final=ahead == len(drawn) - 1)
                if answer.sink is not None:
                    most, top = answer.request.params.top_logprobs, tops[which]
                    answer.tell(token, top[at][:most] if top is not None and most else None)
                if last:
                    del drawn[ahead + 1 :]
                    ended.append(answer.sequence)
                    break
        if self._guessing is not None and guessed:
            kept = dict(zip(plan.sampling, map(len, tokens), strict=True))
            wrong = self._guessing.count(guessed, kept)
            self._runner.take_back(wrong, [kept[chunk.sequence] - 1 for chunk in wrong])
        for sequence in self._scheduler.commit(plan, tokens, ended):
            self._end(sequence)
        self._settle()

    def _end(self, sequence: SequenceState) -> None:
        del self._answers[sequence]
        if self._guessing is not None:
            self._guessing.proposer.forget(sequence.id)

    def _settle(self) -> None:
        """When nothing is left to do, let go of what the next request has no use for."""
        if self._scheduler.has_work:
            return
        self._samplers.forget()
        if not self.keep_prefixes:
            self._scheduler.forget_prefixes()
            self._runner.release()
