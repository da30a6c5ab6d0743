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

ROOT = Path(__file__).parents[2]
WIDE = "[\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]"
BREAK = re.compile(
    rf"(?<={WIDE})\n *(?={WIDE})|(?<=[，。；：、！？）])\n *(?=[\w`<\[]|\*\*)(?!```|\d+\. |<!--)"
)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([\[(])(.*?)\\[\])]</\1>', flags=re.DOTALL)


def on_config(config: Any) -> Any:
    """The glossary's Chinese terms are words for the search index, which jieba cuts into words."""
    jieba.setLogLevel(logging.WARNING)
    glossary = (ROOT / "docs" / "design" / "glossary.md").read_text(encoding="utf-8")
    for term in re.findall(r"[\u4e00-\u9fff]+", glossary):
        if 2 <= len(term) <= 5:
            jieba.add_word(term)
    return config


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
