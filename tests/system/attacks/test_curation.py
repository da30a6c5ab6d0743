"""Files and servers that were made to stop a curation run: it ends well, and says what it passed over."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import lzma
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from glassbox.core.errors import UserError
from glassbox.data.curation import download as downloading
from glassbox.data.curation.download import download
from glassbox.data.curation.limits import Limits, TooSlow, time_limit
from glassbox.data.curation.page_parser import PageFailed, PageParser
from glassbox.data.curation.runner import Output, run_curation
from glassbox.data.curation.sources import FilesSource, find_sources
from glassbox.data.curation.step import Record

GOOD = {"text": "a document like any other"}
MEMORY = 2 << 30


def curate(home: Path, source: str, *words: str, seconds: float = 60) -> tuple[Any, str]:
    """report.json and what was said, of `glassbox data curate` with 2 GB of address space a process."""
    said = subprocess.run(
        [sys.executable, "-m", "glassbox", "data", "curate", "curate-web.yaml", "steps=[]",
         "workers=2", f"source={source}", f"out={home / 'out'}", *words],
        cwd=home, capture_output=True, text=True, check=False, timeout=seconds,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )  # fmt: skip
    assert "Traceback" not in said.stderr, said.stderr
    report = home / "out" / "report.json"
    return (json.loads(report.read_text()) if report.exists() else None), said.stderr


def dropped(report: Any) -> dict[str, int]:
    return {
        f"{step['name']}: {why}": count
        for step in report["steps"]
        for why, count in step["dropped"].items()
    }


def test_a_line_of_gigabytes_in_a_small_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    line = json.dumps(GOOD).encode() + b"\n"
    for suffix, pack, megabytes in (
        (".zst", zstandard.ZstdCompressor().compress, 4096),
        (".gz", gzip.compress, 512),
        (".xz", lzma.compress, 512),
    ):
        packed = pack(b"x" * (64 << 20)) * (megabytes // 64)
        assert len(packed) < 1 << 20
        path = tmp_path / f"data/a.jsonl{suffix}"
        path.write_bytes(pack(line) + packed + pack(b"\n" + line))
    report, _ = curate(tmp_path, "data")
    assert report["kept"] == 6
    assert dropped(report) == {"source: too large": 3}
    sample = report["dropped_samples"]["source: too large"][0]
    assert sample["id"].startswith("data/a.jsonl")
    assert sample["id"].endswith(":2")
    assert "at most 16,777,216" in sample["detail"]


def read(path: Path, largest: int, **options: Any) -> tuple[list[str], Any]:
    """The texts and the tally of a source, with a small limit of bytes."""
    source = FilesSource.model_validate({"path": str(path), **options})
    out = path.parent / f"{path.name}.out"
    (out / "documents").mkdir(parents=True)
    tally = run_curation(
        find_sources([source], downloads=out), [], Output(out, limits=Limits(largest))
    )
    files = sorted((out / "documents").iterdir())
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [row["text"] for row in rows], tally


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "one"}\n{"text": "' + "x" * 3000 + '"}\n{"text": "two"}\n'),
        ("a.csv", 'text,n\none,1\n"' + "x\n" * 1500 + '",2\ntwo,3\n'),
        ("b.csv", "text,n\none,1\n" + "x" * 3000 + ",2\ntwo,3\n"),
        ("a.txt", "one<|endoftext|>" + "x" * 3000 + "<|endoftext|>two"),
        ("c.jsonl", '{"text": "one"}\n{"text": "' + "\\u00e9" * 499 + '"}\n{"text": "two"}\n'),
    ],
)
def test_a_record_beyond_the_limit_is_counted_in_every_format(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    texts, tally = read(tmp_path / name, 1000)
    assert [text for text in texts if "x" not in text] == ["one", "two"]
    assert tally.steps["source"].dropped == {"too large": 1}
    assert tally.read == 3
    for suffix, pack in ((".gz", gzip.compress), (".xz", lzma.compress)):
        packed = tmp_path / f"{name}{suffix}"
        packed.write_bytes(pack(content.encode()))
        assert read(packed, 1000)[1].steps["source"].dropped == {"too large": 1}
    if name.endswith(".jsonl"):
        wide = tmp_path / f"wide-{name}"
        wide.write_text(content, encoding="utf-16")
        assert read(wide, 1000)[1].steps["source"].dropped == {"too large": 1}


def test_a_megabyte_of_white_space_is_no_document(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number, space in enumerate((" ", "\n", " \n", "\t\n\n")):
        (tmp_path / f"data/{number}.txt").write_text(space * (1 << 21))
    (tmp_path / "data/z.txt").write_text(" " * (3 << 20) + "words")
    report, _ = curate(tmp_path, "data")
    assert report["kept"] == 1


PAGES = {
    "attributes": "<p " + " ".join(f"a{n}" for n in range(200_000)) + ">word</p>",
    "quoted": "<p " + "".join(f"a{n}='>'" for n in range(200_000)) + ">word</p>",
    "deep": "<div>" * 400_000 + "word",
    "formatting": "".join(f"<b class={n}>" for n in range(40_000)) + "</p>" * 40_000 + "word",
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_stalls_the_parser_is_dropped_in_time(name: str) -> None:
    parser = PageParser(seconds=0.5)
    began = time.monotonic()
    with contextlib.suppress(PageFailed):
        assert parser(PAGES[name])[0].endswith("word")
    assert time.monotonic() - began < 5
    text, title = parser("<title>t</title><p>next" + " word" * 4000)
    assert title == "t"
    assert text.startswith("next word")
    parser.close()


def test_hostile_pages_are_counted_among_good_ones(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.html").write_text("<p>good</p>")
    (tmp_path / "data/b.html").write_text(PAGES["attributes"] * 2)
    (tmp_path / "data/c.html").write_text('<meta charset="punycode">' + "é" * 10_000, "latin-1")
    row = json.dumps({"text": PAGES["attributes"] * 2})
    (tmp_path / "data/d.jsonl").write_text(row + "\n" + json.dumps(GOOD) + "\n")
    report, _ = curate(
        tmp_path,
        "data",
        "max_record_seconds=1",
        "steps=[{kind: html_to_text, when: always, max_seconds: 0.5}]",
    )
    assert report["kept"] == 3
    assert report["corrupt"] == 1
    assert "the parser was ended" in report["corrupt_listed"][0]
    assert dropped(report) == {"html_to_text: a page that cannot be parsed": 1}


def endless(record: Record) -> Record:
    """A step that never ends for one record, in Python code or in a regular expression."""
    import re

    if record.text == "loop":
        with contextlib.suppress(Exception):
            while True:
                pass
    if record.text == "pattern":
        re.match(r"(a+)+$", "a" * 60 + "b")
    return record


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_that_never_ends_loses_one_record(tmp_path: Path, workers: int) -> None:
    lines = [json.dumps({"text": text}) for text in ("one", "loop", "two", "pattern", "three")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "out/documents").mkdir(parents=True)
    before = signal.getsignal(signal.SIGALRM)
    output = Output(tmp_path / "out", limits=Limits(record_seconds=0.3))
    found = find_sources([FilesSource(path=str(tmp_path / "a.jsonl"))], downloads=tmp_path)
    tally = run_curation(found, [("endless", endless)], output, workers=workers)
    assert tally is not None
    assert tally.kept == 3
    assert tally.steps["endless"].dropped == {"over the time limit": 2}
    assert signal.getsignal(signal.SIGALRM) is before


class SlowStart:
    """A step that takes longer to open what it needs than for any record."""

    opened = False

    def prepare(self) -> None:
        """Open it."""
        if not self.opened:
            time.sleep(0.5)
        self.opened = True

    def __call__(self, record: Record) -> Record:
        assert self.opened
        return record


def test_what_a_step_opens_first_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD))
    (tmp_path / "out/documents").mkdir(parents=True)
    found = find_sources([FilesSource(path=str(tmp_path / "a.jsonl"))], downloads=tmp_path)
    output = Output(tmp_path / "out", limits=Limits(record_seconds=0.2))
    tally = run_curation(found, [("slow start", SlowStart())], output)
    assert tally is not None
    assert tally.kept == 1


def test_time_limits_follow_each_other() -> None:
    with time_limit(0.05) as limited:
        for _ in range(3):
            with pytest.raises(TooSlow), limited():
                endless(Record("loop", "a:1"))
        with limited():
            pass
        time.sleep(0.1)  # not inside: nothing rings


def test_links_pipes_and_odd_names(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "good.jsonl").write_text(json.dumps(GOOD) + "\n")
    (data / "dangling.jsonl").symlink_to(data / "nowhere")
    (data / "self.jsonl").symlink_to(data / "self.jsonl")
    (data / "zero.txt").symlink_to("/dev/zero")
    os.mkfifo(data / "pipe.jsonl")
    with open(os.fsencode(data) + b"/odd\xff.jsonl", "wb") as stream:
        stream.write(json.dumps(GOOD).encode() + b"\n{broken\n")
    with open(os.fsencode(data) + b"/odd\xfe.html", "wb") as stream:
        stream.write(b"<p>page</p>")
    report, said = curate(tmp_path, "data")
    assert report["kept"] == 3
    assert report["ignored_files"] == {"(no regular file)": 4}
    assert "odd\ufffd.jsonl' line 2: not JSON" in report["corrupt_listed"][0]
    assert "ignored" in said


def test_a_parquet_file_that_holds_gigabytes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    words = ["good", "a" * 8_000_000]

    def strings(*numbers: int) -> pyarrow.Array:
        return pyarrow.DictionaryArray.from_arrays(pyarrow.array(numbers, pyarrow.int32()), words)

    lists = pyarrow.ListArray.from_arrays([0, 1, 256], strings(0, *[1] * 255))
    tables = {
        "dictionary": {"text": strings(0, *[1] * 255)},
        "nested": {"text": ["good", "also"], "tags": lists},
        "struct": {"text": ["good", "too"], "m": pyarrow.StructArray.from_arrays([lists], ["k"])},
        "whole": {"text": ["good", "a" * 100_000_000]},
    }
    for name, columns in tables.items():
        path = data / f"{name}.parquet"
        pyarrow.parquet.write_table(
            pyarrow.table(columns), path, compression="zstd", store_schema=False,
            use_dictionary=name != "whole",
        )  # fmt: skip
        assert path.stat().st_size < 5_000
    report, _ = curate(tmp_path, "data", "max_record_bytes=1000000")
    assert report["kept"] == 4
    assert dropped(report)["source: too large"] + report["corrupt"] == 255 + 3


def test_codecs_that_are_no_encodings(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD) + "\n")
    for name in ("zlib_codec", "rot13", "base64", "punycode", "undefined", "idna", "no\0name"):
        with pytest.raises((UserError, ValueError), match="is not known; use auto"):
            FilesSource(path=str(tmp_path), encoding=name)
    report, said = curate(tmp_path, "{kind: files, path: a.jsonl, encoding: zlib_codec}")
    assert report is None
    assert "encoding 'zlib_codec' is not known" in said
    assert FilesSource(path=str(tmp_path), encoding="Latin-1").encoding == "iso8859-1"


class Server(http.server.BaseHTTPRequestHandler):
    """Redirects, endless files, and lengths that are no numbers."""

    def do_GET(self) -> None:
        if self.path.startswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
            return
        self.send_response(200)
        if self.path.startswith("/length"):
            self.send_header("Content-Length", self.path.rpartition("/")[0].rpartition("/")[2])
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(200 if self.path.startswith("/endless") else 1):
                self.wfile.write(b"x" * (1 << 16))

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def server() -> Iterator[int]:
    make = http.server.ThreadingHTTPServer
    with make(("127.0.0.1", 0), Server) as one, make(("127.0.0.2", one.server_port), Server) as two:
        for made in (one, two):
            threading.Thread(target=made.serve_forever, daemon=True).start()
        yield one.server_port
        for made in (one, two):
            made.shutdown()


def test_a_public_server_cannot_redirect_into_the_private_network(
    tmp_path: Path, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = f"http://127.0.0.1:{server}/secret.txt"
    # from a private address that the user named, a redirect to another is none of our business
    path = download(f"http://127.0.0.1:{server}/redirect/a.txt?{inside}", tmp_path / "a")
    assert path.stat().st_size == 1 << 16
    # 127.0.0.2 plays the open internet
    monkeypatch.setattr(downloading, "is_public", lambda address: address == "127.0.0.2")
    outside = f"http://127.0.0.2:{server}"
    for target in (inside, f"http://localhost:{server}/x.txt", f"{outside}/redirect?{inside}"):
        with pytest.raises(UserError, match="an address of a private network"):
            download(f"{outside}/redirect/a.txt?{target}", tmp_path / "b")
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x"):
        with pytest.raises(UserError, match=r"no http or https address|is not allowed"):
            download(f"{outside}/redirect/a.txt?{target}", tmp_path / "b")
    assert not list((tmp_path / "b").glob("*.txt"))


def test_a_download_has_a_largest_size(tmp_path: Path, server: int) -> None:
    address = f"http://127.0.0.1:{server}"
    with pytest.raises(UserError, match="more than 1,000,000 bytes, max_bytes is 1,000,000"):
        download(f"{address}/endless/a.txt", tmp_path, max_bytes=1_000_000)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="has 9,000,000 bytes"):
        download(f"{address}/length/9000000/a.txt", tmp_path, max_bytes=1_000_000)
    with pytest.raises(UserError, match="has room for"):
        download(f"{address}/length/{10**17}/a.txt", tmp_path, max_bytes=10**18)


@pytest.mark.parametrize("length", ["abc", "-5", "٣", "1e3"])
def test_a_length_that_is_no_number_counts_for_nothing(
    tmp_path: Path, server: int, length: str
) -> None:
    from urllib.parse import quote

    path = download(f"http://127.0.0.1:{server}/length/{quote(length)}/a.txt", tmp_path)
    assert path.stat().st_size == 1 << 16
