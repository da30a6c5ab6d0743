"""The curation step that turns pages of HTML into text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import Field

from glassbox.core.errors import UserError
from glassbox.data.curation.page_parser import PAGE_SECONDS, PageFailed, PageParser
from glassbox.data.curation.step import Dropped, Record, RecordStep, StepSpec

_LOOKS_LIKE_HTML = re.compile(
    r"(?i)\A\s*(?:<!doctype html|<\?xml[^>]*>\s*<!doctype html|<html[\s>])"
)
_CLOSING_TAGS = re.compile(
    r"(?i)</(?:p|div|span|a|li|ul|td|tr|table|h[1-6]|body|b|i|strong|em)\s*>"
)


class HtmlSpec(StepSpec):
    """Turn records that hold HTML into text."""

    kind: Literal["html_to_text"] = "html_to_text"
    when: Literal["looks_like_html", "always"] = "looks_like_html"
    main_only: bool = Field(True, description="remove navigation, footers, forms and buttons")
    max_seconds: float = Field(
        PAGE_SECONDS, gt=0, description="time limit per page; slower pages are dropped"
    )

    def build(self) -> RecordStep:
        """The step. Raises UserError where the extra `data` is not installed."""
        need_parser("step 'html_to_text'")
        return HtmlToText(self.when, self.main_only, PageParser(self.max_seconds))


def need_parser(what: str) -> None:
    """Raise UserError, beginning with `what`, where the parser is not installed."""
    try:
        import selectolax.lexbor  # noqa: F401
    except ImportError:
        raise UserError(
            f'{what} needs the package selectolax; pip install "glassbox-lm[data]"'
        ) from None


@dataclass(frozen=True)
class HtmlToText:
    """The step of an HtmlSpec; a page's title goes into the metadata."""

    when: Literal["looks_like_html", "always"] = "looks_like_html"
    main_only: bool = True
    parse: PageParser = field(default_factory=PageParser, repr=False, compare=False)

    def __call__(self, record: Record) -> Record | Dropped:
        """The record as text; one that is none of HTML goes on as it is."""
        if self.when == "looks_like_html" and not looks_like_html(record.text):
            return record
        try:
            text, title = self.parse(record.text, main_only=self.main_only)
        except PageFailed as error:
            return Dropped("a page that cannot be parsed", str(error))
        if not text:
            return Dropped("no text in the page", f"{len(record.text)} characters of HTML")
        metadata = {**record.metadata, "title": title} if title else record.metadata
        return replace(record, text=text, metadata=metadata)


def looks_like_html(text: str) -> bool:
    """Whether a text begins as a page does, or closes three elements and more.

    >>> looks_like_html("<p>one</p><p>two</p><b>three</b>"), looks_like_html("if a<b and c>d")
    (True, False)
    """
    if _LOOKS_LIKE_HTML.match(text):
        return True
    found = _CLOSING_TAGS.finditer(text)
    return all(next(found, None) for _ in range(3))
