"""A preference loss of your own: DPO with a margin that grows with the difference in length.

    glassbox train preference.yaml init=MODEL data.path=pairs.jsonl out=runs/own \
        loss.kind=python loss.path=examples/my_preference_loss.py:length_aware loss.options='{beta: 0.2}'
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from glassbox.tuning.preference.python_loss import Answers


def length_aware(
    chosen: Answers, rejected: Answers, *, beta: float = 0.1, per_token: float = 0.01
) -> Tensor:
    """-log sigmoid(beta (r_chosen - r_rejected) - a (n_chosen - n_rejected)): longer must be better still."""
    longer = (chosen.lengths - rejected.lengths).clamp(min=0)
    return -F.logsigmoid(beta * (chosen.ratio - rejected.ratio) - per_token * longer)
