"""Every inner value of every kind of mixer: recorded as it is, and the model none the wiser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glassbox.adapters.attach import attach
from glassbox.adapters.lora import Lora
from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.inference.engine import Engine
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inspection import inspect, names
from glassbox.inspection.seams import Seam
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import Gelu, SwiGlu
from glassbox.layers.lightning import Lightning
from glassbox.layers.norms import LayerNorm
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from support.mixers import SIZE, all_mixers
from support.tiny_run import last_weights, tiny_trainer

MIXERS = all_mixers()
VOCAB, LENGTH = 23, 11
EXPERTS = MixtureOfExperts(num_experts=4, top_k=2, expert=SwiGlu(size=5))


def model_of(*mixers: Spec, ffn: Spec | None = None, seed: int = 1, **block: Any) -> CausalLM:
    """A random model in float64 of these mixers, one a layer."""
    repeats = tuple(
        Repeat(block=BlockSpec(mixer=mixer, ffn=ffn or SwiGlu(size=16), **block))
        for mixer in mixers
    )
    config = ModelConfig(vocab_size=VOCAB, hidden_size=SIZE, context_length=64, blocks=repeats)
    model = CausalLM(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return model


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(0))


def leftovers(model: CausalLM) -> Iterator[str]:
    """What of an inspection is left on a model."""
    for path, module in model.named_modules():
        yield from (
            f"{path}.{key}" for key, value in vars(module).items() if isinstance(value, Seam)
        )
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        yield from (f"{path} {hook}" for hook in hooks)


@pytest.mark.parametrize("name", MIXERS)
def test_logits_are_the_same_bits_whatever_is_recorded(name: str, ids: Tensor) -> None:
    model = model_of(MIXERS[name], MIXERS[name])
    expected = model(ids)
    with inspect(model):  # nothing asked for: nothing attached
        assert not list(leftovers(model))
    with inspect(model, "*") as run:
        assert torch.equal(model(ids), expected)
    assert not list(leftovers(model))
    assert [key for key, _ in run.items()] == list(names(model))
    assert torch.equal(model(ids), expected)


@pytest.mark.parametrize("name", MIXERS)
def test_residual_stream_and_branches_add_up(name: str, ids: Tensor) -> None:
    """Each value against the sum or the product that it is by definition."""
    model = model_of(MIXERS[name], MIXERS[name])
    with inspect(model, "*") as run:
        logits = model(ids)
    assert torch.equal(run["embedding"], model.embedding.weight[ids])
    before = run["embedding"]
    for number, block in enumerate(model.blocks):
        at = f"blocks.{number}."
        assert torch.equal(run[f"{at}residual_pre"], before)
        middle = before + run[f"{at}mixer.output"]
        torch.testing.assert_close(run[f"{at}residual_mid"], middle, rtol=0, atol=1e-14)
        normed = block.ffn_norm(run[f"{at}residual_mid"])
        gate, up = (normed @ block.ffn.gate_up.weight.T).chunk(2, -1)
        torch.testing.assert_close(run[f"{at}ffn.hidden"], F.silu(gate) * up)
        output = run[f"{at}ffn.hidden"] @ block.ffn.down.weight.T
        torch.testing.assert_close(run[f"{at}ffn.output"], output)
        before = run[f"{at}residual_mid"] + run[f"{at}ffn.output"]
        torch.testing.assert_close(run[f"{at}residual_post"], before, rtol=0, atol=1e-14)
        before = run[f"{at}residual_post"]
        if f"{at}mixer.heads" in names(model):
            heads = run[f"{at}mixer.heads"].flatten(2)
            output = F.linear(heads, block.mixer.output.weight, block.mixer.output.bias)
            torch.testing.assert_close(run[f"{at}mixer.output"], output)
    torch.testing.assert_close(run["final_norm"], model.final_norm(before))
    assert torch.equal(run["logits"], logits)


KNOWN = [
    name for name, spec in MIXERS.items() if hasattr(type(model_of(spec).blocks[0].mixer), "inside")
]


def captured(model: CausalLM, ids: Tensor) -> tuple[dict[str, Any], Any]:
    """What the first block's mixer hands to `attend`, and gets."""
    found: list[Any] = []

    def around(call: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        parameters = Seam.attach.__globals__["parameters"](mixer, "attend")
        arguments = {**dict(zip(parameters, args, strict=False)), **keywords}
        found.append((arguments, call))
        return call(*args, **keywords)

    mixer = model.blocks[0].mixer
    handle = Seam.attach(mixer, "attend", around)
    model(ids)
    handle.remove()
    return found[0]


def mixed(result: Any) -> Tensor:
    """The output of `attend`, without its state."""
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("name", KNOWN)
def test_attention_is_the_derivative_of_the_output_by_the_values(name: str, ids: Tensor) -> None:
    """Held to autograd through the kernel itself, which knows nothing of one-hot values."""
    model = model_of(MIXERS[name])
    with inspect(model, ["blocks.0.mixer.*"]) as run:
        model(ids)
    weights = run["blocks.0.mixer.attention"]
    arguments, attend = captured(model, ids)
    if (
        "entries" in arguments
    ):  # latent attention: through its values, of which the entries are made
        values = run["blocks.0.mixer.value"]  # (B, S, H, Dv)
        expected = torch.einsum("bhts,bshd->bthd", weights, values)
        torch.testing.assert_close(mixed(attend(**arguments)), expected)
        assert torch.all((weights.sum(-1) - 1).abs() < 1e-12)
        assert torch.all(weights.triu(1) == 0)
        return
    parameter = type(model.blocks[0].mixer).inside.reads["value"]
    value = arguments[parameter].detach().requires_grad_()
    output = mixed(attend(**{**arguments, parameter: value}))
    inside = type(model.blocks[0].mixer).inside
    output, shown = inside.show(output, {**arguments, "q": output}), inside.show(value, arguments)
    per_channel = weights.shape[1] == output.shape[3] and output.shape[2] == 1
    generator = torch.Generator().manual_seed(3)
    for token in (0, 4, LENGTH - 1):
        for head in range(1 if per_channel and weights.shape[1] > 1 else output.shape[2]):
            direction = torch.randn(output.shape[3], generator=generator, dtype=torch.float64)
            (grad,) = torch.autograd.grad(
                (output[:, token, head] * direction).sum(), value, retain_graph=True
            )
            grad = inside.show(grad, arguments)  # (B, S, heads, Dv)
            if per_channel and weights.shape[1] > 1:
                expected = weights[:, :, token].transpose(1, 2) * direction
                torch.testing.assert_close(grad[:, :, 0], expected)
                continue
            read = head // (output.shape[2] // shown.shape[2])
            expected = weights[:, head, token].unsqueeze(-1) * direction
            torch.testing.assert_close(grad[:, :LENGTH, read], expected[:, :LENGTH])


@pytest.mark.parametrize("name", KNOWN)
def test_queries_keys_and_values_are_those_that_attend_reads(name: str, ids: Tensor) -> None:
    model = model_of(MIXERS[name])
    with inspect(model, ["blocks.0.mixer.*"]) as run:
        model(ids)
    arguments, _ = captured(model, ids)
    inside = type(model.blocks[0].mixer).inside
    for key, parameter in inside.reads.items():
        value = run[f"blocks.0.mixer.{key}"]
        part = arguments[parameter]
        assert value.shape[:2] == ids.shape
        # as numbers in any order of axes; slots behind the last token are padding
        assert sorted(value.flatten().tolist()) == sorted(
            (part if part.numel() == value.numel() else part[:, :, :LENGTH]).flatten().tolist()
        )


def test_queries_keys_values_by_hand(ids: Tensor) -> None:
    """Grouped-query attention from the weights alone: projection, rotation, softmax, output."""
    model = model_of(GroupedQuery(num_heads=6, num_kv_heads=2, positions=Rotary(base=100.0)))
    with inspect(model, "*") as run:
        model(ids)
    mixer, block = model.blocks[0].mixer, model.blocks[0]
    normed = block.mixer_norm(model.embedding.weight[ids])
    q, k, v = (normed @ mixer.qkv.weight.T).unflatten(-1, (10, 2)).split((6, 2, 2), 2)
    angle = torch.arange(LENGTH, dtype=torch.float64)[:, None]  # one pair of channels: frequency 1
    cos, sin = angle.cos(), angle.sin()

    def turned(x: Tensor) -> Tensor:
        first, second = x.unbind(-1)
        return torch.stack((first * cos - second * sin, second * cos + first * sin), -1)

    q, k = turned(q), turned(k)
    torch.testing.assert_close(run["blocks.0.mixer.query"], q, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(run["blocks.0.mixer.key"], k, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(run["blocks.0.mixer.value"], v)
    for head in range(6):
        scores = q[:, :, head] @ k[:, :, head // 3].mT / 2**0.5
        scores = scores.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf)
        weights = scores.softmax(-1)
        torch.testing.assert_close(
            run["blocks.0.mixer.attention"][:, head], weights, rtol=1e-5, atol=1e-6
        )
        heads = run["blocks.0.mixer.attention"][:, head] @ v[:, :, head // 3]
        torch.testing.assert_close(run["blocks.0.mixer.heads"][:, :, head], heads)


RECURRENT = [n for n in KNOWN if "state" in type(model_of(MIXERS[n]).blocks[0].mixer).inside.names]


@pytest.mark.parametrize("name", RECURRENT)
def test_the_state_is_the_one_that_decoding_token_by_token_leaves(name: str, ids: Tensor) -> None:
    model = model_of(MIXERS[name])
    with inspect(model, "blocks.0.mixer.state") as run:
        model(ids)
        whole = run["blocks.0.mixer.state"]
        state = model.init_state(2, LENGTH)
        for t in range(LENGTH):
            model(ids[:, t : t + 1], positions=torch.tensor([[t]]), state=state)
    assert len(run.passes) == 1 + LENGTH
    left = run["blocks.0.mixer.state"]
    held = state[0].mixer.held()
    if "numerator" in held:  # divided by e^largest: compare what is meant
        total, weight, largest = whole.unbind(1)
        torch.testing.assert_close(total / weight, held["numerator"] / held["denominator"])
        torch.testing.assert_close(
            largest + weight.log(), held["largest"] + held["denominator"].log()
        )
        return
    torch.testing.assert_close(left, held["memory"])
    torch.testing.assert_close(whole, held["memory"])


def test_the_router_and_its_choice(ids: Tensor) -> None:
    model = model_of(GroupedQuery(num_heads=3), ffn=EXPERTS)
    block = model.blocks[0]
    with inspect(model, ["*.ffn.*", "*mid"]) as run:
        expected = model(ids)
    logits = block.ffn_norm(run["blocks.0.residual_mid"]) @ block.ffn.router.weight.T
    torch.testing.assert_close(run["blocks.0.ffn.router"], logits)
    top = logits.softmax(-1).topk(2, -1)
    assert torch.equal(run["blocks.0.ffn.experts"], top.indices)
    gates = top.values / top.values.sum(-1, keepdim=True)
    torch.testing.assert_close(run["blocks.0.ffn.gates"], gates)
    # sent elsewhere, tokens come out of another expert
    swapped = {"blocks.0.ffn.experts": lambda chosen: (chosen + 1) % 4}
    with inspect(model, edit=swapped):
        assert not torch.allclose(model(ids), expected)
    # a router that always says 2 and 3, as much each
    with inspect(
        model, ["*.experts", "*.gates"], patch={"*.router": torch.tensor([0.0, 0.0, 5.0, 5.0])}
    ) as run:
        model(ids)
    assert set(run["blocks.0.ffn.experts"].flatten().tolist()) == {2, 3}
    assert torch.all(run["blocks.0.ffn.gates"] == 0.5)


@pytest.mark.parametrize("residual", ["post", "sandwich", "parallel", "normed"])
def test_other_layouts_record_the_stream_between_their_branches(residual: str, ids: Tensor) -> None:
    scale = {"skip_scale": 1.3} if residual == "normed" else {}
    spec = GroupedQuery(num_heads=3, positions=Rotary())
    model = model_of(spec, ffn=Gelu(size=8), residual=residual, residual_scale=0.7, **scale)
    block = model.blocks[0]
    with inspect(model, "*") as run:
        model(ids)
    at = "blocks.0."
    branch = run[f"{at}mixer.output"]
    if block.mixer_out_norm is not None:
        branch = block.mixer_out_norm(branch)
    skip = run[f"{at}residual_pre"]
    if residual == "normed":
        skip = 1.3 * block.mixer_norm(skip)
    torch.testing.assert_close(run[f"{at}residual_mid"], skip + 0.7 * branch)


@pytest.mark.parametrize("name", KNOWN)
def test_an_edit_of_attention_reaches_the_output(name: str, ids: Tensor) -> None:
    """Changing nothing changes at most the last bits; weights of zero give what values of zero give."""
    model = model_of(MIXERS[name])
    expected = model(ids)
    with inspect(model, edit={"*.attention": torch.clone, "*.value": torch.clone}):
        torch.testing.assert_close(model(ids), expected, rtol=0, atol=1e-9)
    with inspect(model, edit={"*.attention": torch.zeros_like}):
        no_weights = model(ids)
    with inspect(model, edit={"*.value": torch.zeros_like}):
        no_values = model(ids)
    if name.startswith(("rwkv7", "mamba")):  # their values also go past attention
        assert not torch.allclose(no_weights, expected)
    else:
        torch.testing.assert_close(no_weights, no_values, rtol=0, atol=1e-9)
    assert not torch.allclose(no_values, expected)


def test_patch_and_steer(ids: Tensor) -> None:
    model = model_of(GroupedQuery(num_heads=3), Lightning(num_heads=3))
    other = ids.flip(1)
    with inspect(model, "blocks.0.residual_post") as run:
        theirs = model(other)
    with inspect(model, patch={"blocks.0.residual_post": run["blocks.0.residual_post"]}):
        assert torch.equal(model(ids), theirs)
    vector = torch.randn(SIZE, dtype=torch.float64)
    with inspect(model, "*", steer={"blocks.1.residual_pre": vector}) as run:
        model(ids)
    torch.testing.assert_close(run["blocks.1.residual_pre"], run["blocks.0.residual_post"] + vector)
    with inspect(model, "*") as run:
        run.patch("blocks.0.mixer.heads", 0.0, at=(slice(None), slice(None), 1))
        run.steer("blocks.1.residual_mid", vector, scale=2.0, at=(slice(None), 3))
        model(ids)
    assert torch.all(run["blocks.0.mixer.heads"][:, :, 1] == 0)
    assert torch.any(run["blocks.0.mixer.heads"][:, :, 0] != 0)


@pytest.mark.parametrize("name", MIXERS)
def test_gradients_of_values_are_those_of_finite_differences(name: str, ids: Tensor) -> None:
    model = model_of(MIXERS[name])

    def loss(logits: Tensor) -> Tensor:
        return logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).mean()

    with inspect(model, "*", gradients=True) as run:
        logits = model(ids)
        loss(logits).backward()
    assert torch.equal(logits, model(ids))
    generator = torch.Generator().manual_seed(4)
    for key in (
        "embedding",
        "blocks.0.mixer.output",
        "blocks.0.residual_mid",
        "blocks.0.mixer.attention",
        "blocks.0.ffn.hidden",
    ):
        if key not in run.names:
            continue
        value = run[key].detach()
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        ends = []
        for step in (-1e-6, 1e-6):
            with inspect(model, steer={key: step * direction}), torch.no_grad():
                ends.append(loss(model(ids)))
        slope = (ends[1] - ends[0]) / 2e-6
        torch.testing.assert_close((run.grad(key) * direction).sum(), slope, rtol=1e-4, atol=1e-7)


def test_batches_and_packed_documents(ids: Tensor) -> None:
    model = model_of(GroupedQuery(num_heads=3, positions=Rotary()), Lightning(num_heads=3))
    documents = torch.tensor([[0] * 4 + [1] * 7, [0] * 11])
    with inspect(model, "*") as run:
        model(ids, documents=documents)
    packed = dict(run.items())
    assert torch.equal(run.passes[0].documents, documents)
    with inspect(model, "*") as run:
        model(ids[:1, 4:])
    for key, value in run.items():
        if key.endswith("attention"):
            torch.testing.assert_close(packed[key][:1, :, 4:, 4:], value)
            assert torch.all(packed[key][0, :, 4:, :4] == 0)
        elif not key.endswith("state"):
            torch.testing.assert_close(packed[key][:1, 4:], value)


ENGINES = [n for n in KNOWN if not n.startswith("latent, sparse")]


@pytest.mark.parametrize("name", ENGINES)
def test_the_engine_records_what_the_whole_pass_has(name: str, ids: Tensor) -> None:
    """A prompt and seven steps, with caches, pages, rings and states, against one pass over all."""
    model = model_of(MIXERS[name], MIXERS[name])
    engine = Engine(model, block_size=4)
    prompt = ids[0].tolist()
    params = SamplingParams(max_tokens=8, temperature=0)
    expected = engine.generate([prompt], params)[0].token_ids
    with inspect(engine, "*") as run:
        found = engine.generate([prompt], params)[0].token_ids
    assert found == expected
    steps = {key: run.all(key) for key in run.names}
    assert len(run.passes) == 8
    with inspect(model, "*") as run:
        model(torch.tensor([prompt + found[:-1]]))
    for key in ("blocks.0.mixer.heads", "blocks.1.residual_mid", "blocks.1.mixer.value"):
        if key in steps and "latent" not in name:
            torch.testing.assert_close(torch.cat(steps[key], 1), run[key], rtol=1e-7, atol=1e-9)
    kind = type(model.blocks[1].mixer).inside
    if kind.has_state:
        return
    whole, window = run["blocks.1.mixer.attention"], MIXERS[name].model_dump().get("window")
    for step, weights in enumerate(steps["blocks.1.mixer.attention"][1:]):
        row = whole[0, :, LENGTH + step]
        if window is None or window >= 64:
            torch.testing.assert_close(
                weights[0, :, 0, : row.shape[1]][:, : LENGTH + step + 1],
                row[:, : LENGTH + step + 1],
            )
        else:  # a ring, in its own order
            kept = row[:, row.abs().sum(0) > 0]
            torch.testing.assert_close(
                weights[0, :, 0].sort(-1).values[:, -kept.shape[1] :], kept.sort(-1).values
            )


def test_an_edit_ends_the_engines_cache_of_prompts(ids: Tensor) -> None:
    model = model_of(GroupedQuery(num_heads=3, positions=Rotary()))
    engine = Engine(model, block_size=2, keep_prefixes=True)
    prompt, params = ids[0].tolist(), SamplingParams(max_tokens=6, temperature=0)
    plain = engine.generate([prompt], params)[0].token_ids
    zero = {"blocks.0.mixer.value": torch.zeros_like}
    with inspect(model, edit=zero):
        fresh = Engine(model).generate([prompt], params)[0].token_ids
        assert engine.generate([prompt], params)[0].token_ids == fresh
    assert engine.generate([prompt], params)[0].token_ids == plain


def test_under_adapters(ids: Tensor) -> None:
    model = model_of(GroupedQuery(num_heads=3, positions=Rotary()))
    attach(model, Lora(rank=2, targets=("qkv", "output", "down")))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "updates" in key:
                parameter.normal_(std=0.3)
    expected = model(ids)
    with inspect(model, "*", gradients=True) as run:
        logits = model(ids)
        logits.square().sum().backward()
    assert torch.equal(logits, expected)
    output = model.blocks[0].mixer.output(run["blocks.0.mixer.heads"].flatten(2))
    torch.testing.assert_close(run["blocks.0.mixer.output"], output)
    assert torch.any(run.grad("embedding") != 0)  # though nothing before it is trained


def test_training_takes_the_same_steps(tmp_path: Any) -> None:
    tiny_trainer(tmp_path / "plain").run()
    trainer = tiny_trainer(tmp_path / "seen")
    with inspect(trainer.model, "*") as run:
        trainer.run()
    assert run.passes
    assert run["blocks.0.residual_mid"].shape[:2] == run.passes[-1].ids.shape
    plain, seen = last_weights(tmp_path / "plain"), last_weights(tmp_path / "seen")
    assert plain.keys() == seen.keys()
    assert all(torch.equal(plain[key], seen[key]) for key in plain)


def test_several_at_once_and_closed_in_any_order(ids: Tensor) -> None:
    model = model_of(GroupedQuery(num_heads=3))
    first, second = (
        inspect(model, "*"),
        inspect(model, "*mid", steer={"embedding": torch.ones(SIZE)}),
    )
    first.__enter__()
    second.__enter__()
    model(ids)
    first.__exit__(None, None, None)
    model(ids)
    second.__exit__(None, None, None)
    assert len(first.passes) == 1
    assert len(second.passes) == 2
    assert torch.equal(first["blocks.0.residual_mid"], second.all("blocks.0.residual_mid")[0])
    assert not list(leftovers(model))


def test_what_a_user_gets_wrong(ids: Tensor) -> None:
    model = model_of(GroupedQuery(num_heads=3), ffn=Gelu(size=8), norm=LayerNorm())
    with pytest.raises(
        UserError, match=r"record: 'blocks.0.mixer.atention' .* blocks.0.mixer.attention"
    ):
        inspect(model, "blocks.0.mixer.atention")
    with pytest.raises(UserError, match=r"edit: 'blocks\.7.residual_mid'"):
        inspect(model, edit={"blocks.7.residual_mid": torch.clone})
    with inspect(model, "embedding") as run:
        with pytest.raises(UserError, match="no value yet"):
            run["embedding"]
        with pytest.raises(UserError, match="not recorded"):
            run["logits"]
        model(ids)
        with pytest.raises(UserError, match="gradients=True"):
            run.grad("embedding")
        with pytest.raises(UserError, match="open already"):
            run.__enter__()
    with (
        inspect(model, edit={"embedding": lambda value: value[:1]}),
        pytest.raises(UserError, match=r"must keep the shape"),
    ):
        model(ids)
    with (
        inspect(model, "*", gradients=True),
        torch.no_grad(),
        pytest.raises(UserError, match="no_grad"),
    ):
        model(ids)
    assert not list(leftovers(model))
