"""The story world: exact probabilities, true answers, separate splits, the same bytes always."""

from __future__ import annotations

import json
import math
import random
import re

import pytest

from glassbox.core.errors import UserError
from glassbox.data.storyworld import (
    KINDS,
    SPLITS,
    StoryWorldConfig,
    bucket,
    build_world,
    check_answer,
    document_program,
    draw,
    generate,
    load_language,
    score,
)
from glassbox.data.storyworld.choice import Sampler
from glassbox.data.storyworld.plots import OWNING, WANTING
from glassbox.data.storyworld.programs import DOCUMENT_KINDS
from glassbox.data.storyworld.questions import question_about
from support.stories import stories

LANGUAGES = ["en", "zh"]
THE = ("the", "The")
PLAIN_FORMS = ("", "in", "past", "many", "near", "spot")


@pytest.fixture(params=LANGUAGES)
def config(request):
    return StoryWorldConfig(seed=11, language=request.param)


# --- exact probabilities


@pytest.mark.parametrize("kind", [None, *DOCUMENT_KINDS])
@pytest.mark.parametrize("split", SPLITS)
def test_recorded_log_prob_is_the_scored_one_and_derivations_are_unique(config, kind, split):
    if split == "unseen" and kind == "arithmetic":
        with pytest.raises(UserError, match="holds stories"):
            draw(config, kind, split, 0)
        return
    program = document_program(config, kind=kind, unseen=split == "unseen")
    for document in generate(config, kind or "document", split, count=12):
        found = score(program, document.text)
        assert found.derivations == 1
        assert found.log_prob == pytest.approx(document.log_prob, abs=1e-9)


def test_the_mixture_weight_is_part_of_the_log_prob(config):
    document = draw(config, "document", "train", 0)
    alone = score(document_program(config, kind=document.kind), document.text)
    weight = {"story": 0.8, "story_questions": 0.1, "arithmetic": 0.1}[document.kind]
    assert document.log_prob - alone.log_prob == pytest.approx(math.log(weight), abs=1e-9)


def test_text_of_the_wrong_generator_has_no_derivation(config):
    unseen = draw(config, "document", "unseen", 0)
    assert score(document_program(config), unseen.text).derivations == 0
    assert score(document_program(config), unseen.text + " ").derivations == 0


# --- splits


def test_draws_depend_on_their_arguments_alone(config):
    for kind in KINDS:
        first = draw(config, kind, "train", 5)
        draw(config, kind, "heldout", 6)
        assert draw(config, kind, "train", 5) == first
        assert draw(config, kind, "train", 6) != first
    other = config.model_copy(update={"seed": 12})
    assert draw(other, "story", "train", 5) != draw(config, "story", "train", 5)


def test_train_and_heldout_share_no_opening(config):
    openings = {}
    for split in ("train", "heldout"):
        found = {d.text.split("\n")[0] for d in generate(config, "document", split, count=400)}
        assert {bucket(text) == 0 for text in found} == {split == "heldout"}
        openings[split] = found
    assert not openings["train"] & openings["heldout"]


def test_chats_questions_and_preferences_keep_to_their_split(config):
    for split in ("train", "heldout"):
        for kind in ("chat", "question", "preference", "problem"):
            for item in generate(config, kind, split, count=60):
                row = item.to_json()
                messages = row.get("messages") or row["prompt"]
                if row.get("kind") == "small_talk":
                    assert split == "train"
                    continue
                parts = "\n".join(m["content"] for m in messages).split("\n")
                buckets = {bucket(part) == 0 for part in parts if part}
                assert (split == "heldout") in buckets


def test_reserved_combinations_are_told_about_in_unseen_only(config):
    pairs = build_world(config).pairs
    assert (
        0.03
        < sum(map(len, pairs.reserved.values()))
        / (len(pairs.reserved) * len(load_language(config.language).words["thing"]))
        < 0.09
    )
    for split in SPLITS:
        for document in generate(config, "story", split, count=300):
            assert pairs.is_reserved(*document.facts["combination"]) == (split == "unseen")


def test_reserved_combinations_are_the_same_in_every_language():
    reserved = [build_world(StoryWorldConfig(language=code)).pairs.reserved for code in LANGUAGES]
    assert all(each == reserved[0] for each in reserved)


# --- the world's truth


def replay(facts):
    """What holds at the end, worked out from the list of facts alone."""
    state = {"holder": {}, "place": {}, "count": {}, "met": [], "did": [], "turn": [], "by": {}}
    for verb, *rest in facts["events"]:
        if verb == "has":
            state["holder"][rest[1]] = rest[0]
        elif verb == "gives":
            giver, taker, what = rest
            assert state["holder"].get(what, giver) == giver, "nobody gives what another holds"
            state["holder"][what] = taker
        elif verb in ("in", "lay"):
            state["place"][rest[0]] = rest[1]
        elif verb == "at":
            state["place"].setdefault(rest[0] + "*", []).append(rest[1])
        elif verb in ("count", "coins"):
            state["count"][rest[0]] = rest[-1]
        elif verb in ("met", "did", "turn"):
            state[verb].append(rest[-1] if verb != "turn" else rest[0])
        else:
            state["by"][verb] = rest[0]
            state.setdefault(verb, []).append(rest)
    return state


def expected_role(kind, aliases, state, facts):
    """Which role answers, from the replayed state; None where the answer is not one role."""
    by = state["by"]
    simple = {
        "want": lambda: state["wants"][0][1],
        "why": lambda: state["because"][0][2],
        "own": lambda: facts["events"][2][2],
        "kind": lambda: state["is"][0][1],
        "home": lambda: state["lives"][0][1],
        "place": lambda: state["place"]["hero*"][-1],
        "first_place": lambda: state["place"]["hero*"][0],
        "next_place": lambda: state["place"]["hero*"][1],
        "friend_place": lambda: state["place"]["friend*"][0],
        "has": lambda: state["holder"][aliases["item"]],
        "has_animal": lambda: state["holder"][aliases["item"]],
        "who_kind": lambda: next(w for w, k in state["is"] if k == aliases["other"]),
        "found": lambda: state["place"]["thing"],
        "lay": lambda: state["place"][aliases["item"]],
        "count": lambda: state["count"][aliases["who"]],
        "price": lambda: state["count"]["hero"],
        "first_met": lambda: state["met"][0],
        "first_task": lambda: state["did"][0],
        "first_turn": lambda: state["turn"][0],
        "advice": lambda: by["advised"],
        "gave": lambda: by["gave"],
        "saw": lambda: by["saw"],
        "moved": lambda: by["moved"],
        "took": lambda: next(e[1] for e in facts["events"] if e[:1] == ["has"] and e[1] == "taker"),
        "broke": lambda: by["broke"],
        "mended": lambda: by["mended"],
        "saved": lambda: next(e[2] for e in facts["events"] if e[0] == "saved"),
    }
    return simple[kind]() if kind in simple else None


def test_every_right_answer_follows_from_the_facts_and_every_wrong_one_does_not(config):
    kinds = set()
    for seed, (story, text) in enumerate(stories(config)):
        facts = json.loads(json.dumps(story.facts()))
        state = replay(facts)
        rng = random.Random(seed)
        for ask in story.asks:
            question = question_about(story, text, ask, Sampler(rng), rng)
            kind, _, aliases = ask
            kinds.add(kind)
            role = expected_role(kind, aliases, state, facts)
            if role is not None:
                forms = story.roles[role].forms
                written = [forms[name] for name in PLAIN_FORMS if name in forms]
                assert any(form in question.short for form in written)
                assert any(form in text for form in written)
            elif kind == "list":
                assert all(name in question.short for name in facts["cast"])
            else:
                assert kind in ("yes_want", "yes_own")
                phrases = story.language.phrases
                roles = {**story.roles, "y": story.roles["thing"]}
                agreeing = [t.fill(roles) for t in story.language.askings[kind].questions]
                assert question.short == phrases["yes" if question.question in agreeing else "no"]
            assert check_answer(question, question.short)
            assert check_answer(question, question.sentence)
            assert check_answer(question, " " + question.sentence.upper() + " ")
            assert len(question.wrong) == len(question.wrong_short) >= (1 if "yes" in kind else 2)
            for wrong in (*question.wrong, *question.wrong_short, "", question.sentence * 2):
                assert not check_answer(question, wrong), (kind, wrong)
    assert kinds == set(load_language(config.language).askings)


def test_list_answers_may_come_in_any_order(config):
    for story, text in stories(config, 60):
        ask = next(ask for ask in story.asks if ask[0] == "list")
        question = question_about(story, text, ask, Sampler(random.Random(0)), random.Random(0))
        backwards = story.list_of([story.roles[role].forms[""] for role in reversed(story.cast)])
        assert check_answer(question, backwards.forms[""])
        assert check_answer(
            question, question.sentence.replace(question.short, backwards.forms[""])
        )


def test_everyone_in_the_facts_is_in_the_text_and_nobody_else(config):
    names = {e.forms[""] for e in load_language(config.language).words["name"]}
    for story, text in stories(config):
        if config.language == "en":
            assert set(re.findall(r"\w+", text)) & names == set(story.facts()["cast"])
        for event in story.events:
            for role in event[1:]:
                forms = story.roles[role].forms
                assert any(forms[f] in text for f in PLAIN_FORMS if f in forms)


def test_people_are_mentioned_by_kind_only_after_they_were_presented(config):
    by_kind = by_name = 0
    for story, text in stories(config):
        told = [part for paragraph in story.told for sentence in paragraph for part in sentence]
        roles = [role for _, role, _ in told]
        for role, kind in (("hero", "kind"), ("friend", "fkind"), ("third", "tkind")):
            if role not in roles:
                continue
            both_known = max(roles.index(role), roles.index(kind))
            first = next((i for i, (_, r, f) in enumerate(told) if r == kind and f in THE), None)
            assert first is None or first > both_known, text
            by_kind += sum(r == kind and f in THE for _, r, f in told)
            by_name += roles.count(role)
    assert by_kind > 300
    assert by_name > by_kind


def test_without_kind_mentions_everybody_is_called_by_name(config):
    config = config.model_copy(update={"kind_mentions": 0.0})
    for story, text in stories(config, count=100):
        forms = {
            f for paragraph in story.told for told in paragraph for _, r, f in told if "kind" in r
        }
        assert not forms & set(THE)
        assert score(document_program(config, kind="story"), text).derivations == 1


def test_numbers_in_stories_add_up(config):
    for story, _ in stories(config):
        if story.plot in ("share", "coins"):
            assert story.value("n3") == story.value("n1") + story.value("n2")
        if story.plot == "share":
            assert story.value("n5") == story.value("n3") - story.value("n4") >= 2


def test_the_world_is_wide():
    for code in LANGUAGES:
        language = load_language(code)
        nouns = {
            (category, entity.id)
            for category in ("kind", "place", "thing", "goods", "box", "taker", "stray")
            for entity in language.words[category]
        }
        assert len(nouns) > 180
        assert len(language.words["name"]) >= 40
        assert len(WANTING) + len(OWNING) >= 8
        for words in language.words.values():
            plain = [entity.forms[""] for entity in words]
            assert len(set(plain)) == len(plain)
        plots = {story.plot for story, _ in stories(StoryWorldConfig(language=code))}
        assert plots == {plot.__name__ for plot in WANTING + OWNING}


def test_english_is_tidy():
    for _, text in stories(StoryWorldConfig()):
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiouh]|  |\{|\}|None|\s[,.!?]", text)
        assert not re.search(r"[.!?]\"? [a-z]", re.sub(r"[!?.]\" (\w+ ){0,4}\w+", "", text))
        for paragraph in text.split("\n\n"):
            assert re.match(r"[\"A-Z0-9]", paragraph)
            assert paragraph.rstrip('"')[-1] in ".!?"
            assert paragraph.count('"') % 2 == 0


def test_documents_have_a_readable_length():
    lengths = [len(text.split()) for _, text in stories(StoryWorldConfig())]
    assert 90 < sum(lengths) / len(lengths) < 220
    assert max(lengths) < 260


def test_chinese_is_tidy():
    for _, text in stories(StoryWorldConfig(language="zh")):
        assert not re.search(r"[A-Za-z{} ,.?!\"']|None|，，|。。|[一-龥]\n", text)
        for paragraph in text.split("\n\n"):
            assert paragraph[-1] in "。！？”"
            assert paragraph.count("“") == paragraph.count("”")


def test_languages_share_their_world():
    english, chinese = load_language("en"), load_language("zh")
    for category in ("kind", "thing", "place", "food", "goods"):
        ids = [[e.id for e in language.words[category]] for language in (english, chinese)]
        assert ids[0] == ids[1]
    for place, ort in zip(english.words["place"], chinese.words["place"], strict=True):
        assert place.forms["inside"] == ort.forms["inside"]
    assert set(english.sentences) == set(chinese.sentences)
    assert set(english.askings) == set(chinese.askings)
    assert set(english.phrases) == set(chinese.phrases)
    assert english.words.keys() == chinese.words.keys()
