"""Cleaning, HTML, boilerplate, chunks: properties, and pages and strings with known answers."""

from __future__ import annotations

import itertools
import re
import unicodedata

import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.data.curation.boilerplate import BoilerplateLines, canonical_line
from glassbox.data.curation.chunking import ChunkSpec, fixed_windows, token_borders
from glassbox.data.curation.cleaning import (
    _SUSPECT,
    NormalizeSpec,
    RepairSpec,
    normalize,
    repair,
    repair_plain,
)
from glassbox.data.curation.html import HtmlSpec, looks_like_html
from glassbox.data.curation.html_text import html_to_text
from glassbox.data.curation.step import CorpusStep, Dropped, Record, RecordStep, RevisingStep
from glassbox.tokenizers import train_bpe

ANY_TEXT = st.text(st.characters(codec=None), max_size=200)
WORDY = st.text(st.sampled_from("ab .!?。\n\n é字"), max_size=200)


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("âœ” No problems", "✔ No problems"),
        (
            "The Mona Lisa doesnÃƒÂ¢Ã¢â€šÂ¬Ã¢â€žÂ¢t have eyebrows.",
            "The Mona Lisa doesn’t have eyebrows.",
        ),
        ("l’humanitÃ©", "l’humanité"),
        ("a\r\nb\rc\u2028d\x00e\x1b[1mf", "a\nb\nc\ndef"),
        ("pair \ud83d\ude00, half \ud83d", "pair 😀, half \ufffd"),
        ("“quotes” ﬁ Ａ stay", "“quotes” ﬁ Ａ stay"),
        ("&lt;b&gt; stays", "&lt;b&gt; stays"),
    ],
)
def test_repair(broken: str, mended: str) -> None:
    assert repair(broken) == mended == repair_plain(broken)


@given(
    st.text(st.sampled_from("aé â€™ÃƒÂ©\x85\x93\x1b[1m\n\r ó\ud83d字\x0c\ufeff"), max_size=80)
    | ANY_TEXT
)
def test_quick_repair_is_the_plain_one(text: str) -> None:
    assert repair(text) == repair_plain(text)


def test_no_bad_line_is_beyond_suspicion() -> None:
    """What ftfy calls bad has two neighbours that are suspect together, or one that is by itself."""
    for one in _CLASSES:
        if any(is_bad(f"{a}{one}{b}") for a in ("a", ". ", "A", "") for b in (" ", "7", "z", "")):
            assert _SUSPECT.search(f"a{one}z"), one
        assert _SUSPECT.search(f"{one}é"), one


_CLASSES = re.findall(
    f"[{''.join(MOJIBAKE_CATEGORIES.values())}]", "".join(map(chr, range(0x80, 0x10000)))
)


@settings(max_examples=500)
@given(
    st.lists(st.sampled_from(_CLASSES) | st.sampled_from("aZ7 .,?!好、"), max_size=12).map("".join)
)
def test_quick_repair_is_the_plain_one_among_the_known_signs(text: str) -> None:
    assert repair(text) == repair_plain(text)
    assert _SUSPECT.search(text) or not is_bad(text)


def test_repair_drops_what_cannot_be_mended() -> None:
    step = RepairSpec(max_unknown_share=0.1).build()
    assert isinstance(step, RecordStep)
    assert step(Record("ok " * 9 + "\ufffd", "a:1")) == Record("ok " * 9 + "\ufffd", "a:1")
    dropped = step(Record("\ufffd\ufffd words", "a:2"))
    assert dropped == Dropped("undecodable characters", "2 of 8, at most 10.00%")


@given(ANY_TEXT, st.sampled_from(["nfc", "nfkc", "none"]), st.sampled_from(["collapse", "lines"]))
def test_normalizing_twice_changes_nothing_more(text: str, unicode, whitespace) -> None:  # type: ignore[no-untyped-def]
    once = normalize(text, unicode=unicode, whitespace=whitespace)
    assert normalize(once, unicode=unicode, whitespace=whitespace) == once
    assert "\n\n\n" not in once
    assert not any(line != line.rstrip() for line in once.split("\n"))
    if unicode != "none":
        assert unicodedata.is_normalized(unicode.upper(), once)


def test_normalize_keeps_what_is_spelled_and_code_where_asked() -> None:
    family = "👩\u200d👩\u200d👧"
    persian = "می\u200cخواهم"
    assert normalize(f"{family} {persian} so\u00adft zero\u200bwidth") == (
        f"{family} {persian} soft zerowidth"
    )
    code = "def f():\n    return  1   \n\n\n\n# end\n"
    assert normalize(code, whitespace="lines") == "def f():\n    return  1\n\n# end"
    assert normalize(code, whitespace="keep") == code
    assert normalize(code) == "def f():\nreturn 1\n\n# end"
    step = NormalizeSpec().build()
    assert isinstance(step, RecordStep)
    assert step(Record(" \u200b\n", "a:1")) == Dropped(
        "empty", "3 characters, none of them visible"
    )


PAGE = """<!DOCTYPE html><html><head><title> A
 page </title><style>p {color: red}</style><script>if (a < b) write("<p>no</p>")</script></head>
<body><nav><a href=/>Home</a> | <a href=/x>More</a></nav>
<h1>Head&shy;ing</h1><p>One <b>bold</b>word,<br>next&nbsp;line &amp; more.<p>Second<!-- hidden -->
   paragraph
<ul><li>first</li><li>second</ul>
<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
<pre>  keep
    this</pre><template>no</template><noscript>no</noscript>
<div>un<span>broken</span></div><footer>© 2020</footer><form><button>Send</button></form></body></html>"""

TEXT = """Head\u00ading

One boldword,
next\u00a0line & more.

Second paragraph

first
second

a\tb
1\t2

  keep
    this

unbroken"""


def test_html() -> None:
    assert html_to_text(PAGE) == (TEXT, "A page")
    whole, _ = html_to_text(PAGE, main_only=False)
    assert whole.startswith("Home | More")
    assert "© 2020" in whole
    assert "Send" in whole
    assert "no" not in whole.split()


def test_html_step_passes_over_text() -> None:
    step = HtmlSpec().build()
    assert isinstance(step, RecordStep)
    plain = Record("if a<b and c>d: print('<p>')", "a:1")
    assert step(plain) is plain
    result = step(Record(PAGE, "a:2", {"url": "u"}))
    assert result == Record(TEXT, "a:2", {"url": "u", "title": "A page"})
    assert step(Record("<html><script>x</script></html>", "a:3")) == Dropped(
        "no text in the page", "31 characters of HTML"
    )


@given(ANY_TEXT)
def test_html_takes_anything(text: str) -> None:
    html_to_text(text.encode("utf-8", "replace").decode())
    looks_like_html(text)


def test_html_nested_deeper_than_calls_may_be() -> None:
    assert html_to_text("<div>" * 20_000 + "deep")[0] == "deep"


def boilerplate(texts: list[str], step: BoilerplateLines, urls: list[str] | None = None) -> list:  # type: ignore[type-arg]
    records = [
        Record(text, f"a:{n}", {"url": urls[n]} if urls else {}) for n, text in enumerate(texts)
    ]
    notes = step.decide([(record.id, step.signature(record)) for record in records])
    revised = [step.revise(r, notes[r.id]) if r.id in notes else r for r in records]
    return [r.text if isinstance(r, Record) else r.reason for r in revised]


def test_boilerplate() -> None:
    step = BoilerplateLines(min_documents=3, min_characters=6)
    assert isinstance(step, RevisingStep)
    texts = [
        "Menu | Home\nA story.\nPage 1 of 9\n}",
        "MENU  |  home\nAnother.\nPage 22 of 9\n}",
        "Menu | Home\npage 3 OF 10\n}\nTwice here\nTwice here\nTwice here",
        "page 4 of 4",
        "Nothing shared",
    ]
    assert boilerplate(texts, step) == [
        "A story.\n}",
        "Another.\n}",
        "}\nTwice here\nTwice here\nTwice here",
        "nothing but boilerplate",
        "Nothing shared",
    ]


def test_boilerplate_by_site() -> None:
    texts = ["Read more here\nstory"] * 3 + ["Read more here\nother"] * 2
    urls = ["https://www.a.org/1", "http://a.org/2", "https://a.org/3", "https://b.org", "no url ["]
    step = BoilerplateLines(min_documents=3, group="site")
    assert boilerplate(texts, step, urls) == ["story"] * 3 + texts[3:]


@given(
    st.lists(
        st.lists(st.sampled_from(["aaaa", "bbbb", "cccc 1", "cccc 2", "x"]), max_size=6),
        max_size=12,
    ),
    st.integers(2, 4),
)
def test_boilerplate_equals_counting(documents: list[list[str]], least: int) -> None:
    counts: dict[str, int] = {}
    for lines in documents:
        for line in {canonical_line(line) for line in lines}:
            counts[line] = counts.get(line, 0) + 1
    found = boilerplate(["\n".join(lines) for lines in documents], BoilerplateLines(least, 2))
    for lines, text in zip(documents, found, strict=True):
        kept = [x for x in lines if len(x) < 2 or counts[canonical_line(x)] < least]
        plain = "\n".join(kept)
        assert text == (plain if kept or not lines else "nothing but boilerplate")


def chunks(text: str, **options: object) -> list[Record]:
    step = parse(ChunkSpec, options).build()
    assert isinstance(step, RecordStep)
    assert not isinstance(step, CorpusStep)
    result = step(Record(text, "d:1", {"k": 1}))
    assert not isinstance(result, Dropped)
    return [result] if isinstance(result, Record) else list(result)


@settings(max_examples=500)
@given(
    WORDY,
    st.sampled_from(["sentence", "paragraph", "fixed"]),
    st.integers(1, 60),
    st.integers(0, 59),
)
def test_chunks_hold_all_of_the_text(text: str, by: str, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    found = chunks(text, by=by, size=size, overlap=overlap)
    if len(found) == 1:
        assert found[0].text.strip() in text
        return
    covered = set()
    last = -1
    for number, chunk in enumerate(found, start=1):
        assert chunk.id == f"d:1#{number}"
        start = chunk.metadata["start"]
        assert start > last
        last = start
        assert chunk.text == text[start : start + len(chunk.text)]
        assert 0 < len(chunk.text) <= size
        covered.update(range(start, start + len(chunk.text)))
    assert all(i in covered for i, c in enumerate(text) if not c.isspace())
    for one, next_one in itertools.pairwise(found):
        shared = one.metadata["start"] + len(one.text) - next_one.metadata["start"]
        assert shared <= overlap


def test_chunks_end_where_sentences_do() -> None:
    text = 'One is here. Two is there! "Three?" Four costs 3.5 now. 五在这里。六也在。'
    assert [c.text for c in chunks(text, by="sentence", size=28)] == [
        "One is here. Two is there!",
        '"Three?" Four costs 3.5 now.',
        "五在这里。六也在。",
    ]
    overlapping = chunks(text, by="sentence", size=40, overlap=15)
    assert [c.text for c in overlapping][:2] == [
        'One is here. Two is there! "Three?"',
        '"Three?" Four costs 3.5 now. 五在这里。六也在。',
    ]
    assert [c.text for c in chunks("a\n\nb\n\n\nc", by="paragraph", size=4)] == ["a\n\nb", "c"]


@pytest.mark.parametrize(("size", "overlap"), [(1, 0), (5, 2), (16, 15), (1000, 0)])
def test_token_windows(size: int, overlap: int, tmp_path) -> None:  # type: ignore[no-untyped-def]
    text = "The cat sat on the mat; 猫坐在垫子上 and 😀 laughed. " * 3
    tokenizer = train_bpe([text], 300)
    tokenizer.save(tmp_path)
    found = chunks(text, by="tokens", size=size, overlap=overlap, tokenizer=str(tmp_path))
    assert "".join(c.text for c in found) == text if overlap == 0 else True
    assert all("\ufffd" not in chunk.text for chunk in found)
    if len(found) > 1:
        starts = [c.metadata["start"] for c in found]
        _, borders = token_borders(text, tokenizer)
        for chunk, start in zip(found, starts, strict=True):
            # a character of which a window begins inside is whole: up to three tokens of a byte more
            inside = sum(start < border <= start + len(chunk.text) for border in borders)
            assert inside <= size + 3
        assert starts == sorted(starts)
        ends = [c.metadata["start"] + len(c.text) for c in found]
        assert ends[-1] == len(text)
        assert all(end >= start for end, start in zip(ends, starts[1:], strict=False))


@given(st.integers(0, 200), st.integers(1, 50), st.integers(0, 49))
def test_fixed_windows(length: int, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    spans = fixed_windows(length, size, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert all(end - start == size for start, end in spans[:-1])
    assert all(b[0] == a[1] - overlap for a, b in itertools.pairwise(spans))


def test_chunk_settings() -> None:
    with pytest.raises(UserError, match="overlap = 9 must be smaller than size = 5"):
        parse(ChunkSpec, {"size": 5, "overlap": 9})
    with pytest.raises(UserError, match="by = tokens needs 'tokenizer'"):
        parse(ChunkSpec, {"by": "tokens"})
