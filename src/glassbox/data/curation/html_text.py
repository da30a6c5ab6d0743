"""The text of an HTML page by a real parser: what a reader would read, in the reader's order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

# content that nobody reads, or reads as text
_NOT_TEXT = """script style noscript template svg math iframe object canvas audio video head
select datalist textarea"""
# what stands around a page's text
_AROUND_TEXT = "nav footer aside form button dialog menu"
_BLOCK_NAMES = """address article aside blockquote body caption dd details dialog div dl dt fieldset
figcaption figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr html li legend main menu nav ol p pre
section summary table tbody tfoot thead tr ul"""
_PARAGRAPH_NAMES = "blockquote dl figure h1 h2 h3 h4 h5 h6 ol p pre section table ul"

NOT_TEXT = frozenset(_NOT_TEXT.split())
AROUND_TEXT = frozenset(_AROUND_TEXT.split())
BLOCKS = frozenset(_BLOCK_NAMES.split())
PARAGRAPHS = frozenset(_PARAGRAPH_NAMES.split())
_SPACES = re.compile(r"[ \t\n\f\r]+")


def html_to_text(html: str, *, main_only: bool = True) -> tuple[str, str]:
    r"""The text of a page and its title.

    Blocks are on separate lines, paragraphs between blank lines, cells of a row separated by tabs,
    preformatted text unchanged; other white space becomes one space. Source: HTML living standard,
    section "The innerText getter", whose rules for blocks and white space these are, without
    styles.

    >>> html_to_text("<title>T</title><p>One <b>two</b>.</p><ul><li>a<li>b</ul>")
    ('One two.\n\na\nb', 'T')
    """
    from selectolax.lexbor import LexborHTMLParser

    parser = LexborHTMLParser(html)
    found = parser.css_first("title")
    title = _SPACES.sub(" ", found.text()).strip() if found is not None else ""
    left_out = NOT_TEXT | AROUND_TEXT if main_only else NOT_TEXT
    writer = _Writer()
    if parser.root is not None:
        _walk(parser.root, writer, left_out)
    return writer.text(), title


class _Writer:
    """Collects text; knows how many line ends the next word has to begin with."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.breaks = 0  # line ends due before the next word
        self.space = False  # a space due before it

    def write(self, text: str) -> None:
        """Text outside `pre`: white space in it is one space."""
        words = _SPACES.sub(" ", text)
        if not words:
            return
        if words == " ":
            self.space = True
            return
        self.space = self.space or words[0] == " "
        self._flush()
        self.parts.append(words.strip(" "))
        self.space = words[-1] == " "

    def write_raw(self, text: str) -> None:
        """Text inside `pre`."""
        if text:
            self._flush()
            self.parts.append(text)

    def line(self) -> None:
        """`<br>`: one line end, and one more each time."""
        self.breaks += 1
        self.space = False

    def block(self, breaks: int) -> None:
        """The border of a block."""
        self.breaks = max(self.breaks, breaks)
        self.space = False

    def tab(self) -> None:
        """The border of a cell."""
        if self.parts and not self.breaks:
            self.parts.append("\t")
        self.space = False

    def _flush(self) -> None:
        if self.parts:
            if self.breaks:
                self.parts.append("\n" * min(self.breaks, 2))
            elif self.space and self.parts[-1] != "\t":
                self.parts.append(" ")
        self.breaks, self.space = 0, False

    def text(self) -> str:
        """All of it, without white space at line ends."""
        lines = "".join(self.parts).split("\n")
        return "\n".join(line.rstrip() for line in lines).strip("\n")


def _walk(root: LexborNode, writer: _Writer, left_out: frozenset[str]) -> None:
    """Depth first, with a stack of our own: a page may be nested deeper than Python's calls may."""
    preformatted = 0
    stack: list[tuple[LexborNode, bool]] = [(root, False)]
    while stack:
        node, leaving = stack.pop()
        tag = node.tag or ""
        if tag == "-text":
            content = node.text_content or ""
            (writer.write_raw if preformatted else writer.write)(content)
            continue
        if tag in left_out or tag.startswith(("-", "_", "!")):
            continue
        if tag == "br":
            writer.line()
            continue
        if tag in BLOCKS:
            writer.block(2 if tag in PARAGRAPHS else 1)
        elif tag in ("td", "th") and leaving:
            writer.tab()
        if tag == "pre":
            preformatted += -1 if leaving else 1
        if leaving:
            continue
        stack.append((node, True))
        children = []
        child = node.first_child
        while child is not None:
            children.append(child)
            child = child.next
        stack.extend((child, False) for child in reversed(children))
