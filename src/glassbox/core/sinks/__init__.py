"""Trackers beside metrics.jsonl (`logging:` in a recipe): TensorBoard, Weights & Biases, SwanLab, Trackio."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from glassbox.core.sinks.base import TrackerSink
from glassbox.core.sinks.swanlab import SwanLab
from glassbox.core.sinks.tensorboard import TensorBoard
from glassbox.core.sinks.trackio import Trackio
from glassbox.core.sinks.wandb import WeightsAndBiases

__all__ = ["Tracker", "TrackerSink"]

Tracker = Annotated[TensorBoard | WeightsAndBiases | SwanLab | Trackio, Field(discriminator="kind")]
"""Every tracker; a new one is its own file and a line here."""
