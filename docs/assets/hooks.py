"""What the site's build does beyond mkdocs: formulas as MathML, links to source files, the CLI page, terms.

Formulas are written as $...$ and become MathML while the site is built, so that pages need no script.
"""

from __future__ import annotations

import html
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jieba
from latex2mathml.converter import convert
from mkdocs.plugins import CombinedEvent, event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
WIDE = "[\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]"
BREAK = re.compile(
    rf"(?<={WIDE})\n *(?={WIDE})|(?<=[，。；：、！？）])\n *(?=[\w`<\[]|\*\*)(?!```|\d+\. |<!--)"
)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([\[(])(.*?)\\[\])]</\1>', flags=re.DOTALL)


def on_config(config: Any) -> Any:
    """The lessons join the navigation; the glossary's Chinese terms are words for the search index, which jieba cuts into words."""
    jieba.setLogLevel(logging.WARNING)
    names = sorted(path.name for path in LESSONS.glob("[0-9]*.md"))
    lessons = [f"lessons/{name}" for name in names if not name.endswith(".zh.md")]
    # asked once for each language, of the same navigation
    if lessons and not any(
        "Course" in entry for entry in config.nav
    ):  # titles are the pages' own headings, in each language
        place = next(n for n, entry in enumerate(config.nav) if "Guides" in entry)
        config.nav.insert(place, {"Course": ["lessons/index.md", *lessons]})
    glossary = (ROOT / "docs" / "design" / "glossary.md").read_text(encoding="utf-8")
    for term in re.findall(r"[\u4e00-\u9fff]+", glossary):
        if 2 <= len(term) <= 5:
            jieba.add_word(term)
    return config


LESSONS = ROOT / "build" / "lessons"


@event_priority(100)  # before the plugin that sorts files by language
def _add_lessons(files: Files, *, config: Any) -> Files:
    """The lessons' pages, figures and notebooks, as `make lessons` wrote them."""
    for path in sorted(LESSONS.rglob("*.*")):
        if path.suffix in (".md", ".svg", ".ipynb"):
            name = path.relative_to(LESSONS.parent).as_posix()
            # as if in docs/, where alone that plugin looks
            files.append(File(name, config.docs_dir, config.site_dir, config.use_directory_urls))
    return files


@event_priority(-200)  # after it
def _find_lessons(files: Files, *, config: Any) -> Files:
    for file in files:
        if file.src_uri.startswith("lessons/"):
            file.src_dir = str(LESSONS.parent)
    return files


on_files = CombinedEvent(_add_lessons, _find_lessons)


def on_page_content(content: str, **kwargs: Any) -> str:
    """Formulas of a page as MathML."""
    return FORMULA.sub(
        lambda found: convert(
            html.unescape(found[3]), display="block" if found[2] == "[" else "inline"
        ),
        content,
    )


def on_page_markdown(markdown: str, *, page: Any, config: Any, **kwargs: Any) -> str:
    """The help texts of all commands, where the page asks for them; links out of docs/ to the repository;
    Chinese without the spaces that browsers make of line breaks."""
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [BREAK.sub("", part) for part in parts[::2]]
    markdown = "".join(parts)
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace(
            "<!-- commands -->", commands("zh" if page.file.src_path.endswith(".zh.md") else "en")
        )
    depth = page.file.src_path.count("/")
    repository = config.repo_url or ""

    def link(found: re.Match[str]) -> str:
        target = found[2]
        up = len(re.match(r"(?:\.\./)*", target)[0]) // 3  # type: ignore[index]
        if up > depth and repository:
            return f"{found[1]}({repository.rstrip('/')}/blob/main/{target[3 * up :]})"
        return f"`{found[1][1:-1].strip('`')}`" if up > depth else found[0]

    return re.sub(r"(\[[^\]]*\])\((\.\./[^)\s]*)\)", link, markdown)


def commands(language: str) -> str:
    """`glassbox ... --help` of every command, as Markdown."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "assets" / "commands.py"), language],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
