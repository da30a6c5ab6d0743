"""Learning-rate schedules: pure functions of the step, so that nothing needs saving."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from glassbox.optim.schedules.constant import Constant
from glassbox.optim.schedules.warmup_cosine import WarmupCosine
from glassbox.optim.schedules.warmup_linear import WarmupLinear

__all__ = ["Constant", "Schedule", "WarmupCosine", "WarmupLinear"]

Schedule = Annotated[WarmupCosine | WarmupLinear | Constant, Field(discriminator="kind")]
