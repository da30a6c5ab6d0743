"""Each Chinese page says what its English page says: the same blocks, headings, tables, figures and links."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from support.documents import FENCE, ROOT, blocks

PAGES = [
    "README.zh.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.zh.md")),
]
REQUIRED = [
    *(f"docs/{name}.md" for name in ("index", "start", "extending")),
    *(f"docs/design/{name}.md" for name in ("index", "glossary", "reading_order")),
    *(f"docs/reference/{name}.md" for name in ("cli", "api")),
    *sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "docs" / "guides").glob("*.md")
        if not path.name.endswith(".zh.md")
    ),
]
"""Pages that must have a Chinese side; results and the log are in English alone."""

HAN = "[\u3007\u4e00-\u9fff]"


def english(page: str) -> str:
    """The page of which `page` is the translation."""
    return page.replace(".zh.md", ".md")


def prose(page: str) -> str:
    """The text of a page without its fenced blocks."""
    return FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))


def headings(page: str) -> list[int]:
    """The levels of the headings, in order."""
    return [len(found) for found in re.findall(r"^(#+) ", prose(page), re.MULTILINE)]


def tables(page: str) -> list[str]:
    """The rows of all tables."""
    return [line for line in prose(page).splitlines() if line.startswith("|")]


def figures(row: str) -> Counter[str]:
    """The numbers of a row."""
    return Counter(re.findall(r"\d+(?:[.,:]\d+)*", row))


def code(text: str) -> Counter[str]:
    """The spans of code."""
    return Counter(re.findall(r"`([^`\n]+)`", text))


def links(page: str) -> Counter[str]:
    """The targets of all links, anchors aside, each as the English page writes it."""
    text = re.sub(r"^\*.*README.*\*$", "", prose(page), flags=re.MULTILINE)  # the other language
    return Counter(
        english(target) for target in re.findall(r"\]\(([^)#\s]*)[^)]*\)", text) if target
    )


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site form them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", REQUIRED)
def test_the_page_has_a_chinese_side(page: str) -> None:
    assert (ROOT / page.replace(".md", ".zh.md")).exists()


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_the_same_to_the_byte(page: str) -> None:
    """Commands, code and configuration with their directions; only drawings (no language) are translated."""
    ours, theirs = (
        [(block.language, block.text if block.language else "", block.direction) for block in found]
        for found in (blocks(page), blocks(english(page)))
    )
    assert ours == theirs


@pytest.mark.parametrize("page", PAGES)
def test_headings_and_tables_correspond(page: str) -> None:
    assert headings(page) == headings(english(page))
    ours, theirs = tables(page), tables(english(page))
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.replace(r"\|", "").count("|") == other.replace(r"\|", "").count("|"), mine
        assert figures(mine) == figures(other), f"{page}: {mine}\n{english(page)}: {other}"
        assert code(mine) == code(other), f"{page}: {mine}\n{english(page)}: {other}"


@pytest.mark.parametrize("page", PAGES)
def test_the_same_names_of_code_are_told(page: str) -> None:
    """A key or an option that one side gains or loses is missed on the other."""
    assert set(code(prose(page))) == set(code(prose(english(page))))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_the_same_pages_in_chinese_where_there_are_any(page: str) -> None:
    assert links(page) == links(english(page))
    folder = (ROOT / page).parent
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?[^)]*\)", prose(page)):
        if target.startswith(("http", "mailto:")):
            continue
        path = folder / target if target else ROOT / page
        assert path.exists(), f"{page} links to {target}"
        if target.endswith(".md") and target != "README.md":
            chinese = path.with_name(path.name.replace(".zh.md", ".md").replace(".md", ".zh.md"))
            assert path == chinese or not chinese.exists(), f"{page}: {chinese.name} is there"
        if anchor:
            assert anchor in anchors(path), f"{page}: {target} has no #{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_api_pages_document_the_same_things(page: str) -> None:
    def directives(name: str) -> list[str]:
        text = prose(name)
        return re.findall(r"^(?::::|    |<!-- commands).*$", text, re.MULTILINE)

    assert directives(page) == directives(english(page))


@pytest.mark.parametrize("page", PAGES)
def test_no_line_breaks_within_a_phrase(page: str) -> None:
    """GitHub shows a line break as a space, which Chinese has only beside punctuation and Latin."""
    broken = re.findall(rf"^.*{HAN}\n *{HAN}.*$", prose(page), re.MULTILINE)
    assert not [found for found in broken if not found.startswith("|")]


@pytest.mark.parametrize("page", PAGES)
def test_punctuation_beside_chinese_is_full_width(page: str) -> None:
    text = re.sub(r"`[^`\n]*`|\]\([^)]*\)", "", prose(page))
    assert not re.findall(rf"{HAN}[,;:?!()][^\n]{{0,20}}", text)
