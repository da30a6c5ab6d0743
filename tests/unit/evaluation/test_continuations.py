"""Continuations scored together, contexts shared, give what the model's logits give row by row."""

from __future__ import annotations

import random

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.evaluation import continuations
from glassbox.evaluation.continuations import Continuation, Scorer, fit, make_batches
from glassbox.layers.attention import Alibi, GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat

VOCABULARY, CONTEXT = 19, 40


def model(mixer: GroupedQuery) -> CausalLM:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        context_length=CONTEXT,
        blocks=[Repeat(block=BlockSpec(mixer=mixer, ffn=SwiGlu(size=24)), times=2)],
    )
    made = CausalLM(config).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3)
    return made.eval().requires_grad_(False)


MODELS = {
    "contexts shared": model(GroupedQuery(num_heads=4, num_kv_heads=2, positions=Rotary())),
    "rows apart": model(GroupedQuery(num_heads=4, positions=Alibi())),
}


def some_items(generator: random.Random) -> list[Continuation]:
    """Questions with options, some behind the same examples, some options alike but the last token."""

    def ids(most: int, least: int = 1) -> list[int]:
        return [generator.randrange(VOCABULARY) for _ in range(generator.randint(least, most))]

    items = []
    for _ in range(generator.randint(1, 3)):
        examples = ids(12, 0)
        for _ in range(generator.randint(1, 8)):
            question = ids(10)
            items += [
                fit(examples + question, ids(generator.choice([1, 1, 2, 5])), CONTEXT)
                for _ in range(generator.randint(1, 4))
            ]
    return items


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_rows_apart(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuations, "SHORTEST_PREFIX", 4)
    one, num_shared = MODELS[name], 0
    for seed in range(12):
        generator = random.Random(seed)
        items = some_items(generator)
        batches = make_batches(one, items, batch_tokens=generator.choice([10, 60, 400]))
        num_shared += sum(bool(batch.prefix) for batch in batches)
        scorer = Scorer(one, items)
        found = dict(pair for batch in batches for pair in scorer.score(batch))
        assert sorted(found) == list(range(len(items)))
        for index, item in enumerate(items):
            logits = one(torch.tensor([item.ids[:-1]]))[0].log_softmax(-1)[item.first - 1 :]
            targets = torch.tensor(item.ids[item.first :])
            expected = logits.gather(-1, targets[:, None]).sum()
            # the same sums in another order: float64, fewer than 100 terms of size below 10
            assert found[index].log_prob == pytest.approx(float(expected), abs=1e-10)
            assert found[index].is_greedy == bool((logits.argmax(-1) == targets).all())
            assert found[index].num_tokens == len(targets)
    assert (num_shared > 0) == (name == "contexts shared")


def test_what_one_input_answers_is_read_once() -> None:
    question = [1, 2, 3, 4]
    items = [fit(question, [option], CONTEXT) for option in range(8)]
    (batch,) = make_batches(MODELS["rows apart"], items, batch_tokens=100)
    assert batch.num_tokens == len(question)
    assert sorted(batch.indices) == list(range(8))


def test_groups_do_not_depend_on_what_is_asked_of_them() -> None:
    items = some_items(random.Random(5))
    one = MODELS["contexts shared"]
    first, again = (make_batches(one, items, batch_tokens=50) for _ in range(2))
    assert [batch.indices for batch in first] == [batch.indices for batch in again]
    chosen = set(first[0].indices[:1])
    assert first[0].only(chosen).indices == list(chosen)


def test_a_context_is_cut_from_the_left_and_a_continuation_never() -> None:
    cut = fit(range(100), [1, 2], 10)
    assert cut.ids == [*range(91, 100), 1, 2]
    assert cut.first == 9
    with pytest.raises(UserError, match="a continuation of 11 tokens, but context_length = 10"):
        fit([1], range(11), 10)
    with pytest.raises(UserError, match="no token of its own"):
        fit([1], [], 10)
