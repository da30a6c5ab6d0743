"""Token counts of each row, and the penalties computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SPARE = 64  # positions for new tokens made at a time


@dataclass
class History:
    """The distinct tokens of rows with a penalty, and their counts in each output.

    ids, counts: (P, U), of which the first `lengths` positions of each row are used. Prompt tokens
        are included, with a count of 0, only if the repetition penalty needs them. The cost of a
        step is therefore proportional to the number of distinct tokens, not to the vocabulary.
    """

    ids: Int[Tensor, "P U"]
    counts: Int[Tensor, "P U"]
    lengths: Int[Tensor, " P"]
    repetition: Float[Tensor, " P"]
    frequency: Float[Tensor, " P"]
    presence: Float[Tensor, " P"]
    longest: int  # no row has more distinct tokens

    @classmethod
    def of(
        cls,
        seen: Sequence[Sequence[int]],
        generated: Sequence[Sequence[int]],
        penalties: Sequence[tuple[float, float, float]],
        device: torch.device,
    ) -> History:
        """Create from prompts (empty if they are not counted), outputs so far, and the three
        penalties.
        """
        tables: list[dict[int, int]] = []
        for prompt, answer in zip(seen, generated, strict=True):
            table = dict.fromkeys(prompt, 0)
            for token in answer:
                table[token] = table.get(token, 0) + 1
            tables.append(table)
        longest = max((len(table) for table in tables), default=0)
        width = longest + _SPARE
        ids = [[*table, *[0] * (width - len(table))] for table in tables]
        counts = [[*table.values(), *[0] * (width - len(table))] for table in tables]
        columns = torch.tensor(penalties, dtype=torch.float64, device=device).reshape(-1, 3)
        return cls(
            ids=torch.tensor(ids, dtype=torch.int64, device=device).reshape(-1, width),
            counts=torch.tensor(counts, dtype=torch.int64, device=device).reshape(-1, width),
            lengths=torch.tensor([len(t) for t in tables], dtype=torch.int64, device=device),
            repetition=columns[:, 0],
            frequency=columns[:, 1],
            presence=columns[:, 2],
            longest=longest,
        )

    def select(self, rows: Int[Tensor, " M"]) -> History:
        """Copy these rows, trimmed to their width, so that a batch which rows join and leave does
        not grow without bound.
        """
        lengths = self.lengths[rows]
        longest = int(lengths.max()) if len(lengths) else 0
        width = longest + _SPARE
        return History(
            ids=self.ids[rows, :width],
            counts=self.counts[rows, :width],
            lengths=lengths,
            repetition=self.repetition[rows],
            frequency=self.frequency[rows],
            presence=self.presence[rows],
            longest=longest,
        )

    def joined(self, other: History) -> History:
        """Concatenate with another history, these rows first."""
        width = max(self.ids.shape[1], other.ids.shape[1])
        a, b = self._widened(width), other._widened(width)
        return History(
            ids=torch.cat((a.ids, b.ids)),
            counts=torch.cat((a.counts, b.counts)),
            lengths=torch.cat((a.lengths, b.lengths)),
            repetition=torch.cat((a.repetition, b.repetition)),
            frequency=torch.cat((a.frequency, b.frequency)),
            presence=torch.cat((a.presence, b.presence)),
            longest=max(a.longest, b.longest),
        )

    def _widened(self, width: int) -> History:
        more = width - self.ids.shape[1]
        if more <= 0:
            return self
        pad = torch.nn.functional.pad
        return replace(self, ids=pad(self.ids, (0, more)), counts=pad(self.counts, (0, more)))

    def accept(self, tokens: Int[Tensor, " P"], active: Tensor | None) -> None:
        """Count one more token in each row, of those marked in `active` (P,)."""
        self.longest += 1
        if self.longest > self.ids.shape[1]:
            wide = self._widened(self.longest + max(_SPARE, self.longest // 2))
            self.ids, self.counts = wide.ids, wide.counts
        positions = torch.arange(self.ids.shape[1], device=self.ids.device)
        lengths = self.lengths.unsqueeze(1)
        token = tokens.unsqueeze(1)
        here = (self.ids == token) & (positions < lengths)
        fresh = ~here.any(dim=1, keepdim=True) & (positions == lengths)
        if active is not None:
            here, fresh = here & active.unsqueeze(1), fresh & active.unsqueeze(1)
        self.ids = torch.where(fresh, token, self.ids)
        self.counts = self.counts + (here | fresh)
        self.lengths = self.lengths + fresh.any(dim=1)

    def penalise_(self, logits: Float[Tensor, "N V"], rows: Int[Tensor, " P"]) -> None:
        """Apply the three penalties in place to the corresponding rows of `logits`.

        Tested against: `apply_repetition_penalty` followed by `apply_count_penalties`.
        """
        ids = self.ids[:, : self.longest]
        if ids.shape[1] == 0:
            return
        used = torch.arange(ids.shape[1], device=ids.device) < self.lengths.unsqueeze(1)
        # an unused place repeats the first one, so that both write the same number
        ids = torch.where(used, ids, ids[:, :1])
        counts = torch.where(used, self.counts[:, : self.longest], self.counts[:, :1])
        where = (rows.unsqueeze(1), ids)
        old = logits[where]  # (P, U)
        factor, often, once = (
            column.to(logits.dtype).unsqueeze(1)
            for column in (self.repetition, self.frequency, self.presence)
        )
        new = torch.where(old < 0, old * factor, old / factor)
        new = new - often * counts - once * (counts > 0)
        logits[where] = torch.where(self.lengths.unsqueeze(1) > 0, new, old)
