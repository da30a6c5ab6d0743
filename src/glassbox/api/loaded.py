"""`glassbox.load`, `save` and `convert`: models and tokenizers by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from glassbox.api.llm import LLM
from glassbox.core.devices import resolve_device
from glassbox.core.errors import UserError
from glassbox.formats.convert import Converted, load_model
from glassbox.formats.convert import convert as convert_files
from glassbox.formats.huggingface import write_folder
from glassbox.formats.open_model import check_pair, find_model, find_whole_model
from glassbox.inference.sampling.params import SamplingParams
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.tokenizers import Tokenizer

DType = Literal["auto", "float32", "bfloat16", "float16"] | torch.dtype
Message = Mapping[str, Any]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Loaded:
    """A model and its tokenizer; `generate` and `chat` return text.

    model: the `CausalLM`, in evaluation mode.
    tokenizer: the `Tokenizer` saved with it.
    config: the model's `ModelConfig`.
    path: the folder or file it was loaded from; None for a model made in memory.
    stop_token_ids: token ids that end an answer in addition to the tokenizer's end-of-text id.

    Each call processes a single prompt; `llm()` returns a batched, streaming `LLM` on the same
    weights.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        *,
        path: Path | None = None,
        stop_token_ids: Sequence[int] = (),
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.path = path
        self.stop_token_ids = tuple(stop_token_ids)
        self._llm: LLM | None = None

    @property
    def config(self) -> ModelConfig:
        """The model's `ModelConfig`."""
        return self.model.config

    def generate(self, text: str, **sampling: Any) -> str:
        """Generate a continuation of `text` and return it, without `text` itself.

        sampling: fields of `SamplingParams`, such as max_tokens, temperature, top_k, top_p, seed.
        Raises UserError for an unknown field or a value outside its range.

        >>> load("runs/quickstart").generate("Once upon a time", max_tokens=20)  # doctest: +SKIP
        ', there was a fox called Ann.'
        """
        completions = self._front().generate(text, self._params(sampling))
        return completions[0].text or ""

    def chat(self, messages: str | Sequence[Message], **sampling: Any) -> str:
        """Generate the assistant's next turn.

        messages: one question as a string, or the conversation so far as mappings with `role`
            (system, user, assistant, tool) and `content`.
        sampling: fields of `SamplingParams`.
        Raises UserError if the tokenizer has no chat template.

        >>> load("smollm2").chat("Name a colour.", max_tokens=8, temperature=0)  # doctest: +SKIP
        'Blue.'
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self._front().chat(messages, self._params(sampling))[0].text or ""

    def save(self, folder: str | Path) -> None:
        """Write a Hugging Face folder: config.json, model.safetensors, tokenizer.json.

        `load` opens it; so does transformers if the model belongs to one of its families. Raises
        UserError if the folder is not empty.
        """
        save(self, folder)

    def llm(self, **options: Any) -> LLM:
        """Return a batched, streaming `LLM` on the same weights; `options` are those of `Engine`."""
        return LLM.of(self.model, self.tokenizer, **options)

    def _front(self) -> LLM:
        if self._llm is None:
            self._llm = self.llm()
        return self._llm

    def _params(self, sampling: Mapping[str, Any]) -> SamplingParams:
        known = SamplingParams.model_fields
        for name in sampling:
            if name not in known:
                raise UserError(f"'{name}' is no sampling option; use one of {', '.join(known)}")
        params = SamplingParams(**sampling)
        ends = {*params.stop_token_ids, *self.stop_token_ids}
        return params.model_copy(update={"stop_token_ids": tuple(sorted(ends))})

    def __repr__(self) -> str:
        """A one-line summary."""
        millions = self.model.num_parameters / 1e6
        return f"Loaded({str(self.path)!r}, {millions:.1f}M parameters, {self.model.device})"


def load(
    model: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: DType = "auto",
    code: Sequence[str] = (),
    quantize: str | None = None,
) -> Loaded:
    """Load a model and its tokenizer.

    model: a run folder, a checkpoint, a Hugging Face folder or hub name, a GGUF file, a llama2.c
        .bin file, an adapter's folder, or an offline name such as "smollm2".
    device: auto (a GPU if there is one), cpu, cuda, mps, or a torch.device.
    dtype: auto (the file's own; block-quantized weights become float32), float32, bfloat16 or
        float16.
    code: paths of user-defined layers of the model, such as "my.py:Mixer". No other code that a
        model's files name is run.
    quantize: keep the matrices quantized and multiply with the codes: int8, int8-dynamic, int4, nf4, fp8,
        mxfp4, q8_0, q4_0, q4_1, with suffixes such as int4-g32-sym; "file" keeps the codes of a
        GGUF file (docs/guides/compression.md).
    Raises UserError naming what is missing or damaged.

    >>> load("runs/quickstart").model.num_parameters  # doctest: +SKIP
    1574016
    """
    wanted = dtype if isinstance(dtype, torch.dtype) else _DTYPES.get(dtype)
    if wanted is None and dtype != "auto":
        raise UserError(f"dtype = {dtype!r} is unknown; use auto, {', '.join(_DTYPES)}")
    place = device if isinstance(device, torch.device) else resolve_device(device)
    found = find_whole_model(model)
    loaded = load_model(
        found, device=place, dtype=wanted, find_base=find_model, code=code, quantize=quantize
    )
    tokenizer = check_pair(loaded, found)
    return Loaded(loaded.model.eval(), tokenizer, path=found, stop_token_ids=loaded.stop_token_ids)


def save(
    model: Loaded | CausalLM, folder: str | Path, *, tokenizer: Tokenizer | None = None
) -> None:
    """Write a model and its tokenizer as a Hugging Face folder.

    model: a `CausalLM`, or a `Loaded`, whose tokenizer is written too.
    The folder is written to a temporary place and then moved. Raises UserError if `folder` is not
    empty.
    """
    folder = Path(folder)
    stops: Sequence[int] = ()
    if isinstance(model, Loaded):
        tokenizer = tokenizer or model.tokenizer
        stops, model = model.stop_token_ids, model.model
    write_folder(model, folder, tokenizer=tokenizer, stop_token_ids=stops)


def convert(
    source: str | Path, destination: str | Path, *, to: str | None = None, dtype: str | None = None
) -> Converted:
    """Convert any model that `load` opens to another file format.

    to: hf (a folder), gguf or llama2c; by default chosen by the destination's ending.
    dtype: f32, f16, bf16, or for GGUF q8_0, q4_0, q4_1; by default the source's.
    Raises UserError if the destination exists or its format cannot represent the model.

    >>> convert("smollm2", "smollm2.gguf", dtype="q8_0").kind  # doctest: +SKIP
    'gguf'
    """
    found = find_whole_model(source)
    return convert_files(found, destination, to=to, dtype=dtype, find_base=find_model)
