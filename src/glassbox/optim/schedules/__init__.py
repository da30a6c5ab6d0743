"""Learning-rate schedules: pure functions of the step, so they have no state to save."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from glassbox.optim.schedules.constant import Constant
from glassbox.optim.schedules.cosine_restarts import CosineRestarts
from glassbox.optim.schedules.inverse_root import InverseRoot
from glassbox.optim.schedules.python_schedule import PythonSchedule
from glassbox.optim.schedules.warmup_cosine import WarmupCosine
from glassbox.optim.schedules.warmup_linear import WarmupLinear
from glassbox.optim.schedules.warmup_stable_decay import WarmupStableDecay

Schedule = Annotated[
    WarmupCosine
    | WarmupLinear
    | Constant
    | WarmupStableDecay
    | InverseRoot
    | CosineRestarts
    | PythonSchedule,
    Field(discriminator="kind"),
]
