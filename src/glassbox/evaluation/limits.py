"""How much of an evaluation is carried out."""

from __future__ import annotations

from pydantic import Field

from glassbox.core.config import Spec


class Limits(Spec):
    """Maximum number of items of each task; 0: all."""

    documents: int = Field(0, ge=0)
    unseen: int = Field(0, ge=0)
    questions: int = Field(0, ge=0)
    preferences: int = Field(0, ge=0)
    arithmetic: int = Field(0, ge=0)
