"""Multi-token prediction against the paper's equations, and its place beside the model."""

from __future__ import annotations

import pytest
import torch

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.data.loader import TokenBatch
from glassbox.formats.huggingface import load_pretrained, save_pretrained
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.context import Context
from glassbox.layers.feedforward import Gelu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import (
    BlockSpec,
    Initialization,
    ModelConfig,
    MultiTokenPrediction,
)
from glassbox.models.families import to_hf_config
from glassbox.models.mtp import ahead
from glassbox.models.shapes import BlocksShape, LlamaShape
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.next_token import NextToken

VOCAB = 30
# float64: a shorter sequence is summed in another order
TOLERANCE = {"rtol": 1e-9, "atol": 1e-10}
OTHER_BLOCK = BlockSpec(mixer=GroupedQuery(num_heads=2), ffn=Gelu(size=10))


def config_of(mtp: MultiTokenPrediction | None, **changes) -> ModelConfig:
    shape = LlamaShape(
        hidden_size=12, num_layers=2, num_heads=3, ffn_size=20, context_length=64, mtp=mtp,
        init=Initialization(std=0.4), tie_embeddings=False,
    )  # fmt: skip
    return shape.config(VOCAB).model_copy(update=changes)


def model_of(mtp: MultiTokenPrediction | None, **changes) -> CausalLM:
    torch.manual_seed(0)
    return CausalLM(config_of(mtp, **changes)).double()


def batch_of(*lengths: int, masked: bool = False) -> TokenBatch:
    """One row of packed documents; each target is the document's next token, the last one's too."""
    generator = torch.Generator().manual_seed(sum(lengths))
    texts = [torch.randint(VOCAB, (length + 1,), generator=generator) for length in lengths]
    targets = torch.cat([text[1:] for text in texts])
    if masked:
        targets = targets.where(torch.rand(len(targets), generator=generator) < 0.6, IGNORE)
    documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return TokenBatch(
        torch.cat([text[:-1] for text in texts])[None], targets[None], documents[None]
    )


def by_equations(model: CausalLM, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One document t_1 ... t_T: at depth k the first T - k states, each with the token k on."""
    config = model.config.mtp
    total = torch.zeros((), dtype=torch.float64)
    hidden = model.hidden_states(ids[None])
    for depth, module in enumerate(model.mtp, start=1):
        count = len(ids) - depth
        if count <= 0:
            break
        merged = torch.stack(
            [
                module.projection(
                    torch.cat(
                        (
                            module.hidden_norm(hidden[0, i]),
                            module.embedding_norm(model.embedding.weight[ids[i + depth]]),
                        )
                    )
                )
                for i in range(count)
            ]
        )
        context = Context(positions=torch.arange(count)[None])
        hidden = module.final_norm(module.block(merged[None], context)) * model.config.logit_scale
        log_probs = model.logits(hidden)[0].log_softmax(-1)
        for i in range(count):
            if targets[i + depth] != IGNORE:
                total = total - log_probs[i, targets[i + depth]]
    return config.weight / config.depth * total


CASES = {
    "depth 1": (MultiTokenPrediction(), {}),
    "depth 3": (MultiTokenPrediction(depth=3, weight=0.7), {"logit_scale": 0.5}),
    "own block": (MultiTokenPrediction(depth=2, block=OTHER_BLOCK), {"logit_softcap": 5.0}),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_that_of_the_equations_document_by_document(name, masked):
    mtp, changes = CASES[name]
    model = model_of(mtp, **changes)
    batch = batch_of(9, 1, 2, 5, masked=masked)
    hidden = model.hidden_states(batch.ids, documents=batch.documents)
    found = model.future_loss(hidden, batch.ids, batch.targets, documents=batch.documents)
    expected = sum(
        by_equations(model, *(x[0, batch.documents[0] == d] for x in (batch.ids, batch.targets)))
        for d in range(4)
    )
    torch.testing.assert_close(found, expected, **TOLERANCE)
    parameters = list(model.parameters())
    one = torch.autograd.grad(found, parameters, allow_unused=True, materialize_grads=True)
    other = torch.autograd.grad(expected, parameters, allow_unused=True, materialize_grads=True)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)
    assert all(parameter.abs().sum() > 0 for parameter in one)


def test_without_documents_a_row_is_one():
    model = model_of(MultiTokenPrediction(depth=2))
    batch = batch_of(7)
    hidden = model.hidden_states(batch.ids)
    found = model.future_loss(hidden, batch.ids, batch.targets)
    torch.testing.assert_close(found, by_equations(model, batch.ids[0], batch.targets[0]))


def test_a_sequence_shorter_than_the_depth_adds_nothing():
    model = model_of(MultiTokenPrediction(depth=3))
    batch = batch_of(1)
    loss = model.future_loss(model.hidden_states(batch.ids), batch.ids, batch.targets)
    assert loss.item() == 0
    loss.backward()  # and has zeros to give, not nothing


@torch.no_grad()
def test_a_later_token_changes_no_earlier_prediction():
    """The target in column c is token c + 1; every depth predicts it from tokens up to c."""
    model = model_of(MultiTokenPrediction(depth=2))
    ids = batch_of(8).ids

    def losses(ids: torch.Tensor) -> list[float]:
        hidden, found = model.hidden_states(ids), []
        for column in range(8):
            targets = torch.full_like(ids, IGNORE)
            targets[0, column] = 3
            found.append(float(model.future_loss(hidden, ids, targets)))
        return found

    before = losses(ids)
    assert before[0] == 0  # no depth is left of it
    for place in (0, 3, 7):
        other = ids.clone()
        other[0, place] = (other[0, place] + 1) % VOCAB
        after = losses(other)
        assert [a == b for a, b in zip(before, after, strict=True)] == [
            column == 0 or column < place for column in range(8)
        ]


def test_ahead():
    values, documents = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[0, 0, 0, 1, 1]])
    assert ahead(values, 2).tolist() == [[3, 4, 5, IGNORE, IGNORE]]
    assert ahead(values, 2, documents, beyond=0).tolist() == [[3, 0, 0, 0, 0]]
    assert ahead(values, 7, documents).tolist() == [[IGNORE] * 5]


def test_the_objective_adds_it_and_says_so():
    model = model_of(MultiTokenPrediction(depth=2))
    batch = batch_of(6, 4)
    output = NextToken()(model, batch)
    hidden = model.hidden_states(batch.ids, documents=batch.documents)
    main = model.cross_entropy(hidden, batch.targets)
    future = model.future_loss(hidden, batch.ids, batch.targets, documents=batch.documents)
    torch.testing.assert_close(output.loss_sum, main + future)
    assert int(output.weight) == 10
    for name, expected in (("main_loss", main), ("future_loss", future)):
        total, weight = output.metrics[name]
        torch.testing.assert_close(total, expected.detach())
        assert not total.requires_grad
        assert int(weight) == 10
    plain = NextToken()(model_of(None), batch)
    assert "future_loss" not in plain.metrics


@torch.no_grad()
def test_inference_leaves_it_aside():
    """The same model with and without the modules, and with modules of noise."""
    with_modules = model_of(MultiTokenPrediction(depth=2))
    without = model_of(None)
    own = {n: w for n, w in with_modules.state_dict().items() if not n.startswith("mtp.")}
    without.load_state_dict(own)
    ids = batch_of(9).ids
    assert torch.equal(with_modules(ids), without(ids))
    for parameter in with_modules.mtp.parameters():
        parameter.fill_(torch.nan)
    assert torch.equal(with_modules(ids), without(ids))
    state = with_modules.init_state(1, 9)
    assert len(state) == len(without.init_state(1, 9))
    assert torch.equal(with_modules(ids, state=state), without(ids, state=without.init_state(1, 9)))


def test_it_is_saved_and_loaded_with_the_model(tmp_path):
    model = model_of(MultiTokenPrediction(depth=2, block=OTHER_BLOCK)).float()
    assert to_hf_config(model.config) is None  # no family of theirs has the modules
    save_pretrained(model, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_a_recipe_names_it():
    raw = {
        "kind": "llama", "hidden_size": 12, "num_layers": 1, "num_heads": 2, "ffn_size": 8,
        "context_length": 16, "mtp": {"depth": 2, "weight": 0.1},
    }  # fmt: skip
    config = parse(LlamaShape, raw).config(VOCAB)
    assert config.mtp == MultiTokenPrediction(depth=2, weight=0.1)
    block = OTHER_BLOCK.model_dump(mode="json")
    raw = {
        "kind": "blocks", "hidden_size": 12, "context_length": 16,
        "blocks": [{"block": block}], "mtp": {"block": block},
    }  # fmt: skip
    config = parse(BlocksShape, raw).config(VOCAB)
    assert config.mtp == MultiTokenPrediction(block=OTHER_BLOCK)
    assert parse(ModelConfig, config.model_dump(mode="json")) == config
    with pytest.raises(UserError, match=r"'mtp.dept' = 2; did you mean 'depth'"):
        parse(BlocksShape, {**raw, "mtp": {"dept": 2}})
    block["mixer"]["num_heads"] = 5
    with pytest.raises(UserError, match="num_heads = 5"):
        parse(ModelConfig, {**config.model_dump(mode="json"), "mtp": {"block": block}})


def test_fresh_modules_are_drawn_like_the_model():
    wide = LlamaShape(
        hidden_size=128, num_layers=2, num_heads=4, ffn_size=256, context_length=64,
        mtp=MultiTokenPrediction(), init=Initialization(std=0.05),
    )  # fmt: skip
    torch.manual_seed(0)
    weights = dict(CausalLM(wide.config(VOCAB)).mtp[0].named_parameters())
    assert (weights["hidden_norm.weight"] == 1).all()
    for name, std in (("projection.weight", 0.05), ("block.mixer.output.weight", 0.025)):
        # some 10^4 numbers: their deviation is off by one in 100 or so
        assert float(weights[name].detach().std()) == pytest.approx(std, rel=0.05)


def test_a_mixture_of_rotary_bases_is_the_last_layers(tmp_path):
    """Where no block is named, the modules' block is the last layer's, not the first's."""
    last = BlockSpec(mixer=GroupedQuery(num_heads=3, positions=Rotary(base=7.0)), ffn=None)
    shape = BlocksShape(
        hidden_size=12,
        context_length=16,
        blocks=({"block": OTHER_BLOCK}, {"block": last}),
        mtp=MultiTokenPrediction(),
    )
    module = CausalLM(shape.config(VOCAB)).mtp[0]
    assert module.block.ffn is None
    assert module.block.mixer.spec == last.mixer
