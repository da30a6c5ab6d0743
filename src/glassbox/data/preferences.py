"""Preference pairs: a prompt, a better answer and a worse one, as padded batches in a seeded order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.data.conversations import (
    BadRow,
    Message,
    instruction_prompt,
    located,
    parse_messages,
    read_rows,
    system_message,
)
from glassbox.data.order import SeededOrder
from glassbox.ops.cross_entropy import IGNORE
from glassbox.tokenizers import Tokenizer


@dataclass(frozen=True)
class PreferencePair:
    """Messages of a prompt, of the better answer and of the worse one."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


def read_preferences(path: Path | str) -> list[PreferencePair]:
    """All pairs of a JSONL or JSON file; the form of each row is known by its keys.

    `chosen` and `rejected` are texts, messages, or lists of messages; the prompt is one of
    - {"prompt"}: text or messages, - {"messages"} or {"conversations"}: messages,
    - {"instruction", "input"?, "system"?, "history"?}, as Alpaca,
    - absent: the messages with which both answers begin (trl's implicit prompt).

    Raises UserError naming file, line, key and remedy for a row of another form.
    """
    pairs = [located(place, pair_of_row, row) for place, row in read_rows(path)]
    if not pairs:
        raise UserError(f"'{path}' holds no preference pairs; give it at least one row")
    return pairs


def pair_of_row(row: Mapping[str, Any]) -> PreferencePair:
    """The pair of a row. Raises BadRow.

    >>> pair_of_row({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}).chosen
    [{'role': 'assistant', 'content': '4'}]
    """
    for key in ("chosen", "rejected"):
        if key not in row:
            raise BadRow(
                f"missing key '{key}'; give the prompt, the chosen and the rejected answer"
            )
    chosen, rejected = (_answer(row[key], key) for key in ("chosen", "rejected"))
    if "prompt" in row:
        raw = row["prompt"]
        text = isinstance(raw, str)
        prompt = [{"role": "user", "content": raw}] if text else parse_messages(raw, "prompt")
    elif "instruction" in row:
        prompt = instruction_prompt(row)
    elif "messages" in row or "conversations" in row:
        key = "messages" if "messages" in row else "conversations"
        prompt = parse_messages(row[key], key)
        prompt = system_message(row) + prompt
    else:
        prompt = _common_prefix(chosen, rejected)
        if not prompt:
            raise BadRow("missing key 'prompt', and the answers do not begin alike; add the prompt")
    chosen, rejected = (_without(prompt, answer) for answer in (chosen, rejected))
    for key, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant":
            raise BadRow(f"key '{key}' does not begin and end with the assistant; give its answer")
    if chosen == rejected:
        raise BadRow("'chosen' and 'rejected' are the same; drop the row, it teaches nothing")
    return PreferencePair(prompt, chosen, rejected)


def _answer(raw: Any, key: str) -> list[Message]:
    if isinstance(raw, str):
        return [{"role": "assistant", "content": raw}]
    return parse_messages([raw] if isinstance(raw, dict) else raw, key)


def _common_prefix(first: list[Message], second: list[Message]) -> list[Message]:
    count = 0
    while count < min(len(first), len(second)) and first[count] == second[count]:
        count += 1
    return first[:count]


def _without(prompt: list[Message], answer: list[Message]) -> list[Message]:
    return answer[len(prompt) :] if answer[: len(prompt)] == prompt else answer


@dataclass(frozen=True)
class EncodedPair:
    """Ids of prompt + chosen and of prompt + rejected; masks are 1 where an answer is scored."""

    chosen_ids: list[int]
    chosen_mask: list[int]
    rejected_ids: list[int]
    rejected_mask: list[int]

    @property
    def length(self) -> int:
        """Ids of the longer of the two."""
        return max(len(self.chosen_ids), len(self.rejected_ids))


@dataclass
class PreferenceReport:
    """What became of pairs on their way to ids.

    shortened: pairs whose prompt lost ids on the left, dropped_ids: how many ids of prompts.
    skipped: pairs left out because an answer alone does not fit.
    """

    num_pairs: int = 0
    shortened: int = 0
    dropped_ids: int = 0
    skipped: int = 0


def encode_preferences(
    pairs: Iterable[PreferencePair], tokenizer: Tokenizer, *, max_length: int
) -> tuple[list[EncodedPair], PreferenceReport]:
    """Encode pairs as sequences of at most max_length ids, both answers after the very same prompt.

    A prompt that is too long is cut from the left, as much as the longer answer needs; an answer is
    never cut: a pair in which one does not fit behind a single id of prompt is left out and counted.
    Raises UserError where nothing is left.
    """
    report = PreferenceReport()
    encoded = []
    for pair in pairs:
        prompt = tokenizer.encode_chat_prompt(pair.prompt)
        answers = [_encode_answer(pair, prompt, side, tokenizer) for side in ("chosen", "rejected")]
        room = max_length - max(len(ids) for ids, _ in answers)
        if room < 1:
            report.skipped += 1
            continue
        kept = prompt[-room:]
        report.num_pairs += 1
        report.shortened += len(kept) < len(prompt)
        report.dropped_ids += len(prompt) - len(kept)
        unscored = [0] * len(kept)
        (chosen, chosen_mask), (rejected, rejected_mask) = answers
        encoded.append(
            EncodedPair(
                kept + chosen, unscored + chosen_mask, kept + rejected, unscored + rejected_mask
            )
        )
    if not encoded:
        raise UserError(
            f"none of {report.skipped} pairs fits into {max_length} tokens; "
            "raise data.max_length or give shorter answers"
        )
    return encoded, report


def _encode_answer(
    pair: PreferencePair, prompt: list[int], side: str, tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
    """Ids and mask behind the prompt, up to the last one that is scored."""
    ids, mask = tokenizer.encode_chat([*pair.prompt, *getattr(pair, side)])
    if ids[: len(prompt)] != prompt:
        raise UserError(
            "the chat template writes a prompt differently once it is answered; "
            "use one under which the prompt's tokens begin the whole chat's"
        )
    end = max((i + 1 for i, scored in enumerate(mask) if scored), default=0)
    return ids[len(prompt) : end], mask[len(prompt) : end]


@dataclass
class PreferenceBatch:
    """B pairs as 2B rows: the chosen answers first, then the rejected in the same order.

    ids, targets: (2B, T), target t is id t + 1; IGNORE at the prompt's and the padding's targets.
    reference: (2B,), the reference model's log-probability of each answer, where it was computed
        beforehand; None where the objective's own reference model is to be asked.
    """

    ids: Int[Tensor, "R T"]
    targets: Int[Tensor, "R T"]
    reference: Float[Tensor, " R"] | None = None

    @property
    def num_tokens(self) -> int:
        """How many tokens a forward pass reads, padding included."""
        return self.ids.numel()

    def to(self, device: torch.device) -> PreferenceBatch:
        """The same batch on another device."""
        reference = None if self.reference is None else self.reference.to(device)
        return PreferenceBatch(self.ids.to(device), self.targets.to(device), reference)


def pad_rows(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> tuple[Int[Tensor, "R T"], Int[Tensor, "R T"]]:
    """Inputs and shifted targets of (ids, mask) rows, padded on the right.

    >>> pad_rows([([5, 6, 7], [0, 0, 1])])
    (tensor([[5, 6]]), tensor([[-100,    7]]))
    """
    shape = (len(rows), max(len(ids) for ids, _ in rows) - 1)
    inputs = torch.zeros(shape, dtype=torch.int64)
    targets = torch.full(shape, IGNORE, dtype=torch.int64)
    for place, (ids, mask) in enumerate(rows):
        sequence, scored = torch.tensor(ids), torch.tensor(mask, dtype=torch.bool)
        inputs[place, : len(ids) - 1] = sequence[:-1]
        targets[place, : len(ids) - 1] = torch.where(scored[1:], sequence[1:], IGNORE)
    return inputs, targets


def preference_batch(
    pairs: Sequence[EncodedPair], reference: Float[Tensor, "B 2"] | None = None
) -> PreferenceBatch:
    """Pairs as one batch; `reference` holds a column for the chosen and one for the rejected."""
    rows = [(pair.chosen_ids, pair.chosen_mask) for pair in pairs]
    rows += [(pair.rejected_ids, pair.rejected_mask) for pair in pairs]
    ids, targets = pad_rows(rows)
    return PreferenceBatch(ids, targets, None if reference is None else reference.T.reshape(-1))


class PreferenceSource:
    """Endless batches of pairs: every epoch a new seeded permutation, no pair left out.

    One optimizer step takes `pairs_per_step` pairs over all ranks, in micro-batches of at most
    `pairs_per_batch`, pairs of like length together. The position is the count of pairs taken by
    all ranks, so a run goes on at the exact pair on any number of ranks.
    """

    def __init__(
        self,
        pairs: Sequence[EncodedPair],
        *,
        pairs_per_step: int,
        pairs_per_batch: int | None = None,
        seed: int = 0,
        group: Group | None = None,
        reference: Float[Tensor, "P 2"] | None = None,
    ) -> None:
        self.pairs = pairs
        self.pairs_per_step = pairs_per_step
        self.pairs_per_batch = pairs_per_batch or pairs_per_step
        self.seed = seed
        self.group = group or Group()
        self.reference = reference
        if pairs_per_step % self.group.world_size:
            raise UserError(
                f"{pairs_per_step} pairs a step cannot be shared by {self.group.world_size} ranks; "
                "make data.pairs_per_step a multiple of the number of ranks"
            )
        if reference is not None and tuple(reference.shape) != (len(pairs), 2):
            raise ValueError(f"reference {tuple(reference.shape)} does not fit {len(pairs)} pairs")
        self.cursor = 0
        self._order = SeededOrder(len(pairs), seed, "pairs")

    def next_step(self) -> list[PreferenceBatch]:
        """This rank's micro-batches of the next optimizer step."""
        numbers = [self._order[self.cursor + i] for i in range(self.pairs_per_step)]
        self.cursor += self.pairs_per_step
        mine = numbers[self.group.rank :: self.group.world_size]
        mine.sort(key=lambda number: (self.pairs[number].length, number))
        return [
            preference_batch(
                [self.pairs[number] for number in part],
                None if self.reference is None else self.reference[part],
            )
            for first in range(0, len(mine), self.pairs_per_batch)
            if (part := mine[first : first + self.pairs_per_batch])
        ]

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON."""
        return {"cursor": self.cursor, "pairs": len(self.pairs), "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Raises UserError where the data are not the ones it was saved with."""
        check_resumable(state, {"pairs": len(self.pairs), "seed": self.seed})
        self.cursor = int(state["cursor"])


def check_resumable(state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise UserError naming the first key in which a saved position and these data differ."""
    for key, value in expected.items():
        if state.get(key) != value:
            raise UserError(
                f"the checkpoint was made with {key} = {state.get(key)}, here it is {value}; "
                "resume with the same data and seed"
            )
