"""Exercises of lesson 16: reinforcement learning and preferences."""

from __future__ import annotations

from glassbox.course.exercise import Lesson
from glassbox.course.language import Both

LESSON = Lesson(
    16,
    "reinforcement",
    Both("Reward models, PPO, DPO, GRPO and GSPO", "奖励模型、PPO、DPO、GRPO 与 GSPO"),
)
