"""A model of ours that answers requests: scores in batches, generation by the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from glassbox.core.errors import UserError
from glassbox.evaluation.continuations import Batch, Continuation, Scorer, fit, make_batches
from glassbox.evaluation.scoring import BATCH_TOKENS
from glassbox.evaluation.tasks.requests import Answer, Request
from glassbox.inference import Engine, SamplingParams
from glassbox.inference.chat import end_of_turn_ids
from glassbox.models.causal_lm import CausalLM
from glassbox.tokenizers import Tokenizer

Bos = Literal["auto", "always", "never"]
MAX_TOKENS = 256
GENERATED_TOGETHER = 32


@dataclass
class _Scored:
    """A batch of continuations, which are windows of requests."""

    batch: Batch
    items: Sequence[Continuation]
    owners: Sequence[int]

    @property
    def indices(self) -> Sequence[int]:
        """The requests."""
        return list(dict.fromkeys(self.owners[index] for index in self.batch.indices))

    @property
    def work(self) -> float:
        """Tokens."""
        return float(self.batch.num_tokens)


@dataclass
class _Rolled:
    """Texts that are read in windows, together."""

    indices: list[int]
    windows: list[tuple[int, Continuation]]

    @property
    def work(self) -> float:
        """Tokens."""
        return float(sum(len(window.ids) for _, window in self.windows))


@dataclass
class _Spanned:
    """Requests whose answers are about several texts, read together."""

    indices: list[int]
    spans: list[tuple[int, Continuation]]

    @property
    def work(self) -> float:
        """Tokens."""
        return float(sum(len(span.ids) for _, span in self.spans))


@dataclass
class _Generated:
    """Prompts that are answered together."""

    indices: list[int]
    work: float


class LocalModel:
    """Answers requests with a `CausalLM`.

    bos: whether a text begins with the token that its tokenizer's files put there (auto), always with
        beginning-of-text (or end-of-text where there is none), or never with either.
    batch_tokens: how many tokens one forward pass reads at most.
    max_tokens: in place of a task's own max_gen_toks.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        name: str,
        *,
        bos: Bos = "auto",
        batch_tokens: int = BATCH_TOKENS,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        if batch_tokens < 1:
            raise UserError(f"batch_tokens = {batch_tokens}: use 1 or more")
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.bos = bos
        self.batch_tokens = batch_tokens
        self.max_tokens = max_tokens
        self.seed = seed
        self._encoded: dict[str, list[int]] = {}
        self._scorer: tuple[Any, Scorer] | None = None
        self._engine: Engine | None = None

    @property
    def context_length(self) -> int:
        """The most tokens that the model reads."""
        return self.model.config.context_length

    @property
    def prefix_id(self) -> int:
        """What stands before a text that has nothing before it: beginning-of-text, else end-of-text."""
        begin = self.tokenizer.bos_id
        return self.tokenizer.eos_id if begin is None else begin

    def describe(self) -> dict[str, Any]:
        """Name, weights' and tokenizer's hashes, and what decides how texts become ids."""
        template = self.tokenizer.chat_template
        return {
            "name": self.name,
            "kind": "local",
            "sha256": weights_digest(self.model),
            "num_parameters": self.model.num_parameters,
            "dtype": str(self.model.embedding.weight.dtype).removeprefix("torch."),
            "context_length": self.context_length,
            "tokenizer_sha256": self.tokenizer.fingerprint,
            "chat_template_sha256": None if template is None else _digest(repr(template)),
            "bos": self.bos,
            "prefix_id": self.prefix_id,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }

    # ---- texts to ids -----------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of a text as transformers' tokenizers give them: special tokens in it are read, and what
        the files put around a text is put there, unless it begins with it already."""
        if text not in self._encoded:
            ids = self.tokenizer.encode(text, allow_special=True)
            before, after = self.tokenizer.special_around
            if self.bos != "auto":
                before, after = ([self.prefix_id] if self.bos == "always" else []), []
            if not text.startswith(self._prefix_text):
                ids = [*before, *ids, *after]
            if len(self._encoded) > 4096:
                self._encoded.clear()
            self._encoded[text] = ids
        return self._encoded[text]

    @cached_property
    def _prefix_text(self) -> str:
        return self.tokenizer.decode([self.prefix_id])

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of a context and of what follows it.

        Spaces at the context's end go to the continuation; both are encoded together, and the
        continuation is what the context alone does not have. An empty context is `prefix_id`.
        Source: lm-evaluation-harness, `TemplateLM._encode_pair`.
        """
        if context == "":
            ids = self.tokenizer.encode(continuation, allow_special=True)
            if ids and ids[0] == self.prefix_id:
                return ids[:1], ids[1:]
            return [self.prefix_id], ids
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        first = self.encode(bare)
        whole = self.encode(bare + continuation)
        if not first:  # a context of white space alone
            return [self.prefix_id], whole
        return first, whole[len(first) :]

    # ---- answering --------------------------------------------------------------------------

    def plan(self, requests: Sequence[Request]) -> list[Any]:
        """Continuations by length and shared beginning, texts, then prompts by length."""
        groups: list[Any] = []
        items, owners = [], []
        rolled: list[int] = []
        spanned: list[int] = []
        generated: list[int] = []
        for index, request in enumerate(requests):
            if request.kind == "loglikelihood":
                pair = self.encode_pair(*request.arguments)
                items.append(self._fit(*pair, request))
                owners.append(index)
            elif request.kind == "loglikelihood_rolling":
                rolled.append(index)
            elif request.kind == "spans":
                spanned.append(index)
            else:
                generated.append(index)
        batches = make_batches(self.model, items, batch_tokens=self.batch_tokens) if items else []
        groups += [_Scored(batch, items, owners) for batch in batches]
        groups += self._plan_rolled(requests, rolled)
        groups += self._plan_spans(requests, spanned)
        groups += self._plan_generated(requests, generated)
        return groups

    def _fit(self, context: list[int], continuation: list[int], request: Request) -> Continuation:
        try:
            return fit(context, continuation, self.context_length)
        except UserError as error:
            shown = request.arguments[-1]
            shown = shown if len(shown) <= 40 else shown[:37] + "..."
            raise UserError(f"{self.name}: {error} (it is {shown!r})") from None

    def _plan_rolled(
        self, requests: Sequence[Request], indices: Sequence[int]
    ) -> Iterator[_Rolled]:
        group = _Rolled([], [])
        for index in indices:
            ids = self.encode(requests[index].arguments[0])
            windows = disjoint_windows(ids, self.prefix_id, self.context_length)
            if group.indices and group.work + len(ids) > 16 * self.batch_tokens:
                yield group
                group = _Rolled([], [])
            group.indices.append(index)
            group.windows += [(index, window) for window in windows]
        if group.indices:
            yield group

    def _plan_spans(
        self, requests: Sequence[Request], indices: Sequence[int]
    ) -> Iterator[_Spanned]:
        group = _Spanned([], [])
        for index in indices:
            spans = self._spans(*requests[index].arguments)
            work = sum(len(span.ids) for span in spans)
            if group.indices and group.work + work > 16 * self.batch_tokens:
                yield group
                group = _Spanned([], [])
            group.indices.append(index)
            group.spans += [(index, span) for span in spans]
        if group.indices:
            yield group

    def _spans(self, which: str, texts: Sequence[str]) -> list[Continuation]:
        """The tokens that are asked about, behind beginning-of-text, cut as CORE cuts: to as many tokens
        as the model reads, the last of which is no input."""
        length = self.context_length - 1
        rows = [self.encode(text) for text in texts]
        rows = [ids if ids[:1] == [self.prefix_id] else [self.prefix_id, *ids] for ids in rows]
        if which == "continuation":
            before, whole = rows
            if before != whole[: len(before)] or len(before) == len(whole):
                before = whole[: min(_num_alike(rows), len(whole) - 1)]
            return [fit(before, whole[len(before) :], length)]
        if which == "contexts":
            count = _num_alike([ids[::-1] for ids in rows])
            starts = [len(ids) - count for ids in rows]
        else:
            starts = [_num_alike(rows)] * len(rows)
        # where a text is the beginning of another, at least its last token is asked about
        starts = [max(1, min(start, len(ids) - 1)) for start, ids in zip(starts, rows, strict=True)]
        return [
            fit(ids[:start], ids[start:], length) for start, ids in zip(starts, rows, strict=True)
        ]

    def _plan_generated(
        self, requests: Sequence[Request], indices: Sequence[int]
    ) -> Iterator[_Generated]:
        for index in indices:
            self._params(requests[index])
        size = {index: len(self.encode(requests[index].arguments[0])) for index in indices}
        ordered = sorted(indices, key=lambda index: (-size[index], index))
        for start in range(0, len(ordered), GENERATED_TOGETHER):
            part = ordered[start : start + GENERATED_TOGETHER]
            most = max(self._params(requests[index]).max_tokens for index in part)
            yield _Generated(part, float(sum(size[index] + most for index in part)))

    def answer(
        self, requests: Sequence[Request], group: Any, wanted: set[int]
    ) -> Iterator[tuple[int, Answer]]:
        """Answers of one group, as they are known."""
        if isinstance(group, _Scored):
            inside = {i for i in group.batch.indices if group.owners[i] in wanted}
            for item, score in self._score(group.items, group.batch.only(inside)):
                yield group.owners[item], list(score)
        elif isinstance(group, _Rolled):
            yield from self._roll(group, wanted)
        elif isinstance(group, _Spanned):
            scores: dict[int, list[Any]] = {index: [] for index in group.indices if index in wanted}
            chosen = [(index, span) for index, span in group.spans if index in wanted]
            for (index, _), score in zip(chosen, self._score_all(chosen), strict=True):
                scores[index].append(list(score))
            yield from scores.items()
        else:
            yield from self._generate(requests, [i for i in group.indices if i in wanted])

    def _score(self, items: Sequence[Continuation], batch: Batch) -> Iterator[tuple[int, Any]]:
        if self._scorer is None or self._scorer[0] is not items:
            self._scorer = (items, Scorer(self.model, items))
        return self._scorer[1].score(batch)

    def _roll(self, group: _Rolled, wanted: set[int]) -> Iterator[tuple[int, Answer]]:
        chosen = [(index, window) for index, window in group.windows if index in wanted]
        totals = {index: 0.0 for index in group.indices if index in wanted}
        for (index, _), score in zip(chosen, self._score_all(chosen), strict=True):
            totals[index] += score.log_prob
        yield from totals.items()

    def _score_all(self, chosen: Sequence[tuple[int, Continuation]]) -> list[Any]:
        """Scores of continuations, in their order."""
        items = [item for _, item in chosen]
        found: dict[int, Any] = {}
        for batch in (
            make_batches(self.model, items, batch_tokens=self.batch_tokens) if items else ()
        ):
            found.update(self._score(items, batch))
        return [found[place] for place in range(len(items))]

    def _params(self, request: Request) -> SamplingParams:
        """Sampling settings of a task's generation options."""
        options = dict(request.arguments[1])
        until = options.pop("until", None) or []
        until = [until] if isinstance(until, str) else [str(one) for one in until]
        most = MAX_TOKENS
        for name in ("max_completion_tokens", "max_tokens", "max_new_tokens", "max_gen_toks"):
            most = int(options.pop(name, most))
        most = self.max_tokens or most
        temperature = float(options.pop("temperature", 0.0))
        sampled = options.pop("do_sample", temperature > 0)
        if options.pop("num_beams", 1) != 1:
            raise UserError("generation_kwargs.num_beams is not supported; leave it out for greedy")
        if most >= self.context_length:
            raise UserError(
                f"{self.name}: max_gen_toks = {most}, but context_length = {self.context_length} and "
                "the prompt needs room: use --max-tokens N with a smaller number"
            )
        kept = {
            k: options.pop(k) for k in ("top_p", "top_k", "min_p") if options.get(k) is not None
        }
        if options:
            raise UserError(
                f"generation_kwargs: {', '.join(options)} is not supported; use until, max_gen_toks, "
                "do_sample, temperature, top_p, top_k, min_p"
            )
        if not sampled:
            kept, temperature = {}, 0.0
        elif temperature == 0:
            temperature = 1.0
        seed = int(request.key[:12], 16) ^ self.seed
        stop = tuple(one for one in until if one)
        ends = end_of_turn_ids(self.tokenizer) if self.tokenizer.chat_template else []
        return SamplingParams(
            max_tokens=most,
            temperature=temperature,
            seed=seed,
            stop=stop,
            stop_token_ids=tuple(ends),
            **kept,
        )

    def _generate(
        self, requests: Sequence[Request], indices: Sequence[int]
    ) -> Iterator[tuple[int, Answer]]:
        prompts, params = [], []
        for index in indices:
            one = self._params(requests[index])
            ids = self.encode(requests[index].arguments[0]) or [self.prefix_id]
            prompts.append(ids[-(self.context_length - one.max_tokens) :])
            params.append(one)
        if self._engine is None:
            self._engine = Engine(self.model, self.tokenizer, max_batch=GENERATED_TOGETHER)
        completions = self._engine.generate(prompts, params)
        for index, one, completion in zip(indices, params, completions, strict=True):
            text = completion.text or ""
            for stop in one.stop:
                text = text.split(stop)[0]
            yield index, text

    def render_chat(self, messages: Sequence[Mapping[str, str]], *, go_on: bool) -> str:
        """The tokenizer's chat template; with go_on cut behind the last message's text."""
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=not go_on)
        if not go_on:
            return text
        last = messages[-1]["content"]
        place = text.rfind(last.strip())
        if place < 0:
            raise UserError(
                "the chat template changes the answer's beginning, so it cannot be continued"
            )
        end = place + len(last.lstrip())
        return text[:end] if text[place:end] == last.lstrip() else text[: place + len(last.strip())]


def _num_alike(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with alike."""
    shortest = min(map(len, rows))
    for place in range(shortest):
        if any(ids[place] != rows[0][place] for ids in rows):
            return place
    return shortest


def disjoint_windows(ids: Sequence[int], prefix: int, length: int) -> list[Continuation]:
    """Windows of at most `length` inputs that score each token once, none but the last with tokens
    of another window to read: the last one is filled up with what stands before it.

    Source: lm-evaluation-harness, `get_rolling_token_windows` with context_len = 1.

    >>> disjoint_windows([1, 2, 3, 4, 5], 0, 3)
    [Continuation(ids=[0, 1, 2, 3], first=1), Continuation(ids=[2, 3, 4, 5], first=2)]
    """
    whole = [prefix, *ids]
    windows = []
    for start in range(0, len(ids), length):
        count = min(length, len(ids) - start)
        end = start + count
        piece = whole[max(0, end - length) : end + 1]
        windows.append(Continuation(piece, len(piece) - count))
    return windows


def weights_digest(model: CausalLM) -> str:
    """SHA-256 over names, shapes and bytes of all tensors of a model."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        plain = tensor.detach().contiguous().cpu()
        found.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
