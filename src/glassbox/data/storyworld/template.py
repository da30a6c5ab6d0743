"""Sentences with holes, and the words that fill them: what a language gives to the plots."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

_SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?\}")


Part = tuple[str, str, str]  # a literal, the role written after it, the role's form


class Entity:
    """A word of the world: its id, its category, and its written forms ('' is the plain one)."""

    __slots__ = ("category", "forms", "id")

    def __init__(self, category: str, identity: str, forms: Mapping[str, str]) -> None:
        self.category = category
        self.id = identity
        self.forms = dict(forms)

    def __repr__(self) -> str:
        return f"Entity({self.category}:{self.id})"


class Template:
    """A sentence such as 'One {time}, {hero} went to {place}.', split once into its parts.

    `parts` is a sequence of (literal, role, form); the last has an empty role.
    """

    __slots__ = ("parts", "roles", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        parts: list[Part] = []
        position = 0
        for match in _SLOT.finditer(source):
            parts.append((source[position : match.start()], match[1], match[2] or ""))
            position = match.end()
        parts.append((source[position:], "", ""))
        self.parts = tuple(parts)
        self.roles = frozenset(role for _, role, _ in parts if role)

    def fill(self, roles: Mapping[str, Entity]) -> str:
        """The sentence with every hole filled.

        >>> Template("{a} ran.").fill({"a": Entity("name", "Mia", {"": "Mia"})})
        'Mia ran.'
        """
        return fill(self.parts, roles)


def fill(parts: Sequence[Part], roles: Mapping[str, Entity]) -> str:
    """The text of a template's parts, every hole filled."""
    return "".join(
        literal + roles[role].forms[form] if role else literal for literal, role, form in parts
    )


@dataclass(frozen=True)
class Asking:
    """How one type of question is put and answered; `x` is the role that the answer fills."""

    questions: tuple[Template, ...]
    short: Template
    sentence: Template


@dataclass(frozen=True)
class Language:
    """All that differs between languages: words by category, sentences by event, small phrases."""

    code: str
    joiner: str
    words: Mapping[str, tuple[Entity, ...]]
    sentences: Mapping[str, tuple[Template, ...]]
    askings: Mapping[str, Asking]
    phrases: Mapping[str, str]
    small_talk: tuple[tuple[tuple[str, ...], str], ...]

    def number(self, value: int) -> Entity:
        """A number as a word of the story, written in digits."""
        return Entity("number", str(value), {"": str(value)})


def compile_language(
    code: str,
    joiner: str,
    words: Mapping[str, Sequence[Entity]],
    sentences: Mapping[str, str],
    askings: Mapping[str, tuple[str, str, str]],
    phrases: Mapping[str, str],
    small_talk: Sequence[tuple[str, str]],
) -> Language:
    """Build a `Language`. A block of sentences has one alternative a line; `|` divides questions."""
    return Language(
        code,
        joiner,
        MappingProxyType({category: tuple(entries) for category, entries in words.items()}),
        MappingProxyType({event: _lines(block) for event, block in sentences.items()}),
        MappingProxyType(
            {
                kind: Asking(
                    tuple(Template(part.strip()) for part in questions.split("|")),
                    Template(short),
                    Template(sentence),
                )
                for kind, (questions, short, sentence) in askings.items()
            }
        ),
        MappingProxyType(dict(phrases)),
        tuple((tuple(users.split("|")), reply) for users, reply in small_talk),
    )


def _lines(block: str) -> tuple[Template, ...]:
    lines = [line.strip().replace("\\n", "\n") for line in block.strip().splitlines()]
    assert len(set(lines)) == len(lines), "two equal sentences would be two derivations of one text"
    return tuple(Template(line) for line in lines)
