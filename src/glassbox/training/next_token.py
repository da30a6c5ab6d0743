"""Next-token prediction: the objective of pre-training, and of SFT, whose targets are masked."""

from __future__ import annotations

from glassbox.data.loader import TokenBatch
from glassbox.layers.context import Auxiliary
from glassbox.models.causal_lm import CausalLM
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.auxiliary import with_auxiliary
from glassbox.training.protocols import ObjectiveOutput


class NextToken:
    """-sum log p(target) over the targets that are not IGNORE; the weight is how many there are.

    Documents packed into a row do not see each other. Losses that layers have of their own (experts'
    balance) are added by `with_auxiliary`. Tested against: transformers' loss on the
    same documents apart, and trl's SFT loss.
    """

    def __call__(self, model: CausalLM, batch: TokenBatch) -> ObjectiveOutput:
        """Loss of one packed batch, the logits made chunk by chunk."""
        auxiliary = Auxiliary()
        hidden = model.hidden_states(batch.ids, documents=batch.documents, auxiliary=auxiliary)
        weight = (batch.targets != IGNORE).sum()
        loss = model.cross_entropy(hidden, batch.targets)
        loss, metrics = with_auxiliary(loss, weight, auxiliary)
        return ObjectiveOutput(loss, weight, metrics)
