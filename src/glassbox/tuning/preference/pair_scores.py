"""Log-probabilities and lengths of answers, and the metrics of preference objectives."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.protocols import Number


@dataclass(frozen=True)
class AnswerScores:
    """log p(answer) of B answers, summed over their tokens, and how many tokens those are."""

    sums: Float[Tensor, " B"]
    lengths: Float[Tensor, " B"]

    @property
    def means(self) -> Float[Tensor, " B"]:
        """Mean log p per token; 0 for an empty answer."""
        return self.sums / self.lengths.clamp(min=1)


def answer_lengths(targets: Int[Tensor, "R T"]) -> Int[Tensor, " R"]:
    """Number of scored targets of each row."""
    return (targets != IGNORE).sum(dim=-1)


def pair_metrics(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"]
) -> dict[str, tuple[Number, Number]]:
    """Rewards of both answers, their margin, and the share of pairs with a positive one."""
    chosen, rejected, pairs = chosen.detach(), rejected.detach(), len(chosen)
    return {
        "reward_chosen": (chosen.sum(), pairs),
        "reward_rejected": (rejected.sum(), pairs),
        "reward_margin": ((chosen - rejected).sum(), pairs),
        "reward_accuracy": ((chosen > rejected).sum(), pairs),
    }
