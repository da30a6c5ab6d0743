"""SpeculativeDecoder ahead changes nothing but the number of passes: same texts, same distribution."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.inference.constraints.specs import Choice, Regex
from glassbox.inference.engine import Engine
from glassbox.inference.plain import generate_plain
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.sampler import RowSampler
from glassbox.inference.speculation.draft_model import DraftModel
from glassbox.inference.speculation.proposers import (
    DraftRequest,
    NgramIndex,
    NgramProposer,
    speculate_plain,
)
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.linear import Linear
from glassbox.layers.norms import RmsNorm
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.tokenizers import train_bpe
from support.mixers import SIZE, all_mixers

MIXERS = all_mixers()
VOCAB = 19
ATTENTION = GroupedQuery(num_heads=3, num_kv_heads=1, positions=Rotary())


def tiny(
    mixer: Spec = ATTENTION, seed: int = 0, *, vocab_size: int = VOCAB, context_length: int = 64
) -> CausalLM:
    """A random model in float64, where the shape of a pass cannot tip a choice by its rounding."""
    config = ModelConfig(
        vocab_size=vocab_size,
        hidden_size=SIZE,
        context_length=context_length,
        blocks=[Repeat(block=BlockSpec(mixer=mixer, ffn=SwiGlu(size=16)), times=2)],
        final_norm=RmsNorm(),
        tie_embeddings=False,
    )
    torch.manual_seed(seed)
    model = CausalLM(config).double()
    with torch.no_grad():  # large, so that what was said before matters to what comes
        for module in model.blocks.modules():
            if isinstance(module, Linear):
                module.weight.mul_(8)
        model.embedding.weight.normal_(std=0.5)
        model.output_weight.normal_(std=0.7)
    return model.eval()


class Scripted:
    """Knows the answers, and errs now and then: guesses right for a while, then wrong."""

    def __init__(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> None:
        self.answers = {tuple(p): p + a for p, a in zip(prompts, answers, strict=True)}
        self.chance = random.Random(4)
        self.forgotten: set[int] = set()

    def propose(self, answers: Sequence[DraftRequest]) -> list[list[int]]:
        found = []
        for one in answers:
            tokens = list(one.tokens)
            whole = next(w for p, w in self.answers.items() if tuple(tokens[: len(p)]) == p)
            guesses = whole[len(tokens) : len(tokens) + self.chance.randint(0, one.count)]
            if guesses and self.chance.random() < 0.6:
                place = self.chance.randrange(len(guesses))
                guesses[place] = (guesses[place] + 1) % VOCAB
            found.append(guesses)
        return found

    def forget(self, number: int) -> None:
        self.forgotten.add(number)


def some_prompts(count: int, seed: int = 0) -> list[list[int]]:
    chance = random.Random(seed)
    return [
        [number, *(chance.randrange(VOCAB) for _ in range(chance.randint(2, 12)))]
        for number in range(count)
    ]


def some_params(count: int) -> list[SamplingParams]:
    return [
        SamplingParams(max_tokens=6 + seed % 9, seed=seed, temperature=(0, 0.7, 1.3)[seed % 3])
        for seed in range(count)
    ]


# ---- guesses ------------------------------------------------------------------------------------


def latest_after(tokens: list[int], shortest: int, longest: int) -> int | None:
    """Where the longest end of the text stands earlier, latest first; the place behind, by trying all."""
    for length in range(min(longest, len(tokens) - 1), shortest - 1, -1):
        for end in range(len(tokens) - 1, length - 1, -1):
            if tokens[end - length : end] == tokens[-length:]:
                return end
    return None


@settings(max_examples=150, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    cuts=st.lists(st.integers(1, 40), max_size=5),
    count=st.integers(1, 6),
    shortest=st.integers(1, 3),
    more=st.integers(0, 4),
)
def test_ngrams_equal_a_scan(
    tokens: list[int], cuts: list[int], count: int, shortest: int, more: int
) -> None:
    """However often it is asked as the text grows."""
    index = NgramIndex(shortest, shortest + more)
    for cut in sorted({min(cut, len(tokens)) for cut in cuts} | {len(tokens)}):
        found = index.propose(tokens[:cut], count)
        place = latest_after(tokens[:cut], shortest, shortest + more)
        expected, text = [], tokens[:cut]
        if place is not None:
            for at in range(place, place + count):
                text = [*text, text[at]]
            expected = text[cut:]
        assert found == expected


def test_plain_speculation_is_plain_generation() -> None:
    model = tiny()
    accepted = 0
    for seed in range(12):
        params = SamplingParams(
            max_tokens=20,
            seed=seed,
            temperature=(0, 1.0)[seed % 2],
            repetition_penalty=(1.0, 1.3)[seed % 4 // 2],
            stop_token_ids=(3,),
        )
        prompt = [5, 6, 7, 5, 6, 7, 5]
        found, counts = speculate_plain(model, prompt, params, NgramProposer(shortest=1), 4)
        assert found == generate_plain(model, prompt, params)
        assert counts.passes == len(found) - counts.accepted
        assert 0 <= counts.accepted <= counts.drafted
        accepted += counts.accepted
    assert accepted > 0


# ---- the engine -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(MIXERS))
def test_texts_are_the_same_for_every_mixer(name: str) -> None:
    """Right and wrong guesses, rows of unequal numbers of them; recurrent states go back."""
    model = tiny(MIXERS[name])
    prompts, params = some_prompts(6), some_params(6)
    plain = [answer.token_ids for answer in Engine(model).generate(prompts, params)]
    proposer = Scripted(prompts, plain)
    engine = Engine(model, proposer=proposer, num_drafts=5, token_budget=40)
    guessed = engine.generate(prompts, params)
    assert [answer.token_ids for answer in guessed] == plain
    stats = engine.stats()
    assert 0 < stats.accepted < stats.drafted
    assert len(proposer.forgotten) == 6
    assert engine.stats().blocks_free == engine.stats().blocks_total


@pytest.mark.parametrize("name", list(MIXERS))
def test_a_model_that_drafts_for_itself_is_always_right(name: str) -> None:
    """Coupled draws: the same model with the same numbers guesses what it will say, cache and all."""
    model = tiny(MIXERS[name], seed=1)
    prompts = some_prompts(4)
    params = [SamplingParams(max_tokens=24, seed=seed, temperature=1.5) for seed in range(4)]
    plain = [answer.token_ids for answer in Engine(model).generate(prompts, params)]
    draft = DraftModel(model, model, max_rows=8)
    engine = Engine(model, proposer=draft, num_drafts=3)
    assert [answer.token_ids for answer in engine.generate(prompts, params)] == plain
    stats = engine.stats()
    assert stats.accepted == stats.drafted > 0
    assert draft._cache._blocks.num_free == draft._cache._blocks.num_blocks
    assert sorted(draft._cache._free) == list(range(8))


@pytest.mark.parametrize("name", ["attention", next(n for n in MIXERS if "mamba" in n)])
def test_another_model_drafts(name: str) -> None:
    """Its guesses are wrong at times, and its state goes back; it may hold fewer rows and less text."""
    mixer = MIXERS.get(name, ATTENTION)
    model = tiny(seed=2)
    draft = tiny(mixer, seed=9, context_length=24)
    with torch.no_grad():  # alike enough to be right at times
        draft.embedding.weight.copy_(model.embedding.weight)
        draft.output_weight.copy_(model.output_weight + 0.3 * torch.randn(VOCAB, SIZE))
    prompts, params = some_prompts(7), some_params(7)
    plain = [answer.token_ids for answer in Engine(model).generate(prompts, params)]
    engine = Engine(model, proposer=DraftModel(model, draft, max_rows=4), num_drafts=3)
    for _ in range(2):  # what it held is free again
        assert [answer.token_ids for answer in engine.generate(prompts, params)] == plain
    stats = engine.stats()
    assert 0 < stats.accepted < stats.drafted


def test_penalties_constraints_stops_and_scores_with_guesses() -> None:
    tokenizer = train_bpe(["yes no maybe abab ababab " * 9], 270)
    model = tiny(vocab_size=tokenizer.vocab_size, context_length=96)
    prompts = [tokenizer.encode("abababab ab yes no yes no")] * 8
    params = [
        SamplingParams(max_tokens=20, seed=1, constraint=Regex(pattern="(ab){2,6}")),
        SamplingParams(max_tokens=20, temperature=0, constraint=Regex(pattern="(yes no )*")),
        SamplingParams(max_tokens=20, seed=2, constraint=Choice(options=("yes no", "maybe"))),
        SamplingParams(max_tokens=9, seed=3, frequency_penalty=1.0, presence_penalty=0.5),
        SamplingParams(max_tokens=9, temperature=0, repetition_penalty=1.4, logprobs=True),
        SamplingParams(max_tokens=15, seed=4, logprobs=True, top_logprobs=2, temperature=0.2),
        SamplingParams(max_tokens=15, seed=5, n=3, top_k=2, min_tokens=4),
        SamplingParams(max_tokens=30, temperature=0, stop=("a", "o")),
    ]
    plain = Engine(model, tokenizer).generate(prompts, params)
    for proposer in (NgramProposer(shortest=1), DraftModel(model, model)):
        engine = Engine(model, tokenizer, proposer=proposer, num_drafts=4)
        found = engine.generate(prompts, params)
        assert [a.token_ids for a in found] == [a.token_ids for a in plain]
        assert [(a.text, a.finish_reason, a.stop) for a in found] == [
            (a.text, a.finish_reason, a.stop) for a in plain
        ]
        for one, other in zip(found, plain, strict=True):
            assert one.log_probs == pytest.approx(other.log_probs, abs=1e-9)
        assert engine.stats().accepted > 0
        streamed = list(engine.stream(prompts[5], params[5]))
        assert [event.token_id for event in streamed] == plain[5].token_ids
        assert all(len(event.top_log_probs or ()) == 2 for event in streamed)


def test_guesses_with_a_cache_that_is_too_small_for_all() -> None:
    """Sequences give way and come back; chunks of prompts are read beside guesses."""
    model = tiny()
    prompts, params = some_prompts(10, seed=3), some_params(10)
    plain = [answer.token_ids for answer in Engine(model).generate(prompts, params)]
    engine = Engine(
        model,
        proposer=Scripted(prompts, plain),
        num_drafts=4,
        cache_tokens=64,
        block_size=4,
        token_budget=12,
        max_batch=8,
    )
    assert [answer.token_ids for answer in engine.generate(prompts, params)] == plain
    assert engine.stats().preemptions > 0
    assert engine.stats().accepted > 0


@pytest.mark.parametrize("name", ["attention", next(n for n in MIXERS if "mamba" in n)])
def test_a_draft_model_reads_long_prompts_in_parts_and_keeps_its_sampler(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(MIXERS.get(name, ATTENTION), seed=1)
    prompts = [[1 + n % 7 for n in range(size)] for size in (21, 4, 13)]
    params = [SamplingParams(max_tokens=9, seed=seed, ignore_eos=True) for seed in range(3)]
    plain = [answer.token_ids for answer in Engine(model).generate(prompts, params)]
    draft = DraftModel(model, model, max_tokens=12)
    fed, built = [], []
    run, of = draft._cache.runner.run, RowSampler.of
    monkeypatch.setattr(
        draft._cache.runner, "run", lambda plan: (fed.append(plan.num_tokens), run(plan))[1]
    )
    monkeypatch.setattr(
        RowSampler, "of", lambda *words: (built.append(len(words[0])), of(*words))[1]
    )
    engine = Engine(model, proposer=draft, num_drafts=2)
    assert [answer.token_ids for answer in engine.generate(prompts, params)] == plain
    assert max(fed) <= 12
    assert len(built) < 4  # the engine's own, and the draft's once for all its steps
    assert engine.stats().accepted == engine.stats().drafted > 0


def test_cancelled_answers_are_forgotten() -> None:
    model = tiny()
    draft = DraftModel(model, model, max_rows=2)
    engine = Engine(model, proposer=draft, num_drafts=3)
    number = engine.add([1, 2, 3], SamplingParams(max_tokens=30, seed=1, ignore_eos=True))
    for _ in range(3):
        engine.step()
    assert draft._cache._blocks.num_free < draft._cache._blocks.num_blocks
    engine.cancel(number)
    assert draft._cache._blocks.num_free == draft._cache._blocks.num_blocks
    assert not engine.has_work


# ---- the distribution -----------------------------------------------------------------------------


def test_chi_square_against_the_exact_distribution() -> None:
    """2,000 answers of three tokens over 5 words, drafted by another model: 125 cells.

    The statistic has mean 124 and standard deviation 15.7; seeds are fixed, the limit is mean + 4 sd.
    """
    model, draft = tiny(seed=5, vocab_size=5), tiny(seed=6, vocab_size=5)
    engine = Engine(model, proposer=DraftModel(model, draft), num_drafts=3)
    prompt, number = [1, 2], 2_000
    answers = engine.generate([prompt], SamplingParams(max_tokens=3, n=number, seed=11))
    stats = engine.stats()
    assert 0 < stats.accepted < stats.drafted
    sequences = torch.cartesian_prod(*[torch.arange(5)] * 3)  # (125, 3)
    whole = torch.cat((torch.tensor(prompt).expand(125, 2), sequences), dim=1)
    with torch.no_grad():
        steps = model(whole[:, :-1])[:, 1:].log_softmax(-1)  # (125, 3, 5)
    expected = steps.gather(2, sequences.unsqueeze(2)).sum((1, 2)).exp() * number
    cells = [answer.token_ids for answer in answers]
    counts = torch.bincount(
        torch.tensor([25 * a + 5 * b + c for a, b, c in cells]), minlength=125
    ).double()
    enough = expected >= 5
    observed = torch.cat((counts[enough], counts[~enough].sum().view(1)))
    hoped = torch.cat((expected[enough], expected[~enough].sum().view(1)))
    if hoped[-1] < 5:
        observed, hoped = observed[:-1], hoped[:-1]
    statistic = float(((observed - hoped) ** 2 / hoped).sum())
    cells_used = len(hoped)
    assert cells_used > 15
    assert statistic < cells_used + 4 * (2 * cells_used) ** 0.5


# ---- refusals -------------------------------------------------------------------------------------


def test_refusals() -> None:
    with pytest.raises(UserError, match="vocabulary has 20 entries"):
        DraftModel(tiny(), tiny(vocab_size=20))
    with pytest.raises(UserError, match="num_drafts = 0"):
        Engine(tiny(), proposer=NgramProposer(), num_drafts=0)
    with pytest.raises(UserError, match="shortest = 3"):
        NgramProposer(shortest=3, longest=2)
