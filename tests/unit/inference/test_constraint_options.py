"""Constraints and guesses as the command line names them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glassbox.cli.main import main
from glassbox.core.errors import UserError
from glassbox.formats.huggingface import save_pretrained
from glassbox.inference.constraints.specs import Choice, JsonSchema, Regex, read_constraint
from glassbox.inference.speculation.draft_model import DraftModel
from glassbox.inference.speculation.proposers import NgramProposer
from glassbox.runs.speculation import open_proposer
from glassbox.tokenizers import train_bpe
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "ok": {"type": "boolean"},
        "n": {"type": "integer", "maximum": 99, "minimum": 0},
    },
    "required": ["ok", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    save_pretrained(tiny_chat_model(tokenizer), folder, tokenizer=tokenizer)
    return folder


def generated(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["generate", str(folder), "--prompt", "The fox", "--seed", "1", *words])
    assert ended.value.code in (0, None)
    return capsys.readouterr().out.removesuffix("\n")


def test_what_is_asked_for(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    assert read_constraint(None, None, []) is None
    assert read_constraint(schema, None, []) == JsonSchema(definition={"type": "object"})
    assert read_constraint(None, "a+", []) == Regex(pattern="a+")
    assert read_constraint(None, None, ["x", "y"]) == Choice(options=("x", "y"))


def test_refusals(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for arguments, why in (
        ((None, "a", ["b"]), "--regex and --choice cannot both hold"),
        ((broken, None, []), "holds no JSON"),
        ((tmp_path / "none.json", None, []), "No such file"),
        ((None, "(a{1000}){1000}", []), "counted repeats"),
        ((None, None, [""]), "empty text"),
    ):
        with pytest.raises(UserError, match=why) as caught:
            read_constraint(*arguments)
        assert "\n" not in str(caught.value)


def test_generate_holds_to_a_constraint(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    value = json.loads(generated(model_folder, capsys, "--json-schema", str(schema)))
    assert isinstance(value["ok"], bool)
    assert 0 <= value["n"] <= 99
    assert generated(model_folder, capsys, "--regex", "ab{3}") == "abbb"
    assert generated(model_folder, capsys, "--choice", "yes", "--choice", "no") in ("yes", "no")


def test_generate_with_guesses_writes_the_same(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = generated(model_folder, capsys, "--max-tokens", "30")
    assert len(plain) > 5
    for words in (("--ngram-drafts", "3"), ("--draft", str(model_folder), "--num-drafts", "2")):
        assert generated(model_folder, capsys, "--max-tokens", "30", *words) == plain


def test_where_guesses_come_from(model_folder: Path, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_chat_model(tokenizer)
    assert open_proposer(model, tokenizer, None, 4, 0) == (None, 4)
    proposer, count = open_proposer(model, tokenizer, None, 4, 7)
    assert isinstance(proposer, NgramProposer)
    assert count == 7
    proposer, count = open_proposer(model, tokenizer, str(model_folder), 3, 0)
    assert isinstance(proposer, DraftModel)
    assert count == 3
    with pytest.raises(UserError, match="give one of them"):
        open_proposer(model, tokenizer, str(model_folder), 4, 7)
    other = train_bpe(["other words altogether, many of them"], tokenizer.vocab_size)
    save_pretrained(tiny_chat_model(other), tmp_path, tokenizer=other)
    with pytest.raises(UserError, match="another tokenizer"):
        open_proposer(model, tokenizer, str(tmp_path), 4, 0)
