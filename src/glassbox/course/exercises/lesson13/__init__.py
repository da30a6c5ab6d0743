"""Exercises of lesson 13: sparse attention."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(13, "sparse_attention", Both("Sparse attention", "稀疏注意力"))
