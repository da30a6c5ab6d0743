"""Pre-training: next-token prediction on text, from fresh weights or from a model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from glassbox.core.errors import UserError
from glassbox.core.seeding import derive_seed
from glassbox.data.python_source import PythonSource
from glassbox.models.shapes import Shape
from glassbox.optim.width_transfer import WidthTransfer
from glassbox.runs.stages.base import (
    StageRecipe,
    check_on_meta,
    check_row_length,
    checked_config,
    options_of,
)
from glassbox.runs.stages.text import TextData, TokenizerConfig

if TYPE_CHECKING:
    from torch import nn

    from glassbox.data.shards import Shard
    from glassbox.models.causal_lm import CausalLM
    from glassbox.optim.base import Optimizer
    from glassbox.runs.setup import Setup, Stage
    from glassbox.tokenizers import Tokenizer

CHECKED_DOCUMENTS = 64
"""How many documents of each source are read before anything is written."""


class PretrainRecipe(StageRecipe):
    """Next-token prediction on text, from fresh weights or from a model."""

    shards: ClassVar[bool] = True
    stage: Literal["pretrain"] = "pretrain"
    init: str | None = Field(None, description="MODEL to start from; null: random initialization")
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: TextData
    model: Shape
    width_transfer: WidthTransfer | None = Field(
        None,
        description="scale learning rates from the width at which train.lr was tuned; new models only",
    )
    z_loss: float = Field(
        0.0,
        ge=0,
        description="coefficient of the z-loss (log sum exp logits)^2 per target, often 1e-4; 0: none",
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> PretrainRecipe:
        config = checked_config(self.model, self.tokenizer.vocab_size)
        if self.width_transfer is not None and self.init is not None:
            raise UserError(
                f"width_transfer is for fresh weights, and init = '{self.init}' has weights; leave "
                "one of them out"
            )
        if self.width_transfer is not None and self.optim.width_exponent is None:
            raise UserError(
                f"width_transfer knows no rule for optim.kind = '{self.optim.kind}'; use adamw, "
                "lion, adafactor or muon"
            )
        if self.init is None:
            check_row_length(self.data.row_length, config.context_length)
        return self

    @property
    def sources(self) -> Sequence[str | PythonSource]:
        """The texts, and the one that is held out."""
        return [*self.data.paths, *([self.data.heldout_path] if self.data.heldout_path else [])]

    def check_shape(self) -> None:
        """The shape with the vocabulary that is asked for."""
        if self.init is None:
            check_on_meta(self.model, self.tokenizer.vocab_size)

    def check(self, setup: Setup) -> None:
        """Model, tokenizer, and the first documents of each text."""
        import numpy as np

        from glassbox.data.packing import pack_documents
        from glassbox.data.text import find_corpus, read_documents
        from glassbox.data.token_files import find_token_files
        from glassbox.runs.shards import NAME_THE_TOKENIZER, encode_documents

        tokenizer = self._known_tokenizer(setup)
        if self.init is not None:
            check_row_length(self.data.row_length, setup.model(self.init)[0].config.context_length)
        else:
            self.check_shape()
        if self.data.rows_per_step % setup.data_ranks:
            raise UserError(
                f"data.rows_per_step = {self.data.rows_per_step} cannot be shared by "
                f"{setup.data_ranks} ranks; make it a multiple of the number of ranks"
            )
        for path in self.sources:
            if find_token_files(find_corpus(path)) is not None:
                if tokenizer is None:
                    raise UserError(NAME_THE_TOKENIZER.format(path=path))
                self._ids(setup, path, tokenizer)
                continue
            texts = read_documents(find_corpus(path), split=self.data.split)
            documents = itertools.islice(texts, CHECKED_DOCUMENTS)
            first = list(documents)
            if not first:
                raise UserError(f"'{path}' holds no text; give a file with at least one document")
            if tokenizer is not None:
                encoded = list(encode_documents(first, tokenizer))
                offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
                next(iter(pack_documents(offsets, self.data.row_length)))

    def _known_tokenizer(self, setup: Setup) -> Tokenizer | None:
        from glassbox.tokenizers import Tokenizer
        from glassbox.tokenizers.training import check_training

        if self.init is not None:
            return setup.model(self.init)[1]
        path = self.tokenizer.path
        if path is not None:
            return setup.once("tokenizer", lambda: Tokenizer.load(path))
        check_training(self.tokenizer.kind, self.tokenizer.pattern)
        return None

    def build(self, setup: Setup) -> Stage:
        """Tokenizer and shards, made once and kept in the run folder; model and hooks."""
        from glassbox.data.loader import PackedRows, PackedSource
        from glassbox.data.mixture import MixedRows, MixedSource
        from glassbox.data.prefetch import prefetched
        from glassbox.evaluation.hooks import HeldoutPart, LossHook
        from glassbox.runs.setup import Stage
        from glassbox.runs.shards import describe_rows
        from glassbox.training.next_token import NextToken

        data, group = self.data, setup.group
        model, tokenizer = self._model(setup)
        setup.main_first(lambda: self._shards(setup, tokenizer))
        trained, heldout = self._shards(setup, tokenizer)
        parts = [
            PackedRows(shard, data.row_length, strategy=data.packing, stride=data.stride)
            for shard in trained
        ]
        options: dict[str, Any] = {**options_of(data), "seed": self.seed, "group": group}
        weights = [source.weight for source in data.sources]
        source: PackedSource = (
            MixedSource(MixedRows(parts), weights, **options)
            if data.sources
            else PackedSource(parts[0], **options)
        )
        if group.is_main:
            describe_rows(parts, model, setup.folder)
        hooks = setup.sample_hooks(tokenizer)
        if self.evaluates:
            names = data.names if len(heldout) > 1 else [""]
            shares = weights if len(heldout) > 1 else [1.0]
            held = [HeldoutPart(*part) for part in zip(names, shares, heldout, strict=True)]
            config = self.evaluation
            hooks = [
                LossHook(held, every=config.every, documents=config.documents, group=group),
                *hooks,
            ]
        ahead = prefetched(source, data.workers)
        return Stage(model, tokenizer, NextToken(z_loss=self.z_loss), ahead, hooks, chats=False)

    def _model(self, setup: Setup) -> tuple[CausalLM, Tokenizer]:
        from glassbox.runs.shards import prepare_tokenizer

        if self.init is not None:
            model, tokenizer = setup.model(self.init)
        else:
            folder = setup.folder
            setup.main_first(lambda: prepare_tokenizer(self.tokenizer, self.data, folder))
            tokenizer = prepare_tokenizer(self.tokenizer, self.data, folder)
            config = checked_config(self.model, tokenizer.vocab_size)
            if self.width_transfer is not None:
                config = self.width_transfer.config(config)
            model = setup.layout.create(config)
        check_row_length(self.data.row_length, model.config.context_length)
        return model, tokenizer

    def build_optimizer(self, model: CausalLM, along: Mapping[str, nn.Module]) -> Optimizer:
        """The optimizer, with its rates fitted to the width where the recipe says so."""
        optimizer = super().build_optimizer(model, along)
        if self.width_transfer is not None:
            self.width_transfer.scale_rates(optimizer, model, self.optim.width_exponent)
        return optimizer

    def _ids(
        self, setup: Setup, path: str | PythonSource, tokenizer: Tokenizer
    ) -> tuple[Shard | None, Shard | None]:
        """The ids to train on and those held out where a path holds ids; each file is read once."""
        from glassbox.runs.shards import heldout_token_shard, token_shard

        data = self.data
        return setup.once(
            f"ids of {path}",
            lambda: (
                token_shard(data, path, tokenizer),
                heldout_token_shard(data, path, tokenizer),
            ),
        )

    def _shards(self, setup: Setup, tokenizer: Tokenizer) -> tuple[list[Shard], list[Shard]]:
        """The shards of all texts, and those held out: one of a file of its own, else one a text."""
        from glassbox.runs.shards import heldout_documents, prepare_shard, training_documents

        data, folder = self.data, setup.folder / "data"
        several = bool(data.sources)
        trained = []
        for number, path in enumerate(data.paths):
            name = f"train-{number}" if several else "train"
            trained.append(
                self._ids(setup, path, tokenizer)[0]
                or prepare_shard(
                    lambda path=path: training_documents(data, path),  # type: ignore[misc]
                    tokenizer,
                    folder / name,
                    what="train",
                    fim=data.fim,
                    row_length=data.row_length,
                    seed=derive_seed(self.seed, name),
                    verify=setup.group.is_main,
                )
            )
        apart = several and data.heldout_path is None
        heldout = [
            self._ids(setup, path or data.paths[0], tokenizer)[1]
            or prepare_shard(
                lambda path=path: heldout_documents(data, path),  # type: ignore[misc]
                tokenizer,
                folder / (f"heldout-{number}" if apart else "heldout"),
                what="heldout",
                verify=setup.group.is_main,
                may_be_empty=apart,
            )
            for number, path in enumerate(data.paths if apart else [None])
        ]
        return trained, heldout
