"""Detection, reading and conversion of model formats.

| kind | what it is |
|---|---|
| hf | a folder of Hugging Face's: config.json, safetensors in one file or several, tokenizer.json |
| gguf | llama.cpp's single file |
| llama2c | llama2.c's model.bin, with tokenizer.bin beside it |
| adapter | a folder of PEFT's: adapter_config.json, adapter_model.safetensors; read, or baked in |
| torch | a `.pt` or `.bin` of torch's, read with weights_only, beside a config.json; read only |
"""

from __future__ import annotations

import difflib
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from glassbox.adapters.attach import bake
from glassbox.compression import named_codes, widen
from glassbox.compression import quantize as quantize_model
from glassbox.core.errors import UserError
from glassbox.core.files import clear_leftovers, open_regular
from glassbox.formats.gguf import GGUFFile, load_gguf, load_gguf_config, save_gguf
from glassbox.formats.gguf.model import DTYPES as GGUF_DTYPES
from glassbox.formats.huggingface import (
    FILE,
    MAX_SHARD_BYTES,
    left_out,
    load_config,
    load_pretrained,
    load_weights,
    opens_as,
    refuse_taken,
    write_folder,
)
from glassbox.formats.llama2c import Llama2cFile, load_llama2c, save_llama2c
from glassbox.formats.peft import is_adapter, load_adapter, read_adapter
from glassbox.formats.tensor_files import MAX_TENSORS, read_json
from glassbox.formats.tensor_source import TORCH_DTYPES, TensorSource
from glassbox.layers.wide_weights import cast
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.tokenizers import Tokenizer

MAX_PICKLE_BYTES = 32 << 20
"""Largest list of tensors in a file of torch's; about 200 bytes each."""
MAX_STOPS = 1000
TARGETS = ("hf", "gguf", "llama2c")
TORCH_NAMES: Mapping[str, torch.dtype] = MappingProxyType(
    {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
)
_SUFFIXES = {".gguf": "gguf", ".bin": "llama2c"}
_NOT_WRITTEN = (".pt", ".pth", ".safetensors", ".onnx")


@dataclass(frozen=True)
class Loaded:
    """A model, its tokenizer where the files have one, and ids that end generation besides its end of text.

    left_out: weights in the files that the model does not have, such as modules that predict later
    tokens than the next.
    """

    model: CausalLM
    tokenizer: Tokenizer | None
    stop_token_ids: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """What was written: its kind, the source's weights that it lacks, dtype of the matrices and size.

    opens_as: the class of transformers that opens a folder; None where no class has such blocks.
    """

    kind: str
    left_out: tuple[str, ...] = ()
    dtype: str = ""
    num_bytes: int = 0
    opens_as: str | None = None

    def __str__(self) -> str:
        """As the command says it.

        >>> print(Converted("hf", dtype="bf16", num_bytes=269_100_000, opens_as="LlamaForCausalLM"))
        hf, bf16, 269.1 MB, opens in transformers as LlamaForCausalLM
        >>> print(Converted("gguf", dtype="q8_0", num_bytes=1_200))
        gguf, q8_0, 1.2 kB
        """
        unit, name = next(
            ((u, n) for u, n in ((10**9, "GB"), (10**6, "MB")) if self.num_bytes >= u),
            (10**3, "kB"),
        )
        said = f"{self.kind}, {self.dtype}, {self.num_bytes / unit:.1f} {name}"
        if self.kind != "hf":
            return said
        if self.opens_as is None:
            return f"{said}, opens in Glassbox alone: transformers has no model of these blocks"
        return f"{said}, opens in transformers as {self.opens_as}"


def kind_of(path: Path | str) -> str:
    """The kind of model at a path, by its content. Raises UserError if it is none."""
    path = Path(path)
    if path.is_dir():
        if is_adapter(path):
            return "adapter"
        if (path / "config.json").exists():
            return "hf"
        raise UserError(f"'{path}' has no config.json; it is no model's folder")
    try:
        with open_regular(path) as stream:
            head = stream.read(4)
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from None
    if head == b"GGUF" or path.suffix == ".gguf":
        return "gguf"
    if path.suffix in (".bin", ".pt", ".pth") and head[:2] in (b"PK", b"\x80\x02"):
        return "torch"
    if path.suffix == ".bin":
        return "llama2c"
    if path.suffix == ".safetensors":
        raise UserError(f"'{path}' holds weights alone; give its folder, with config.json in it")
    raise UserError(
        f"'{path}' is no model that can be read: give a folder with config.json, a .gguf file, "
        "llama2.c's .bin, or a .pt or .bin of torch"
    )


def load_model(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    find_base: Callable[[str], Path] = Path,
    code: Sequence[str] = (),
    quantize: str | None = None,
) -> Loaded:
    """Load the model at a path, in any format, in evaluation mode.

    quantize: what to round its matrices to as they are read (`compression.named_codes`), or "file"
        to
    keep the codes of the file.

    code: paths of layers of the user's own that the model may have (`core.plugins`).

    dtype: by default the files' own. Peak memory is near the model's size. An adapter is attached
        to its base, which `find_base` looks up by name if its path has changed.
    Raises UserError for damaged or unsupported files.
    """
    path = Path(path)
    kind = kind_of(path)
    if quantize not in (None, FILE):
        named_codes(quantize)  # a name that is none is told before anything is read
    if quantize is not None and kind not in ("gguf", "hf"):
        loaded = load_model(path, device=device, dtype=dtype, find_base=find_base, code=code)
        if kind == "adapter":
            raise UserError(f"quantize = {quantize!r}: '{path}' is an adapter; quantize its base")
        quantize_model(loaded.model, quantize)
        return loaded
    if kind == "adapter":
        return _load_adapter(path, device=device, dtype=dtype, find_base=find_base)
    if kind == "gguf":
        model, tokenizer = load_gguf(path, device=device, dtype=dtype, quantize=quantize)
        return Loaded(model, tokenizer, _turn_end(path))
    if kind == "llama2c":
        return Loaded(*load_llama2c(path, device=device, dtype=dtype))
    unread: Sequence[str] = ()
    if kind == "torch":
        model = load_weights(TorchFile(path), path.parent, device=device, dtype=dtype)
        path = path.parent
    else:
        model = load_pretrained(path, device=device, dtype=dtype, code=code, quantize=quantize)
        unread = left_out(path)
    tokenizer = Tokenizer.load(path) if (path / "tokenizer.json").exists() else None
    return Loaded(model, tokenizer, _stop_ids(path, tokenizer), tuple(unread))


def convert(
    source: Path | str,
    destination: Path | str,
    *,
    to: str | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    find_base: Callable[[str], Path] = Path,
) -> Converted:
    """Convert the model at `source` to another format.

    An adapter is merged into its base if possible.

    to: hf, gguf or llama2c; by the destination's ending unless given. dtype: f32, f16, bf16, and
    q8_0, q4_0 and q4_1 for GGUF; the source's own unless given. The destination is written
    atomically; after a kill the same call removes partial files and starts again. Raises UserError
    if the destination exists, or the format cannot represent the model or its tokenizer.
    """
    destination = Path(destination)
    if to is None and not destination.exists():
        _refuse_ending(destination)
    to = to or _SUFFIXES.get(destination.suffix, "hf")
    if to not in TARGETS:
        raise UserError(f"--to {to} is not known; use {', '.join(TARGETS)}")
    known = tuple(GGUF_DTYPES) if to == "gguf" else tuple(TORCH_NAMES) if to == "hf" else ("f32",)
    if dtype is not None and dtype not in known:
        raise UserError(f"--dtype {dtype} cannot be written as {to}; use {', '.join(known)}")
    if destination.is_dir() and to != "hf":
        raise UserError(f"'{destination}' is a folder; name the file to be written")
    refuse_taken(destination)
    wanted = TORCH_NAMES.get(dtype or "") if to == "hf" else None
    adapted = (
        kind_of(source) == "adapter"
    )  # its base is known by its bits: cast once it is baked in
    loaded = load_model(source, dtype=None if adapted else wanted, find_base=find_base)
    model, tokenizer = loaded.model, loaded.tokenizer
    if adapted:
        model = bake(model)
        cast(model, wanted or model.dtype)
    if to != "hf" or dtype is not None:
        widen(model)
        cast(model, wanted or model.dtype)
    clear_leftovers(destination)  # as late as this: another process may have been writing
    theirs = None
    if to == "hf":
        dtype = _name_of(model.dtype)
        theirs = opens_as(model.config)
        write_folder(
            model,
            destination,
            tokenizer=tokenizer,
            stop_token_ids=loaded.stop_token_ids,
            max_shard_bytes=max_shard_bytes,
        )
    elif to == "gguf":
        dtype = dtype or _name_of(model.dtype)
        dtype = dtype if dtype in GGUF_DTYPES else "f32"
        save_gguf(
            destination,
            model,
            tokenizer=tokenizer,
            dtype=dtype,
            stop_token_ids=loaded.stop_token_ids,
        )
    else:
        dtype = "f32"
        clear_leftovers(destination.with_name("tokenizer.bin"))
        save_llama2c(destination, model, tokenizer=tokenizer)
    files = destination.iterdir() if destination.is_dir() else [destination]
    num_bytes = sum(file.stat().st_size for file in files)
    return Converted(to, loaded.left_out, dtype, num_bytes, theirs)


def _name_of(dtype: torch.dtype) -> str:
    names = {torch_dtype: name for name, torch_dtype in TORCH_NAMES.items()}
    return names.get(dtype) or str(dtype).removeprefix("torch.")


def _refuse_ending(destination: Path) -> None:
    """Refuse a folder's name that ends as a file's does, and says so of the nearest kind.

    Endings with digits are parts of models' names, as in SmolLM2-1.7B.
    """
    ending = destination.suffix
    if ending in _SUFFIXES or not ending[1:].isalpha():
        return
    remedy = "name a folder (which will hold model.safetensors), a .gguf or a .bin file"
    near = difflib.get_close_matches(ending.lower(), _SUFFIXES, n=1, cutoff=0.6)
    if ending in _NOT_WRITTEN:
        raise UserError(f"'{destination}': '{ending}' files are not written; {remedy}")
    if near:
        remedy = f"did you mean '{destination.with_suffix(near[0]).name}'?"
    raise UserError(
        f"'{destination}': the ending '{ending}' is not known; {remedy} (--to hf writes a folder of "
        "any name)"
    )


def _load_adapter(
    path: Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype | None,
    find_base: Callable[[str], Path],
) -> Loaded:
    """An adapter on its base, with the adapter's tokenizer where it brings one."""
    _, base = read_adapter(path)
    if base.path is not None and Path(base.path).exists():
        where = Path(base.path)
    elif base.name is not None:
        where = find_base(base.name)
    else:
        raise UserError(f"'{path}' does not say on which base the adapter was trained")
    if dtype is not None and base.fingerprint:
        raise UserError(f"'{path}' is an adapter: it needs its base in the base's own dtype")
    if kind_of(where) == "adapter":
        raise UserError(f"'{path}': its base '{where}' is an adapter itself; convert that first")
    loaded = load_model(where, device=device, dtype=dtype, find_base=find_base)
    load_adapter(loaded.model, path)
    tokenizer = loaded.tokenizer
    if (path / "tokenizer.json").exists():
        tokenizer = Tokenizer.load(path)
    stops = _stop_ids(path, tokenizer) or loaded.stop_token_ids
    return Loaded(loaded.model.eval(), tokenizer, stops)


def read_model_config(path: Path | str) -> ModelConfig:
    """The config of the model at a path, without its weights."""
    path = Path(path)
    kind = kind_of(path)
    if kind == "adapter":
        base = read_adapter(path)[1].path
        if base is None or kind_of(base) == "adapter":
            raise UserError(f"'{path}' names no model as its base")
        return read_model_config(base)
    if kind == "gguf":
        return load_gguf_config(path)
    if kind == "llama2c":
        with Llama2cFile(path) as file:
            return file.config
    return load_config(path.parent if kind == "torch" else path)


class TorchFile(TensorSource):
    """A file written by torch.save: tensors by name, loaded without running code.

    Raises UserError for a file with other objects than tensors, or without a state dict.
    """

    def __init__(self, path: Path) -> None:
        self.where = f"'{path}'"
        try:
            _check_archive(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except UserError:
            raise
        except Exception as error:  # a damaged pickle raises whatever its wrong operands make it
            asked = re.search(r"GLOBAL ([\w.]+)", str(error))
            reason = (
                f"it asks for '{asked[1]}', which is no tensor: opening it could run code"
                if asked
                else f"it is damaged or no file of torch's ({_first_line(error)})"
            )
            raise UserError(f"{self.where} was not opened as weights alone: {reason}") from None
        if isinstance(content, Mapping) and len(content) <= MAX_TENSORS:
            content = next((content[k] for k in ("model", "state_dict") if k in content), content)
        if not isinstance(content, Mapping) or not all(
            isinstance(name, str) and _is_plain(tensor) for name, tensor in content.items()
        ):
            raise UserError(f"{self.where} is no mapping of names to tensors")
        if len(content) > MAX_TENSORS:
            raise UserError(
                f"{self.where} has {len(content):,} tensors; a model may have {MAX_TENSORS:,}"
            )
        self._tensors: dict[str, Tensor] = dict(content)

    @property
    def names(self) -> list[str]:
        """All tensors."""
        return sorted(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> str:
        """A tensor's type in safetensors' words."""
        found = self._tensors[name].dtype
        return next((code for code, dtype in TORCH_DTYPES.items() if dtype == found), str(found))

    def copy_into(self, name: str, out: Tensor) -> None:
        """Copy a tensor."""
        out.copy_(self._tensors[name])


def _is_plain(tensor: object) -> bool:
    """Whether this is a tensor whose numbers are in the file."""
    if not isinstance(tensor, Tensor):
        return False
    return tensor.layout == torch.strided and tensor.device.type == "cpu"


def _check_archive(path: Path) -> None:
    """Refuse what would grow when it is opened. Raises UserError, and OSError or BadZipFile.

    torch stores its entries as they are, since it maps them; only the pickle that lists the tensors
    could be compressed, and it is read whole.
    """
    with open_regular(path) as stream:
        if not zipfile.is_zipfile(stream):
            return  # torch tells what it is
        with zipfile.ZipFile(stream) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise UserError(
                        f"'{path}': '{entry.filename}' is compressed, which no file of torch's is"
                    )
                if entry.filename.endswith(".pkl") and entry.file_size > MAX_PICKLE_BYTES:
                    raise UserError(
                        f"'{path}': '{entry.filename}' has {entry.file_size:,} bytes; it may have "
                        f"{MAX_PICKLE_BYTES:,}"
                    )


def _first_line(error: Exception) -> str:
    """What torch says of a file, without its advice to open it in ways that can run code."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.partition(" In PyTorch")[0].rstrip(".")[:120]


def _stop_ids(folder: Path, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """What generation_config.json ends at, besides the tokenizer's end of text."""
    path = folder / "generation_config.json"
    found: Any = read_json(path).get("eos_token_id") if path.exists() else None
    listed = found if isinstance(found, list) else [found]
    if len(listed) > MAX_STOPS:
        raise UserError(
            f"'{path}': 'eos_token_id' has {len(listed):,} entries; use {MAX_STOPS} or fewer"
        )
    has_end = tokenizer is not None and "eos_token" in tokenizer.roles
    end = tokenizer.eos_id if tokenizer is not None and has_end else None
    return tuple(number for number in listed if type(number) is int and number != end)


def _turn_end(path: Path) -> tuple[int, ...]:
    with GGUFFile(path) as file:
        found = file.metadata.get("tokenizer.ggml.eot_token_id")
    return (found,) if type(found) is int else ()
