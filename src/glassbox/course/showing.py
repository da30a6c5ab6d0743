"""What `glassbox lesson` prints: lists, statements, verdicts, in the user's language."""

from __future__ import annotations

from collections.abc import Sequence

from glassbox.course.catalogue import exercises_of, lessons
from glassbox.course.exercise import Exercise
from glassbox.course.grading import Report
from glassbox.course.language import Both, Language
from glassbox.course.progress import Done, Progress

WORDS = {
    "lesson": Both("Lesson {number}: {title}", "第 {number} 课：{title}"),
    "done": Both("{passed} of {all} exercises done", "已完成 {passed} / {all} 道练习"),
    "tries": Both("{count} tries", "试了 {count} 次"),
    "right": Both(
        "{number} {title}: right ({cases} cases)", "{number} {title}：正确（{cases} 个用例）"
    ),
    "wrong": Both("{number} {title}: not yet: {message}", "{number} {title}：还不对：{message}"),
    "code": Both("mistake: {code}", "错误代码：{code}"),
    "smallest": Both("the smallest input that fails:", "最小的失败输入："),
    "expected": Both("expected:", "应为："),
    "got": Both("got:", "得到："),
    "differs": Both("first difference at {where}", "首处不同在 {where}"),
    "printed": Both("it printed:", "程序输出："),
    "hint": Both("Hint {place} of {all}: {hint}", "提示 {place} / {all}：{hint}"),
    "more": Both(
        "glassbox lesson hint {number} gives a hint",
        "运行 glassbox lesson hint {number} 可以看提示",
    ),
    "check": Both("Check with: {command}", "检查：{command}"),
    "written": Both("wrote {file}", "已写入 {file}"),
}


def say(word: str, language: Language, **fields: object) -> str:
    """One of `WORDS` with its fields filled."""
    return WORDS[word].of(language).format(**fields)


def list_lines(progress: Progress, language: Language) -> list[str]:
    """All lessons with their exercises, and what is done."""
    lines: list[str] = []
    passed, count = 0, 0
    for lesson in lessons():
        lines.append(say("lesson", language, number=lesson.number, title=lesson.title.of(language)))
        for exercise in exercises_of(lesson.number):
            done = progress.of(exercise.number)
            passed, count = passed + done.passed, count + 1
            lines.append(_list_line(exercise, done, language))
    return [*lines, "", say("done", language, passed=passed, all=count)]


def _list_line(exercise: Exercise, done: Done, language: Language) -> str:
    mark = "x" if done.passed else " "
    tries = f"  ({say('tries', language, count=done.tries)})" if done.tries else ""
    names = ", ".join(exercise.functions)
    return f"  [{mark}] {exercise.number}  {exercise.title.of(language)}  ({names}){tries}"


def exercise_file(chosen: Sequence[Exercise], language: Language, command: str) -> str:
    """A plain file in which the chosen exercises are to be written, with their statements."""
    parts = [f"# {say('check', language, command=command)}\n"]
    imports = dict.fromkeys(
        line for exercise in chosen for line in exercise.imports.splitlines() if line
    )
    parts.append("\n".join(_sorted_imports(list(imports))) + "\n")
    for exercise in chosen:
        about = "\n".join(f"# {line}".rstrip() for line in statement_lines(exercise, language))
        stub = exercise.stub_text.removeprefix(exercise.imports).strip("\n")
        parts.append(f"\n{about}\n\n\n{stub}\n")
    return "\n".join(parts)


def _sorted_imports(lines: list[str]) -> list[str]:
    """Python's own modules first, then a blank line, then the others."""
    import sys

    own = sorted(
        one for one in lines if one.split()[1].partition(".")[0] in sys.stdlib_module_names
    )
    other = [one for one in lines if one not in own]
    other.sort(key=lambda one: (one.startswith("from"), one))
    own.sort(key=lambda one: (one.startswith("from"), one))
    return [*own, *([""] if own and other else []), *other]


def statement_lines(exercise: Exercise, language: Language, width: int = 96) -> list[str]:
    """The title and the statement, folded."""
    title = f"{exercise.number} {exercise.title.of(language)}"
    return [title, *_folded(exercise.statement.of(language), width)]


def _folded(text: str, width: int) -> list[str]:
    """Lines of at most so many columns; Chinese characters take two and break anywhere."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line, columns = "", 0
        for word in _pieces(paragraph):
            size = sum(1 + (ord(char) > 0x2E7F) for char in word)
            if columns + size > width and line and word not in "，。；：、！？）”":
                lines.append(line.rstrip())
                line, columns = "", 0
                word = word.lstrip()
            line, columns = line + word, columns + size
        lines.append(line.rstrip())
    return lines


def _pieces(text: str) -> list[str]:
    pieces = [""]
    for char in text:
        wide = ord(char) > 0x2E7F
        previous = pieces[-1][-1:]
        if wide or char == " " or (previous and ord(previous) > 0x2E7F):
            pieces.append(char)
        else:
            pieces[-1] += char
    return pieces


def report_lines(report: Report, language: Language) -> list[str]:
    """What is right, or what is wrong, and the smallest input that shows it."""
    exercise = report.exercise
    fields = {"number": exercise.number, "title": exercise.title.of(language)}
    if report.finding is None:
        return [say("right", language, **fields, cases=report.num_cases)]
    message = report.finding.message.of(language)
    lines = [say("wrong", language, **fields, message=message)]
    lines.append(f"  {say('code', language, code=report.finding.code)}")
    if report.failure is not None:
        for word, text in (
            ("smallest", report.failure.call),
            ("expected", report.failure.expected),
            ("got", report.failure.got),
        ):
            lines += [f"  {say(word, language)}", *(f"    {line}" for line in text.splitlines())]
        if report.failure.where:
            lines.append(f"  {say('differs', language, where=report.failure.where)}")
    if report.printed.strip():
        shown = report.printed.strip().splitlines()[:20]
        lines += [f"  {say('printed', language)}", *(f"    {line[:200]}" for line in shown)]
    lines.append(f"  {say('more', language, number=exercise.number)}")
    return lines
