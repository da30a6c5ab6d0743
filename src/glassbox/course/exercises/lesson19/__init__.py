"""Exercises of lesson 19: evaluation."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(19, "evaluation", Both("Evaluation", "评测"))
