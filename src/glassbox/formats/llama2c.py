"""llama2.c's files: `model.bin` of version 0 and the `tokenizer.bin` beside it.

model.bin: seven int32 (dim, hidden dim, layers, heads, key/value heads, vocabulary, negative where
the head is not the embedding, context), then float32 weights: for each kind of tensor that of all
layers, and two tables of rotary angles that nobody needs. Rows of q and k are ordered as Meta's, a
pair's two beside each other. tokenizer.bin: longest token, then of each its score, length and
text. Source: llama2.c's `export.py` (`legacy_export`), `run.c` and `tokenizer.py`.
Tested against: transformers on the same weights.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.core.files import atomic_writer, open_regular, read_limited
from glassbox.formats.huggingface import build_from, export_state
from glassbox.formats.tensor_source import TensorSource, row_chunks
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import MAX_LAYERS, ModelConfig
from glassbox.models.families import family_of, from_hf_config, to_hf_config, to_hf_weights
from glassbox.models.families.llama import LLAMA
from glassbox.models.family import canonical
from glassbox.models.rotary_rows import pairs_apart, pairs_together, put_together
from glassbox.tokenizers import AddedToken, Tokenizer
from glassbox.tokenizers.sentencepiece import SPACE, SentencePieceModel, SpacedText, byte_piece
from glassbox.tokenizers.tokenizer_json import begins_with

HEADER = struct.Struct("<7i")
VERSIONED = 0x616B3432
"""How files of later versions begin."""

MAX_TOKENIZER_BYTES = 64 << 20
"""Largest tokenizer.bin; that of 32,000 tokens has 430 kB."""
BEGIN, END = "<s>", "</s>"
_FIRST_BYTE, _FIRST_PIECE = 3, 259
Place = tuple[tuple[int, ...], int]


class Llama2cFile(TensorSource):
    """A model.bin's weights under Hugging Face's names; a context manager.

    Raises UserError unless the file is as long as its header says, to the byte.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.where = f"'{self.path}'"
        try:
            self._stream = open_regular(self.path)
        except OSError as error:
            raise UserError(f"{self.where} cannot be read: {error.strerror}") from None
        try:
            self.words = self._read_header()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Llama2cFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def _read_header(self) -> dict[str, int | bool | str]:
        raw = self._stream.read(HEADER.size)
        size = self.path.stat().st_size
        if len(raw) < HEADER.size:
            raise UserError(f"{self.where} ({size} bytes) is too short for a llama2.c model")
        if struct.unpack_from("<I", raw)[0] == VERSIONED:
            raise UserError(
                f"{self.where} is of a later version of llama2.c; export it as version 0"
            )
        dim, hidden, layers, heads, kv_heads, vocab, context = HEADER.unpack(raw)
        sizes = (dim, hidden, layers, heads, kv_heads, abs(vocab), context)
        fits = (
            min(sizes) > 0 and layers <= MAX_LAYERS and 4 * layers * dim <= size
        )  # each layer has a norm at least
        if not fits or dim % heads or heads % kv_heads or dim // heads % 2:
            raise UserError(
                f"{self.where} is no llama2.c model: its first seven numbers, {list(sizes)}, "
                "describe none"
            )
        words: dict[str, int | bool | str] = {
            "model_type": "llama",
            "hidden_size": dim,
            "intermediate_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "vocab_size": abs(vocab),
            "max_position_embeddings": context,
            "tie_word_embeddings": vocab > 0,
        }
        self._heads = {"q_proj": heads, "k_proj": kv_heads}
        self._places, end = layout(words)
        if end != size:
            raise UserError(
                f"{self.where} has {size} bytes; a llama2.c model of {list(sizes)} has {end}: it is "
                "truncated or another kind of file"
            )
        return words

    @property
    def config(self) -> ModelConfig:
        """What the header says. Norms' eps and the rotary base are llama2.c's own: 1e-5, 10000."""
        return from_hf_config({**self.words, "rms_norm_eps": 1e-5}, where=self.where)

    @property
    def names(self) -> list[str]:
        """All tensors."""
        return sorted(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._places[name][0]

    def dtype(self, name: str) -> str:
        """All are float32."""
        return "F32"

    def copy_into(self, name: str, out: Tensor) -> None:
        """Read a tensor in pieces; pairs of q and k are put half a head apart."""
        shape, start = self._places[name]
        heads = self._heads.get(name.split(".")[-2])
        rows = out if heads is None else torch.empty(shape)
        self._stream.seek(start)
        width = math.prod(shape[1:])
        for first, last in row_chunks(shape, 4 * width):
            content = bytearray(4 * width * (last - first))
            if self._stream.readinto(content) != len(content):
                raise UserError(f"{self.where} ends within tensor '{name}'; copy it again")
            piece = torch.frombuffer(content, dtype=torch.float32)
            rows[first:last].copy_(piece.view(last - first, *shape[1:]))
        if heads is not None:
            pairs_apart(out, heads).copy_(pairs_together(rows, heads))


def layout(words: dict[str, int | bool | str]) -> tuple[dict[str, Place], int]:
    """Hugging Face's names with shapes and first bytes, in the file's order, and the file's length."""
    dim, ffn, layers, vocab = (
        int(words[key])
        for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
    )
    head_dim = dim // int(words["num_attention_heads"])
    kv_dim = int(words["num_key_value_heads"]) * head_dim
    angles = int(words["max_position_embeddings"]) * head_dim  # a cosine and a sine for each pair
    kinds: list[tuple[str, tuple[int, ...]]] = [
        ("input_layernorm", (dim,)),
        ("self_attn.q_proj", (dim, dim)),
        ("self_attn.k_proj", (kv_dim, dim)),
        ("self_attn.v_proj", (kv_dim, dim)),
        ("self_attn.o_proj", (dim, dim)),
        ("post_attention_layernorm", (dim,)),
        ("mlp.gate_proj", (ffn, dim)),
        ("mlp.down_proj", (dim, ffn)),
        ("mlp.up_proj", (ffn, dim)),
    ]
    ordered: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (vocab, dim))]
    ordered += [
        (f"model.layers.{layer}.{name}.weight", shape)
        for name, shape in kinds
        for layer in range(layers)
    ]
    ordered.append(("model.norm.weight", (dim,)))
    places: dict[str, Place] = {}
    at = HEADER.size
    for name, shape in ordered:
        places[name] = (shape, at)
        at += 4 * math.prod(shape)
    at += 4 * angles
    if not words["tie_word_embeddings"]:
        places["lm_head.weight"] = ((vocab, dim), at)
        at += 4 * vocab * dim
    return places, at


def load_llama2c(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[CausalLM, Tokenizer | None]:
    """Load the model of a model.bin in evaluation mode, and the tokenizer next to it, if any.

    That is `tokenizer.bin`, or else the only `tok*.bin` there. Raises UserError for damaged files.
    """
    path = Path(path)
    with Llama2cFile(path) as file:
        model = build_from(file, file.config, LLAMA, device=device, dtype=dtype or torch.float32)
    beside = path.parent / "tokenizer.bin"
    others = sorted(path.parent.glob("tok*.bin"))
    if not beside.exists() and len(others) == 1:
        beside = others[0]
    if not beside.exists():
        return model, None
    return model, read_tokenizer(beside, vocab_size=model.config.vocab_size)


def save_llama2c(path: Path | str, model: CausalLM, *, tokenizer: Tokenizer | None = None) -> None:
    """Write model.bin, float32, and `tokenizer.bin` beside it.

    Raises UserError for a model that llama2.c cannot run, and for a tokenizer other than
    sentencepiece.
    """
    path, config = Path(path), model.config
    if config.score_head:
        raise UserError("llama2.c has no place for a scalar head (score_head = true); use --to hf")
    words = to_hf_config(config) if family_of(config) is LLAMA else None
    if words is None or canonical(_runnable(words)) != canonical(config):
        raise UserError(
            "llama2.c runs only Llamas without biases, of heads hidden_size / num_heads wide, with "
            "norm eps 1e-5 and rotary base 10000; use --to gguf or --to hf"
        )
    if tokenizer is not None:
        write_tokenizer(path.parent / "tokenizer.bin", tokenizer, config.vocab_size)
    places, _ = layout(words)
    weights = to_hf_weights(config, export_state(model))
    heads = {"q_proj": words["num_attention_heads"], "k_proj": words["num_key_value_heads"]}
    sign = 1 if config.tie_embeddings else -1
    header = HEADER.pack(
        config.hidden_size,
        words["intermediate_size"],
        config.num_layers,
        heads["q_proj"],
        heads["k_proj"],
        sign * config.vocab_size,
        config.context_length,
    )
    head_dim = config.hidden_size // heads["q_proj"]
    with atomic_writer(path) as stream:
        stream.write(header)
        for name in places:
            if name == "lm_head.weight":
                _write_angles(stream, config.context_length, head_dim)
            tensor = weights[name].float().cpu()
            turned = heads.get(name.split(".")[-2])
            if turned is not None:
                tensor = put_together(tensor, turned)
            stream.write(tensor.contiguous().numpy().tobytes())
        if config.tie_embeddings:
            _write_angles(stream, config.context_length, head_dim)


def read_tokenizer(path: Path, *, vocab_size: int) -> Tokenizer:
    """The tokenizer of a tokenizer.bin. A text begins with `<s>`, which ends the one before it too.

    Raises UserError for a file that is damaged or of another vocabulary.
    """
    try:
        content = read_limited(path, MAX_TOKENIZER_BYTES)
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from None
    tokens: list[tuple[str, float]] = []
    at = 4
    while at < len(content) and len(tokens) <= vocab_size:
        if at + 8 > len(content):
            raise UserError(f"'{path}' ends within token {len(tokens)}; it is truncated")
        score, length = struct.unpack_from("<fi", content, at)
        at += 8
        if not 0 <= length <= len(content) - at or not math.isfinite(score):
            raise UserError(f"'{path}': token {len(tokens)} has length {length}; it is damaged")
        try:
            tokens.append((content[at : at + length].decode("utf-8"), score))
        except UnicodeDecodeError:
            raise UserError(f"'{path}': token {len(tokens)} is no UTF-8; it is damaged") from None
        at += length
    if len(tokens) != vocab_size or len(tokens) < _FIRST_PIECE:
        more = "more than " if at < len(content) else ""
        count = len(tokens) - (1 if more else 0)
        raise UserError(f"'{path}' has {more}{count} tokens; the model beside it has {vocab_size}")
    wanted = [byte_piece(byte) for byte in range(256)]
    if [text for text, _ in tokens[_FIRST_BYTE:_FIRST_PIECE]] != wanted:
        raise UserError(f"'{path}': tokens 3 to 258 are not the 256 bytes, as Llama's are")
    pieces = [
        (number, text.replace(" ", SPACE), score)
        for number, (text, score) in enumerate(tokens)
        if number >= _FIRST_PIECE
    ]
    model = SentencePieceModel(pieces, range(_FIRST_BYTE, _FIRST_PIECE))
    added = [AddedToken(text, number) for number, text in enumerate(("<unk>", BEGIN, END))]
    return Tokenizer(
        model,
        SpacedText(prefix=True, cuts=model.spaces_lead()),
        added,
        roles={"bos_token": BEGIN, "eos_token": BEGIN, "unk_token": "<unk>"},
        post_processor=begins_with(added[1]),
    )


def write_tokenizer(path: Path, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Write a tokenizer.bin. Raises UserError for another kind or order of vocabulary than Llama's."""
    model = tokenizer.model
    fits = (
        isinstance(model, SentencePieceModel)
        and model.byte_ids == list(range(_FIRST_BYTE, _FIRST_PIECE))
        and tokenizer.vocab_size == vocab_size
    )
    if not fits:
        raise UserError(
            "llama2.c's tokenizer.bin holds only sentencepiece vocabularies that begin as Llama's "
            "does; use --to gguf or --to hf"
        )
    assert isinstance(model, SentencePieceModel)
    texts = {0: ("<unk>", 0.0), 1: (f"\n{BEGIN}\n", 0.0), 2: (f"\n{END}\n", 0.0)}
    texts |= {number: (byte_piece(byte), 0.0) for byte, number in enumerate(model.byte_ids)}
    texts |= {number: (piece.replace(SPACE, " "), score) for number, piece, score in model.pieces}
    encoded = [(texts[number][0].encode(), texts[number][1]) for number in range(vocab_size)]
    with atomic_writer(path) as stream:
        stream.write(struct.pack("<i", max(len(raw) for raw, _ in encoded)))
        for raw, score in encoded:
            stream.write(struct.pack("<fi", score, len(raw)) + raw)


def _runnable(words: dict[str, object]) -> ModelConfig:
    """The nearest model to these words that llama2.c's header can say."""
    heads, size = words["num_attention_heads"], words["hidden_size"]
    assert isinstance(heads, int)
    assert isinstance(size, int)
    fixed = {
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_parameters": None,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "head_dim": size // heads,
    }
    return from_hf_config({**words, **fixed})


def _write_angles(stream: BinaryIO, context_length: int, head_dim: int) -> None:
    """Write the tables of cosines and sines, (context, Dh/2) each, in pieces."""
    powers = torch.arange(0, head_dim, 2).double() / head_dim
    for function in (torch.cos, torch.sin):
        for start, stop in row_chunks((context_length,), 4 * head_dim):
            positions = torch.arange(start, stop).double()
            table = function(torch.outer(positions, 10000.0**-powers))
            stream.write(table.float().numpy().tobytes())
