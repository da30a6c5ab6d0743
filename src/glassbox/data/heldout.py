"""Held-out split: a seeded share of the prompts, independent of their order in the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from glassbox.core.seeding import derive_seed


class Split(NamedTuple):
    """Numbers of the examples that are trained on, and of those held out."""

    train: list[int]
    heldout: list[int]


def split_heldout(prompts: Sequence[Any], share: float, seed: int) -> Split:
    """Hold out about `share` of the examples: those whose prompt has a hash in [0, 1) below it.

    The hash depends on the prompt (any JSON value) and the seed only, so that all examples of a
    prompt are on the same side, whatever their order and the other examples. If no hash is below
    `share`, the prompt with the lowest hash is held out; with a single prompt, none.

    >>> split_heldout(["a", "a", "b", "c"], 0.3, 0)
    Split(train=[0, 1, 3], heldout=[2])
    """
    places = [
        derive_seed(seed, "heldout", json.dumps(prompt, sort_keys=True)) / 2**63
        for prompt in prompts
    ]
    distinct = sorted(set(places))
    numbers = range(len(prompts))
    if share <= 0 or len(distinct) < 2:
        return Split(list(numbers), [])
    below = [place for place in distinct if place < share] or distinct[:1]
    last = below[-1] if len(below) < len(distinct) else distinct[-2]
    train = [number for number in numbers if places[number] > last]
    return Split(train, [number for number in numbers if places[number] <= last])
