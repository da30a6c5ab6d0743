"""Stories of a world by running numbers, each with its text."""

from __future__ import annotations

import random

from glassbox.data.storyworld import build_world
from glassbox.data.storyworld.choice import Sampler
from glassbox.data.storyworld.programs import write_story


def stories(config, count=300, mode="exclude"):
    world = build_world(config, mode)
    for seed in range(count):
        sampler = Sampler(random.Random(seed))
        story = write_story(world, sampler)
        yield story, sampler.text
