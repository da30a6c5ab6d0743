"""Look inside a model: record and change its inner values, and what the field computes of them."""

from glassbox.inspection.recording import Inspection, Pass, inspect
from glassbox.inspection.sites import names

__all__ = ["Inspection", "Pass", "inspect", "names"]
