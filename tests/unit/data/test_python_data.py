"""Sources and curation steps of the user's own: read as files are, and every fault is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.data.conversations import read_chats
from glassbox.data.curation.python_step import PythonStepSpec
from glassbox.data.curation.sources import find_sources
from glassbox.data.curation.step import CorpusStep, Record, RecordStep, RevisingStep
from glassbox.data.preferences import read_preferences
from glassbox.data.python_source import PythonSource
from glassbox.data.text import find_corpus, read_documents
from glassbox.runs.curate import check_curation, curate
from glassbox.runs.stages.curate import CurateRecipe
from glassbox.runs.stages.text import TextData

SOURCE = '''
import time
from dataclasses import replace
from glassbox.data.curation.step import Dropped, Record

def texts(*, count=3):
    yield from (f"Text number {n}." for n in range(count))

def rows():
    return [{"text": "One.", "n": 1}, {"content": "Two."}]

def twice():
    yield from ["The same words.", "Other words here.", "The same words."] * 2

def chats():
    for n in range(3):
        yield {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "Yes."}]}

def pairs():
    yield {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}

def number(): return 3
def word(): return "word"
def numbers(): yield 1
def no_text(): yield {"title": "x"}
def half(): yield "a\\ud83d"

def breaks():
    yield "one"
    raise KeyError("two")

def shout(record, *, mark="!"):
    return replace(record, text=record.text.upper() + mark)

def drop_even(record):
    return Dropped("even", record.id) if int(record.id.rpartition(":")[2]) % 2 == 0 else record

def halves(record):
    middle = len(record.text) // 2
    return [Record(record.text[:middle], record.id + "a"), Record(record.text[middle:], record.id + "b")]

def text_alone(record): return record.text
def fails(record): return 1 // (len(record.text) - len(record.text))
def slow(record): time.sleep(3)
def no_argument(): pass

class First:
    """Keeps one record a first letter."""
    def __init__(self, letters=1): self.letters = letters
    def signature(self, record): return record.text[: self.letters].encode()
    def decide(self, signatures):
        seen, dropped = {}, {}
        for name, signature in signatures:
            if seen.setdefault(signature, name) != name:
                dropped[name] = Dropped("same letter", seen[signature])
        return dropped

class Marked(First):
    def decide(self, signatures):
        return {name: signature for name, signature in signatures}
    def revise(self, record, note):
        return replace(record, text=note.decode() + "> " + record.text)

class Unknown(First):
    def decide(self, signatures): return {"nobody": Dropped("x")}

class TextSignature(First):
    def signature(self, record): return record.text

class Half:
    def signature(self, record): return b""

class Counter:
    """A record step with a state that is made in each process."""
    def __init__(self, least): self.least, self.ready = least, False
    def prepare(self): self.ready = True
    def __call__(self, record):
        assert self.ready
        return record if len(record.text) >= self.least else Dropped("short")
'''


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE, encoding="utf-8")
    return str(path)


def source(file: str, name: str, **options: Any) -> PythonSource:
    return PythonSource(path=f"{file}:{name}", options=options)


def test_texts_and_rows_are_read_as_files_are(file: str) -> None:
    assert list(read_documents(find_corpus(source(file, "texts", count=2)))) == [
        "Text number 0.",
        "Text number 1.",
    ]
    assert list(read_documents(source(file, "rows"))) == ["One.", "Two."]
    assert len(read_chats(source(file, "chats"))) == 3
    assert read_preferences(source(file, "pairs"))[0].chosen[0]["content"] == "4"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", "gave a int, which cannot be iterated; yield strings or mappings"),
        ("word", "gave a single str; yield items instead"),
        ("numbers", r"mine\.py:numbers' item 1: a int; give a string"),
        ("no_text", "no text among the keys title"),
        ("half", "half of a surrogate pair"),
        ("breaks", r"raised KeyError in .*mine\.py line \d+, in breaks: 'two'; correct it there"),
        ("shout", "cannot be called with"),
        ("nothing", "has no 'nothing'; it has"),
    ],
)
def test_a_faulty_source_is_one_line(file: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        list(read_documents(source(file, name)))
    assert "\n" not in str(caught.value)


def test_rows_have_to_be_mappings(file: str) -> None:
    with pytest.raises(UserError, match="item 1: a str; each item is a mapping"):
        read_chats(source(file, "texts"))


def test_a_recipes_data_path_is_a_name_or_code(file: str) -> None:
    given = {"kind": "python", "path": f"{file}:texts"}
    data = parse(TextData, {"path": given})
    assert isinstance(data.path, PythonSource)
    assert data.names == ["texts"]
    assert parse(TextData, data.model_dump(mode="json")) == data
    assert parse(TextData, {"path": "book.txt"}).path == "book.txt"
    with pytest.raises(
        UserError, match=r"^configuration: missing key 'path\.path'; give it a value$"
    ):
        parse(TextData, {"path": {"kind": "python"}})
    with pytest.raises(UserError, match=r"unknown key 'path\.option'.*did you mean 'options'"):
        parse(TextData, {"path": {**given, "option": {}}})
    with pytest.raises(UserError, match=r"^configuration: 'path' = 3: give text$"):
        parse(TextData, {"path": 3})


def run(
    out: Path, file: str, taken: str, *steps: Any, workers: int = 1
) -> tuple[list[str], dict[str, Any]]:
    """Texts that are kept, and the report."""
    recipe = parse(
        CurateRecipe,
        {
            "out": str(out),
            "source": [{"kind": "python", "path": f"{file}:{taken}"}],
            "steps": [{"kind": "python", **step} for step in steps],
            "workers": workers,
        },
    )
    curate(recipe)
    lines = [
        line
        for shard in sorted((out / "documents").iterdir())
        for line in shard.read_text(encoding="utf-8").splitlines()
    ]
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return [json.loads(line)["text"] for line in lines], report


@pytest.mark.parametrize("workers", [1, 2])
def test_steps_of_all_kinds_in_any_number_of_processes(
    file: str, tmp_path: Path, workers: int
) -> None:
    kept, report = run(
        tmp_path / "out",
        file,
        "twice",
        {"path": f"{file}:First", "options": {"letters": 5}},
        {"path": f"{file}:Marked"},
        {"path": f"{file}:halves"},
        {"path": f"{file}:Counter", "options": {"least": 9}},
        {"path": f"{file}:shout", "options": {"mark": "?"}},
        workers=workers,
    )
    assert kept == ["T> THE SA?", "ME WORDS.?", "O> OTHER W?", "ORDS HERE.?"]
    assert [step["name"] for step in report["steps"]] == [
        "First",
        "Marked",
        "halves",
        "Counter",
        "shout",
    ]
    assert report["steps"][0]["dropped"] == {"same letter": 4}


def test_kinds_are_known_by_their_methods(file: str) -> None:
    def step(name: str) -> Any:
        return PythonStepSpec(path=f"{file}:{name}").build()

    assert isinstance(step("shout"), RecordStep)
    assert isinstance(step("First"), CorpusStep)
    assert not isinstance(step("First"), RevisingStep)
    assert isinstance(step("Marked"), RevisingStep)


def test_a_step_that_takes_too_long_drops_the_record(file: str) -> None:
    from glassbox.data.curation.limits import TooSlow, time_limit

    step = PythonStepSpec(path=f"{file}:slow").build()
    assert isinstance(step, RecordStep)
    with time_limit(0.1) as limited, pytest.raises(TooSlow), limited():
        step(Record("text", "a:1"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "text_alone",
            r"gave a str for record '.*:1'; return a Record, Dropped\(reason\) or a list",
        ),
        ("fails", r"record '.*:1': '.*:fails' raised ZeroDivisionError in .*mine\.py line \d+"),
        ("Unknown", "names the record 'nobody', which is not among the signatures"),
        ("TextSignature", "gave a str for record '.*:1'; return bytes"),
    ],
)
def test_a_step_that_breaks_its_protocol_is_one_line(
    file: str, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path / "out", file, "texts", {"path": f"{file}:{name}"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_argument", r"steps: '.*:no_argument' cannot be called with \(Record\)"),
        ("Half", "gave a Half without a method 'decide'"),
        ("Counter", r"cannot be called with \(\): missing a required argument: 'least'"),
    ],
)
def test_a_step_is_checked_before_anything_is_read(
    file: str, tmp_path: Path, name: str, message: str
) -> None:
    step = {"kind": "python", "path": f"{file}:{name}"}
    raw = {"out": str(tmp_path / "out"), "source": file.replace("mine.py", ""), "steps": [step]}
    with pytest.raises(UserError, match=message):
        check_curation(parse(CurateRecipe, raw))
    assert not (tmp_path / "out").exists()


def test_an_edited_step_does_not_go_on_with_old_shards(file: str, tmp_path: Path) -> None:
    run(tmp_path / "out", file, "texts", {"path": f"{file}:shout"})
    assert (
        run(tmp_path / "out", file, "texts", {"path": f"{file}:shout"})[0][0] == "TEXT NUMBER 0.!"
    )
    Path(file).write_text(SOURCE + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="holds documents of another recipe or source"):
        run(tmp_path / "out", file, "texts", {"path": f"{file}:shout"})


def test_a_source_of_curation_is_checked_first(file: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no 'missing'"):
        find_sources([source(file, "missing")], downloads=tmp_path)
