"""Every example runs, and does what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import glassbox
from glassbox import UserError
from glassbox.cli.main import main
from glassbox.data.storyworld import StoryWorldConfig, generate
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_copying_the_example_data_overwrites_nothing_of_a_checkout() -> None:
    names = {path.name for path in (ROOT / "examples" / "data").iterdir()}
    assert not names & {path.name for path in ROOT.iterdir()}


def test_reverse_learns_its_task(tmp_path: Path) -> None:
    assert load("reverse").main(tmp_path) > 0.9


def test_a_mixer_of_ones_own_trains_and_generates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From about 6 nats at the start (400 entries); a mixer that saw the future would reach 0."""
    example = load("my_mixer")
    assert 2.0 < example.main(tmp_path) < 4.5
    run = str(tmp_path / "run")
    with pytest.raises(UserError, match=r"names Python code .* name it yourself"):
        glassbox.load(run)
    code = f"{ROOT / 'examples' / 'my_mixer.py'}:LearnedAverage"
    with pytest.raises(SystemExit) as done:
        main(["generate", run, "--prompt", "Once", "--max-tokens", "3", "--code", code])
    assert not done.value.code
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "Is", "chosen": "yes", "rejected": "no"}\n' * 4, encoding="utf-8")
    tune = ["train", "preference.yaml", f"init={run}", f"data.path={pairs}", f"out={tmp_path / 'tuned'}",
            "train.steps=1", "train.schedule.warmup_steps=0", "data.pairs_per_step=2", "data.max_length=64"]  # fmt: skip
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        main(tune)
    assert done.value.code == 2
    assert "in a recipe code=[PATH]" in capsys.readouterr().err
    with pytest.raises(SystemExit) as done:
        main([*tune, f"code=['{code}']"])
    assert not done.value.code


def test_an_optimizer_of_ones_own_trains(tmp_path: Path) -> None:
    assert 2.0 < load("my_optimizer").main(tmp_path) < 4.5


def test_data_of_ones_own_trains(tmp_path: Path) -> None:
    """From one day in seven by chance; no epoch of it is needed to know most."""
    assert load("my_data").main(tmp_path) > 0.4


def test_a_task_of_ones_own_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By chance a quarter of 40 items are right, give or take 0.07."""
    tokenizer = tiny_tokenizer()
    model = str(tmp_path / "model")
    glassbox.save(tiny_chat_model(tokenizer), model, tokenizer=tokenizer)
    share = load("own_evaluation_task").main(model)
    assert 0 <= share < 0.6
    assert f"{share:.2f} +- 0.0" in capsys.readouterr().out


def test_fine_tune_then_serve(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    glassbox.save(
        tiny_chat_model(tokenizer, context_length=512), tmp_path / "base", tokenizer=tokenizer
    )
    answer = load("finetune_then_serve").main(str(tmp_path / "base"), tmp_path, steps=3)
    assert isinstance(answer, str)


def test_examples_are_short() -> None:
    for path in (ROOT / "examples").glob("*.py"):
        code = path.read_text(encoding="utf-8").split('"""', 2)[2]
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) <= 50, f"{path.name}: {len(lines)} lines"


def test_who_has_what_reads_a_model_of_the_story_world(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [document.text for document in generate(StoryWorldConfig(), "story", "train", count=40)]
    tokenizer = glassbox.train_tokenizer(texts, 600)
    shape = glassbox.LlamaShape(
        hidden_size=16, num_layers=2, num_heads=2, ffn_size=32, context_length=512
    )
    model = glassbox.CausalLM(shape.config(vocab_size=tokenizer.vocab_size))
    glassbox.save(model, tmp_path / "model", tokenizer=tokenizer)
    accuracies = load("who_has_what").main(str(tmp_path / "model"), count=20)
    assert len(accuracies) == 3
    assert all(0.2 < accuracy <= 1 for accuracy in accuracies)
    printed = capsys.readouterr().out
    assert "nats from the truth" in printed
    assert "does the hero have it now?" in printed
