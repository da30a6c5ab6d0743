"""log p of every token of given sequences, each scored exactly once, in batches of like lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from glassbox.core.errors import UserError
from glassbox.inference.evaluating import evaluating
from glassbox.models.causal_lm import CausalLM

BATCH_TOKENS = 4096


class Window(NamedTuple):
    """The model reads inputs [start, end) and the targets [first, end) are scored from it."""

    start: int
    end: int
    first: int


def windows(num_targets: int, context: int, stride: int) -> list[Window]:
    """Stretches of at most `context` inputs that together score each target exactly once.

    The first window scores all of its targets; each later one is `context` long, ends up to
    `stride` further on, and scores what is new. Every target but those of the first window thus
    sees at least `context - stride` tokens before it. Stride 1 gives each the longest context
    possible, at one forward pass a token.

    >>> windows(5, 3, 2)
    [Window(start=0, end=3, first=0), Window(start=2, end=5, first=3)]
    """
    if not 0 < stride <= context:
        raise UserError(f"stride = {stride}: use 1 to {context}, the length of the context")
    found = [Window(0, min(num_targets, context), 0)]
    while (done := found[-1].end) < num_targets:
        end = min(done + stride, num_targets)
        found.append(Window(end - context, end, done))
    return found


def token_log_probs(
    model: CausalLM,
    sequences: Sequence[Sequence[int]],
    *,
    first_target: Sequence[int] | None = None,
    stride: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[NDArray[np.float64]]:
    """log p(s[i + 1] | s[0], ..., s[i]) for each sequence s, in nats, computed in float32 or wider.

    first_target: for each sequence the index in it of the first token to score (default 1: all
        that have one before them); a prompt's tokens are read, not scored.
    stride: see `windows`; half the model's context unless given.
    batch_tokens: how many tokens, padding included, one forward pass reads at most.

    Returns arrays of len(s) - first_target values. The model is left as it was found.
    Tested against: transformers' logits, sequence by sequence; windows against a plain loop.
    """
    context = model.config.context_length
    stride = max(1, context // 2) if stride is None else stride
    firsts = [1] * len(sequences) if first_target is None else list(first_target)
    results: list[NDArray[np.float64]] = []
    jobs: list[tuple[int, Window]] = []
    for index, (ids, first) in enumerate(zip(sequences, firsts, strict=True)):
        if not 1 <= first <= len(ids):
            raise UserError(f"sequence {index} has {len(ids)} tokens; nothing before token {first}")
        results.append(np.empty(len(ids) - first, dtype=np.float64))
        if first < len(ids):
            cut = windows(len(ids) - 1, context, stride)
            jobs.extend(
                (index, window._replace(first=max(window.first, first - 1)))
                for window in cut
                if window.end >= first
            )
    with torch.inference_mode(), evaluating(model):
        for batch in _batches(jobs, batch_tokens):
            scored = _score(model, [(sequences[index], window) for index, window in batch])
            for (index, window), values in zip(batch, scored, strict=True):
                shift = firsts[index] - 1
                results[index][window.first - shift : window.end - shift] = values
    return results


def _batches(
    jobs: Sequence[tuple[int, Window]], batch_tokens: int
) -> Iterator[list[tuple[int, Window]]]:
    """Windows of like lengths together, so that little is padding; longest first shows memory early."""
    ordered = sorted(jobs, key=lambda job: job[1].start - job[1].end)
    batch: list[tuple[int, Window]] = []
    for job in ordered:
        longest = batch[0][1].end - batch[0][1].start if batch else 0
        if batch and longest * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _score(
    model: CausalLM, batch: Sequence[tuple[Sequence[int], Window]]
) -> list[NDArray[np.float64]]:
    """Padding stands behind each row, where causal attention cannot see it; only scored positions
    reach the projection to the vocabulary."""
    longest = batch[0][1].end - batch[0][1].start
    ids = torch.zeros((len(batch), longest), dtype=torch.int64)
    rows, columns, targets = [], [], []
    for row, (sequence, window) in enumerate(batch):
        piece = torch.as_tensor(sequence[window.start : window.end + 1], dtype=torch.int64)
        ids[row, : len(piece) - 1] = piece[:-1]
        offset = window.first - window.start
        columns.append(torch.arange(offset, len(piece) - 1))
        rows.append(torch.full_like(columns[-1], row))
        targets.append(piece[offset + 1 :])
    lengths = torch.tensor([window.end - window.start for _, window in batch])
    device = model.device
    ragged = None if bool((lengths == longest).all()) else lengths.to(device)
    hidden = model.hidden_states(ids.to(device), lengths=ragged)
    chosen = hidden[torch.cat(rows).to(device), torch.cat(columns).to(device)]
    scores = model.token_log_probs(chosen, torch.cat(targets).to(device))
    values = scores.to("cpu", torch.float64).numpy()
    return np.split(values, np.cumsum([len(target) for target in targets])[:-1])
