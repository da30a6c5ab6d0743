"""Readers of preferences, of single answers and of judged steps; their batches and their order."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.data.conversations import BadRow
from glassbox.data.feedback import (
    EncodedFeedback,
    FeedbackSource,
    encode_feedback,
    feedback_of_row,
    read_feedback,
)
from glassbox.data.preferences import encode_preferences, pair_of_row, read_preferences
from glassbox.data.scored import (
    ScoredPairSource,
    SolutionSource,
    encode_solutions,
    judged_steps,
    read_solutions,
    scored_pairs,
    solution_of_row,
)
from glassbox.models.causal_lm import CausalLM
from glassbox.models.scorer import add_score_head, sequence_scores
from glassbox.ops.cross_entropy import IGNORE
from glassbox.tuning.preference.dpo import DpoConfig
from glassbox.tuning.preference.reference_free import CpoConfig
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
USER = [{"role": "user", "content": "Who?"}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


# ---- rows ------------------------------------------------------------------------------------


def test_hh_dialogues_are_pairs_with_the_turns_they_share_as_prompt() -> None:
    start = "\n\nHuman: Who?\n\nAssistant: What\n\nHuman: I ask"
    pair = pair_of_row(
        {"chosen": f"{start}\n\nAssistant: A fox.", "rejected": f"{start}\n\nAssistant: No: idea"}
    )
    assert pair.prompt == [*USER, *said("What"), {"role": "user", "content": "I ask"}]
    assert (pair.chosen, pair.rejected) == (said("A fox."), said("No: idea"))
    row = {"prompt": f"{start}\n\nAssistant:", "chosen": " A fox.", "rejected": " No."}
    assert pair_of_row(row).prompt == pair.prompt
    with pytest.raises(BadRow, match="'chosen' does not begin and end with the assistant"):
        pair_of_row({"chosen": start, "rejected": f"{start}\n\nAssistant: x"})


def test_a_margin_is_a_number() -> None:
    row: dict[str, Any] = {"prompt": "Who?", "chosen": "a", "rejected": "b"}
    assert pair_of_row(row).margin is None
    assert pair_of_row({**row, "margin": 2}).margin == 2.0
    for bad in ("2", True, float("nan")):
        with pytest.raises(BadRow, match="key 'margin'"):
            pair_of_row({**row, "margin": bad})
    encoded, _ = encode_preferences([pair_of_row({**row, "margin": 2})], TOKENIZER, max_length=64)
    assert encoded[0].margin == 2.0


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Who?", "completion": "A fox.", "label": True},
        {"prompt": USER, "completion": said("A fox."), "label": True},
        {"messages": [*USER, *said("A fox.")], "label": True},
        {"completion": [*USER, *said("A fox.")], "label": True},
        {
            "conversations": [
                {"from": "human", "value": "Who?"},
                {"from": "gpt", "value": "A fox."},
            ],
            "kto_tag": True,
        },
        {"instruction": "Who?", "output": "A fox.", "kto_tag": True},
    ],
    ids=["texts", "messages", "llama-factory", "implicit", "sharegpt", "alpaca"],
)
def test_single_answers_are_known_by_their_keys(row: dict[str, Any]) -> None:
    (found,) = feedback_of_row(row)
    assert (found.prompt, found.answer, found.desirable) == (USER, said("A fox."), True)
    (other,) = feedback_of_row({k: False if v is True else v for k, v in row.items()})
    assert not other.desirable


def test_a_pair_is_a_good_and_a_bad_answer() -> None:
    good, bad = feedback_of_row({"prompt": "Who?", "chosen": "a", "rejected": "b"})
    assert (good.answer, good.desirable) == (said("a"), True)
    assert (bad.answer, bad.desirable) == (said("b"), False)
    assert good.prompt == bad.prompt == USER


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "x", "completion": "y"}, "missing key 'label'"),
        ({"prompt": "x", "completion": "y", "label": 1}, "key 'label' = 1; give true or false"),
        ({"prompt": "x", "label": True}, "are of no known form"),
        ({"messages": said("y"), "label": True}, "nothing before the answer"),
        ({"messages": [*said("x"), *USER], "label": True}, "not the assistant's"),
        ({"messages": "x", "label": True}, "key 'messages' is no list"),
    ],
)
def test_bad_answers_are_named(row: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(BadRow, match=complaint):
        feedback_of_row(row)
    path = tmp_path / "answers.jsonl"
    fine = {"prompt": "x", "completion": "y", "label": False}
    path.write_text(f"{json.dumps(fine)}\n{json.dumps(row)}\n")
    with pytest.raises(UserError, match=rf"answers\.jsonl' line 2: .*{complaint}"):
        read_feedback(path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"labels": None}, "missing key 'labels'"),
        ({"labels": [1]}, "2 completions but 1 labels"),
        ({"labels": [1, 2]}, "true and false"),
        ({"completions": ["a", ""]}, "a list of texts"),
        ({"completions": []}, "a list of texts"),
        ({"prompt": 3}, "key 'prompt' is no list"),
    ],
)
def test_bad_solutions_are_named(change: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    row: dict[str, Any] = {"prompt": "x", "completions": ["a", "b"], "labels": [True, 0], **change}
    row = {key: value for key, value in row.items() if value is not None}
    with pytest.raises(BadRow, match=complaint):
        solution_of_row(row)
    path = tmp_path / "steps.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(UserError, match=r"steps\.json' row 1: "):
        read_solutions(path)


# ---- ids -------------------------------------------------------------------------------------


def feedback(count: int) -> list[EncodedFeedback]:
    return [
        EncodedFeedback([10 + i // 2] * (1 + i // 2 % 3), [20 + i] * (1 + i % 4), [1] * (1 + i % 4), i % 2 == 0)
        for i in range(count)
    ]  # fmt: skip


@given(st.integers(14, 40), st.integers(1, 40))
def test_a_prompt_gives_way_to_the_answer_that_stands_in(limit: int, longer: int) -> None:
    one = EncodedFeedback(list(range(1, 1 + limit)), [50] * 3, [1, 0, 1], True)
    other = EncodedFeedback(
        [60], [70] * min(longer, limit - 1), [1] * min(longer, limit - 1), False
    )
    ids, mask = one.row(other, limit)
    assert len(ids) == len(mask) <= limit
    assert ids[-len(other.answer_ids) :] == other.answer_ids
    kept = ids[: -len(other.answer_ids)]
    assert kept == one.prompt_ids[-len(kept) :]
    assert mask == [0] * len(kept) + other.answer_mask


def test_long_prompts_are_cut_and_long_answers_left_out() -> None:
    rows = [
        feedback_of_row({"prompt": "fox " * 30, "completion": "A fox.", "label": True})[0],
        feedback_of_row({"prompt": "Who?", "completion": "fox " * 60, "label": False})[0],
    ]
    encoded, report = encode_feedback(rows, TOKENIZER, max_length=24)
    assert (report.num_pairs, report.shortened, report.skipped) == (1, 1, 1)
    (one,) = encoded
    assert one.length == 24
    assert report.dropped_ids > 0
    whole, mask = TOKENIZER.encode_chat([*rows[0].prompt, *rows[0].answer])
    assert (
        one.prompt_ids + one.answer_ids
        == whole[: max(i for i, m in enumerate(mask) if m) + 1][-24:]
    )
    with pytest.raises(UserError, match="none of 1 answers fits"):
        encode_feedback(rows[1:], TOKENIZER, max_length=24)


def test_every_answer_gets_one_to_another_prompt() -> None:
    rows = feedback(10)
    source = FeedbackSource(rows, per_step=6, per_batch=2, max_length=16, seed=1)
    for _ in range(5):
        for batch in source.next_step():
            for own, other, targets in zip(
                batch.ids, batch.other_ids, batch.other_targets, strict=True
            ):
                assert own[0] == other[0]  # the same prompt
                said = {int(t) for t in targets if t != IGNORE}
                assert len(said) == 1
                assert (said.pop() - 20) // 2 != int(own[0]) - 10  # whose answer is another's
    with pytest.raises(UserError, match="all answers are to one prompt"):
        FeedbackSource(rows[:2], per_step=2, max_length=16)
    with pytest.raises(UserError, match="3 answers a step cannot be shared by 2 ranks"):
        FeedbackSource(rows, per_step=3, max_length=16, group=Group(world_size=2))


def test_the_answers_of_a_step_stand_in_for_each_other() -> None:
    """As the paper has it: the mismatched answers are the batch's own, each moved on by one."""
    rows = [EncodedFeedback([i], [20 + i] * (i + 1), [1] * (i + 1), True) for i in range(1, 6)]
    (batch,) = FeedbackSource(rows, per_step=5, max_length=16).next_step()
    own = [int(t[t != IGNORE][0]) for t in batch.targets]
    assert [int(t[t != IGNORE][0]) for t in batch.other_targets] == [own[-1], *own[:-1]]
    moved = batch.to(torch.device("meta"))
    assert moved.other_targets.device.type == "meta"
    assert batch.num_tokens == 2 * sum(len(row.answer_ids) for row in rows)


def test_pairs_are_scored_at_their_last_ids() -> None:
    rows = [{"prompt": "Who?", "chosen": "A red fox.", "rejected": "no"}, {"prompt": "Who was there?", "chosen": "x", "rejected": "A girl and a fox."}]  # fmt: skip
    pairs, _ = encode_preferences(map(pair_of_row, rows), TOKENIZER, max_length=64)
    batch = scored_pairs(pairs)
    sides = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
    for ids, end, side in zip(batch.ids.tolist(), batch.ends.tolist(), sides, strict=True):
        assert ids[: end + 1] == side
        assert TOKENIZER.id_to_token(ids[end]) == "<|im_end|>"
    model = add_score_head(tiny_chat_model(TOKENIZER), torch.Generator().manual_seed(0))
    hidden = model.hidden_states(batch.ids)
    expected = model.scores(hidden)[torch.arange(4), batch.ends]
    torch.testing.assert_close(sequence_scores(model, sides), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(sequence_scores(model, sides), sequence_scores(model, sides))


def test_steps_end_where_they_are_judged() -> None:
    solution = solution_of_row(
        {"prompt": "Where?", "completions": ["The old tree.", "A ball"], "labels": [True, False]}
    )
    ((encoded,), report) = encode_solutions([solution], TOKENIZER, max_length=64)
    ends = [i for i, label in enumerate(encoded.labels) if label != IGNORE]
    assert [encoded.labels[i] for i in ends] == [1, 0]
    prompt = TOKENIZER.encode_chat_prompt(solution.prompt)
    assert encoded.ids[: len(prompt)] == prompt
    assert TOKENIZER.decode(encoded.ids[len(prompt) : ends[0] + 1]) == "The old tree.\n"
    assert TOKENIZER.decode(encoded.ids[ends[0] + 1 : ends[1] + 1]) == "A ball\n"
    assert report.num_pairs == 1
    short, _ = encode_solutions([solution], TOKENIZER, max_length=len(encoded.ids) - 2)
    assert short[0].ids == encoded.ids[2:]
    with pytest.raises(UserError, match="none of 1 solutions fits"):
        encode_solutions([solution], TOKENIZER, max_length=8)
    batch = judged_steps([*short, encoded])
    assert batch.labels[0, -2:].tolist() == [IGNORE, IGNORE]
    assert batch.to(torch.device("meta")).ids.device.type == "meta"


def test_sources_resume_at_the_exact_example() -> None:
    pairs, _ = encode_preferences(
        [pair_of_row({"prompt": f"Who {i}?", "chosen": "a", "rejected": "b" * i}) for i in range(1, 8)],
        TOKENIZER, max_length=64,
    )  # fmt: skip
    solutions, _ = encode_solutions(
        [solution_of_row({"prompt": "x" * i, "completions": ["a"], "labels": [1]}) for i in range(1, 8)],
        TOKENIZER, max_length=64,
    )  # fmt: skip
    for make in (
        lambda: ScoredPairSource(pairs, per_step=3, per_batch=2, seed=4),
        lambda: SolutionSource(solutions, per_step=3, per_batch=2, seed=4),
        lambda: FeedbackSource(feedback(7), per_step=3, per_batch=2, seed=4, max_length=16),
    ):
        one, other = make(), make()
        for _ in range(4):
            one.next_step()
        state = json.loads(json.dumps(one.state_dict()))
        other.load_state_dict(state)
        for a, b in zip(one.next_step(), other.next_step(), strict=True):
            assert torch.equal(a.ids, b.ids)
        with pytest.raises(UserError, match="the checkpoint was made with"):
            make().load_state_dict({**state, "seed": 5})


# ---- heads -----------------------------------------------------------------------------------


def test_a_model_without_a_head_says_so_and_one_with_a_head_keeps_it() -> None:
    model = tiny_chat_model(TOKENIZER)
    with pytest.raises(UserError, match="no scalar head"):
        sequence_scores(model, [[1, 2]])
    add_score_head(model, torch.Generator().manual_seed(0))
    assert model.score is not None
    before = model.score.weight.clone()
    add_score_head(model)
    assert torch.equal(before, model.score.weight)
    assert CausalLM(model.config).score is not None
    deviation = float(before.pow(2).mean().sqrt())
    assert 0.3 < deviation * (model.config.hidden_size + 1) ** 0.5 < 2
    with pytest.raises(UserError, match="an empty sequence"):
        sequence_scores(model, [[1], []])
    model.train()
    sequence_scores(model, [[1]])
    assert model.training


def test_settings_without_a_meaning_are_refused() -> None:
    for config in (DpoConfig, CpoConfig):
        with pytest.raises(ValueError, match=r"label_smoothing = 0\.1 has no meaning"):
            config(loss="hinge", label_smoothing=0.1)


# ---- real files ------------------------------------------------------------------------------


@pytest.mark.realdata
def test_llama_factorys_files_are_read() -> None:
    root = os.environ.get("GLASSBOX_TESTDATA")
    if root is None:
        pytest.skip("GLASSBOX_TESTDATA names no folder")
    pairs = read_preferences(Path(root) / "llama-factory" / "dpo_en_demo.json")
    answers = read_feedback(Path(root) / "llama-factory" / "kto_en_demo.json")
    assert (len(pairs), len(answers)) == (300, 300)
    assert 0 < sum(answer.desirable for answer in answers) < 300
