"""Exercises of lesson 5: attention."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(5, "attention", Both("Attention", "注意力"))
