"""Exercises of lesson 12: linear attention."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(12, "linear_attention", Both("Linear attention", "线性注意力"))
