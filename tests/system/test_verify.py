"""`glassbox verify`: every planted bug is called one, by where it shows first; layouts without bugs never."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glassbox.cli.main import main
from support.parallel_bugs import BUGS, CLEAN
from system.test_training_ranks import torchrun

SHOWS_IN = {
    "loss divided by the rank's own weight": "loss",
    "gradients averaged over ranks": "gradient.embedding.weight (0.5 times",
    "shards' gradients averaged": "gradient.embedding.weight (0.5 times",
    "updated rows are not gathered": "weight.",
    "weight decay is lost": "weight.",
    "norm of the rank's own shard": "norm of all gradients",
    "undivided weights counted on every rank": "norm of all gradients",
    "parts of matrices orthogonalized": "weight.blocks.0.mixer.qkv.weight",
    "weights drawn by another seed on each rank": "initial.",
    "router statistics of one rank": "buffer.blocks.1.ffn.balance_bias",
    "losses of layers are lost": "loss",
    "shares of a norm's gradient not summed": "gradient.blocks.0.mixer.q_norm.weight",
    "bias added on every rank": "loss",
    "q, k and v divided as one": "initial.blocks.0.mixer.qkv.weight",
    "ids of other ranks looked up": "loss",
    "softmax over the rank's own vocabulary": "loss",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("bugs")
    torchrun(2, "parallel_bugs.py", folder)
    found: dict[str, dict[str, Any]] = json.loads((folder / "verdicts.json").read_text())
    return found


@pytest.mark.parametrize("case", [f"{case} {name}" for case, name in CLEAN])
def test_a_layout_without_bugs_is_rounding(said: dict[str, dict[str, Any]], case: str) -> None:
    """With room: the worst error is a quarter of its bound or less."""
    assert said["clean"][case]["verdict"] == "rounding"
    assert said["clean"][case]["ratio"] < 0.25


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_called_one(said: dict[str, dict[str, Any]], name: str) -> None:
    assert said["bugs"][name]["verdict"].startswith(f"bug in {SHOWS_IN.get(name, 'gradient.')}")


def test_the_command_verifies_four_ranks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["data.path=none.txt", "model.num_layers=2", "model.hidden_size=24", "model.ffn_size=20",
             "model.num_heads=4", "model.num_kv_heads=2", "tokenizer.vocab_size=301",
             "parallel.checkpoint=full"]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "verify",
                "pretrain.yaml",
                *words,
                "--layouts",
                "dp2xtp2,fsdp2xtp2,dp2xfsdp2",
                "--json",
            ]
        )
    assert stopped.value.code in (0, None)
    found = json.loads(capsys.readouterr().out)
    assert [one["layout"] for one in found] == ["dp2xtp2", "fsdp2xtp2", "dp2xfsdp2"]
    assert all(one["verdict"] == "rounding" and one["ranks"] == 4 for one in found)
    names = {quantity["name"] for quantity in found[1]["quantities"]}
    assert {"loss", "norm of all gradients", "gradient.embedding.weight"} <= names
    assert all(q["is_rounding"] for one in found for q in one["quantities"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layouts", "pp2"], "layout 'pp2'"),
        (["model.num_kv_heads=1", "--layouts", "tp2"], "does not divide num_kv_heads = 1"),
        (["stage=grpo"], "stage"),
    ],
)
def test_what_cannot_be_verified_is_named(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["verify", "pretrain.yaml", "data.path=none.txt", *words])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
