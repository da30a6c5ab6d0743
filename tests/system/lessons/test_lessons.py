"""The course's lessons: each runs at its test size, has its parts in both languages, and no link leads nowhere."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from glassbox.course.catalogue import exercises_of, lessons

ROOT = Path(__file__).parents[3]
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
HAN = "[\u4e00-\u9fff]"
MOST_SECONDS = 20


def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lessons_build", ROOT / "lessons" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lessons_build"] = module
    spec.loader.exec_module(module)
    return module


BUILD = builder()


def defined(path: Path) -> set[str]:
    """Functions, classes, their methods and assigned names at the top of a file."""
    found: set[str] = set()

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + child.name)
                walk(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.Assign | ast.AnnAssign):
                targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                found.update(prefix + one.id for one in targets if isinstance(one, ast.Name))

    walk(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def test_every_lesson_with_exercises_is_there() -> None:
    names = {path.stem for path in LESSONS}
    assert {f"{lesson.number:02}_{lesson.name}" for lesson in lessons()} <= names


@each_lesson
def test_parts_and_languages(path: Path) -> None:
    cells = BUILD.read_cells(path)
    prose = [cell for cell in cells if cell.kind == "markdown"]
    assert [cell.language for cell in prose] == ["en", "zh"] * (len(prose) // 2)
    for english, chinese in zip(prose[::2], prose[1::2], strict=True):
        assert cells.index(chinese) == cells.index(english) + 1
        assert english.part == chinese.part
        assert not re.search(HAN, english.text)
        assert re.search(HAN, chinese.text)
        for same in (r"^#+ ", r"^- ", r"<!-- .* -->", r"^```", r"^\$\$.*"):
            ours, theirs = (re.findall(same, c.text, re.MULTILINE) for c in (english, chinese))
            assert ours == theirs, (same, ours, theirs)
        links = [re.findall(r"\]\(([^)]+)\)", cell.text) for cell in (english, chinese)]
        assert sorted(links[0]) == sorted(links[1])
        text = re.sub(r"`[^`]*`|```.*?```|\$[^$]*\$|\]\([^)]*\)", "", chinese.text, flags=re.DOTALL)
        assert not re.findall(rf"{HAN}[,;:?!()][^\n]{{0,20}}", text)
        assert not re.findall(rf"{HAN}\n{HAN}.*", text), "a line breaks inside a phrase"
        assert len(chinese.text.splitlines()) > 0
    assert tuple(dict.fromkeys(cell.part for cell in prose if cell.part)) == BUILD.PARTS
    number = int(path.stem[:2])
    for language in BUILD.LANGUAGES:
        assert BUILD.title_of(cells, language).startswith(f"{number}. ")


@each_lesson
def test_nothing_of_ours_is_imported_before_the_real_one(path: Path) -> None:
    for cell in BUILD.read_cells(path):
        if cell.part == "real":
            break
        assert not re.search(r"^(from|import) glassbox", cell.text, re.MULTILINE)


@each_lesson
def test_exercises_are_three_to_six_or_a_few_more_and_two_are_graded(path: Path) -> None:
    lesson = int(path.stem[:2])
    cells = [c for c in BUILD.read_cells(path) if c.kind == "markdown" and c.part == "exercises"]
    graded = [exercise.number for exercise in exercises_of(lesson)]
    for cell in cells:
        named = BUILD.EXERCISE.findall(cell.text)
        own = re.findall(r"^\*\*(\d+\.\d+) ", cell.text, re.MULTILINE)
        assert named == graded
        assert len(named) >= 2
        assert 3 <= len(named) + len(own) <= 7
        assert not set(named) & set(own)


@each_lesson
def test_links_lead_somewhere(path: Path) -> None:
    for cell in BUILD.read_cells(path):
        if cell.kind != "markdown":
            continue
        for text, target in re.findall(r"\[([^\]]*)\]\(([^)#\s]+)[^)]*\)", cell.text):
            if re.match(r"https?:", target):
                continue
            file = (path.parent / target).resolve()
            assert file.exists(), target
            if file.suffix == ".py" and file.is_relative_to(ROOT / "src"):
                for name in re.findall(r"`([\w.]+)`", text):
                    assert name in defined(file), f"{target} has no {name}"


@pytest.mark.slow
@each_lesson
def test_a_lesson_runs_and_its_pages_have_the_same_code(path: Path, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(BUILD.__file__), path.stem, "--size", "test", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-3000:]
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < MOST_SECONDS
    english, chinese = (
        (tmp_path / f"{path.stem}{ending}.md").read_text(encoding="utf-8") for ending in ("", ".zh")
    )
    code = [
        re.findall(r"^```(?:python|text)\n.*?^```$", text, re.DOTALL | re.MULTILINE)
        for text in (english, chinese)
    ]
    assert code[0] == code[1]
    images = [
        re.findall(r"^!\[(.+)\]\((images/.+)\)$", text, re.MULTILINE) for text in (english, chinese)
    ]
    assert len(images[0]) == len(images[1]) > 0
    for (alt, file), (chinese_alt, same) in zip(*images, strict=True):
        assert file == same
        assert (tmp_path / file).read_text().lstrip().startswith("<?xml")
        assert len(alt) > 40
        assert re.search(HAN, chinese_alt)
    books = [
        json.loads((tmp_path / one / f"{path.stem}.ipynb").read_text()) for one in ("en", "zh")
    ]
    cells = [[c for c in book["cells"] if c["cell_type"] == "code"] for book in books]
    assert [c["source"] for c in cells[0]] == [c["source"] for c in cells[1]]
    assert any(cell["outputs"] for cell in cells[0])


def test_a_script_is_what_a_notebook_runs(tmp_path: Path) -> None:
    """`python lessons/05_attention.py` prints what the notebook's cells do."""
    path = ROOT / "lessons" / "05_attention.py"
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "GLASSBOX_LESSON_SIZE": "test", "MPLBACKEND": "Agg"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "positions whose output changes with token 4: [4, 5]" in done.stdout
    assert "outputs differ by" in done.stdout
