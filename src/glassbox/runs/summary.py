"""The quickstart's summary: the table of results, a short chat, and next steps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console

from glassbox.formats.open_model import open_model
from glassbox.inference import ChatSession, Engine, SamplingParams
from glassbox.reports.table import comparison_table

QUESTIONS = {
    "en": (
        "Who are you?",
        "Tell me a story about a fox named Sam and a lantern.",
        "Anna had 7 plums. Then she found 5 more. She gave 4 to Tom. How many plums did Anna have then?",
    ),
    "zh": (
        "你是谁？",
        "请讲一个关于狐狸和灯笼的故事。",
        "小明有7个苹果，又买了5个，送给小红4个。他还有几个苹果？",
    ),
}


def print_next_steps(out: str) -> None:
    """Print the results of a finished quickstart to standard output."""
    folder = Path(out)
    evaluations = json.loads((folder / "evaluations.json").read_text(encoding="utf-8"))
    print()
    Console().print(comparison_table(evaluations))
    model, tokenizer, _ = open_model(folder)
    if len(evaluations) > 1:
        language = json.loads((folder / "corpus" / "manifest.json").read_text("utf-8"))["language"]
        session = ChatSession(
            Engine(model.eval(), tokenizer),
            tokenizer,
            params=SamplingParams(max_tokens=200, temperature=0.0),
        )
        print("\nA short chat with it:\n")
        for question in QUESTIONS[language]:
            print(f"  you    {question}")
            answer = "".join(session.send(question))
            print("  model  " + answer.replace("\n", "\n         ") + "\n")
            session.reset()
    else:
        (stage,) = json.loads((folder / "samples.json").read_text(encoding="utf-8")).values()
        print(f"\nWhat it writes:\n\n{stage[0]['text'].strip()}\n")
    chat = f"\n  glassbox chat {out}" if len(evaluations) > 1 else ""
    sys.stdout.write(
        f"""Everything is in {folder}; open {folder / "report.html"} in a browser. Go on with:
{chat}
  glassbox generate {out} --prompt "Once upon a time"
  glassbox studio {out}
  glassbox serve {out}
  glassbox eval {out}
  glassbox report {out}
  glassbox train recipes/pretrain/pretrain.yaml data.path=mybook.txt
"""
    )
