"""Exercises of lesson 6: a GPT."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(6, "gpt", Both("A GPT in 100, 200 and 300 lines", "100、200、300 行写一个 GPT"))
