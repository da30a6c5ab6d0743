"""Conversations and preferences about stories and sums."""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import Any

from glassbox.data.storyworld.arithmetic import solution_text, tell_problem, tool_messages
from glassbox.data.storyworld.choice import Sampler, Weights
from glassbox.data.storyworld.programs import World, write_story
from glassbox.data.storyworld.questions import question_about
from glassbox.data.storyworld.records import (
    ArithmeticProblem,
    Chat,
    Message,
    Preference,
    Question,
)
from glassbox.data.storyworld.story import Story

CHAT_KINDS = ("ask", "tell", "continue", "summary", "arithmetic", "tool", "small_talk")
_STORY_WEIGHTS = (0.5, 0.12, 0.06, 0.08)  # of the kinds about a story
_SUM_WEIGHTS = (0.13, 0.05)
ASPECTS = ("truth", "consistency", "topic")
_MAX_TURNS = 5


def user(content: str) -> Message:
    """A user's message."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """An assistant's message."""
    return {"role": "assistant", "content": content}


def _line(story: Story, sampler: Sampler, event: str) -> str:
    """One of the sentences for `event`, its roles already known."""
    return sampler.pick(story.language.sentences[event]).fill(story.roles)


def make_question(world: World, sampler: Sampler, rng: random.Random) -> Question:
    """A story of its own and one question about it, every kind that fits equally likely."""
    story = write_story(world, sampler)
    return question_about(story, sampler.text, sampler.pick(story.asks), sampler, rng)


def make_problem(world: World, sampler: Sampler) -> ArithmeticProblem:
    """A word problem as a prompt with its worked solution."""
    problem = tell_problem(sampler, world.language, world.config, world.pairs)
    sampler.opening()
    solution = solution_text(world.language, problem)
    return ArithmeticProblem([user(sampler.text)], solution, problem.steps[-1][3])


@lru_cache(maxsize=16)
def _weights(sums: float, small_talk: float, split: str) -> Weights:
    """Of the kinds that a split has; sums are that share of all kinds in train."""
    if split == "unseen":
        return Weights(_STORY_WEIGHTS)
    others = math.fsum((*_STORY_WEIGHTS, small_talk))
    scale = sums / (1 - sums) * others / math.fsum(_SUM_WEIGHTS)
    kinds = [*_STORY_WEIGHTS, *(scale * weight for weight in _SUM_WEIGHTS)]
    return Weights([*kinds, small_talk] if split == "train" else kinds)


def make_chat(world: World, sampler: Sampler, rng: random.Random, split: str) -> Chat:
    """A conversation of one of `CHAT_KINDS`. Small talk, which is always the same, is in train only."""
    config = world.config
    weights = _weights(config.chat_sums, config.small_talk_weight, split)
    kind = sampler.pick(CHAT_KINDS, weights)
    if kind == "small_talk":
        said, reply = sampler.pick(world.language.small_talk)
        return Chat([user(sampler.pick(said)), assistant(reply)], kind)
    if kind in ("arithmetic", "tool"):
        return _sum_chat(world, sampler, kind)
    story = write_story(world, sampler)
    text = sampler.take()
    paragraphs = text.split("\n\n")
    if kind == "ask":
        return _ask_chat(story, text, sampler, rng)
    if kind == "tell":
        return Chat([user(_line(story, sampler, "chat.tell")), assistant(text)], kind)
    if kind == "continue":
        cut = sampler.pick(range(1, len(paragraphs)))
        head, tail = "\n\n".join(paragraphs[:cut]), "\n\n".join(paragraphs[cut:])
        request = _line(story, sampler, "chat.continue")
        return Chat([user(f"{request}\n\n{head}"), assistant(tail)], kind)
    request = _line(story, sampler, "chat.summary")
    summary = _line(story, sampler, "summary." + story.plot)
    return Chat([user(f"{request}\n\n{text}"), assistant(summary)], kind)


def _ask_chat(story: Story, text: str, sampler: Sampler, rng: random.Random) -> Chat:
    messages: list[Message] = []
    checks: list[dict[str, Any]] = []
    left = list(story.asks)
    for turn in range(sampler.pick(range(1, _MAX_TURNS + 1))):
        ask = sampler.pick(left)
        left.remove(ask)
        question = question_about(story, text, ask, sampler, rng)
        said = question.question
        if turn == 0:
            said = f"{text}\n\n{said}"
            if sampler.pick((True, False)):
                said = f"{_line(story, sampler, 'chat.read')}\n\n{said}"
        messages += [user(said), assistant(question.sentence)]
        checks.append(
            {
                "message": len(messages) - 1,
                "kind": question.kind,
                "right": question.sentence,
                "short": question.short,
                "wrong": list(question.wrong),
            }
        )
    return Chat(messages, "ask", checks)


def _sum_chat(world: World, sampler: Sampler, kind: str) -> Chat:
    problem = tell_problem(sampler, world.language, world.config, world.pairs)
    sampler.opening()
    statement = sampler.take()
    if kind == "tool":
        said = f"{statement}\n{world.language.phrases['use_tool']}"
        messages = [user(said), *tool_messages(world.language, problem)]
    else:
        messages = [user(statement), assistant(solution_text(world.language, problem))]
    check = {"message": len(messages) - 1, "kind": "arithmetic", "answer": problem.steps[-1][3]}
    return Chat(messages, kind, [check])


def make_preference(world: World, sampler: Sampler, rng: random.Random) -> Preference:
    """A prompt with a better and a worse reply that differ in one of `ASPECTS`.

    truth: the right answer and a wrong one; topic: the right answer and a true sentence that
    answers something else; consistency: a story's own ending, and that ending told of others.
    """
    aspect = sampler.pick(ASPECTS)
    story = write_story(world, sampler)
    text = sampler.take()
    if aspect == "consistency":
        return _ending_preference(story, text, sampler)
    question = question_about(story, text, sampler.pick(story.asks), sampler, rng)
    if aspect == "truth":
        worse = sampler.pick(question.wrong)
    else:
        others = [
            ask for ask in story.asks if ask[0] != question.kind and not ask[0].startswith("yes_")
        ]
        other = question_about(story, text, sampler.pick(others), sampler, rng)
        worse = other.sentence
    return Preference(question.prompt, [assistant(question.sentence)], [assistant(worse)], aspect)


def _ending_preference(story: Story, text: str, sampler: Sampler) -> Preference:
    head, _, ending = text.rpartition("\n\n")
    people = {story.roles[role] for role in story.cast}
    strangers = [
        e
        for e in story.language.words["name"]
        if e not in people and e.forms["he"] == story.roles["hero"].forms["he"]
    ]
    things = [e for e in story.language.words["thing"] if e.id != story.roles["thing"].id]
    changes = [{"hero": sampler.pick(strangers)}, {"thing": sampler.pick(things)}]
    endings = [story.render(story.told[-1], change) for change in changes]
    worse = sampler.pick([other for other in endings if other != ending])
    request = _line(story, sampler, "chat.continue")
    prompt = [user(f"{request}\n\n{head}")]
    return Preference(prompt, [assistant(ending)], [assistant(worse)], "consistency")
