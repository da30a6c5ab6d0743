"""Exercises of lesson 17: distillation."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(17, "distillation", Both("Distillation", "蒸馏"))
