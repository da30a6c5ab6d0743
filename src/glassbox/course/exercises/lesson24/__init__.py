"""Lesson 24: music recommendation."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(24, "music", Both("Music recommendation", "音乐推荐"))
