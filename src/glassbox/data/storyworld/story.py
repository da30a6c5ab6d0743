"""The state of one story while it is told: who plays which role, what happened, what can be asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from glassbox.data.storyworld.choice import Chooser, Weights
from glassbox.data.storyworld.template import Entity, Language, Part, Template, fill

# Which category of word fills a role. Two roles of one category never get the same word.
CATEGORY = {
    "hero": "name", "friend": "name", "third": "name",
    "kind": "kind", "fkind": "kind", "tkind": "kind",
    "trait": "trait", "home": "place", "place": "place", "place2": "place",
    "thing": "thing", "thing2": "thing", "reason": "reason", "time": "time",
    "weather": "weather", "passer": "passer", "task": "task", "task2": "task",
    "food": "food", "goods": "goods", "color": "color", "color2": "color",
    "box": "box", "box2": "box", "taker": "taker", "stray": "stray", "asker": "name",
}  # fmt: skip

_KIND_OF = {"hero": "kind", "friend": "fkind", "third": "tkind"}
_MENTION = {"who": "the", "Who": "The"}

_CHANCES = {p: Weights([p, 1 - p]) for p in (0.3, 0.4, 0.5)}


class Combinations:
    """Which pairs (kind of hero, thing) are reserved: never told about but in the `unseen` split.

    A pair is reserved if blake2b(kind|thing), read as a fraction, is below `fraction`.
    `mode`: "exclude" (train, held-out), "any" (the unrestricted generator), "only" (unseen).
    """

    def __init__(self, language: Language, fraction: float, mode: str) -> None:
        self.mode = mode
        things = language.words["thing"]
        self.reserved = {
            kind.id: frozenset(t.id for t in things if _fraction(kind.id, t.id) < fraction)
            for kind in language.words["kind"]
        }
        self.options = {
            kind: tuple(t for t in things if mode != "exclude" or t.id not in reserved)
            for kind, reserved in self.reserved.items()
        }

    def is_reserved(self, kind: str, thing: str) -> bool:
        """Whether the pair of ids is kept from training."""
        return thing in self.reserved[kind]


def _fraction(kind: str, thing: str) -> float:
    digest = hashlib.blake2b(f"{kind}|{thing}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


class Story:
    """Tells sentences, binding each role to a word when a sentence first needs it.

    So a choice is written as soon as it is made: texts have one derivation, and a reader who
    knows the grammar can follow it word by word.
    """

    def __init__(
        self,
        chooser: Chooser,
        language: Language,
        pairs: Combinations,
        mentions: Weights | None = None,
    ) -> None:
        self.chooser = chooser
        self.language = language
        self.pairs = pairs
        self.mentions = mentions
        self.roles: dict[str, Entity] = {}
        self.events: list[tuple[str, ...]] = []
        self.asks: list[tuple[str, str, dict[str, str]]] = []
        self.plot = ""
        self.told: list[list[tuple[Part, ...]]] = [[]]
        self.cast: list[str] = []
        self._used: dict[str, list[Entity]] = {}
        self._pools: dict[str, Sequence[Entity]] = {}

    def tell(self, event: str) -> None:
        """Write one of the language's sentences for `event`, filling its roles.

        The form `who` (`Who` where a sentence begins) mentions a person anew, by name or, as
        often as `mentions` has it, by kind: 'Mia' or 'the painter'.
        """
        template = self.chooser.pick(self.language.sentences[event])
        paragraph = self.told[-1]
        emit, roles = self.chooser.emit, self.roles
        if paragraph and self.language.joiner:
            emit(self.language.joiner)
        parts: list[Part] = []
        for literal, role, form in template.parts:
            if literal:
                emit(literal)
            if form in _MENTION:
                role, form = self._mention(role, form)
            if role:
                entity = roles.get(role)
                if entity is None:
                    entity = self._bind(role)
                emit(entity.forms[form])
            parts.append((literal, role, form))
        paragraph.append(tuple(parts))

    def _mention(self, role: str, form: str) -> tuple[str, str]:
        if self.mentions is not None and self.chooser.pick((False, True), self.mentions):
            return _KIND_OF[role], _MENTION[form]
        return role, ""

    def _bind(self, role: str) -> Entity:
        category = CATEGORY.get(role, role)
        pool = self._pools.get(role)
        if pool is None:
            pool = self.language.words[category]
        used = self._used.setdefault(category, [])
        if role == "thing":
            pool = self.pairs.options[self.roles["kind"].id]
        elif used:
            pool = [entity for entity in pool if entity not in used]
        entity = self.chooser.pick(pool)
        used.append(entity)
        self.roles[role] = entity
        if role == "thing" and self.pairs.mode == "only":
            self.chooser.require(self.pairs.is_reserved(self.roles["kind"].id, entity.id))
        return entity

    def pool(self, role: str, options: Sequence[Entity]) -> None:
        """Let `role` be bound from `options`, when it is first told."""
        self._pools[role] = options

    def spots(self, role: str, place: str | None = None) -> None:
        """Let `role` be a hiding place that fits the place (or a house, without one)."""
        inside = place is None or self.roles[place].forms["inside"]
        words = self.language.words["spot_in" if inside else "spot_out"]
        taken = [e for e in self.roles.values() if e.category == "spot"]
        self._pools[role] = [e for e in words if e not in taken] if taken else words

    def numbers(self, role: str, low: int, high: int) -> None:
        """Let `role` be a number from low to high, bound when it is first told."""
        self._pools[role] = [self.language.number(n) for n in range(low, high + 1)]

    def value(self, role: str) -> int:
        """The number that a role holds."""
        return int(self.roles[role].id)

    def set_number(self, role: str, value: int) -> None:
        """Give a role the number that follows from what was told."""
        self.roles[role] = self.language.number(value)

    def alias(self, role: str, source: str) -> None:
        """Let `role` stand for whoever plays `source`."""
        self.roles[role] = self.roles[source]

    def container(self, role: str, color: str, box: str) -> None:
        """Make a place out of a colour and a box: 'in the red box'."""
        self.roles[role] = self.container_of(self.roles[color], self.roles[box])

    def container_of(self, color: Entity, box: Entity) -> Entity:
        """A colour and a box as one place."""
        words = {"color": color, "box": box}
        phrases = self.language.phrases
        forms = {
            form: Template(phrases[name]).fill(words)
            for form, name in (("", "container"), ("in", "in_container"))
        }
        return Entity("container", f"{color.id} {box.id}", forms)

    def forget(self, category: str, keep: str) -> None:
        """Let the words of a category be used again, but for the one that plays `keep`."""
        self._used[category] = [self.roles[keep]]

    def maybe(self, probability: float) -> bool:
        """Decide whether something optional is told."""
        return self.chooser.pick((True, False), _CHANCES[probability])

    def paragraph(self) -> None:
        """Begin a new paragraph."""
        self.chooser.emit("\n\n")
        self.told.append([])

    def fact(self, *event: str) -> None:
        """Record that something happened or holds: a verb, then roles."""
        self.events.append(event)

    def ask(self, kind: str, answer: str, **aliases: str) -> None:
        """Record that a question of this kind can be asked, and which role answers it."""
        self.asks.append((kind, answer, aliases))

    def recap(self, *options: tuple[str, str]) -> None:
        """Perhaps let a question be asked and truly answered inside the story.

        Each option is (event, role): "recap.has" with who has the thing, and so on.
        """
        if self.maybe(0.4):
            event, role = self.chooser.pick(options) if len(options) > 1 else options[0]
            self.roles["x"] = self.roles[role]
            self.tell(event)

    def list_of(self, names: Sequence[str]) -> Entity:
        """Names as one enumeration: 'Mia, Tom and Ann'."""
        comma, final = self.language.phrases["comma"], self.language.phrases["and"]
        text = final.join([comma.join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
        return Entity("list", "|".join(names), {"": text})

    def name_cast(self) -> None:
        """Let the role `names` stand for everyone who was in the story."""
        self.roles["names"] = self.list_of([self.roles[role].forms[""] for role in self.cast])

    def facts(self) -> dict[str, Any]:
        """All that is known of the story, as JSON: roles, events, plot, cast, combination."""
        return {
            "plot": self.plot,
            "combination": [self.roles["kind"].id, self.roles["thing"].id],
            "cast": [self.roles[role].forms[""] for role in self.cast],
            "roles": {role: e.forms[""] for role, e in self.roles.items() if role != "x"},
            "events": [list(event) for event in self.events],
        }

    def render(self, told: Sequence[Sequence[Part]], changed: Mapping[str, Entity]) -> str:
        """Sentences already told, told again with some roles played by others."""
        roles = {**self.roles, **changed}
        return self.language.joiner.join(fill(parts, roles) for parts in told)
