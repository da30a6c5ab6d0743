"""Exercises of lesson 2: byte pair encoding and its relatives."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(2, "bpe", Both("Byte pair encoding", "字节对编码"))
