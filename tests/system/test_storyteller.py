"""The model in the box: small, whole, itself, and as good as its page says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import glassbox
from glassbox.cli.main import main
from glassbox.data.storyworld import write_corpus
from glassbox.data.storyworld.config import CorpusSizes
from glassbox.evaluation.storyworld import evaluate_story_world
from glassbox.formats.open_model import find_model
from glassbox.studio.world import world_of

MOST_BYTES = 7_000_000


@pytest.fixture(scope="module")
def storyteller() -> glassbox.Loaded:
    return glassbox.load("storyteller")


def test_it_is_small_and_nothing_of_it_is_code() -> None:
    folder = find_model("storyteller")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".jinja", ".txt"}


def test_it_knows_its_name_ends_its_answers_and_sums(storyteller: glassbox.Loaded) -> None:
    said = storyteller.chat("Who are you?", max_tokens=60, temperature=0)
    assert said.startswith("I am Glassbox")
    assert said.endswith(".")
    problem = "Anna had 7 plums. Then she found 5 more. How many plums did Anna have then?"
    assert storyteller.chat(problem, max_tokens=60, temperature=0).endswith("Answer: 12")


def test_it_is_as_good_as_its_card_says(storyteller: glassbox.Loaded, tmp_path: Path) -> None:
    """On other stories than those of the card, 60 each: 89.5, 97 and 92% less four standard errors."""
    world = world_of(storyteller.path)
    assert world is not None
    sizes = CorpusSizes(
        train_bytes=20_000, heldout=4, unseen=4, chats_train=4, chats_heldout=4, questions_heldout=60,
        arithmetic_train=4, arithmetic_heldout=60, preferences_train=4, preferences_heldout=60,
    )  # fmt: skip
    write_corpus(world.model_copy(update={"seed": 7}), tmp_path, sizes)
    limits = {"documents": 4, "unseen": 4, "questions": 60, "preferences": 60, "arithmetic": 60}
    found = evaluate_story_world(storyteller.model, storyteller.tokenizer, tmp_path, limits=limits)
    least = {"questions": 0.72, "preferences": 0.87, "arithmetic": 0.77}
    for name, share in least.items():
        assert found[name]["accuracy"]["value"] > share, name


def test_transformers_opens_it() -> None:
    transformers = pytest.importorskip("transformers")
    folder = find_model("storyteller")
    storyteller = glassbox.load("storyteller", dtype="float32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([storyteller.tokenizer.encode("One bright morning, Mia went to the well.")])
    with torch.no_grad():
        difference = (theirs(ids).logits - storyteller.model(ids)).abs().max()
    assert float(difference) < 1e-4 * math.sqrt(storyteller.config.hidden_size)


def test_the_command_knows_its_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as done:
        main(["generate", "storyteller", "-p", "Once", "--max-tokens", "5", "--temperature", "0"])
    assert not done.value.code
    assert capsys.readouterr().out.startswith(" upon")
