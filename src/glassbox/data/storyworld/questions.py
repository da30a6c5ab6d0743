"""Questions about a story: the right answer, and wrong ones that could have been right."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import NamedTuple

from glassbox.data.storyworld.choice import Chooser
from glassbox.data.storyworld.records import Question
from glassbox.data.storyworld.story import Story
from glassbox.data.storyworld.template import Entity

Ask = tuple[str, str, dict[str, str]]
NUM_WRONG = 3


class Posed(NamedTuple):
    """A question put into words, and the roles with which its answers are told."""

    kind: str
    question: str
    short: str
    sentence: str
    roles: dict[str, Entity]


def truth(story: Story, value: bool) -> Entity:
    """The word for yes or no."""
    word = story.language.phrases["yes" if value else "no"]
    return Entity("truth", str(value), {"": word, "Cap": word[0].upper() + word[1:]})


def pose(story: Story, ask: Ask, chooser: Chooser) -> Posed:
    """Put one of the story's questions into words. Every choice shows in the question."""
    kind, answer, aliases = ask
    asking = story.language.askings[kind]
    roles = dict(story.roles)
    for alias, role in aliases.items():
        roles[alias] = story.roles[role]
    if kind.startswith("yes_"):
        thing = story.roles[answer]
        agree = chooser.pick((True, False))
        others = [e for e in story.language.words["thing"] if e.id != thing.id]
        roles["y"] = thing if agree else chooser.pick(others)
        roles["x"] = truth(story, agree)
    else:
        roles["x"] = story.roles[answer]
    question = chooser.pick(asking.questions).fill(roles)
    return Posed(kind, question, asking.short.fill(roles), asking.sentence.fill(roles), roles)


def _candidates(story: Story, posed: Posed, rng: random.Random) -> Iterable[Entity]:
    """Other answers of the right sort: first of this story, then of the whole world."""
    x = posed.roles["x"]
    words = story.language.words
    if x.category == "truth":
        yield truth(story, x.id != "True")
        return
    if x.category == "list":
        names = [story.roles[role].forms[""] for role in story.cast]
        strangers = [e.forms[""] for e in words["name"] if e.forms[""] not in names]
        stranger = rng.choice(strangers)
        yield story.list_of([*names[:-1], stranger])
        yield story.list_of([*names, stranger])
        yield story.list_of([stranger, *names[1:]])
        return
    yield from (e for e in story.roles.values() if e.category == x.category)
    if x.category == "number":
        value = int(x.id)
        offsets = [o for o in (-3, -2, -1, 1, 2, 3, 10) if value + o > 0]
        yield from (story.language.number(value + o) for o in rng.sample(offsets, len(offsets)))
    elif x.category == "container":
        box = posed.roles["box2"]
        color_used = {posed.roles["color"].id, posed.roles["color2"].id}
        for color in rng.sample(words["color"], len(words["color"])):
            if color.id not in color_used:
                yield story.container_of(color, box)
    else:
        pools = {"spot": "spot_in" if x in words["spot_in"] else "spot_out"}
        pool = words[pools.get(x.category, x.category)]
        yield from rng.sample(pool, len(pool))


def question_about(
    story: Story, text: str, ask: Ask, chooser: Chooser, rng: random.Random
) -> Question:
    """A `Question` with up to three wrong answers. `text` is the story as it was written."""
    posed = pose(story, ask, chooser)
    asking = story.language.askings[posed.kind]
    shorts: list[str] = []
    sentences: list[str] = []
    for entity in _candidates(story, posed, rng):
        roles = {**posed.roles, "x": entity}
        short = asking.short.fill(roles)
        if short != posed.short and short not in shorts:
            shorts.append(short)
            sentences.append(asking.sentence.fill(roles))
        if len(shorts) == NUM_WRONG:
            break
    return Question(
        text,
        posed.kind,
        posed.question,
        posed.short,
        posed.sentence,
        tuple(shorts),
        tuple(sentences),
        story.language.code,
        {**story.facts(), "ask": [ask[0], ask[1], ask[2]]},
    )


_EDGES = re.compile(r"^[\s\"'“”‘’]+|[\s\"'“”‘’.!?。！？]+$")
_ARTICLE = re.compile(r"^(?:(?:a|an|the) |一[个只面支盏条张本顶件枚台根把架口盒幅块位头匹颗朵])")
_DIVIDE = re.compile(r",| and |，|、|和")


def normalize_answer(text: str) -> str:
    """Lower case, single spaces, no quotes or stops at the edges, no leading article.

    >>> normalize_answer(" The red  box. ")
    'red box'
    """
    flat = _EDGES.sub("", re.sub(r"\s+", " ", text.strip()).lower())
    return _ARTICLE.sub("", flat)


def check_answer(question: Question, text: str) -> bool:
    """Whether `text` is the right answer, as the short phrase or as the full sentence.

    Exact after `normalize_answer`; those who were there may be named in any order. Anything else,
    a right answer followed by more words included, is refused.
    """
    given = normalize_answer(text)
    if given in (normalize_answer(question.short), normalize_answer(question.sentence)):
        return True
    if question.kind != "list":
        return False
    frame = normalize_answer(question.sentence).partition(normalize_answer(question.short))
    inner = given.removeprefix(frame[0]).removesuffix(frame[2])
    return _names(inner) == _names(normalize_answer(question.short))


def _names(text: str) -> list[str]:
    return sorted(name.strip() for name in _DIVIDE.split(text) if name.strip())
