"""Exercises of lesson 1: characters and a bigram model."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(
    1, "bigram", Both("Characters to ids, and a bigram model", "从字符到编号，再到二元模型")
)
