"""MODEL on the command line: a run, a checkpoint, a quickstart folder or a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import torch

from glassbox.core.devices import resolve_device
from glassbox.core.errors import UserError
from glassbox.models.causal_lm import CausalLM
from glassbox.models.huggingface import load_pretrained
from glassbox.tokenizers import Tokenizer
from glassbox.training.checkpoint import COMPLETE, list_checkpoints, verify_checkpoint

STAGE_ORDER = ("pretrain", "sft", "dpo", "grpo")


def find_model(reference: str | Path) -> Path:
    """The folder that holds config.json and the weights.

    A run gives its newest complete checkpoint; a quickstart folder its furthest finished stage.
    Raises UserError that says what was looked for.
    """
    path = Path(reference)
    if not path.exists():
        raise UserError(f"no model at '{reference}'; give a run, a checkpoint or a model folder")
    if path.is_file():
        raise UserError(f"'{reference}' is a file; give the folder that holds its config.json")
    if (path / "config.json").exists():
        return path
    for stage in reversed(STAGE_ORDER):
        if (path / stage / "DONE.json").exists():
            return find_model(path / stage)
    found = list_checkpoints(path / "checkpoints")
    if found:
        return found[-1]
    unfinished = any((path / "checkpoints").glob("step-*")) if path.is_dir() else False
    what = "only unfinished checkpoints" if unfinished else "no config.json and no checkpoints/"
    raise UserError(f"'{reference}' holds {what}; give a run, a checkpoint or a model folder")


def open_model(
    reference: str | Path, *, device: torch.device | None = None
) -> tuple[CausalLM, Tokenizer, Path]:
    """Model, tokenizer and the folder they came from.

    A checkpoint of ours is compared with its checksums first. Raises UserError naming what is
    missing or damaged.
    """
    folder = find_model(reference)
    if (folder / COMPLETE).exists():
        verify_checkpoint(folder)
    model = load_pretrained(folder, device=device or torch.device("cpu"))
    if not (folder / "tokenizer.json").exists():
        raise UserError(
            f"'{folder}' has no tokenizer.json; copy the tokenizer's files beside the model"
        )
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"'{folder}': the tokenizer has {tokenizer.vocab_size} entries, the model "
            f"{model.config.vocab_size}; these files do not belong together"
        )
    return model, tokenizer, folder


def open_on(reference: str | Path, device_name: str) -> tuple[CausalLM, Tokenizer, Path]:
    """`open_model` on a device by name, ready to generate."""
    model, tokenizer, folder = open_model(reference, device=resolve_device(device_name))
    return model.eval(), tokenizer, folder
