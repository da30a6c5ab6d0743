"""Built-in tasks ask what lm-evaluation-harness asks, byte for byte: its requests on 20 rows a task.

The record was made by lm_eval 0.4.13 from its own task files (`support/harness.py`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glassbox.evaluation.tasks.catalogue import Catalogue
from glassbox.evaluation.tasks.documents import Data
from glassbox.evaluation.tasks.task import ChatSettings
from support.harness import RECORD, VARIANTS, digest, render_chat, variants, write_rows
from support.harness_rows import TASKS

BUILTIN = Catalogue.builtin()
RECORDED = json.loads(RECORD.read_text(encoding="utf-8"))


def our_render(messages: list[dict[str, str]], *, go_on: bool) -> str:
    return render_chat(messages, add_generation_prompt=not go_on)


@pytest.mark.parametrize("name", TASKS)
def test_requests_are_the_same(name: str, tmp_path: Path) -> None:
    write_rows(tmp_path, name)
    assert list(RECORDED[name]) == variants(name)
    for variant, recorded in RECORDED[name].items():
        options = VARIANTS[variant]
        count = options.get("num_fewshot", 0)
        task = BUILTIN.tasks[name].build(Data(tmp_path), num_fewshot=count)
        chat = (
            ChatSettings(our_render, bool(options.get("multiturn")))
            if options.get("chat")
            else None
        )
        items = task.items(system=options.get("system"), chat=chat)
        requests = [list(one.arguments) for item in items for one in item.requests]
        assert requests[0] == recorded["first"], variant
        assert [digest(one) for one in requests] == recorded["digests"], variant
