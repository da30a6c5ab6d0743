"""The perplexity filter: its limits with a scorer of our own, and models of ours behind it."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.data.curation.perplexity import PerplexitySpec
from glassbox.data.curation.step import Dropped, Record
from glassbox.formats.huggingface import save_pretrained
from glassbox.runs.curate import curate
from glassbox.runs.curate_steps import ModelScorer, build_step, contents_of
from glassbox.runs.stages.curate import CurateRecipe
from support.tiny_chat import SENTENCES, tiny_chat_model, tiny_tokenizer


def log_length(text: str) -> float:
    """A model to which a text of n characters has perplexity n."""
    return math.log(len(text))


def test_limits() -> None:
    spec = PerplexitySpec(model="any", min_perplexity=3, max_perplexity=10)
    step = pickle.loads(pickle.dumps(spec.with_scorer(log_length)))
    results = {size: step(Record("x" * size, "a:1", {"url": "u"})) for size in (2, 4, 9, 11)}
    assert results[2] == Dropped("perplexity too low", "2, at least 3")
    assert results[4] == Record("xxxx", "a:1", {"url": "u", "perplexity": 4.0})
    assert isinstance(results[9], Record)
    assert results[11] == Dropped("perplexity too high", "11, at most 10")


def test_settings_that_cannot_be() -> None:
    with pytest.raises(
        UserError, match="min_perplexity = 9 is above max_perplexity = 3; swap them"
    ):
        parse(PerplexitySpec, {"model": "m", "min_perplexity": 9, "max_perplexity": 3})
    with pytest.raises(UserError, match="needs a model to be opened"):
        PerplexitySpec(model="m").build()
    with pytest.raises(UserError, match="no model at"):
        build_step(PerplexitySpec(model="nowhere/at/all"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tiny_tokenizer()
    folder = tmp_path_factory.mktemp("model")
    save_pretrained(tiny_chat_model(tokenizer), folder, tokenizer=tokenizer)
    return folder


def test_a_model_scores_as_its_logits_say(folder: Path) -> None:
    scorer = ModelScorer(str(folder), max_tokens=20)
    tokenizer = tiny_tokenizer()
    model = tiny_chat_model(tokenizer)
    for text in SENTENCES:
        ids = torch.tensor([tokenizer.eos_id, *tokenizer.encode(text)[:20]])
        with torch.no_grad():
            logits = model(ids[None]).double()
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[1:])
        assert scorer(text) == pytest.approx(loss.item(), rel=1e-5)  # float32 logits
    assert pickle.loads(pickle.dumps(scorer))._opened is None
    assert scorer("") == 0.0


def test_weights_are_part_of_what_a_recipe_holds(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (before,) = contents_of(PerplexitySpec(model=str(folder))).values()
    spec = PerplexitySpec(model=str(copy))
    assert contents_of(spec) == {str(copy): before}
    (weights,) = copy.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert contents_of(spec) != {str(copy): before}


def test_a_recipe_with_a_model_for_any_number_of_workers(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "web.jsonl"
    texts = [" ".join(SENTENCES[i % 3].split()[i % 5 :]) + " no" * (i % 7) for i in range(24)]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    scorer = ModelScorer(str(folder), 512)
    middle = sorted(math.exp(scorer(text)) for text in texts)[12]
    outputs = []
    for workers in (1, 2):
        recipe = parse(
            CurateRecipe,
            {
                "out": str(tmp_path / f"out-{workers}"),
                "source": str(source),
                "workers": workers,
                "shard_bytes": 1024,
                "steps": [{"kind": "perplexity", "model": str(folder), "max_perplexity": middle}],
            },
        )
        summary = curate(recipe)
        files = sorted((tmp_path / f"out-{workers}" / "documents").iterdir())
        outputs.append(b"".join(file.read_bytes() for file in files))
        assert 0 < summary["dropped"] < 24
    assert outputs[0] == outputs[1]
    assert b'"perplexity"' in outputs[0]
