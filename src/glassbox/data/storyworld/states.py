"""What is true at each point of a story: who has what, as the telling makes it so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from glassbox.data.storyworld.choice import Chooser, Weights
from glassbox.data.storyworld.config import StoryWorldConfig
from glassbox.data.storyworld.plots import tell_story
from glassbox.data.storyworld.programs import DOCUMENT_KINDS, build_world
from glassbox.data.storyworld.story import Story

T = TypeVar("T")


@dataclass(frozen=True)
class WorldState:
    """What holds once the first `end` characters are told.

    hero, thing: whom and what the story is about, in its words. holders: thing -> who has it, of those
    that somebody was said to have.
    """

    end: int
    hero: str
    thing: str
    holders: dict[str, str]


def world_states(config: StoryWorldConfig, text: str, *, unseen: bool = False) -> list[WorldState]:
    """The states of a story, one after each sentence; [] for a text that is none of the generator's.

    Tested against: the story's own facts, at its end.
    """
    world = build_world(config, "any" if unseen else "exclude")
    trail: list[int] = []
    while True:
        reader = _Reader(trail, text)
        try:
            if reader.pick(DOCUMENT_KINDS, world.mixture) == "arithmetic":
                raise _Astray
            story = _Watched(reader, world.language, world.pairs, world.mentions)
            tell_story(story)
        except _Astray:
            while trail and trail[-1] + 1 >= reader.sizes[len(trail) - 1]:
                trail.pop()
            if not trail:
                return []
            trail[-1] += 1
            continue
        return story.states()


class _Astray(Exception):
    """What is told is not the text."""


class _Reader(Chooser):
    """Follows `trail`, then first options; leaves as soon as the text is another."""

    def __init__(self, trail: list[int], text: str) -> None:
        self.trail = trail
        self.text = text
        self.place = 0
        self.sizes: list[int] = []

    def pick(self, options: Sequence[T], weights: Weights | None = None) -> T:
        depth = len(self.sizes)
        self.sizes.append(len(options))
        if depth == len(self.trail):
            self.trail.append(0)
        return options[self.trail[depth]]

    def emit(self, text: str) -> None:
        if not self.text.startswith(text, self.place):
            raise _Astray
        self.place += len(text)


class _Watched(Story):
    """A story that notes where each fact is told and where sentences end."""

    told_at: list[tuple[int, tuple[str, ...]]]
    ends: list[int]

    def __init__(self, chooser: _Reader, *parts: object) -> None:
        super().__init__(chooser, *parts)  # type: ignore[arg-type]
        self.reader = chooser
        self.told_at = []
        self.ends = []

    def tell(self, event: str) -> None:
        super().tell(event)
        self.ends.append(self.reader.place)

    def fact(self, *event: str) -> None:
        super().fact(*event)
        self.told_at.append((self.reader.place, event))

    def states(self) -> list[WorldState]:
        """One a sentence: the facts told up to its end."""
        found = []
        for end in self.ends:
            holders: dict[str, str] = {}
            for place, event in self.told_at:
                if place > end:
                    break
                if event[0] in ("has", "gives"):
                    who, what = event[-2:]
                    holders[self.roles[what].forms[""]] = self.roles[who].forms[""]
            hero, thing = (self.roles[role].forms[""] for role in ("hero", "thing"))
            found.append(WorldState(end, hero, thing, holders))
        return found
