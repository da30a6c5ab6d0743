"""Pre-tokenization: a regular expression cuts text into words, and no merge crosses a cut.

| name     | contractions          | before letters              | digits      | newlines                     |
|----------|-----------------------|-----------------------------|-------------|------------------------------|
| `gpt2`   | lower case only (`'s`) | one space                  | whole runs  | part of any whitespace run   |
| `gpt4`   | either case (`'S`)     | any one character that is neither letter, digit nor newline | up to three | end a word of their own, or follow punctuation |
| `llama3` | as `gpt4`; spelled as published with Llama 3                | | | |
| `qwen2`  | as `gpt4`              | as `gpt4`                  | one by one  | as `gpt4`                    |
| `o200k`  | either case, part of the word; a word is cut before a capital that follows small letters; marks count as letters | as `gpt4` | up to three | as `gpt4`; slashes follow punctuation too |

Letters and digits are what the `regex` package takes for such: characters that Unicode added last may
be unknown to `tokenizers`, whose own edition is older or newer.

In all of them a run of spaces leaves its last space to the word that follows.
Sources: the code released with GPT-2; tiktoken's `cl100k_base` and `o200k_base`; the `tokenizer.json` files of Llama 3
and Qwen2. Tested against: `tokenizers`.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

import regex

from glassbox.core.errors import UserError

PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        "gpt4": (
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
        "llama3": (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        "qwen2": (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        "o200k": (
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
    }
)
DIGIT = r"\p{N}"

# Between these characters every built-in pattern cuts, whatever lies further left or right: none of
# their alternatives goes on from a letter to a non-letter, from a digit to a non-digit, or from
# a non-space to a space, and none looks back.
_CERTAIN_CUT = r"(?<=\p{L})(?=\P{L})|(?<=\p{N})(?=\P{N})|(?<=\S)(?= )"
# In `o200k` marks and contractions go on after a letter.
_CERTAIN_CUT_O200K = r"(?<=\p{L})(?=[^\p{L}\p{M}'])|(?<=\p{N})(?=\P{N})|(?<=\S)(?= )"
# Unicode composition (NFC) never joins these characters to what stands before them.
_NEVER_COMPOSES = r"(?=[^\p{M}\u1100-\u11FF])"

BLOCK_CHARS = 1 << 18
# What comes out of a file may backtrack without end, or make a text a million times as long.
_SECONDS = 10.0
_CHARS_PER_SECOND = 50_000
_GROWTH = 32  # U+FDFA, the longest expansion of Unicode's own, becomes 18 characters
_SPARE_CHARS = 1 << 16
_MAX_PATTERN_CHARS = 1 << 16
_RECURSION = regex.compile(r"\(\?(?:R|P>|&|[+-]?\d+)")
_ESCAPES_AND_CLASSES = regex.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", regex.DOTALL)


class WorkLimit:
    """The time and the space that rules out of a file may take on one text of `num_chars`.

    10 s and 20 microseconds a character; 32 times the text's length and 65,536 characters.
    """

    def __init__(self, num_chars: int) -> None:
        self.num_chars = num_chars
        self.seconds = _SECONDS + num_chars / _CHARS_PER_SECOND
        self.max_chars = _GROWTH * num_chars + _SPARE_CHARS
        self._end = time.monotonic() + self.seconds

    def left(self, what: str) -> float:
        """Seconds left. Raises UserError, naming `what`, where there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise UserError(
                f"{what} took more than {self.seconds:.0f} s on {self.num_chars} characters; it "
                "backtracks without end or repeats itself: use a simpler one"
            )
        return left

    def check(self, what: str, num_chars: int = 0) -> None:
        """Raise UserError where time has run out or a text has grown beyond the limit."""
        if num_chars > self.max_chars:
            raise UserError(
                f"{what} makes {num_chars} or more characters of {self.num_chars}; at most "
                f"{self.max_chars} are allowed: use one that lengthens text less"
            )
        self.left(what)


def find_matches(
    pattern: regex.Pattern[str], text: str, limit: WorkLimit
) -> Iterator[regex.Match[str]]:
    """`finditer` of a pattern out of a file, within the limit."""
    what = f"pattern {pattern.pattern[:80]!r}"
    try:
        yield from pattern.finditer(text, timeout=limit.left(what))
    except TimeoutError:
        limit.check(what)
        raise UserError(f"{what} ran out of time; use a simpler one") from None
    except (MemoryError, RecursionError):
        raise UserError(f"{what} needs too much memory; use a simpler one") from None


@lru_cache(maxsize=64)
def compile_pattern(pattern: str) -> regex.Pattern[str]:
    """Compile a pattern; one that does not compile, calls itself or is too long is the user's."""
    if len(pattern) > _MAX_PATTERN_CHARS:
        raise UserError(
            f"pattern {pattern[:80]!r} has {len(pattern)} characters; at most {_MAX_PATTERN_CHARS} are read"
        )
    if _RECURSION.search(_ESCAPES_AND_CLASSES.sub("", pattern)):
        raise UserError(
            f"pattern {pattern[:80]!r} calls itself, which is not supported; write it out"
        )
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, ValueError, MemoryError) as error:
        raise UserError(
            f"pattern {pattern[:80]!r} is no regular expression that we read: {error}"
        ) from None


def resolve_pattern(name_or_regex: str) -> str:
    """The regular expression of a named pattern; anything else is taken as one itself.

    >>> resolve_pattern("qwen2") == PATTERNS["qwen2"]
    True
    """
    if name_or_regex in PATTERNS:
        return PATTERNS[name_or_regex]
    if name_or_regex.isidentifier():
        raise UserError(
            f"pattern = {name_or_regex!r} is unknown; use one of {', '.join(PATTERNS)} or a regex"
        )
    compile_pattern(name_or_regex)
    return name_or_regex


@dataclass(frozen=True)
class PreTokenizer:
    """Cut text into words: each stage's matches, and what lies between them, become pieces.

    `stages` are regular expressions, each applied to the pieces of the one before (`Split` with
    behaviour `Isolated` in `tokenizers`). `nfc` composes the text first, as Qwen2's files ask.
    No character is lost: the words joined are the (composed) text.
    """

    stages: tuple[str, ...]
    nfc: bool = False

    @classmethod
    def named(cls, name_or_regex: str) -> PreTokenizer:
        """The one-stage pre-tokenizer of a pattern's name or of a regular expression."""
        return cls((resolve_pattern(name_or_regex),))

    @cached_property
    def cuts_are_known(self) -> bool:
        """Whether `last_cut` can tell a certain cut: true for the built-in patterns only."""
        return all(stage in PATTERNS.values() or stage == DIGIT for stage in self.stages)

    def split(self, text: str) -> list[str]:
        """The words of a text that is composed already.

        >>> PreTokenizer.named("gpt4").split("We've 1234  cats!\\n")
        ['We', "'ve", ' ', '123', '4', ' ', ' cats', '!\\n']
        """
        pieces = [text] if text else []
        limit: WorkLimit | None = None
        for stage in self.stages:
            if stage in PATTERNS.values():  # these match every character: nothing lies between
                find = compile_pattern(stage).findall
                pieces = [word for piece in pieces for word in find(piece)]
            else:
                limit = WorkLimit(len(text)) if limit is None else limit
                pieces = [word for piece in pieces for word in _isolate(stage, piece, limit)]
        return pieces

    @property
    def changes_text(self) -> bool:
        """Whether `normalize` does anything."""
        return self.nfc

    def normalize(self, text: str) -> str:
        """Compose the text (NFC) where the tokenizer asks for it."""
        return unicodedata.normalize("NFC", text) if self.nfc else text

    def last_cut(self, text: str) -> int:
        """The last index at which a cut is certain whatever follows; 0 where none is."""
        if not self.cuts_are_known:
            return 0
        marks = PATTERNS["o200k"] in self.stages
        return last_match(_CERTAIN_CUT_O200K if marks else _CERTAIN_CUT, text)

    def last_composed(self, text: str) -> int:
        """The last index before which composition is finished whatever follows."""
        return last_match(_NEVER_COMPOSES, text) if self.nfc else len(text)

    def blocks(self, text: str, size: int = BLOCK_CHARS) -> Iterator[str]:
        """Blocks of about `size` characters whose words, in turn, are those of the whole text."""
        start = 0
        while len(text) - start > size:
            window = size
            length = self.last_cut(text[start : start + window])
            while length == 0 and start + window < len(text) and self.cuts_are_known:
                window *= 2
                length = self.last_cut(text[start : start + window])
            if length == 0:
                break
            yield text[start : start + length]
            start += length
        yield text[start:]

    def to_json(self) -> dict[str, Any]:
        """The `pre_tokenizer` entry of a tokenizer.json."""
        if self.stages == (PATTERNS["gpt2"],):
            return _byte_level(use_regex=True)
        steps = [
            {
                "type": "Split",
                "pattern": {"Regex": stage},
                "behavior": "Isolated",
                "invert": False,
            }
            for stage in self.stages
        ]
        return {"type": "Sequence", "pretokenizers": [*steps, _byte_level(use_regex=False)]}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


@lru_cache(maxsize=8)
def _reversed(pattern: str) -> regex.Pattern[str]:
    return regex.compile(f"(?r)(?:{pattern})")


def last_match(pattern: str, text: str) -> int:
    """Where the last match of a pattern begins; 0 where there is none."""
    match = _reversed(pattern).search(text)
    return 0 if match is None else match.start()


def _isolate(pattern: str, text: str, limit: WorkLimit) -> Iterator[str]:
    """The matches of a pattern and the stretches between them, in order, none empty."""
    done = 0
    for match in find_matches(compile_pattern(pattern), text, limit):
        start, end = match.span()
        if start > done:
            yield text[done:start]
        if end > start:
            yield text[start:end]
        done = end
    if done < len(text):
        yield text[done:]
