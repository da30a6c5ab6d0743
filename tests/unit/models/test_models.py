"""The model: configs, blocks, initialization, cached generation, limits."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.initialization import Initializes
from glassbox.layers.linear import Linear
from glassbox.layers.norms import LayerNorm
from glassbox.models.causal_lm import CausalLM, positions_in_documents
from glassbox.models.config import BlockSpec, Initialization, ModelConfig, Repeat
from glassbox.models.shapes import GPT2Shape, LlamaShape
from glassbox.ops.cross_entropy import linear_cross_entropy

LLAMA = LlamaShape(
    hidden_size=24, num_layers=2, num_heads=4, num_kv_heads=2, ffn_size=40, context_length=32
).config(50)
GPT2 = GPT2Shape(hidden_size=24, num_layers=2, num_heads=3, context_length=32).config(50)
# two kinds of block in one model, one of them without a feed-forward
HYBRID = ModelConfig(
    vocab_size=50,
    hidden_size=24,
    context_length=32,
    blocks=(
        Repeat(
            block=BlockSpec(
                mixer=GroupedQuery(num_heads=2, positions=Rotary()), ffn=None, norm=LayerNorm()
            )
        ),
        Repeat(
            block=BlockSpec(
                mixer=GroupedQuery(num_heads=4, num_kv_heads=1, positions=Rotary(base=50.0)),
                ffn=SwiGlu(size=16),
            ),
            times=2,
        ),
    ),
    tie_embeddings=False,
)
CONFIGS = {"llama": LLAMA, "gpt2": GPT2, "hybrid": HYBRID}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def model(request):
    torch.manual_seed(0)
    config = request.param.model_copy(update={"init": Initialization(std=0.3)})
    return CausalLM(config).double()


def ids_of(batch: int, length: int) -> torch.Tensor:
    return torch.randint(50, (batch, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def test_greedy_decoding_with_cache_equals_without(model):
    ids = ids_of(2, 6)
    uncached = ids
    for _ in range(8):
        uncached = torch.cat((uncached, model(uncached)[:, -1:].argmax(-1)), 1)
    state = model.init_state(2, 14)
    cached, new = ids, ids
    for _ in range(8):
        start = cached.shape[1] - new.shape[1]
        positions = torch.arange(start, cached.shape[1])[None]
        new = model(new, positions=positions, state=state)[:, -1:].argmax(-1)
        cached = torch.cat((cached, new), 1)
    assert torch.equal(cached, uncached)


def test_packed_documents_give_the_loss_and_gradients_of_separate_ones(model):
    sizes = (5, 1, 20)
    ids = ids_of(1, sum(sizes))
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))[None]
    weights = torch.randn(26, 50, generator=torch.Generator().manual_seed(0)).double()
    packed = model(ids, documents=documents)[0]
    separate = torch.cat([model(part)[0] for part in ids.split(sizes, 1)])
    torch.testing.assert_close(packed, separate, rtol=1e-9, atol=1e-10)
    parameters = list(model.parameters())
    one = torch.autograd.grad((packed * weights).sum(), parameters)
    other = torch.autograd.grad((separate * weights).sum(), parameters)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_a_future_token_changes_nothing_earlier(model):
    ids = ids_of(1, 12)
    before = model(ids)
    for place in (1, 6, 11):
        other = ids.clone()
        other[0, place] = (ids[0, place] + 1) % 50
        after = model(other)
        assert torch.equal(after[:, :place], before[:, :place])
        assert not torch.allclose(after[:, place], before[:, place])


def test_positions_in_documents():
    documents = torch.tensor([[0, 0, 1, 2, 2, 2], [3, 3, 3, 3, 3, 0]])
    assert positions_in_documents(documents).tolist() == [[0, 1, 0, 0, 1, 2], [0, 1, 2, 3, 4, 0]]


def test_dropout_acts_in_training_alone():
    model = CausalLM(LLAMA.model_copy(update={"dropout": 0.5}))
    ids = ids_of(1, 5)
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_learned_positions_end_with_a_clear_message():
    model = CausalLM(GPT2)
    with pytest.raises(UserError, match="33 tokens, but context_length = 32"):
        model(ids_of(1, 33))
    with pytest.raises(UserError, match="33 tokens"):
        model(ids_of(1, 1), positions=torch.tensor([[32]]), state=model.init_state(1, 40))
    documents = torch.arange(2).repeat_interleave(20)[None]
    assert model(ids_of(1, 40), documents=documents).shape == (1, 40, 50)  # each ends before 32
    assert CausalLM(LLAMA)(ids_of(1, 33)).shape == (1, 33, 50)  # rotary positions do not end


def test_sinusoidal_positions_are_the_papers_and_no_parameters():
    config = LLAMA.model_copy(update={"sinusoidal_positions": True})
    model, bare = CausalLM(config).double(), CausalLM(LLAMA).double()
    assert model.num_parameters == bare.num_parameters
    bare.load_state_dict(model.state_dict())
    ids, size = ids_of(1, 6), LLAMA.hidden_size
    waves = torch.tensor([
        [(math.cos if d % 2 else math.sin)(p / 10000 ** ((d - d % 2) / size)) for d in range(size)]
        for p in range(6)
    ])  # fmt: skip
    embed = bare.embedding.forward
    bare.embedding.forward = lambda ids: embed(ids) + waves.float()
    # float32 waves on both sides; their angles, below 6, are rounded to 2^-22
    torch.testing.assert_close(model(ids), bare(ids), rtol=1e-5, atol=1e-6)
    documents = torch.tensor([[0, 0, 1, 1, 1, 1]])
    packed = model(ids, documents=documents)
    torch.testing.assert_close(packed[:, 2:], model(ids[:, 2:]))
    with pytest.raises(UserError, match="learned_positions and sinusoidal_positions"):
        parse(ModelConfig, {**config.model_dump(mode="json"), "learned_positions": True})


def test_tied_and_untied_heads():
    tied, untied = CausalLM(LLAMA), CausalLM(HYBRID)
    assert tied.output_weight is tied.embedding.weight
    assert "head.weight" not in tied.state_dict()
    assert untied.output_weight is not untied.embedding.weight
    assert untied.num_parameters == sum(p.numel() for p in untied.parameters())
    assert tied.device == torch.device("cpu")
    assert sum(state.cache_bytes for state in tied.init_state(3, 10)) == 2 * 2 * 3 * 2 * 10 * 6 * 4


def test_losses_of_capped_and_biased_logits_are_those_of_the_logits():
    config = {"logit_softcap": 2.0, "head_bias": True, "logit_scale": 3.0, "tie_embeddings": False}
    model = CausalLM(LLAMA.model_copy(update={**config, "init": Initialization(std=0.5)})).double()
    torch.nn.init.normal_(model.head.bias)
    ids = ids_of(2, 9)
    hidden = model.hidden_states(ids)
    logits = model.logits(hidden)
    assert 1.5 < float(logits.detach().abs().max()) < 2.0
    log_probs = logits.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)
    torch.testing.assert_close(model.token_log_probs(hidden, ids), log_probs)
    loss = model.cross_entropy(hidden, ids)
    torch.testing.assert_close(loss, -log_probs.sum())
    z = model.cross_entropy(hidden, ids, z_loss=0.1) - loss
    torch.testing.assert_close(z, 0.1 * logits.logsumexp(-1).pow(2).sum())
    fused = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    plain = torch.autograd.grad(-log_probs.sum(), list(model.parameters()))
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_a_config_is_data():
    assert HYBRID.num_layers == 3
    assert [layer.ffn is None for layer in HYBRID.layers()] == [True, False, False]
    assert parse(ModelConfig, HYBRID.model_dump(mode="json")) == HYBRID
    raw = HYBRID.model_dump(mode="json")
    raw["blocks"][0]["block"]["mixer"]["num_head"] = 2
    with pytest.raises(UserError, match=r"num_head'.*did you mean 'num_heads'"):
        parse(ModelConfig, raw)
    with pytest.raises(UserError, match="give head_dim"):
        parse(ModelConfig, {**HYBRID.model_dump(mode="json"), "hidden_size": 25})


def loss_and_gradients(model, hidden_states, ids, documents):
    model.zero_grad()
    loss = linear_cross_entropy(hidden_states(ids, documents=documents), model.output_weight, ids)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten().float() for p in model.parameters()])


def test_autocast_trains_in_bfloat16_and_stays_near_float32():
    torch.manual_seed(0)
    model = CausalLM(LLAMA.model_copy(update={"init": Initialization(std=0.2)}))
    ids, documents = ids_of(2, 140), (torch.arange(140) // 50).expand(2, 140)
    exact_loss, exact = loss_and_gradients(model, model.hidden_states, ids, documents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, rough = loss_and_gradients(model, model.hidden_states, ids, documents)
    assert loss.dtype == torch.float32
    assert not torch.equal(rough, exact)
    # bfloat16 keeps 8 bits: about 2^-8 a product, some tens of products deep
    assert abs(loss / exact_loss - 1) < 0.01
    assert float((rough - exact).norm() / exact.norm()) < 0.05


def test_a_compiled_model_is_one_graph_with_the_same_gradients():
    """The hand-written derivatives step aside, so that the compiler can fuse."""
    torch.manual_seed(0)
    shape = LlamaShape(hidden_size=16, num_layers=1, num_heads=2, ffn_size=24, context_length=140)
    model = CausalLM(shape.config(50))
    ids, documents = ids_of(1, 140), (torch.arange(140) // 50)[None]
    loss, gradients = loss_and_gradients(model, model.hidden_states, ids, documents)
    compiled = torch.compile(model.hidden_states, backend="aot_eager", fullgraph=True)
    compiled_loss, compiled_gradients = loss_and_gradients(model, compiled, ids, documents)
    torch.testing.assert_close(compiled_loss, loss)
    # float32: the plain versions sum in another order
    torch.testing.assert_close(compiled_gradients, gradients, rtol=1e-4, atol=1e-5)


# --- initialization --------------------------------------------------------------------------


def deviation(tensor: torch.Tensor) -> float:
    return float(tensor.detach().double().pow(2).mean().sqrt())


@pytest.mark.parametrize("scale_residual", [True, False])
@pytest.mark.parametrize("gpt2", [True, False])
@pytest.mark.parametrize("embedding_std", [None, 1.0])
def test_fresh_weights_follow_the_table(gpt2, scale_residual, embedding_std):
    """Every row of docs/design/initialization.md, by name."""
    torch.manual_seed(0)
    init = Initialization(std=0.05, scale_residual=scale_residual, embedding_std=embedding_std)
    shape = (
        GPT2Shape(hidden_size=192, num_layers=3, num_heads=4, context_length=200, init=init)
        if gpt2
        else LlamaShape(
            hidden_size=192, num_layers=3, num_heads=4, ffn_size=512, context_length=200, init=init,
            tie_embeddings=False,
        )
    )  # fmt: skip
    model = CausalLM(shape.config(300))
    seen = set()
    for name, parameter in model.named_parameters():
        kind = re.sub(r"\d+", "N", name)
        seen.add(kind)
        if kind.endswith("norm.weight"):
            assert (parameter == 1).all(), name
        elif kind.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            narrow = kind in {"blocks.N.mixer.output.weight", "blocks.N.ffn.down.weight"}
            std = 0.05 / math.sqrt(2 * 3) if narrow and scale_residual else 0.05
            if kind.endswith("embedding.weight") and embedding_std is not None:
                std = embedding_std
            # n draws: the deviation's own relative error is 1 / sqrt(2 n); five of them
            error = 5 / math.sqrt(2 * parameter.numel())
            assert abs(deviation(parameter) / std - 1) < error, name
            assert abs(parameter.mean().item()) < 5 * std / math.sqrt(parameter.numel()), name
    table = (Path(__file__).parents[3] / "docs" / "design" / "initialization.md").read_text(
        encoding="utf-8"
    )
    for kind in seen:
        assert f"`{kind}`" in table, f"docs/design/initialization.md lacks {kind}"


def test_every_parameter_belongs_to_a_layer_that_draws_it():
    for config in CONFIGS.values():
        for name, module in CausalLM(config).named_modules():
            own = list(module.parameters(recurse=False))
            assert not own or isinstance(module, Initializes), name


def test_every_branch_ends_in_a_narrow_matrix():
    model = CausalLM(HYBRID)
    narrow = {
        name for name, m in model.named_modules() if isinstance(m, Linear) and m.into_residual
    }
    assert narrow == {
        "blocks.0.mixer.output",
        "blocks.1.mixer.output",
        "blocks.1.ffn.down",
        "blocks.2.mixer.output",
        "blocks.2.ffn.down",
    }
    # five branches are added to the stream, not 2 * layers
    fresh = ModelConfig.model_validate({**HYBRID.model_dump(), "hidden_size": 240})
    weight = CausalLM(fresh).blocks[1].mixer.output.weight
    assert abs(deviation(weight) / (0.02 / math.sqrt(5)) - 1) < 0.02


def test_a_generator_decides_the_weights_alone():
    model = CausalLM(LLAMA)
    model.initialize(torch.Generator().manual_seed(1))
    first = [parameter.clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    model.initialize(torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, model.parameters(), strict=True))
    model.initialize(torch.Generator().manual_seed(2))
    assert not torch.equal(first[0], model.embedding.weight)


def test_the_first_loss_is_that_of_a_uniform_guess():
    torch.manual_seed(0)
    model = CausalLM(LLAMA)
    ids = ids_of(4, 30)
    logits = model(ids[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss.item() - math.log(50)) < 0.1
