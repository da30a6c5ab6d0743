"""Exercises of lesson 3: embeddings and positions."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(3, "positions", Both("Embeddings and positions", "嵌入与位置"))
