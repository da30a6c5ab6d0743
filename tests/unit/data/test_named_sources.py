"""Data by one name: paths of every format, named sets, the hub over a connection that breaks."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from glassbox.core.errors import UserError
from glassbox.data import hub as module
from glassbox.data import sources
from glassbox.data.catalogue import CATALOGUE
from glassbox.data.conversations import read_chats, read_rows
from glassbox.data.curation.pieces import ReadLog
from glassbox.data.curation.sources import FilesSource, find_sources
from glassbox.data.feedback import read_feedback
from glassbox.data.hub import HubFile, HubName, card_patterns, choose_files, parse_name
from glassbox.data.preferences import read_preferences
from glassbox.data.scored import read_solutions
from glassbox.data.sources import find_data
from glassbox.data.text import find_corpus, read_documents
from glassbox.tuning.grading.graders import read_problems
from support.pretend_hub import COMMIT, NAME, pretend_hub

TEXTS = ["One document.", "Zwei, größer.", '三 "quoted"\nline']


def packed_table(columns: dict[str, list[Any]]) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


def json_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in (("GLASSBOX_CACHE", "cache"), ("HF_HOME", "hf")):
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    return tmp_path / "cache"


@pytest.mark.parametrize(
    "name", ["a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"]
)
def test_documents_of_every_format(tmp_path: Path, name: str) -> None:
    contents = {
        "txt": "<|endoftext|>".join(TEXTS).encode(),
        "jsonl": json_lines([{"n": 1, "content": text} for text in TEXTS]),
        "csv": b"n,text\n"
        + "".join('1,"' + text.replace('"', '""') + '"\n' for text in TEXTS).encode(),
        "parquet": packed_table({"text": TEXTS, "n": [1, 2, 3]}),
    }
    content = contents[name.split(".")[1]]
    path = tmp_path / "data" / name
    path.parent.mkdir()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert list(read_documents(find_corpus(str(path)))) == TEXTS
    assert list(read_documents(find_corpus(str(path.parent)))) == TEXTS


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b'text\n"one', "line 2: unexpected end of data; mend it, or clean"),
        ("a.csv", b"a,b\n1,2\n", "no text among the columns a, b"),
        ("a.csv", "text\ncaf\xe9\n".encode("latin-1"), "is not UTF-8; convert it first"),
        ("a.parquet", b"PAR1 and no more", "mend it, or clean"),
        ("a.json", b"{}", "is JSON, not JSON lines"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 9999)[:-20], "cannot be read to its end"),
    ],
)
def test_damaged_tables_of_text_are_named(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        list(read_documents(tmp_path / name))
    assert name in str(error.value)


CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def test_rows_of_every_format(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(b"\n\n" + json_lines([CHAT, CHAT])))
    (folder / "b.json").write_bytes(b"\xef\xbb\xbf\n" + json.dumps([CHAT], indent=1).encode())
    cell = json.dumps(CHAT["messages"]).replace('"', '""')
    (folder / "c.csv").write_text(f'messages,n\n"{cell}",1\n')
    (folder / "d.parquet").write_bytes(packed_table({"messages": [CHAT["messages"]]}))
    (folder / ".hidden.jsonl").write_text("{")
    (folder / "notes.txt").write_text("no rows")
    assert read_chats(folder) == [CHAT["messages"]] * 5
    places = [place for place, _ in read_rows(folder)]
    assert [place.rpartition("/")[2] for place in places] == [
        "a.jsonl.gz' line 3", "a.jsonl.gz' line 4", "b.json' row 1", "c.csv' line 2",
        "d.parquet' row 1",
    ]  # fmt: skip
    (folder / "pairs.tsv").write_text("prompt\tchosen\trejected\tlabel\nq\tg\tb\tTrue\n")
    assert read_preferences(folder / "pairs.tsv")[0].chosen[0]["content"] == "g"
    assert next(read_rows(folder / "pairs.tsv"))[1]["label"] is True


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": }\n', "line 2: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "line 2 is not UTF-8"),
        ("a.jsonl", b"[" * 200_000, "nested too deep"),
        ("a.jsonl", b'{"a": ' + b"[" * 200_000, "line 1: not valid JSON: nested too deep"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "a number is too long"),
        ("a.json", b"[\n{},\n{]", "line 3: not valid JSON"),
        ("a.csv", b"a,b\n1\n", "line 2: 1 cells, the header has 2"),
        ("a.csv", b'a,b\n"1,2\n', "line 2: unexpected end of data"),
        ("a.parquet", b"PAR1 and no more", "row 1:"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 10_000)[:-20], "cannot be read to its end"),
    ],
)
def test_damaged_rows_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        list(read_rows(tmp_path / name))
    assert name in str(error.value)


def test_what_is_no_data_is_told(tmp_path: Path) -> None:
    for name, words in (
        ("tinystoris", "did you mean 'tinystories'"),
        ("no such place", "data get --list"),
        ("hf:one-word", "is no name of a data set"),
        ("hf:a/../../b", "is no name of a data set"),
        ("the-verdict:train", "no data at"),
        ("x" * 5000, "no data at"),
        ("a\0b", "no data at"),
    ):
        with pytest.raises(UserError, match=words):
            find_data(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no file ending in .*\.jsonl"):
        list(read_rows(tmp_path / "empty"))
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is no file and no folder"):
        list(read_rows(tmp_path / "pipe"))


PARTS = {
    "data/train-00000-of-00002.parquet": packed_table(
        {"text": [f"train {n}" for n in range(3000)]}
    ),
    "data/train-00001-of-00002.parquet": packed_table({"text": ["last"]}),
    "data/test-00000-of-00001.parquet": packed_table({"text": ["test"]}),
    "extra/train.jsonl": json_lines([{"text": "other"}]),
}


def hub_texts(name: str) -> list[str]:
    return list(read_documents(find_corpus(name)))


def test_a_set_of_the_hub_is_fetched_over_a_connection_that_breaks_and_only_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretend_hub(PARTS, cuts=2) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        found = hub_texts(f"hf:{NAME}")
        assert found == [*(f"train {n}" for n in range(3000)), "last"]
        assert hub.cuts == 0
        train = [name for name in PARTS if name.startswith("data/train")]
        assert "data/test-00000-of-00001.parquet" not in hub.sent
        assert hub_texts(f"hf:{NAME}:test") == ["test"]
        assert hub_texts(f"hf:{NAME}/extra") == ["other"]
        assert hub_texts(f"hf:{NAME}/data/train-00001-of-00002.parquet") == ["last"]
        for name, words in (
            (f"hf:{NAME}:validation", "no file of that split"),
            (f"hf:{NAME}/nowhere", "no file of that split"),
            ("hf:me/other", "cannot be fetched"),
        ):
            with pytest.raises(UserError, match=words):
                find_corpus(name)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody there
    assert hub_texts(f"hf:{NAME}") == found
    with pytest.raises(UserError, match="HF_ENDPOINT names a mirror"):
        find_corpus("hf:me/other")
    (complete,) = cache.glob("data/me--tiny--train/complete.json")
    noted = json.loads(complete.read_text())
    assert noted["commit"] == COMMIT
    assert noted["files"][train[0]] == [
        len(PARTS[train[0]]),
        hashlib.sha256(PARTS[train[0]]).hexdigest(),
    ]


def test_rows_of_every_kind_by_a_hub_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = {"prompt": "q", "chosen": "g", "rejected": "b"}
    files = {
        "chats/train.parquet": packed_table({"messages": [CHAT["messages"]]}),
        "pairs/train.jsonl.gz": gzip.compress(json_lines([pair])),
        "sums/test.jsonl": json_lines([{"question": "1 + 1?", "answer": "2"}]),
        "steps/train.json": json.dumps(
            [{"prompt": "q", "completions": ["a"], "labels": [True]}]
        ).encode(),
    }
    with pretend_hub(files) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        assert read_chats(f"hf:{NAME}/chats") == [CHAT["messages"]]
        assert read_preferences(f"hf:{NAME}/pairs")[0].rejected[0]["content"] == "b"
        assert read_feedback(f"hf:{NAME}/pairs")[1].desirable is False
        assert read_problems(f"hf:{NAME}/sums:test")[0]["answer"] == "2"
        assert read_solutions(f"hf:{NAME}/steps")[0].labels == [True]


def test_curation_takes_names_too(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend_hub(PARTS) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        found = find_sources([FilesSource(path=f"hf:{NAME}:test")], downloads=cache)
    records = [record for piece in found.pieces(1 << 20) for record in piece.read(ReadLog())]
    assert [record.text for record in records] == ["test"]
    assert records[0].id == "me--tiny--test/data/test-00000-of-00001.parquet:1"


def test_a_small_parquet_file_of_gigabytes_is_refused(tmp_path: Path) -> None:
    words = pyarrow.array(["good", "a" * 8_000_000])
    lists = pyarrow.ListArray.from_arrays(
        [0, 1, 256],
        pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, *[1] * 255], pyarrow.int32()), words),
    )
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"messages": lists}), path, compression="zstd", store_schema=False
    )
    rows = read_rows(path)
    assert next(rows)[1] == {"messages": ["good"]}
    with pytest.raises(UserError, match=r"row 2 has 2,040,002,040 bytes, at most 268,435,456"):
        next(rows)


def test_what_came_before_a_break_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library keeps what it has by blocks of ten megabytes."""
    text = ("word " * 19 + "line\n") * 240_000
    with pretend_hub({"train.txt": text.encode()}, cuts=1) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        assert "".join(hub_texts(f"hf:{NAME}")) == text
        assert hub.cuts == 0
        assert hub.sent["train.txt"] < len(text) + (10 << 20)


@pytest.mark.parametrize("name", ["train.parquet", "train.jsonl"])
def test_bytes_that_are_not_the_hubs_are_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rows = {"text": ["a", "b"]}
    content = packed_table(rows) if name.endswith("parquet") else json_lines([{"text": "a"}])
    with pretend_hub({name: content}, spoilt=1) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        assert hub_texts(f"hf:{NAME}")[0] == "a"  # the second answer is right
    with pretend_hub({name: content}, spoilt=9) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("GLASSBOX_CACHE", str(cache / "other"))
        with pytest.raises(UserError, match="has another checksum than the hub names, twice"):
            find_corpus(f"hf:{NAME}")
        assert not list((cache / "other").rglob(name))


def test_a_fetch_that_was_killed_goes_on_at_its_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretend_hub(PARTS) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        whole = module._fetch_file
        calls: list[str] = []

        def killed(name: HubName, commit: str, file: HubFile, target: Path) -> None:
            if calls:
                raise KeyboardInterrupt
            calls.append(file.path)
            whole(name, commit, file, target)

        monkeypatch.setattr(module, "_fetch_file", killed)
        with pytest.raises(KeyboardInterrupt):
            find_corpus(f"hf:{NAME}")
        monkeypatch.setattr(module, "_fetch_file", whole)
        hub.sent.clear()
        assert hub_texts(f"hf:{NAME}")[-1] == "last"
        assert "data/train-00000-of-00002.parquet" not in hub.sent


def hub_files(*paths: str) -> list[HubFile]:
    return [HubFile(path, 1) for path in ("README.md", ".gitattributes", *paths)]


@pytest.mark.parametrize(
    ("name", "paths", "chosen"),
    [
        ("o/n", ["a.parquet", "b.parquet"], ["a.parquet", "b.parquet"]),
        ("o/n", ["a.txt", "data/train-0.parquet"], ["data/train-0.parquet"]),
        ("o/n:test", ["a.jsonl"], []),
        ("o/n", ["train_sft-0.parquet", "train-0.parquet"], ["train-0.parquet"]),
        ("o/n:train_sft", ["train_sft-0.parquet", "train_gen-0.parquet"], ["train_sft-0.parquet"]),
        ("o/n:validation", ["val.jsonl", "train.jsonl"], ["val.jsonl"]),
        ("o/n", ["a/train.jsonl.gz", "b/train.jsonl.gz"], ["a/train.jsonl.gz", "b/train.jsonl.gz"]),
        ("o/n/a", ["a/train.jsonl.gz", "ab/train.jsonl.gz"], ["a/train.jsonl.gz"]),
        ("o/n", ["constrained.jsonl", "test.jsonl"], []),
        ("o/n", ["script.py", "x.tar"], []),
    ],
)
def test_which_files_a_split_has(name: str, paths: list[str], chosen: list[str]) -> None:
    found = choose_files(parse_name(name), hub_files(*paths), [])
    assert [file.path for file in found] == chosen


def test_the_card_decides_where_it_says_something() -> None:
    card = """---
license: mit
configs:
- config_name: one
  data_files:
  - split: train
    path: [one/a-*, two/b.parquet]
- config_name: two
  default: true
  data_files:
  - {split: train, path: "two/**"}
---
# A set"""
    assert card_patterns(card, parse_name("o/n/one")) == ["one/a-*", "two/b.parquet"]
    assert card_patterns(card, parse_name("o/n")) == ["two/**"]
    assert card_patterns(card, parse_name("o/n:test")) == []
    assert card_patterns(card, parse_name("o/n/else")) == []
    for odd in ("", "---\n: [\n---", "---\nconfigs: 3\n---", "---\n- a\n---"):
        assert card_patterns(odd, parse_name("o/n")) == []
    files = hub_files("one/a-0.parquet", "one/c.parquet", "two/b.parquet", "two/deep/c.jsonl")
    paths = [f.path for f in choose_files(parse_name("o/n"), files, ["two/**"])]
    assert paths == ["two/b.parquet", "two/deep/c.jsonl"]


class Verdict(http.server.BaseHTTPRequestHandler):
    text = b"I had always thought\n\n" * 2000
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.text)))
        self.end_headers()
        self.wfile.write(self.text)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def address() -> Iterator[str]:
    Verdict.asked = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Verdict) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}/the-verdict.txt"
        made.shutdown()


def test_a_named_file_is_fetched_once_and_checked(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    entry = replace(CATALOGUE["the-verdict"], url=address)
    monkeypatch.setitem(sources.CATALOGUE, "the-verdict", entry)
    with pytest.raises(UserError, match="the file was removed"):
        find_data("the-verdict")
    digest = hashlib.sha256(Verdict.text).hexdigest()
    monkeypatch.setitem(sources.CATALOGUE, "the-verdict", replace(entry, sha256=digest))
    for _ in range(2):
        assert find_data("the-verdict").read_bytes() == Verdict.text
    assert Verdict.asked == 2


def test_the_catalogue() -> None:
    asked = "tinystories tinyshakespeare the-verdict wikitext-2 fineweb-edu openwebtext alpaca ultrachat hh gsm8k"
    assert set(asked.split()) <= set(CATALOGUE)
    for entry in CATALOGUE.values():
        assert bool(entry.hub) != bool(entry.url)
        assert entry.megabytes > 0
        assert entry.licence
        assert entry.url.startswith("https://") or parse_name(entry.hub, entry.split)
        assert len(entry.sha256) == 64 * bool(entry.url)
