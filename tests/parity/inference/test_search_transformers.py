"""Beam search against transformers' generate; contrastive search against its formula (theirs left transformers)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from glassbox.core.errors import UserError
from glassbox.inference.plain import process_plain
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.search.beam import BeamParams, beam_search
from glassbox.inference.search.contrastive import ContrastiveParams, contrastive_search
from glassbox.models.causal_lm import CausalLM
from glassbox.models.families import presets
from support.parity import ours_from

VOCAB, CONTEXT = 29, 40


def _pair(kind):
    torch.manual_seed(3)
    common = {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if kind == "llama":
        theirs = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=CONTEXT,
                initializer_range=0.4,
                tie_word_embeddings=False,
                **common,
            )
        )
    else:
        theirs = GPT2LMHeadModel(
            GPT2Config(
                n_embd=16, n_layer=2, n_head=4, n_positions=CONTEXT, initializer_range=0.5, **common
            )
        )
    theirs = theirs.double().eval()
    return theirs, ours_from(theirs).eval()


@pytest.fixture(scope="module")
def pairs():
    """The same random weights in theirs and ours, float64: no tie is broken by rounding."""
    return {kind: _pair(kind) for kind in ("llama", "gpt2")}


IDS = st.integers(0, VOCAB - 1)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["llama", "gpt2"]),
    prompt=st.lists(IDS, min_size=1, max_size=6),
    num_beams=st.integers(2, 5),
    length_penalty=st.sampled_from([-1.0, 0.0, 0.6, 1.0, 2.5]),
    early_stopping=st.sampled_from([True, False, "never"]),
    stops=st.lists(IDS, max_size=4, unique=True),
    returned=st.integers(1, 5),
    max_new=st.integers(1, 14),
    penalty=st.sampled_from([1.0, 1.0, 1.4]),
    min_new=st.sampled_from([0, 0, 4]),
)
@example("llama", [1, 2], 4, 2.5, "never", [0, 5, 9, 17], 4, 14, 1.0, 0)
def test_beam_search(
    pairs,
    kind,
    prompt,
    num_beams,
    length_penalty,
    early_stopping,
    stops,
    returned,
    max_new,
    penalty,
    min_new,
):
    theirs, ours = pairs[kind]
    returned, min_new = min(returned, num_beams), min(min_new, max_new)
    ids = torch.tensor([prompt])
    expected = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new,
        min_new_tokens=min_new or None,
        do_sample=False,
        num_beams=num_beams,
        num_return_sequences=returned,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        repetition_penalty=penalty,
        eos_token_id=stops or None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = beam_search(
        ours,
        prompt,
        BeamParams(
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            num_return_sequences=returned,
        ),
        SamplingParams(max_tokens=max_new, repetition_penalty=penalty, min_tokens=min_new),
        stop_ids=stops,
    )
    texts = [_answer(line[len(prompt) :], stops, max_new) for line in expected.sequences.tolist()]
    assert [one.token_ids for one in found] == texts
    # theirs adds up in float32
    scores = torch.tensor([one.score for one in found])
    torch.testing.assert_close(scores, expected.sequences_scores, atol=1e-4, rtol=1e-5)
    assert all((one.token_ids[-1] in stops) == (one.finish_reason == "stop") for one in found)


def _answer(tokens, stops, max_new):
    """Without the padding behind a text's end."""
    for place, token in enumerate(tokens):
        if token in stops:
            return tokens[: place + 1]
    return tokens[:max_new]


def _contrastive_loops(model, prompt, alpha, top_k, params, stops):
    """Equation 5 said word by word, everything computed anew for every candidate."""
    ids = list(prompt)
    while len(ids) - len(prompt) < params.max_tokens:
        logits = model(torch.tensor([ids]))[0, -1]
        generated = ids[len(prompt) :]
        adjusted = process_plain(logits, params, prompt, generated, stop_ids=stops)
        probs = adjusted.softmax(-1)
        best, chosen = None, None
        for candidate in probs.topk(top_k).indices.tolist():
            hidden = model.hidden_states(torch.tensor([[*ids, candidate]]))[0]
            likeness = max(float(F.cosine_similarity(hidden[-1], h, dim=0)) for h in hidden[:-1])
            score = (1 - alpha) * float(probs[candidate]) - alpha * likeness
            if best is None or score > best:
                best, chosen = score, candidate
        ids.append(chosen)
        if chosen in stops:
            break
    return ids[len(prompt) :]


def _recurrent():
    config = presets()["qwen3-next-tiny"].model_copy(update={"vocab_size": VOCAB})
    model = CausalLM(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model


@pytest.mark.parametrize("kind", ["llama", "gpt2", "recurrent"])
@pytest.mark.parametrize(
    ("alpha", "top_k", "more"),
    [(0.6, 4, {}), (0.3, 6, {"repetition_penalty": 1.2, "min_tokens": 5})],
)
@torch.no_grad()
def test_contrastive_search(pairs, kind, alpha, top_k, more):
    model = _recurrent() if kind == "recurrent" else pairs[kind][1]
    params = SamplingParams(max_tokens=8, **more)
    seen = set()
    for prompt, stops in (([4, 9, 2, 2, 6], []), ([20], [0, 11, 25])):
        found = contrastive_search(
            model,
            prompt,
            ContrastiveParams(penalty_alpha=alpha, top_k=top_k),
            params,
            stop_ids=stops,
        )
        assert found == _contrastive_loops(model, prompt, alpha, top_k, params, stops)
        seen |= set(found)
    assert len(seen) > 3  # a constant answer would prove little


@torch.no_grad()
def test_beams_branch_with_their_running_states():
    """A hybrid's best text of an unbounded beam is the best of all texts, each scored without a cache."""
    model = _recurrent()
    width, length = 29 * 29, 2
    found = beam_search(
        model, [5, 1], BeamParams(num_beams=width), SamplingParams(max_tokens=length)
    )
    firsts = model(torch.tensor([[5, 1]]))[0, -1].log_softmax(-1)
    lines = torch.tensor([[5, 1, first] for first in range(VOCAB)])
    seconds = model(lines)[:, -1].log_softmax(-1)
    scores = (firsts.unsqueeze(1) + seconds) / length
    best = int(scores.argmax())
    assert found[0].token_ids == [best // VOCAB, best % VOCAB]
    assert found[0].score == pytest.approx(float(scores.max()), abs=1e-12)


@pytest.mark.parametrize("extra", [{"top_k": 3}, {"temperature": 0.5}, {"stop": "x"}, {"n": 2}])
def test_settings_of_sampling_are_refused(pairs, extra):
    params = SamplingParams(max_tokens=3, **extra)
    with pytest.raises(UserError, match=f"{next(iter(extra))} = .*leave it out"):
        beam_search(pairs["llama"][1], [1], BeamParams(), params)
    with pytest.raises(UserError, match=f"{next(iter(extra))} = .*leave it out"):
        contrastive_search(pairs["llama"][1], [1], ContrastiveParams(), params)
