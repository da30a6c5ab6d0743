"""A data set by its hub name, over a connection that breaks: every row once, streamed or fetched first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.pretend_hub import NAME, pretend_hub

ROWS = [{"text": f"document {n} " + "word " * 60, "n": n} for n in range(2500)]


def curate(hub: str, home: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "glassbox", "data", "curate", "curate-web.yaml", "steps=[]", "workers=1",
         f"source={{kind: dataset, name: {name}}}", f"out={home / 'out'}", *words],
        env={**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"},
        cwd=home, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip


@pytest.mark.parametrize("streaming", [True, False])
def test_every_row_comes_once_over_a_connection_that_breaks(
    tmp_path: Path, streaming: bool
) -> None:
    data = "\n".join(map(json.dumps, ROWS)).encode()
    with pretend_hub({"train.jsonl": data}, cuts=1) as hub:
        source = f"source={{kind: dataset, name: {NAME}, streaming: {str(streaming).lower()}}}"
        said = curate(hub.address, tmp_path, NAME, source)
        assert hub.cuts == 0
    assert said.returncode == 0, said.stderr
    files = sorted((tmp_path / "out" / "documents").iterdir())
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert [row["text"] for row in found] == [row["text"] for row in ROWS]
    assert [row["id"] for row in found] == [f"{NAME}/train:{n}" for n in range(1, 2501)]


def test_a_name_that_the_hub_does_not_know_is_told(tmp_path: Path) -> None:
    with pretend_hub({}) as hub:
        said = curate(hub.address, tmp_path, "me/other")
    assert said.returncode == 2
    assert "data set 'me/other' cannot be opened" in said.stderr
    assert "Traceback" not in said.stderr
