"""Sources: every format gives the same documents; damage is counted by file and line, never fatal."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import http.server
import json
import lzma
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from glassbox.core.errors import UserError
from glassbox.data.curation.download import download
from glassbox.data.curation.encodings import decode, detect_encoding
from glassbox.data.curation.pieces import ReadLog
from glassbox.data.curation.runner import bundles
from glassbox.data.curation.sources import (
    DatasetSource,
    FilesSource,
    SourceList,
    UrlSource,
    find_sources,
)
from glassbox.data.curation.step import Record

TEXTS = [
    "One document.",
    "Zwei Dokumente, größer.",
    "三份文件。\nTwo lines.",
    'With "quotes", and, commas',
]


def read(path: Path, size: int = 1 << 20, **options: object) -> tuple[list[Record], ReadLog]:
    source = FilesSource.model_validate({"path": str(path), **options})
    found = find_sources([source], downloads=path)
    log = ReadLog()
    shards = bundles(found.pieces(size), size)
    return [r for shard in shards for piece in shard for r in piece.read(log)], log


def texts(path: Path, size: int = 1 << 20, **options: object) -> list[str]:
    return [record.text for record in read(path, size, **options)[0]]


def json_lines(key: str = "text") -> bytes:
    rows = [json.dumps({key: t, "n": i}, ensure_ascii=False) for i, t in enumerate(TEXTS)]
    return ("\n".join(rows) + "\n").encode()


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", zstandard.ZstdCompressor().compress),
    ],
)
@pytest.mark.parametrize("size", [1, 60, 1 << 20])
def test_json_lines(tmp_path: Path, suffix: str, pack, size: int) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(pack(json_lines()))
    records, log = read(path, size)
    assert [record.text for record in records] == TEXTS
    assert [record.id for record in records] == [f"a.jsonl{suffix}:{n}" for n in (1, 2, 3, 4)]
    assert [record.metadata for record in records] == [{"n": n} for n in range(4)]
    assert log == ReadLog()


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    documents=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=20),
    size=st.integers(1, 300),
    blanks=st.booleans(),
)
def test_cuts_lose_nothing(tmp_path: Path, documents: list[str], size: int, blanks: bool) -> None:
    """Wherever a file is cut, each line is read once and keeps its number, compressed or not."""
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in documents]
    content = ("\n\n" if blanks else "\n").join(lines).encode()
    for name, packed in (("p.jsonl", content), ("p.jsonl.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(packed)
        records, log = read(tmp_path / name, size)
        assert [record.text for record in records] == documents
        step = 2 if blanks else 1
        assert [int(r.id.rpartition(":")[2]) for r in records] == [
            1 + step * i for i in range(len(documents))
        ]
        assert not log.num_corrupt


def test_progress_counts_the_bytes_of_the_file(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", json_lines()), ("a.jsonl.gz", gzip.compress(json_lines()))):
        (tmp_path / name).write_bytes(content)
        found = find_sources([FilesSource(path=str(tmp_path / name))], downloads=tmp_path)
        assert sum(piece.size for piece in found.pieces(50)) == len(content) == found.total_bytes


def test_csv(tmp_path: Path) -> None:
    rows = ['"' + text.replace('"', '""') + f'",{i}' for i, text in enumerate(TEXTS)]
    (tmp_path / "a.csv").write_text("text,n\n" + "\n".join([*rows[:2], "one,two,three", *rows[2:]]))
    records, log = read(tmp_path / "a.csv")
    assert [record.text for record in records] == TEXTS
    assert [record.id for record in records] == [f"a.csv:{n}" for n in (2, 3, 5, 7)]
    assert records[1].metadata == {"n": "1"}
    assert str(log.corrupt[0]).endswith("a.csv' line 4: 3 fields, the header has 2")
    (tmp_path / "b.tsv").write_text("body\tx\nlong " + "w" * 300_000 + "\t1\n")
    assert len(texts(tmp_path / "b.tsv")[0]) == 300_005
    (tmp_path / "c.csv").write_text("a,b\n1,2\n")
    assert "name it with text_field" in str(read(tmp_path / "c.csv")[1].corrupt[0])
    assert texts(tmp_path / "c.csv", text_field="b") == ["2"]


def test_parquet(tmp_path: Path) -> None:
    table = pyarrow.table({"content": TEXTS, "n": [0.5, None, float("nan"), 3.0]})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, row_group_size=1)
    for size in (1, 1 << 20):
        records, _ = read(path, size)
        assert [record.text for record in records] == TEXTS
        assert [record.id for record in records] == [f"a.parquet:{n}" for n in (1, 2, 3, 4)]
        assert [r.metadata["n"] for r in records] == [0.5, None, None, 3.0]
    content = bytearray(path.read_bytes())
    (tmp_path / "cut.parquet").write_bytes(content[:100])
    (tmp_path / "empty.parquet").write_bytes(b"")
    content[20:60] = b"\xff" * 40  # inside the first row group
    (tmp_path / "spoilt.parquet").write_bytes(content)
    for name in ("cut", "empty", "spoilt"):
        _, log = read(tmp_path / f"{name}.parquet")
        assert log.num_corrupt, name


def test_text_files(tmp_path: Path) -> None:
    (tmp_path / "marks.txt").write_text("<|endoftext|>".join(TEXTS))
    assert texts(tmp_path / "marks.txt") == TEXTS
    assert texts(tmp_path / "marks.txt", 1) == TEXTS
    (tmp_path / "one.md").write_text("A page.\n\nIts second paragraph.\n")
    assert texts(tmp_path / "one.md") == ["A page.\n\nIts second paragraph."]
    book = "\n\n".join(f"Paragraph {n} " + "word " * 200 for n in range(2000))
    (tmp_path / "book.txt").write_text(book)
    passages = texts(tmp_path / "book.txt")
    assert max(map(len, passages)) < 9000
    assert "".join("".join(passages).split()) == "".join(book.split())


def test_html_files_become_text(tmp_path: Path) -> None:
    page = (
        "<html><head><meta charset=windows-1251><title>Т</title></head><p>Привет <b>мир</b></html>"
    )
    (tmp_path / "a.html").write_bytes(page.encode("cp1251"))
    (tmp_path / "b.htm").write_bytes(b"\xef\xbb\xbf<p>caf\xc3\xa9</p>")
    records, _ = read(tmp_path)
    assert [(r.text, dict(r.metadata)) for r in records] == [
        ("Привет мир", {"title": "Т"}),
        ("café", {}),
    ]
    assert texts(tmp_path, html="raw")[1] == "<p>café</p>"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_unicode_encodings(tmp_path: Path, encoding: str, size: int) -> None:
    (tmp_path / "a.jsonl").write_text(json_lines().decode(), encoding=encoding)
    assert texts(tmp_path / "a.jsonl", size) == TEXTS
    (tmp_path / "a.csv").write_text("text,n\nplain words here,1\n", encoding=encoding)
    assert texts(tmp_path / "a.csv") == ["plain words here"]


SENTENCES = {
    "cp1252": "Les élèves français étaient déjà arrivés à l'école où ils étudiaient l'été dernier.",
    "cp1250": "Wczoraj wieczorem długo spacerowaliśmy wzdłuż rzeki i rozmawialiśmy o książkach.",
    "cp1251": "Вчера вечером мы долго гуляли по берегу реки и говорили о книгах.",
    "gb18030": "昨天晚上我们在河边散步，谈论了很久关于书籍和音乐的事情。",
    "shift_jis": "昨日の夜、私たちは川沿いを散歩しながら、本や音楽についてずっと話しました。",
}


@pytest.mark.parametrize("encoding", SENTENCES)
def test_other_encodings_are_recognised(tmp_path: Path, encoding: str) -> None:
    text = " ".join([SENTENCES[encoding]] * 5)
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    records, log = read(tmp_path / "a.txt")
    assert [record.text for record in records] == [text]
    assert next(iter(log.repaired)).startswith("read as ")
    assert texts(tmp_path / "a.txt", encoding=encoding) == [text]


def test_damaged_lines_are_mended_and_the_file_stays_utf8(tmp_path: Path) -> None:
    good = "Größere Bäume, schöne Häuser, süße Äpfel, ein Fluß und über allem der Föhn"
    lines = [json.dumps({"text": good}, ensure_ascii=False).encode()] * 3
    lines += [
        b'{"text": "caf\xe9"}',
        '{"text": "schön \x00ß äöü"}'.encode().replace(b"\0", b"\xff"),
    ]
    lines += [b'{"text": "half \\ud83d pair"}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    records, log = read(tmp_path / "a.jsonl")
    assert [r.text for r in records[3:]] == ["café", "schön �ß äöü", "half � pair"]
    assert records[0].text == good
    assert log.repaired == {"not utf-8, read as cp1252": 1, "damaged characters": 1}
    assert not log.num_corrupt


@given(st.binary(max_size=400))
def test_any_bytes_have_an_encoding(content: bytes) -> None:
    name = detect_encoding(content, where="x", whole=True)
    text, _ = decode(content, name)
    assert isinstance(text, str)


@given(st.text(max_size=200))
def test_utf8_is_never_mistaken(text: str) -> None:
    content = text.encode("utf-8", "ignore")
    if not content.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" not in content:
        assert detect_encoding(content, where="x", whole=True) in ("utf-8", "utf-8-sig")


def test_corrupt_records_have_file_and_line(tmp_path: Path) -> None:
    bad = [
        "{oops",
        "[1, 2]",
        '{"text": 3}',
        '{"url": "x"}',
        "[" * 100_000,
        "null",
        '{"text": null}',
    ]
    (tmp_path / "a.jsonl").write_text(
        "\n".join(['{"text": "one"}', *bad, '{"text": "two"}', '"three"'])
    )
    records, log = read(tmp_path / "a.jsonl")
    assert [record.text for record in records] == ["one", "two", "three"]
    assert [entry.line for entry in log.corrupt] == [2, 3, 4, 5, 6, 7, 8]
    assert log.corrupt[1].problem == "expected an object or a string, found an array"
    assert log.corrupt[2].problem == "'text' is a number, no text"
    assert log.corrupt[5].problem == "expected an object or a string, found null"
    assert log.corrupt[6].problem == "'text' is null, no text"
    assert "no text among the keys url" in log.corrupt[3].problem
    found = find_sources([FilesSource(path=str(tmp_path / "a.jsonl"))], downloads=tmp_path)
    (piece,) = found.pieces(1 << 20)
    with pytest.raises(UserError, match=r"a\.jsonl' line 2: not JSON"):
        list(piece.read(ReadLog(strict=True)))


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstandard.ZstdCompressor().compress)],
)
def test_a_file_that_breaks_off_gives_what_came_before(tmp_path: Path, suffix: str, pack) -> None:  # type: ignore[no-untyped-def]
    import random

    draw = random.Random(0)
    lines = [json.dumps({"text": f"{draw.random()} {n}"}) for n in range(12_000)]
    packed = pack("\n".join(lines).encode())
    (tmp_path / f"a.jsonl{suffix}").write_bytes(packed[: len(packed) * 3 // 4])
    (tmp_path / "b.jsonl").write_text('{"text": "the next file"}')
    records, log = read(tmp_path)
    read_lines = [json.dumps({"text": record.text}) for record in records[:-1]]
    assert len(read_lines) > 3_000
    assert read_lines == lines[: len(read_lines)]
    assert records[-1].text == "the next file"
    assert any("the file breaks off" in entry.problem for entry in log.corrupt)
    assert {entry.file for entry in log.corrupt} == {str(tmp_path / f"a.jsonl{suffix}")}


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "b/deep").mkdir(parents=True)
    (tmp_path / "b/deep/x.jsonl").write_bytes(json_lines("body"))
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "c.docx").write_text("?")
    (tmp_path / ".hidden.txt").write_text("?")
    records, _ = read(tmp_path)
    assert [r.id for r in records][:2] == [
        f"{tmp_path.name}/a.txt:1",
        f"{tmp_path.name}/b/deep/x.jsonl:1",
    ]
    twice = TypeAdapter(SourceList).validate_python([str(tmp_path), str(tmp_path)])
    found = find_sources(twice, downloads=tmp_path)
    labels = [r.id for piece in found.pieces(9) for r in piece.read(ReadLog())]
    assert len(set(labels)) == len(labels) == 10
    assert found.ignored == {".docx": 2}
    for path, message in (
        (tmp_path / "c.docx", "no known format"),
        (tmp_path / "nothing", "nothing at"),
    ):
        with pytest.raises(UserError, match=message):
            read(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file ending in"):
        read(tmp_path / "empty")


def test_source_words() -> None:
    adapter = TypeAdapter(SourceList)
    assert adapter.validate_python("a.txt") == (FilesSource(path="a.txt"),)
    mixed = adapter.validate_python(["https://x.org/a.txt", {"kind": "dataset", "name": "d"}])
    assert mixed == (UrlSource(url="https://x.org/a.txt"), DatasetSource(name="d"))


def test_dataset_folder_streaming_and_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "set"
    folder.mkdir()
    pyarrow.parquet.write_table(
        pyarrow.table({"text": TEXTS, "n": [0, 1, 2, 3]}), folder / "a.parquet"
    )
    for streaming in (True, False):
        source = DatasetSource(name=str(folder), streaming=streaming)
        found = find_sources([source], downloads=tmp_path)
        records = [r for piece in found.pieces(1) for r in piece.read(ReadLog())]
        assert [(r.text, dict(r.metadata)) for r in records] == [
            (text, {"n": n}) for n, text in enumerate(TEXTS)
        ]
        assert records[2].id == "set/train:3"
    with pytest.raises(UserError, match="cannot be opened"):
        list(
            find_sources([DatasetSource(name=str(folder), split="no")], downloads=tmp_path).pieces(
                1
            )
        )


CONTENT = bytes(range(256)) * 4000


class Files(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with ranges, breaks the first answers off, and remembers what was asked."""

    cut_answers = 2
    asked: list[str | None]
    tag = '"v1"'

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        type(self).asked.append(wanted)
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        start = 0
        if wanted and self.headers.get("If-Range") == self.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.tag)
        self.end_headers()
        if len(self.asked) <= self.cut_answers:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        if self.path.startswith("/stall") and not start:
            self.wfile.write(body[: len(body) // 2])
            with contextlib.suppress(OSError):
                self.connection.recv(1)  # until the other side is dead
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    Files.asked, Files.tag = [], '"v1"'
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def test_download_resumes_and_is_checked(tmp_path: Path, server: str) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    url = f"{server}/a.jsonl"
    path = download(url, tmp_path, sha256=digest, pause_seconds=0)
    assert path.read_bytes() == CONTENT
    half, most = len(CONTENT) // 2, len(CONTENT) * 3 // 4
    assert Files.asked == [None, f"bytes={half}-", f"bytes={most}-"]
    assert json.loads((tmp_path / "a.jsonl.json").read_text())["sha256"] == digest
    assert download(url, tmp_path, pause_seconds=0) == path
    assert len(Files.asked) == 3  # a whole file is not fetched again
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "a.jsonl.json"]


def test_download_that_was_killed_goes_on_at_its_byte(tmp_path: Path, server: str) -> None:
    Files.asked = [None, None]  # no cuts, but a pause in the middle
    url, digest = f"{server}/stall/a.jsonl", hashlib.sha256(CONTENT).hexdigest()
    code = "import sys; from pathlib import Path; from glassbox.data.curation.download import download; "
    code += "download(sys.argv[1], Path(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", code, url, str(tmp_path)])
    part = tmp_path / "a.jsonl.part"
    while not part.exists() or not part.stat().st_size:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    have = part.stat().st_size
    assert 0 < have < len(CONTENT)
    path = download(url, tmp_path, sha256=digest, pause_seconds=0)
    assert path.read_bytes() == CONTENT
    assert Files.asked[2:] == [None, f"bytes={have}-"]


def test_download_of_a_file_that_changed_begins_anew(tmp_path: Path, server: str) -> None:
    (tmp_path / "a.jsonl.part").write_bytes(b"old content")
    (tmp_path / "a.jsonl.part.json").write_text(json.dumps({f"{server}/a.jsonl": '"v0"'}))
    Files.asked = [None, None]  # no more cuts
    assert download(f"{server}/a.jsonl", tmp_path, pause_seconds=0).read_bytes() == CONTENT


def test_download_refusals(tmp_path: Path, server: str) -> None:
    Files.asked = [None, None]
    with pytest.raises(UserError, match="not 0000"):
        download(f"{server}/a.jsonl", tmp_path, sha256="0" * 64, pause_seconds=0)
    assert not list(tmp_path.glob("a.jsonl*part"))
    with pytest.raises(UserError, match="answers 404"):
        download(f"{server}/missing.jsonl", tmp_path, pause_seconds=0)
    with pytest.raises(UserError, match="no http or https address"):
        download("ftp://x/y.txt", tmp_path)
    with pytest.raises(UserError, match=r"cannot fetch .* 5 times"):
        download("http://127.0.0.1:9/a.txt", tmp_path, pause_seconds=0)
