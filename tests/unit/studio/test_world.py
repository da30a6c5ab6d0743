"""The truth beside a model's token, experts and states: what the page shows equals the numbers behind it."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.data.storyworld import StoryWorldConfig, generate
from glassbox.inspection import inspect, story_law
from glassbox.layers.delta_net import GatedDelta
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.models.shapes import LlamaShape
from glassbox.studio import inside
from glassbox.studio.answers import build_prompt
from glassbox.studio.world import Laws, truth, world_of
from glassbox.tokenizers import train_tokenizer

CONFIG = StoryWorldConfig(seed=4)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random model beside the recipe of a quickstart."""
    run = tmp_path_factory.mktemp("run")
    path = run / "pretrain" / "checkpoints" / "step-00000002"
    path.mkdir(parents=True)
    (run / "pretrain" / "recipe.yaml").write_text("stage: pretrain\n", encoding="utf-8")
    (run / "recipe.yaml").write_text(
        f"stage: quickstart\nsource: storyworld\nworld: {CONFIG.model_dump_json()}\n",
        encoding="utf-8",
    )
    documents = generate(CONFIG, "document", "train", count=200)
    tokenizer = train_tokenizer((document.text for document in documents), 500)
    torch.manual_seed(0)
    shape = LlamaShape(hidden_size=16, num_layers=1, num_heads=2, ffn_size=16, context_length=512)
    model = CausalLM(shape.config(tokenizer.vocab_size)).eval()
    return SimpleNamespace(name="run", path=path, tokenizer=tokenizer, model=model)


def test_the_world_is_that_of_the_nearest_recipe_that_has_one(opened: Any, tmp_path: Path) -> None:
    assert world_of(opened.path) == CONFIG
    assert world_of(tmp_path) is None
    (tmp_path / "recipe.yaml").write_text("source: shakespeare\nworld: {seed: 1}\n")
    assert world_of(tmp_path) is None  # its text is another


def test_truth_is_the_generators_law_beside_the_models(opened: Any) -> None:
    document = next(generate(CONFIG, "document", "heldout", count=1))
    ids = [opened.tokenizer.eos_id, *opened.tokenizer.encode(document.text)]
    law = story_law(CONFIG, opened.tokenizer, document.text)
    with torch.no_grad():
        log_q = opened.model(torch.tensor([ids]))[0].double().log_softmax(-1)
    laws = Laws()
    for place in (1, 7, len(ids) - 1):
        told = truth(opened, laws, ids, place)
        exact = law.laws[place - 1]
        assert told["count"] == len(exact)
        kl = sum(p * (math.log(p) - float(log_q[place - 1, t])) for t, p in exact.items())
        assert told["kl"] == pytest.approx(kl, abs=1e-6)
        assert told["entropy"] == pytest.approx(-sum(p * math.log(p) for p in exact.values()))
        assert told["own"][0] == pytest.approx(law.log_probs[place - 1], abs=1e-5)
        assert told["own"][1] == pytest.approx(float(log_q[place - 1, ids[place]]), abs=1e-4)
        assert ids[place] in [row[0] for row in told["top"]]
        for token, _, p, q in told["top"]:
            assert p == pytest.approx(math.log(exact[token]), abs=1e-5)
            assert q == pytest.approx(float(log_q[place - 1, token]), abs=1e-4)
        assert told["before"] == pytest.approx(law.log_probs[: place - 1], abs=1e-4)


def test_an_impossible_token_is_said_to_be_one(opened: Any) -> None:
    document = next(generate(CONFIG, "document", "heldout", count=1))
    ids = [opened.tokenizer.eos_id, *opened.tokenizer.encode(document.text)][:6]
    possible = {row[0] for row in truth(opened, Laws(), ids, 5)["top"]}
    strange = next(t for t in range(300, 400) if t not in possible)
    told = truth(opened, Laws(), [*ids[:5], strange], 5)
    assert told["own"][0] is None
    assert strange not in [row[0] for row in told["top"]]


def test_what_is_no_document_of_the_world_is_refused(opened: Any, tmp_path: Path) -> None:
    tokenizer = opened.tokenizer
    eos = tokenizer.eos_id
    strange = [eos, *tokenizer.encode("Call me Ishmael."), 5]
    with pytest.raises(UserError, match="cannot write this text"):
        truth(opened, Laws(), strange, len(strange) - 1)
    turn = next(v for v in tokenizer.special_tokens.values() if v != eos)
    with pytest.raises(UserError, match="is a chat"):
        truth(opened, Laws(), [turn, 60, 61], 2)
    elsewhere = SimpleNamespace(**{**vars(opened), "path": tmp_path})
    with pytest.raises(UserError, match="no recipe"):
        truth(elsewhere, Laws(), [eos, 5], 1)
    with pytest.raises(UserError, match="place = 0"):
        truth(opened, Laws(), [eos, 5], 0)


def test_experts_and_states_are_those_of_the_pass() -> None:
    ffn = MixtureOfExperts(num_experts=4, top_k=2, expert=SwiGlu(size=8))
    block = BlockSpec(mixer=GatedDelta(num_heads=2, key_dim=8, value_dim=8), ffn=ffn)
    torch.manual_seed(0)
    model = CausalLM(
        ModelConfig(
            vocab_size=300,
            hidden_size=16,
            context_length=64,
            blocks=(Repeat(block=block, times=2),),
        )
    ).eval()
    tokenizer = train_tokenizer(["some words to read"], 260)
    opened = SimpleNamespace(name="x", path=Path("nowhere"), tokenizer=tokenizer, model=model)
    ids = [5, 9, 33, 7, 70]
    told = inside.overview(opened, ids, 4)  # type: ignore[arg-type]
    wanted = ["blocks.*.ffn.experts", "blocks.*.ffn.gates", "blocks.*.mixer.state"]
    with torch.no_grad(), inspect(model, wanted) as run:
        model(torch.tensor([ids[:4]]))
    assert told["world"] is False
    for layer in range(2):
        route = told["routes"][layer]
        assert route["count"] == 4
        experts, gates = (run[f"blocks.{layer}.ffn.{name}"][0, -1] for name in ("experts", "gates"))
        assert [one[0] for one in route["chosen"]] == experts.tolist()
        assert [one[1] for one in route["chosen"]] == pytest.approx(gates.tolist(), abs=1e-4)
        state = run[f"blocks.{layer}.mixer.state"]
        assert told["states"][layer] == pytest.approx(float(state.norm()), abs=1e-3)


def test_a_text_is_continued_without_its_template(opened: Any) -> None:
    engine = SimpleNamespace(context_length=64)
    one = SimpleNamespace(**vars(opened), engine=engine)
    branch = [{"role": "user", "content": "One "}, {"role": "assistant", "content": "day"}]
    plain = build_prompt(one, branch, "", 8, plain=True)  # type: ignore[arg-type]
    assert plain.ids == [opened.tokenizer.eos_id, *opened.tokenizer.encode("One day")]
    assert opened.tokenizer.chat_template is not None
    chat = build_prompt(one, [branch[0]], "", 8)  # type: ignore[arg-type]
    assert chat.ids != plain.ids
