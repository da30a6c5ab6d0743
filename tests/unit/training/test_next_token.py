"""The z-loss of the next-token objective: formula, gradient, metrics."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from glassbox.data.loader import TokenBatch
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.next_token import NextToken
from support.tiny_run import tiny_model


def test_z_loss_is_the_formula_with_its_gradient() -> None:
    model = tiny_model().double()
    ids = torch.randint(32, (3, 9), generator=torch.Generator().manual_seed(2))
    targets = ids.roll(-1, 1).clone()
    targets[:, ::3] = IGNORE
    batch = TokenBatch(ids, targets, torch.zeros_like(ids))
    z = 0.05
    output = NextToken(z_loss=z)(model, batch)
    ours = torch.autograd.grad(output.loss_sum, list(model.parameters()))
    logits = model(ids, documents=batch.documents)
    kept = targets != IGNORE
    plain = F.cross_entropy(logits[kept], targets[kept], reduction="sum")
    penalty = z * logits[kept].logsumexp(-1).square().sum()
    theirs = torch.autograd.grad(plain + penalty, list(model.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(output.loss_sum, plain + penalty)
    values = {name: pair[0] for name, pair in output.metrics.items()}
    torch.testing.assert_close(values["main_loss"], plain.detach())
    torch.testing.assert_close(values["z_loss"], penalty.detach())
    assert float(penalty) > 0.1
    assert NextToken()(model, batch).metrics == {}
