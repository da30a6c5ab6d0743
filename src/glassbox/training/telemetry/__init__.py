"""What is seen of a model while it trains, from outside of it: activations, gradients, updates, experts."""

from glassbox.training.telemetry.config import TelemetryConfig

__all__ = ["TelemetryConfig"]
