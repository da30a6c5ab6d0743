"""Weights stored by columns: the same model, to the rounding of its sums."""

from __future__ import annotations

import pytest
import torch

from glassbox.models.causal_lm import CausalLM
from glassbox.models.layout import lay_out_for_decoding
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_laid_out_for_decoding_computes_the_same(tied):
    config = tiny_chat_model(TOKENIZER).config.model_copy(update={"tie_embeddings": tied})
    model = CausalLM(config).eval()
    ids = torch.randint(config.vocab_size, (3, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        expected = [model(ids), model(ids[:1, :1])]
        lay_out_for_decoding(model)
        found = [model(ids), model(ids[:1, :1])]
    for a, b in zip(found, expected, strict=True):
        # float32 sums in another order: logits of about 0.1
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert model.output_weight.stride()[0] == 1
    assert model.blocks[0].ffn.down.weight.stride()[0] == 1
    assert model.embedding.weight.is_contiguous() != tied


def test_without_gradients_the_lean_operations_give_the_same_bits():
    model = tiny_chat_model(TOKENIZER).eval()
    ids = torch.arange(30).unsqueeze(0)
    with torch.no_grad():
        without = model(ids)
    assert torch.equal(without, model(ids))
