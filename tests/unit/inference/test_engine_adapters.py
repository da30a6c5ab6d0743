"""Adapters chosen a request: a mixed batch answers as each adapter alone does on a model with it attached.

float64 throughout, so that the rounding of batch shapes never tips a choice.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
import torch

from glassbox.adapters.attach import attach, detach
from glassbox.adapters.base import adapters_of
from glassbox.adapters.specs import AnyAdapter, BottleneckAdapter, Lora, PrefixTuning
from glassbox.core.errors import UserError
from glassbox.formats.peft import load_adapter, save_adapter
from glassbox.inference.engine import Engine, WeightsVersion
from glassbox.inference.plain import generate_plain
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.scoring import embed, score_prompts
from glassbox.inference.search.beam import BeamParams, beam_search
from glassbox.inference.search.contrastive import ContrastiveParams, contrastive_search
from glassbox.inference.search.run import search
from glassbox.inference.speculation.proposers import NgramProposer
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.mamba import Mamba
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.optim.adamw import AdamW
from glassbox.optim.adamw8bit import AdamW8bit
from glassbox.optim.groups import ParameterGroup
from glassbox.optim.muon import Muon
from support.mixers import all_mixers

VOCAB, CONTEXT = 23, 48
SPECS: dict[str, AnyAdapter] = {
    "lora": Lora(rank=3),
    "some": Lora(rank=2, targets=("q_proj", "v_proj"), rank_stabilized=True),
    "dora": Lora(rank=2, dora=True, targets=("*.1.*",)),
    "neck": BottleneckAdapter(size=5),
}
ENGINES = {
    "room for all": {"block_size": 4},
    "few rows, small steps": {"max_batch": 3, "token_budget": 7, "block_size": 4},
    "small cache": {"cache_tokens": CONTEXT, "block_size": 4, "token_budget": 9, "max_batch": 6},
    "whole prompts": {"chunked_prefill": False, "prefix_sharing": False, "token_budget": 16},
    "guesses": {"proposer": NgramProposer(shortest=1), "block_size": 4},
}


def base_model(*mixers: object, ffn: object = None) -> CausalLM:
    grouped = GroupedQuery(num_heads=4, num_kv_heads=2, positions=Rotary())
    blocks = [
        Repeat(block=BlockSpec(mixer=mixer, ffn=ffn or SwiGlu(size=20)))
        for mixer in mixers or (grouped, grouped)
    ]
    config = ModelConfig(
        vocab_size=VOCAB, hidden_size=16, context_length=CONTEXT, blocks=tuple(blocks)
    )
    model = CausalLM(config).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return model


def stored(model: CausalLM, spec: AnyAdapter, folder: Path, *, seed: int) -> Path:
    """The folder of an adapter that changes much; the model is left as it was."""
    attach(model, spec, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in adapters_of(model).state().values():
            tensor.normal_(std=0.5, generator=generator)
    save_adapter(model, folder)
    detach(model)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, model = tmp_path_factory.mktemp("adapters"), base_model()
    return {
        name: stored(model, spec, root / name, seed=seed)
        for seed, (name, spec) in enumerate(SPECS.items())
    }


@pytest.fixture(scope="module")
def singles(folders: dict[str, Path]) -> dict[str | None, CausalLM]:
    """A model for each adapter, with it alone; under None the base."""
    found: dict[str | None, CausalLM] = {None: base_model()}
    for name, folder in folders.items():
        found[name] = base_model()
        load_adapter(found[name], folder)
    return found


Case = tuple[list[int], SamplingParams, str | None]


def requests(count: int, seed: int) -> list[Case]:
    """Prompts that begin alike, greedy and seeded, with every adapter and with none."""
    draw = random.Random(seed)
    opening = [draw.randrange(VOCAB) for _ in range(12)]
    found: list[Case] = []
    for number in range(count):
        own = [draw.randrange(VOCAB) for _ in range(draw.randint(1, 8))]
        params = SamplingParams(
            max_tokens=draw.randint(2, 9),
            temperature=draw.choice([0.0, 1.0]),
            top_p=draw.choice([0.8, 1.0]),
            seed=number,
            n=draw.choice([1, 1, 3]),
        )
        prompt = opening + own if draw.random() < 0.7 else own
        found.append((prompt, params, draw.choice([None, *SPECS])))
    return found


def arriving(engine: Engine, cases: list[Case], seed: int) -> dict[tuple[int, int], list[int]]:
    draw = random.Random(seed)
    pending, numbers = list(enumerate(cases)), {}
    answers: dict[tuple[int, int], list[int]] = {}
    while pending or engine.has_work:
        while pending and (draw.random() < 0.6 or not engine.has_work):
            index, (prompt, params, adapter) = pending.pop(0)
            numbers[engine.add(prompt, params, adapter=adapter)] = index
        for event in engine.step():
            assert event.error is None
            key = (numbers[event.request_id], event.sample_index)
            answers.setdefault(key, []).append(event.token_id)
    return answers


@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)
def test_a_mixed_batch_is_each_adapter_alone(options, folders, singles):
    cases = requests(24, seed=3)
    expected = {
        (index, sample): generate_plain(singles[adapter], prompt, params, sample=sample)
        for index, (prompt, params, adapter) in enumerate(cases)
        for sample in range(params.n)
    }
    model = base_model()
    engine = Engine(model, adapters=folders, **options)
    assert engine.adapters == list(SPECS)
    assert arriving(engine, cases, 1) == expected
    stats = engine.stats()
    if options.get("cache_tokens"):
        assert stats.preemptions > 0
    if options.get("prefix_sharing", True):
        assert stats.prefix_hits > 0
    assert adapters_of(model).selection.groups is None
    assert adapters_of(model).selection.active is None


def test_the_adapters_make_a_difference(singles):
    prompt, params = [1, 2, 3, 4], SamplingParams(max_tokens=12, temperature=0)
    answers = {tuple(generate_plain(model, prompt, params)) for model in singles.values()}
    assert len(answers) == len(singles)


def test_rows_without_an_adapter_are_the_base_to_the_last_bit(folders):
    model = base_model()
    params = SamplingParams(max_tokens=9, temperature=0, logprobs=True)
    prompts = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]
    expected = [Engine(model).generate(prompts, params)[row].log_probs for row in range(2)]
    engine = Engine(model, adapters=folders)
    mixed = engine.generate(prompts * 2, params, adapter=[None, None, "lora", "neck"])
    alone = engine.generate(prompts, params)
    assert [one.log_probs for one in alone] == expected
    # products of four rows are summed in another order than those of two
    for one, before in zip(mixed[:2], expected, strict=True):
        assert one.log_probs == pytest.approx(before, abs=1e-12)


def test_every_door_takes_an_adapter(folders, singles):
    engine = Engine(base_model(), adapters=folders)
    prompt, params = [1, 2, 3, 4], SamplingParams(max_tokens=9, temperature=0)
    for name in ("lora", None):
        single = singles[name]
        expected = generate_plain(single, prompt, params)
        assert engine.generate([prompt], params, adapter=name)[0].token_ids == expected
        streamed = engine.stream(prompt, params, adapter=name)
        assert [event.token_id for event in streamed] == expected
        beams = BeamParams(num_beams=3)
        (best,) = beam_search(single, prompt, beams, params)
        assert search(engine, prompt, beams, params, adapter=name)[0].token_ids == best.token_ids
        how = ContrastiveParams(penalty_alpha=0.6)
        expected = contrastive_search(single, prompt, how, params)
        assert search(engine, prompt, how, params, adapter=name)[0].token_ids == expected
        (scores,) = filter(None, score_prompts(engine.model, [prompt], top=2, adapter=name))
        (wanted,) = filter(None, score_prompts(single, [prompt], top=2))
        assert scores.log_probs[1:] == pytest.approx(wanted.log_probs[1:], abs=1e-12)
        ((_, vector),) = embed(engine.model, [prompt], adapter=name)
        ((_, want),) = embed(single, [prompt])
        torch.testing.assert_close(vector, want)


def test_prefixes_are_kept_apart(folders, singles):
    """A prefix that the base has computed is not what an adapter would have."""
    engine = Engine(base_model(), adapters=folders, keep_prefixes=True, block_size=4)
    prompt, params = list(range(20)), SamplingParams(max_tokens=6, temperature=0)
    for hits, name in ((0, None), (0, "lora"), (0, "some"), (16, "lora"), (32, None)):
        answer = engine.generate([prompt], params, adapter=name)[0].token_ids
        assert answer == generate_plain(singles[name], prompt, params)
        assert engine.stats().prefix_hits == hits


@pytest.mark.parametrize("how", ["step", "load", "active", "past the count"])
def test_kept_prefixes_are_forgotten_when_the_weights_change(how, folders):
    model = base_model()
    if how == "active":
        load_adapter(model, folders["lora"], "lora").use(None)
    engine = Engine(model, keep_prefixes=True, block_size=4)
    prompt, params = list(range(20)), SamplingParams(max_tokens=6, temperature=0)
    before = engine.generate([prompt], params)[0].token_ids
    engine.generate([prompt], params)
    assert engine.stats().prefix_hits == 16
    if how == "step":
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
        model(torch.tensor([prompt])).square().sum().backward()
        optimizer.step()
    elif how == "load":
        other = {name: torch.randn_like(x) for name, x in model.state_dict().items()}
        model.load_state_dict(other)
    elif how == "active":
        adapters_of(model).use("lora")
    else:
        for parameter in model.parameters():
            parameter.data.mul_(-0.7)
        engine.forget_prefixes()
    after = engine.generate([prompt], params)[0].token_ids
    assert after == generate_plain(model, prompt, params) != before
    assert engine.stats().prefix_hits == 16


@pytest.mark.parametrize("kind", [AdamW, AdamW8bit, Muon])
def test_a_step_of_every_optimizer_is_seen(kind):
    model, mark = base_model(), WeightsVersion()
    matrices = {name: p for name, p in model.named_parameters() if "qkv" in name}
    optimizer = kind([ParameterGroup(parameters=matrices, weight_decay=0.0)])
    assert mark.changed(model)
    model(torch.tensor([[1, 2, 3]])).square().sum().backward()
    assert not mark.changed(model)
    optimizer.step(0.1)
    assert mark.changed(model)
    assert not mark.changed(model)


def test_prefixes_are_not_forgotten_under_requests():
    engine = Engine(base_model(), keep_prefixes=True)
    engine.add([1, 2, 3])
    with pytest.raises(UserError, match="cancel"):
        engine.forget_prefixes()


def test_an_adapter_of_the_model_itself_stays_the_answer_of_requests_without(folders, singles):
    model = copy.deepcopy(base_model())
    load_adapter(model, folders["lora"], "own")
    engine = Engine(model, adapters={"other": folders["neck"]})
    prompt, params = [1, 2, 3, 4], SamplingParams(max_tokens=9, temperature=0)
    answers = engine.generate([prompt] * 2, params, adapter=[None, "other"])
    assert answers[0].token_ids == generate_plain(singles["lora"], prompt, params)
    assert answers[1].token_ids == generate_plain(singles["neck"], prompt, params)


def test_loading_while_answers_are_made(folders, singles):
    engine = Engine(base_model())
    prompt, params = [1, 2, 3, 4], SamplingParams(max_tokens=9, temperature=0)
    first = engine.add(prompt, params)
    events = engine.step() + engine.step()
    engine.load_adapter("late", folders["dora"])
    engine.add(prompt, params, adapter="late")
    while engine.has_work:
        events += engine.step()
    for number, name in ((first, None), (first + 1, "dora")):
        found = [event.token_id for event in events if event.request_id == number]
        assert found == generate_plain(singles[name], prompt, params)


def damaged(folder: Path, into: Path, file: str, content: bytes) -> Path:
    into.mkdir()
    for path in folder.iterdir():
        (into / path.name).write_bytes(path.read_bytes())
    (into / file).write_bytes(content)
    return into


def test_what_cannot_be_loaded_leaves_the_model_as_it_was(folders, tmp_path):
    model = base_model()
    names = set(model.state_dict())
    engine = Engine(model)
    other = base_model()
    with torch.no_grad():
        other.embedding.weight.add_(1)
    cases = {
        "no adapter_config.json": tmp_path,
        "not valid JSON": damaged(folders["lora"], tmp_path / "a", "adapter_config.json", b"{"),
        "adapter_model.safetensors": damaged(
            folders["lora"], tmp_path / "b", "adapter_model.safetensors", b"rubbish"
        ),
        "tensor": damaged(
            folders["lora"], tmp_path / "c", "adapter_model.safetensors",
            (folders["some"] / "adapter_model.safetensors").read_bytes(),
        ),
        "belongs to the base": stored(other, Lora(), tmp_path / "d", seed=1),
        "kind 'prefix'": stored(model, PrefixTuning(tokens=2), tmp_path / "e", seed=1),
        "parts of the base": stored(
            base_model(), Lora(also=("final_norm.*",)), tmp_path / "f", seed=1
        ),
    }  # fmt: skip
    for match, folder in cases.items():
        with pytest.raises(UserError, match=match) as caught:
            engine.load_adapter("x", folder)
        assert "\n" not in str(caught.value)
        assert set(model.state_dict()) == names
        assert adapters_of(model) is None
    engine.load_adapter("x", folders["lora"])
    with pytest.raises(UserError, match="is there already"):
        engine.load_adapter("x", folders["some"])
    with pytest.raises(UserError, match="tensor"):
        engine.load_adapter("y", tmp_path / "c")
    assert engine.adapters == ["x"]
    assert not any(".y." in name for name in model.state_dict())
    for name in ("training", "keys", "a b", ""):
        with pytest.raises(UserError, match="adapter name"):
            engine.load_adapter(name, folders["some"])


def test_unknown_names_are_refused_before_anything_waits(folders):
    engine = Engine(base_model())
    for wrong, known in (
        (engine, "load it first"),
        (Engine(base_model(), adapters=folders), "neck"),
    ):
        with pytest.raises(UserError, match=f"no adapter 'nobody'.*{known}"):
            wrong.add([1], adapter="nobody")
        with pytest.raises(UserError, match="no adapter 'nobody'"):
            wrong.stream([1], adapter="nobody")
        with pytest.raises(UserError, match="no adapter 'nobody'"):
            wrong.generate([[1], [2]], adapter=[None, "nobody"])
        with pytest.raises(UserError, match="one for all or one each"):
            wrong.generate([[1], [2]], adapter=[None])
        assert not wrong.has_work


def test_a_layer_that_reads_its_matrix_itself_is_found_out_at_once(tmp_path):
    """Latent attention absorbs a matrix when it decodes: no such matrix a row."""
    model = base_model(all_mixers()["latent, absorbed"])
    folder = stored(model, Lora(), tmp_path / "all", seed=1)
    engine = Engine(model)
    with pytest.raises(UserError, match=r"'x' cannot be chosen a request.*leave it out"):
        engine.load_adapter("x", folder)
    assert adapters_of(model) is None


@pytest.mark.parametrize(
    ("mixer", "ffn"),
    [(Mamba(), None), (None, MixtureOfExperts(num_experts=4, top_k=2, expert=SwiGlu(size=8)))],
    ids=["running state", "experts"],
)
def test_other_layers_have_adapters_a_row_too(mixer, ffn, tmp_path):
    grouped = GroupedQuery(num_heads=4, positions=Rotary())
    mixers = (mixer or grouped, grouped)
    targets = ("mixer.output",)
    folders = {
        name: stored(base_model(*mixers, ffn=ffn), Lora(targets=targets), tmp_path / name, seed=i)
        for i, name in enumerate("ab")
    }
    engine = Engine(base_model(*mixers, ffn=ffn), adapters=folders, max_batch=3)
    params = SamplingParams(max_tokens=7, temperature=0)
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [4, 4], [2] * 9]
    names = ["a", None, "b", "b", "a"]
    answers = engine.generate(prompts, params, adapter=names)
    for prompt, name, answer in zip(prompts, names, answers, strict=True):
        single = base_model(*mixers, ffn=ffn)
        if name is not None:
            load_adapter(single, folders[name])
        assert answer.token_ids == generate_plain(single, prompt, params)


def test_one_trained_on_four_bits_leaves_the_base_whole(tmp_path):
    model = base_model().float()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    folder = stored(base_model().float(), Lora(quantize="nf4", compute="float32"), tmp_path, seed=1)
    Engine(model, adapters={"q": folder})
    held = {name.replace(".base.", "."): x for name, x in model.state_dict().items()}
    assert all(torch.equal(held[name], x) for name, x in before.items())
