"""Conversations and preferences: the forms they are read from, what is trained, what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.data.conversations import encode_fitting, read_chats, write_chat_shard
from glassbox.data.feedback import encode_feedback, read_feedback
from glassbox.data.loader import PackedRows
from glassbox.data.order import SeededOrder
from glassbox.data.preferences import (
    PreferencePair,
    PreferenceSource,
    encode_preferences,
    read_preferences,
)
from glassbox.data.shards import read_shard
from glassbox.ops.cross_entropy import IGNORE
from glassbox.tokenizers import train_bpe

TOKENIZER = train_bpe(["Who has the kite? Mia has the kite, and Tom has the ball."], 290)
END = TOKENIZER.special_tokens["<|im_end|>"]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def write(path: Path, rows: list[Any], *, as_list: bool = False) -> Path:
    text = json.dumps(rows) if as_list else "\n".join(json.dumps(row) for row in rows) + "\n\n"
    path.write_text(text, encoding="utf-8")
    return path


# ---- reading --------------------------------------------------------------------------------

FORMS = [
    ({"messages": [user("a"), assistant("b")]}, [user("a"), assistant("b")]),
    (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        [user("a"), assistant("b")],
    ),
    (
        {
            "system": "s",
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": "f()"},
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "b"},
            ],
        },
        [
            system("s"),
            user("a"),
            assistant("f()"),
            {"role": "tool", "content": "1"},
            assistant("b"),
        ],
    ),
    ({"instruction": "a", "input": "", "output": "b"}, [user("a"), assistant("b")]),
    ({"instruction": "a", "input": "i", "output": "b"}, [user("a\ni"), assistant("b")]),
    (
        {"instruction": "a", "output": "b", "system": "s", "history": [["q", "r"]]},
        [system("s"), user("q"), assistant("r"), user("a"), assistant("b")],
    ),
]


@pytest.mark.parametrize("as_list", [False, True])
def test_every_form_is_known_by_its_keys(tmp_path: Path, as_list: bool) -> None:
    path = write(tmp_path / "chats.json", [row for row, _ in FORMS], as_list=as_list)
    assert read_chats(path) == [messages for _, messages in FORMS]


def test_a_line_separator_inside_a_string_is_no_new_line(tmp_path: Path) -> None:
    row = {"messages": [user("a\u2028b"), assistant("c\x85d")]}
    (tmp_path / "c.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert read_chats(tmp_path / "c.jsonl") == [row["messages"]]


GOOD = {"messages": [user("a"), assistant("b")]}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "x"}, ["['text']", "messages", "conversations", "instruction"]),
        ({"messages": []}, ["'messages'", "at least one"]),
        ({"messages": [{"role": "bot", "content": "a"}]}, ["messages[0].role", "'bot'"]),
        ({"messages": [{"role": "user", "content": 3}]}, ["messages[0].content", "int", "text"]),
        ({"messages": [user("a"), {"role": "assistant"}]}, ["messages[1].content", "NoneType"]),
        ({"messages": ["hi"]}, ["messages[0]", "object"]),
        ({"messages": [{"speaker": "x"}]}, ["messages[0]", "speaker", "role and content"]),
        ({"conversations": [{"from": "robot", "value": "a"}]}, ["conversations[0].from", "robot"]),
        ({"instruction": 1, "output": "b"}, ["'instruction'", "int"]),
        ({"instruction": "a", "output": "b", "history": [["q"]]}, ["'history'"]),
        ({"instruction": "a", "output": "b", "history": "q"}, ["'history'", "list"]),
        ({**GOOD, "tools": [{"name": "f"}]}, ["'tools'"]),
        ([1], ["list", "object"]),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path: Path, row: Any, words: list[str]) -> None:
    path = write(tmp_path / "chats.jsonl", [GOOD, row])
    with pytest.raises(UserError) as error:
        read_chats(path)
    for word in ["chats.jsonl' line 2", *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data at"):
        read_chats(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="holds no file"):
        read_chats(tmp_path)
    (tmp_path / "b.jsonl").write_bytes(b'{"messages"\xff')
    with pytest.raises(UserError, match="not UTF-8"):
        read_chats(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_text('{}\n{"a": }\n')
    with pytest.raises(UserError, match=r"c\.jsonl' line 1: keys \[\]"):
        read_chats(tmp_path / "c.jsonl")
    (tmp_path / "d.jsonl").write_text(json.dumps(GOOD) + '\n{"a": }\n')
    with pytest.raises(UserError, match=r"d\.jsonl' line 2: not valid JSON"):
        read_chats(tmp_path / "d.jsonl")
    (tmp_path / "e.json").write_text("[\n{},\n{]")
    with pytest.raises(UserError, match=r"e\.json' line 3: not valid JSON"):
        read_chats(tmp_path / "e.json")
    (tmp_path / "f.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no conversations"):
        read_chats(tmp_path / "f.jsonl")


# ---- shards ---------------------------------------------------------------------------------


def test_exactly_the_answers_and_their_ends_are_trained(tmp_path: Path) -> None:
    chats = [
        [system("Be brief."), user("Who?"), assistant("Mia has it."), user("?"), assistant("Tom")],
        [user("the kite"), assistant("x"), user("never answered")],
    ]
    report = write_chat_shard(tmp_path / "s", chats, TOKENIZER, row_length=200)
    shard = read_shard(tmp_path / "s", fingerprint=TOKENIZER.fingerprint)
    batch = PackedRows(shard, 200).batch([0])
    trained = [int(t) for t in batch.targets[0] if t != IGNORE]
    assert report.num_trained == len(trained)
    assert report.num_chats == 2
    assert report.num_tokens == shard.num_tokens
    answers = ["Mia has it.", "Tom", "x"]
    first, second, third = ([*TOKENIZER.encode(text), END] for text in answers)
    assert trained in (first + second + third, third + first + second)  # packing may reorder chats
    # the first answer token is predicted from the end of the header
    place = int((batch.targets[0] != IGNORE).nonzero()[0])
    header = TOKENIZER.encode("<|im_start|>assistant\n", allow_special=True)
    assert batch.ids[0, place + 1 - len(header) : place + 1].tolist() == header


LONG = [
    system("s"),
    user("one one one one"),
    assistant("first answer"),
    user("two two two two"),
    assistant("second answer"),
    user("three"),
    assistant("last answer"),
]


def test_long_chats_lose_whole_turns_from_the_left_and_no_answer(tmp_path: Path) -> None:
    whole = len(TOKENIZER.encode_chat(LONG)[0]) - 1  # without the line end behind the last answer
    two_turns = [LONG[0], *LONG[3:]]
    one_turn = [LONG[0], *LONG[5:]]
    sizes = [len(TOKENIZER.encode_chat(chat)[0]) - 1 for chat in (LONG, two_turns, one_turn)]
    for size, kept, dropped in zip(sizes, (LONG, two_turns, one_turn), range(3), strict=True):
        ids, mask = TOKENIZER.encode_chat(kept)
        assert encode_fitting(LONG, TOKENIZER, size) == (ids[:-1], mask[:-1], dropped)
        report = write_chat_shard(tmp_path / "s", [LONG], TOKENIZER, row_length=size - 1)
        rows = PackedRows(read_shard(tmp_path / "s"), size - 1)
        assert len(rows) == 1  # nothing was cut by packing
        assert (report.shortened, report.dropped_turns) == (int(dropped > 0), dropped)
    assert whole == sizes[0]
    assert encode_fitting(LONG, TOKENIZER, sizes[2] - 1) == ([], [], 0)


def test_chats_that_cannot_fit_are_counted_or_refused(tmp_path: Path) -> None:
    chats = [LONG, [user("a"), assistant("b")]]
    report = write_chat_shard(tmp_path / "s", chats, TOKENIZER, row_length=20)
    assert (report.num_chats, report.skipped) == (1, 1)
    assert read_shard(tmp_path / "s").num_documents == 1
    with pytest.raises(UserError, match="none of 1 conversations fits into 11"):
        write_chat_shard(tmp_path / "s", [LONG], TOKENIZER, row_length=10)


@settings(deadline=None, max_examples=40)
@given(
    turns=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), min_size=1, max_size=6),
    max_ids=st.integers(5, 120),
    with_system=st.booleans(),
)
def test_what_fits_is_the_longest_end_of_whole_turns(
    turns: list[tuple[int, int]], max_ids: int, with_system: bool
) -> None:
    chat = [m for q, a in turns for m in (user("the " * q), assistant("kite " * a))]
    head = [system("s")] if with_system else []
    ids, mask, dropped = encode_fitting([*head, *chat], TOKENIZER, max_ids)
    lengths = [
        len(TOKENIZER.encode_chat([*head, *chat[2 * n :]])[0]) - 1 for n in range(len(turns))
    ]
    fitting = [n for n, length in enumerate(lengths) if length <= max_ids]
    if not fitting:
        assert (ids, mask, dropped) == ([], [], 0)
        return
    assert dropped == fitting[0]
    assert len(ids) == lengths[dropped]
    assert mask[-1] == 1
    assert ids[-1] == END


# ---- preferences ----------------------------------------------------------------------------

PAIR_FORMS = [
    {"prompt": [user("q")], "chosen": [assistant("g")], "rejected": [assistant("b")]},
    {"prompt": "q", "chosen": "g", "rejected": "b"},
    {"instruction": "q", "input": "", "chosen": "g", "rejected": "b"},
    {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "g"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    {"messages": [user("q")], "chosen": assistant("g"), "rejected": assistant("b")},
    {"chosen": [user("q"), assistant("g")], "rejected": [user("q"), assistant("b")]},
    {"prompt": "q", "chosen": [user("q"), assistant("g")], "rejected": [user("q"), assistant("b")]},
]


def test_every_form_of_pair_is_the_same_pair(tmp_path: Path) -> None:
    pairs = read_preferences(write(tmp_path / "p.jsonl", PAIR_FORMS))
    assert pairs == [PreferencePair([user("q")], [assistant("g")], [assistant("b")])] * 7


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "q", "chosen": "g"}, ["'rejected'", "missing"]),
        ({"chosen": "g", "rejected": "b"}, ["'prompt'", "missing"]),
        ({"prompt": "q", "chosen": [user("g")], "rejected": "b"}, ["'chosen'", "assistant"]),
        ({"prompt": 3, "chosen": "g", "rejected": "b"}, ["'prompt'"]),
        ({"prompt": "q", "chosen": "g", "rejected": None}, ["'rejected'"]),
    ],
)
def test_a_bad_pair_is_named_with_file_and_line(
    tmp_path: Path, row: dict[str, Any], words: list[str]
) -> None:
    path = write(tmp_path / "p.jsonl", [PAIR_FORMS[0], row])
    with pytest.raises(UserError) as error:
        read_preferences(path)
    for word in ["p.jsonl' line 2", *words]:
        assert word in str(error.value)


def pairs_of(*texts: tuple[str, str, str]) -> list[PreferencePair]:
    return [PreferencePair([user(q)], [assistant(g)], [assistant(b)]) for q, g, b in texts]


def test_both_answers_follow_the_same_prompt_and_only_they_are_scored() -> None:
    history = [user("a"), assistant("earlier answer"), user("who")]
    pair = PreferencePair(history, [assistant("Mia")], [assistant("the ball Tom")])
    (encoded,), report = encode_preferences([pair], TOKENIZER, max_length=100)
    prompt = TOKENIZER.encode_chat_prompt(history)
    assert encoded.chosen_ids == [*prompt, *TOKENIZER.encode("Mia"), END]
    assert encoded.rejected_ids == [*prompt, *TOKENIZER.encode("the ball Tom"), END]
    for mask in (encoded.chosen_mask, encoded.rejected_mask):
        assert mask == [0] * len(prompt) + [1] * (len(mask) - len(prompt))
    assert (report.num_pairs, report.shortened, report.skipped) == (1, 0, 0)


def test_long_prompts_are_cut_from_the_left_alike_for_both_answers() -> None:
    pairs = pairs_of(("the kite " * 20, "Mia", "Tom has the ball"), ("a", "b", "c " * 60))
    encoded, report = encode_preferences(pairs, TOKENIZER, max_length=40)
    assert len(encoded) == 1
    prompt = TOKENIZER.encode_chat_prompt(pairs[0].prompt)
    longer = [*TOKENIZER.encode("Tom has the ball"), END]
    kept = 40 - len(longer)
    assert encoded[0].length == 40
    assert encoded[0].rejected_ids == prompt[-kept:] + longer
    assert encoded[0].chosen_ids == [*prompt[-kept:], *TOKENIZER.encode("Mia"), END]
    assert (report.shortened, report.dropped_ids, report.skipped) == (1, len(prompt) - kept, 1)
    with pytest.raises(UserError, match="none of 1 pairs fits into 3"):
        encode_preferences(pairs[:1], TOKENIZER, max_length=3)


MANY, _ = encode_preferences(
    pairs_of(*[("the " * (i % 4), "kite " * (1 + i % 3), f"ball {i}") for i in range(11)]),
    TOKENIZER,
    max_length=60,
)


def rows_of(batches: list[Any]) -> list[tuple[int, ...]]:
    return [tuple(row[row != 0].tolist()) for batch in batches for row in batch.ids]


def test_batches_hold_chosen_then_rejected_shifted_by_one() -> None:
    source = PreferenceSource(MANY, per_step=4, per_batch=4)
    (batch,) = source.next_step()
    numbers = sorted((source._order[i] for i in range(4)), key=lambda n: (MANY[n].length, n))
    assert 0 < batch.num_tokens < batch.ids.numel()  # neither padding nor a prompt twice
    for place, number in enumerate(numbers):
        pair = MANY[number]
        for row, ids, mask in (
            (place, pair.chosen_ids, pair.chosen_mask),
            (4 + place, pair.rejected_ids, pair.rejected_mask),
        ):
            count = len(ids) - 1
            assert batch.ids[row, :count].tolist() == ids[:-1]
            expected = [i if m else IGNORE for i, m in zip(ids[1:], mask[1:], strict=True)]
            assert batch.targets[row, :count].tolist() == expected
            assert (batch.targets[row, count:] == IGNORE).all()


def test_every_epoch_holds_every_pair_once_in_a_new_order() -> None:
    order = SeededOrder(11, 3, "pairs")
    epochs = [[order[e * 11 + i] for i in range(11)] for e in range(3)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] == [SeededOrder(11, 3, "pairs")[i] for i in range(11)]


def test_a_source_goes_on_at_the_exact_pair_and_ranks_share_the_step() -> None:
    reference = torch.arange(22.0).view(11, 2)
    alone = PreferenceSource(MANY, per_step=4, per_batch=3, seed=5, reference=reference)
    alone.next_step()
    state = json.loads(json.dumps(alone.state_dict()))
    expected = alone.next_step()
    again = PreferenceSource(MANY, per_step=4, per_batch=3, seed=5, reference=reference)
    again.load_state_dict(state)
    for ours, theirs in zip(again.next_step(), expected, strict=True):
        assert torch.equal(ours.ids, theirs.ids)
        assert torch.equal(ours.reference, theirs.reference)
    shared = []
    for rank in range(2):
        source = PreferenceSource(MANY, per_step=4, seed=5, group=Group(rank=rank, world_size=2))
        source.load_state_dict(state)
        shared += rows_of(source.next_step())
    assert sorted(shared) == sorted(rows_of(expected))
    with pytest.raises(UserError, match="pairs = 11, here it is 10"):
        PreferenceSource(MANY[:10], per_step=4, seed=5).load_state_dict(state)
    with pytest.raises(UserError, match="multiple of the number of ranks"):
        PreferenceSource(MANY, per_step=3, group=Group(world_size=2))
    with pytest.raises(ValueError, match="does not fit 11 pairs"):
        PreferenceSource(MANY, per_step=3, reference=torch.zeros(3, 2))


def test_reference_scores_stay_with_their_answers() -> None:
    reference = torch.arange(22.0).view(11, 2)
    source = PreferenceSource(MANY, per_step=11, reference=reference)
    (batch,) = source.next_step()
    by_ids = {tuple(p.chosen_ids[:-1]): 2.0 * n for n, p in enumerate(MANY)}
    by_ids |= {tuple(p.rejected_ids[:-1]): 2.0 * n + 1 for n, p in enumerate(MANY)}
    rows = rows_of([batch])
    assert len(by_ids) == len(rows) == 22
    assert [by_ids[row] for row in rows] == batch.reference.tolist()


def test_rows_that_teach_nothing_are_counted_and_the_others_kept(tmp_path: Path) -> None:
    same = {"prompt": "q", "chosen": "g", "rejected": "g"}
    pairs = [same, {"prompt": "q", "chosen": "g", "rejected": "b"}, same]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, pairs)))
    found = read_preferences(path)
    assert [pair.rejected[0]["content"] for pair in found] == ["b"]
    assert found.skipped == 2
    assert found.example.startswith(f"'{path}' line 1: 'chosen' and 'rejected' are the same")
    answers = read_feedback(path)
    assert [answer.desirable for answer in answers] == [True, False]
    assert answers.skipped == 2
    for encoded, report in (
        encode_preferences(found, TOKENIZER, max_length=64),
        encode_feedback(answers, TOKENIZER, max_length=64),
    ):
        assert len(encoded) == report.num_pairs
        assert report.useless == 2
        assert report.example == found.example
    chats = [{"instruction": "a", "output": ""}, {"instruction": "a", "output": "b"}]
    path.write_text("\n".join(map(json.dumps, chats)))
    read = read_chats(path)
    assert len(read) == read.skipped == 1
    assert read.describe("conversations").startswith("1 conversations were left out; the first is")
    path.write_text(json.dumps(same))
    with pytest.raises(UserError, match="holds no preference pairs that teach anything"):
        read_preferences(path)
    path.write_text(json.dumps({"prompt": "q", "chosen": "g"}) + "\n" + json.dumps(same))
    with pytest.raises(UserError, match="line 1: missing key 'rejected'"):
        read_preferences(path)
