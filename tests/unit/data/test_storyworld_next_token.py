"""The exact law of the next token: against enumeration, and against the documents' own probabilities."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest

from glassbox.core.errors import UserError
from glassbox.data.storyworld import (
    Chooser,
    StoryWorldConfig,
    Weights,
    derivations,
    document_program,
    generate,
    next_token_law,
)
from glassbox.data.storyworld.states import world_states
from glassbox.tokenizers import Tokenizer, train_tokenizer

PAST = Weights([3, 1, 2])


def small(chooser: Chooser) -> None:
    """Words that share beginnings, endings that come late, and texts with several derivations."""
    chooser.emit(chooser.pick(["The trader", "The trade", "They"]))
    for _ in range(chooser.pick([1, 2])):
        chooser.emit(chooser.pick([" walk", " work"]))
        chooser.emit(chooser.pick(["ed", "s", ""], PAST))
    if chooser.pick([True, False]):
        chooser.emit(" home")
    elif chooser.pick([True, False]):
        chooser.emit(" ho")  # the same text another way
        chooser.emit("me")
    chooser.emit(chooser.pick([".", "!", ".\n\nThe", "..."]))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [text for text, _ in derivations(small)]
    return train_tokenizer(texts * 3 + ["trade ed walk worked home The"] * 50, 300)


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "o200k"])
def test_every_law_of_every_document_is_that_of_all_documents_enumerated(pattern: str) -> None:
    everything = list(derivations(small))
    tokenizer = train_tokenizer([text for text, _ in everything] * 3, 300, pattern=pattern)
    mass: dict[tuple[int, ...], float] = defaultdict(float)
    for text, log_prob in everything:
        ids = (*tokenizer.encode(text), tokenizer.eos_id)
        for count in range(len(ids) + 1):
            mass[ids[:count]] += math.exp(log_prob)
    documents = sorted({text for text, _ in everything})
    assert len(documents) < len(everything)  # some have several derivations
    for text in documents[:: len(documents) // 8]:
        law = next_token_law(small, tokenizer, text)
        assert law.ids == [*tokenizer.encode(text), tokenizer.eos_id]
        for place, found in enumerate(law.laws):
            before = tuple(law.ids[:place])
            expected = {
                ids[-1]: value / mass[before]
                for ids, value in mass.items()
                if len(ids) == place + 1 and ids[:-1] == before
            }
            assert found == pytest.approx(expected, abs=1e-12)
            assert math.fsum(found.values()) == pytest.approx(1, abs=1e-12)
        assert law.log_prob == pytest.approx(math.log(mass[tuple(law.ids)]), abs=1e-12)


def test_a_text_that_goes_on(tokenizer: Tokenizer) -> None:
    """Every beginning of a document, as ids, has the same laws as the document, and one more."""
    text = "The trader walked works home."
    whole = next_token_law(small, tokenizer, text)
    for count in range(len(whole.ids)):
        law = next_token_law(small, tokenizer, whole.ids[:count], ended=False)
        assert len(law.laws) == count + 1
        for ours, theirs in zip(law.laws, whole.laws, strict=False):
            assert ours == pytest.approx(theirs, abs=1e-12)
        assert law.log_probs == pytest.approx(whole.log_probs[:count], abs=1e-12)


def test_ids_that_no_document_begins_with(tokenizer: Tokenizer) -> None:
    letters = [tokenizer.encode(letter)[0] for letter in "They"]
    assert tokenizer.encode("They works") != [*letters, *tokenizer.encode(" works")]
    with pytest.raises(UserError, match="not the tokenizer's own"):
        next_token_law(small, tokenizer, [*letters, *tokenizer.encode(" works")])
    with pytest.raises(UserError, match="cannot write this text"):
        next_token_law(small, tokenizer, "They sang.")
    with pytest.raises(UserError, match="cannot write this text"):
        next_token_law(small, tokenizer, "They works")  # a beginning is no document
    unigram = train_tokenizer(["They walk home. They work."] * 20, 300, kind="unigram")
    with pytest.raises(UserError, match="byte-level BPE"):
        next_token_law(small, unigram, "They works.")
    with pytest.raises(UserError, match="more than 3 derivations"):
        next_token_law(small, tokenizer, "They works.", most_derivations=3)


@pytest.mark.parametrize(("language", "count"), [("en", 25), ("zh", 1)])
def test_log_probabilities_add_up_to_the_documents_own(language: str, count: int) -> None:
    config = StoryWorldConfig(seed=11, language=language)
    documents = list(generate(config, "document", "heldout", count=120))
    tokenizer = train_tokenizer((document.text for document in documents), 700)
    program = document_program(config)
    # a Chinese clause has no spaces, so that a word is certain only at its end: the shortest text
    chosen = documents if count > 1 else sorted(documents, key=lambda one: len(one.text))
    for document in chosen[:count]:
        law = next_token_law(program, tokenizer, document.text)
        assert law.log_prob == pytest.approx(document.log_prob, abs=1e-9)
        for found in law.laws:
            assert math.fsum(found.values()) == pytest.approx(1, abs=1e-12)
    if language == "zh":
        return
    document = next(generate(config, "story", "unseen", count=1))
    program = document_program(config, kind="story", unseen=True)
    law = next_token_law(program, tokenizer, document.text)
    assert law.log_prob == pytest.approx(document.log_prob, abs=1e-9)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_states_end_with_the_storys_facts(language: str) -> None:
    config = StoryWorldConfig(seed=5, language=language)
    owners = set()
    for document in generate(config, "document", "train", count=80):
        states = world_states(config, document.text)
        if document.kind == "arithmetic":
            assert states == []
            continue
        roles, holders = document.facts["roles"], {}
        for event in document.facts["events"]:
            if event[0] == "has":
                holders[roles[event[2]]] = roles[event[1]]
            elif event[0] == "gives":
                holders[roles[event[3]]] = roles[event[2]]
        assert states[-1].holders == holders
        assert states[-1].hero == roles["hero"]
        assert states[-1].thing == roles["thing"]
        ends = [state.end for state in states]
        assert ends == sorted(ends)
        assert all(document.text[end - 1] in ".!?\"'。！？”’" for end in ends)
        owners |= {state.holders.get(state.thing) == state.hero for state in states}
    assert owners == {True, False}
    assert world_states(config, "Once.") == []
