"""C4's rules: a page is cut down to its lines of prose, and dropped where few are left."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from glassbox.core.errors import UserError
from glassbox.data.curation.step import Dropped, Record, RecordStep, StepSpec, digest_of

TERMINAL = (".", "!", "?", '"', "”")
_ELLIPSES = ("...", "…")
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)")


class C4QualitySpec(StepSpec):
    """Keep lines of prose, drop pages that have few of them or a word that marks them as none.

    A line that ends in an ellipsis is taken for one cut off, as in the code that made C4. C4 as it
    was published is milder with pages and stricter with lines: min_sentences 3, min_line_words 5.
    Source: Raffel et al., arXiv:1910.10683, section 2.2.
    """

    kind: Literal["c4_quality"] = "c4_quality"
    terminal_punctuation: bool = Field(
        True, description="remove lines that do not end in punctuation"
    )
    min_line_words: int = Field(3, ge=0, description="remove lines with fewer words")
    javascript: bool = Field(True, description="remove lines that mention Javascript")
    min_sentences: int = Field(5, ge=0, description="drop pages with fewer sentences left")
    lorem_ipsum: bool = Field(True, description="drop pages with this phrase")
    curly_bracket: bool = Field(True, description="drop pages with {: they are mostly code")
    bad_words: tuple[str, ...] = Field((), description="drop pages with one of these words")
    bad_words_file: str | None = Field(None, description="file of further words, one per line")

    def build(self) -> RecordStep:
        """The step. Raises UserError where the file of words cannot be read."""
        words = [*self.bad_words, *_read_words(self.bad_words_file)]
        return C4Quality(self, _any_word(words))

    def contents(self) -> dict[str, str]:
        """The file of words."""
        if self.bad_words_file is None:
            return {}
        _read_words(self.bad_words_file)
        return {self.bad_words_file: digest_of(Path(self.bad_words_file))}


def _read_words(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"bad_words_file '{path}' cannot be read: {error}") from None
    return [word for line in lines if (word := line.strip())]


def _any_word(words: Sequence[str]) -> re.Pattern[str] | None:
    """Finds any of these as whole words; in scripts without spaces, anywhere."""
    parts = []
    for word in words:
        spaced = word.isascii() or not re.search("[\u0e00-\u0eff\u1000-\u109f\u3040-\u9fff]", word)
        escaped = re.escape(word)
        parts.append(rf"(?<!\w){escaped}(?!\w)" if spaced else escaped)
    return re.compile("|".join(parts), re.IGNORECASE) if parts else None


@dataclass(frozen=True)
class C4Quality:
    """The step of a C4QualitySpec. Tested against: a loop written from the paper."""

    spec: C4QualitySpec = field(default_factory=C4QualitySpec)
    bad_words: re.Pattern[str] | None = None

    def __call__(self, record: Record) -> Record | Dropped:
        """The record cut down to its prose, or why it is dropped."""
        spec, text = self.spec, record.text
        lower = text.lower()
        if spec.lorem_ipsum and (place := lower.find("lorem ipsum")) >= 0:
            return Dropped("lorem ipsum", f"at character {place}")
        if spec.curly_bracket and (place := text.find("{")) >= 0:
            return Dropped("curly bracket", f"at character {place}")
        if self.bad_words and (found := self.bad_words.search(text)):
            return Dropped("bad words", f"'{found[0]}' at character {found.start()}")
        kept, taken = [], Counter[str]()
        for line in text.split("\n"):
            fault = self._fault(line.strip())
            if fault:
                taken[fault] += 1
            else:
                kept.append(line)
        text = "\n".join(kept).strip("\n")
        sentences = count_sentences(text)
        if sentences < spec.min_sentences:
            out = ", ".join(f"{count} {why}" for why, count in sorted(taken.items()))
            return Dropped(
                "too few sentences",
                f"{sentences}, at least {spec.min_sentences}; lines taken out: {out or 'none'}",
            )
        return record if not taken else replace(record, text=text)

    def _fault(self, line: str) -> str | None:
        """Why a line is taken out; blank ones stay between paragraphs."""
        spec = self.spec
        if not line:
            return None
        if spec.terminal_punctuation and (not line.endswith(TERMINAL) or line.endswith(_ELLIPSES)):
            return "without terminal punctuation"
        if len(line.split()) < spec.min_line_words:
            return "of few words"
        if spec.javascript and "javascript" in line.lower():
            return "on Javascript"
        return None


def count_sentences(text: str) -> int:
    """How many sentences a text has: ends of one, and what stands behind the last on its line.

    >>> count_sentences('He said "go." She went... where? Home')
    4
    """
    count = 0
    for line in text.split("\n"):
        last = 0
        for end in _SENTENCE_END.finditer(line):
            count, last = count + 1, end.end()
        count += bool(line[last:].strip())
    return count
