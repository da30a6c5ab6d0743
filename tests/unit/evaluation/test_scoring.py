"""Every token scored once; excess and its error; hooks that leave no trace."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glassbox.core.errors import UserError
from glassbox.core.seeding import rng_state
from glassbox.data.shards import read_shard, write_shard
from glassbox.evaluation.hooks import LossHook, SampleHook
from glassbox.evaluation.perplexity import Text, make_text, score_by_kind, score_texts, summarize
from glassbox.evaluation.scoring import token_log_probs, windows
from glassbox.evaluation.text import evaluate_text
from glassbox.models.causal_lm import CausalLM
from glassbox.models.shapes import LlamaShape
from glassbox.runs.recipe import PretrainRecipe, read_recipe
from glassbox.runs.setup import Setup
from glassbox.tokenizers import Tokenizer, train_bpe


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["the cat sat on the mat. the dog sat too."] * 3, 300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> CausalLM:
    torch.manual_seed(0)
    shape = LlamaShape(hidden_size=16, num_layers=2, num_heads=2, ffn_size=24, context_length=32)
    model = CausalLM(shape.config(tokenizer.vocab_size))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    return model


@given(st.integers(1, 300), st.integers(1, 40), st.data())
def test_each_target_is_in_one_window_with_enough_before_it(
    num_targets: int, context: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, context))
    found = windows(num_targets, context, stride)
    scored = [t for w in found for t in range(w.first, w.end)]
    assert scored == list(range(num_targets))
    for w in found:
        assert 0 < w.end - w.start <= context
        assert w.start <= w.first
        assert w.start == 0 or w.first - w.start >= context - stride


@pytest.mark.parametrize("stride", [0, 33])
def test_impossible_strides_are_refused(model: CausalLM, stride: int) -> None:
    with pytest.raises(UserError, match=f"stride = {stride}"):
        token_log_probs(model, [[1, 2, 3]], stride=stride)


def test_a_first_token_has_nothing_before_it(model: CausalLM) -> None:
    with pytest.raises(UserError, match="nothing before token 0"):
        token_log_probs(model, [[1, 2, 3]], first_target=[0])
    assert token_log_probs(model, [[1, 2]], first_target=[2])[0].shape == (0,)


def test_scoring_leaves_the_model_as_it_was(model: CausalLM) -> None:
    model.train()
    token_log_probs(model, [[1, 2, 3]])
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    model(torch.tensor([[1, 2]])).sum().backward()  # no inference tensor stayed inside
    model.zero_grad(set_to_none=True)


def test_documents_are_framed_so_that_first_token_and_end_count(tokenizer: Tokenizer) -> None:
    text = make_text(tokenizer, "the café")
    inner = tokenizer.encode("the café")
    assert text.ids == [tokenizer.eos_id, *inner, tokenizer.eos_id]
    assert text.num_tokens == len(inner) + 1
    assert text.num_bytes == 9


def test_excess_is_the_difference_document_by_document() -> None:
    """Model nats 2 a token and exact nats 1.5 a token in each document: excess 0.5, without error."""
    texts = [Text([0] * (n + 1), n * 4, log_prob=-1.5 * n) for n in (3, 8, 5)]
    scores = [np.full(n, -2.0) for n in (3, 8, 5)]
    found = summarize(texts, scores)
    assert found.entropy_nats is not None
    assert found.excess_nats is not None
    assert found.entropy_nats.value == pytest.approx(1.5)
    assert found.excess_nats == pytest.approx((0.5, 0.0, 3))
    assert found.bits_per_byte.value == pytest.approx(2 / math.log(2) / 4)

    # hard and easy documents spread the loss, not the excess
    rng = np.random.default_rng(0)
    hardness = rng.uniform(0.2, 3.0, 60)
    texts = [Text([0] * 21, 80, log_prob=-20.0 * h) for h in hardness]
    scores = [np.full(20, -(h + 0.1)) for h in hardness]
    found = summarize(texts, scores)
    assert found.excess_nats is not None
    assert found.excess_nats.value == pytest.approx(0.1)
    assert found.excess_nats.standard_error < 1e-9 < 0.05 < found.loss_nats.standard_error


def test_excess_needs_every_documents_probability() -> None:
    texts = [Text([0, 1, 2], 4, log_prob=-1.0), Text([0, 1, 2], 4)]
    found = summarize(texts, [np.full(2, -1.0)] * 2)
    assert found.excess_nats is None
    assert "excess_nats" not in found.to_json()


def test_excess_over_a_process_whose_probabilities_are_known(model: CausalLM) -> None:
    """Texts drawn from the model itself have it as their process: the excess is exactly zero."""
    sequences = [[0, *map(int, row)] for row in torch.randint(0, 256, (5, 12))]
    own = [float(values.sum()) for values in token_log_probs(model, sequences)]
    texts = [Text(ids, 12, log_prob=lp) for ids, lp in zip(sequences, own, strict=True)]
    found = score_texts(model, texts)
    assert found.excess_nats is not None
    assert found.excess_nats.value == pytest.approx(0, abs=1e-12)


def test_one_long_text_takes_its_error_from_blocks(model: CausalLM, tokenizer: Tokenizer) -> None:
    long = "the cat sat on the dog. " * 40
    found = evaluate_text(model, tokenizer, [long])["heldout"]
    assert found["unit"] == "block"
    assert found["loss_nats"]["standard_error"] > 0
    assert found["loss_nats"]["n"] == math.ceil(found["num_tokens"] / 32)
    assert found["num_bytes"] == len(long)
    expected = found["loss_nats"]["value"] * found["num_tokens"] / math.log(2) / len(long)
    assert found["bits_per_byte"]["value"] == pytest.approx(expected)
    several = evaluate_text(model, tokenizer, iter([long, "a cat", "a dog"]), limit=2)["heldout"]
    assert (several["unit"], several["loss_nats"]["n"]) == ("document", 2)


def test_no_text_is_refused(model: CausalLM, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="no text to score"):
        evaluate_text(model, tokenizer, [])


def test_kinds_are_summarized_apart() -> None:
    texts = [Text([0, 1], 1, kind="a"), Text([0, 1], 1, kind="b"), Text([0, 1], 1, kind="b")]
    found = score_by_kind(texts, [np.full(1, -x) for x in (1.0, 2.0, 4.0)])
    assert found["a"]["loss_nats"]["value"] == 1.0
    assert found["b"]["loss_nats"]["value"] == 3.0


def write_masked_shard(folder: Path, tokenizer: Tokenizer):
    documents = [[0, 5, 6, 7], [0, 9], [0, 8, 7, 6, 5]]
    masks = [[0, 0, 1, 1], [0, 0], [0, 0, 0, 0, 1]]
    write_shard(
        folder / "heldout",
        documents,
        vocab_size=tokenizer.vocab_size,
        fingerprint="x",
        masks=masks,
    )
    return read_shard(folder / "heldout")


def test_loss_hook_scores_only_what_is_trained(
    model: CausalLM, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    hook = LossHook(write_masked_shard(tmp_path, tokenizer), every=10)
    found = hook(model, 0)
    first, second = token_log_probs(model, [[0, 5, 6, 7], [0, 8, 7, 6, 5]])
    expected = -(first[1] + first[2] + second[3]) / 3
    assert found["heldout_loss"] == pytest.approx(expected)
    assert set(found) == {"heldout_loss", "heldout_loss_error"}
    limited = LossHook(write_masked_shard(tmp_path, tokenizer), every=10, documents=1, name="loss2")
    assert limited(model, 0) == {"loss2": pytest.approx(-second[3])}  # the one in the middle


def test_hooks_leave_model_and_chance_as_they_were(
    model: CausalLM, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    hooks = [
        LossHook(write_masked_shard(tmp_path, tokenizer), every=1),
        SampleHook(tokenizer, ["the cat", ""], every=1, max_tokens=6, seed=3),
    ]
    model.train()
    values, tensors = rng_state()
    before = [parameter.clone() for parameter in model.parameters()]
    first = [dict(hook(model, 1)) for hook in hooks]
    values_after, tensors_after = rng_state()
    assert values == values_after
    assert all(torch.equal(tensors[key], tensors_after[key]) for key in tensors)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.training
    assert first == [dict(hook(model, 2)) for hook in hooks]


def test_sample_hook_records_prompt_and_continuation(model: CausalLM, tokenizer: Tokenizer) -> None:
    found = SampleHook(tokenizer, ["the cat", "a"], every=1, max_tokens=5, seed=0)(model, 0)
    assert set(found) == {"sample_0", "sample_1"}
    assert str(found["sample_0"]).startswith("the cat")
    assert str(found["sample_1"]).startswith("a")
    assert found["sample_0"] != "the cat"


def test_a_recipes_temperature_reaches_its_samples(model: CausalLM, tokenizer: Tokenizer) -> None:
    def sample(seed: int, temperature: float) -> object:
        words = ["evaluation.prompts=[the cat]", "evaluation.sample_every=1", f"seed={seed}"]
        recipe = read_recipe("pretrain.yaml", [*words, f"evaluation.temperature={temperature}"])
        assert isinstance(recipe, PretrainRecipe)
        (hook,) = Setup(recipe).sample_hooks(tokenizer)
        return hook(model, 1)

    assert sample(0, 0) == sample(1, 0)
    assert sample(0, 50) != sample(1, 50)
