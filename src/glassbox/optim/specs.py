"""The union of all optimizer specs; a new optimizer is its own file and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from glassbox.optim.adafactor import AdafactorConfig
from glassbox.optim.adamw import AdamWConfig
from glassbox.optim.lion import LionConfig
from glassbox.optim.muon import MuonConfig
from glassbox.optim.python_optimizer import PythonOptimizer
from glassbox.optim.sgd import SgdConfig, SgdDecayConfig

OptimizerConfig = Annotated[
    AdamWConfig
    | MuonConfig
    | SgdConfig
    | SgdDecayConfig
    | LionConfig
    | AdafactorConfig
    | PythonOptimizer,
    Field(discriminator="kind"),
]
