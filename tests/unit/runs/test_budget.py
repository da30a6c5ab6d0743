"""How long a quickstart is made: lengths follow from one number, and that number from the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassbox.cli.main import main
from glassbox.core.errors import UserError
from glassbox.runs import budget
from glassbox.runs.budget import Lengths, Speed, lengths, seconds_of, steps_for
from glassbox.runs.quickstart import Quickstart
from glassbox.runs.recipe import read_quickstart

SLOW = Speed(step=0.2, first=15.0, policy=1.0, how="float32")


@given(st.floats(1, 600), st.floats(0.01, 5), st.floats(0, 60), st.floats(0.01, 20), st.booleans())
def test_the_steps_are_the_most_that_fit(
    minutes: float, step: float, first: float, policy: float, long: bool
) -> None:
    speed = Speed(step, first, policy, "float32")
    chosen = steps_for(minutes, speed, long=long)
    unit = 100 if chosen >= 1000 else 50
    fits = seconds_of(chosen, speed, long=long) <= 60 * minutes
    assert fits or chosen == budget.FEWEST_STEPS
    longer = seconds_of(chosen + 2 * unit, speed, long=long) > 60 * minutes
    assert longer or chosen == budget.MOST_STEPS
    assert chosen % 50 == 0


@given(st.integers(1, 100_000), st.booleans())
def test_everything_grows_with_the_steps(steps: int, long: bool) -> None:
    fewer, more = lengths(steps, long=long), lengths(steps + 500, long=long)
    assert all(getattr(fewer, name) <= getattr(more, name) for name in Lengths.__dataclass_fields__)
    assert min(fewer.sft, fewer.dpo, fewer.grpo) >= 10


def test_lengths_are_overrides_that_the_recipe_takes() -> None:
    words = lengths(700, long=False).overrides(["pretrain", "sft", "dpo", "grpo"])
    recipe = read_quickstart("quickstart.yaml", words)
    run = Quickstart(recipe)
    assert run.stage_recipe("pretrain").train.steps == 700
    assert run.stage_recipe("sft").train.steps == 100
    assert recipe.sizes.train_bytes == 4_000_000
    assert not any("grpo" in word for word in lengths(700, long=False).overrides(["pretrain"]))


def test_what_was_begun_goes_on_with_its_lengths(tmp_path: Path) -> None:
    assert budget.begun_lengths(tmp_path) is None
    words = lengths(450, long=False).overrides(budget.STAGES)
    recipe = read_quickstart("quickstart.yaml", [f"out={tmp_path}", *words])
    (tmp_path / "recipe.yaml").write_text(recipe.model_dump_json(), encoding="utf-8")
    assert budget.begun_lengths(tmp_path) == words
    (tmp_path / "recipe.yaml").write_text("stage: pretrain\n", encoding="utf-8")
    assert budget.begun_lengths(tmp_path) is None
    (tmp_path / "recipe.yaml").write_text("{", encoding="utf-8")
    assert budget.begun_lengths(tmp_path) is None


def test_the_machine_is_measured_with_the_models_own_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "_MEASURED_SECONDS", 0.01)
    small = ["pretrain.change.model={kind: llama, hidden_size: 32, num_layers: 1, num_heads: 2, "
             "ffn_size: 64, context_length: 512}", "tokenizer.vocab_size=300"]  # fmt: skip
    recipe = read_quickstart("quickstart.yaml", small)
    run = Quickstart(recipe)
    grpo = run.stage_recipe("grpo")
    speed = budget.measure(recipe, run.stage_recipe("pretrain"), grpo.grpo)
    assert speed.step > 0
    assert speed.first > 0
    assert speed.policy > 0
    assert "float" in speed.how
    assert budget.measure(recipe, run.stage_recipe("pretrain"), None).policy == 0
    said = budget.say(2000, SLOW, 6, long=False, step_tokens=2048)
    assert "10,240 tokens/s (float32)" in said
    assert said.endswith("--steps 2000")
    assert "are too few here" in said  # 2,000 steps of 0.2 s


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0.2"], "--minutes 0.2: give 1 to 1440, or --fast"),
        (["--steps", "0"], "--steps 0: give at least 1"),
        (["--minutes", "3", "--steps", "9"], "--minutes and --steps are both given"),
        (["--fast", "--minutes", "3"], "--fast and --minutes or --steps are both given"),
        (["--size", "1m", "--steps", "3"], "--size and --minutes or --steps are both given"),
    ],
)
def test_nonsense_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["quickstart", "--out", str(tmp_path / "run"), *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_too_long_a_time_is_refused() -> None:
    with pytest.raises(UserError, match="1440"):
        budget.check_minutes(1e6)
