"""Write the lessons as notebooks and as pages, in English and Chinese: `make lessons`.

    python lessons/build.py [05_attention ...] [--size reader] [--out build/lessons]

Each lesson is executed once, in a process of its own; both languages get the same code, outputs and figures.
The pages and `images/` are what the documentation site shows; `en/` and `zh/` hold the notebooks. A lesson
that has not changed is left as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import re
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jupytext
import nbformat

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
LANGUAGES = ("en", "zh")
PARTS = ("question", "idea", "code", "real", "exercises", "pitfalls", "reading")
"""The parts of a lesson, in order; a markdown cell names the part that it begins."""
EXERCISE = re.compile(r"^<!-- exercise ([\d.]+) -->$", flags=re.MULTILINE)
WORDS = {
    "graded": {"en": "graded", "zh": "自动评分"},
    "check": {
        "en": "Check it: `glassbox lesson check {number} FILE`; a hint: `glassbox lesson hint {number}`.",
        "zh": "检查：`glassbox lesson check {number} FILE`；提示：`glassbox lesson hint {number}`。",
    },
    "files": {
        "en": "This lesson is also [a notebook]({notebook}) and a script, `python lessons/{name}.py`.",
        "zh": "本课也可以作为 [Jupyter 笔记本]({notebook})打开，或作为脚本运行：`python lessons/{name}.py`。",
    },
    "test_size": {
        "en": "The outputs on this page are of the lesson's test size, which is too short to learn much; "
        "run the lesson to see those of the reader's size.",
        "zh": "本页的输出来自测试规模，训练步数很少；运行本课即可看到正常规模的结果。",
    },
    "course": {"en": "The course", "zh": "课程"},
    "about": {
        "en": "Each lesson is a script that runs on a CPU in at most two minutes, a notebook and a page. Exercises "
        "are graded on your machine: `glassbox lesson open 5` writes a file to fill in, "
        "`glassbox lesson check 5 lesson_5.py` says what is right and which mistake is made, "
        "`glassbox lesson hint 5.2` helps.",
        "zh": "每一课都是一个脚本（CPU 上至多两分钟）、一个笔记本和一个网页。练习在你自己的机器上评分："
        "`glassbox lesson open 5` 生成待填写的文件，`glassbox lesson check 5 lesson_5.py` 指出对错以及犯了哪种错误，"
        "`glassbox lesson hint 5.2` 给出提示。",
    },
}


@dataclass
class Output:
    """What a code cell printed and drew; each figure as (SVG, PNG)."""

    text: str = ""
    figures: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """A cell of a lesson.

    language: of a markdown cell; "" for code, which both languages share.
    part:     the part of the lesson that begins here, or "".
    alt:      what the figure of a code cell shows, by language.
    """

    kind: str
    text: str
    language: str
    part: str
    alt: dict[str, str]


def lessons() -> list[Path]:
    """The scripts, in order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def read_cells(path: Path) -> list[Cell]:
    """The cells of a lesson."""
    notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    return [
        Cell(
            cell.cell_type,
            cell.source,
            cell.metadata.get("lang", ""),
            cell.metadata.get("part", ""),
            {
                one: cell.metadata[f"alt_{one}"]
                for one in LANGUAGES
                if f"alt_{one}" in cell.metadata
            },
        )
        for cell in notebook.cells
    ]


def title_of(cells: list[Cell], language: str) -> str:
    """The lesson's heading in a language."""
    first = next(cell for cell in cells if cell.language == language)
    return first.text.partition("\n")[0].removeprefix("# ")


def execute(path: Path, size: str) -> list[Output]:
    """Run a lesson's code cells one after another; one Output a cell of any kind."""
    os.environ.update(GLASSBOX_LESSON_SIZE=size, MPLBACKEND="Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = path.stem
    warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(path)}
    outputs = []
    for number, cell in enumerate(read_cells(path), 1):
        output = Output()
        if cell.kind == "code":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(cell.text, f"{path.name}[cell {number}]", "exec"), names)
            output.text = printed.getvalue()
            for place in plt.get_fignums():
                output.figures.append(_drawn(plt.figure(place)))
            plt.close("all")
        outputs.append(output)
    return outputs


def _drawn(figure: Any) -> tuple[bytes, bytes]:
    drawn = []
    for kind, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 110})):
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, bbox_inches="tight", **options)
        drawn.append(stream.getvalue())
    return drawn[0], drawn[1]


def prose(text: str, language: str, prefix: str, name: str) -> str:
    """A markdown cell with its exercises filled in and its links leading from `prefix` or the site."""
    text = EXERCISE.sub(lambda found: exercise_text(found[1], language), text)

    def link(found: re.Match[str]) -> str:
        target, _, anchor = found[1].partition("#")
        anchor = f"#{anchor}" if anchor else ""
        if re.match(r"https?:|mailto:", target) or not target:
            return found[0]
        if prefix:  # a notebook: from its folder to the file
            up = target[3:] if target.startswith("../") else f"lessons/{target}"
            return f"]({prefix}{up}{anchor})"
        if target.startswith("../docs/"):
            page = target.removeprefix("../docs/")
            chinese = page.replace(".md", ".zh.md")
            if language == "zh" and (ROOT / "docs" / chinese).exists():
                page = chinese
            return f"](../{page}{anchor})"
        if re.fullmatch(r"\d\d_\w+\.py", target):
            ending = ".zh.md" if language == "zh" else ".md"
            return f"]({target.removesuffix('.py')}{ending}{anchor})"
        return f"](../../{target[3:] if target.startswith('../') else f'lessons/{target}'}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", link, text)


def exercise_text(number: str, language: str) -> str:
    """A graded exercise as the catalogue has it: the statement, and what is to be written."""
    from glassbox.course.catalogue import chosen_exercises

    (exercise,) = chosen_exercises(number)
    title = exercise.title.zh if language == "zh" else exercise.title.en
    statement = exercise.statement.zh if language == "zh" else exercise.statement.en
    stub = exercise.stub_text.removeprefix(exercise.imports).strip("\n")
    stub = stub.replace("    raise NotImplementedError", "    ...")
    dot = "" if language == "zh" else " "
    return (
        f"**{number} {title}**{dot}({WORDS['graded'][language]})\n\n{statement}\n\n```python\n{stub}\n```\n\n"
        f"{WORDS['check'][language].format(number=number)}"
    )


def page(path: Path, cells: list[Cell], outputs: list[Output], language: str, size: str) -> str:
    """The lesson in one language, as Markdown."""
    parts = []
    for number, (cell, output) in enumerate(zip(cells, outputs, strict=True)):
        if cell.kind == "markdown":
            if cell.language == language:
                parts.append(prose(cell.text, language, "", path.stem))
            if not cell.part and len(parts) == 1 and cell.language == language:
                note = WORDS["files"][language]
                notebook = f"{language}/{path.stem}.ipynb"
                parts.append(note.format(notebook=notebook, name=path.stem))
                if size == "test":
                    parts.append(f"*{WORDS['test_size'][language]}*")
            continue
        parts.append(f"```python\n{cell.text}\n```")
        if output.text.strip():
            parts.append(f"```text\n{output.text.rstrip()}\n```")
        parts += [
            f"![{cell.alt[language]}](images/{figure_name(path, number, place)})"
            for place in range(len(output.figures))
        ]
    return "\n\n".join(parts) + "\n"


def figure_name(path: Path, number: int, place: int) -> str:
    """The file of a cell's figure."""
    return f"{path.stem}_{number}_{place}.svg"


def notebook(path: Path, cells: list[Cell], outputs: list[Output], language: str) -> Any:
    """The lesson in one language, as an executed notebook."""
    import base64

    made = []
    for number, (cell, output) in enumerate(zip(cells, outputs, strict=True)):
        if cell.kind == "markdown":
            if cell.language == language:
                text = prose(cell.text, language, "../../../", path.stem)
                made.append(nbformat.v4.new_markdown_cell(text, id=f"cell-{number}"))
            continue
        shown = []
        if output.text:
            shown.append(nbformat.v4.new_output("stream", name="stdout", text=output.text))
        for _, png in output.figures:
            data = {"image/png": base64.b64encode(png).decode(), "text/plain": cell.alt[language]}
            shown.append(nbformat.v4.new_output("display_data", data=data))
        code = nbformat.v4.new_code_cell(cell.text, id=f"cell-{number}", outputs=shown)
        code.execution_count = sum(one.cell_type == "code" for one in made) + 1
        made.append(code)
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nbformat.v4.new_notebook(cells=made, metadata=metadata)


def checksum(path: Path) -> str:
    """Of all that a lesson's page is made of."""
    exercises = ROOT / "src/glassbox/course/exercises" / f"lesson{path.stem[:2]}"
    digest = hashlib.sha256()
    for file in [path, Path(__file__), *sorted(exercises.glob("*.py"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def build(path: Path, size: str, out: Path) -> str:
    """Write one lesson; says what was done."""
    stamp = out / "stamps" / f"{path.stem}.json"
    made = json.loads(stamp.read_text()) if stamp.exists() else {}
    if made.get("checksum") == checksum(path) and made["size"] in (size, "reader"):
        return "unchanged"
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")  # so that no lesson sees another's settings
    with context.Pool(1) as pool:
        outputs = pool.apply(execute, (path, size))
    cells = read_cells(path)
    for language in LANGUAGES:
        ending = "" if language == "en" else ".zh"
        _write(out / f"{path.stem}{ending}.md", page(path, cells, outputs, language, size))
        text = nbformat.writes(notebook(path, cells, outputs, language))
        _write(out / language / f"{path.stem}.ipynb", text + "\n")
    for number, output in enumerate(outputs):
        for place, (svg, _) in enumerate(output.figures):
            file = out / "images" / figure_name(path, number, place)
            _write(file, svg.decode())
    _write(stamp, json.dumps({"checksum": checksum(path), "size": size}))
    return f"{time.perf_counter() - start:.1f} s"


def index_page(language: str) -> str:
    """The list of all lessons: each title with its question."""
    lines = [f"# {WORDS['course'][language]}", "", WORDS["about"][language], ""]
    ending = ".zh.md" if language == "zh" else ".md"
    for path in lessons():
        cells = read_cells(path)
        question = next(c for c in cells if c.language == language and c.part == "question")
        first = re.sub(r"^#+ .*\n+", "", question.text).partition("\n\n")[0].replace("\n", " ")
        if language == "zh":
            first = re.sub("(?<=[^\\x00-\\x7f]) (?=[^\\x00-\\x7f])", "", first)
        title = title_of(cells, language)
        lines.append(
            f"**[{title}]({path.stem}{ending})**  \n{prose(first, language, '', path.stem)}\n"
        )
    return "\n".join(lines)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="lessons such as 05_attention; all by default")
    parser.add_argument("--size", choices=["reader", "test"], default="reader")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "lessons")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "src"))
    known = {path.stem: path for path in lessons()}
    for name in options.names:
        if name not in known:
            parser.error(f"no lesson {name!r}; there are {', '.join(known)}")
    for name in options.names or known:
        print(f"{name}: {build(known[name], options.size, options.out)}", flush=True)
    for language in LANGUAGES:
        ending = "" if language == "en" else ".zh"
        _write(options.out / f"index{ending}.md", index_page(language))


if __name__ == "__main__":
    main()
