"""A batch of requests from prefill to the last token: the one place where generation touches tensors.

Prompts are padded on the right and each row counts its own positions, so a cache slot is a
position and no padding is ever looked at. A prompt wanted several times is read once and its cache
copied. Rows that have ended leave the batch once they are a quarter of it, so that the copying
costs less than it saves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassbox.inference.sampler import RowSettings, check_finite, pick
from glassbox.inference.sampling import SamplingParams, chosen_log_probs
from glassbox.models.causal_lm import CausalLM

_LEAVE_SHARE = 0.25
_UNIFORM_STEPS = 64  # steps whose random numbers are made at once


@dataclass(frozen=True)
class Request:
    """One prompt and how its answers, samples `first_sample` to `first_sample + count - 1`, are drawn."""

    prompt: Sequence[int]
    params: SamplingParams
    seed: int
    max_new: int
    stop_ids: tuple[int, ...]
    first_sample: int = 0
    count: int = 1
    index: int = 0


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Every module in eval mode inside, and afterwards each as it was before."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def pad_right(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "B T"], Int[Tensor, " B"]]:
    """Prompts as one tensor, zeros behind the shorter ones, and their lengths."""
    lengths = [len(prompt) for prompt in prompts]
    longest = max(lengths)
    rows = [list(prompt) + [0] * (longest - len(prompt)) for prompt in prompts]
    return torch.tensor(rows, device=device), torch.tensor(lengths, device=device)


class Wave:
    """Rows that started together; every `step` gives each one more token.

    tokens: (R, most) of all rows, also those that left; counts: (R,) how many of them each has;
    stopped: (R,) whether a stop token or `finish` ended it rather than its length.
    """

    @torch.inference_mode()
    def __init__(
        self, model: CausalLM, requests: Sequence[Request], *, dtype: torch.dtype | None = None
    ) -> None:
        self.model = model
        self.dtype = dtype
        device = model.device
        rows = [request for request in requests for _ in range(request.count)]
        samples = [r.first_sample + i for r in requests for i in range(r.count)]
        self.settings = RowSettings.of(
            [row.params for row in rows], [row.seed for row in rows], samples, device
        )
        self.num_rows = len(rows)
        self.step_index = 0
        self.most = max(row.max_new for row in rows)
        self.log_probs_wanted = any(row.params.logprobs for row in rows)
        self.tokens = torch.zeros((self.num_rows, self.most), dtype=torch.int64, device=device)
        self.counts = torch.zeros(self.num_rows, dtype=torch.int64, device=device)
        self.stopped = torch.zeros(self.num_rows, dtype=torch.bool, device=device)
        shape = (2, self.num_rows, self.most if self.log_probs_wanted else 0)
        self.log_probs = torch.zeros(shape, dtype=torch.float64, device=device)

        self.rows = torch.arange(self.num_rows, device=device)  # which row each live place holds
        self.alive = torch.ones(self.num_rows, dtype=torch.bool, device=device)
        self.num_alive = self.num_rows
        self.limits = torch.tensor([row.max_new for row in rows], device=device)
        stops = [list(row.stop_ids) for row in rows]
        widest = max(len(ids) for ids in stops)
        padded = [ids + [-1] * (widest - len(ids)) for ids in stops]
        self.stop_ids = torch.tensor(padded, device=device) if widest else None
        self._prefill(requests)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.dtype is None or self.dtype == self.model.embedding.weight.dtype:
            return nullcontext()
        return torch.autocast(self.model.device.type, dtype=self.dtype)

    def _prefill(self, requests: Sequence[Request]) -> None:
        """Read every prompt once, then give each sample its own row."""
        ids, lengths = pad_right([request.prompt for request in requests], self.model.device)
        self.slots = max(len(request.prompt) + request.max_new - 1 for request in requests)
        self.longest = int(ids.shape[1])
        self.equal = len({len(request.prompt) for request in requests}) == 1
        self.state = self.model.init_state(len(requests), self.slots, dtype=self.dtype)
        with self._autocast():
            hidden = self.model.hidden_states(
                ids, lengths=lengths, state=self.state, key_length=self.longest
            )
            last = hidden[torch.arange(len(ids), device=ids.device), lengths - 1]  # (B, D)
            logits = self.model.logits(last)
        self.seen: Tensor | None = None
        if self.settings.any_penalty:
            columns = torch.arange(self.longest, device=ids.device)
            real = torch.where(columns < lengths[:, None], ids, ids[:, :1])
            self.seen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, real, True)
        self.positions = lengths
        if self.num_rows != len(requests):
            counts = torch.tensor([request.count for request in requests], device=ids.device)
            copies = torch.arange(len(requests), device=ids.device).repeat_interleave(counts)
            logits, self.positions = logits[copies], lengths[copies]
            self.seen = None if self.seen is None else self.seen[copies]
            for layer in self.state:
                layer.reorder(copies)
        self.logits: Float[Tensor, "B V"] = logits

    @torch.inference_mode()
    def step(self) -> Int[Tensor, " B"]:
        """Choose the next token of every row in the batch; `rows` says whose they are.

        Places with `alive` False hold rows that have ended but not left yet: their tokens are noise.
        """
        if self.step_index:
            self.logits = self._decode()
        check_finite(self.logits, self.alive)
        at = self.step_index % _UNIFORM_STEPS
        if at == 0 and not self.settings.all_greedy:
            self.uniforms = self.settings.uniforms(self.step_index, _UNIFORM_STEPS)
        uniform = self.positions if self.settings.all_greedy else self.uniforms[at]
        tokens = pick(self.logits, self.settings, uniform, self.seen)
        self._record(tokens)
        self.last = tokens
        self.step_index += 1
        return tokens

    def _decode(self) -> Float[Tensor, "B V"]:
        """Feed each row's last token at its own position."""
        key_length = min(self.longest + self.step_index, self.slots)
        positions = self.positions[:1] if self.equal else self.positions
        with self._autocast():
            logits = self.model(
                self.last.unsqueeze(1),
                positions=positions.unsqueeze(1),
                state=self.state,
                key_length=key_length,
            ).squeeze(1)
        self.positions = (self.positions + 1).clamp_(max=self.slots - 1)
        return logits

    def _record(self, tokens: Int[Tensor, " B"]) -> None:
        if self.num_alive == len(self.rows):
            rows, kept = self.rows, tokens
        else:
            rows, kept = self.rows[self.alive], tokens[self.alive]
        self.tokens[rows, self.step_index] = kept
        self.counts[rows] = self.step_index + 1
        if self.log_probs_wanted:
            raw, tempered = chosen_log_probs(self.logits, tokens, self.settings.temperature)
            both = torch.stack((raw, tempered)).double()
            self.log_probs[:, rows, self.step_index] = (
                both if kept is tokens else both[:, self.alive]
            )
        if self.seen is not None:
            self.seen.scatter_(1, tokens.unsqueeze(1), True)
        ended = self.step_index + 1 >= self.limits
        if self.stop_ids is not None:
            hit = (tokens.unsqueeze(1) == self.stop_ids).any(dim=1)
            self.stopped[self.rows[hit & self.alive]] = True
            ended = ended | hit
        self.alive &= ~ended
        self.num_alive = int(self.alive.sum())

    @torch.inference_mode()
    def finish(self, rows: Sequence[int]) -> None:
        """End these rows now, as stopped: something outside, a stop string say, was found in them."""
        if rows:
            ending = torch.isin(self.rows, torch.tensor(rows, device=self.rows.device))
            self.alive &= ~ending
            self.stopped[self.rows[ending]] = True
            self.num_alive = int(self.alive.sum())

    @torch.inference_mode()
    def compact(self) -> None:
        """Let ended rows leave the batch where they are a quarter of it or more."""
        size = len(self.rows)
        if self.num_alive == 0 or size - self.num_alive < _LEAVE_SHARE * size:
            return
        keep: Bool[Tensor, " B"] = self.alive
        index = keep.nonzero().squeeze(1)
        for layer in self.state:
            layer.reorder(index)
        self.rows, self.positions, self.last = (
            self.rows[index],
            self.positions[index],
            self.last[index],
        )
        self.limits, self.alive = self.limits[index], self.alive[index]
        self.stop_ids = None if self.stop_ids is None else self.stop_ids[index]
        self.seen = None if self.seen is None else self.seen[index]
        self.settings = self.settings.select(index)
        if not self.settings.all_greedy:
            self.uniforms = self.uniforms[:, index]
