"""Pages of documentation as what a reader would do with them: their blocks, run in order, small.

A fenced block in `sh` holds commands, one in `python` code. Blocks of one page share a folder, in which
the files of examples/data/, a tiny quickstart run (`runs/quickstart`) and a tiny model under the
name `smollm2` are at hand. Training commands are made small by further key=value words (`SMALL`).

An HTML comment on the line before a block gives directions that readers do not see:

    <!-- run: skip REASON -->         the block is not run; skipped blocks are counted by a test
    <!-- run: with a=b c=d -->        words added to each command of the block
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassbox.core.config import load_recipe
from glassbox.runs.recipe import recipe_folders

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"(?:^<!-- run: (?P<direction>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<language>[\w+-]*)[^\n]*\n"
    r"(?P<text>.*?)^(?P=indent)```[ ]*$",
    flags=re.DOTALL | re.MULTILINE,
)

TRAIN = ["train.steps=2", "train.schedule.warmup_steps=0", "train.checkpoint_every=0"]
LENGTHS = ["data.row_length=96", "data.rows_per_step=2"]
SMALL: dict[str, list[str]] = {
    "pretrain": [*TRAIN, *LENGTHS, "tokenizer.vocab_size=320", "model.context_length=128",
                 "evaluation.every=0", "evaluation.sample_every=0"],
    "sft": [*TRAIN, "data.row_length=128", "data.rows_per_step=2"],
    "preference": [*TRAIN, "data.pairs_per_step=4", "data.max_length=128"],
    "dpo": [*TRAIN, "data.pairs_per_step=4", "data.max_length=128"],
    "reward": [*TRAIN, "data.pairs_per_step=4", "data.max_length=128"],
    "distill": [*TRAIN, "data.row_length=128", "data.rows_per_step=2"],
    **{
        method: [*TRAIN, f"{method}.prompts_per_step=2", f"{method}.group_size=2",
                 f"{method}.max_tokens=20"]
        for method in ("grpo", "rloo", "ppo")
    },
}  # fmt: skip
"""Words that make a stage take seconds."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    direction: str = ""

    @property
    def skipped(self) -> str | None:
        """The reason why it is not run."""
        return self.direction.removeprefix("skip ") if self.direction.startswith("skip ") else None

    @property
    def words(self) -> list[str]:
        """What is added to each command."""
        return shlex.split(self.direction[5:]) if self.direction.startswith("with ") else []

    def commands(self) -> list[str]:
        """One a line; a line that ends in a backslash goes on."""
        joined = self.text.replace("\\\n", " ")
        lines = (re.sub(r"\s+#\s.*$", "", line).strip() for line in joined.splitlines())
        return [line.removeprefix("$ ") for line in lines if line and not line.startswith("#")]


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page of the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found["language"],
            re.sub(f"^{found['indent']}", "", found["text"], flags=re.MULTILINE),
            found["direction"] or "",
        )
        for found in FENCE.finditer(text)
    ]


def runnable(page: str) -> list[Block]:
    """The blocks of commands and of Python."""
    return [block for block in blocks(page) if block.language in ("sh", "python")]


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_block(block: Block, folder: Path) -> None:
    """Run a block in `folder`. Raises AssertionError with what it said where it fails."""
    with inside(folder):
        if block.language == "python":
            run_python(block)
            return
        for command in block.commands():
            run_command(command, block)


def run_python(block: Block) -> None:
    """Execute code in a namespace of its own."""
    code = compile("\n" * block.line + block.text, block.page, "exec")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, {"__name__": "__main__"})


def run_command(command: str, block: Block) -> None:
    """Run one command as a reader's shell would, but in this process where it is ours."""
    where = f"{block.page}:{block.line}: {command}"
    words = shlex.split(command)
    if words[0] == "cp":
        subprocess.run(command, shell=True, check=True, cwd=Path.cwd())
    elif words[0] in ("pip", "uv", "make", "git", "cd", "source", "export", "docker", "npm"):
        raise AssertionError(f"{where}: give the block a direction (skip, with the reason)")
    elif words[0] in ("torchrun", "python"):
        program = (
            [sys.executable, "-m", "torch.distributed.run"]
            if words[0] == "torchrun"
            else [sys.executable]
        )
        run_apart([*program, *words[1:], *small(words), *block.words], where)
    elif words[:2] == ["glassbox", "serve"]:
        serve([*words[1:], *block.words], where)
    elif words[0] == "glassbox":
        run_glassbox([*words[1:], *small(words), *block.words], where)
    else:
        raise AssertionError(f"{where}: what is '{words[0]}'?")


def small(words: list[str]) -> list[str]:
    """What makes a training command take seconds."""
    if "train" not in words or "tokenizer" in words or "recommend" in words:
        return []
    recipe = words[words.index("train") + 1]
    raw = load_recipe(recipe, search=recipe_folders())
    given = {word.partition("=")[0] for word in words if "=" in word}
    shape: list[str] = []
    if raw["stage"] == "pretrain" and raw.get("model", {}).get("kind", "llama") != "blocks":
        shape = ["model.hidden_size=32", "model.num_layers=1", "model.num_heads=2",
                 "model.num_kv_heads=1", "model.ffn_size=64"]  # fmt: skip
    return [w for w in [*SMALL[raw["stage"]], *shape] if w.partition("=")[0] not in given]


def run_glassbox(words: list[str], where: str) -> None:
    """A command of ours, in this process: starting Python and torch would take longer than most."""
    from glassbox.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    stdin = sys.stdin
    sys.stdin = io.StringIO("Hello there\n/quit\n")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(words)
            except SystemExit as done:
                code = done.code
    finally:
        sys.stdin = stdin
    assert not code, f"{where}: exit code {code}\n{out.getvalue()[-2000:]}{err.getvalue()[-4000:]}"


def run_apart(command: list[str], where: str) -> None:
    """A command in a process of its own."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, f"{where}: exit code {done.returncode}\n{done.stderr[-4000:]}"


def serve(words: list[str], where: str) -> None:
    """Start the server on a free port, wait until it is healthy, stop it as a service manager does."""
    if "--port" in words:
        del words[words.index("--port") : words.index("--port") + 2]
    code = "import sys; from support.documents import served; served(sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    said = ""
    try:
        assert process.stdout is not None
        address = None
        while address is None:
            line = process.stdout.readline()
            assert line, f"{where}: the server ended\n{said}"
            said += line
            found = re.search(r"http://[\w.]+:(\d+)", line)
            address = found and f"http://127.0.0.1:{found[1]}"
        for _ in range(200):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                if urllib.request.urlopen(f"{address}/health", timeout=5).status == 200:
                    break
            time.sleep(0.1)
        else:
            raise AssertionError(f"{where}: never healthy\n{said}")
        process.terminate()
        assert process.wait(60) == 0, f"{where}: exit code {process.returncode}\n{said}"
    finally:
        process.kill()
        process.wait()


def served(words: list[str]) -> None:
    """In the server's process: the tiny model has the name here, too."""
    from glassbox.cli.main import main

    name_tiny_model(Path(os.environ["GLASSBOX_TINY_MODEL"]))
    main(words)


def name_tiny_model(file: Path) -> None:
    """Let `smollm2` be a tiny model, for the commands of the documentation."""
    from glassbox.formats import open_model

    open_model.offline_file = lambda name: file  # type: ignore[assignment]
