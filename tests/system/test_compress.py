"""`glassbox compress` as users run it, and what it writes."""

from __future__ import annotations

import json

import pytest

from glassbox.cli.main import main
from glassbox.formats.convert import load_model
from glassbox.formats.huggingface import save_pretrained
from support.tiny_chat import tiny_chat_model, tiny_tokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model's folder, and some text."""
    folder = tmp_path_factory.mktemp("compress")
    tokenizer = tiny_tokenizer()
    model = tiny_chat_model(tokenizer)
    save_pretrained(model, folder / "model", tokenizer=tokenizer)
    lines = [{"text": f"the cat number {n} sat on the mat and said hello."} for n in range(60)]
    (folder / "text.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def run(*arguments: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 0


def refused(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ("--bits", 8, "--group", 0, "--symmetric"),
        ("--method", "gptq", "--group", 32, "--windows", 8, "--window-tokens", 24),
        ("--method", "awq", "--windows", 8, "--window-tokens", 24),
        ("--codes", "nf4"),
    ],
)
def test_what_is_written_is_smaller_and_answers(tiny, tmp_path, capsys, options):
    out = tmp_path / "small"
    run("compress", tiny / "model", out, *options, "--calibration", tiny / "text.jsonl")
    assert "MB became" in capsys.readouterr().err
    made = json.loads((out / "config.json").read_text())["quantization_config"]["made"]
    assert made["method"] == (options[1] if options[0] == "--method" else "rtn")
    if made["method"] != "rtn":
        assert len(made["calibration"]["sha256"]) == 64
    run("generate", out, "--prompt", "the cat", "--max-tokens", 4, "--temperature", 0)
    assert capsys.readouterr().out.strip()
    weights = (out / "model.safetensors").stat().st_size
    assert weights < 0.6 * (tiny / "model" / "model.safetensors").stat().st_size


def test_pruned_models_are_plain_models(tiny, tmp_path):
    run(
        "compress", tiny / "model", tmp_path / "half", "--method", "wanda", "--sparsity", "2:4",
        "--calibration", tiny / "text.jsonl", "--windows", 4, "--window-tokens", 24,
    )  # fmt: skip
    model = load_model(tmp_path / "half").model
    weight = model.blocks[0].ffn.down.weight
    assert float((weight == 0).float().mean()) == pytest.approx(0.5, abs=0.02)


def test_generate_rounds_on_the_fly(tiny, capsys):
    run("generate", tiny / "model", "--prompt", "the", "--max-tokens", 2, "--quantize", "int8")
    assert "int9" in refused(capsys, "generate", tiny / "model", "--quantize", "int9")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "magic"), "--method magic is unknown; use one of rtn, gptq, awq, magnitude"),
        (("--method", "gptq"), "give --calibration FILE"),
        (("--bits", 3), "--bits 3: use 4 or 8"),
        (("--group", 3), "is unknown"),
        (("--method", "magnitude", "--sparsity", "half"), "--sparsity half: give a share"),
        (("--method", "magnitude", "--sparsity", "1.5"), "sparsity = 1.5: give a share"),
        (("--method", "gptq", "--calibration", "no-such.txt"), "no data at 'no-such.txt'"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(tiny, tmp_path, capsys, options, message):
    said = refused(capsys, "compress", tiny / "model", tmp_path / "out", *options)
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
