"""Exercises of lesson 8: training by hand."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(8, "training", Both("Training by hand", "亲手训练"))
