"""Alarms of a run: pure detectors over its stream of figures, each with its thresholds stated."""

from glassbox.training.alarms.alarms import Alarms, AlarmsConfig
from glassbox.training.alarms.base import Alarm, Detector

__all__ = ["Alarm", "Alarms", "AlarmsConfig", "Detector"]
