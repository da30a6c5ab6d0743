"""A language model as they are built today: train it on a text, or open SmolLM2 or GPT-2.

    python modern_llm.py --text mybook.txt --out my-model           # train, save, write
    python modern_llm.py --model my-model --prompt "The " --top-k 50
    python modern_llm.py --model SmolLM2-135M --temperature 0       # a folder from the hub
    python modern_llm.py --model SmolLM2-135M --text mybook.txt --out tuned --lr 1e-4

RMSNorm, rotary positions, grouped-query attention, SwiGLU, a KV cache, AdamW, cosine schedule,
clipping, mixed precision, byte-level BPE and safetensors, with torch alone. For GPT-2 four parts
change: LayerNorm, learned positions, GELU, biases. Modules have the names of Llama's files.
Shapes: B rows, T new positions, S positions so far, D hidden_size, H query heads, K key/value
heads (each serves H / K query heads), Dh head_dim, V vocab_size.
"""

import argparse
import codecs
import ctypes
import itertools
import json
import math
import mmap
import re
import sys
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Config:
    """Named as in Llama's config.json."""

    vocab_size: int
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    intermediate_size: int = 352
    max_position_embeddings: int = 128
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    model_type: str = "llama"


class RMSNorm(nn.Module):
    """w * x / sqrt(mean(x^2) + eps): a LayerNorm that neither centres nor shifts."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()  # in 16 bits the squares would overflow or round badly
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.type_as(x)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pair (i, i + Dh / 2) of x (B, heads, T, Dh) by angles (T, Dh / 2).

    The angle is position * theta^(-2i / Dh), so q . k depends on the distance of two positions.
    """
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).type_as(x)


class Cache:
    """Keys and values of the positions so far, so that a new token costs one position's work."""

    def __init__(self, c: Config, like: Tensor) -> None:
        shape = (1, c.num_key_value_heads, c.max_position_embeddings, c.head_dim)
        self.keys = [like.new_empty(shape) for _ in range(c.num_hidden_layers)]
        self.values = [like.new_empty(shape) for _ in range(c.num_hidden_layers)]
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep T new ones, (1, K, T, Dh), and return all S. The model moves `length` on."""
        end = self.length + k.shape[2]
        self.keys[layer][:, :, self.length : end] = k
        self.values[layer][:, :, self.length : end] = v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class Attention(nn.Module):
    def __init__(self, c: Config, layer: int) -> None:
        super().__init__()
        bias, wide, narrow = c.model_type == "gpt2", c.num_attention_heads, c.num_key_value_heads
        self.layer, self.head_dim, self.group = layer, c.head_dim, wide // narrow
        self.q_proj = nn.Linear(c.hidden_size, wide * c.head_dim, bias=bias)
        self.k_proj = nn.Linear(c.hidden_size, narrow * c.head_dim, bias=bias)
        self.v_proj = nn.Linear(c.hidden_size, narrow * c.head_dim, bias=bias)
        self.o_proj = nn.Linear(wide * c.head_dim, c.hidden_size, bias=bias)

    def forward(self, x: Tensor, angles: Tensor | None, cache: Cache | None) -> Tensor:
        new = x.shape[1]
        projections = (self.q_proj, self.k_proj, self.v_proj)  # (B, T, heads, Dh), then swapped:
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for p in projections)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)  # keys are cached as they are turned here
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, K, S, Dh)
        k, v = (t.repeat_interleave(self.group, dim=1) for t in (k, v))  # (B, H, S, Dh)
        seen = k.shape[2]
        mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, H, T, Dh)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU, down(silu(gate x) * up x): one projection decides how much of the other passes.

    GPT-2 has no gate: down(gelu(up x)), with biases and the tanh form of gelu.
    """

    def __init__(self, c: Config) -> None:
        super().__init__()
        bias, wide = c.model_type == "gpt2", c.intermediate_size
        self.gate_proj = None if bias else nn.Linear(c.hidden_size, wide, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, wide, bias=bias)
        self.down_proj = nn.Linear(wide, c.hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_proj is None:
            return self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, c: Config, layer: int) -> None:
        super().__init__()
        norm = nn.LayerNorm if c.model_type == "gpt2" else RMSNorm
        self.input_layernorm = norm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c, layer)
        self.post_attention_layernorm = norm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)

    def forward(self, x: Tensor, angles: Tensor | None, cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), angles, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c, gpt2 = c, c.model_type == "gpt2"
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        learned = nn.Embedding(c.max_position_embeddings, c.hidden_size) if gpt2 else None
        self.embed_positions = learned
        self.layers = nn.ModuleList(Block(c, layer) for layer in range(c.num_hidden_layers))
        self.norm = (nn.LayerNorm if gpt2 else RMSNorm)(c.hidden_size, c.rms_norm_eps)
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:  # the ends of branches begin smaller, so that depth adds no variance
                ends = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * c.num_hidden_layers if ends else 1))
        self.tie()

    def tie(self) -> None:
        if self.c.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each of ids (B, T), which follow the cache's."""
        c, start = self.c, 0 if cache is None else cache.length
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        x, angles = self.embed_tokens(ids), None  # (B, T, D)
        if self.embed_positions is None:
            pairs = torch.arange(0, c.head_dim, 2, device=ids.device) / c.head_dim
            angles = positions[:, None] * c.rope_theta**-pairs
        else:
            x = x + self.embed_positions(positions)
        for layer in self.layers:
            x = layer(x, angles, cache)
        if cache is not None:
            cache.length += ids.shape[1]
        return self.lm_head(self.norm(x))


@torch.inference_mode()
def generate(
    model: Model, ids: list[int], length: int, temperature: float, top_k: int
) -> Iterator[int]:
    """Up to `length` tokens, as far as the context goes. Temperature 0 is greedy, top_k 0 all."""
    new = torch.tensor([ids], device=model.embed_tokens.weight.device)
    cache = Cache(model.c, model.embed_tokens.weight)
    for _ in range(min(length, model.c.max_position_embeddings - len(ids))):
        logits = model(new, cache)[0, -1].float()
        if top_k:
            logits[logits < logits.topk(min(top_k, len(logits))).values[-1]] = -math.inf
        if temperature:
            new = torch.multinomial((logits / temperature).softmax(-1), 1)[None]
        else:
            new = logits.argmax()[None, None]
        yield new.item()


# GPT-2's pattern is 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
# Python's `re` lacks \p{N} (numbers) and \p{L} (letters), which is \w without numbers and "_".
NUMBERS = "".join(c for c in map(chr, range(sys.maxunicode)) if unicodedata.category(c)[0] == "N")
SPACES = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
WORDS = re.compile(
    rf"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W_{NUMBERS}]+| ?[{NUMBERS}]+| ?(?:[^\w{SPACES}]|_)+"
    rf"|[{SPACES}]+(?![^{SPACES}])|[{SPACES}]+"
)


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies: Ġ for 32."""
    printable, others = {*range(33, 127), *range(161, 173), *range(174, 256)}, itertools.count(256)
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


class Tokenizer:
    """Byte-level BPE out of a tokenizer.json: words, their bytes, then merges in learned order."""

    def __init__(self, raw: dict) -> None:
        self.raw, self.known, rules = raw, {}, json.dumps(raw["pre_tokenizer"])
        self.split_digits = '"Digits"' in rules or r'"\\p{N}"' in rules  # SmolLM2: 2, 0, 2, 6
        if raw.get("normalizer") or "(?i" in rules or '"ByteLevel"' not in rules:
            raise SystemExit("tokenizer.json: only the kinds of GPT-2 and SmolLM2 are read here")
        self.added = {token["content"]: token["id"] for token in raw["added_tokens"]}
        self.specials = re.compile(f"({'|'.join(map(re.escape, self.added)) or '(?!)'})")
        self.ids, merges = raw["model"]["vocab"], raw["model"]["merges"]
        pairs = (tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges)
        self.ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self.symbols = byte_symbols()
        byte, normal = {s: b for b, s in enumerate(self.symbols)}, self.ids.keys() - self.added
        self.bytes = {self.ids[text]: bytes(byte[char] for char in text) for text in normal}

    def encode(self, text: str) -> list[int]:
        ids = []
        for piece in self.specials.split(text):
            if piece in self.added:
                ids.append(self.added[piece])
                continue
            for part in re.split(f"([{NUMBERS}])", piece) if self.split_digits else [piece]:
                for word in WORDS.findall(part):
                    if word not in self.known:
                        self.known[word] = self.merge([self.symbols[b] for b in word.encode()])
                    ids += self.known[word]
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


def byte_tokenizer() -> Tokenizer:
    """256 tokens, one a byte: a vocabulary for any text, with nothing to learn."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    model = {"type": "BPE", "vocab": {s: b for b, s in enumerate(byte_symbols())}, "merges": []}
    raw = {"added_tokens": [], "pre_tokenizer": level, "decoder": level, "model": model}
    return Tokenizer(raw)


GPT2_CONFIG = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers"}
GPT2_CONFIG |= {"n_inner": "intermediate_size", "n_head": "num_attention_heads"}
GPT2_CONFIG |= {"n_positions": "max_position_embeddings", "layer_norm_epsilon": "rms_norm_eps"}
GPT2_NAMES = {"wte": "embed_tokens", "wpe": "embed_positions", "h.": "layers.", "ln_f": "norm"}
GPT2_NAMES |= {"ln_1": "input_layernorm", "ln_2": "post_attention_layernorm"}
GPT2_NAMES |= {"attn.c_proj": "self_attn.o_proj", "attn.c_attn": "self_attn.{}_proj"}
GPT2_NAMES |= {"mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"}
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_config(raw: dict) -> Config:
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    plain = rope.get("rope_type", "default") == "default"
    plain &= not raw.get("attention_bias") and not raw.get("mlp_bias")
    act = raw.get("hidden_act", raw.get("activation_function"))
    if not plain or (raw["model_type"], act) not in (("llama", "silu"), ("gpt2", "gelu_new")):
        raise SystemExit("config.json: only GPT-2 and plain Llama (SmolLM2) are read here")
    named = {GPT2_CONFIG.get(key, key): value for key, value in raw.items()} | rope
    width, heads = named["hidden_size"], named["num_attention_heads"]
    found = {"num_key_value_heads": heads, "head_dim": width // heads}
    found |= {"intermediate_size": 4 * width, "tie_word_embeddings": raw["model_type"] == "gpt2"}
    found |= {key: value for key, value in named.items() if value is not None}
    return Config(**{key: found[key] for key in (f.name for f in fields(Config)) if key in found})


def read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """8 bytes: the length of a JSON header, which says where behind it each tensor's bytes lie."""
    with path.open("rb") as file:
        raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # read when it is looked at
    start = 8 + int.from_bytes(raw[:8], "little")
    for name, entry in json.loads(raw[8:start]).items():
        if name != "__metadata__" and entry["dtype"] in DTYPES:
            count, offset = math.prod(entry["shape"]), start + entry["data_offsets"][0]
            flat = torch.frombuffer(raw, dtype=DTYPES[entry["dtype"]], count=count, offset=offset)
            yield name, flat.view(entry["shape"])


def from_gpt2(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Our names. Their matrices are transposed, and those of q, k and v are one."""
    if tensor.ndim == 2 and ".c_" in name:
        tensor = tensor.t()
    for theirs, ours in GPT2_NAMES.items():
        name = name.replace(theirs, ours)
    fused = "qkv" if "{}" in name else "-"
    for part, piece in zip(fused, tensor.chunk(len(fused)), strict=True):
        yield name.format(part), piece.contiguous()


def load(folder: Path, device: str = "cpu") -> tuple[Model, Tokenizer, dict]:
    """Model, tokenizer and config.json of a folder as transformers writes and the hub keeps it."""
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).exists():
            raise SystemExit(f"{folder} has no {name}; name a folder that holds a model's files")
    raw = json.loads((folder / "config.json").read_text())
    state = {}
    for path in sorted(folder.glob("*.safetensors")):  # large models are several files
        for name, tensor in read_safetensors(path):
            name = name.removeprefix("model.").removeprefix("transformer.")
            gpt2 = raw["model_type"] == "gpt2"
            pairs = from_gpt2(name, tensor) if gpt2 else [(name, tensor)]
            state |= {ours: part.float() for ours, part in pairs}
    with torch.device("meta"):  # shapes alone, the weights are those of the file
        model = Model(read_config(raw))
    state.setdefault("lm_head.weight", state.get("embed_tokens.weight"))
    if missing := [name for name in model.state_dict() if state.get(name) is None]:
        raise SystemExit(f"{folder}: no safetensors file there holds {missing[0]}")
    model.load_state_dict({name: state[name] for name in model.state_dict()}, assign=True)
    model.tie()
    tokenizer = Tokenizer(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
    return model.to(device), tokenizer, raw


def save(folder: Path, model: Model, tokenizer: Tokenizer, raw: dict) -> None:
    """Llama's names: transformers opens it too, but for a tuned GPT-2, which opens here alone."""
    header, tensors, end = {}, [], 0
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight" or not model.c.tie_word_embeddings:
            tensor = tensor.cpu().contiguous()
            offsets = [end, end := end + tensor.nbytes]
            entry = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
            header[name if name == "lm_head.weight" else f"model.{name}"] = entry
            tensors.append(tensor)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(ctypes.string_at(tensor.data_ptr(), tensor.nbytes))
    (folder / "config.json").write_text(json.dumps(raw, indent=2))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.raw), encoding="utf-8")


def adamw(model: Model) -> torch.optim.AdamW:
    """The decay goes straight to the weights, and to matrices alone: norms and biases are left free."""
    groups = {0.1: [], 0.0: []}
    for p in model.parameters():
        groups[0.1 if p.ndim >= 2 else 0.0].append(p)
    named = [{"params": params, "weight_decay": decay} for decay, params in groups.items()]
    return torch.optim.AdamW(named, betas=(0.9, 0.95))


def learning_rate(step: int, steps: int, top: float) -> float:
    """A tenth of the steps up in a straight line, then half a cosine down to a tenth of `top`."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return top * (step + 1) / warm_up
    return top * (0.55 + 0.45 * math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def train(model: Model, data: Tensor, options: argparse.Namespace) -> None:
    device, window = options.device, min(options.context, model.c.max_position_embeddings)
    split = len(data) * 9 // 10  # the last tenth is never trained on
    if len(data) - split <= window:
        needed = 10 * window + 10
        raise SystemExit(f"--text has {len(data)} tokens; --context {window} takes {needed}")
    optimizer, began = adamw(model), time.perf_counter()
    # Weights, gradients and the optimizer stay in float32; autocast makes the matrix products in
    # bfloat16, which has float32's range: unlike float16 it needs no scaling of the loss.
    mixed = torch.autocast(device, torch.bfloat16, enabled=options.precision == "bfloat16")

    def loss_of(starts: Tensor) -> Tensor:  # windows that begin there; in nats a token
        rows = data[starts[:, None] + torch.arange(window + 1)].to(device)  # (B, T + 1)
        with mixed:
            logits = model(rows[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())

    held_out = torch.linspace(split, len(data) - window - 1, 16).long()
    for step in range(options.steps):
        loss = loss_of(torch.randint(split - window, (options.batch,)))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # one factor for all gradients
        lr = learning_rate(step, options.steps, options.lr)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0 or step + 1 == options.steps:
            with torch.no_grad():
                validation = loss_of(held_out).item()
            print(f"step {step + 1}: training {loss:.3f}, validation {validation:.3f}", end="")
            print(f", lr {lr:.1e}, gradient {norm:.2f}, {time.perf_counter() - began:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a folder; without it, a new model is trained")
    parser.add_argument("--text", type=Path, help="what to train on; a new model reads this file")
    parser.add_argument("--out", type=Path, help="the folder to save to")
    numbers = {"steps": 200, "batch": 16, "context": 128, "lr": 3e-3, "length": 100}
    for name, default in {**numbers, "temperature": 0.8, "top-k": 0, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--prompt", default="The ")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    if options.model:
        model, tokenizer, raw = load(options.model, options.device)
    else:
        model, tokenizer = Model(Config(vocab_size=256)).to(options.device), byte_tokenizer()
        raw = {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", **asdict(model.c)}
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    if options.text or not options.model:
        text = (options.text or Path(__file__)).read_text(encoding="utf-8")
        train(model, torch.tensor(tokenizer.encode(text)), options)
    if options.out:
        save(options.out, model, tokenizer, raw)

    ids, ends = tokenizer.encode(options.prompt), raw.get("eos_token_id")
    if not 0 < len(ids) < (longest := model.c.max_position_embeddings):
        raise SystemExit(f"--prompt: 1 to {longest - 1} tokens, not {len(ids)}")
    print(options.prompt, end="", flush=True)
    text = codecs.getincrementaldecoder("utf-8")("replace")  # a character may span two tokens
    for token in generate(model, ids, options.length, options.temperature, options.top_k):
        if token in (ends if isinstance(ends, list) else [ends]):
            break
        print(text.decode(tokenizer.bytes.get(token, b"")), end="", flush=True)  # no added ones
    print(text.decode(b"", final=True))


if __name__ == "__main__":
    main()
