"""The story world's own evaluation: excess over its entropy, questions, preferences, sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.core.seeding import derive_seed
from glassbox.data.storyworld import (
    check_answer,
    check_steps,
    extract_answer,
    question_from_json,
    read_jsonl,
)
from glassbox.evaluation.limits import Limits
from glassbox.evaluation.perplexity import make_text, score_by_kind, summarize
from glassbox.evaluation.scoring import token_log_probs
from glassbox.evaluation.stats import accuracy
from glassbox.inference import ChatPrompts, Engine, SamplingParams
from glassbox.models.causal_lm import CausalLM
from glassbox.models.scorer import sequence_scores
from glassbox.tokenizers import Tokenizer

Row = dict[str, Any]
SPARE_TOKENS = 16
NUM_EXAMPLES = 4


class Task(NamedTuple):
    """Files, required keys and evaluation of a task."""

    file: str
    limit: str
    required: tuple[str, ...]
    judge: Callable[[CausalLM, Tokenizer, Sequence[Row]], dict[str, Any]]
    needs_scores: bool = False


def evaluate_story_world(
    model: CausalLM,
    tokenizer: Tokenizer,
    folder: Path | str,
    *,
    limits: Mapping[str, int] | int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """All tasks on a corpus folder, as JSON values; the same arguments give the same figures.

    {"heldout", "unseen": loss_nats, perplexity, bits_per_byte, entropy_nats, excess_nats, kinds;
    "questions", "preferences", "arithmetic": accuracy, kinds, and examples}, each figure as
    {"value", "standard_error", "n"}. A task whose file is not there is left out. A model with a
    scalar head also has "scores": {accuracy, kinds}, how often it scores the better answer higher.

    limits: by task (the keys of `Limits`), or one for all tasks; 0, and None, take all.
        The items are chosen by `seed` alone, so that models are compared on the same ones.
    Raises UserError where the folder holds none of the files.
    """
    if isinstance(limits, int):
        limits = dict.fromkeys(Limits.model_fields, limits)
    chosen = Limits() if limits is None else parse(Limits, dict(limits), where="limits")
    folder = Path(folder)
    results: dict[str, Any] = {}
    for name, task in TASKS.items():
        path = folder / task.file
        if path.exists() and (model.config.score_head or not task.needs_scores):
            rows = choose(list(read_jsonl(path, task.required)), getattr(chosen, task.limit), seed)
            if rows:
                results[name] = task.judge(model, tokenizer, rows)
    if not results:
        files = ", ".join(task.file for task in TASKS.values())
        raise UserError(f"'{folder}' holds nothing to evaluate on; it needs some of {files}")
    return results


def choose(rows: Sequence[Row], limit: int, seed: int) -> list[Row]:
    """`limit` rows (0: all) picked without replacement, in their own order."""
    if limit == 0 or limit >= len(rows):
        return list(rows)
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, "evaluate")))
    return [rows[i] for i in sorted(generator.permutation(len(rows))[:limit].tolist())]


def judge_documents(model: CausalLM, tokenizer: Tokenizer, rows: Sequence[Row]) -> dict[str, Any]:
    """Loss of whole documents and its excess over their exact entropy, overall and by kind."""
    texts = [
        make_text(
            tokenizer, row["text"], row.get("log_prob"), str(row.get("kind", "")), prefix="eos"
        )  # its exact probability is that of the whole document, first token and end included
        for row in rows
    ]
    scores = token_log_probs(model, [text.ids for text in texts])
    whole = summarize(texts, scores, block=model.config.context_length)
    return {**whole.to_json(), "kinds": score_by_kind(texts, scores)}


def judge_questions(model: CausalLM, tokenizer: Tokenizer, rows: Sequence[Row]) -> dict[str, Any]:
    """Share of questions answered rightly, by `check_answer`.

    Greedy answers to the chat prompt of training. A model that has seen no chats gets the same
    prompt and fails: that is the figure before fine-tuning.
    """
    expected = [row["answer"] for row in rows]
    answers = answer_greedily(model, tokenizer, [row["prompt"] for row in rows], expected)
    right = [
        check_answer(question_from_json(row), answer)
        for row, answer in zip(rows, answers, strict=True)
    ]
    return {
        **accuracy(right, [row["kind"] for row in rows]),
        "examples": _examples(rows, expected, answers, right),
    }


def judge_arithmetic(model: CausalLM, tokenizer: Tokenizer, rows: Sequence[Row]) -> dict[str, Any]:
    """Share of problems whose final answer, by greedy decoding, is exactly right.

    Kinds are the numbers of steps of the reference solution. `steps_right` is the share of
    solutions whose every written step is true, whatever the answer.
    """
    expected = [row["solution"] for row in rows]
    answers = answer_greedily(model, tokenizer, [row["prompt"] for row in rows], expected)
    right = [
        extract_answer(answer) == row["answer"] for row, answer in zip(rows, answers, strict=True)
    ]
    steps = [row["solution"].count(" = ") for row in rows]
    return {
        **accuracy(right, [f"{count} step" + "s" * (count != 1) for count in steps]),
        "steps_right": accuracy([check_steps(answer) for answer in answers], [""] * len(rows))[
            "accuracy"
        ],
        "examples": _examples(rows, expected, answers, right),
    }


def judge_preferences(model: CausalLM, tokenizer: Tokenizer, rows: Sequence[Row]) -> dict[str, Any]:
    """Share of pairs in which the chosen answer has the higher log-probability given the prompt.

    `accuracy` compares sums over the answer's tokens, its end of turn included, which is what DPO
    trains; `per_token` compares means, so that a short answer has no advantage. A tie is wrong.
    """
    sequences = encode_sides(tokenizer, rows)
    firsts = [len(tokenizer.encode_chat_prompt(row["prompt"])) for row in rows for _ in range(2)]
    scores = token_log_probs(model, sequences, first_target=firsts)
    kinds = [str(row.get("aspect", "")) for row in rows]
    chosen, rejected = scores[::2], scores[1::2]
    pairs = list(zip(chosen, rejected, strict=True))
    return {
        **accuracy([bool(good.sum() > bad.sum()) for good, bad in pairs], kinds),
        "per_token": accuracy([bool(good.mean() > bad.mean()) for good, bad in pairs], kinds)[
            "accuracy"
        ],
    }


def judge_scores(model: CausalLM, tokenizer: Tokenizer, rows: Sequence[Row]) -> dict[str, Any]:
    """Share of pairs in which the scalar head scores the chosen answer higher. A tie is wrong.

    The score is read off where the answer ends, as a reward model is trained.
    """
    scores = sequence_scores(model, encode_sides(tokenizer, rows)).tolist()
    right = [good > bad for good, bad in zip(scores[::2], scores[1::2], strict=True)]
    return accuracy(right, [str(row.get("aspect", "")) for row in rows])


def encode_sides(tokenizer: Tokenizer, rows: Sequence[Row]) -> list[list[int]]:
    """Ids of each prompt with its chosen, then with its rejected answer, up to the answer's end."""
    sequences = []
    for row in rows:
        first = len(tokenizer.encode_chat_prompt(row["prompt"]))
        for side in ("chosen", "rejected"):
            ids, mask = tokenizer.encode_chat([*row["prompt"], *row[side]])
            end = max((i + 1 for i, trained in enumerate(mask) if trained), default=0)
            if end <= first:
                raise UserError(f"a {side} answer to {row['prompt'][-1]!r} is empty")
            sequences.append(ids[:end])
    return sequences


def answer_greedily(
    model: CausalLM, tokenizer: Tokenizer, prompts: Sequence[list[Row]], expected: Sequence[str]
) -> list[str]:
    """Greedy answers to chat prompts, up to the end of the turn.

    Answers are limited to slightly more than the longest expected one.
    """
    longest = max(len(tokenizer.encode(text)) for text in expected)
    chats = ChatPrompts(tokenizer)
    params = chats.params(
        SamplingParams(max_tokens=longest + SPARE_TOKENS, temperature=0.0, seed=0)
    )
    ids = [chats.ids(prompt) for prompt in prompts]
    completions = Engine(model, tokenizer).generate(ids, params, truncate_prompt=True)
    return [completion.text or "" for completion in completions]


def _examples(
    rows: Sequence[Row], expected: Sequence[str], answers: Sequence[str], right: Sequence[bool]
) -> list[dict[str, Any]]:
    """A few items as they went, the first ones: not picked for how they went."""
    return [
        {"prompt": row["prompt"][-1]["content"], "expected": want, "answer": got, "right": good}
        for row, want, got, good in list(zip(rows, expected, answers, right, strict=True))[
            :NUM_EXAMPLES
        ]
    ]


TASKS = {
    "heldout": Task("heldout.jsonl", "documents", ("text",), judge_documents),
    "unseen": Task("unseen.jsonl", "unseen", ("text",), judge_documents),
    "questions": Task(
        "questions.heldout.jsonl",
        "questions",
        ("prompt", "answer", "short", "kind", "story", "question", "language"),
        judge_questions,
    ),
    "preferences": Task(
        "preferences.heldout.jsonl",
        "preferences",
        ("prompt", "chosen", "rejected"),
        judge_preferences,
    ),
    "scores": Task(
        "preferences.heldout.jsonl",
        "preferences",
        ("prompt", "chosen", "rejected"),
        judge_scores,
        needs_scores=True,
    ),
    "arithmetic": Task(
        "arithmetic.heldout.jsonl",
        "arithmetic",
        ("prompt", "solution", "answer"),
        judge_arithmetic,
    ),
}
