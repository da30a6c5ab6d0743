"""WikiText-2: perplexity of articles, by word and byte. Source: Merity et al., arXiv:1609.07843.

Articles are read detokenised; words and bytes are counted in the tokenised original, as in GPT-2's and
later reports.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glassbox.data.text import byte_lines
from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.outputs import Rolling, rolling_values
from glassbox.evaluation.tasks.spec import Documents, Prompt
from glassbox.evaluation.tasks.task import TaskSpec

METRICS = ("word_perplexity", "byte_perplexity", "bits_per_byte")
_NUMBERS = ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."))
_POINTS = tuple((f" {point} ", f"{point} ") for point in ":;.!?,")
_PAIRS = ((r"\(", r"[^\)]", r"\)"), (r"\[", r"[^\]]", r"\]"), ("{", "[^}]", "}"), ('"', '[^"]', '"'), ("'", "[^']", "'"))  # fmt: skip
_REST = (
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (f" {chr(176)} ", chr(176)),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


def plain(doc: dict[str, Any]) -> str:
    """The article as it would be written, its tokens joined."""
    text = str(doc["page"]).replace("s '", "s'")
    text = re.sub(r"/' [0-9]/", r"/'[0-9]/", text)
    for old, new in (*_NUMBERS, *_POINTS):
        text = text.replace(old, new)
    for begin, inside, end in _PAIRS:
        outer = (begin.removeprefix("\\"), end.removeprefix("\\"))
        text = re.sub(
            rf"{begin}\s*({inside}*?)\s*{end}",
            lambda m, outer=outer: f"{outer[0]}{m[1]}{outer[1]}",  # type: ignore[misc]
            text,
        )
    for old, new in _REST:
        text = text.replace(old, new)
    return text


def figures(doc: dict[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """log p of the detokenised article, words and bytes of the original."""
    return rolling_values(float(results[0]), str(doc["page"]), METRICS)


def local(folder: Path, split: str) -> list[dict[str, Any]] | None:
    """`wikitext-2/test.txt` (or wiki.test.tokens), cut at its articles' titles."""
    names = {"test": ("test.txt", "wiki.test.tokens", "wiki.test.raw")}.get(split, ())
    for place in (folder / "wikitext-2", folder):
        for name in names:
            if (place / name).is_file():
                return _pages(place / name)
    return None


def _pages(file: Path) -> list[dict[str, Any]]:
    pages: list[list[str]] = [[]]
    for raw in byte_lines(file):
        line = raw.decode("utf-8-sig")
        if re.fullmatch(r" = [^=]+ = \s*", line) and any(one.strip() for one in pages[-1]):
            pages.append([])
        pages[-1].append(line)
    return [{"page": "\n".join(lines)} for lines in pages]


TASKS = (
    TaskSpec(
        task="wikitext",
        about="perplexity of articles by word and byte, bits per byte",
        version=2.0,
        trusted=True,
        documents=Documents(
            path="EleutherAI/wikitext_document_level",
            name="wikitext-2-raw-v1",
            train="train",
            validation="validation",
            test="test",
            local=Function(function="wikitext:local"),
        ),
        prompt=Prompt(text="", target=Function(function="wikitext:plain")),
        output=Rolling(),
        results=Function(function="wikitext:figures"),
        metrics=tuple(Metric(metric=name) for name in METRICS),
    ),
)
