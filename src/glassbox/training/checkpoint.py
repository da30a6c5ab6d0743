"""Atomic checkpoints in safetensors and JSON only, so that loading one cannot execute code.

checkpoints/step-00001000/
  config.json model.safetensors tokenizer.json ...   opens in transformers as it is
  adapter_config.json adapter_model.safetensors ...  in their place where an adapter is trained
  training/state.json          schema, step, source position, loss scale, guard, best value
  training/optimizer.safetensors
  training/companions.safetensors                    where an objective trains modules of its own
  training/ema.safetensors                           with train.ema: the average, and the trained
                                                     weights where the model above is the average
  training/rng-0000.json|.safetensors                one pair a rank
  COMPLETE                     size and checksum of every file, as JSON; written last
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import safetensors
import safetensors.torch
from torch import Tensor, nn

from glassbox.adapters.base import adapters_of
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError, disk_is_full
from glassbox.core.files import checksum, sync_folder, write_bytes, write_json
from glassbox.formats.checkpoints import (
    COMPLETE,
    PREFIX,
    checkpoint_name,
    checkpoint_step,
    list_checkpoints,
    verify_checkpoint,
)
from glassbox.formats.huggingface import load_pretrained_into, save_pretrained
from glassbox.formats.peft import fill_adapter, save_adapter
from glassbox.formats.tensor_files import write_tensors
from glassbox.models.causal_lm import CausalLM
from glassbox.optim.averaging import WeightAverage
from glassbox.tokenizers import Tokenizer

SCHEMA = 1


def save_checkpoint(
    folder: Path,
    step: int,
    model: CausalLM,
    *,
    tokenizer: Tokenizer | None,
    optimizer_state: dict[str, Tensor],
    state: dict[str, Any],
    rng: tuple[dict[str, Any], dict[str, Tensor]],
    group: Group,
    stop_token_ids: Sequence[int] = (),
    companions: Mapping[str, nn.Module] | None = None,
    ema: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint to a temporary folder, rename it into place, then mark it COMPLETE.

    Every rank calls it; rank 0 writes the model and the optimizer, each rank its own random state.
    An existing complete checkpoint of the step is left unchanged. Raises UserError if the disk is
    full; existing checkpoints stay intact. `stop_token_ids` go into generation_config.json.
    """
    final = folder / checkpoint_name(step)
    if (final / COMPLETE).exists():
        return final
    temporary = folder / f".writing-{final.name}"
    try:
        if group.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            if final.exists():  # a kill between its renaming and its completion
                shutil.rmtree(final)
            (temporary / "training").mkdir(parents=True)
        group.barrier()
        values, tensors = rng
        training = temporary / "training"
        write_json(training / f"rng-{group.rank:04d}.json", values, indent=None)
        write_bytes(training / f"rng-{group.rank:04d}.safetensors", safetensors.torch.save(tensors))
        if group.is_main:
            _save_model(model, temporary, tokenizer, stop_token_ids)
            # to the file at once: as bytes in memory it would be the peak of a whole run's memory
            write_tensors(training / "optimizer.safetensors", optimizer_state)
            if companions:
                write_tensors(training / "companions.safetensors", _companion_tensors(companions))
            if ema is not None:
                write_tensors(training / "ema.safetensors", dict(ema))
            write_json(training / "state.json", {"schema": SCHEMA, "step": step, **state})
        group.barrier()
        if group.is_main:
            manifest = {
                file.relative_to(temporary).as_posix(): checksum(file)
                for file in sorted(temporary.rglob("*"))
                if file.is_file()
            }
            temporary.replace(final)
            sync_folder(folder)
            write_json(final / COMPLETE, manifest)
        group.barrier()
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _explain_disk(error, folder)
    return final


def _save_model(
    model: CausalLM, folder: Path, tokenizer: Tokenizer | None, stop_token_ids: Sequence[int]
) -> None:
    """Save the whole model, or for a model with adapters only the adapter, which names its base."""
    if adapters_of(model) is None:
        save_pretrained(model, folder, tokenizer=tokenizer, stop_token_ids=stop_token_ids)
        return
    save_adapter(model, folder)
    if tokenizer is not None:
        tokenizer.save(folder)
    write_json(folder / "generation_config.json", {"eos_token_id": list(stop_token_ids)})


def _explain_disk(error: Exception, folder: Path) -> NoReturn:
    last = list_checkpoints(folder)
    kept = f"the last whole checkpoint is '{last[-1].name}'" if last else "no checkpoint exists yet"
    if disk_is_full(error):
        raise UserError(
            f"the disk is full: could not write a checkpoint into '{folder}'; {kept}: "
            "free some space and run the same command to go on from it"
        ) from error
    raise UserError(f"could not write a checkpoint into '{folder}': {error}; {kept}") from error


def _companion_tensors(companions: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, module in companions.items()
        for key, tensor in module.state_dict().items()
    }


def _load_companions(path: Path, companions: Mapping[str, nn.Module]) -> None:
    saved = safetensors.torch.load_file(path)
    for name, module in companions.items():
        prefix = f"{name}."
        own = {k.removeprefix(prefix): t for k, t in saved.items() if k.startswith(prefix)}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"'{path}' is of another '{name}' than this run's: {reason}") from None


def load_checkpoint(
    path: Path,
    model: CausalLM,
    *,
    group: Group,
    companions: Mapping[str, nn.Module] | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor], tuple[dict[str, Any], dict[str, Tensor]] | None]:
    """Verify a checkpoint, fill `model` and `companions`, and return the loop's state, the optimizer's, the random state.

    On more ranks than it was written with, a new rank's random state is None.
    Raises UserError naming the damaged or missing file.
    """
    verify_checkpoint(path)
    if adapters_of(model) is not None:
        fill_adapter(model, path)
    else:
        load_pretrained_into(model, path)
    training = path / "training"
    try:
        state = json.loads((training / "state.json").read_text(encoding="utf-8"))
        if state["schema"] != SCHEMA:
            raise UserError(
                f"checkpoint '{path}' has schema {state['schema']}, this version reads {SCHEMA}"
            )
        optimizer_state = safetensors.torch.load_file(training / "optimizer.safetensors")
        if companions:
            _load_companions(training / "companions.safetensors", companions)
        rng = None
        values_path = training / f"rng-{group.rank:04d}.json"
        if values_path.exists():
            values = json.loads(values_path.read_text(encoding="utf-8"))
            rng = (values, safetensors.torch.load_file(values_path.with_suffix(".safetensors")))
    except (OSError, json.JSONDecodeError, KeyError, safetensors.SafetensorError) as error:
        raise UserError(f"checkpoint '{path}' cannot be resumed from: {error}") from None
    return state, optimizer_state, rng


def load_average(
    path: Path,
    average: WeightAverage,
    *,
    own: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict,
) -> None:
    """Fill the moving average of a verified checkpoint, and the trained weights where they are there.

    own: this rank's part of what is whole in the file.
    Raises UserError where the checkpoint was made without one, or with other weights.
    """
    file = path / "training" / "ema.safetensors"
    if not file.exists():
        raise UserError(f"checkpoint '{path}' was made without train.ema; resume without it")
    try:
        average.load_state_dict(own(safetensors.torch.load_file(file)))
    except (ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"checkpoint '{path}' cannot be resumed from: {error}") from None


def prune_checkpoints(folder: Path, *, keep_last: int, keep_step: int | None) -> None:
    """Delete all complete checkpoints but the newest `keep_last` and the one of step `keep_step`.

    Also deletes partially written or partially deleted folders that killed processes left.
    """
    complete = list_checkpoints(folder)
    for path in complete[: max(0, len(complete) - keep_last)]:
        if checkpoint_step(path) == keep_step:
            continue
        (path / COMPLETE).unlink(missing_ok=True)  # from here on it is no checkpoint
        shutil.rmtree(path, ignore_errors=True)
    unfinished = [p for p in folder.glob(f"{PREFIX}[0-9]*") if not (p / COMPLETE).exists()]
    for leftover in [*folder.glob(".writing-*"), *unfinished]:
        shutil.rmtree(leftover, ignore_errors=True)
