"""Filling in the middle: both orders, every character kept, rates, seeds, tokens; and a recipe that trains on it."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.errors import UserError
from glassbox.data.infilling import (
    FimConfig,
    FimCounts,
    cut_in_three,
    cut_to_fit,
    fill_in_the_middle,
)
from glassbox.data.loader import PackedRows
from glassbox.data.shards import read_shard, write_shard
from glassbox.runs.recipe import read_recipe
from glassbox.runs.train import run_recipe
from glassbox.tokenizers import KINDS, SPECIAL_TOKENS, Tokenizer, train_tokenizer

STORY = "Mia has a kite. The kite is red, and Tom wants it. 米娅有一只风筝。\n"
PRE, MID, SUF = FimConfig().tokens


def tokenizer_of(kind: str = "bpe") -> Tokenizer:
    return train_tokenizer(
        [STORY] * 3, 400, kind=kind, special_tokens=(*SPECIAL_TOKENS, PRE, MID, SUF)
    )


TOKENIZER = tokenizer_of()
MARKS = FimConfig().ids(TOKENIZER)
texts = st.text(st.characters(codec="utf-8"), max_size=30)


def whole(
    documents: list[str], tokenizer: Tokenizer, config: FimConfig, seed: int
) -> list[list[int]]:
    """Documents of less than a row, without the marks of their ends."""
    found = fill_in_the_middle(documents, tokenizer, config, seed=seed, row_length=4096)
    eos = tokenizer.eos_id
    rows = list(found)
    assert all(ids[0] == eos == ids[-1] and eos not in ids[1:-1] for ids in rows)
    return [ids[1:-1] for ids in rows]


def read_back(ids: list[int], tokenizer: Tokenizer = TOKENIZER) -> tuple[str, str]:
    """The order of a document and its text, taken apart by its marks alone."""
    pre, mid, suf = FimConfig().ids(tokenizer)
    if pre not in ids:
        return "plain", tokenizer.decode(ids)
    assert [ids.count(mark) for mark in (pre, mid, suf)] == [1, 1, 1]
    assert ids[0] == pre
    before, rest = ids[1 : ids.index(suf)], ids[ids.index(suf) + 1 :]
    suffix, last = rest[: rest.index(mid)], rest[rest.index(mid) + 1 :]
    return "psm" if before else "spm or empty prefix", b"".join(
        tokenizer.decode_bytes(part) for part in (before, last, suffix)
    ).decode()


@settings(deadline=None, max_examples=60)
@given(st.lists(texts, max_size=8), st.integers(0, 3), st.floats(0, 1))
def test_no_character_is_lost_or_moved(documents: list[str], seed: int, rate: float) -> None:
    documents = [unicodedata.normalize("NFC", text) for text in documents]  # as encoding does
    found = whole(documents, TOKENIZER, FimConfig(rate=rate), seed)
    assert [read_back(ids)[1] for ids in found] == documents


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_takes_it(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    config = FimConfig(rate=1)
    marks = set(config.ids(tokenizer))
    for ids in whole([STORY] * 20, tokenizer, config, 1):
        assert marks <= set(ids)
        if kind == "bpe":
            assert read_back(ids, tokenizer)[1] == STORY


def test_the_orders_are_the_papers() -> None:
    pre, mid, suf = MARKS
    one = FimConfig(rate=1, spm_rate=0)
    other = FimConfig(rate=1, spm_rate=1)
    drawn = [whole([STORY], TOKENIZER, config, 4)[0] for config in (one, other)]
    # the cut is the same in both, so one gives the parts of the other
    psm, spm = drawn
    at = psm.index(suf), psm.index(mid)
    p, s, m = psm[1 : at[0]], psm[at[0] + 1 : at[1]], psm[at[1] + 1 :]
    assert psm == [pre, *p, suf, *s, mid, *m]
    assert spm == [pre, suf, *s, mid, *p, *m]
    assert min(map(len, (p, s, m))) > 0


def test_rates_are_met_and_the_cut_is_even() -> None:
    documents = [STORY] * 4000
    config = FimConfig(rate=0.3, spm_rate=0.25)
    found = whole(documents, TOKENIZER, config, 0)
    moved = [ids for ids in found if ids[0] == MARKS[0]]
    # four standard deviations: sqrt(4000 * 0.3 * 0.7) = 29, sqrt(1200 * 0.25 * 0.75) = 15
    assert abs(len(moved) - 1200) < 116
    suffix_first = sum(ids[1] == MARKS[2] for ids in moved)
    assert abs(suffix_first - 0.25 * len(moved)) < 60 + len(moved) / len(STORY)  # or no prefix
    thirds = [len(part) for _ in range(3000) for part in cut_in_three(STORY, random.Random(_))]
    means = [sum(thirds[k::3]) / 3000 / len(STORY) for k in range(3)]
    assert means == pytest.approx([1 / 3] * 3, abs=0.02)  # three times sqrt(1/18/3000)


def test_what_becomes_of_a_document_is_a_matter_of_seed_and_place_alone() -> None:
    config = FimConfig()
    documents = [f"{STORY}{n}" for n in range(50)]
    one, again, other = (whole(documents, TOKENIZER, config, seed) for seed in (1, 1, 2))
    assert one == again != other
    changed = whole(["x", *documents[1:]], TOKENIZER, config, 1)
    assert changed[1:] == one[1:]


def test_marks_in_the_text_itself_stay_text() -> None:
    text = f"{PRE}a{SUF}b{MID}c"
    for rate in (0, 1):
        (ids,) = whole([text], TOKENIZER, FimConfig(rate=rate), 3)
        assert sum(i in MARKS for i in ids) == 3 * rate


CODE = "\n".join(
    f"def area_{n}(width, height):\n    # the area of rectangle {n}\n    return width * height + {n}\n"
    for n in range(60)
)


@pytest.mark.parametrize("row_length", [64, 256])
def test_prefix_middle_and_suffix_share_a_row_of_long_documents_too(
    tmp_path: Path, row_length: int
) -> None:
    """Rearranged before it is cut into rows, a document of 2,400 tokens never has all three in one."""
    documents = [CODE.replace("rectangle", f"rectangle {k}") for k in range(6)]
    assert min(len(TOKENIZER.encode(text)) for text in documents) > 4 * 256
    counts = FimCounts()
    encoded = fill_in_the_middle(
        documents, TOKENIZER, FimConfig(rate=0.5), seed=0, row_length=row_length, counts=counts
    )
    info = write_shard(
        tmp_path / "s", encoded, vocab_size=TOKENIZER.vocab_size, fingerprint="x",
        extra={"fim": vars(counts)},
    )  # fmt: skip
    shard = read_shard(tmp_path / "s")
    rows = PackedRows(shard, row_length)
    wholes = broken = 0
    for row in range(len(rows)):
        for start, length in rows.pieces(row):
            ids = shard.ids[start : start + length + 1].tolist()
            marks = [ids.count(mark) for mark in MARKS]
            if sum(marks):
                ends = ids[0] == ids[-1] == TOKENIZER.eos_id
                wholes += marks == [1, 1, 1] and ends
                broken += not (marks == [1, 1, 1] and ends)
    assert broken == 0
    assert wholes == counts.rearranged == info["fim"]["rearranged"]
    assert counts.unfit == 0
    assert 0.3 < counts.rearranged / counts.stretches < 0.7
    assert counts.stretches > 6 * 1200 / row_length


@settings(deadline=None, max_examples=40)
@given(st.text(st.characters(codec="utf-8"), max_size=400), st.integers(0, 5))
def test_stretches_of_a_document_joined_are_the_document(text: str, seed: int) -> None:
    text = unicodedata.normalize("NFC", text)
    assert "".join(cut_to_fit(text, TOKENIZER, 9)) == text
    eos = TOKENIZER.eos_id
    config = FimConfig(rate=0.6)
    rows = list(fill_in_the_middle([text], TOKENIZER, config, seed=seed, row_length=32))
    assert rows[0][0] == rows[-1][-1] == eos
    found = []
    for ids in rows:
        if ids[1:2] == [MARKS[0]]:
            assert ids[0] == ids[-1] == eos
            assert len(ids) <= 33
        found.append(read_back([i for i in ids if i != eos])[1])
    assert unicodedata.normalize("NFC", "".join(found)) == text


def test_a_row_too_short_for_three_parts_is_refused() -> None:
    rows = fill_in_the_middle(["x"], TOKENIZER, FimConfig(), seed=0, row_length=31)
    with pytest.raises(UserError, match="needs rows of 32 tokens or more"):
        next(rows)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"no token '<\|fim_prefix\|>'; name its own"):
        whole(["x"], train_tokenizer([STORY], 300), FimConfig(), 0)
    with pytest.raises(ValueError, match="three different ones"):
        FimConfig(prefix_token="<x>", suffix_token="<x>")


def test_a_recipe_trains_on_it_and_its_checkpoint_knows_the_tokens(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{STORY} {n}"}) for n in range(80)]
    (tmp_path / "web.jsonl").write_text("\n".join(lines), encoding="utf-8")
    words = [
        f"out={tmp_path / 'run'}", f"data.path={tmp_path / 'web.jsonl'}", "device=cpu",
        "tokenizer.vocab_size=300", "data.rows_per_step=1", "data.row_length=96", "train.steps=2",
        "train.schedule.warmup_steps=1", "evaluation.every=0", "data.fim.rate=0.6", "data.fim.spm_rate=0.5",
        "data.fim.middle_token=<fill>",
    ]  # fmt: skip
    recipe: Any = read_recipe("pretrain.yaml", words)
    assert run_recipe(recipe)["status"] == "finished"
    tokenizer = Tokenizer.load(tmp_path / "run" / "checkpoints" / "step-00000002")
    marks = recipe.data.fim.ids(tokenizer)
    assert tokenizer.special_tokens["<fill>"] == marks[1]
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert facts["fim"]["stretches"] > facts["fim"]["rearranged"] > 0 == facts["fim"]["unfit"]
    train, heldout = (read_shard(tmp_path / "run" / "data" / n) for n in ("train", "heldout"))
    counts = [int((train.ids == mark).sum()) for mark in marks]
    assert counts[0] == counts[1] == counts[2]
    assert 0.35 < counts[0] / train.num_documents < 0.85  # 0.6 +- 4 sqrt(0.24 / 76)
    assert not any((heldout.ids == mark).any() for mark in marks)
    assert (train.ids[train.offsets[1:] - 1] == tokenizer.eos_id).all()
