"""Fine-tune a model with LoRA, merge it, serve it, and ask it over HTTP.

    python examples/finetune_then_serve.py MODEL [FOLDER]

MODEL is anything that `glassbox.load` opens, such as smollm2 or runs/quickstart. Needs the extra `serve`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import glassbox

DATA = Path(__file__).parent / "data"


def main(model: str, folder: Path, *, steps: int = 20) -> str:
    """The served model's answer to a question."""
    changes = {
        "init": model, "data.path": str(DATA / "chats.jsonl"), "out": str(folder / "lora"),
        "train.steps": steps, "train.schedule.warmup_steps": 2, "adapter.rank": 4,
        "data.row_length": 256, "data.rows_per_step": 4,
    }  # fmt: skip
    glassbox.run_recipe("lora.yaml", changes)
    glassbox.convert(folder / "lora", folder / "merged", dtype="f32")

    command = [sys.executable, "-m", "glassbox", "serve", str(folder / "merged"), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert server.stdout is not None
    try:
        address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+:\d+", line)))  # fmt: skip
        body = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 20}
        request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(json.load(answer)["choices"][0]["message"]["content"])
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    print(main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())))
