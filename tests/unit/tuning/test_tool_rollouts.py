"""Tools in the loop of a rollout: what comes back, what is trained on, what a bad call costs."""

from __future__ import annotations

from typing import Any

import pytest

from glassbox.inference import Engine
from glassbox.ops.cross_entropy import IGNORE
from glassbox.tuning.policy.answers import ToolConfig
from glassbox.tuning.policy.grpo import GrpoConfig, RolloutSource
from glassbox.tuning.policy.tools import ToolLoop
from support.policy_problems import PROBLEMS, TOKENIZER, letters, model

# ---- tools in the loop ----------------------------------------------------------------------


class Script:
    """An engine that says what is written for it, turn by turn."""

    def __init__(self, turns: list[list[str]]) -> None:
        self.model, self.tokenizer = model(), TOKENIZER
        self.turns, self.context_length = turns, 400
        self.prompts: list[Any] = []

    def generate(self, prompts: Any, params: Any) -> Any:
        from glassbox.inference.engine import Completion

        self.prompts.append([list(prompt) for prompt in prompts])
        texts = self.turns.pop(0)
        end = TOKENIZER.special_tokens["<|im_end|>"]
        return [
            Completion([*TOKENIZER.encode(text), end], text, "stop", None, None, None, i, 0)
            for i, text in enumerate(texts)
        ]


def scripted(turns: list[list[str]], *, max_tokens: int = 200, tools: Any = None) -> Any:
    config = GrpoConfig(
        prompts_per_step=1, group_size=2, max_tokens=max_tokens, normalization="grpo",
        tools=ToolConfig(names=("calculator",), rounds=2),
    )  # fmt: skip
    engine: Any = Script(turns)
    source = RolloutSource(engine, PROBLEMS, lambda c, p: float("41" in c), config)
    if tools:
        source.loop = ToolLoop(engine, tools, rounds=2, result_chars=20)
    return engine, source, source._draw([0])[0]


def test_a_tools_result_comes_back_and_is_not_trained_on() -> None:
    engine, source, sampled = scripted([["<tool>14+27</tool>", "no"], ["It is 41."]])
    called, plain = sampled.answers
    assert sampled.rewards == [1, 0]
    assert sampled.calls == 1
    assert plain.mask is None
    own = [t for t, m in zip(called.token_ids, called.mask, strict=True) if m]
    end = TOKENIZER.special_tokens["<|im_end|>"]
    assert own == [
        *TOKENIZER.encode("<tool>14+27</tool>"),
        end,
        *TOKENIZER.encode("It is 41."),
        end,
    ]
    result = TOKENIZER.decode(
        [t for t, m in zip(called.token_ids, called.mask, strict=True) if not m]
    )
    assert "41" in result
    prompt = source.problems[called.problem][0]
    whole = [
        *PROBLEMS[called.problem]["prompt"],
        {"role": "assistant", "content": "<tool>14+27</tool>"},
        {"role": "tool", "content": "41"},
    ]
    assert engine.prompts[1] == [TOKENIZER.encode_chat_prompt(whole)]
    assert (
        prompt + called.token_ids[: len(engine.prompts[1][0]) - len(prompt)] == engine.prompts[1][0]
    )
    batch = source._batch([called])
    assert int((batch.targets != IGNORE).sum()) == called.num_trained == sum(called.mask)
    assert batch.targets[batch.targets != IGNORE].tolist() == own
    assert float(batch.scales[0]) == pytest.approx(1 / len(own))


def test_calls_are_bounded_and_a_bad_tool_costs_one_call() -> None:
    call = "<tool>1+1</tool>"
    _, _, sampled = scripted([[call, call], [call, call], [call, call]])
    assert sampled.calls == 4  # two rounds of two answers; the third call is left unanswered
    _, _, sampled = scripted([[call, "no"]], max_tokens=len(TOKENIZER.encode(call)) + 3)
    assert [a.truncated for a in sampled.answers] == [True, False]

    def broken(text: str) -> str:
        raise RuntimeError("boom")

    def flood(text: str) -> str:
        return "x" * 10**6

    for tool, said in ((broken, "error: RuntimeError"), (flood, "x" * 20)):
        _, _, sampled = scripted([[call, "no"], ["done"]], tools={"calculator": ("tool", tool)})
        between = [
            t
            for t, m in zip(sampled.answers[0].token_ids, sampled.answers[0].mask, strict=True)
            if not m
        ]
        text = TOKENIZER.decode(between)
        assert said in text
        assert len(text) < 200


def test_the_real_engine_with_tools_is_the_one_without_where_no_call_is_made() -> None:
    base = {"prompts_per_step": 3, "group_size": 2, "max_tokens": 8}
    both = []
    for names in ((), ("calculator", "python")):
        config = GrpoConfig(**base, tools=ToolConfig(names=names))
        both.append(
            RolloutSource(Engine(model(), TOKENIZER), PROBLEMS, letters, config)._roll_out()[0]
        )
    assert both[0] == both[1]
