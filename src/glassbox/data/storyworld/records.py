"""What the story world yields, and the JSON lines that it is written as."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glassbox.core.errors import UserError
from glassbox.core.files import atomic_writer

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Document:
    """A text, its exact log-probability in nats (the kind's weight included), and its facts."""

    text: str
    log_prob: float
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """{"text", "log_prob", "kind"}: what a corpus file holds."""
        return {"text": self.text, "log_prob": self.log_prob, "kind": self.kind}


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a story with its one right answer, short and as a sentence, and wrong ones."""

    story: str
    kind: str
    question: str
    short: str
    sentence: str
    wrong_short: tuple[str, ...]
    wrong: tuple[str, ...]
    language: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> list[Message]:
        """The story and the question as one user message."""
        return [{"role": "user", "content": f"{self.story}\n\n{self.question}"}]

    def to_json(self) -> dict[str, Any]:
        """{"prompt", "answer", "short", "wrong", "wrong_short", "kind", "language"}."""
        return {
            "prompt": self.prompt,
            "answer": self.sentence,
            "short": self.short,
            "wrong": list(self.wrong),
            "wrong_short": list(self.wrong_short),
            "kind": self.kind,
            "language": self.language,
            "story": self.story,
            "question": self.question,
        }


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages in order. `checks` says of assistant messages what is right and what is wrong."""

    messages: list[Message]
    kind: str
    checks: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """{"messages", "kind", "checks"}."""
        return {"messages": self.messages, "kind": self.kind, "checks": self.checks}


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt, a better and a worse reply, and what makes the difference."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    aspect: str

    def to_json(self) -> dict[str, Any]:
        """{"prompt", "chosen", "rejected", "aspect"}: the form that DPO trainers read."""
        return {
            "prompt": self.prompt,
            "chosen": self.chosen,
            "rejected": self.rejected,
            "aspect": self.aspect,
        }


@dataclass(frozen=True, slots=True)
class ArithmeticProblem:
    """A word problem as a prompt, its worked solution ending in 'Answer: N', and N."""

    prompt: list[Message]
    solution: str
    answer: int

    def to_json(self) -> dict[str, Any]:
        """{"prompt", "solution", "answer"}."""
        return {"prompt": self.prompt, "solution": self.solution, "answer": self.answer}


def question_from_json(row: Mapping[str, Any]) -> Question:
    """The question that `to_json` wrote."""
    return Question(
        row["story"],
        row["kind"],
        row["question"],
        row["short"],
        row["answer"],
        tuple(row["wrong_short"]),
        tuple(row["wrong"]),
        row["language"],
    )


def json_line(row: Mapping[str, Any]) -> bytes:
    """One row as a line of UTF-8."""
    return json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n"


def write_jsonl(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON lines, atomically. Returns how many."""
    count = 0
    with atomic_writer(path) as stream:
        for row in rows:
            stream.write(json_line(row))
            count += 1
    return count


def read_jsonl(path: Path | str, required: Iterable[str] = ()) -> Iterator[dict[str, Any]]:
    """Read JSON lines one by one; blank lines are passed over.

    Raises UserError, naming file and line, where a line is not a JSON object, is not UTF-8, or
    lacks a `required` key.
    """
    path = Path(path)
    needed = tuple(required)
    if not path.exists():
        raise UserError(f"no file '{path}'; check the path")
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except ValueError as error:
                raise UserError(f"'{path}' line {number}: not valid JSON: {error}") from None
            if not isinstance(row, dict):
                raise UserError(f"'{path}' line {number}: give an object, not {type(row).__name__}")
            for key in needed:
                if key not in row:
                    raise UserError(f"'{path}' line {number}: missing key '{key}'; add it")
            yield row
