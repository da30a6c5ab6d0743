"""Sums, chats and preferences of the story world are right where they say so."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from glassbox.data.storyworld import (
    StoryWorldConfig,
    check_steps,
    check_story,
    compute,
    document_program,
    extract_answer,
    generate,
    load_language,
    run_tool,
    score,
)
from glassbox.data.storyworld.chats import ASPECTS, CHAT_KINDS
from glassbox.data.storyworld.choice import Sampler
from glassbox.data.storyworld.programs import NUM_QUESTIONS
from glassbox.data.storyworld.questions import question_about
from support.stories import stories


@pytest.fixture(params=["en", "zh"])
def config(request):
    return StoryWorldConfig(seed=11, language=request.param)


# --- sums


def test_worked_steps_are_true_and_lead_to_the_answer(config):
    for problem in generate(config, "problem", "train", count=200):
        assert check_steps(problem.solution)
        assert extract_answer(problem.solution) == problem.answer
        steps = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", problem.solution)
        assert config.arithmetic_min_steps <= len(steps) <= config.arithmetic_max_steps
        for before, after in itertools.pairwise(steps):
            assert before[3] == after[0]
        said = [int(n) for n in re.findall(r"\d+", problem.prompt[0]["content"])]
        assert said == [int(steps[0][0]), *[int(step[2]) for step in steps]]
        assert problem.answer > 0


def test_tool_calls_are_answered_as_the_tool_would(config):
    seen = 0
    for chat in generate(config, "chat", "train", count=300):
        if chat.kind != "tool":
            continue
        seen += 1
        for call, reply in zip(chat.messages[1:], chat.messages[2:], strict=False):
            if reply["role"] == "tool":
                assert run_tool(call["content"]) == reply["content"]
        assert extract_answer(chat.messages[-1]["content"]) == chat.checks[0]["answer"]
    assert seen > 3


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1 + 1 = 2.\nAnswer: 2", 2),
        ("答案：35", 35),
        ("Answer: 7 apples", None),
        ("7", None),
        ("Answer: 3\nAnswer: 4\n", 4),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


def test_wrong_steps_are_seen():
    assert not check_steps("First, 2 + 2 = 5.\nAnswer: 5")
    assert not check_steps("Answer: 5")
    assert run_tool("no call") is None
    assert compute(3, "*", 4) == 12


# --- chats and preferences


def test_chats_alternate_and_their_checks_are_right(config):
    kinds = set()
    for chat in generate(config, "chat", "train", count=400):
        kinds.add(chat.kind)
        roles = [message["role"] for message in chat.messages]
        assert roles[0] == "user"
        assert roles[-1] == "assistant"
        assert all(a != b for a, b in itertools.pairwise(roles))
        assert all(message["content"].strip() for message in chat.messages)
        for check in chat.checks:
            message = chat.messages[check["message"]]
            assert message["role"] == "assistant"
            if "right" in check:
                assert message["content"] == check["right"]
                assert check["right"] not in check["wrong"]
    assert kinds == set(CHAT_KINDS)


def test_the_share_of_sums_among_chats_is_as_asked(config):
    for share in (0.03, 0.18, 0.6):
        world = config.model_copy(update={"chat_sums": share})
        kinds = [chat.kind for chat in generate(world, "chat", "train", count=1500)]
        found = sum(kind in ("arithmetic", "tool") for kind in kinds) / len(kinds)
        assert abs(found - share) < 4 * (share * (1 - share) / len(kinds)) ** 0.5


def test_preferences_differ_and_the_worse_reply_is_wrong(config):
    aspects = {}
    for item in generate(config, "preference", "heldout", count=150):
        aspects[item.aspect] = aspects.get(item.aspect, 0) + 1
        assert item.chosen != item.rejected
        assert item.chosen[0]["role"] == item.rejected[0]["role"] == "assistant"
        if item.aspect == "consistency":
            assert len(item.prompt[0]["content"].split("\n\n")) >= 3
    assert set(aspects) == set(ASPECTS)


def test_inconsistent_endings_are_no_story(config):
    checked = 0
    for item in generate(config, "preference", "heldout", count=60):
        if item.aspect == "consistency":
            checked += 1
            head = item.prompt[0]["content"].partition("\n\n")[2]
            assert check_story(config, f"{head}\n\n{item.chosen[0]['content']}")
            assert not check_story(config, f"{head}\n\n{item.rejected[0]['content']}")
    assert checked > 5


def test_right_answers_can_be_told_after_a_story_and_wrong_ones_cannot(config):
    program = document_program(config, kind="story_questions")
    phrases = load_language(config.language).phrases
    for seed, (story, text) in enumerate(stories(config, 8)):
        rng = random.Random(seed)
        *earlier, last = (
            question_about(story, text, ask, Sampler(rng), rng)
            for ask in rng.sample(story.asks, NUM_QUESTIONS[0])
        )
        head = f"{text}\n"
        for asked in earlier:
            head += f"\n{phrases['question']}{asked.question}"
            head += f"\n{phrases['answer']}{asked.sentence}"
        head += f"\n{phrases['question']}{last.question}\n{phrases['answer']}"
        assert score(program, head + last.sentence).derivations == 1
        for wrong in last.wrong:
            assert score(program, head + wrong).derivations == 0
