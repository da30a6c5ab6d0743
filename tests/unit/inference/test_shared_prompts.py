"""A prompt that is read once for all its answers gives what rows apart give, values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.data.preferences import EncodedPair
from glassbox.data.scored import scored_pairs
from glassbox.inference import shared_prompts
from glassbox.inference.shared_prompts import can_share, plan
from glassbox.layers.attention import Alibi, GroupedQuery, Rotary
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.mamba import Mamba
from glassbox.layers.norms import RmsNorm
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.models.scorer import add_score_head
from glassbox.ops.cross_entropy import IGNORE
from glassbox.tuning.log_probs import answer_log_probs, read_lengths
from glassbox.tuning.preference.reward import BradleyTerry, BradleyTerryConfig, common_beginnings


def model(mixer: object = None, ffn: object = None, **settings: object) -> CausalLM:
    torch.manual_seed(0)
    rich = GroupedQuery(
        num_heads=4,
        num_kv_heads=2,
        positions=Rotary(),
        qk_norm=RmsNorm(),
        sinks=True,
        softcap=5.0,
        output_gate=True,
    )
    block = BlockSpec(mixer=mixer or rich, ffn=ffn or SwiGlu(size=24))  # type: ignore[arg-type]
    config = ModelConfig(
        vocab_size=19,
        hidden_size=16,
        context_length=40,
        blocks=[Repeat(block=block, times=2)],
        **settings,  # type: ignore[arg-type]
    )
    made = CausalLM(config).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3)
    return made


def rows_of(
    groups: list[tuple[int, list[tuple[int, int]]]], seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of these lengths, each with answers of these lengths, of which so many first ids are a tool's."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length, answers in groups:
        prompt = torch.randint(1, 19, (length,), generator=generator).tolist()
        for count, tool in answers:
            answer = torch.randint(1, 19, (count,), generator=generator).tolist()
            rows.append((prompt, answer, tool))
    width = max(len(prompt) + len(answer) for prompt, answer, _ in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.int64)
    targets = torch.full((len(rows), width), IGNORE)
    for row, (prompt, answer, tool) in enumerate(rows):
        whole = torch.tensor(prompt + answer)
        ids[row, : len(whole) - 1] = whole[:-1]
        first = len(prompt) - 1
        targets[row, first : len(whole) - 1] = whole[first + 1 :]
        targets[row, first + 1 : first + 1 + min(tool, len(answer) - 2)] = IGNORE
    return ids, targets


ANSWER = st.tuples(st.integers(0, 6), st.integers(0, 2))
GROUP = st.tuples(st.integers(1, 14), st.lists(ANSWER, min_size=2, max_size=4))


@settings(max_examples=25, deadline=None)
@given(st.lists(GROUP, min_size=1, max_size=3), st.integers(0, 9))
def test_shared_prompts_give_what_rows_apart_give(groups: list, seed: int) -> None:  # type: ignore[type-arg]
    """1e-9: another order of summation in float64."""
    made = model()
    ids, targets = rows_of(groups, seed)
    found = {}
    for share in (True, False):
        scores = answer_log_probs(made, ids, targets, temperature=0.7, share=share)
        weights = torch.sin(torch.arange(scores.numel()).double()).view_as(scores)
        gradients = torch.autograd.grad(
            (scores * weights).sum(), list(made.parameters()), allow_unused=True
        )
        found[share] = [scores, *gradients]
    for ours, theirs in zip(found[True], found[False], strict=True):
        if ours is None or theirs is None:
            assert ours is None or not ours.any()
            assert theirs is None or not theirs.any()
            continue
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_prompts_are_shared_where_it_pays() -> None:
    ids, targets = rows_of([(12, [(4, 0)] * 4), (9, [(3, 0)] * 4)], 0)
    starts = (targets != IGNORE).to(torch.uint8).argmax(dim=-1)
    found = plan(ids, starts, read_lengths(targets))
    assert found is not None
    assert found.firsts == [0, 4]
    assert found.owners.tolist() == [0] * 4 + [1] * 4
    assert found.width == 4
    ids, targets = rows_of([(12, [(4, 0)]), (9, [(3, 0)])], 0)  # nobody to share with
    starts = (targets != IGNORE).to(torch.uint8).argmax(dim=-1)
    assert plan(ids, starts, read_lengths(targets)) is None


@pytest.mark.parametrize(
    ("mixer", "ffn", "settings"),
    [
        (GroupedQuery(num_heads=4, window=3, positions=Rotary()), None, {}),
        (GroupedQuery(num_heads=4, positions=Alibi()), None, {}),
        (Mamba(), None, {}),
        (None, MixtureOfExperts(num_experts=4, top_k=2, expert=SwiGlu(size=8)), {}),
        (None, None, {"learned_positions": True}),
        (None, None, {"dropout": 0.1}),
    ],
)
def test_models_that_see_more_than_keys_and_values_read_rows_apart(
    mixer: object, ffn: object, settings: dict[str, object]
) -> None:
    assert can_share(model())
    assert not can_share(model(mixer, ffn, **settings).train())


@pytest.mark.parametrize("every_token", [False, True])
@pytest.mark.parametrize("longer", [0, 3])
def test_a_pairs_prompt_is_read_once_by_reward_models(
    longer: int, every_token: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one answer is the beginning of the other; and against a loop over scores."""
    config = BradleyTerryConfig(every_token=every_token, centering=0.1)
    made = add_score_head(model(), torch.Generator().manual_seed(0))
    prompt = list(range(1, 15))
    pairs = [
        EncodedPair([*prompt, 3, 4], [], prompt + [3, 4, 5, 6][: 3 + longer // 3], []),
        EncodedPair([*prompt[2:], 7], [], [*prompt[2:], 8, 9], []),
        EncodedPair([*prompt, 7, 8, 9], [], [*prompt, 8, 8, 9, 9], []),
        EncodedPair(prompt + [2] * longer + [5], [], prompt + [2] * longer + [6], []),
    ]
    batch = scored_pairs(pairs)
    found = []
    for most in (0.75, 0.0):
        monkeypatch.setattr(shared_prompts, "WORTHWHILE", most)
        starts = common_beginnings(batch)
        assert (plan(batch.ids, starts, batch.ends + 1) is None) == (most == 0)
        loss = BradleyTerry(config)(made, batch).loss_sum
        gradients = torch.autograd.grad(loss, list(made.parameters()), allow_unused=True)
        found.append([loss, *(one for one in gradients if one is not None)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)

    def score(ids: list[int], place: int) -> torch.Tensor:
        return made.scores(made.hidden_states(torch.tensor([ids])))[0, min(place, len(ids) - 1)]

    expected = torch.zeros((), dtype=torch.float64)
    for pair in pairs:
        good, bad = pair.chosen_ids, pair.rejected_ids
        shortest, most = min(len(good), len(bad)), max(len(good), len(bad))
        first = next((t for t in range(shortest) if good[t] != bad[t]), shortest - 1)
        if every_token:
            scores = [(score(good, t), score(bad, t)) for t in range(first, most)]
        else:
            scores = [(score(good, most), score(bad, most))]
        each = [torch.log(1 + torch.exp(b - a)) + 0.1 * (a + b) ** 2 for a, b in scores]
        expected = expected + torch.stack(each).mean()
    torch.testing.assert_close(found[0][0], expected, rtol=1e-9, atol=1e-9)
