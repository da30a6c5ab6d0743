"""Typical mistakes at every command: exit code 2, one complaint that names the fault, nothing left behind,
and the corrected command works in the same folder. Those of a first training run have a test of their
own, test_first_mistakes.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glassbox.cli.main import main
from glassbox.formats.huggingface import save_pretrained
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TRAIN = ["device=cpu", "train.steps=1", "train.schedule.warmup_steps=0"]
PRETRAIN = [
    "train", "pretrain.yaml", *TRAIN, "tokenizer.vocab_size=300", "data.row_length=32",
    "data.rows_per_step=2", "model.hidden_size=16", "model.num_layers=1", "model.num_heads=2",
    "model.ffn_size=16", "model.context_length=32", "data.path=book.txt",
]  # fmt: skip
SFT = ["train", "sft.yaml", *TRAIN, "data.row_length=64", "data.rows_per_step=2", "init=model", "data.path=chats.jsonl"]  # fmt: skip
DPO = ["train", "dpo.yaml", *TRAIN, "data.pairs_per_step=2", "data.max_length=64", "init=model", "data.path=pairs.jsonl"]  # fmt: skip
WRITE = ["generate", "model", "--prompt", "The fox", "--max-tokens", "2"]
LOSS = ["eval", "model", "--text", "book.txt"]
TRAIN_TOKENIZER = ["tokenizer", "train", "--out", "tok", "--vocab-size", "280"]

# a command, what is wrong at its end, what is right there, and part of what is said
MISTAKES: list[tuple[list[str], str, str, str]] = [
    ([], "trian pretrain.yaml", "models smollm2-135m", "Did you mean 'train'?"),
    (["recipe", "show"], "pretrian.yaml", "pretrain.yaml", "no recipe at 'pretrian.yaml'"),
    (["recipe", "check"], "broken.yaml", "good.yaml", "'broken.yaml' line 2: not valid YAML"),
    (["recipe", "check"], "nostage.yaml", "good.yaml", "missing key 'stage'; choose one of pretrain"),
    (PRETRAIN, "train.lr=fast", "train.lr=0.1", "'train.lr' = 'fast': give a number"),
    (PRETRAIN, "train.lr=", "train.lr=1e-3", "'train.lr' = null: give a number"),
    (PRETRAIN, "train.lr", "train.lr=1e-3", "write key.path=value"),
    (PRETRAIN, "--train.lr=3", "train.lr=3", "No such option: --train.lr"),
    (PRETRAIN, "train.steps=-1", "train.steps=1", "use a number greater than 0"),
    (PRETRAIN, "train.schedule.warmup_steps=20", "train.schedule.warmup_steps=0", "leaves nothing of 1 steps"),
    (PRETRAIN, "train.schedule.kind=cosin", "train.schedule.kind=warmup_cosine", "did you mean 'warmup_cosine'?"),
    (PRETRAIN, "train.precision=bf61", "train.precision=float32", "use 'float32', 'bfloat16' or 'float16'"),
    (PRETRAIN, "train.epochs=0", "train.epochs=0.1 train.steps=null", "greater than 0"),
    (PRETRAIN, "device=gpu", "device=cpu", "use 'auto', 'cpu', 'cuda' or 'mps'"),
    (PRETRAIN, "precision=float32", "seed=3", "unknown key 'precision'"),
    (PRETRAIN, "out=book.txt", "seed=4", "'book.txt' is a file; name a folder"),
    (PRETRAIN, "model.num_layers=0", "model.num_layers=2", "'model.num_layers' = 0"),
    (PRETRAIN, "tokenizer.vocab_size=100", "tokenizer.vocab_size=290", "use a number greater than 256"),
    (PRETRAIN, "data.path=chats.jsonl", "data.path=rows.jsonl", "'chats.jsonl' line 1: expected an object with a string 'text'"),
    (SFT, "data.path=book.txt", "seed=1", "'book.txt' line 1: not valid JSON"),
    (SFT, "data.path=pairs.jsonl", "seed=1", "use messages, conversations (ShareGPT), or instruction"),
    (SFT, "data.row_length=100000", "data.row_length=32", "more than the model's context_length = 128"),
    (SFT, "init=book.txt", "seed=2", "is no model that can be read"),
    (DPO, "data.path=chats.jsonl", "seed=1", "'chats.jsonl' line 1"),
    (DPO, "data.row_length=64", "seed=1", "did you mean 'max_length'?"),
    (DPO, "dpo.beta=-1", "dpo.beta=0.2", "'dpo.beta' = -1"),
    (["generate", "--prompt", "x", "--max-tokens", "2"], "modle", "model", "no model at 'modle'"),
    (["generate", "--prompt", "x", "--max-tokens", "2"], ".", "model", "holds no config.json and no checkpoints/"),
    (WRITE, "--temperature -1", "--temperature 0", "'temperature' = -1.0: use 0.0 or more"),
    (WRITE, "--top-p 3", "--top-p 0.3", "'top_p' = 3.0: use 1.0 or less"),
    (WRITE, "--max-tokens ten", "--max-tokens 1", "unable to parse string as an integer"),
    (WRITE, "--quantize int5", "--quantize int8", "quantize = 'int5' is unknown"),
    (WRITE, "--kv-cache int5", "--kv-cache int8", "use auto, int8 or int4"),
    (WRITE, "--json-schema nope.json", "--json-schema schema.json", "No such file or directory; give a file"),
    (WRITE, "--json-schema broken.json", "--json-schema schema.json", "holds no JSON; write a schema in it"),
    (WRITE, "--regex (a", "--regex (a)", "regex '(a': unclosed group"),
    (WRITE, "--adapter model", "--seed 1", "holds a model and no adapter"),
    (WRITE, "--draft nope", "--draft model", "no model at 'nope'"),
    (WRITE, "--logit-bias a=b", "--logit-bias 5=1", "'logit_bias.a' = 'a'"),
    (WRITE, "--code nope.py:Layer", "--seed 2", "no Python file at 'nope.py'"),
    (["eval", "--limit", "1"], "model", "model --text book.txt", "give --corpus FOLDER"),
    (["eval", "model", "--text"], "nope.txt", "book.txt", "no data at 'nope.txt'"),
    (LOSS, "--tasks helaswag", "--batch-tokens 512", "did you mean 'hellaswag'?"),
    (LOSS, "--bos sometimes", "--bos never", "use 'auto', 'always' or 'never'"),
    (["convert", "model"], "x.ggfu", "x.gguf", "did you mean '.gguf'?|did you mean 'x.gguf'?"),
    (["convert", "model"], "model", "copy", "is there already"),
    (["convert", "model", "out", "--to"], "onnx", "hf", "use hf, gguf, llama2c"),
    ([*TRAIN_TOKENIZER, "--corpus"], "nope.txt", "book.txt", "no data at 'nope.txt'"),
    ([*TRAIN_TOKENIZER, "--corpus"], "empty.txt", "book.txt", "'empty.txt' holds no text"),
    (["tokenizer", "train", "--corpus", "book.txt", "--out", "tok", "--vocab-size"], "10", "280", "256 bytes and 4 special tokens need 260"),
    (["tokenizer", "decode", "model"], "abc", "65 66", "unable to parse string as an integer"),
    (["tokenizer", "inspect"], "book.txt", "model", "damaged or no JSON"),
    (["data", "analyze"], "nope.txt", "book.txt --out page.html", "nothing at 'nope.txt'"),
    (["report"], "model", "run", "'model' is no run"),
    (["compress", "model", "small"], "--method gtpq", "--method rtn", "use one of rtn, gptq, awq"),
    (["compress", "model", "small8", "--bits"], "3", "8", "use 4 or 8"),
    (["compress", "model", "small4", "--method", "gptq"], "--seed 1", "--calibration book.txt --windows 2 --window-tokens 32", "give --calibration FILE"),
    (["upcycle", "model", "up", "--experts", "4", "--top-k"], "9", "2", "top_k = 9 of num_experts = 4"),
    (["new"], "mixr mine", "mixer mine", "use one of mixer, optimizer"),
    (["new", "mixer"], "my-mixer!", "my_mixer", "use small letters, digits and '_'"),
    (["inspect"], "nope x", "model x", "no model at 'nope'"),
    (["replay", "run", "--step"], "99", "1", "'run' has steps 1 to 1"),
    (["quickstart", "--out"], "book.txt", "", "'book.txt' is a file"),
    (["serve", "model"], "--port http", "", "unable to parse string as an integer"),
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all commands share: what one left behind would be seen by the next."""
    home = tmp_path_factory.mktemp("home")
    tokenizer = tiny_tokenizer()
    save_pretrained(tiny_chat_model(tokenizer), home / "model", tokenizer=tokenizer)
    story = "The fox number {} went to the old tree and saw a red ball."
    question = {"role": "user", "content": "Who has it?"}
    rows = {
        "chats": [{"messages": [question, {"role": "assistant", "content": "Mia"}]}] * 12,
        "pairs": [{"prompt": "Who has it?", "chosen": "Mia", "rejected": "Tom"}] * 12,
        "rows": [{"text": story.format(n)} for n in range(40)],
    }
    for name, items in rows.items():
        (home / f"{name}.jsonl").write_text("\n".join(json.dumps(item) for item in items))
    (home / "book.txt").write_text("<|endoftext|>".join(story.format(n) for n in range(60)))
    (home / "empty.txt").write_text("")
    (home / "schema.json").write_text('{"enum": ["a"]}')
    (home / "broken.json").write_text('{"type":')
    (home / "broken.yaml").write_text("data: [1, 2\nout: x")
    (home / "nostage.yaml").write_text("hello: 1\n")
    (home / "good.yaml").write_text(
        "stage: sft\nout: one\ninit: model\ndata: {path: chats.jsonl, row_length: 64}\n"
        "train: {steps: 1, lr: 0.01, schedule: {kind: constant}}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        with pytest.raises(SystemExit) as ended:
            main([*PRETRAIN, "out=run"])
    assert not ended.value.code
    return home


@pytest.mark.parametrize(
    ("words", "wrong", "right", "said"),
    MISTAKES,
    ids=[" ".join([*words[:2], wrong])[:60] for words, wrong, _, _ in MISTAKES],
)
def test_a_mistake_is_named_leaves_nothing_and_its_correction_works(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    wrong: str,
    right: str,
    said: str,
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "200")
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    run = [f"out={tmp_path / 'run'}"] if words[:1] == ["train"] else []
    with pytest.raises(SystemExit) as ended:
        main([*words, *run, *wrong.split()])
    errors = capsys.readouterr().err
    assert ended.value.code == 2, errors
    assert any(part in errors for part in said.split("|")), errors
    assert "Traceback" not in errors
    assert "pydantic" not in errors
    assert errors.startswith("Usage: ") or (
        errors.startswith("glassbox: ") and errors.count("\n") == 1
    )
    after = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    assert after == before
    assert not list(tmp_path.iterdir())
    if not right:  # the corrected command runs for minutes, or for ever
        return
    with pytest.raises(SystemExit) as ended:
        main([*words, *run, *right.split()])
    assert not ended.value.code, capsys.readouterr().err


def test_a_run_is_a_tokenizer_too(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    for words in (
        "encode run fox",
        "inspect run fox",
        "compare run model book.txt",
        "decode run 70",
    ):
        with pytest.raises(SystemExit) as ended:
            main(["tokenizer", *words.split()])
        assert not ended.value.code, capsys.readouterr().err
    assert "no file" not in capsys.readouterr().err


def test_there_are_sixty_with_those_of_a_first_training_run() -> None:
    from system.test_first_mistakes import MISTAKES as FIRST

    assert len(MISTAKES) + len(FIRST) >= 60
