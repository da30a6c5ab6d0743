"""Scores of prompts and embeddings of texts, against loops over the model's own outputs."""

from __future__ import annotations

import math

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.inference.scoring import PromptScores, embed, score_prompts
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

MODEL = tiny_chat_model(tiny_tokenizer(), context_length=600)
PROMPTS = [[5, 9, 3, 77, 5, 5], [8], [*range(300)], [4, 4, 4, 250], [*range(299, 0, -1)]]


def test_each_tokens_score_is_that_of_the_whole_model() -> None:
    found = [one for one in score_prompts(MODEL, PROMPTS, top=3) if one is not None]
    assert [one.index for one in found] == [0, 1, 2, 3, 4]
    for one, prompt in zip(found, PROMPTS, strict=True):
        with torch.no_grad():
            expected = MODEL(torch.tensor([prompt]))[0].log_softmax(-1)
        assert one.log_probs[0] is None
        assert one.top[0] is None
        assert len(one.log_probs) == len(one.top) == len(prompt)
        for place in range(1, len(prompt)):
            row = expected[place - 1]
            # float32, another order of the sums
            assert one.log_probs[place] == pytest.approx(float(row[prompt[place]]), abs=1e-4)
            likeliest = one.top[place]
            assert likeliest is not None
            assert [number for number, _ in likeliest] == row.topk(3).indices.tolist()
            if likeliest[0][0] == prompt[place]:
                assert likeliest[0][1] == one.log_probs[place]  # exactly: some compare them


def test_without_top_there_is_none_and_others_get_a_turn_in_between() -> None:
    found = list(score_prompts(MODEL, [PROMPTS[2]]))
    assert found[:-1] == [None] * 3  # the pass, and two pieces of its logits
    assert isinstance(found[-1], PromptScores)
    assert found[-1].top[1:] == [[]] * 299


def test_an_embedding_is_the_mean_of_the_texts_own_states() -> None:
    vectors: dict[int, torch.Tensor] = {}
    for indices, batch in embed(MODEL, PROMPTS, batch_tokens=600):
        vectors |= dict(zip(indices, batch, strict=True))
    assert sorted(vectors) == [0, 1, 2, 3, 4]
    for index, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            mean = MODEL.hidden_states(torch.tensor([prompt]))[0].mean(dim=0)
        torch.testing.assert_close(vectors[index], mean / mean.norm(), atol=1e-5, rtol=1e-5)
        assert math.isclose(float(vectors[index].norm()), 1.0, abs_tol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "words"), [([], "empty"), ([1] * 601, "601 tokens"), ([-1], "-1"), ([9**9], "other")]
)
def test_what_cannot_be_read_is_refused(prompt: list[int], words: str) -> None:
    for pieces in (score_prompts(MODEL, [[5], prompt]), embed(MODEL, [[5], prompt])):
        with pytest.raises(UserError, match=words):
            list(pieces)
