"""glassbox lesson: the course's exercises, graded on your machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LanguageOption = Annotated[
    str | None,
    typer.Option("--language", help="en or zh; by default your locale's.", show_default=False),
]
NAME = "A lesson (5), an exercise (5.2), or all."


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="The course's exercises, graded here. Example: `glassbox lesson open 5`",
        no_args_is_help=True,
    )
    group.command("list")(list_)
    group.command("open")(open_)
    group.command("check")(check)
    group.command("hint")(hint)
    group.command("solution")(solution)
    group.command("adapters")(adapters)
    app.add_typer(group, name="lesson", rich_help_panel="Look")


def list_(language: LanguageOption = None) -> None:
    """All lessons with their exercises, and which you have done. Example: `glassbox lesson list`"""
    from glassbox.course.language import chosen_language
    from glassbox.course.progress import read_progress
    from glassbox.course.showing import list_lines

    for line in list_lines(read_progress(), chosen_language(language)):
        print(line)


def open_(
    name: Annotated[str, typer.Argument(metavar="N", help=NAME)],
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write; by default lesson_N.py.", show_default=False),
    ] = None,
    language: LanguageOption = None,
) -> None:
    """Write a file with the exercises' statements and the functions to fill in.

    Example: `glassbox lesson open 5.1 --out attention.py`
    """
    from glassbox.course.commands import open_exercises
    from glassbox.course.language import chosen_language

    for line in open_exercises(name, out, chosen_language(language)):
        print(line)


def check(
    name: Annotated[str, typer.Argument(metavar="N", help=NAME)],
    file: Annotated[Path, typer.Argument(help="Your file; it runs in a sandbox.")],
    language: LanguageOption = None,
) -> None:
    """Grade a file: right, or which mistake it makes and the smallest input that shows it.

    Exits with 1 where something is wrong. Example: `glassbox lesson check 5.1 attention.py`
    """
    from glassbox.course.commands import check_file
    from glassbox.course.language import chosen_language

    checked = check_file(name, file, chosen_language(language))
    for line in checked.lines:
        print(line)
    if not checked.passed:
        raise typer.Exit(1)


def hint(
    name: Annotated[str, typer.Argument(metavar="N", help="An exercise, such as 5.2.")],
    language: LanguageOption = None,
) -> None:
    """The next hint of an exercise, after those that you have seen. Example: `glassbox lesson hint 5.2`"""
    from glassbox.course.commands import next_hint
    from glassbox.course.language import chosen_language

    for line in next_hint(name, chosen_language(language)):
        print(line)


def solution(
    name: Annotated[str, typer.Argument(metavar="N", help="An exercise, such as 5.2.")],
) -> None:
    """A right solution of an exercise, as Python. Example: `glassbox lesson solution 5.2`"""
    from glassbox.course.commands import solution_text

    print(solution_text(name), end="")


def adapters(
    name: Annotated[str, typer.Argument(metavar="N", help=NAME)] = "all",
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("."),
    language: LanguageOption = None,
) -> None:
    """Write adapters.py and test_exercises.py, by which a course of your own uses these exercises.

    Example: `glassbox lesson adapters --out my_course`
    """
    from glassbox.course.adapters import write_adapters
    from glassbox.course.catalogue import chosen_exercises
    from glassbox.course.language import chosen_language

    for file in write_adapters(out, chosen_exercises(name), chosen_language(language)):
        print(file)
