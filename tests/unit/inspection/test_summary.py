"""A text token by token, in Python and as the command prints it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from glassbox import UserError
from glassbox.cli.main import main
from glassbox.formats.huggingface import save_pretrained
from glassbox.inspection import logit_lens, token_summary
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TEXT = "Name a colour."


def test_rows_are_those_of_the_logits() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_chat_model(tokenizer).eval()
    rows = token_summary(model, tokenizer, TEXT, top=4)
    ids = [tokenizer.eos_id, *tokenizer.encode(TEXT)]
    with torch.no_grad():
        log_probs = model(torch.tensor([ids]))[0].double().log_softmax(-1)
    tops = logit_lens(model, torch.tensor([ids]))[:, 0].argmax(-1)
    assert "".join(row.text for row in rows) == TEXT
    for place, row in enumerate(rows, start=1):
        assert row.log_prob == pytest.approx(float(log_probs[place - 1, ids[place]]), abs=1e-5)
        share = log_probs[place].exp()
        assert row.entropy == pytest.approx(float(-(share * share.log()).sum()), abs=1e-5)
        assert [value for _, value in row.likeliest] == pytest.approx(
            share.topk(4).values.tolist(), abs=1e-6
        )
        depth = len(tops) - 1
        while depth and tops[depth - 1, place] == tops[-1, place]:
            depth -= 1
        assert row.depth == depth
    with pytest.raises(UserError, match="empty"):
        token_summary(model, tokenizer, "")
    with pytest.raises(UserError, match="context"):
        token_summary(model, tokenizer, TEXT * 500)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tiny_tokenizer()
    save_pretrained(tiny_chat_model(tokenizer), tmp_path / "model", tokenizer=tokenizer)
    with pytest.raises(SystemExit) as done:
        main(["inspect", str(tmp_path / "model"), TEXT, "--json", "--top", "2"])
    assert done.value.code == 0
    rows = json.loads(capsys.readouterr().out)
    assert "".join(row["text"] for row in rows) == TEXT
    assert all(len(row["likeliest"]) == 2 for row in rows)
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path / "model"), TEXT])
    table = capsys.readouterr().out
    assert "log prob" in table
    assert "layer" in table
