"""Exercises of lesson 7: GPT-2 and its published weights."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(7, "gpt2", Both("GPT-2 124M, part by part", "从零件到 GPT-2 124M"))
