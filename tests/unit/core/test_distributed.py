"""How long ranks wait for each other."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from glassbox.core.distributed import process_group


def test_ranks_wait_as_long_as_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(dist, "init_process_group", lambda *words, **more: given.append(more))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with process_group("cpu", timeout_minutes=90) as group:
        assert (group.rank, group.world_size) == (1, 2)
    with process_group("cpu"):
        pass
    assert [more["timeout"] for more in given] == [timedelta(minutes=90), timedelta(minutes=60)]
