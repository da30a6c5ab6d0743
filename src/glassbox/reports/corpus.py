"""The page about a corpus: `glassbox data analyze`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from glassbox.core.files import write_text
from glassbox.core.progress import ProgressLine
from glassbox.data.analysis import Analysis, analyze
from glassbox.data.curation.sources import FilesSource, find_sources
from glassbox.reports.corpus_figures import drawings, signed
from glassbox.reports.report import UNPRINTABLE
from glassbox.tokenizers import Tokenizer

SHOWN_CHARACTERS = 1500
TOP = 20


def write_analysis(
    paths: Sequence[str],
    out: Path,
    *,
    tokenizer: Tokenizer | None = None,
    text_field: str | None = None,
    language_of: Callable[[str], str] | None = None,
) -> Analysis:
    """Look at all documents of some files and folders and write the page.

    Raises UserError for paths that are not there or hold no document.
    """
    configs = [FilesSource(path=path, text_field=text_field) for path in paths]
    with tempfile.TemporaryDirectory() as downloads:
        sources = find_sources(configs, downloads=Path(downloads))
    with ProgressLine("analyze", float("inf")) as line:
        found = analyze(
            sources,
            tokenizer=tokenizer,
            language_of=language_of,
            progress=lambda documents: line.update(documents, f"{documents:,} documents"),
        )
    names = [Path(path).name for path in paths]
    if tokenizer is None:
        write_text(out, render_analysis(found, names))
    else:
        write_text(out, render_analysis(found, names, lambda i: _token_text(tokenizer, i)))
    return found


def open_tokenizer(reference: str) -> Tokenizer:
    """The tokenizer of a MODEL, or of whatever else `Tokenizer.load` reads.

    Raises UserError where there is none.
    """
    path = Path(reference)
    if path.exists() and not _is_model(path):
        return Tokenizer.load(path)
    if not path.exists() and reference == "gpt2":
        return Tokenizer.load(reference)
    from glassbox.formats.open_model import find_model, open_model  # loads torch

    found = find_model(reference)
    return Tokenizer.load(found) if found.is_dir() else open_model(found)[1]


def _is_model(path: Path) -> bool:
    if path.is_file():
        return path.suffix in (".gguf", ".bin")
    return not (path / "tokenizer.json").exists()


def render_analysis(
    analysis: Analysis, names: Sequence[str], token_text: Callable[[int], str] = str
) -> str:
    """The page: one file, no script, nothing fetched; all text of documents is escaped."""
    files = resources.files("glassbox.reports") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((files / "analysis.html.j2").read_text(encoding="utf-8"))
    css = Markup((files / "report.css").read_text(encoding="utf-8"))
    page = _page(analysis, names, token_text)
    return UNPRINTABLE.sub("\ufffd", template.render(page=page, css=css))


def _token_text(tokenizer: Tokenizer, token: int) -> str:
    text = tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")
    return text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")


def _page(
    analysis: Analysis, names: Sequence[str], token_text: Callable[[int], str]
) -> dict[str, Any]:
    return {
        "name": ", ".join(names[:3]) + (" …" if len(names) > 3 else ""),
        "title": f"What is in {analysis.documents:,} documents",
        "lead": _lead(analysis),
        "tiles": _tiles(analysis),
        "notes": _notes(analysis),
        "figures": drawings(analysis),
        "lengths": _lengths(analysis),
        "languages": _bars(list(analysis.languages.items())),
        "duplicates": f"{_documents(analysis.exact)} an earlier one but for case and spaces, "
        f"{_documents(analysis.near, 'nearly ')} one (Jaccard 0.8 or more).",
        "words": _bars(analysis.word_counts.most_common(TOP)),
        "tokens": _bars(_top_tokens(analysis, token_text)),
        "examples": analysis.examples,
        "samples": [
            {
                "title": f"{_quantile(quantile)}: {length:,} words",
                "id": record.id,
                "text": _cut(record.text),
            }
            for quantile, length, record in analysis.samples
        ],
    }


def _documents(count: int, nearly: str = "") -> str:
    return f"{count:,} {nearly}repeat{'s' * (count == 1)}"


def _quantile(share: float) -> str:
    named = {0.0: "The shortest", 0.5: "The median", 1.0: "The longest"}
    return named.get(share) or f"Longer than {share:.0%}"


def _cut(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]} … ({len(text):,} characters)"


def _lead(analysis: Analysis) -> str:
    text = (
        f"{analysis.bytes_.sum() / 1e6:,.2f} MB of text, {int(analysis.words.sum()):,} words, "
        f"{len(analysis.word_counts) + analysis.forgotten:,} of them different."
    )
    law = analysis.zipf()
    if law is not None:
        text += f" A word's frequency goes with its rank to the power {signed(law.exponent)}"
        heaps = analysis.heaps()
        if heaps is not None:
            text += f"; the vocabulary grows with the text to the power {signed(heaps.exponent)}"
        text += "."
    return text


def _tiles(analysis: Analysis) -> list[dict[str, str]]:
    count = analysis.documents
    tiles = [
        ("Documents", f"{count:,}", f"{np.median(analysis.words):,.0f} words at the median"),
        ("Exact duplicates", f"{analysis.exact / count:.1%}", f"{analysis.exact:,} documents"),
        (
            "Near duplicates",
            f"{analysis.near / count:.1%}",
            f"{analysis.near:,}, Jaccard 0.8 or more",
        ),
    ]
    once = sum(times == 1 for times in analysis.word_counts.values())
    share = once / max(len(analysis.word_counts), 1)
    tiles.append(("Words met once", f"{share:.0%}", f"{once:,} different words"))
    if analysis.tokens is not None and analysis.token_counts is not None:
        total = int(analysis.tokens.sum())
        bytes_each = analysis.bytes_.sum() / max(total, 1)
        used = float(np.mean(analysis.token_counts > 0))
        tiles.append(("Tokens", f"{total:,}", f"{bytes_each:.2f} bytes each"))
        tiles.append(
            ("Vocabulary used", f"{used:.0%}", f"of {len(analysis.token_counts):,} tokens")
        )
    return [{"label": label, "value": value, "detail": detail} for label, value, detail in tiles]


def _notes(analysis: Analysis) -> list[str]:
    notes = list(analysis.corrupt)
    if analysis.num_corrupt > len(notes):
        notes.append(f"and {analysis.num_corrupt - len(notes):,} corrupt records more")
    if analysis.forgotten:
        notes.append(
            f"{analysis.forgotten:,} rare words were forgotten on the way; they may be counted twice"
        )
    return notes


def _lengths(analysis: Analysis) -> list[tuple[str, list[str]]]:
    shares = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    rows = [("Words", analysis.words), ("Bytes", analysis.bytes_)]
    if analysis.tokens is not None:
        rows.append(("Tokens", analysis.tokens))
    return [
        (name, [f"{value:,.0f}" for value in (*np.quantile(lengths, shares), lengths.mean())])
        for name, lengths in rows
    ]


def _top_tokens(analysis: Analysis, token_text: Callable[[int], str]) -> list[tuple[str, int]]:
    if analysis.token_counts is None:
        return []
    top = np.argsort(-analysis.token_counts, kind="stable")[:TOP].tolist()
    counts = analysis.token_counts
    return [(token_text(token), int(counts[token])) for token in top if counts[token]]


def _bars(rows: Sequence[tuple[str, int]]) -> list[dict[str, str]]:
    longest = max((count for _, count in rows), default=1)
    return [
        {"title": name, "width": f"{100 * count / longest:.1f}", "amount": f"{count:,}"}
        for name, count in rows
    ]
