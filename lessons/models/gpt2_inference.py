"""GPT-2 from its parts: config, layer norm, attention, feed-forward, block, tokenizer, sampling.

    python gpt2_inference.py --prompt "The lighthouse keeper" --top-k 40 --temperature 0.9
    python gpt2_inference.py openai-community/gpt2-medium      # any size, by its name on the hub
    python gpt2_inference.py my-folder --temperature 0         # a folder with the same files

The files are config.json, vocab.json, merges.txt and model.safetensors or pytorch_model.bin. A name
is looked for as a folder, then in Hugging Face's cache, then on the hub (HF_ENDPOINT names a
mirror). It needs torch alone. Source: Radford et al. 2019, "Language Models are Unsupervised
Multitask Learners". Shapes: B rows, T new tokens, S tokens so far, D width, H heads.
"""

import argparse
import codecs
import itertools
import json
import math
import mmap
import os
import re
import shutil
import sys
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

# ------------------------------------------------------------------------------------- the model


@dataclass
class Config:
    """GPT-2's smallest size, with the names of its config.json: 124,439,808 parameters."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    layer_norm_epsilon: float = 1e-5


class LayerNorm(nn.Module):
    """Every vector to mean 0 and variance 1, then a learned scale and shift per coordinate."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(c.n_embd))
        self.bias = nn.Parameter(torch.zeros(c.n_embd))
        self.eps = c.layer_norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)  # divided by D, not by D - 1
        return self.weight * centred / (variance + self.eps).sqrt() + self.bias


class Attention(nn.Module):
    """Each token takes a weighted mean of the values of those before it and of its own."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.heads = c.n_head
        self.c_attn = nn.Linear(c.n_embd, 3 * c.n_embd)  # queries, keys and values in one
        self.c_proj = nn.Linear(c.n_embd, c.n_embd)

    def forward(self, x: Tensor, past: list[Tensor]) -> Tensor:
        # (B, T, 3 D) -> three of (B, H, T, D / H)
        q, k, v = self.c_attn(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if past:  # the keys and values of earlier tokens do not change: they are kept, not remade
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        past[:] = k, v  # each (B, H, S, D / H)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])  # (B, H, T, S)
        new, seen = scores.shape[2:]
        future = torch.ones(new, seen, dtype=torch.bool, device=x.device).triu(seen - new + 1)
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        return self.c_proj((weights @ v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two layers of four times the width, with GELU in the form that GPT-2 was trained with."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c_fc = nn.Linear(c.n_embd, 4 * c.n_embd)
        self.c_proj = nn.Linear(4 * c.n_embd, c.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        cubic = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return self.c_proj(0.5 * x * (1 + cubic.tanh()))


class Block(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.ln_1, self.attn = LayerNorm(c), Attention(c)
        self.ln_2, self.mlp = LayerNorm(c), FeedForward(c)

    def forward(self, x: Tensor, past: list[Tensor]) -> Tensor:
        x = x + self.attn(self.ln_1(x), past)
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    """Modules have the names of the published weights."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.wte = nn.Embedding(c.vocab_size, c.n_embd)
        self.wpe = nn.Embedding(c.n_positions, c.n_embd)
        self.h = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        self.ln_f = LayerNorm(c)

    def forward(self, ids: Tensor, past: list[list[Tensor]] | None = None) -> Tensor:
        """Logits (B, T, V) of the tokens after ids (B, T). `past` holds, and gets, each layer's."""
        past = [[] for _ in self.h] if past is None else past
        start = past[0][0].shape[2] if past[0] else 0
        x = self.wte(ids) + self.wpe.weight[start : start + ids.shape[1]]
        for block, own in zip(self.h, past, strict=True):
            x = block(x, own)
        return self.ln_f(x) @ self.wte.weight.t()  # the embedding is the head as well


@torch.inference_mode()
def generate(
    model: GPT2, ids: list[int], length: int, temperature: float = 1.0, top_k: int = 0
) -> Iterator[int]:
    """Up to `length` tokens, as far as the context goes. Temperature 0 is greedy, top_k 0 all."""
    new, past = torch.tensor([ids], device=model.wte.weight.device), [[] for _ in model.h]
    for _ in range(min(length, model.c.n_positions - len(ids))):
        logits = model(new, past)[0, -1]
        if top_k:
            logits[logits < logits.topk(min(top_k, len(logits))).values[-1]] = -math.inf
        if temperature:
            new = torch.multinomial((logits / temperature).softmax(-1), 1)[None]
        else:
            new = logits.argmax()[None, None]
        yield new.item()


# --------------------------------------------------------------------------------- the tokenizer

# GPT-2's pattern is 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
# Python's `re` lacks \p{N} (numbers) and \p{L} (letters), which is \w without numbers and "_".
NUMBERS = "".join(c for c in map(chr, range(sys.maxunicode)) if unicodedata.category(c)[0] == "N")
SPACES = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
WORDS = re.compile(
    rf"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W_{NUMBERS}]+| ?[{NUMBERS}]+| ?(?:[^\w{SPACES}]|_)+"
    rf"|[{SPACES}]+(?![^{SPACES}])|[{SPACES}]+"
)
END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    """Byte-level BPE: text is cut into words, a word into bytes; then known pairs are joined."""

    def __init__(self, folder: Path) -> None:
        if (folder / "vocab.json").exists():
            self.ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
            lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
            merges = [tuple(line.split(" ")) for line in lines if line and line[:8] != "#version"]
        else:  # newer folders have both in one file
            model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
            pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
            self.ids, merges = model["vocab"], [tuple(pair) for pair in pairs]
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        # A byte that is printable in Latin-1 stands for itself, any other for a letter above 255.
        printable, above = (
            {*range(33, 127), *range(161, 173), *range(174, 256)},
            itertools.count(256),
        )
        self.symbols = [chr(byte if byte in printable else next(above)) for byte in range(256)]
        self.byte = {symbol: byte for byte, symbol in enumerate(self.symbols)}
        self.texts = {i: text for text, i in self.ids.items()}

    def encode(self, text: str) -> list[int]:
        ids = []
        for piece in re.split(f"({re.escape(END_OF_TEXT)})", text):
            if piece == END_OF_TEXT:
                ids.append(self.ids[piece])
                continue
            for word in WORDS.findall(piece):
                ids += self.merge([self.symbols[byte] for byte in word.encode()])
        return ids

    def merge(self, parts: list[str]) -> list[int]:
        """Join the pair that was learned first, everywhere in the word, until none is left."""
        while len(parts) > 1:
            pair = min(itertools.pairwise(parts), key=lambda pair: self.ranks.get(pair, math.inf))
            if pair not in self.ranks:
                break
            joined, i = [], 0
            while i < len(parts):
                size = 2 if tuple(parts[i : i + 2]) == pair else 1
                joined.append("".join(parts[i : i + size]))
                i += size
            parts = joined
        return [self.ids[part] for part in parts]

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for; a character of several bytes may lie in several tokens."""
        text = self.texts.get(token, "")
        return text.encode() if text == END_OF_TEXT else bytes(self.byte[char] for char in text)


# ----------------------------------------------------------------------------- published weights


def find_folder(name: str) -> Path:
    """The folder `name`; else that model out of Hugging Face's cache; else fetched from the hub."""
    if Path(name).is_dir():
        return Path(name)
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    for folder in sorted(hub.glob(f"models--{name.replace('/', '--')}/snapshots/*")):
        if (folder / "model.safetensors").exists() or (folder / "pytorch_model.bin").exists():
            return folder
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "gpt2_inference" / name.replace("/", "--")
    advice = "; give a folder that holds config.json, vocab.json, merges.txt and model.safetensors"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
        raise SystemExit(f"{name} is no folder, and no name of the form owner/model{advice}")
    try:
        for file in ("config.json", "vocab.json", "merges.txt"):
            fetch(name, file, folder)
        try:
            fetch(name, "model.safetensors", folder)
        except urllib.error.HTTPError:  # an older repository
            fetch(name, "pytorch_model.bin", folder)
    except OSError as error:
        raise SystemExit(f"{name} is not here and cannot be fetched ({error}){advice}") from None
    return folder


def fetch(name: str, file: str, folder: Path) -> None:
    """One file of a model on the hub, unless it is there; a broken transfer leaves no such file."""
    if (folder / file).exists():
        return
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise OSError("HF_HUB_OFFLINE is set")
    folder.mkdir(parents=True, exist_ok=True)
    endpoint, part = (
        os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
        folder / f"{file}.part",
    )
    with urllib.request.urlopen(f"{endpoint}/{name}/resolve/main/{file}", timeout=30) as answer:
        print(f"fetching {answer.url}", file=sys.stderr)
        with part.open("wb") as out:
            shutil.copyfileobj(answer, out, 1 << 20)
        length = answer.headers["Content-Length"]
    if length is not None and part.stat().st_size != int(length):
        raise OSError(f"{file} broke off at {part.stat().st_size} of {length} bytes")
    part.replace(folder / file)


DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """8 bytes: the length of a JSON header, which says where behind it each tensor's bytes lie."""
    with path.open("rb") as file:
        raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # read when it is looked at
    start, found = 8 + int.from_bytes(raw[:8], "little"), {}
    for name, entry in json.loads(raw[8:start]).items():
        if name != "__metadata__" and entry["dtype"] in DTYPES:
            where = {"count": math.prod(entry["shape"]), "offset": start + entry["data_offsets"][0]}
            flat = torch.frombuffer(raw, dtype=DTYPES[entry["dtype"]], **where)
            found[name] = flat.view(entry["shape"])
    return found


def load(name: str) -> tuple[GPT2, Tokenizer]:
    folder = find_folder(name)
    for needed in ("config.json", "vocab.json"):
        stand_in = folder / "tokenizer.json" if needed == "vocab.json" else folder / needed
        if not (folder / needed).exists() and not stand_in.exists():
            raise SystemExit(f"{folder} has no {needed}")
    raw = json.loads((folder / "config.json").read_text())
    if raw.get("model_type") != "gpt2":
        raise SystemExit(f"{folder} holds a model of type {raw.get('model_type')}, not gpt2")
    if raw.get("activation_function", "gelu_new") != "gelu_new" or raw.get("n_inner"):
        raise SystemExit(f"{folder}: activation_function or n_inner is not as GPT-2 was published")
    with torch.device("meta"):  # shapes alone: the weights are those of the file
        model = GPT2(Config(**{f.name: raw[f.name] for f in fields(Config) if f.name in raw}))
    if (folder / "model.safetensors").exists():
        tensors = read_safetensors(folder / "model.safetensors")
    elif (folder / "pytorch_model.bin").exists():
        # weights_only: a pickle may hold code, and this reads tensors alone
        tensors = torch.load(folder / "pytorch_model.bin", weights_only=True, map_location="cpu")
    else:
        raise SystemExit(f"{folder} has neither model.safetensors nor pytorch_model.bin")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    if missing := [name for name in model.state_dict() if name not in tensors]:
        raise SystemExit(f"{folder}: the weights lack {missing[0]}")
    state = {name: tensors[name].float() for name in model.state_dict()}
    for name in state:
        if ".c_" in name and name.endswith("weight"):  # published as (in, out), Linear: (out, in)
            state[name] = state[name].t().contiguous()
    model.load_state_dict(state, assign=True)
    return model, Tokenizer(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="openai-community/gpt2")
    parser.add_argument("--prompt", default="The lighthouse keeper")
    parser.add_argument("--length", type=int, default=60, help="tokens to write")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy")
    parser.add_argument("--top-k", type=int, default=40, help="0 draws from all tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    model, tokenizer = load(options.model)
    model.to(options.device)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    ids = tokenizer.encode(options.prompt)
    if not 0 < len(ids) < model.c.n_positions:
        raise SystemExit(f"--prompt has {len(ids)} tokens; 1 to {model.c.n_positions - 1} will do")
    torch.manual_seed(options.seed)
    print(options.prompt, end="", flush=True)
    text = codecs.getincrementaldecoder("utf-8")("replace")
    settings = (options.length, options.temperature, options.top_k)
    for token in generate(model, ids, *settings):
        if token == tokenizer.ids.get(END_OF_TEXT):
            break
        print(text.decode(tokenizer.token_bytes(token)), end="", flush=True)
    print(text.decode(b"", final=True))


if __name__ == "__main__":
    main()
