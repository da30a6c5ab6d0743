"""Exercises of lesson 23: looking inside."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(23, "inside", Both("Looking inside", "看进模型内部"))
