"""Graders, advantages, rollouts and their resume, and that DPO and GRPO learn what they are for."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from glassbox.core.config import parse
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.data.preferences import (
    PreferencePair,
    PreferenceSource,
    encode_preferences,
    preference_batch,
)
from glassbox.data.storyworld.arithmetic import extract_answer
from glassbox.inference.engine import Engine
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.ops.cross_entropy import IGNORE
from glassbox.optim.adamw import AdamW
from glassbox.optim.groups import decay_groups
from glassbox.tokenizers import train_bpe
from glassbox.tuning.grading.graders import (
    Format,
    NumericAnswer,
    Rubric,
    final_number,
    read_problems,
)
from glassbox.tuning.policy.answers import RolloutBatch
from glassbox.tuning.policy.grpo import Grpo, GrpoConfig, RolloutSource, group_advantages
from glassbox.tuning.preference.dpo import Dpo, DpoConfig, reference_log_probs

TOKENIZER = train_bpe(["Who has the kite? Mia has the kite, and Tom has the ball."], 280)


def tiny(seed: int = 0, *, std: float = 0.1, context_length: int = 64) -> CausalLM:
    block = BlockSpec(mixer=GroupedQuery(num_heads=2, positions=Rotary()), ffn=SwiGlu(size=32))
    config = ModelConfig(
        vocab_size=TOKENIZER.vocab_size,
        hidden_size=16,
        context_length=context_length,
        blocks=[Repeat(block=block, times=2)],
    )
    model = CausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=std, generator=generator)
    return model


# ---- graders --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("First, 8 + 5 = 13.\nAnswer: 13", 13, 1),
        ("Answer: 13", 13, 1),
        ("8 + 5 = 13.\nAnswer: 13\n", 13, 1),
        ("答案：-7", -7, 1),
        ("so\nAnswer: 1,024", 1024, 1),
        ("so\nAnswer: 0.10", "0.1", 1),
        ("so\nAnswer: 13.0", 13, 1),
        ("so\nAnswer: 14", 13, 0),
        ("so\nAnswer: 130", 13, 0),
        ("so\nAnswer: 13 apples", 13, 0),
        ("so\nAnswer: 13\nor 14", 13, 0),
        ("so\nAnswer: 13\nAnswer: 14", 14, 1),
        ("the Answer: 13", 13, 0),
        ("13", 13, 0),
        ("", 13, 0),
    ],
)
def test_the_final_answer_must_be_exact_and_final(text: str, answer: Any, score: int) -> None:
    assert NumericAnswer()(text, {"answer": answer}) == score


@given(st.integers(-10_000, 10_000))
def test_the_answer_line_is_the_story_worlds(number: int) -> None:
    for text in (f"First, 1 + 1 = 2.\nAnswer: {number}", f"答案：{number}"):
        assert extract_answer(text) == number == final_number(text)


def test_format_asks_for_working_and_one_answer_line() -> None:
    grader = Format()
    assert grader("First, 1 + 2 = 3. Then, 3 - 1 = 2.\nAnswer: 2", {}) == 1
    for text in (
        "Answer: 2",
        "\nAnswer: 2",
        "x\nAnswer: ",
        "x\nAnswer: 1\nAnswer: 2",
        "x Answer: 2",
    ):
        assert grader(text, {}) == 0
    assert Format("[ab]+")("abba", {}) == 1
    with pytest.raises(UserError, match="no regular expression"):
        Format("(")


def test_a_rubric_weighs_and_survives_graders_that_fail() -> None:
    def broken(completion: str, problem: Mapping[str, Any]) -> float:
        raise KeyError("answer")

    rubric = Rubric(
        {
            "answer": (NumericAnswer(), 1.0),
            "format": (Format(), 0.25),
            "broken": (broken, 2.0),
            "nan": (lambda completion, problem: float("nan"), 2.0),
        }
    )
    grade = rubric.grade("1 + 1 = 2.\nAnswer: 2", {"answer": 2})
    assert (grade.reward, grade.errors) == (1.25, 2)
    assert grade.parts == {"answer": 1, "format": 1, "broken": 0, "nan": 0}
    assert Rubric.of(rubric) is rubric
    with pytest.raises(UserError, match="without graders"):
        Rubric({})


def test_problems_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = [{"prompt": "1 + 1?", "answer": 2}, {"prompt": [{"role": "user", "content": "x"}]}]
    path.write_text("\n".join(map(json.dumps, rows)))
    first, second = read_problems(path)
    assert first == {"prompt": [{"role": "user", "content": "1 + 1?"}], "answer": 2}
    assert second == rows[1]
    told = read_problems(path, instruction="Be brief.")
    assert told[0]["prompt"] == [{"role": "user", "content": "1 + 1?\nBe brief."}]
    path.write_text('{"question": "x", "answer": "#### 1"}')
    asked = {"prompt": [{"role": "user", "content": "x"}], "question": "x", "answer": "#### 1"}
    assert read_problems(path) == [asked]
    path.write_text('{"answer": "x"}')
    with pytest.raises(UserError, match=r"p\.jsonl' line 1: missing key 'prompt'"):
        read_problems(path)
    path.write_text("")
    with pytest.raises(UserError, match="holds no problems"):
        read_problems(path)


# ---- advantages -----------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.3, 1.0, 1e6]), min_size=2, max_size=9),
    st.booleans(),
)
def test_advantages_are_centred_and_zero_variance_groups_are_exactly_zero(
    rewards: list[float], scale: bool
) -> None:
    group = torch.tensor([rewards], dtype=torch.float64)
    advantages = group_advantages(group, scale=scale)
    if len(set(rewards)) == 1:
        assert (advantages == 0).all()
    else:
        assert abs(float(advantages.sum())) < 1e-8 * max(1.0, max(rewards))
        assert torch.equal(advantages.argsort(stable=True), group.argsort(stable=True))
        if scale and max(rewards) - min(rewards) > 0.5:
            assert abs(float(advantages.std()) - 1) < 1e-3


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="G >= 2"):
        group_advantages(torch.ones(3, 1))


# ---- settings -------------------------------------------------------------------------------


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="label_smoothing"):
        parse(DpoConfig, {"loss": "ipo", "label_smoothing": 0.1})
    with pytest.raises(UserError, match="group_size"):
        parse(GrpoConfig, {"group_size": 1})
    with pytest.raises(UserError, match=r"kl_beta = 0\.1 needs a reference"):
        Grpo(GrpoConfig(kl_beta=0.1))
    pairs, _ = encode_preferences(PAIRS[:1], TOKENIZER, max_length=64)
    with pytest.raises(UserError, match="no reference"):
        Dpo(DpoConfig())(tiny(), preference_batch(pairs))


# ---- DPO ------------------------------------------------------------------------------------


def pair(question: str, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair(
        [{"role": "user", "content": question}],
        [{"role": "assistant", "content": chosen}],
        [{"role": "assistant", "content": rejected}],
    )


NAMES = ["Mia", "Tom", "Who", "ball"]
PAIRS = [
    pair(f"{a} has the {b}?", f"the kite {c}", f"the ball {c}")
    for a in NAMES
    for b in NAMES
    for c in NAMES
]


def gradients(model: CausalLM) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


def test_dpo_does_not_depend_on_how_pairs_are_shared_out() -> None:
    model, reference = tiny(0).double(), tiny(1).double()
    pairs, _ = encode_preferences(PAIRS[:7], TOKENIZER, max_length=64)
    objective = Dpo(DpoConfig(beta=0.5), reference)
    results = []
    for size in (7, 3):
        source = PreferenceSource(pairs, per_step=7, per_batch=size)
        outputs = [objective(model, batch) for batch in source.next_step()]
        total = sum(output.loss_sum for output in outputs)
        (total / sum(float(output.weight) for output in outputs)).backward()
        results.append((float(total), sum(float(o.weight) for o in outputs), gradients(model)))
    (first, weight, expected), (second, same_weight, found) = results
    assert weight == same_weight == 7
    assert first == pytest.approx(second, rel=1e-12)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)


def test_dpo_raises_the_margin_of_pairs_it_never_saw() -> None:
    model = tiny(0)
    held, _ = encode_preferences(PAIRS[::4], TOKENIZER, max_length=64)
    seen = [p for i, p in enumerate(PAIRS) if i % 4]
    pairs, _ = encode_preferences(seen, TOKENIZER, max_length=64)
    reference = copy.deepcopy(model)
    before = {name: p.clone() for name, p in reference.named_parameters()}
    source = PreferenceSource(pairs, per_step=8, reference=reference_log_probs(reference, pairs))
    optimizer = AdamW(decay_groups(model.named_parameters(), 0.0))
    objective = Dpo(DpoConfig(beta=0.1))
    judge = Dpo(DpoConfig(beta=0.1), reference)
    start = judge(model, preference_batch(held))
    assert float(start.metrics["reward_margin"][0]) == 0
    for _ in range(25):
        (batch,) = source.next_step()
        output = objective(model, batch)
        (output.loss_sum / output.weight).backward()
        optimizer.step(3e-3)
        optimizer.zero_grad()
    end = judge(model, preference_batch(held)).metrics
    assert float(end["reward_accuracy"][0]) == len(held)
    assert float(end["reward_margin"][0]) / len(held) > 0.3
    assert all(torch.equal(before[name], p) for name, p in reference.named_parameters())


# ---- rollouts -------------------------------------------------------------------------------

PROBLEMS = [
    {"prompt": [{"role": "user", "content": "kite " * (i % 5)}], "answer": i} for i in range(10)
]


def letters(completion: str, problem: Mapping[str, Any]) -> float:
    """The share of small letters: something that random answers differ in."""
    return sum(c.isascii() and c.islower() for c in completion) / max(1, len(completion))


def rollouts(
    model: CausalLM,
    config: GrpoConfig,
    grader: Any = letters,
    *,
    seed: int = 0,
    group: Group | None = None,
    problems: Any = PROBLEMS,
) -> RolloutSource:
    return RolloutSource(Engine(model, TOKENIZER), problems, grader, config, seed=seed, group=group)


SMALL = GrpoConfig(prompts_per_step=4, group_size=3, max_tokens=8)


def learn(model: CausalLM, source: RolloutSource, objective: Grpo, steps: int) -> AdamW:
    optimizer = AdamW(decay_groups(model.named_parameters(), 0.0))
    take_steps(model, source, objective, optimizer, steps)
    return optimizer


def take_steps(
    model: CausalLM, source: RolloutSource, objective: Grpo, optimizer: AdamW, steps: int
) -> list[float]:
    """What the loop does, and each step's mean reward."""
    rewards = []
    model.train()
    for _ in range(steps):
        outputs = [objective(model, batch) for batch in source.next_step()]
        weight = sum(float(output.weight) for output in outputs)
        (sum(output.loss_sum for output in outputs) / weight).backward()
        optimizer.step(1e-2)
        optimizer.zero_grad()
        if "reward" in outputs[0].metrics:
            total, count = outputs[0].metrics["reward"]
            rewards.append(float(total) / float(count))
    return rewards


def test_only_completions_are_targets_and_batches_are_bounded() -> None:
    model = tiny().train()
    model.blocks[0].eval()
    config = GrpoConfig(prompts_per_step=4, group_size=3, max_tokens=8, tokens_per_batch=80)
    source = rollouts(model, config)
    answers, metrics = source._roll_out()
    source = rollouts(model, config)
    batches = source.next_step()
    assert len(batches) > 1
    assert all(batch.num_tokens <= 80 for batch in batches)
    assert [m.training for m in model.blocks] == [False, True]  # each flag as it was
    assert model.training
    expected = sorted(
        (tuple(source.problems[a.problem][0]), tuple(a.token_ids), a.advantage)
        for a in answers
        if a.advantage != 0
    )
    found = []
    for batch in batches:
        assert not batch.ids.is_inference()
        for ids, targets, advantage in zip(
            batch.ids, batch.targets, batch.advantages.tolist(), strict=True
        ):
            places = (targets != IGNORE).nonzero().squeeze(1).tolist()
            assert places == list(range(places[0], places[-1] + 1))
            prompt = tuple(ids[: places[0] + 1].tolist())
            completion = tuple(targets[places].tolist())
            assert ids[places[0] + 1 : places[-1] + 1].tolist() == list(completion[:-1])
            found.append((prompt, completion, advantage))
    for (p, c, a), (q, d, b) in zip(sorted(found), expected, strict=True):
        assert (p, c) == (q, d)
        assert a == pytest.approx(b, rel=1e-6)
    assert batches[0].metrics == metrics
    assert metrics["reward"][1] == 12
    assert 0 < metrics["reward"][0] < 12
    assert metrics["reward/score"] == metrics["reward"]
    assert metrics["answer_tokens"] == (sum(len(a.token_ids) for a in answers), 12)


@pytest.mark.parametrize("normalization", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("overlong", ["train", "mask"])
def test_leaving_out_answers_without_gradient_and_splitting_batches_change_nothing(
    monkeypatch: pytest.MonkeyPatch, normalization: Any, overlong: Any
) -> None:
    def coarse(completion: str, problem: Mapping[str, Any]) -> float:
        return float(len(completion) % 4 == 0 and len(str(problem)) % 2 == 0)

    config = GrpoConfig(
        prompts_per_step=8,
        group_size=3,
        max_tokens=9,
        normalization=normalization,
        overlong=overlong,
        tokens_per_batch=200,
    )
    model = tiny(0).double()
    stop = TOKENIZER.special_tokens["<|im_end|>"]
    with torch.no_grad():  # answers of all lengths, some cut off
        model.embedding.weight[stop] = 0.35 * model.embedding.weight[:40].abs().sum(0)

    def run(source: RolloutSource) -> tuple[float, float, int, dict[str, Tensor], Any]:
        batches = source.next_step()
        outputs = [Grpo(source.config)(model, batch) for batch in batches]
        weight = sum(float(o.weight) for o in outputs)
        loss = sum(o.loss_sum for o in outputs) / weight
        loss.backward()
        rows = sum(len(batch.ids) for batch in batches)
        return float(loss), weight, rows, gradients(model), batches[0].metrics

    loss, weight, rows, skipping, metrics = run(rollouts(model, config, coarse))
    assert 0 < metrics["zero_variance_groups"][0] < 8
    assert 0 < metrics["truncated"][0] < 24
    monkeypatch.setattr(RolloutSource, "_has_gradient", lambda self, answer: True)
    whole = rollouts(model, config.model_copy(update={"tokens_per_batch": 1 << 20}), coarse)
    same_loss, same_weight, all_rows, everything, _ = run(whole)
    assert rows < all_rows == 24
    assert weight == same_weight
    masked = overlong == "mask"
    if normalization != "dapo":
        assert weight == 24 * (1 if normalization == "grpo" else 9)
    elif not masked:
        assert weight == metrics["answer_tokens"][0]
    else:
        assert weight < metrics["answer_tokens"][0]
    assert loss == pytest.approx(same_loss, abs=1e-12)
    for name, gradient in skipping.items():
        torch.testing.assert_close(gradient, everything[name], rtol=1e-9, atol=1e-13)


def test_a_step_without_signal_still_touches_every_gradient() -> None:
    model = tiny()
    for update in ({}, {"overlong": "mask", "normalization": "grpo"}):
        config = SMALL.model_copy(update=update)
        source = rollouts(model, config, lambda completion, problem: 1.0)
        batches = source.next_step()
        assert sum(len(batch.ids) for batch in batches) == 1
        (output,) = [Grpo(config)(model, batch) for batch in batches]
        output.loss_sum.backward()
        assert float(output.loss_sum) == 0
        assert output.weight > 0
        assert output.metrics["zero_variance_groups"] == (4, 4)
        assert all(float(g.abs().max()) == 0 for g in gradients(model).values())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_engines_log_probs_are_those_of_the_training_forward(temperature: float) -> None:
    """float32, cached one token at a time against whole rows: 1e-5 nats."""
    model = tiny(std=0.3)
    scored = {}
    for old in ("engine", "recompute"):
        config = GrpoConfig(
            prompts_per_step=4,
            group_size=3,
            max_tokens=8,
            temperature=temperature,
            old_log_probs=old,
            updates_per_rollout=2,
        )
        (batch,) = rollouts(model, config).next_step()
        scored[old] = batch.old_log_probs
        output = Grpo(config)(model, batch)
        assert float(output.metrics["clip_fraction"][0]) == 0
    assert float(scored["engine"].abs().max()) > 1
    torch.testing.assert_close(scored["engine"], scored["recompute"], rtol=0, atol=1e-5)


def test_old_log_probs_make_the_second_update_differ_from_the_first() -> None:
    config = SMALL.model_copy(update={"updates_per_rollout": 2})
    model = tiny()
    source, objective = rollouts(model, config), Grpo(config)
    optimizer = AdamW(decay_groups(model.named_parameters(), 0.0))
    (first,) = source.next_step()
    output = objective(model, first)
    (output.loss_sum / output.weight).backward()
    optimizer.step(3e-2)
    (second,) = source.next_step()
    assert torch.equal(first.ids, second.ids)
    assert second.metrics == {}
    moved = objective(model, second)
    assert float(moved.loss_sum) < float(output.loss_sum)
    assert float(moved.metrics["clip_fraction"][0]) > 0
    (third,) = source.next_step()
    assert source.cursor == 4
    assert not torch.equal(third.ids, first.ids) or third.ids.shape != first.ids.shape


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("old", ["engine", "recompute"])
def test_resume_gives_the_same_bits(updates: int, old: Any) -> None:
    config = GrpoConfig(
        prompts_per_step=4,
        group_size=3,
        max_tokens=8,
        updates_per_rollout=updates,
        old_log_probs=old,
    )
    objective = Grpo(config)
    for stop_at in (1, 4):
        model = tiny()
        source = rollouts(model, config)
        optimizer = learn(model, source, objective, stop_at)
        saved = json.dumps(source.state_dict())
        weights = copy.deepcopy(model.state_dict())
        moments = {key: value.clone() for key, value in optimizer.state_dict().items()}
        take_steps(model, source, objective, optimizer, 3)

        torch.manual_seed(stop_at)  # no global chance is used
        again = tiny(seed=9)
        again.load_state_dict(weights)
        resumed = rollouts(again, config)
        resumed.load_state_dict(json.loads(saved))
        second = AdamW(decay_groups(again.named_parameters(), 0.0))
        second.load_state_dict(moments)
        take_steps(again, resumed, objective, second, 3)
        assert resumed.state_dict() == source.state_dict()
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, again.get_parameter(name))


class Pair(Group):
    """Two ranks in one process: a first round records what each would sum, the second gives sums."""

    def __init__(self, rank: int, tables: dict[int, list[Tensor]], *, replay: bool) -> None:
        super().__init__(rank=rank, world_size=2)
        object.__setattr__(self, "tables", tables)
        object.__setattr__(self, "replay", replay)
        object.__setattr__(self, "calls", [])

    def sum_(self, tensor: Tensor) -> Tensor:
        number = len(self.calls)
        self.calls.append(number)
        if self.replay:
            return self.tables[0][number] + self.tables[1][number]
        self.tables.setdefault(self.rank, []).append(tensor.clone())
        return tensor


@pytest.mark.parametrize("old", ["engine", "recompute"])
def test_ranks_share_the_prompts_and_a_rollout_in_use_is_saved_whole(old: Any) -> None:
    config = SMALL.model_copy(update={"updates_per_rollout": 2, "old_log_probs": old})
    model = tiny().double()
    alone = rollouts(model, config)
    alone.next_step()
    expected = alone.state_dict()
    tables: dict[int, list[Tensor]] = {}
    for replay in (False, True):
        sources = []
        for rank in range(2):
            source = rollouts(model, config, group=Pair(rank, tables, replay=replay))
            source.next_step()
            sources.append(source)
        states = [source.state_dict() for source in sources]
    assert states[0] == states[1]
    for ours, theirs in zip(states[0].pop("answers"), expected.pop("answers"), strict=True):
        for key in ("advantage", "old_log_probs"):
            assert ours.pop(key) == pytest.approx(theirs.pop(key), abs=1e-9)
        assert ours == theirs
    assert states[0] == expected
    resumed = rollouts(model, config)
    resumed.load_state_dict({**alone.state_dict()})
    assert resumed._answers == alone._answers
    one_rank = rollouts(model, config, group=Group(rank=1, world_size=2))
    one_rank.load_state_dict(alone.state_dict())
    assert one_rank._answers == alone._answers[3:6] + alone._answers[9:12]


def test_a_failing_grader_costs_its_samples_and_is_counted() -> None:
    def sometimes(completion: str, problem: Mapping[str, Any]) -> float:
        if problem["answer"] % 2:
            raise RuntimeError("boom")
        return letters(completion, problem)

    source = rollouts(tiny(), SMALL, sometimes)
    (batch,) = source.next_step()
    failed = sum(source.problems[source._order[i]][1]["answer"] % 2 for i in range(4)) * 3
    assert 0 < failed < 12
    assert batch.metrics["grader_errors"] == (failed, 12)


def test_what_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(UserError, match="no tokenizer"):
        RolloutSource(Engine(tiny()), PROBLEMS, letters, SMALL)
    with pytest.raises(UserError, match="multiple of the number of ranks"):
        rollouts(tiny(), SMALL, group=Group(world_size=3))
    with pytest.raises(UserError, match="none of 10 problems leaves max_tokens = 60"):
        rollouts(tiny(), SMALL.model_copy(update={"max_tokens": 60}))
    long = {"prompt": [{"role": "user", "content": "xyz" * 60}]}
    source = rollouts(tiny(), SMALL, problems=[*PROBLEMS, long])
    assert (len(source.problems), source.num_skipped) == (10, 1)
    state = source.state_dict()
    with pytest.raises(UserError, match="problems = 10, here it is 9"):
        rollouts(tiny(), SMALL, problems=PROBLEMS[:9]).load_state_dict(state)
    with pytest.raises(UserError, match="seed = 0, here it is 1"):
        rollouts(tiny(), SMALL, seed=1).load_state_dict(state)


def test_grpo_learns_to_write_small_letters() -> None:
    model = tiny()
    config = GrpoConfig(prompts_per_step=8, group_size=8, max_tokens=6)
    source = rollouts(model, config)
    optimizer = AdamW(decay_groups(model.named_parameters(), 0.0))
    rewards = take_steps(model, source, Grpo(config), optimizer, 30)
    assert sum(rewards[:3]) / 3 < 0.35
    assert sum(rewards[-3:]) / 3 > 0.8


def test_a_kl_to_the_reference_holds_the_policy_back() -> None:
    moved = {}
    for beta in (0.0, 5.0):
        model, reference = tiny(), tiny()
        config = GrpoConfig(prompts_per_step=4, group_size=4, max_tokens=6, kl_beta=beta)
        optimizer = AdamW(decay_groups(model.named_parameters(), 0.0))
        objective = Grpo(config, reference)
        take_steps(model, rollouts(model, config), objective, optimizer, 15)
        judge = Grpo(config.model_copy(update={"kl_beta": 1.0}), reference)
        (batch,) = rollouts(model, config.model_copy(update={"kl_beta": 1.0})).next_step()
        total, tokens = judge(model, batch).metrics["kl"]
        moved[beta] = float(total) / float(tokens)
    assert 0 < moved[5.0] < moved[0.0] / 2


def test_a_batch_moves_whole() -> None:
    ids = torch.zeros((1, 2), dtype=torch.int64)
    old = torch.zeros(1, 2)
    batch = RolloutBatch(ids, ids, torch.ones(1), torch.ones(1), old, 3.0, {"reward": (1.0, 2.0)})
    there = batch.to(torch.device("meta"))
    assert {there.ids.device.type, there.old_log_probs.device.type} == {"meta"}
    assert (there.weight, there.metrics) == (3.0, {"reward": (1.0, 2.0)})
    assert batch.num_tokens == 2
