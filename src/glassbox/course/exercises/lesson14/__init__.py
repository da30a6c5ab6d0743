"""Exercises of lesson 14: scaling."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(14, "scaling", Both("Scaling", "规模扩展"))
