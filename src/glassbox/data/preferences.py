"""Preference pairs: a prompt, a better answer and a worse one, as padded batches in a seeded order."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.data.conversations import (
    BadRow,
    EmptyRow,
    Found,
    Message,
    instruction_prompt,
    parse_messages,
    read_items,
    system_message,
)
from glassbox.data.examples import ExampleSource, identity_of
from glassbox.data.examples import check_resumable as check_resumable
from glassbox.data.python_source import PythonSource
from glassbox.ops.cross_entropy import IGNORE

if TYPE_CHECKING:
    from glassbox.tokenizers import Tokenizer


@dataclass(frozen=True)
class PreferencePair:
    """Messages of a prompt, the chosen and the rejected answer, and the margin between them."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    margin: float | None = None


def read_preferences(path: Path | str | PythonSource) -> Found[PreferencePair]:
    """Read all pairs of a file; the format of each row is detected by its keys.

    `chosen` and `rejected` are texts, messages, or lists of messages; the prompt is one of
    - {"prompt"}: text or messages, - {"messages"} or {"conversations"}: messages,
    - {"instruction", "input"?, "system"?, "history"?}, as Alpaca,
    - absent: the messages with which both answers begin (trl's implicit prompt).
    Texts that begin with "Human:" after two line breaks are dialogues as Anthropic's HH data have
    them. "margin", a number, says by how much the chosen answer is better, for reward models.

    Pairs of equal answers are skipped and counted. Raises UserError naming file, line, key and
    remedy for rows of other formats.
    """
    return read_items(path, pair_of_row, "preference pairs")


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
    chosen, rejected = (answer_messages(row[key], key) for key in ("chosen", "rejected"))
    if "prompt" in row:
        prompt = prompt_messages(row["prompt"])
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
        raise EmptyRow("'chosen' and 'rejected' are the same, which gives no gradient")
    return PreferencePair(prompt, chosen, rejected, _margin(row))


def prompt_messages(raw: Any) -> list[Message]:
    """The messages of a key `prompt`: text, a dialogue as HH has them, or messages. Raises BadRow."""
    if not isinstance(raw, str):
        return parse_messages(raw, "prompt")
    if is_dialogue(raw):
        return [message for message in dialogue(raw) if message["content"]]
    return [{"role": "user", "content": raw}]


def answer_messages(raw: Any, key: str) -> list[Message]:
    """The messages of an answer: text, a dialogue, a message or several. Raises BadRow."""
    if isinstance(raw, str):
        return dialogue(raw) if is_dialogue(raw) else [{"role": "assistant", "content": raw}]
    return parse_messages([raw] if isinstance(raw, dict) else raw, key)


def is_dialogue(text: str) -> bool:
    """Whether a text is a dialogue in one string, as in Anthropic's HH data (arXiv:2204.05862)."""
    return text.startswith("\n\nHuman:")


def dialogue(text: str) -> list[Message]:
    """The turns of such a text.

    >>> dialogue("\\n\\nHuman: Hi\\n\\nAssistant: Hello.")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello.'}]
    """
    _, *parts = re.split(r"\n\n(Human|Assistant):", text)
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": roles[who], "content": words.strip()} for who, words in turns]


def _margin(row: Mapping[str, Any]) -> float | None:
    margin = row.get("margin")
    if margin is None:
        return None
    number = isinstance(margin, (int, float)) and not isinstance(margin, bool)
    if not number or not math.isfinite(margin):
        raise BadRow(f"key 'margin' = {margin!r}; give a number, or leave it out")
    return float(margin)


def _common_prefix(first: list[Message], second: list[Message]) -> list[Message]:
    count = 0
    while count < min(len(first), len(second)) and first[count] == second[count]:
        count += 1
    return first[:count]


def _without(prompt: list[Message], answer: list[Message]) -> list[Message]:
    return answer[len(prompt) :] if answer[: len(prompt)] == prompt else answer


@dataclass(frozen=True)
class EncodedPair:
    """Ids of prompt + chosen and of prompt + rejected; masks are 1 where an answer is scored.

    margin: by how much the chosen one is better, for reward models.
    """

    chosen_ids: list[int]
    chosen_mask: list[int]
    rejected_ids: list[int]
    rejected_mask: list[int]
    margin: float = 0.0

    @property
    def length(self) -> int:
        """Ids of the longer of the two."""
        return max(len(self.chosen_ids), len(self.rejected_ids))


@dataclass
class PreferenceReport:
    """Counts of pairs encoded, truncated and skipped.

    shortened: pairs whose prompt was truncated from the left; dropped_ids: number of ids removed.
    skipped: pairs with an answer that does not fit. useless: rows without a gradient, such as two
        equal answers; example: the first of them.
    """

    num_pairs: int = 0
    shortened: int = 0
    dropped_ids: int = 0
    skipped: int = 0
    useless: int = 0
    example: str = ""

    @classmethod
    def of(cls, items: Iterable[Any]) -> PreferenceReport:
        """With what reading left out already."""
        if isinstance(items, Found):
            return cls(useless=items.skipped, example=items.example)
        return cls()


def encode_preferences(
    pairs: Iterable[PreferencePair], tokenizer: Tokenizer, *, max_length: int
) -> tuple[list[EncodedPair], PreferenceReport]:
    """Encode pairs as sequences of at most max_length ids, both answers after the same prompt.

    Prompts that are too long for the longer answer are truncated from the left; answers are never
    truncated: a pair with an answer that does not fit after a single id of the prompt is skipped
    and counted. Raises UserError if none is left.
    """
    report = PreferenceReport.of(pairs)
    encoded = []
    for pair in pairs:
        prompt = tokenizer.encode_chat_prompt(pair.prompt)
        answers = [
            encode_answer(pair.prompt, answer, prompt, tokenizer)
            for answer in (pair.chosen, pair.rejected)
        ]
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
                kept + chosen,
                unscored + chosen_mask,
                kept + rejected,
                unscored + rejected_mask,
                pair.margin or 0.0,
            )
        )
    if not encoded:
        raise UserError(
            f"none of {report.skipped} pairs fits into {max_length} tokens; "
            "raise data.max_length or give shorter answers"
        )
    return encoded, report


def encode_answer(
    prompt: list[Message], answer: list[Message], prompt_ids: list[int], tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
    """Ids and mask behind the prompt's ids, up to the last one that is scored. Raises UserError."""
    ids, mask = tokenizer.encode_chat([*prompt, *answer])
    if ids[: len(prompt_ids)] != prompt_ids:
        raise UserError(
            "the chat template writes a prompt differently once it is answered; "
            "use one under which the prompt's tokens begin the whole chat's"
        )
    end = max((i + 1 for i, scored in enumerate(mask) if scored), default=0)
    return ids[len(prompt_ids) : end], mask[len(prompt_ids) : end]


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
        """How many tokens there are to read: no padding, and each prompt once."""
        return tokens_to_read(self.ids, self.targets)

    def to(self, device: torch.device) -> PreferenceBatch:
        """Return the batch on another device."""
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


def tokens_to_read(ids: Int[Tensor, "R T"], targets: Int[Tensor, "R T"]) -> int:
    """Inputs of padded rows up to their last target; what rows have alike before their first target, once.

    >>> ids, targets = pad_rows([([5, 6, 7], [0, 0, 1]), ([5, 6, 8, 9], [0, 0, 1, 1])])
    >>> tokens_to_read(ids, targets)  # 5 and 6 for both rows, and 8 of the second
    3
    """
    ids, scored = ids.cpu(), (targets != IGNORE).cpu()
    count = 0
    seen: set[bytes] = set()
    for row, places in zip(ids, scored, strict=True):
        found = places.nonzero().squeeze(1)
        if not len(found):
            continue
        first, last = int(found[0]) + 1, int(found[-1]) + 1
        beginning = row[:first].numpy().tobytes()
        count += last - (first if beginning in seen else 0)
        seen.add(beginning)
    return count


def preference_batch(
    pairs: Sequence[EncodedPair], reference: Float[Tensor, "B 2"] | None = None
) -> PreferenceBatch:
    """Pairs as one batch; `reference` holds a column for the chosen and one for the rejected."""
    rows = [(pair.chosen_ids, pair.chosen_mask) for pair in pairs]
    rows += [(pair.rejected_ids, pair.rejected_mask) for pair in pairs]
    ids, targets = pad_rows(rows)
    return PreferenceBatch(ids, targets, None if reference is None else reference.T.reshape(-1))


class PreferenceSource(ExampleSource[PreferenceBatch]):
    """`ExampleSource` over pairs, each with its reference's log-probabilities where they are given."""

    def __init__(
        self,
        pairs: Sequence[EncodedPair],
        *,
        per_step: int,
        per_batch: int | None = None,
        seed: int = 0,
        group: Group | None = None,
        reference: Float[Tensor, "P 2"] | None = None,
    ) -> None:
        super().__init__(
            [pair.length for pair in pairs],
            per_step=per_step,
            per_batch=per_batch,
            seed=seed,
            group=group,
            identity=identity_of(pairs),
        )
        self.pairs = pairs
        self.reference = reference
        if reference is not None and tuple(reference.shape) != (len(pairs), 2):
            raise ValueError(f"reference {tuple(reference.shape)} does not fit {len(pairs)} pairs")

    def batch(self, part: list[int], step: list[int]) -> PreferenceBatch:
        """Pairs of these numbers."""
        reference = None if self.reference is None else self.reference[part]
        return preference_batch([self.pairs[number] for number in part], reference)
