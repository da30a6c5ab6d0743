"""Exercises of lesson 22: a server."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(22, "server", Both("A server", "服务器"))
