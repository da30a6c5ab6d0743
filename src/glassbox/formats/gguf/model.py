"""A model out of a GGUF file and into one, tokenizer and chat template included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glassbox.compression import GgmlCodes
from glassbox.core.errors import UserError
from glassbox.formats.gguf.architectures import Architecture, config_metadata, read_config
from glassbox.formats.gguf.blocks import FORMATS, QUANTIZE, codes_of
from glassbox.formats.gguf.reader import GGUFFile
from glassbox.formats.gguf.rope import DIVISORS, MAX_DIVISORS
from glassbox.formats.gguf.vocabulary import read_vocabulary, vocabulary_metadata
from glassbox.formats.gguf.writer import write_gguf
from glassbox.formats.huggingface import build_from, export_state
from glassbox.formats.tensor_source import TORCH_DTYPES, TensorSource
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.models.families import family_named, to_hf_config, to_hf_weights
from glassbox.models.rotary_rows import pairs_apart, pairs_together, put_together
from glassbox.tokenizers import Tokenizer

DTYPES: Mapping[str, str] = {
    "f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1",
}  # fmt: skip
"""What matrices are written as, and GGUF's name for it."""
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32}


_OUTER = ("token_embd.weight", "output.weight")


class GGUFWeights(TensorSource):
    """The tensors of a GGUF file under Hugging Face's names, in Hugging Face's order of rows."""

    def __init__(self, file: GGUFFile, arch: Architecture, words: Mapping[str, Any]) -> None:
        self.where = file.where
        self._file = file
        self._arch = arch
        self._heads = {
            "q_proj": int(words["num_attention_heads"]),
            "k_proj": int(words["num_key_value_heads"]),
        }
        names = [name for name in file.names if name != DIVISORS]  # the config has them
        self._stored = {arch.hf_name(name) or name: name for name in names}

    @property
    def names(self) -> list[str]:
        """Every tensor there is; those without a name of theirs keep their own."""
        return sorted(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._file.shape(self._stored[name])

    def dtype(self, name: str) -> str:
        """What it is read as."""
        return self._file.dtype(self._stored[name])

    def own_name(self, name: str) -> str:
        """Its name in the file."""
        return self._stored.get(name) or self._arch.gguf_name(name)

    def copy_into(self, name: str, out: Tensor) -> None:
        """Read, and undo what the file does to norms and to the rows of q and k."""
        stored, heads = self._stored[name], turned_heads(name, self._arch, self._heads)
        if heads is not None:
            pairs_apart(out, heads).copy_(pairs_together(self._file.get(stored), heads))
            return
        self._file.copy_into(stored, out)
        if is_offset(name, self._arch):
            out.sub_(1)

    def coded(self, name: str) -> tuple[GgmlCodes, dict[str, Tensor]] | None:
        """The parts of a matrix that the file has in codes that layers run from; None for others."""
        info = self._file.tensors[self._stored[name]]
        if info.type_name not in QUANTIZE or len(info.shape) != 2:
            return None
        rows, columns = info.shape
        found = codes_of(info.type_name, self._file.raw(self._stored[name]), columns)
        heads = turned_heads(name, self._arch, self._heads)
        if heads is not None:
            order = torch.arange(rows).unsqueeze(1)
            new = torch.empty_like(order)
            pairs_apart(new, heads).copy_(pairs_together(order, heads))
            found = {key: part[new.squeeze(1)] for key, part in found.items()}
        return GgmlCodes(type=info.type_name), found

    def code_of(self, name: str) -> GgmlCodes | None:
        """Which codes `coded` would return, without reading them."""
        info = self._file.tensors[self._stored[name]]
        if info.type_name not in QUANTIZE or len(info.shape) != 2:
            return None
        return GgmlCodes(type=info.type_name)


def turned_heads(name: str, arch: Architecture, heads: Mapping[str, int]) -> int | None:
    """How many heads' rows change places in a tensor; None where none do."""
    if not arch.turned or ".self_attn." not in name:
        return None
    return heads.get(name.split(".")[-2])


def is_offset(name: str, arch: Architecture) -> bool:
    """Whether a tensor is a norm's factor that is stored as 1 + w."""
    return arch.norm_offset and name.endswith("norm.weight")


def load_gguf(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    quantize: str | None = None,
) -> tuple[CausalLM, Tokenizer | None]:
    """Load the model of a GGUF file, in evaluation mode, and its tokenizer.

    quantize: as `formats.huggingface.build_from` has it; "file" keeps Q8_0, Q4_0 and Q4_1 as they
        are.

    dtype: that of the matrices where they are all F16 or all BF16, else float32, unless given.
    Memory peaks near the model's own size. Raises UserError naming the key or tensor at fault.
    Tested against: the gguf package's reader; transformers on the same weights.
    """
    with GGUFFile(path) as file:
        config, arch = _config_of(file)
        tokenizer = read_vocabulary(file.metadata, file.where)
        source = GGUFWeights(file, arch, _words(config))
        family = family_named(arch.model_type)
        if dtype is None:
            found = {file.dtype(name) for name in file.names if len(file.shape(name)) > 1}
            dtype = TORCH_DTYPES[found.pop()] if len(found) == 1 else torch.float32
        model = build_from(source, config, family, device=device, dtype=dtype, quantize=quantize)
    return model, tokenizer


def load_gguf_config(path: Path | str) -> ModelConfig:
    """The config of a GGUF file. Raises UserError as `load_gguf` does."""
    with GGUFFile(path) as file:
        return _config_of(file)[0]


def save_gguf(
    path: Path | str,
    model: CausalLM,
    *,
    tokenizer: Tokenizer | None = None,
    dtype: str = "f32",
    name: str | None = None,
    stop_token_ids: tuple[int, ...] = (),
) -> None:
    """Write a GGUF file that llama.cpp opens; vectors are always float32.

    dtype: f32, f16, bf16, q8_0, q4_0 or q4_1, of the matrices. A matrix whose rows are no multiple
        of
    32 is written as f16 instead of blocks, as llama.cpp does; beside 4 bits the embedding and the
    output matrix are q8_0. The first of `stop_token_ids` is stored as the end of a turn. Raises
    UserError for a model or tokenizer that GGUF cannot represent.
    Tested against: the gguf package's reader.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype = {dtype!r} is not known to GGUF; use {', '.join(DTYPES)}")
    type_name, config = DTYPES[dtype], model.config
    if config.score_head:
        raise UserError("GGUF has no place for a scalar head (score_head = true); use --to hf")
    metadata, arch, divisors = config_metadata(config)
    metadata["general.type"] = "model"
    metadata["general.name"] = name or Path(path).stem
    metadata["general.file_type"] = _FILE_TYPES[type_name]
    if type_name in QUANTIZE:
        metadata["general.quantization_version"] = 2
    metadata |= vocabulary_metadata(tokenizer, config.vocab_size)
    if stop_token_ids:
        metadata["tokenizer.ggml.eot_token_id"] = stop_token_ids[0]
    words = _words(config)
    heads = {"q_proj": words["num_attention_heads"], "k_proj": words["num_key_value_heads"]}
    tensors: dict[str, tuple[str, Tensor]] = {}
    if divisors is not None:
        tensors[DIVISORS] = ("F32", divisors)
    for theirs, tensor in to_hf_weights(config, export_state(model)).items():
        turned = turned_heads(theirs, arch, heads)
        if turned is not None:
            tensor = put_together(tensor, turned)
        if is_offset(theirs, arch):
            tensor = tensor.float() + 1
        own = arch.gguf_name(theirs)
        outer = type_name.startswith("Q4") and own in _OUTER
        tensors[own] = (_type_of(tensor, "Q8_0" if outer else type_name), tensor)
    write_gguf(path, metadata, tensors)


def _config_of(file: GGUFFile) -> tuple[ModelConfig, Architecture]:
    shapes = {name: info.shape for name, info in file.tensors.items()}
    divisors = None
    if DIVISORS in shapes:
        if len(shapes[DIVISORS]) != 1 or shapes[DIVISORS][0] > MAX_DIVISORS:
            raise UserError(
                f"{file.where}: tensor '{DIVISORS}' has shape {shapes[DIVISORS]}; expected one number "
                "for each pair of a head's channels"
            )
        divisors = file.get(DIVISORS).float()
    return read_config(file.metadata, shapes, file.where, divisors)


def _words(config: ModelConfig) -> dict[str, Any]:
    words = to_hf_config(config)
    assert words is not None, "a config that was read through a family is expressed by it"
    return words


def _type_of(tensor: Tensor, type_name: str) -> str:
    if tensor.dim() == 1:
        return "F32"
    return type_name if tensor.shape[-1] % FORMATS[type_name].block_size == 0 else "F16"
