"""A grader with every vice, importable from another process."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any


def vicious(completion: str, problem: Mapping[str, Any]) -> float:
    """The completion's length, unless it is one of the words."""
    if completion == "hang":
        time.sleep(600)
    if completion == "crash":
        os._exit(3)
    if completion == "flood":
        print("x" * 1_000_000)
    if completion == "raise":
        raise KeyError("x")
    return float(len(completion))
