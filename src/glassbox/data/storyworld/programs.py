"""The random programs that write documents: what is sampled is what is scored."""

from __future__ import annotations

from typing import Any, NamedTuple

from glassbox.data.storyworld.arithmetic import problem_facts, solution_text, tell_problem
from glassbox.data.storyworld.choice import Chooser, Program, Weights, score
from glassbox.data.storyworld.config import StoryWorldConfig
from glassbox.data.storyworld.language import load_language
from glassbox.data.storyworld.plots import tell_story
from glassbox.data.storyworld.questions import pose
from glassbox.data.storyworld.story import Combinations, Story
from glassbox.data.storyworld.template import Language

DOCUMENT_KINDS = ("story", "story_questions", "arithmetic")
NUM_QUESTIONS = (4, 5, 6, 7)


class World(NamedTuple):
    """A config made ready for writing: its language, its reserved pairs, its choices' weights."""

    config: StoryWorldConfig
    language: Language
    pairs: Combinations
    mixture: Weights
    mentions: Weights | None
    """of a name and of a kind, where both would do; None: names alone"""


def build_world(config: StoryWorldConfig, mode: str = "exclude") -> World:
    """Prepare to write. `mode` as in `Combinations`: "exclude", "any" or "only"."""
    language = load_language(config.language)
    pairs = Combinations(language, config.reserved_fraction, mode)
    weights = (config.story_weight, config.questions_weight, config.arithmetic_weight)
    share = config.kind_mentions
    mentions = Weights([1 - share, share]) if share else None
    return World(config, language, pairs, Weights(weights), mentions)


def write_story(world: World, chooser: Chooser) -> Story:
    """Tell a story."""
    story = Story(chooser, world.language, world.pairs, world.mentions)
    tell_story(story)
    return story


def write_document(world: World, chooser: Chooser, kind: str | None = None) -> dict[str, Any]:
    """Write one document of the mixture, or of one kind. Returns its facts, `kind` among them."""
    if kind is None:
        kind = chooser.pick(DOCUMENT_KINDS, world.mixture)
    if kind == "arithmetic":
        chooser.require(world.pairs.mode != "only")
        problem = tell_problem(chooser, world.language, world.config, world.pairs)
        chooser.opening()
        chooser.emit("\n" + solution_text(world.language, problem))
        return {"kind": kind, **problem_facts(problem)}
    story = write_story(world, chooser)
    facts: dict[str, Any] = {"kind": kind, **story.facts()}
    if kind == "story_questions":
        facts["questions"] = _write_questions(story, chooser)
    return facts


def _write_questions(story: Story, chooser: Chooser) -> list[list[str]]:
    phrases = story.language.phrases
    left = list(story.asks)
    asked = []
    for number in range(chooser.pick(NUM_QUESTIONS)):
        ask = chooser.pick(left)
        left.remove(ask)
        chooser.emit(("\n\n" if number == 0 else "\n") + phrases["question"])
        posed = pose(story, ask, chooser)
        chooser.emit(f"{posed.question}\n{phrases['answer']}{posed.sentence}")
        asked.append([posed.kind, posed.question, posed.sentence])
    return asked


def document_program(
    config: StoryWorldConfig, *, kind: str | None = None, unseen: bool = False
) -> Program:
    """The generator itself, for `choice.score` and `choice.derivations`.

    With `kind`, one kind alone (the mixture's weight left out). With `unseen`, the generator that
    knows the reserved pairs too, under which the `unseen` split's log-probabilities are stated.
    """
    world = build_world(config, "any" if unseen else "exclude")
    return lambda chooser: write_document(world, chooser, kind)


def check_story(config: StoryWorldConfig, text: str) -> bool:
    """Whether `text` is a whole, consistent story: one that the generator can tell.

    A story in which somebody else ends up with the thing, or the thing is suddenly another, has
    probability zero. Reserved combinations are allowed. Paraphrases are refused too: this is a
    check of the world's own grammar.
    """
    return score(document_program(config, kind="story", unseen=True), text).derivations > 0
