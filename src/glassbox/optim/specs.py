"""All optimizers that a recipe can name: a new one is its own file and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from glassbox.optim.adamw import AdamWConfig
from glassbox.optim.muon import MuonConfig

OptimizerConfig = Annotated[AdamWConfig | MuonConfig, Field(discriminator="kind")]
