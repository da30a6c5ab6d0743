"""Exercises of lesson 18: reasoning and tools."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(18, "reasoning", Both("Reasoning and tools", "推理与工具"))
