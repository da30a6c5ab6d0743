"""Linear probes: what can be read off a layer with a linear map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.errors import UserError


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression on standardized features: softmax(W (x - mean) / scale + b)."""

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]
    mean: Float[Tensor, " D"]
    scale: Float[Tensor, " D"]

    def logits(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        """Scores of the classes."""
        return F.linear((features.to(self.mean) - self.mean) / self.scale, self.weight, self.bias)

    def accuracy(self, features: Float[Tensor, "N D"], labels: Int[Tensor, " N"]) -> float:
        """Share of labels that have the highest score."""
        right = self.logits(features).argmax(-1) == labels.to(self.mean.device)
        return float(right.double().mean())


def linear_probe(
    features: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    *,
    num_classes: int | None = None,
    l2: float = 1.0,
    steps: int = 200,
) -> LinearProbe:
    """Train a probe: minimize sum of -log p(label) + l2 / 2 |W|^2 by L-BFGS in float64.

    Features are standardized by their own mean and deviation. The optimum is the only one.
    Raises UserError for features without rows or of other length than the labels.
    Source: Alain and Bengio, arXiv:1610.01644. Tested against: scikit-learn's LogisticRegression.
    """
    if len(features) == 0 or len(features) != len(labels):
        raise UserError(
            f"features have {len(features)} rows, labels {len(labels)}; give one label a row"
        )
    x = features.detach().double()
    labels = labels.to(x.device)
    mean, scale = x.mean(0), x.std(0, unbiased=False)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    x = (x - mean) / scale
    count = int(labels.max()) + 1 if num_classes is None else num_classes
    weight = torch.zeros(count, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(count, dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=steps,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), labels, reduction="sum")
        loss = loss + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return LinearProbe(weight.detach(), bias.detach(), mean, scale)


def probe_layers(
    train: Float[Tensor, "L N D"],
    train_labels: Int[Tensor, " N"],
    test: Float[Tensor, "L M D"],
    test_labels: Int[Tensor, " M"],
    *,
    l2: float = 1.0,
) -> list[float]:
    """Of each layer the accuracy on `test` of a probe trained on `train`: at which depth it is known.

    Features as `residual_stream` gives them, one position a text. Compare with the share of the
    commonest label.
    """
    count = int(max(train_labels.max(), test_labels.max())) + 1
    found = []
    for layer, other in zip(train, test, strict=True):
        probe = linear_probe(layer, train_labels, num_classes=count, l2=l2)
        found.append(probe.accuracy(other, test_labels))
    return found
