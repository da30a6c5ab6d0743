"""Exercises of lesson 9: sampling."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(9, "sampling", Both("Sampling", "采样"))
