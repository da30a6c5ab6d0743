"""Exercises of lesson 20: inference."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(20, "inference", Both("Inference", "推理"))
