"""Distillation: a student is trained on a teacher's distributions, hidden states, or answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.layers.context import Auxiliary
from glassbox.layers.linear import Linear
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.auxiliary import with_auxiliary
from glassbox.training.protocols import Number, ObjectiveOutput
from glassbox.tuning.distillation.divergences import Divergence, divergence, top_divergence
from glassbox.tuning.log_probs import freeze, read_lengths

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM
    from glassbox.tokenizers import Tokenizer


class DistillConfig(Spec):
    """Settings of distillation."""

    mode: Literal["logits", "on_policy", "sequence"] = Field(
        "logits",
        description="logits: the teacher's distributions on the data; on_policy: on answers that the "
        "student samples; sequence: answers that the teacher samples, as text",
    )
    divergence: Divergence = "forward_kl"
    js_beta: float = Field(
        0.5, gt=0, lt=1, description="weight of the teacher in the mixture of js"
    )
    temperature: float = Field(
        1.0, gt=0, description="temperature T on both models' logits; the loss is multiplied by T²"
    )
    hard_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight of the next-token loss on the data; the divergence has the rest",
    )
    hidden_weight: float = Field(
        0.0, ge=0, description="weight of the mean squared distance between final hidden states"
    )
    top_k: int = Field(
        0, ge=0, description=
            "mode logits: cache the teacher's k most probable tokens on disk, so that the "
            "teacher is run once; 0: run the teacher at every step"
    )  # fmt: skip

    @model_validator(mode="after")
    def _settings_fit(self) -> DistillConfig:
        if self.top_k and (self.mode != "logits" or self.hidden_weight):
            raise ValueError(
                f"top_k = {self.top_k} caches the teacher's logits on fixed data; it goes with mode: "
                "logits and hidden_weight: 0"
            )
        if self.mode == "sequence" and (self.hidden_weight or self.hard_weight):
            raise ValueError(
                "mode = 'sequence' trains on the teacher's text alone; leave hard_weight and "
                "hidden_weight out"
            )
        if self.mode == "on_policy" and self.hard_weight:
            raise ValueError(
                "mode = 'on_policy' has no data of its own to learn; use hard_weight: 0"
            )
        return self

    def check(self, student: Tokenizer, teacher: Tokenizer) -> None:
        """Raise UserError if distributions over different vocabularies would be compared."""
        if self.mode != "sequence":
            same_vocabulary(student, teacher)

    def build(self, teacher: CausalLM | None, tokenizer: Tokenizer, student: CausalLM) -> Distill:
        """Return the objective; without a teacher its batches must have the teacher's cached
        tokens.
        """
        sizes = {"vocab_size": tokenizer.vocab_size, "hidden_size": student.config.hidden_size}
        return Distill(self, teacher, **sizes)


@dataclass
class CachedBatch:
    """A `TokenBatch` with the teacher's cached predictions for each of its targets.

    top_ids, top_log_probs: (B, T, k), the teacher's most probable tokens; undefined where there is
        no target.
    """

    ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    documents: Int[Tensor, "B T"]
    top_ids: Int[Tensor, "B T k"]
    top_log_probs: Float[Tensor, "B T k"]

    @property
    def num_tokens(self) -> int:
        """Number of tokens processed by a forward pass, including padding."""
        return self.ids.numel()

    def to(self, device: torch.device) -> CachedBatch:
        """The same batch on another device."""
        return CachedBatch(*(getattr(self, one.name).to(device) for one in fields(self)))


def same_vocabulary(student: Tokenizer, teacher: Tokenizer) -> None:
    """Raise UserError, naming the first difference, unless both tokenizers encode every text to the
    same ids.
    """
    if student.fingerprint == teacher.fingerprint:
        return
    sizes = student.vocab_size, teacher.vocab_size
    differ = next(
        (n for n in range(min(sizes)) if student.id_to_token(n) != teacher.id_to_token(n)), None
    )
    if differ is not None:
        what = (
            f"token {differ} is {student.id_to_token(differ)!r} to the student and "
            f"{teacher.id_to_token(differ)!r} to the teacher"
        )
    elif sizes[0] != sizes[1]:
        what = f"the student's vocabulary has {sizes[0]} tokens, the teacher's {sizes[1]}"
    else:
        what = "the same tokens, but text is cut up by other rules"
    raise UserError(
        f"student and teacher have different tokenizers ({what}), so their distributions cannot be "
        "compared; use a teacher with the student's tokenizer, or mode: sequence, which passes text"
    )


class Distill:
    """Distillation objective: (1 - h) * `divergence` + h * -log p(target) per target (+ w *
    hidden-state distance), h = hard_weight.

    The teacher is frozen and belongs to the objective; a `CachedBatch` needs none. The hidden
    states compared are the inputs of the output projection, the student's mapped to the teacher's
    size by a trained projection, the companion "projection": the mean square over the teacher's
    channels. Padding rows of both vocabularies beyond `vocab_size` are ignored. At most `chunk`
    positions' logits exist at a time, in both passes.
    Source: Hinton et al., arXiv:1503.02531; hidden states: Jiao et al., TinyBERT, arXiv:1909.10351,
    eq. 8.
    Tested against: torch's kl_div on whole logits and trl's GKDTrainer, loss and gradients.
    """

    def __init__(
        self,
        config: DistillConfig,
        teacher: CausalLM | None,
        *,
        vocab_size: int,
        hidden_size: int,
        chunk: int = 1024,
    ) -> None:
        self.config = config
        self.teacher = None if teacher is None else freeze(teacher)
        self.vocab_size = vocab_size
        self.chunk = chunk
        self.projection: Linear | None = None
        if config.hidden_weight:
            if teacher is None:
                raise UserError("hidden_weight needs the teacher itself; leave top_k out")
            self.projection = Linear(hidden_size, teacher.config.hidden_size)
            nn.init.normal_(self.projection.weight, std=hidden_size**-0.5)

    @property
    def companions(self) -> Mapping[str, nn.Module]:
        """The projection, if hidden states are matched."""
        return {} if self.projection is None else {"projection": self.projection}

    def __call__(self, model: CausalLM, batch: Any) -> ObjectiveOutput:
        """Compute the loss of a batch: a `TokenBatch`, a `CachedBatch`, or a `RolloutBatch` of the
        student's answers.
        """
        config = self.config
        documents = getattr(batch, "documents", None)
        wanted = (batch.targets.reshape(-1) != IGNORE).nonzero().squeeze(1)
        targets = batch.targets.reshape(-1)[wanted]
        auxiliary = Auxiliary()
        lengths = read_lengths(batch.targets) if documents is None else None
        hidden = model.hidden_states(
            batch.ids, documents=documents, lengths=lengths, auxiliary=auxiliary
        )
        student = hidden.reshape(-1, hidden.shape[-1])[wanted]
        teacher = (
            None if isinstance(batch, CachedBatch) else self._ask(model, batch, documents, wanted)
        )
        soft = student.new_zeros(
            (), dtype=torch.float64 if student.dtype == torch.float64 else torch.float32
        )
        hard = soft
        for first in range(0, len(wanted), self.chunk):
            part = slice(first, first + self.chunk)
            # made again in the backward pass, so that no more than one part's logits ever exist
            one, other = checkpoint(
                self._part,
                model,
                student[part],
                targets[part],
                self._said(batch, teacher, wanted[part], part),
                use_reentrant=False,
            )
            soft, hard = soft + one, hard + other
        weight = len(wanted)
        metrics: dict[str, tuple[Number, Number]] = {
            **getattr(batch, "metrics", {}), "divergence": (soft.detach(), weight)
        }  # fmt: skip
        loss = (1 - config.hard_weight) * soft
        if config.hard_weight:
            metrics["hard_loss"] = (hard.detach(), weight)
            loss = loss + config.hard_weight * hard
        if self.projection is not None:
            assert teacher is not None
            distance = ((self.projection(student) - teacher) ** 2).mean(dim=-1).to(soft.dtype).sum()
            metrics["hidden_distance"] = (distance.detach(), weight)
            loss = loss + config.hidden_weight * distance
        # every parameter gets a gradient, also where a rank's batch has no target
        output = ObjectiveOutput(loss + 0.0 * hidden.sum(), weight, metrics)
        return with_auxiliary(output, auxiliary)

    @torch.no_grad()
    def _ask(self, model: CausalLM, batch: Any, documents: Tensor | None, wanted: Tensor) -> Tensor:
        if self.teacher is None:
            raise UserError("there is no teacher, and the batch brings nothing that one has said")
        assert self.teacher is not model, "the teacher must not be the student"
        hidden = self.teacher.hidden_states(batch.ids, documents=documents)
        return hidden.reshape(-1, hidden.shape[-1])[wanted]

    def _said(
        self, batch: Any, teacher: Tensor | None, wanted: Tensor, part: slice
    ) -> tuple[Tensor, ...]:
        """The teacher's final hidden states at the positions of a part, or its cached tokens."""
        if isinstance(batch, CachedBatch):
            k = batch.top_ids.shape[-1]
            ids, scores = batch.top_ids, batch.top_log_probs
            return ids.reshape(-1, k)[wanted], scores.reshape(-1, k)[wanted]
        assert teacher is not None
        return (teacher[part],)

    def _part(
        self, model: CausalLM, student: Tensor, targets: Tensor, said: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Summed divergence and next-token loss of the positions of a part."""
        config = self.config
        logits = model.logits(student)[:, : self.vocab_size]
        how: dict[str, Any] = {
            "kind": config.divergence,
            "temperature": config.temperature,
            "js_beta": config.js_beta,
        }
        if len(said) == 2:
            soft = top_divergence(logits, *said, **how)
        else:
            assert self.teacher is not None
            with torch.no_grad():
                theirs = self.teacher.logits(said[0])[:, : self.vocab_size]
            soft = divergence(logits, theirs, **how)
        wide = soft.dtype
        hard = soft.new_zeros(())
        if config.hard_weight:
            hard = F.cross_entropy(logits.to(wide), targets, reduction="sum")
        return soft.sum(), hard
