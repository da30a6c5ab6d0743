"""Model files that name sizes without having them: refused in one line, soon, in bounded memory.

Each case is opened in a process of its own, forked from one that has imported everything, with 1.5 GB of
address space beyond what that one has and 20 seconds of processor time.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import safetensors.torch
import torch

from glassbox.adapters.attach import attach
from glassbox.adapters.lora import Lora
from glassbox.formats.gguf.writer import write_gguf
from glassbox.formats.huggingface import save_pretrained
from glassbox.formats.llama2c import HEADER
from glassbox.formats.peft import save_adapter
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

SOON = 8.0  # seconds, on a busy machine
GROWTH = 400  # MB of memory beyond the parent's
MILLIONS = 30_000_000

OPENER = """
import json, os, resource, sys, time, traceback
from glassbox.cli import main as _  # what a command imports
from glassbox.core.errors import UserError
from glassbox.formats.checkpoints import verify_checkpoint
from glassbox.formats.open_model import open_model
from glassbox.inference import Engine, SamplingParams

def peak():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def attempt(path):
    start = time.monotonic()
    try:
        model, tokenizer, _ = open_model(path)
        said = "opened", f"{model.num_parameters} parameters"
        engine = Engine(model, tokenizer)
        for event in engine.stream(tokenizer.encode("The fox"), SamplingParams(max_tokens=3)):
            pass
    except UserError as error:
        said = "refused", str(error)
    except BaseException as error:
        said = "fault", "".join(traceback.format_exception(error))[-3000:]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return json.dumps([*said, time.monotonic() - start, used])

print(json.dumps(peak() // 2**20), flush=True)
room = int(open("/proc/self/statm").read().split()[0]) * 4096 + 1_500_000_000
for line in sys.stdin:
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        os.write(writer, attempt(json.loads(line)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        answer = stream.read()
    _, status = os.wait()
    print(answer or json.dumps(["killed", f"status {status}", 0, 0]), flush=True)
"""


class Opener:
    """Opens models in processes of their own."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        self.to: IO[str] = child.stdin
        self.back: IO[str] = child.stdout
        self.base: int = json.loads(self.back.readline())

    def __call__(self, path: Path) -> tuple[str, str]:
        """ "refused", "opened", "fault" or "killed", and why; it must come soon and in little memory."""
        self.to.write(json.dumps(str(path)) + "\n")
        self.to.flush()
        what, why, seconds, megabytes = json.loads(self.back.readline())
        assert what in ("refused", "opened"), why
        assert seconds < SOON, (seconds, why)
        assert megabytes - self.base < GROWTH, (megabytes - self.base, why)
        assert "\n" not in why
        assert len(why) < 2200
        return what, why


@pytest.fixture(scope="module")
def opener() -> Iterator[Opener]:
    with subprocess.Popen(
        [sys.executable, "-c", OPENER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as child:
        yield Opener(child)
        assert child.stdin is not None
        child.stdin.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    tokenizer = tiny_tokenizer()
    save_pretrained(tiny_chat_model(tokenizer), folder, tokenizer=tokenizer)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A small Llama without our own key, to be spoiled."""
    shutil.copytree(good, tmp_path / "model")
    config = json.loads((good / "config.json").read_text())
    del config["glassbox"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    return tmp_path / "model"


def change(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def sparse(path: Path, content: bytes, size: int) -> None:
    """A file of `size` bytes that takes little room on the disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.truncate(size)


def test_the_unspoiled_folder_opens(opener: Opener, folder: Path) -> None:
    assert opener(folder) == ("opened", opener(folder)[1])


# ---- config.json -----------------------------------------------------------------------------

HUGE = 10**9


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"num_hidden_layers": HUGE}, "num_hidden_layers"),
        ({"num_hidden_layers": 100_000}, "num_hidden_layers"),
        ({"num_hidden_layers": 4096}, "4096 layers"),
        ({"num_hidden_layers": -HUGE}, "num_hidden_layers"),
        ({"hidden_size": 2**40}, "hidden_size"),
        ({"hidden_size": 2**24}, "the wrong shape"),
        ({"vocab_size": 2**62}, "vocab_size"),
        ({"intermediate_size": 2**31 - 1}, "intermediate_size|size"),
        ({"num_attention_heads": 2**30, "head_dim": 2}, "heads"),
        ({"max_position_embeddings": 2**40}, "max_position_embeddings"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ({"rope_theta": 10**4000}, "rope_theta"),
        ({"layer_types": ["full_attention"] * 150_000, "model_type": "qwen3"}, "layer_types"),
        ({"model_type": "mixtral", "num_local_experts": HUGE}, "num_local_experts"),
        ({"model_type": "qwen3_moe", "num_experts": HUGE}, "num_experts"),
        ({"model_type": "gpt2", "n_layer": HUGE}, "n_layer|lacks"),
        ({"hidden_size": ["x" * 1000] * 1000}, "hidden_size"),
        ({"model_type": "x" * 1_000_000}, "model_type"),
        ({"quantization_config": {"quant_method": "y" * 1_000_000}}, "quant_method"),
        ({"glassbox": {str(n): n for n in range(50_000)}}, "unknown key"),
    ],
    ids=lambda value: ",".join(value)[:40] if isinstance(value, dict) else "",
)
def test_sizes_that_a_config_only_names(
    opener: Opener, folder: Path, keys: dict[str, Any], why: str
) -> None:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        change(folder / "config.json", **keys)
    finally:
        sys.set_int_max_str_digits(limit)
    what, said = opener(folder)
    assert what == "refused"
    assert any(word in said for word in why.split("|")), said


def test_a_context_of_two_thousand_million_takes_no_memory(opener: Opener, folder: Path) -> None:
    """It is only a limit: the cache grows with what is generated."""
    change(folder / "config.json", max_position_embeddings=2**31 - 1)
    assert opener(folder)[0] == "opened"


def own(folder: Path, **keys: Any) -> None:
    """A config of ours alone, changed."""
    model = tiny_chat_model(tiny_tokenizer())
    config = model.config.model_dump(mode="json") | keys
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": "glassbox", "glassbox": config}))


def block(**keys: Any) -> dict[str, Any]:
    mixer = {"kind": "grouped_query", "num_heads": 2}
    return {"block": {"mixer": mixer, "ffn": {"kind": "gelu", "size": 32}} | keys}


EXPERTS = {"kind": "experts", "top_k": 1, "expert": {"kind": "swiglu", "size": 8}}


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"blocks": [block() | {"times": HUGE}]}, "times"),
        ({"blocks": [block()] * 20_000}, "blocks"),
        ({"blocks": [block() | {"times": 4000}] * 2}, "8000 layers"),
        ({"blocks": [block(ffn={"kind": "gelu", "size": 2**62})]}, "size"),
        ({"blocks": [block(ffn=EXPERTS | {"num_experts": HUGE})]}, "num_experts"),
        ({"blocks": [block(ffn=EXPERTS | {"num_experts": 8000}) | {"times": 4000}]}, "experts"),
        ({"blocks": [block(mixer={"kind": "mamba", "state_size": 2**60})]}, "state_size"),
        (
            {"blocks": [block(mixer={"kind": "retention", "num_heads": 2**28})]},
            "num_heads|retention",
        ),
        ({"mtp": {"depth": HUGE}}, "mtp"),
        ({"hidden_size": 2**24, "vocab_size": 2**24, "blocks": [block()]}, "the wrong shape|lacks"),
    ],
    ids=lambda value: json.dumps(value)[-40:] if isinstance(value, dict) else "",
)
def test_sizes_that_our_own_config_only_names(
    opener: Opener, folder: Path, keys: dict[str, Any], why: str
) -> None:
    own(folder, **keys)
    what, said = opener(folder)
    assert what == "refused"
    assert any(word in said for word in why.split("|")), said


OPTIONAL = ("generation_config.json", "tokenizer_config.json")
NAMES = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["digits", "nested", "device", "pipe", "large", "folder", "loop"])
def test_json_files_that_have_no_end(opener: Opener, folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "digits":
        path.write_text('{"vocab_size": ' + "9" * 5000 + "}")
    elif kind == "nested":
        path.write_text('{"a":' * 200_000)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        sparse(path, b"{", 1 << 40)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    what, said = opener(folder)
    if kind == "loop" and name in OPTIONAL:  # there is nothing, as a broken link has nothing
        return
    assert what == "refused"
    assert name in said, said


def test_a_million_stops(opener: Opener, folder: Path) -> None:
    change(folder / "generation_config.json", eos_token_id=list(range(500_000)))
    assert "eos_token_id" in opener(folder)[1]


# ---- safetensors -----------------------------------------------------------------------------


def header(tensors: dict[str, Any]) -> bytes:
    raw = json.dumps(tensors).encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(start: int, end: int, *shape: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}


EMPTY = entry(0, 0, 0)


@pytest.mark.parametrize(
    "content",
    [
        header({f"{n:06}": EMPTY for n in range(300_000)}),
        header({f"{n:06}": EMPTY for n in range(200_000)}),
        header({f"model.{n:06}": EMPTY for n in range(200_000)}),
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 2**64 - 1) + b"{}",
        header({"model.norm.weight": entry(0, 2**62, 2**60)}),
        header({"a": entry(0, 8, 2), "b": entry(4, 12, 2)}) + bytes(12),
        header({"a": entry(0, 4, *[1] * 2_000_000)}) + bytes(4),
        header({"a": entry(0, 0, 2**40, 2**40, 0)}),
        struct.pack("<Q", 400_000) + b'{"a":' * 80_000,
        header({"\ud800": EMPTY}),
        b"",
    ],
    ids=["300,000 empty", "200,000 empty", "200,000 named", "2^63", "2^64 - 1", "beyond", "overlap",
         "dimensions", "product", "nested", "surrogate", "no bytes"],
)  # fmt: skip
def test_headers_of_safetensors(opener: Opener, folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert opener(folder)[0] == "refused"


def test_a_header_as_large_as_a_disk(opener: Opener, folder: Path) -> None:
    sparse(folder / "model.safetensors", struct.pack("<Q", 2**39), 1 << 40)
    assert "a header of 549,755,813,888 bytes" in opener(folder)[1]


def test_weights_that_no_memory_holds(opener: Opener, folder: Path) -> None:
    """A file with holes of a terabyte, and a config that agrees with it."""
    size = 300 * 2**20 * 16  # 16 channels
    state = safetensors.torch.load_file(folder / "model.safetensors")
    shapes = {name: tuple(t.shape) for name, t in state.items()}
    shapes["model.embed_tokens.weight"] = (2**24, 16)
    for name, shape in list(shapes.items()):
        if "mlp" in name:
            shapes[name] = (2**24, 16) if shape[1] == 16 else (16, 2**24)
    at, entries = 0, {}
    for name, shape in shapes.items():
        length = 4
        for one in shape:
            length *= one
        entries[name] = entry(at, at + length, *shape)
        at += length
    raw = header(entries)
    sparse(folder / "model.safetensors", raw, len(raw) + at)
    change(folder / "config.json", vocab_size=2**24, intermediate_size=2**24)
    assert at > size
    if shutil.disk_usage(folder).total and os.sysconf("SC_PHYS_PAGES") * 4096 < at:
        assert "of memory" in opener(folder)[1]


@pytest.mark.parametrize("name", ["model.safetensors", "shard"])
def test_weights_that_are_pipes_and_devices(opener: Opener, folder: Path, name: str) -> None:
    path = folder / name
    (folder / "model.safetensors").unlink()
    if name == "shard":
        index = {"weight_map": {"model.norm.weight": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    assert opener(folder)[0] == "refused"


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "../model/model.safetensors"},
        {"a": "/etc/passwd"},
        {"a": ".."},
        {"a": ""},
        {"a": "model.safetensors.index.json"},
        {"a": "x\0y"},
        {"a": "\ud800"},
        {"a": "x" * 10_000},
        {"a": 7},
        {f"t{n}": f"f{n}" for n in range(5000)},
        {f"t{n}": "f" for n in range(300_000)},
        [],
        {},
    ],
    ids=str,
)
def test_indices_that_lead_elsewhere(opener: Opener, folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert opener(folder)[0] == "refused"


def test_more_files_than_may_be_open(opener: Opener, folder: Path) -> None:
    names = [f"f{n}" for n in range(600)]
    tensor = {"x": torch.zeros(1)}
    for name in names:
        safetensors.torch.save_file({name: tensor["x"]}, folder / name)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: name for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names more than 500 files" in opener(folder)[1]


# ---- GGUF ------------------------------------------------------------------------------------


def text(word: str) -> bytes:
    return struct.pack("<Q", len(word)) + word.encode()


def gguf(num_tensors: int, num_keys: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_keys) + rest


def array(kind: int, count: int) -> bytes:
    return text("k") + struct.pack("<IIQ", 9, kind, count)


@pytest.mark.parametrize(
    "content",
    [
        gguf(2**40, 0),
        gguf(2**34, 0),
        gguf(0, 2**40),
        gguf(0, 2**34),
        gguf(0, 1, struct.pack("<Q", 2**38)),
        gguf(0, 1, text("k") + struct.pack("<IQ", 8, 2**38)),
        gguf(0, 1, array(8, 2**36)),
        gguf(0, 1, array(0, 2**38)),
        gguf(0, 1, array(12, 2**20 * 9)),
        gguf(0, 1, array(9, 1) + struct.pack("<IQ", 9, 1) * 1000),
        gguf(1, 0, text("t") + struct.pack("<IQIQ", 1, 2**63, 0, 0)),
        gguf(1, 0, text("t") + struct.pack("<I", 2**31)),
    ],
    ids=["tensors 2^40", "tensors 2^34", "keys 2^40", "keys 2^34", "long key", "long text", "texts",
         "bytes", "doubles", "nested", "tensor 2^63", "dimensions"],
)  # fmt: skip
def test_counts_of_gguf(opener: Opener, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    sparse(path, content, 1 << 40)  # so that the file's size is no help
    assert opener(path)[0] == "refused"


LLAMA_KEYS = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 32,
    "llama.attention.head_count": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def test_a_table_of_divisors_that_is_huge(opener: Opener, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, LLAMA_KEYS, {"rope_freqs.weight": ("F32", torch.ones(8))})
    raw = path.read_bytes()
    place = raw.index(b"rope_freqs.weight") + len("rope_freqs.weight") + 4
    huge = raw[:place] + struct.pack("<Q", 2**36) + raw[place + 8 :]
    sparse(path, huge, 1 << 40)
    assert "rope_freqs.weight" in opener(path)[1]


def test_layers_that_gguf_only_names(opener: Opener, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    matrix = ("F32", torch.zeros(32, 32))
    names = ("token_embd", "blk.0.attn_q", "blk.0.attn_k", "blk.0.ffn_up")
    keys = LLAMA_KEYS | {"llama.block_count": 2**32 - 1}
    write_gguf(path, keys, {f"{name}.weight": matrix for name in names})
    assert "block_count" in opener(path)[1]


@pytest.mark.parametrize("ending", ["gguf", "bin", "pt"])
def test_files_that_are_devices(opener: Opener, tmp_path: Path, ending: str) -> None:
    (tmp_path / f"m.{ending}").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / f"p.{ending}")
    assert opener(tmp_path / f"m.{ending}")[0] == "refused"
    assert opener(tmp_path / f"p.{ending}")[0] == "refused"


# ---- llama2.c --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [
        (2, 2, 2**31 - 1, 1, 1, 2, 2),
        (2, 2, 100_000, 1, 1, 2, 2),
        (2**31 - 2, 2**31 - 1, 1, 1, 1, 2**31 - 1, 2**31 - 1),
        (2, 2, 1, 1, 1, -(2**31), 2),
    ],
    ids=str,
)
def test_headers_of_llama2c(opener: Opener, tmp_path: Path, sizes: tuple[int, ...]) -> None:
    sparse(tmp_path / "m.bin", HEADER.pack(*sizes), 1 << 42)
    assert opener(tmp_path / "m.bin")[0] == "refused"


@pytest.mark.parametrize(
    "content", [bytes(4) + struct.pack("<fi", 0, 2**31 - 1), bytes(60_000_000)]
)
def test_a_tokenizer_bin_of_endless_tokens(opener: Opener, tmp_path: Path, content: bytes) -> None:
    dim, vocab = 2, 300
    sizes = (dim, 2, 1, 1, 1, vocab, 2)
    count = vocab * dim + 3 * dim + 4 * dim * dim + 3 * 2 * dim + 2 * dim
    (tmp_path / "m.bin").write_bytes(HEADER.pack(*sizes) + bytes(4 * count))
    (tmp_path / "tokenizer.bin").write_bytes(content)
    assert "tokenizer.bin" in opener(tmp_path / "m.bin")[1]


# ---- torch's files ---------------------------------------------------------------------------


def torch_zip(path: Path, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("a/version", "3\n")
        archive.writestr("a/byteorder", "little")


class Call:
    """A pickled call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.parts


@pytest.mark.parametrize(
    ("content", "compression"),
    [
        (bytes(MILLIONS * 20), zipfile.ZIP_DEFLATED),
        (pickle.dumps(bytes(MILLIONS * 2), protocol=2), zipfile.ZIP_STORED),
        (pickle.dumps({"a": Call(bytearray, 2**40)}, protocol=2), zipfile.ZIP_STORED),
        (pickle.dumps({"a": Call(torch.Size, (2**40,))}, protocol=2), zipfile.ZIP_STORED),
        (pickle.dumps([f"t{n}" for n in range(400_000)], protocol=2), zipfile.ZIP_STORED),
        (pickle.dumps(dict.fromkeys(range(400_000)), protocol=2), zipfile.ZIP_STORED),
        (b"\x80\x02" + b"(" * 3_000_000 + b".", zipfile.ZIP_STORED),
        (b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".", zipfile.ZIP_STORED),
        (b"\x80\x02cbuiltins\nbytearray\n.", zipfile.ZIP_STORED),
        (b"", zipfile.ZIP_STORED),
    ],
    ids=["deflated", "large", "bytearray", "size", "list", "numbers", "marks", "long", "global", "empty"],
)  # fmt: skip
def test_archives_of_torch(opener: Opener, folder: Path, content: bytes, compression: int) -> None:
    torch_zip(folder / "pytorch_model.bin", content, compression)
    assert opener(folder / "pytorch_model.bin")[0] == "refused"


def test_a_tensor_that_is_all_stride(opener: Opener, folder: Path) -> None:
    """2^50 numbers in four bytes: as a view of stride 0."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.zeros(1).expand(2**50)
    torch.save(weights, folder / "pytorch_model.bin")
    assert "model.norm.weight" in opener(folder / "pytorch_model.bin")[1]


# ---- adapters --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("adapter_config.json", {"r": 10**12}),
        ("adapter_config.json", {"r": 2_000_000}),
        ("adapter_config.json", {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 10**9}),
        ("adapter_config.json", {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 10**11}),
        ("adapter_config.json", {"r": "8" * 100_000}),
        ("adapter_base.json", {"spec": {"kind": "lora", "rank": 10**10}}),
        ("adapter_base.json", {"spec": {"kind": "lora", "rank": 4, "targets": ["*"] * 100_000}}),
        ("adapter_base.json", {"spec": {"kind": "bottleneck", "size": 10**10}}),
        ("adapter_base.json", {"spec": {"kind": "prefix", "tokens": 10**10}}),
        ("adapter_base.json", {"spec": {"kind": "x" * 1_000_000}}),
    ],
    ids=lambda value: str(value)[:50],
)
def test_widths_that_an_adapter_only_names(
    opener: Opener, good: Path, tmp_path: Path, file: str, keys: dict[str, Any]
) -> None:
    model = tiny_chat_model(tiny_tokenizer())
    attach(model, Lora(rank=4, targets=("q_proj",)))
    save_adapter(model, tmp_path / "adapter")
    base = json.loads((tmp_path / "adapter" / "adapter_base.json").read_text())
    base["base"]["path"] = str(good)
    (tmp_path / "adapter" / "adapter_base.json").write_text(json.dumps(base))
    change(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(good))
    assert opener(tmp_path / "adapter")[0] == "opened"
    if file == "adapter_config.json":
        (tmp_path / "adapter" / "adapter_base.json").unlink()
    change(tmp_path / "adapter" / file, **keys)
    assert opener(tmp_path / "adapter")[0] == "refused"


def test_an_adapter_whose_base_is_itself(opener: Opener, tmp_path: Path) -> None:
    model = tiny_chat_model(tiny_tokenizer())
    attach(model, Lora(rank=4, targets=("q_proj",)))
    save_adapter(model, tmp_path / "adapter")
    base = json.loads((tmp_path / "adapter" / "adapter_base.json").read_text())
    base["base"]["path"] = str(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_base.json").write_text(json.dumps(base))
    assert "is an adapter itself" in opener(tmp_path / "adapter")[1]


# ---- checkpoints -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "manifest",
    [
        {"training/state.json": "1-x", "../../../../../dev/zero": "0-x"},
        {"training/state.json": "1-x", "/dev/zero": "0-x"},
        {"training/state.json": ["1"]},
        {"training/state.json": 10**400},
        "pipe",
    ],
    ids=str,
)
def test_manifests_that_lead_elsewhere(opener: Opener, folder: Path, manifest: Any) -> None:
    (folder / "training").mkdir()
    (folder / "training" / "state.json").write_text("{}")
    if manifest == "pipe":
        os.mkfifo(folder / "COMPLETE")
    else:
        (folder / "COMPLETE").write_text(json.dumps(manifest))
    assert "COMPLETE" in opener(folder)[1]
