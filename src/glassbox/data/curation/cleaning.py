"""Cleaning one text: mis-decoded characters mended, Unicode and white space in one form."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from pydantic import Field

from glassbox.core.errors import UserError
from glassbox.data.curation.step import Dropped, Record, RecordStep, StepSpec

# tab, line feed and carriage return stay; carriage returns are line ends and go in `unify_lines`
_CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u206a-\u206f\ufdd0-\ufdef\ufeff\ufff9-\ufffc\ufffe\uffff]"
)
_SURROGATES = re.compile("[\ud800-\udfff]")
# joiners (U+200C, U+200D) stay: Persian, Indic scripts and emoji are spelled with them
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
_LINE_ENDS = re.compile("[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029](?:(?<=\r)\n)?")
_RETURNS = re.compile("\r\n?")
_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_SPACES = re.compile(r"[^\S\n ][^\S\n]*| [^\S\n]+")  # all runs but a single plain space
_RARE_SPACE = re.compile(
    "[\t\x0b-\r\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
)
# what ftfy.badness looks for has two neighbours of these, or one that is bad by itself or beside ASCII
_SUSPECT = re.compile(
    "[\x80-\u2e7f\uf8ff\ufb00-\ufb06\ufffd](?:(?<=[\x80-\x9f\u0152\u0153\xc2\xc3])|[\x80-\u2e7f\uf8ff\ufb00-\ufb06\ufffd])"
)
_BLANK_LINES = re.compile(r"\n{3,}")


class RepairSpec(StepSpec):
    """Mend text that was decoded wrongly somewhere (`cafÃ©`), and drop what cannot be mended."""

    kind: Literal["repair"] = "repair"
    max_unknown_share: float = Field(
        0.01, ge=0, le=1, description="drop documents with a larger share of replacement characters"
    )

    def build(self) -> RecordStep:
        """The step. Raises UserError where the extra `data` is not installed."""
        try:
            import ftfy  # noqa: F401
        except ImportError:
            raise UserError(
                "step 'repair' needs the package ftfy; pip install \"glassbox-lm[data]\""
            ) from None
        return partial(repair_record, max_unknown_share=self.max_unknown_share)


def repair_record(record: Record, *, max_unknown_share: float) -> Record | Dropped:
    """`repair` on a record's text."""
    text = repair(record.text)
    unknown = text.count("\ufffd")
    if unknown > max_unknown_share * len(text):
        return Dropped(
            "undecodable characters", f"{unknown} of {len(text)}, at most {max_unknown_share:.2%}"
        )
    return record if text == record.text else replace(record, text=text)


def repair(text: str) -> str:
    """Undo a wrong decoding, and take out what is no text: control characters, lone surrogates.

    Quotes, ligatures and character widths stay as they are: they are the author's. Only lines that are
    suspicious are looked at closely. Held to `repair_plain`, and that to examples of ftfy's manual.

    >>> repair("La cafÃ©")
    'La café'
    """
    from ftfy.badness import is_bad

    text = _RETURNS.sub("\n", replace_surrogates(text))
    if "\x1b" in text or _SUSPECT.search(text):
        text = "".join(
            repair_plain(line)
            if "\x1b" in line or (_SUSPECT.search(line) and is_bad(line))
            else line
            for line in _LINES.findall(text)
        )
    return _CONTROLS.sub("", unify_lines(text))


def repair_plain(text: str) -> str:
    """`repair`, every line looked at by ftfy."""
    import ftfy

    config = ftfy.TextFixerConfig(
        unescape_html=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )
    # U+0085 is a line end, but often three dots in Windows-1252: ftfy is to see it first
    fixed = ftfy.fix_text(_RETURNS.sub("\n", replace_surrogates(text)), config)
    return _CONTROLS.sub("", unify_lines(fixed))


def replace_surrogates(text: str) -> str:
    """Halves of surrogate pairs, which UTF-8 cannot hold, become U+FFFD; whole pairs are joined."""
    if text.isascii() or not _SURROGATES.search(text):
        return text
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return _SURROGATES.sub("\ufffd", joined)


def unify_lines(text: str) -> str:
    """Every kind of line end as one line feed."""
    return _LINE_ENDS.sub("\n", text)


class NormalizeSpec(StepSpec):
    """One form of Unicode and of white space."""

    kind: Literal["normalize"] = "normalize"
    unicode: Literal["nfc", "nfkc", "none"] = "nfc"
    whitespace: Literal["collapse", "lines", "keep"] = Field(
        "collapse",
        description="collapse: single spaces, no indentation; lines: only line ends and blank lines "
        "are tidied, as code needs; keep: as it is",
    )

    def build(self) -> RecordStep:
        """Build the step."""
        return Normalize(self.unicode, self.whitespace)


@dataclass(frozen=True)
class Normalize:
    """The step of a NormalizeSpec."""

    unicode: Literal["nfc", "nfkc", "none"] = "nfc"
    whitespace: Literal["collapse", "lines", "keep"] = "collapse"

    def __call__(self, record: Record) -> Record | Dropped:
        """The record in its one form, or a refusal where nothing is left."""
        text = normalize(record.text, unicode=self.unicode, whitespace=self.whitespace)
        if not text or text.isspace():
            return Dropped("empty", f"{len(record.text)} characters, none of them visible")
        return record if text == record.text else replace(record, text=text)


def normalize(
    text: str,
    *,
    unicode: Literal["nfc", "nfkc", "none"] = "nfc",
    whitespace: Literal["collapse", "lines", "keep"] = "collapse",
) -> str:
    r"""Text in one form; normalizing twice changes nothing more.

    `collapse`: every run of spaces of any kind is one space, lines lose their ends, and of blank lines
    in a row one stays. Source of the forms: Unicode Standard Annex 15.

    >>> normalize("a\u00a0 b\r\n\n\n\n  c  ")
    'a b\n\nc'
    """
    if whitespace != "keep":
        text = _INVISIBLE.sub("", unify_lines(text))
    if unicode == "nfc":
        text = unicodedata.normalize("NFC", text)
    elif unicode == "nfkc":
        text = unicodedata.normalize("NFKC", text)
    if whitespace == "keep":
        return text
    if whitespace == "collapse":
        if not has_single_spaces(text):
            text = _SPACES.sub(" ", text)
        return _few_blank(text.replace(" \n", "\n").replace("\n ", "\n")).strip()
    return _few_blank("\n".join(line.rstrip() for line in text.split("\n"))).strip("\n")


def has_single_spaces(text: str) -> bool:
    """Whether all white space of a text is plain spaces, one by one, and line feeds."""
    return "  " not in text and _RARE_SPACE.search(text) is None


def _few_blank(text: str) -> str:
    return _BLANK_LINES.sub("\n\n", text) if "\n\n\n" in text else text
