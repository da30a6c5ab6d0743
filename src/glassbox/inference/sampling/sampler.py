"""Samples the next token of every row of a batch, each with its own settings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.inference.constraints.grammar import ConstraintMatcher, masks
from glassbox.inference.sampling import processors
from glassbox.inference.sampling.filters import apply_temperature, draw
from glassbox.inference.sampling.logprobs import chosen_log_probs, entropies, top_log_probs
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.penalties import History
from glassbox.inference.sampling.processors import NgramBan
from glassbox.inference.sampling.randomness import uniforms
from glassbox.inference.sampling.shortlist import draw_filtered, filtered

_STEPS_AHEAD = 64  # steps whose random numbers are made at once
_ENDLESS = 2**31  # tokens; no output is that long


@dataclass(frozen=True)
class SamplingRow:
    """The settings and tokens of one sequence.

    seed, sample: with the step number, the only source of its random numbers.
    prompt, generated: its tokens so far, for the penalties.
    stop_ids: every token that ends it, including end-of-text; `min_tokens` excludes them.
    matcher: the state of its constraint after `generated`.
    max_new: its maximum number of tokens; None for params.max_tokens.
    """

    params: SamplingParams
    seed: int
    sample: int = 0
    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    stop_ids: Sequence[int] = ()
    matcher: ConstraintMatcher | None = None
    max_new: int | None = None


class _Processors:
    """The logits processors of one row, and the tokens that they look at."""

    def __init__(self, row: SamplingRow) -> None:
        self.params = row.params
        self.tokens = [*row.prompt, *row.generated]
        self.stop_ids = tuple(row.stop_ids)
        self.last_step = (row.params.max_tokens if row.max_new is None else row.max_new) - 1
        self._ngrams = NgramBan(row.params.no_repeat_ngram_size)

    def copy(self) -> _Processors:
        """The same with tokens of its own."""
        new = copy.copy(self)
        new.tokens = self.tokens.copy()
        new._ngrams = NgramBan(self.params.no_repeat_ngram_size)
        return new

    def before_penalties(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        """Sequence bias."""
        biases = self.params.sequence_bias
        return processors.sequence_bias(logits, self.tokens, biases) if biases else logits

    def after_penalties(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        """Repeated n-grams and bad words."""
        params = self.params
        if params.no_repeat_ngram_size:
            banned = self._ngrams.banned(self.tokens)
            logits = logits.index_fill(
                0, torch.tensor(banned, device=logits.device).long(), -torch.inf
            )
        if params.bad_words_ids:
            logits = processors.ban_bad_words(
                logits, self.tokens, params.bad_words_ids, self.stop_ids
            )
        return logits

    def after_constraints(self, logits: Float[Tensor, " V"], step: int) -> Float[Tensor, " V"]:
        """Forced tokens and the length decay."""
        params = self.params
        if params.forced_bos_token_id is not None and step == 0:
            logits = processors.force_token(logits, [params.forced_bos_token_id])
        if params.forced_eos_token_id and step == self.last_step:
            logits = processors.force_token(logits, params.forced_eos_token_id)
        if params.exponential_decay_length_penalty is not None:
            start, factor = params.exponential_decay_length_penalty
            ids = [token for token in self.stop_ids if token < len(logits)]
            logits = processors.length_decay(logits, step, start, factor, ids)
        return logits


@dataclass(frozen=True)
class SampledTokens:
    """The next token of each row, and its log-probabilities; None if no row requests them.

    sound: False where a row's logits are NaN or infinite, or no token was allowed; its token is noise.
    log_probs: log softmax(logits)[token]; sampling_log_probs: log softmax(logits / temperature)[token];
        of the model's raw logits in both, without bias, penalty or filter.
    top_ids, top_log_probs: (R, n) of the most likely, greatest first, n the most that any row requests.
    entropies: of softmax(logits) in nats, where any row requests the most likely.
    """

    tokens: Int[Tensor, " R"]
    sound: Bool[Tensor, " R"]
    log_probs: Float[Tensor, " R"] | None = None
    sampling_log_probs: Float[Tensor, " R"] | None = None
    top_ids: Int[Tensor, "R n"] | None = None
    top_log_probs: Float[Tensor, "R n"] | None = None
    entropies: Float[Tensor, " R"] | None = None


class RowSampler:
    """The settings and histories of a batch's rows; settings that no row uses cost nothing.

    `pick` has no side effects; `accept` advances the histories. A row's token depends on its own
    logits, settings and history only.
    """

    def __init__(
        self,
        params: Sequence[SamplingParams],
        columns: dict[str, Tensor],
        tables: dict[str, Tensor],
        history: tuple[list[int], History] | None,
        matchers: list[ConstraintMatcher | None],
        processed: list[_Processors | None],
    ) -> None:
        """Use `of`. columns: one number a row; tables: (R, W), padded with -1 (ids) or 0."""
        self.params = list(params)
        self._columns, self._tables = columns, tables
        self._matchers = matchers
        self._processors = processed
        self._processed = [row for row, one in enumerate(processed) if one is not None]
        self._marked = [row for row in self._processed if params[row].watermark is not None]
        self._constrained = [row for row, matcher in enumerate(matchers) if matcher is not None]
        self._history = history
        device = columns["temperature"].device
        self._penalised = torch.tensor([] if history is None else history[0], device=device).long()
        self.greedy = columns["temperature"] == 0
        hot = [p for p in self.params if p.temperature != 0]
        self.any_greedy, self.all_greedy = len(hot) < len(self.params), not hot
        self._temperature = any(p.temperature != 1 for p in hot)
        self._filters = any(_filters(p) for p in hot)
        self._bias = any(p.logit_bias for p in self.params)
        self._min_tokens = any(p.min_tokens for p in self.params) and tables["stop_ids"].numel() > 0
        self._scored = any(p.scored for p in self.params)
        self._top = max((p.top_logprobs for p in self.params), default=0)

    def __len__(self) -> int:
        return len(self.params)

    @property
    def has_state(self) -> bool:
        """Whether a row has penalties or a constraint, so that `accept` is needed."""
        return self._history is not None or bool(self._constrained or self._processed)

    @classmethod
    def of(
        cls, rows: Sequence[SamplingRow], vocab_size: int, device: torch.device | str = "cpu"
    ) -> RowSampler:
        """Build the batch. Raises UserError for a bias of a token outside the vocabulary."""
        device = torch.device(device)
        params = [row.params for row in rows]
        for one in params:
            check_bias(one, vocab_size)

        def column(values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        def table(values: list[list[int]] | list[list[float]], pad: float) -> Tensor:
            width = max((len(line) for line in values), default=0)
            dtype = torch.int64 if pad == -1 else torch.float64
            padded = [[*line, *[pad] * (width - len(line))] for line in values]
            return torch.tensor(padded, dtype=dtype, device=device).reshape(len(values), width)

        real, whole = torch.float64, torch.int64
        penalised = [place for place, one in enumerate(params) if _penalises(one)]
        history = None
        if penalised:
            chosen = [rows[place] for place in penalised]
            history = (
                penalised,
                History.of(
                    [row.prompt if row.params.repetition_penalty != 1 else () for row in chosen],
                    [row.generated for row in chosen],
                    [
                        (p.repetition_penalty, p.frequency_penalty, p.presence_penalty)
                        for p in (row.params for row in chosen)
                    ],
                    device,
                ),
            )
        return cls(
            params,
            {
                "temperature": column([p.temperature for p in params], real),
                # filters do not change a greedy row's token
                "top_k": column(
                    [min(p.top_k, vocab_size) if p.temperature else 1 for p in params], whole
                ),
                "top_p": column([p.top_p if p.temperature else 1 for p in params], real),
                "min_p": column([p.min_p if p.temperature else 0 for p in params], real),
                "typical_p": column([p.typical_p if p.temperature else 1 for p in params], real),
                "epsilon_cutoff": column(
                    [p.epsilon_cutoff if p.temperature else 0 for p in params], real
                ),
                "eta_cutoff": column([p.eta_cutoff if p.temperature else 0 for p in params], real),
                "top_h": column([(p.top_h or 0) if p.temperature else 0 for p in params], real),
                "min_tokens": column([min(p.min_tokens, _ENDLESS) for p in params], whole),
                "seed": column([row.seed for row in rows], whole),
                "sample": column([row.sample for row in rows], whole),
                # first step of the precomputed random numbers: none yet
                "first_step": column([-_STEPS_AHEAD] * len(rows), whole),
            },
            {
                "bias_ids": table([list(p.logit_bias) for p in params], -1),
                "bias": table([list(p.logit_bias.values()) for p in params], 0),
                "stop_ids": table(
                    [
                        # ids outside the vocabulary cannot be generated
                        [token for token in row.stop_ids if token < vocab_size]
                        if row.params.min_tokens
                        else []
                        for row in rows
                    ],
                    -1,
                ),
                "uniforms": torch.zeros(len(rows), _STEPS_AHEAD, dtype=real, device=device),
            },
            history,
            [row.matcher for row in rows],
            [_Processors(row) if row.params.has_processors else None for row in rows],
        )

    def select(self, rows: Sequence[int] | Int[Tensor, " M"]) -> RowSampler:
        """Select rows in this order. A repeated row is forked: its histories diverge from here."""
        positions = [int(row) for row in rows]
        index = torch.tensor(positions, dtype=torch.int64, device=self.greedy.device)
        history = None
        if self._history is not None:
            at = {place: i for i, place in enumerate(self._history[0])}
            kept = [new for new, place in enumerate(positions) if place in at]
            if kept:
                old = torch.tensor([at[positions[new]] for new in kept], device=index.device)
                history = (kept, self._history[1].select(old))
        matchers, processed, taken = [], [], set()
        for place in positions:
            matcher, one = self._matchers[place], self._processors[place]
            matchers.append(matcher.copy() if matcher is not None and place in taken else matcher)
            processed.append(one.copy() if one is not None and place in taken else one)
            taken.add(place)
        return RowSampler(
            [self.params[place] for place in positions],
            {name: tensor[index] for name, tensor in self._columns.items()},
            _narrowed({name: tensor[index] for name, tensor in self._tables.items()}),
            history,
            matchers,
            processed,
        )

    def extend(self, other: RowSampler) -> RowSampler:
        """Concatenate with another sampler's rows."""
        history = self._history
        if other._history is not None:
            shifted = [len(self) + place for place in other._history[0]]
            history = (
                (shifted, other._history[1])
                if history is None
                else (history[0] + shifted, history[1].joined(other._history[1]))
            )
        return RowSampler(
            self.params + other.params,
            {n: torch.cat((tensor, other._columns[n])) for n, tensor in self._columns.items()},
            {
                n: _stacked(tensor, other._tables[n], -1 if n.endswith("ids") else 0)
                for n, tensor in self._tables.items()
            },
            history,
            self._matchers + other._matchers,
            self._processors + other._processors,
        )

    def uniforms(self, steps: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        """Each row's uniform number in [0, 1) for its step; computed many steps ahead."""
        first, ahead = self._columns["first_step"], self._tables["uniforms"]
        offset = steps - first
        missing = (offset < 0) | (offset >= _STEPS_AHEAD)
        if bool(missing.any()):
            rows = missing.nonzero().squeeze(1)
            columns = torch.arange(_STEPS_AHEAD, device=rows.device)
            first[rows] = steps[rows]
            seeds, samples = self._columns["seed"][rows], self._columns["sample"][rows]
            ahead[rows] = uniforms(seeds, samples, steps[rows].unsqueeze(1) + columns)
            offset = steps - first
        return ahead.gather(1, offset.unsqueeze(1)).squeeze(1)

    def process(
        self, logits: Float[Tensor, "R V"], steps: Int[Tensor, " R"]
    ) -> Float[Tensor, "R V"]:
        """The logits that tokens are sampled from, in float32 or wider; the argument is not modified."""
        logits = self.adjusted(logits, steps)
        if self._temperature:
            logits = apply_temperature(logits, self._columns["temperature"])
        if self._filters:
            logits = filtered(logits, self._columns)
        return self._watermarked(logits)

    def _watermarked(self, logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        if not self._marked:
            return logits
        logits = logits.clone()
        for row in self._marked:
            one = self._processors[row]
            assert one is not None
            assert one.params.watermark is not None
            logits[row] = processors.watermark(logits[row], one.tokens, one.params.watermark)
        return logits

    def _process_rows(
        self, logits: Float[Tensor, "R V"], apply: Callable[[_Processors, Tensor, int], Tensor]
    ) -> None:
        for row in self._processed:
            one = self._processors[row]
            assert one is not None
            logits[row] = apply(one, logits[row], row)

    def adjusted(
        self, logits: Float[Tensor, "R V"], steps: Int[Tensor, " R"]
    ) -> Float[Tensor, "R V"]:
        """Logits after bias, penalties, min_tokens and constraints, which greedy rows and searches use too.

        In float32 or wider; the argument is not modified.
        """
        if logits.dtype not in (torch.float32, torch.float64):
            logits = logits.float()
        elif (
            self._bias
            or self._history is not None
            or self._min_tokens
            or self._constrained
            or self._processed
        ):
            logits = logits.clone()
        if self._bias:
            ids, bias = self._tables["bias_ids"], self._tables["bias"]
            logits.scatter_add_(1, ids.clamp(min=0), bias.to(logits.dtype))
        self._process_rows(logits, lambda one, x, _: one.before_penalties(x))
        if self._history is not None:
            self._history[1].penalise_(logits, self._penalised)
        self._process_rows(logits, lambda one, x, _: one.after_penalties(x))
        if self._constrained:
            chosen = [self._matchers[row] for row in self._constrained]
            rows = torch.tensor(self._constrained, device=logits.device)
            allowed = masks(chosen, logits.shape[-1], logits.device)
            logits[rows] = logits[rows].masked_fill(~allowed, -torch.inf)
        if self._min_tokens:
            early = steps < self._columns["min_tokens"]
            ids = self._tables["stop_ids"]
            forbid = (ids >= 0) & early.unsqueeze(1)
            barred = logits.scatter_add(
                1, ids.clamp(min=0), torch.where(forbid, -torch.inf, 0.0).to(logits.dtype)
            )
            if self._constrained:  # a finished constraint allows only stop tokens: let it end
                ended = (barred == -torch.inf).all(dim=-1, keepdim=True)
                barred = torch.where(ended, logits, barred)
            logits = barred
        if self._processed:
            done = steps.tolist()
            self._process_rows(logits, lambda one, x, row: one.after_constraints(x, done[row]))
        return logits

    def pick(self, logits: Float[Tensor, "R V"], steps: Int[Tensor, " R"]) -> SampledTokens:
        """The next token of each row: the argmax where greedy, else sampled.

        steps: how many tokens each output has so far; the number of the draw.
        """
        sound = logits.amax(dim=-1).isfinite()
        if not bool(sound.all()):
            logits = torch.where(sound.unsqueeze(-1), logits, 0.0)
        biased = self.adjusted(logits, steps)
        if self._constrained or self._bias or self._min_tokens or self._processed:
            sound = sound & biased.amax(dim=-1).isfinite()
        if self.all_greedy:
            tokens = self._watermarked(biased).argmax(dim=-1)
        else:
            tokens = self._draw(biased, steps)
            if self.any_greedy:
                greedy = self._watermarked(biased).argmax(dim=-1)
                tokens = torch.where(self.greedy, greedy, tokens)
        raw = tempered = ids = tops = spread = None
        if self._scored:
            raw, tempered = chosen_log_probs(logits, tokens, self._columns["temperature"])
        if self._top:
            tops, ids = top_log_probs(logits, self._top)
            spread = entropies(logits)
        return SampledTokens(tokens, sound, raw, tempered, ids, tops, spread)

    def _draw(self, logits: Float[Tensor, "R V"], steps: Int[Tensor, " R"]) -> Int[Tensor, " R"]:
        """A sampled token of each row; those of greedy rows are meaningless."""
        uniform = self.uniforms(steps)
        if self._temperature:
            logits = apply_temperature(logits, self._columns["temperature"])
        if self._marked:
            logits = filtered(logits, self._columns) if self._filters else logits
            tokens = draw(self._watermarked(logits), uniform)
        elif self._filters:
            tokens = draw_filtered(logits, self._columns, uniform)
        else:
            tokens = draw(logits, uniform)
        return tokens.clamp_(max=logits.shape[-1] - 1)  # where nothing was allowed

    def accept(self, tokens: Int[Tensor, " R"], rows: Bool[Tensor, " R"] | None = None) -> None:
        """Advance histories and constraints by these tokens, in all rows or those marked.

        Raises UserError for a token that a row's constraint does not allow; leave unsound rows out.
        """
        if self._history is not None:
            active = None if rows is None else rows[self._penalised]
            self._history[1].accept(tokens[self._penalised], active)
        if self._constrained:
            chosen = tokens.tolist()
            moved = [True] * len(chosen) if rows is None else rows.tolist()
            for row in self._constrained:
                matcher = self._matchers[row]
                if moved[row] and matcher is not None:
                    matcher.accept(chosen[row])
        if self._processed:
            chosen = tokens.tolist()
            moved = [True] * len(chosen) if rows is None else rows.tolist()
            for row in self._processed:
                one = self._processors[row]
                if moved[row] and one is not None:
                    one.tokens.append(chosen[row])


class RowSource(Protocol):
    """A sequence that tokens are sampled for, compared by identity."""

    def row(self) -> SamplingRow:
        """Its settings and its tokens so far."""


class SamplerCache:
    """Keeps the settings and histories of the last step's rows, so that only those of new rows are
    built.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size, self._device = vocab_size, device
        self.clear()

    def clear(self) -> None:
        """Drop what is cached."""
        self._sampler: RowSampler | None = None
        self._rows: list[RowSource] = []  # in the order of the sampler's rows

    def sampler_for(self, rows: Sequence[RowSource]) -> RowSampler:
        """The sampler of these rows, in this order; the previous step's if the rows are the same."""
        if self._sampler is not None and self._rows == rows:
            return self._sampler
        known = {id(row): index for index, row in enumerate(self._rows)}
        kept = [row for row in rows if id(row) in known]
        fresh = [row for row in rows if id(row) not in known]
        sampler = None
        if kept and self._sampler is not None:
            sampler = self._sampler.select([known[id(row)] for row in kept])
        if fresh:
            more = RowSampler.of([row.row() for row in fresh], self._vocab_size, self._device)
            sampler = more if sampler is None else sampler.extend(more)
        assert sampler is not None
        order = kept + fresh
        if order != rows:
            index = {id(row): place for place, row in enumerate(order)}
            sampler = sampler.select([index[id(row)] for row in rows])
        self._sampler, self._rows = sampler, list(rows)
        return sampler


def check_bias(params: SamplingParams, vocab_size: int) -> None:
    """Raise UserError for a setting that names a token outside the vocabulary."""
    most = max(params.named_tokens, default=0)
    if most >= vocab_size:
        names = (
            *("logit_bias", "bad_words_ids", "sequence_bias", "forced_bos_token_id"),
            *("forced_eos_token_id", "negative_prompt_ids"),
        )
        plain = SamplingParams()
        named = [name for name in names if getattr(params, name) != getattr(plain, name)]
        raise UserError(
            f"{' or '.join(named)} names token {most}; this model knows 0 to {vocab_size - 1}"
        )


def _filters(params: SamplingParams) -> bool:
    return (
        params.top_k > 0
        or params.top_p < 1
        or params.min_p > 0
        or params.typical_p < 1
        or params.epsilon_cutoff > 0
        or params.eta_cutoff > 0
        or params.top_h is not None
    )


def _penalises(params: SamplingParams) -> bool:
    return (
        params.repetition_penalty != 1
        or params.frequency_penalty != 0
        or params.presence_penalty != 0
    )


def _narrowed(tables: dict[str, Tensor]) -> dict[str, Tensor]:
    """Trim tables to the widest remaining row."""
    for ids, *others in (("bias_ids", "bias"), ("stop_ids",)):
        if tables[ids].numel():
            width = int((tables[ids] >= 0).sum(dim=1).max())
            for name in (ids, *others):
                tables[name] = tables[name][:, :width]
    return tables


def _stacked(first: Tensor, second: Tensor, pad: int) -> Tensor:
    """Concatenate two tables, the narrower one padded."""
    width = max(first.shape[1], second.shape[1])
    padded = [
        torch.nn.functional.pad(one, (0, width - one.shape[1]), value=pad)
        for one in (first, second)
    ]
    return torch.cat(padded)
