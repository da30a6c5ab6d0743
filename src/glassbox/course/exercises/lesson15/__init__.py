"""Exercises of lesson 15: fine-tuning."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(15, "fine_tuning", Both("Fine-tuning, LoRA, QLoRA", "微调、LoRA、QLoRA"))
