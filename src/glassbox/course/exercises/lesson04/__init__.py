"""Exercises of lesson 4: data."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(4, "data", Both("Data", "数据"))
