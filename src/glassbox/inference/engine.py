"""The inference engine: requests with sampling settings in, tokens out.

A step (`Engine._step`) has three parts: the scheduler plans, the runner computes, and the new
tokens are appended to the samples. `docs/design/reading_order.md` lists the files that a token
passes through.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from glassbox.adapters.base import adapters_of
from glassbox.core.errors import UserError
from glassbox.inference.adapters import RequestAdapters
from glassbox.inference.block_manager import BlockManager
from glassbox.inference.constraints.grammar import Grammar, GrammarCompiler
from glassbox.inference.constraints.specs import Choice, JsonSchema, Regex
from glassbox.inference.evaluating import evaluating
from glassbox.inference.guidance import Guidance
from glassbox.inference.plan import Plan, SequenceState
from glassbox.inference.requests import (
    Completion,
    EngineStats,
    FinishReason,
    Request,
    SampleState,
    TokenEvent,
    make_request,
    one_each,
)
from glassbox.inference.runner import Runner
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.sampler import SamplerCache
from glassbox.inference.scheduler import QueueFull, Scheduler
from glassbox.inference.speculation.proposers import Proposer, SpeculationStats
from glassbox.inference.speculation.verification import SpeculativeDecoder, verify
from glassbox.models.causal_lm import CausalLM

if TYPE_CHECKING:
    from glassbox.tokenizers.tokenizer import Tokenizer

__all__ = ["Completion", "Engine", "EngineStats", "FinishReason", "QueueFull", "TokenEvent"]

_BROKEN = (
    "the model's logits are NaN or infinite; its weights are broken (a diverged training run?) or "
    "overflow in this dtype: use float32 or another checkpoint"
)
_FORBIDDEN = (
    "no token is left to choose: bad_words, no_repeat_ngram_size or another setting forbids all of them, "
    "or the model's logits are NaN or infinite; loosen the settings"
)


class Engine:
    """Generates with a model: `generate` and `stream` for a single caller, `add` and `step` for a
    server.

    A request's output does not depend on the rest of the batch: random numbers are a function of
    (seed, sample, step). Only the rounding of matrix products differs between batch shapes, by
    about 1e-7, which can change a draw that close to a boundary, or an argmax between two nearly
    equal logits.

    max_batch: maximum number of running sequences.
    token_budget: maximum number of tokens per step; without `chunked_prefill` a prompt is prefilled
        whole, however long.
    cache_tokens: capacity of the paged KV cache in tokens, for all sequences together; None for
        max_batch sequences of the model's full context. Memory is allocated as needed.
    prefix_sharing: common prefixes of one tenant's prompts are computed once; off where a layer
        has a recurrent state, which cannot be shared.
    keep_prefixes: keep the prefix cache while the engine is idle. The next request checks whether
        the weights have changed (see `WeightsVersion`) and if so invalidates it; code that writes
        past torch's version counter calls `forget_prefixes`.
    adapters: name -> folder, as for `load_adapter`; a request chooses one by name.
    proposer, num_drafts: speculative decoding: each step verifies up to num_drafts draft tokens a
        sequence (see `speculation`); outputs do not change.
    prepacked: oneDNN copies of float32 matrices for faster products on a CPU; None: once they pay
        (`Prepacking`).
    kv_cache: "int8" or "int4" keeps the paged cache in codes (`layers.quantized_pages`): 3.9 or 6.4 times
        as many tokens in the same memory as float32 for heads of 64; caches of sliding windows and
        recurrent states stay as they are. None or "auto": the dtype of the weights.
    compiled: a single stream on a CPU runs about twice as fast once its steps are compiled
        (`CompiledStep`).
    dtype: if narrower than the weights' dtype, run the model under autocast and keep the cache in
        this dtype.
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
        prepacked: bool | None = None,
        compiled: bool = False,
        kv_cache: str | None = None,
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
            prepacked=prepacked,
            compiled=compiled,
            kv_cache=kv_cache,
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
        self._weights = WeightsVersion()
        self._speculative = None if proposer is None else SpeculativeDecoder(proposer, num_drafts)
        self._guidance: Guidance | None = None  # once a request asks for it
        self._compiler: GrammarCompiler | None = None
        self._making_compiler = threading.Lock()
        self._samples: dict[SequenceState, SampleState] = {}
        self._events: list[TokenEvent] = []
        self._samplers = SamplerCache(model.config.vocab_size, model.device)

    @property
    def context_length(self) -> int:
        """Maximum number of tokens of prompt and output together."""
        return self.model.config.context_length

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters that requests may select."""
        return self._adapters.names

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Load an adapter's folder, in our format or PEFT's, between any two steps.

        The base weights are not changed. Raises UserError for a damaged folder, one made for
        another base model, a name that is taken, and kinds that cannot be selected per row (prefix,
        prompt, biases).
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
        """Queue a request; return its id, which its events carry.

        Higher `priority` runs first. Prefixes are never shared between tenants or between
        `adapter`s; None is the base model. Raises QueueFull, and UserError for requests that can
        never fit.
        """
        request = self._request(prompt, params, truncate_prompt)
        return self._submit(request, self._events, adapter, priority, tenant)[0].sequence.request_id

    def step(self) -> list[TokenEvent]:
        """Run one scheduler step; return the new tokens, or [] if there is no work.

        If a request fails, only this request ends, with an event whose finish_reason is "error". An
        exception concerns the whole engine; all requests are then to be cancelled. Not thread-safe.
        """
        if self.has_work:
            with evaluating(self.model):
                self._step()
        events = self._events.copy()
        self._events.clear()  # the list stays the sink of all samples
        return events

    def compile(self, constraint: JsonSchema | Regex | Choice) -> Grammar:
        """Compile a constraint for this model's tokenizer, with a cache; `add` does it if needed.

        Thread-safe. Raises UserError for invalid, unsupported or too large constraints.
        """
        with self._making_compiler:
            if self._compiler is None:
                size = self.model.config.vocab_size
                self._compiler = GrammarCompiler(self._need_tokenizer(), size)
        return self._compiler.compile(constraint)

    def cancel(self, request_id: int) -> None:
        """Cancel a request at any time and free its resources. Unknown ids are ignored."""
        self._scheduler.cancel(request_id)
        for sequence in [s for s in self._samples if s.request_id == request_id]:
            self._end(sequence)
        self._free_if_idle()

    def forget_prefixes(self) -> None:
        """Invalidate the prefix cache and free its memory. Raises UserError while anything waits or runs."""
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
        """Memory of the caches, in bytes; 0 when nothing runs, unless prefixes are kept."""
        guidance = 0 if self._guidance is None else self._guidance.cache_bytes
        held = self._runner.num_blocks or self._runner.num_rows
        return guidance + (self._runner.cache_bytes if held else 0)

    @property
    def running(self) -> list[SequenceState]:
        """The sequences that run now, to look at; from another thread some may have ended since."""
        return list(self._scheduler.running)

    @property
    def block_states(self) -> str:
        """The state of each block of the KV cache, a letter each: `BlockManager.states`."""
        return "" if self._scheduler.blocks is None else self._scheduler.blocks.states()

    def stats(self) -> EngineStats:
        """Current counts."""
        counts = SpeculationStats() if self._speculative is None else self._speculative.counts
        return EngineStats(
            **vars(self._scheduler.stats()),
            drafted=counts.drafted,
            accepted=counts.accepted,
            verifications=counts.passes,
            prepacked_bytes=self._runner.prepacking.num_bytes,
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
        """Generate all completions, in the order of the prompts, the n of each prompt together.

        params, adapter: one for all prompts, or one for each.
        truncate_prompt: truncate prompts that are too long from the left, to context_length -
            max_tokens but not below half the context.
        """
        each, adapters = one_each(len(prompts), params, adapter)
        requests = [
            self._request(prompt, one, truncate_prompt, f"prompt {index}")
            for index, (prompt, one) in enumerate(zip(prompts, each, strict=True))
        ]
        groups: list[list[SampleState]] = []
        try:
            pairs = zip(requests, adapters, strict=True)
            groups.extend(self._submit(request, None, name) for request, name in pairs)
            with evaluating(self.model):
                for sample in (sample for group in groups for sample in group):
                    while sample.reason is None:
                        self._step()
                    if sample.error is not None:
                        raise UserError(sample.error)
        finally:
            for group in groups:
                if any(sample.reason is None for sample in group):
                    self.cancel(group[0].sequence.request_id)
        completions = []
        for index, group in enumerate(groups):
            params = group[0].request.params
            if len(group) > params.n:
                group = sorted(group, key=lambda sample: -sample.mean_log_prob)[: params.n]
            for number, sample in enumerate(group):
                completions.append(sample.completion(index, number, self.tokenizer))
        return completions

    def stream(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        *,
        truncate_prompt: bool = False,
        adapter: str | None = None,
    ) -> Iterator[TokenEvent]:
        """Generate the tokens of one completion one by one. Closing the iterator frees its cache."""
        request = self._request(prompt, params, truncate_prompt)
        if request.params.num_samples != 1:
            raise UserError(
                f"n = {request.params.num_samples}: a stream has one completion; use n = 1 or generate()"
            )
        self._adapters.check(adapter)
        return self._stream(request, adapter)

    def _stream(self, request: Request, adapter: str | None) -> Iterator[TokenEvent]:
        sink: list[TokenEvent] = []
        (sample,) = self._submit(request, sink, adapter)
        try:
            while sink or sample.reason is None:
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
            if sample.reason is None:
                self.cancel(sample.sequence.request_id)

    def complete(
        self,
        text: str | Sequence[str],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        truncate_prompt: bool = False,
        adapter: str | Sequence[str | None] | None = None,
    ) -> list[Completion]:
        """`generate` for a text; special tokens in the text are encoded as plain text."""
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
        """Generate a completion as pieces of text with whole characters only, and no part of a stop
        string.
        """
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
    ) -> list[SampleState]:
        """Pass a request to the scheduler; returns its samples."""
        self._adapters.check(adapter)
        if self.keep_prefixes and not self.has_work and self._weights.changed(self.model):
            self.forget_prefixes()
        if request.params.guidance_scale != 1 and self._guidance is None:
            self._guidance = Guidance(self.model, max_rows=self.max_batch, dtype=self.dtype)
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
        samples = []
        for one in sequences:
            matcher = None if grammar is None else grammar.matcher(request.stop_ids)
            samples.append(SampleState.of(request, one, self.tokenizer, sink, matcher))
        self._samples.update(zip(sequences, samples, strict=True))
        return samples

    @torch.inference_mode()
    def _step(self) -> None:
        """Schedule, run, postprocess."""
        if self._speculative is not None:
            self._speculative.propose([(s, self._samples[s]) for s in self._scheduler.running])
        plan = self._scheduler.schedule()
        logits = self._runner.run(plan)
        self._postprocess(plan, logits)

    def _postprocess(self, plan: Plan, logits: Tensor) -> None:
        """Sample the next tokens, append them to their samples, and end those that are complete."""
        if not plan.sampling:
            self._scheduler.commit(plan, [])
            return
        samples = [self._samples[sequence] for sequence in plan.sampling]
        sampler = self._samplers.sampler_for(samples)
        steps = torch.tensor([s.num_generated for s in plan.sampling], device=logits.device)
        with_drafts = {chunk.sequence: chunk for chunk in plan.chunks if chunk.drafted}
        drafts = [with_drafts[s].drafted if s in with_drafts else () for s in plan.sampling]
        if self._guidance is not None:
            rows = [0, *accumulate(1 + len(draft) for draft in drafts)][:-1]
            logits = self._guidance.guide(logits, samples, rows)
        verified = verify(sampler, logits, drafts, steps, [sample.matcher for sample in samples])
        scores, top_log_probs = verified.scores(), verified.top_log_probs()
        entropies = verified.entropies()
        tokens, ended = verified.tokens, []
        for row, (sample, drawn) in enumerate(zip(samples, tokens, strict=True)):
            if not verified.sound[row]:
                processed = sample.request.params.has_processors
                sample.fail(sample.constraint_error or (_FORBIDDEN if processed else _BROKEN))
                ended.append(sample.sequence)
                continue
            for ahead, (token, (which, at)) in enumerate(
                zip(drawn, verified.sources[row], strict=True)
            ):
                if (score := scores[which]) is not None and sample.request.params.scored:
                    sample.log_probs.append(score[0][at])
                    sample.sampling_log_probs.append(score[1][at])
                last = sample.append_token(token, ahead, final=ahead == len(drawn) - 1)
                if sample.sink is not None:
                    most, top = sample.request.params.top_logprobs, top_log_probs[which]
                    shown = top is not None and most > 0
                    entropy = None if (h := entropies[which]) is None or not shown else h[at]
                    sample.emit(
                        token, top[at][:most] if top is not None and shown else None, entropy
                    )
                if last:
                    del drawn[ahead + 1 :]
                    ended.append(sample.sequence)
                    break
        if self._speculative is not None and with_drafts:
            num_kept = dict(zip(plan.sampling, map(len, tokens), strict=True))
            wrong = self._speculative.count(with_drafts, num_kept)
            self._runner.roll_back(wrong, [num_kept[chunk.sequence] - 1 for chunk in wrong])
        for sequence in self._scheduler.commit(plan, tokens, ended):
            self._end(sequence)
        self._free_if_idle()

    def _end(self, sequence: SequenceState) -> None:
        del self._samples[sequence]
        if self._speculative is not None:
            self._speculative.proposer.forget(sequence.id)
        if self._guidance is not None:
            self._guidance.forget(sequence.id)

    def _free_if_idle(self) -> None:
        """When idle, free what the next request cannot use."""
        if self._scheduler.has_work:
            return
        self._samplers.clear()
        if not self.keep_prefixes:
            self._scheduler.forget_prefixes()
            self._runner.release()


class WeightsVersion:
    """Detects changes of a model's weights by identity, address and version counter of each tensor.

    Detects optimizer steps, loaded state dicts, merges, another active adapter, and edits through
    `inspect`. Writes that bypass torch's version counter, through `tensor.data` or a pointer, are
    not detected. The values are not read.
    """

    def __init__(self) -> None:
        self._tensors: list[weakref.ref[Tensor]] = []
        self._facts: list[object] = []

    def changed(self, model: CausalLM) -> bool:
        """Whether anything has changed since the last call; True on the first call."""
        tensors = [*model.parameters(), *model.buffers()]
        adapters = adapters_of(model)
        facts: list[object] = [(t.data_ptr(), _writes(t)) for t in tensors]
        facts.append(None if adapters is None else (adapters.selection.active, adapters.merged))
        facts.append(vars(model).get("hidden_states"))
        same = facts == self._facts and all(
            ref() is tensor for ref, tensor in zip(self._tensors, tensors, strict=True)
        )
        if not same:
            self._tensors, self._facts = [weakref.ref(tensor) for tensor in tensors], facts
        return not same


def _writes(tensor: Tensor) -> int:
    """torch's version counter; -1 for inference tensors, which have none."""
    return -1 if torch.is_inference(tensor) else tensor._version
