"""Token shards: what is written is read, and what is damaged is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import glassbox.data.shards as shards
from glassbox.core.errors import UserError
from glassbox.data.shards import read_shard, write_shard

DOCUMENTS = [[1, 2, 3], [], [4], [5, 6, 7, 8, 9, 0]]
MASKS = [[0, 1, 1], [], [1], [0, 0, 0, 1, 1, 1]]


def files(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


@pytest.mark.parametrize(("vocab_size", "dtype"), [(10, "<u2"), (1 << 16, "<u2"), (65_537, "<u4")])
def test_documents_come_back(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    documents = [*DOCUMENTS, [vocab_size - 1]]
    info = write_shard(tmp_path / "s", iter(documents), vocab_size=vocab_size, fingerprint="tok")
    shard = read_shard(tmp_path / "s", fingerprint="tok")
    assert shard.info == info
    assert shard.ids.dtype == np.dtype(dtype)
    assert isinstance(shard.ids, np.memmap)
    assert shard.mask is None
    assert (shard.num_documents, shard.num_tokens) == (5, 11)
    bounds = zip(shard.offsets[:-1], shard.offsets[1:], strict=True)
    assert [shard.ids[a:b].tolist() for a, b in bounds] == documents
    assert files(tmp_path / "s") == ["s.bin", "s.json", "s.offsets.npy"]


def test_masks_run_beside_documents(tmp_path: Path) -> None:
    write_shard(tmp_path / "s", DOCUMENTS, vocab_size=10, fingerprint="tok", masks=MASKS)
    mask = read_shard(tmp_path / "s").mask
    assert mask is not None
    assert mask.tolist() == [bit for row in MASKS for bit in row]
    write_shard(tmp_path / "s", DOCUMENTS, vocab_size=10, fingerprint="tok")  # over it, without
    assert read_shard(tmp_path / "s").mask is None
    assert files(tmp_path / "s") == ["s.bin", "s.json", "s.offsets.npy"]


def test_writing_in_many_blocks_is_writing_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "a", DOCUMENTS, vocab_size=10, fingerprint="t", masks=MASKS)
    monkeypatch.setattr(shards, "BUFFERED_IDS", 2)
    write_shard(tmp_path / "b", DOCUMENTS, vocab_size=10, fingerprint="t", masks=MASKS)
    for suffix in (".bin", ".mask.bin", ".offsets.npy", ".json"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_no_documents_make_an_empty_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "s", [], vocab_size=10, fingerprint="tok", masks=[])
    shard = read_shard(tmp_path / "s")
    assert (shard.num_documents, shard.num_tokens, len(shard.ids)) == (0, 0, 0)


@pytest.mark.parametrize("bad", [10, -1])
def test_an_id_outside_the_vocabulary_leaves_no_shard(tmp_path: Path, bad: int) -> None:
    with pytest.raises(ValueError, match=f"id {bad} is outside the vocabulary of 10"):
        write_shard(tmp_path / "s", [[1, bad]], vocab_size=10, fingerprint="tok")
    with pytest.raises(UserError, match=r"no finished shard .* \('s.json' is missing\)"):
        read_shard(tmp_path / "s")
    assert files(tmp_path / "s") == []


@pytest.mark.parametrize("masks", [[[0, 1, 1]], [[0], [], [1], [1] * 6], [[]] * 4])
def test_masks_that_do_not_fit_are_refused(tmp_path: Path, masks: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="a mask of"):
        write_shard(tmp_path / "s", DOCUMENTS, vocab_size=10, fingerprint="tok", masks=masks)


def test_a_shard_whose_writing_was_broken_off_is_not_read(tmp_path: Path) -> None:
    write_shard(tmp_path / "s", DOCUMENTS, vocab_size=10, fingerprint="tok")

    def broken() -> object:
        yield [1, 2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "s", broken(), vocab_size=10, fingerprint="tok")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no finished shard"):
        read_shard(tmp_path / "s")


def test_another_tokenizer_s_shard_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "s", DOCUMENTS, vocab_size=10, fingerprint="aaa")
    with pytest.raises(
        UserError, match="made by tokenizer aaa, not by bbb; tokenize the text again"
    ):
        read_shard(tmp_path / "s", fingerprint="bbb")


@pytest.mark.parametrize("suffix", [".bin", ".mask.bin", ".offsets.npy"])
@pytest.mark.parametrize(
    "damage", ["truncated", "longer", "missing", "flipped", "swapped", "empty"]
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, suffix: str, damage: str) -> None:
    write_shard(tmp_path / "s", DOCUMENTS, vocab_size=10, fingerprint="t", masks=MASKS)
    others = [document[::-1] for document in DOCUMENTS[::-1]]
    write_shard(
        tmp_path / "other",
        others,
        vocab_size=10,
        fingerprint="t",
        masks=[m[::-1] for m in MASKS[::-1]],
    )
    file = tmp_path / f"s{suffix}"
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "swapped":
        assert (tmp_path / f"other{suffix}").stat().st_size == len(content)
        shutil.copy(tmp_path / f"other{suffix}", file)
    else:
        file.write_bytes(
            {
                "truncated": content[:-1],
                "longer": content + b"\0",
                "flipped": content[:-2] + bytes([content[-2] ^ 1]) + content[-1:],
                "empty": b"",
            }[damage]
        )
    with pytest.raises(UserError, match=rf"s\{suffix}' (is missing|is damaged or swapped)"):
        read_shard(tmp_path / "s")


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "|O"},
        {"dtype": "<f8"},
        {"schema": 99},
        {"num_tokens": "many"},
        {"files": 3},
        {"num_documents": 3},
        {"num_tokens": 3},
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    info = write_shard(tmp_path / "s", DOCUMENTS, vocab_size=10, fingerprint="t")
    (tmp_path / "s.json").write_text(json.dumps({**info, **change}))
    with pytest.raises(UserError, match=r"header .*s.json' (is damaged|does not fit)"):
        read_shard(tmp_path / "s")
    for content in ("{", "[]", "3", "", "\0"):
        (tmp_path / "s.json").write_text(content)
        with pytest.raises(UserError, match=r"s.json' is damaged"):
            read_shard(tmp_path / "s")
