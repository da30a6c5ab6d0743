"""A model beside the exact law of the story world."""

from __future__ import annotations

import math

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.data.storyworld import StoryWorldConfig, generate
from glassbox.data.storyworld.states import world_states
from glassbox.inspection import (
    divergence_from_truth,
    mean_divergence,
    probe_who_has,
    story_law,
    truth,
)
from glassbox.models.causal_lm import CausalLM
from glassbox.models.shapes import LlamaShape
from glassbox.tokenizers import train_tokenizer

CONFIG = StoryWorldConfig(seed=4)


@pytest.fixture(scope="module")
def trained():
    """A small model of the story world after forty steps."""
    documents = list(generate(CONFIG, "document", "train", count=400))
    tokenizer = train_tokenizer((document.text for document in documents), 500)
    torch.manual_seed(0)
    shape = LlamaShape(hidden_size=48, num_layers=2, num_heads=4, ffn_size=128, context_length=1024)
    model = CausalLM(shape.config(tokenizer.vocab_size))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    rows = []
    for document in documents:
        ids = [tokenizer.eos_id, *tokenizer.encode(document.text), tokenizer.eos_id]
        rows.append((ids + [tokenizer.eos_id] * 129)[:129])
    data = torch.tensor(rows)
    for step in range(40):
        batch = data[(step * 8) % 400 :][:8]
        loss = model.cross_entropy(model.hidden_states(batch[:, :-1]), batch[:, 1:])
        optimizer.zero_grad()
        (loss / batch[:, 1:].numel()).backward()
        optimizer.step()
    return model.eval(), tokenizer


def test_divergence_is_the_sum_over_the_vocabulary(trained) -> None:
    model, tokenizer = trained
    document = next(generate(CONFIG, "document", "heldout", count=1))
    law = story_law(CONFIG, tokenizer, document.text)
    found = divergence_from_truth(model, tokenizer, law)
    ids = [tokenizer.eos_id, *tokenizer.encode(document.text), tokenizer.eos_id]
    assert found.ids == ids[1:]
    assert len(found.kl) == len(found.excess) == len(found.entropy) == len(ids) - 1
    with torch.no_grad():
        log_q = model(torch.tensor([ids]))[0].double().log_softmax(-1)
    for place in (0, 5, len(ids) - 2):
        kl = entropy = 0.0
        for token, p in law.laws[place].items():
            kl += p * (math.log(p) - float(log_q[place, token]))
            entropy -= p * math.log(p)
        assert abs(float(found.kl[place]) - kl) < 1e-6
        assert abs(float(found.entropy[place]) - entropy) < 1e-9
        excess = law.log_probs[place] - float(log_q[place, ids[place + 1]])
        assert abs(float(found.excess[place]) - excess) < 1e-6
    assert torch.all(found.kl >= -1e-12)


def test_mean_divergence_and_mean_excess_agree(trained) -> None:
    """Three standard errors of the paired difference; the difference of another law is far beyond."""
    model, tokenizer = trained
    documents = generate(CONFIG, "document", "heldout", count=40)
    laws = [story_law(CONFIG, tokenizer, document.text) for document in documents]
    found = mean_divergence([divergence_from_truth(model, tokenizer, law) for law in laws])
    assert found.agrees, found
    assert found.kl > 20 * found.difference_error
    flat = []
    for law in laws:  # the same words, each as likely as the others
        uniform = [dict.fromkeys(at, 1 / len(at)) for at in law.laws]
        log_probs = [math.log(at[token]) for at, token in zip(uniform, law.ids, strict=True)]
        flat.append(type(law)(law.ids, uniform, log_probs, law.num_derivations))
    wrong = mean_divergence([divergence_from_truth(model, tokenizer, law) for law in flat])
    assert not wrong.agrees
    with pytest.raises(UserError, match="at least 2"):
        mean_divergence([])


def test_a_text_that_has_not_ended(trained) -> None:
    model, tokenizer = trained
    document = next(generate(CONFIG, "document", "heldout", count=1))
    law = story_law(CONFIG, tokenizer, document.text[:20], ended=False)
    found = divergence_from_truth(model, tokenizer, law)
    assert len(found.kl) == len(law.ids) + 1
    assert len(found.excess) == len(law.ids)
    with pytest.raises(UserError, match="cannot write"):
        story_law(CONFIG, tokenizer, "Call me Ishmael.")
    small = CausalLM(
        LlamaShape(hidden_size=8, num_layers=1, num_heads=1, ffn_size=8, context_length=4).config(
            tokenizer.vocab_size
        )
    )
    document = next(generate(CONFIG, "document", "heldout", count=1))
    with pytest.raises(UserError, match="context"):
        divergence_from_truth(small, tokenizer, story_law(CONFIG, tokenizer, document.text))


def test_probes_of_who_has_what(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that holds the answer is read without a fault, and one that holds nothing is not.

    The layer is made from the text that the token's place leaves behind it, so that a place one token
    too early or too late would find no sentence's end there.
    """
    model, tokenizer = trained
    stories = [document.text for document in generate(CONFIG, "document", "train", count=60)]
    found = probe_who_has(model, tokenizer, CONFIG, stories)
    assert len(found.accuracy) == 3
    assert found.num_train > 1.5 * found.num_test > 50
    noise = torch.Generator().manual_seed(0)

    def knowing(model, ids, *, at):
        text = tokenizer.decode(ids[0].tolist(), skip_special=True)
        states = world_states(CONFIG, text)
        rows = []
        for place in at[1].tolist():
            before, behind = (
                len(tokenizer.decode(ids[0, :stop].tolist(), skip_special=True))
                for stop in (place, place + 1)
            )
            (state,) = (state for state in states if before < state.end <= behind)
            rows.append([float(state.holders[state.thing] == state.hero), 0.0])
        answers = torch.tensor(rows)
        return torch.stack((torch.randn(answers.shape, generator=noise), answers))

    monkeypatch.setattr(truth, "residual_stream", knowing)
    found = probe_who_has(model, tokenizer, CONFIG, stories)
    assert found.accuracy[1] == 1.0
    assert found.accuracy[0] < found.chance + 0.1 < 1.0
    with pytest.raises(UserError, match="who has what"):
        probe_who_has(model, tokenizer, CONFIG, ["Call me Ishmael."])
