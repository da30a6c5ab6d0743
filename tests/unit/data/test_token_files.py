"""Ids in plain files, as nanoGPT, llm.c and NumPy write them: found, mapped, cut, packed, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.errors import UserError
from glassbox.data.loader import PackedRows
from glassbox.data.shards import write_shard
from glassbox.data.token_files import (
    find_token_files,
    open_token_file,
    part,
    split_heldout,
    write_token_file,
)

EOS = 7


def pairs_of(shard, row_length: int) -> list[tuple[int, int]]:  # type: ignore[no-untyped-def]
    """All (input, target) places that are trained, sorted."""
    rows = PackedRows(shard, row_length)
    return sorted(
        (start + k, start + k + 1)
        for row in range(len(rows))
        for start, length in rows.pieces(row)
        for k in range(length)
    )


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 9), min_size=2, max_size=80), row=st.integers(2, 9))
def test_every_id_but_the_first_is_predicted_once(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], row: int
) -> None:
    path = tmp_path_factory.mktemp("a") / "train.bin"
    path.write_bytes(np.array(ids, "<u2").tobytes())
    shard = open_token_file(path, vocab_size=10, eos_id=EOS)
    assert shard.ids.tolist() == ids
    assert pairs_of(shard, row) == [(k, k + 1) for k in range(len(ids) - 1)]
    # documents are apart: none has the end inside
    for start, end in zip(shard.offsets[:-1], shard.offsets[1:] + 1, strict=True):
        assert EOS not in ids[start + 1 : end - 1]
    if len(ids) > 4:
        one, other = split_heldout(shard, 0.3, longest=5)
        trained, held = pairs_of(one, row), pairs_of(other, row)
        assert trained + held == [(k, k + 1) for k in range(len(ids) - 1)]
        assert max(np.diff(other.offsets)) <= 5


@pytest.mark.parametrize("kind", ["u2", "u4", "llm.c", "llm.c-32", "npy", "npy64"])
def test_files_of_other_programs(tmp_path: Path, kind: str) -> None:
    ids = np.arange(5000) % 997
    path = tmp_path / ("x.npy" if kind.startswith("npy") else "x.bin")
    if kind == "npy":
        np.save(path, ids.astype(np.uint16))
    elif kind == "npy64":
        np.save(path, ids.astype(np.int64))
    elif kind.startswith("llm.c"):
        head = np.zeros(256, "<i4")
        head[:3] = (20240801, 7, len(ids)) if kind.endswith("32") else (20240520, 1, len(ids))
        path.write_bytes(
            head.tobytes() + ids.astype("<u4" if kind.endswith("32") else "<u2").tobytes()
        )
    else:
        path.write_bytes(ids.astype(f"<{kind}").tobytes())
    shard = open_token_file(path, vocab_size=1000, eos_id=EOS)
    assert shard.ids.tolist() == ids.tolist()
    assert isinstance(shard.ids, np.memmap)


def test_what_was_written_is_what_nanogpt_reads(tmp_path: Path) -> None:
    documents = [[1, 2, 3], [], [4]]
    path = tmp_path / "train.bin"
    assert write_token_file(path, documents, vocab_size=50_257, eos_id=EOS) == (3, 7)
    assert np.memmap(path, dtype=np.uint16, mode="r").tolist() == [1, 2, 3, EOS, EOS, 4, EOS]
    write_token_file(path, documents, vocab_size=70_000, eos_id=EOS)
    assert np.fromfile(path, np.uint32).tolist() == [1, 2, 3, EOS, EOS, 4, EOS]
    with pytest.raises(ValueError, match="outside the vocabulary"):
        write_token_file(path, [[99]], vocab_size=50, eos_id=EOS)


def test_what_is_no_file_of_ids_is_refused(tmp_path: Path) -> None:
    def refused(name: str, content: bytes, words: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words):
            open_token_file(tmp_path / name, vocab_size=1000, eos_id=EOS)

    refused("a.bin", np.array([1, 5000], "<u2").tobytes(), "has id 5000, and the tokenizer 1,000")
    refused("b.bin", b"\1\0\1", "no whole number of uint16 ids")
    refused("c.bin", b"", "no whole number")
    refused("d.bin", b"\1\0", "holds 1 ids")
    head = np.zeros(256, "<i4")
    head[:3] = (20240520, 1, 9)
    refused("e.bin", head.tobytes() + b"\1\0" * 5, "names 9 ids in its header and holds 5")
    refused("f.npy", b"\x93NUMPY", "is no .npy file")
    np.save(tmp_path / "g.npy", np.zeros((2, 2), np.uint16))
    refused("g.npy", (tmp_path / "g.npy").read_bytes(), "of 2 axes")
    np.save(tmp_path / "h.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused("h.npy", (tmp_path / "h.npy").read_bytes(), "is no .npy file")
    np.save(tmp_path / "i.npy", np.array([-1, 2]))
    refused("i.npy", (tmp_path / "i.npy").read_bytes(), "has id -1")


def test_what_a_path_means(tmp_path: Path) -> None:
    for name in ("train.bin", "val.bin", "other.bin", "notes.txt"):
        (tmp_path / name).write_bytes(b"\1\0\2\0")
    for path in (tmp_path, tmp_path / "train.bin"):
        found = find_token_files(path)
        assert found is not None
        assert (found.train, found.heldout) == (tmp_path / "train.bin", tmp_path / "val.bin")
    other = find_token_files(tmp_path / "other.bin")
    assert other is not None
    assert other.heldout is None
    assert find_token_files(tmp_path / "notes.txt") is None
    assert find_token_files(tmp_path / "missing.bin") is None
    shards = tmp_path / "shards"
    shards.mkdir()
    assert find_token_files(shards) is None
    for name in ("train", "heldout"):
        write_shard(shards / name, [[1, 2]], vocab_size=9, fingerprint="x")
    for path in (shards, shards / "train", shards / "train.bin"):
        found = find_token_files(path)
        assert found is not None
        assert found.is_shard
        assert (found.train, found.heldout) == (shards / "train", shards / "heldout")


def test_a_long_document_is_cut_for_what_reads_documents_whole(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(np.ones(100, "<u2").tobytes())
    shard = open_token_file(tmp_path / "a.bin", vocab_size=9, eos_id=EOS)
    assert shard.num_documents == 1
    cut = part(shard, 0, 100, longest=16)
    assert np.diff(cut.offsets).max() == 16
    assert pairs_of(cut, 8) == pairs_of(shard, 8)
