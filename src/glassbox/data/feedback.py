"""Unpaired preference data for KTO: single answers labelled desirable or undesirable."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.data.conversations import (
    BadRow,
    Found,
    Message,
    instruction_prompt,
    parse_messages,
    read_items,
    system_message,
)
from glassbox.data.examples import ExampleSource, identity_of
from glassbox.data.preferences import (
    PreferenceReport,
    answer_messages,
    encode_answer,
    pad_rows,
    pair_of_row,
    prompt_messages,
    tokens_to_read,
)
from glassbox.data.python_source import PythonSource

if TYPE_CHECKING:
    from glassbox.tokenizers import Tokenizer

LABELS = ("label", "kto_tag")


@dataclass(frozen=True)
class Feedback:
    """Messages of a prompt and of one answer, and whether the answer is desirable."""

    prompt: list[Message]
    answer: list[Message]
    desirable: bool


def read_feedback(path: Path | str | PythonSource) -> Found[Feedback]:
    """Read all answers of a file; the format of each row is detected by its keys.

    With "label" or "kto_tag", true or false, beside one of
    - {"prompt", "completion"}: text or messages (trl),
    - {"messages"} or {"conversations"}: messages, the last one the answer (LLaMA-Factory),
    - {"instruction", "input"?, "output", "system"?, "history"?} (LLaMA-Factory),
    - {"completion"}: messages, the last one the answer (trl's implicit prompt);
    or a preference pair as in `read_preferences`, which gives a desirable and an undesirable
    answer.

    Pairs of equal answers are skipped and counted. Raises UserError naming file, line, key and
    remedy for rows of other formats.
    """
    rows = read_items(path, feedback_of_row, "answers")
    return Found(itertools.chain.from_iterable(rows), rows.skipped, rows.example)


def feedback_of_row(row: Mapping[str, Any]) -> list[Feedback]:
    """The answers of a row: one, or two of a pair. Raises BadRow.

    >>> feedback_of_row({"prompt": "2 + 2?", "completion": "4", "label": True})[0].desirable
    True
    """
    if "chosen" in row and "rejected" in row:
        pair = pair_of_row(row)
        return [
            Feedback(pair.prompt, pair.chosen, True),
            Feedback(pair.prompt, pair.rejected, False),
        ]
    label = next((key for key in LABELS if key in row), None)
    if label is None:
        raise BadRow("missing key 'label'; say true of a good answer and false of a bad one")
    if not isinstance(row[label], bool):
        raise BadRow(f"key '{label}' = {row[label]!r}; give true or false")
    prompt, answer = _prompt_and_answer(row)
    if not prompt:
        raise BadRow("there is nothing before the answer; add the prompt")
    if not answer or any(end["role"] != "assistant" for end in (answer[0], answer[-1])):
        raise BadRow("the last message is not the assistant's; end with its answer")
    return [Feedback(prompt, answer, row[label])]


def _prompt_and_answer(row: Mapping[str, Any]) -> tuple[list[Message], list[Message]]:
    if "prompt" in row and "completion" in row:
        return prompt_messages(row["prompt"]), answer_messages(row["completion"], "completion")
    if "instruction" in row and "output" in row:
        return instruction_prompt(row), answer_messages(row["output"], "output")
    for key in ("messages", "conversations", "completion"):
        if key in row:
            messages = system_message(row) + parse_messages(row[key], key)
            return messages[:-1], messages[-1:]
    raise BadRow(
        f"keys {sorted(row)} are of no known form; beside the label use prompt and completion, "
        "messages, conversations, or instruction and output"
    )


@dataclass(frozen=True)
class EncodedFeedback:
    """Ids of a prompt and of an answer, and which of the answer's ids are scored."""

    prompt_ids: list[int]
    answer_ids: list[int]
    answer_mask: list[int]
    desirable: bool

    @property
    def length(self) -> int:
        """Ids of both."""
        return len(self.prompt_ids) + len(self.answer_ids)

    def row(self, answer: EncodedFeedback, max_length: int) -> tuple[list[int], list[int]]:
        """Ids and mask of this prompt with that one's answer, the prompt cut from the left to fit."""
        kept = self.prompt_ids[-max(1, max_length - len(answer.answer_ids)) :]
        return kept + answer.answer_ids, [0] * len(kept) + answer.answer_mask


def encode_feedback(
    examples: Iterable[Feedback], tokenizer: Tokenizer, *, max_length: int
) -> tuple[list[EncodedFeedback], PreferenceReport]:
    """Encode answers as sequences of at most max_length ids; the report counts them as pairs.

    Prompts that are too long are truncated from the left; answers that do not fit after a single id
    of the prompt are skipped and counted. Raises UserError if none is left.
    """
    report = PreferenceReport.of(examples)
    encoded = []
    for example in examples:
        prompt = tokenizer.encode_chat_prompt(example.prompt)
        ids, mask = encode_answer(example.prompt, example.answer, prompt, tokenizer)
        room = max_length - len(ids)
        if room < 1:
            report.skipped += 1
            continue
        report.num_pairs += 1
        report.shortened += len(prompt) > room
        report.dropped_ids += max(0, len(prompt) - room)
        encoded.append(EncodedFeedback(prompt[-room:], ids, mask, example.desirable))
    if not encoded:
        raise UserError(
            f"none of {report.skipped} answers fits into {max_length} tokens; "
            "raise data.max_length or give shorter answers"
        )
    return encoded, report


@dataclass
class FeedbackBatch:
    """B answers, and the same prompts with answers to other prompts.

    ids, targets: (B, T) as in `PreferenceBatch`; other_ids, other_targets: (B, U) of the mismatched
    ones, from which the KL to the reference is estimated. desirable: (B,).
    """

    ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    desirable: Bool[Tensor, " B"]
    other_ids: Int[Tensor, "B U"]
    other_targets: Int[Tensor, "B U"]

    @property
    def num_tokens(self) -> int:
        """How many tokens there are to read, without padding, the mismatched ones too."""
        return tokens_to_read(self.ids, self.targets) + tokens_to_read(
            self.other_ids, self.other_targets
        )

    def to(self, device: torch.device) -> FeedbackBatch:
        """Return the batch on another device."""
        return FeedbackBatch(
            self.ids.to(device),
            self.targets.to(device),
            self.desirable.to(device),
            self.other_ids.to(device),
            self.other_targets.to(device),
        )


def feedback_batch(
    examples: Sequence[EncodedFeedback], others: Sequence[EncodedFeedback], *, max_length: int
) -> FeedbackBatch:
    """Examples as one batch; others[i] is the example whose answer is the mismatched answer of i."""
    ids, targets = pad_rows([one.row(one, max_length) for one in examples])
    pairs = zip(examples, others, strict=True)
    other_ids, other_targets = pad_rows([one.row(other, max_length) for one, other in pairs])
    desirable = torch.tensor([one.desirable for one in examples])
    return FeedbackBatch(ids, targets, desirable, other_ids, other_targets)


class FeedbackSource(ExampleSource[FeedbackBatch]):
    """`ExampleSource` over answers; each prompt also gets the answer before it in the step.

    The mismatched answers of a step are its own answers shifted by one, as in the paper, skipping
    answers to the same prompt. Raises UserError if all prompts are equal.
    """

    def __init__(
        self,
        examples: Sequence[EncodedFeedback],
        *,
        per_step: int,
        per_batch: int | None = None,
        max_length: int,
        seed: int = 0,
        group: Group | None = None,
    ) -> None:
        super().__init__(
            [one.length for one in examples],
            per_step=per_step,
            per_batch=per_batch,
            seed=seed,
            group=group,
            what="answers",
            identity=identity_of(examples),
        )
        self.examples = examples
        self.max_length = max_length
        if all(one.prompt_ids == examples[0].prompt_ids for one in examples):
            raise UserError(
                "all answers are to one prompt; KTO compares each with answers to other prompts, "
                "so give data with at least two"
            )

    def batch(self, part: list[int], step: list[int]) -> FeedbackBatch:
        """Answers of these numbers and their mismatched ones."""
        others = [self.examples[self._other(number, step)] for number in part]
        own = [self.examples[number] for number in part]
        return feedback_batch(own, others, max_length=self.max_length)

    def _other(self, number: int, step: list[int]) -> int:
        place, prompt = step.index(number), self.examples[number].prompt_ids
        before = [step[place - i] for i in range(1, len(step))]
        beyond = ((number + i) % len(self.examples) for i in range(1, len(self.examples)))
        return next(n for n in [*before, *beyond] if self.examples[n].prompt_ids != prompt)
