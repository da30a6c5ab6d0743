"""Supervised fine-tuning: next-token prediction on the assistant's messages only."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from glassbox.data.python_source import DataPath, PythonSource
from glassbox.runs.stages.base import StageRecipe, check_row_length, note_lost, options_of
from glassbox.runs.stages.settings import HeldoutData
from glassbox.runs.stages.text import ROW_PLACES

if TYPE_CHECKING:
    from glassbox.data.conversations import Message
    from glassbox.runs.setup import Setup, Stage
    from glassbox.tokenizers import Tokenizer


class ChatData(HeldoutData):
    """Conversations to fine-tune on."""

    path: DataPath = Field(description=ROW_PLACES + "chats")
    row_length: int = Field(512, gt=1)
    rows_per_step: int = Field(8, gt=0)
    rows_per_batch: int | None = Field(None, gt=0)
    workers: int = Field(
        0, ge=0, exclude=True, description="threads that prepare batches in advance; 0: none"
    )
    packing: Literal["best_fit", "greedy"] = "best_fit"
    too_long: Literal["leave_out", "cut"] = Field(
        "leave_out",
        description="conversations whose last turn is longer than a row: skipped (leave_out), or "
        "truncated (cut)",
    )


class SftRecipe(StageRecipe):
    """Supervised fine-tuning: next-token prediction on the assistant's messages only."""

    shards: ClassVar[bool] = True
    stage: Literal["sft"] = "sft"
    init: str = Field(description="MODEL to fine-tune")
    data: ChatData
    neftune_alpha: float | None = Field(
        None, gt=0, description="NEFTune noise on the embeddings, often 5; null: none"
    )
    z_loss: float = Field(
        0.0,
        ge=0,
        description="coefficient of the z-loss (log sum exp logits)^2 per target, often 1e-4; 0: none",
    )

    def check(self, setup: Setup) -> None:
        """The model, every conversation, and whether one fits into a row."""
        model, tokenizer = setup.model(self.init)
        check_row_length(self.data.row_length, model.config.context_length)
        check_chats(self.data, self._chats(setup)[0], tokenizer)

    def _chats(self, setup: Setup) -> tuple[list[list[Message]], list[list[Message]]]:
        """The conversations to train on, and those held out."""
        return setup.once("chats", lambda: read_and_split(setup, self.data, self.data.path))

    def build(self, setup: Setup) -> Stage:
        """Masked shards of conversations, and the same objective as pre-training."""
        from glassbox.data.loader import PackedRows, PackedSource
        from glassbox.data.prefetch import prefetched
        from glassbox.runs.setup import Stage
        from glassbox.runs.shards import describe_rows
        from glassbox.training.next_token import NextToken
        from glassbox.training.protocols import Objective
        from glassbox.tuning.neftune import Neftune

        model, tokenizer = setup.model(self.init)
        check_row_length(self.data.row_length, model.config.context_length)
        setup.main_first(
            lambda: write_chats(setup, self.data, lambda: self._chats(setup), tokenizer)
        )
        setup.forget("chats")
        data = self.data
        train, hooks = chat_shards(setup, data, tokenizer)
        rows = PackedRows(train, data.row_length, strategy=data.packing)
        if setup.group.is_main:
            describe_rows([rows], model, setup.folder)
        source = PackedSource(rows, **options_of(data), seed=self.seed, group=setup.group)
        alpha = self.neftune_alpha
        plain = NextToken(z_loss=self.z_loss)
        objective: Objective[Any] = plain if alpha is None else Neftune(plain, alpha)
        ahead = prefetched(source, data.workers)
        return Stage(model, tokenizer, objective, ahead, [*hooks, *setup.sample_hooks(tokenizer)])


def read_and_split(
    setup: Setup, data: Any, path: str | PythonSource
) -> tuple[list[list[Message]], list[list[Message]]]:
    """Conversations of `path`, and those of data.heldout_path or held out by their first user's turn."""
    from glassbox.data.conversations import read_chats

    chats = read_chats(path)
    if chats.skipped:
        print(f"  {chats.describe('conversations')}", file=sys.stderr)
    if data.heldout_path is not None:
        return chats, read_chats(data.heldout_path)
    split = setup.hold_out([opening(chat) for chat in chats], data.heldout_share)
    return [chats[n] for n in split.train], [chats[n] for n in split.heldout]


def opening(chat: list[Message]) -> list[Message]:
    """A conversation up to its first answer: conversations that begin alike are held out together."""
    end = next((n for n, message in enumerate(chat) if message["role"] == "assistant"), len(chat))
    return chat[:end]


def check_chats(data: Any, chats: list[list[Message]], tokenizer: Tokenizer) -> None:
    """Raise UserError where no conversation fits into a row."""
    from glassbox.core.errors import UserError

    if not any_fits(data, chats, tokenizer):
        raise UserError(
            f"none of {len(chats)} conversations fits into {data.row_length + 1} tokens; "
            "raise data.row_length, give shorter ones, or set data.too_long=cut"
        )


def any_fits(data: Any, chats: list[list[Message]], tokenizer: Tokenizer) -> bool:
    """Whether one conversation fits into a row, or is cut off at its end."""
    from glassbox.data.conversations import encode_fitting

    cut = getattr(data, "too_long", "leave_out") == "cut"
    masks = (encode_fitting(chat, tokenizer, data.row_length + 1, cut=cut)[1] for chat in chats)
    return any(any(mask) for mask in masks)


def write_chats(setup: Setup, data: Any, read: Any, tokenizer: Tokenizer) -> None:
    """The shards `train` and, where anything is held out, `heldout`, unless they are there."""
    from glassbox.data.conversations import write_chat_shard

    folder = setup.folder / "data"
    names = ["train", *(["heldout"] if setup.recipe.evaluates else [])]
    if all((folder / f"{name}.json").exists() for name in names):
        return
    cut = getattr(data, "too_long", "leave_out") == "cut"
    for name, chats in zip(("train", "heldout"), read(), strict=True):
        if name not in names or not chats:
            continue
        if name == "heldout" and data.heldout_path is None and not any_fits(data, chats, tokenizer):
            print(
                f"  none of the {len(chats)} held-out conversations fits into {data.row_length} "
                "tokens, so nothing is evaluated; raise data.heldout_share or data.row_length",
                file=sys.stderr,
            )
            continue
        report = write_chat_shard(
            folder / name, chats, tokenizer, row_length=data.row_length, cut=cut
        )
        note_lost(
            report.shortened, report.skipped, "conversations", data.row_length, cut=report.cut
        )


def chat_shards(setup: Setup, data: Any, tokenizer: Tokenizer) -> tuple[Any, list[Any]]:
    """The shard to train on, and the hook of what is held out."""
    from glassbox.data.shards import read_shard
    from glassbox.evaluation.hooks import HeldoutPart, LossHook

    folder, main = setup.folder / "data", setup.group.is_main
    train = read_shard(folder / "train", fingerprint=tokenizer.fingerprint, verify=main)
    if not setup.recipe.evaluates or not (folder / "heldout.json").exists():
        return train, []
    heldout = read_shard(folder / "heldout", fingerprint=tokenizer.fingerprint, verify=main)
    config = setup.recipe.evaluation
    parts = [HeldoutPart("", 1.0, heldout)]
    return train, [
        LossHook(parts, every=config.every, documents=config.documents, group=setup.group)
    ]
