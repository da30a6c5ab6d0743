"""Next-token prediction: the objective of pre-training, and of SFT, whose targets are masked."""

from __future__ import annotations

from glassbox.data.loader import TokenBatch
from glassbox.layers.context import Auxiliary
from glassbox.layers.feedforward import Perceptron
from glassbox.models.causal_lm import CausalLM
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.auxiliary import with_auxiliary
from glassbox.training.protocols import ObjectiveOutput


class NextToken:
    """Cross-entropy: -sum log p(target) over targets that are not IGNORE; the weight is their number.

    With `z_loss` z, each target adds z (log sum exp logits)^2, which keeps the logits from growing
    together (PaLM, arXiv:2204.02311, section 5; there 1e-4).

    Documents packed into a row do not attend to each other. Auxiliary losses of layers (experts'
    balance) are added by `with_auxiliary`, and multi-token prediction losses if the model has modules for
    them; the metric `main_loss` is then the loss without these and without the z-loss. Tested against: transformers' loss
    on the same documents apart, and trl's SFT loss.
    """

    def __init__(self, *, z_loss: float = 0.0) -> None:
        self.z_loss = z_loss

    def in_one_graph(self, model: CausalLM) -> bool:
        """With attention and perceptrons alone, no dropout, and a loss of plain logits."""
        config = model.config
        plain_loss = not (self.z_loss or config.logit_softcap or config.head_bias or config.mtp)
        return (
            plain_loss
            and not config.dropout
            and all(
                spec.mixer.kind == "grouped_query" and isinstance(spec.ffn, Perceptron)
                for spec in config.layers()
            )
        )

    def __call__(self, model: CausalLM, batch: TokenBatch) -> ObjectiveOutput:
        """Compute the loss of one packed batch, with the logits computed in chunks."""
        auxiliary = Auxiliary()
        hidden = model.hidden_states(batch.ids, documents=batch.documents, auxiliary=auxiliary)
        weight = (batch.targets != IGNORE).sum()
        loss, penalty = model.cross_entropy_parts(hidden, batch.targets, z_loss=self.z_loss)
        future = model.future_loss(
            hidden, batch.ids, batch.targets, documents=batch.documents, auxiliary=auxiliary
        )
        output = with_auxiliary(ObjectiveOutput(loss, weight), auxiliary)
        if future is None and not self.z_loss:
            return output
        apart = {"main_loss": (loss.detach() - penalty, weight)}
        if self.z_loss:
            apart["z_loss"] = (penalty, weight)
        if future is None:
            return ObjectiveOutput(output.loss_sum, weight, {**output.metrics, **apart})
        apart["future_loss"] = (future.detach(), weight)
        return ObjectiveOutput(output.loss_sum + future, weight, {**output.metrics, **apart})
