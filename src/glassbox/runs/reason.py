"""Questions and problems answered with more tokens, and what these buy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glassbox.core.errors import UserError
from glassbox.formats.open_model import open_on
from glassbox.inference import Engine
from glassbox.tuning.grading.graders import read_problems
from glassbox.tuning.reasoning import (
    ThinkingBudget,
    number_or_last_line,
    self_consistency,
    think_within,
)


def reason_about(
    model: str,
    *,
    question: str,
    problems: str | None,
    samples: int,
    max_tokens: int,
    temperature: float,
    budget: ThinkingBudget | None,
    limit: int,
    seed: int,
    device: str,
) -> Iterator[str]:
    """Lines to print: the answer to a question, or accuracy and tokens over a file of problems."""
    if bool(question) == (problems is not None):
        raise UserError("give one of --prompt (a question) and --problems (a file)")
    rows: list[dict[str, Any]] = [{"prompt": [{"role": "user", "content": question}]}]
    if problems is not None:
        rows = read_problems(problems)[: limit or None]
        missing = next((number for number, row in enumerate(rows, 1) if "answer" not in row), None)
        if missing is not None:
            raise UserError(
                f"'{problems}' row {missing}: missing key 'answer'; give one to count by"
            )
    loaded, tokenizer, _ = open_on(model, device)
    engine = Engine(loaded, tokenizer)
    if budget is not None:
        thoughts = [
            think_within(engine, row["prompt"], budget, temperature=temperature, seed=seed)
            for row in rows
        ]
        said = [number_or_last_line(one.answer) for one in thoughts]
        tokens = [one.thinking_tokens + one.answer_tokens for one in thoughts]
        shown = f"{thoughts[0].thought}\n{budget.end_of_thought}\n{thoughts[0].answer}"
        first = [said]
    else:
        votes = self_consistency(
            engine, [row["prompt"] for row in rows], samples=samples, max_tokens=max_tokens,
            temperature=temperature, seed=seed,
        )  # fmt: skip
        said = [vote.answer for vote in votes]
        tokens = [vote.num_tokens for vote in votes]
        share = f"{votes[0].share:.0%} of {samples} answers, {tokens[0]} tokens"
        shown = f"{said[0] or '(no answer)'}   ({share})"
        first = [[vote.answers[n] for vote in votes] for n in range(samples)]
    if problems is None:
        yield shown
        return
    wanted = [number_or_last_line(f"Answer: {row['answer']}") for row in rows]

    def accuracy(answers: list[str | None]) -> float:
        return sum(a == b for a, b in zip(answers, wanted, strict=True)) / len(rows)

    single = sum(map(accuracy, first)) / len(first)
    mean = sum(tokens) / len(tokens)
    if budget is None:
        yield f"one answer      {single:.3f}   {mean / samples:.0f} tokens a problem"
        yield f"vote of {samples:<8d}{accuracy(said):.3f}   {mean:.0f} tokens a problem"
    else:
        yield f"with thinking   {single:.3f}   {mean:.0f} tokens a problem"
