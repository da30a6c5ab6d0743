"""The quickstart: corpus, tokenizer, pre-training, chat, preferences and arithmetic in one command.

Every step writes its files to the run folder and is skipped if they exist, so that an interrupted
quickstart resumes and gives bit-identical results.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from glassbox.core.config import load_recipe, merge, parse
from glassbox.core.errors import UserError
from glassbox.core.files import write_json
from glassbox.core.progress import ProgressLine, format_seconds
from glassbox.core.runs import PREPARED, RunFolder, stamp
from glassbox.data.sources import is_named
from glassbox.data.storyworld import write_corpus
from glassbox.data.text import find_corpus
from glassbox.evaluation.storyworld import evaluate_story_world
from glassbox.evaluation.text import evaluate_text
from glassbox.formats.open_model import open_on
from glassbox.reports.report import write_report
from glassbox.runs.recipe import parse_recipe, recipe_folders
from glassbox.runs.samples import sample_stage
from glassbox.runs.shards import heldout_documents, prepare_tokenizer
from glassbox.runs.stages.base import StageRecipe
from glassbox.runs.stages.quickstart import QuickstartRecipe, StageChange
from glassbox.runs.stages.text import TextData
from glassbox.runs.tokenize import tokenize_corpus
from glassbox.runs.train import run_recipe
from glassbox.tokenizers import Tokenizer

TRAINING_STAGES = ("pretrain", "sft", "dpo", "grpo")
LEAVES = (
    "recipe.yaml", "environment.json", PREPARED, "quickstart.json", "evaluations.json",
    "samples.json", "report.html", "corpus", "tokenizer", "tokens", *TRAINING_STAGES,
)  # fmt: skip
"""What a quickstart makes in its folder."""
TITLES = {
    "corpus": "Story world",
    "tokenizer": "Tokenizer",
    "tokens": "Encoding",
    "pretrain": "Pre-training",
    "sft": "Supervised fine-tuning",
    "dpo": "Preference alignment (DPO)",
    "grpo": "Verifiable rewards (GRPO)",
    "report": "Report",
}


class Quickstart:
    """Carries out the quickstart, step by step."""

    def __init__(self, recipe: QuickstartRecipe) -> None:
        self.recipe = recipe
        self.out = Path(recipe.out)
        self.corpus = self.out / "corpus"
        self.world = recipe.source == "storyworld"
        self.titles = {**TITLES, "corpus": _corpus_title(recipe)}
        self.journal = self.out / "quickstart.json"
        self.stages: list[dict[str, Any]] = []
        self.evaluations: dict[str, Any] = {}
        self.samples: dict[str, Any] = {}

    def run(self) -> Literal["finished", "already finished", "interrupted"]:
        """Run all steps whose results do not exist."""
        self.check()
        run = RunFolder(self.out, leaves=LEAVES, begun_by="*/checkpoints/step-*/COMPLETE")
        run.compare(self.recipe)
        with run:
            local = not (self.world or is_named(self.recipe.source))  # fetched data have checksums
            files = [str(find_corpus(self.recipe.source))] if local else []
            made_of = self.recipe.model_dump(mode="json", exclude={"out"})
            run.begin(self.recipe, preparation={**made_of, "files": stamp(files)})
            self._read_journal()
            self._forget_missing(run)
            if run.summary is not None:
                return "already finished"
            try:
                self._step("corpus", self._make_corpus)
            except UserError:  # such as a set that cannot be fetched
                if not run.has_begun:
                    run.withdraw()
                raise
            self._step("tokenizer", self._make_tokenizer)
            if self.recipe.bins:
                self._step("tokens", self._encode)
            for stage in self._asked:
                if stage != "pretrain" and not self.world:
                    self._skip(stage)
                    continue
                if not self._step(stage, lambda stage=stage: self._train(stage)):  # type: ignore[misc]
                    return "interrupted"
            self._step("report", lambda: {"path": str(write_report(self.out))})
            run.finish({"stages": self.stages, "evaluations": self.evaluations})
            write_report(self.out)
        return "finished"

    @property
    def _asked(self) -> list[str]:
        """The stages of training that the recipe has."""
        return [name for name in TRAINING_STAGES if getattr(self.recipe, name) is not None]

    def check(self) -> None:
        """The source, and the recipe of every stage, writing nothing. Raises UserError.

        A set that is not here yet is fetched in the first step, not before.
        """
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"'{self.out}' is a file; name a folder for the run")
        if not (self.world or is_named(self.recipe.source)):
            find_corpus(self.recipe.source)
        for name in self._asked:
            self.stage_recipe(name).check_shape()

    def _forget_missing(self, run: RunFolder) -> None:
        """Do again, from the first one on, the steps whose results were deleted since."""
        results = {"tokenizer": self.out / "tokenizer"}
        if self.world:
            results["corpus"] = self.corpus / "manifest.json"
        elif not is_named(self.recipe.source):  # what was fetched is fetched again when it is read
            results["corpus"] = find_corpus(self.recipe.source)
        results["tokens"] = self.out / "tokens" / "train.bin"
        results |= {name: self.out / name / "DONE.json" for name in TRAINING_STAGES}
        for place, stage in enumerate(self.stages):
            name = stage["name"]
            if stage["status"] == "skipped" or name not in results or results[name].exists():
                continue
            print(f"'{results[name]}' is gone: {self.titles[name]} is done again", file=sys.stderr)
            self.stages = self.stages[:place]
            run.done.unlink(missing_ok=True)
            return

    def _step(self, name: str, work: Callable[[], dict[str, Any] | None]) -> bool:
        """Do a step unless the journal has it; False where it was interrupted."""
        if any(stage["name"] == name for stage in self.stages):
            print(f"{self.titles[name]}: done before", file=sys.stderr)
            return True
        print(self.titles[name], file=sys.stderr, flush=True)
        began = time.monotonic()
        summary = work()
        if summary is None:
            return False
        seconds = time.monotonic() - began
        if "seconds" in summary:  # of training, those before an interruption too
            seconds = max(seconds, summary["seconds"] + summary["evaluation_seconds"])
        self._record(name, seconds, "finished", summary)
        print(f"  done in {format_seconds(seconds)}", file=sys.stderr, flush=True)
        return True

    def _skip(self, name: str) -> None:
        why = f"'{self.recipe.source}' has no questions, preferences or problems"
        print(f"{self.titles[name]}: skipped, {why}", file=sys.stderr)
        if not any(stage["name"] == name for stage in self.stages):
            self._record(name, 0.0, "skipped", {"reason": why})

    def _record(self, name: str, seconds: float, status: str, summary: dict[str, Any]) -> None:
        self.stages.append(
            {
                "name": name,
                "title": self.titles[name],
                "seconds": seconds,
                "status": status,
                "summary": summary,
            }
        )
        write_json(self.out / "evaluations.json", self.evaluations)
        write_json(self.out / "samples.json", self.samples)
        write_json(self.journal, self.stages)

    def _read_journal(self) -> None:
        self.stages = _read_json(self.journal, [])
        self.evaluations = _read_json(self.out / "evaluations.json", {})
        self.samples = _read_json(self.out / "samples.json", {})

    def _make_corpus(self) -> dict[str, Any]:
        recipe = self.recipe
        if not self.world:
            path = find_corpus(recipe.source)
            return {"source": recipe.source, "path": str(path)}
        config = recipe.world.model_copy(update={"seed": recipe.seed})
        with ProgressLine("writing stories", recipe.sizes.train_bytes) as line:

            def report(name: str, done: int, total: int) -> None:
                if name == "train.jsonl":
                    line.update(done, name)

            manifest = write_corpus(
                config, self.corpus, recipe.sizes, workers=recipe.workers, progress=report
            )
        counts = {name: entry["count"] for name, entry in manifest["files"].items()}
        total = sum(counts.values())
        print(
            f"  {recipe.sizes.train_bytes / 1e6:.1f} MB in {counts['train.jsonl']:,} documents; "
            f"{total:,} items in {len(counts)} files",
            file=sys.stderr,
        )
        return {"files": counts}

    def _text(self) -> TextData:
        """The text that is pre-trained on, as the pre-training recipe's data, not yet encoded."""
        raw = self._changed("pretrain").get("data", {})
        return parse(TextData, merge(raw, self._text_files()), where="pretrain.data")

    def _text_files(self) -> dict[str, str]:
        if not self.world:
            return {"path": self.recipe.source}
        files = {"path": str(self.corpus / "train.jsonl")}
        if not self.recipe.bins:  # else a share of the text is held out, as of any other
            files["heldout_path"] = str(self.corpus / "heldout.jsonl")
        return files

    def _make_tokenizer(self) -> dict[str, Any]:
        config, data = self.recipe.tokenizer, self._text()
        tokenizer = prepare_tokenizer(config, data, self.out, workers=self.recipe.workers)
        if config.path is not None:
            tokenizer.save(self.out / "tokenizer")
        sample = next(heldout_documents(data), "")
        ratio = len(sample.encode()) / max(1, len(tokenizer.encode(sample)))
        print(f"  {tokenizer.vocab_size} entries, {ratio:.2f} bytes a token", file=sys.stderr)
        return {"vocab_size": tokenizer.vocab_size, "bytes_per_token": ratio}

    def _encode(self) -> dict[str, Any]:
        data = self._text()
        report = tokenize_corpus(
            [str(path) for path in data.paths],
            Tokenizer.load(self.out / "tokenizer"),
            self.out / "tokens",
            form="bin",
            split=data.split,
            heldout_share=data.heldout_share,
            workers=self.recipe.workers,
        )
        for name, (documents, tokens) in report.items():
            print(f"  {name}: {documents:,} documents, {tokens:,} tokens", file=sys.stderr)
        return {"files": report}

    def _changed(self, name: str) -> dict[str, Any]:
        """A stage's recipe as a mapping, with what is different here."""
        change: StageChange = getattr(self.recipe, name)
        return merge(load_recipe(change.recipe, search=recipe_folders()), change.change)

    def _raw_stage(self, name: str) -> dict[str, Any]:
        """A stage's recipe as a mapping, with this quickstart's paths, seed and device in it."""
        raw = self._changed(name)
        raw |= {"out": str(self.out / name), "seed": self.recipe.seed, "device": self.recipe.device}
        place = TRAINING_STAGES.index(name)
        if name == "pretrain":
            raw["tokenizer"] = {"path": str(self.out / "tokenizer")}
            files = self._text_files()
            if self.recipe.bins:
                files["path"] = str(self.out / "tokens")
        else:
            raw["init"] = str(self.out / TRAINING_STAGES[place - 1])
            files = {
                "sft": {
                    "path": str(self.corpus / "chats.train.jsonl"),
                    "heldout_path": str(self.corpus / "chats.heldout.jsonl"),
                },
                "dpo": {"path": str(self.corpus / "preferences.train.jsonl")},
                "grpo": {"path": str(self.corpus / "arithmetic.train.jsonl")},
            }[name]
        raw["data"] = merge(raw.get("data", {}), files)
        return raw

    def stage_recipe(self, name: str) -> StageRecipe:
        """A stage's recipe, checked."""
        return parse_recipe(self._raw_stage(name), where=f"{name} of the quickstart")

    def _train(self, name: str) -> dict[str, Any] | None:
        recipe = self.stage_recipe(name)
        summary = run_recipe(recipe)
        if summary["status"] == "interrupted":
            return None
        model, tokenizer, _ = open_on(recipe.out, self.recipe.device)
        began = time.monotonic()
        tasks = self.world and len(self._asked) > 1
        if tasks:
            self.evaluations[name] = evaluate_story_world(
                model, tokenizer, self.corpus, limits=self.recipe.limits.model_dump()
            )
        else:
            documents = heldout_documents(self._text())
            self.evaluations[name] = evaluate_text(
                model, tokenizer, documents, limit=self.recipe.limits.documents or None
            )
        self.samples[name] = sample_stage(
            model,
            tokenizer,
            corpus=self.corpus if tasks else None,
            count=self.recipe.samples,
            seed=self.recipe.seed,
        )
        seconds = time.monotonic() - began
        print(f"  evaluated in {format_seconds(seconds)}", file=sys.stderr)
        return {**summary, "evaluation_seconds": seconds}


def _corpus_title(recipe: QuickstartRecipe) -> str:
    if recipe.source != "storyworld":
        return "Text"
    if recipe.stand_in_for is None:
        return TITLES["corpus"]
    return f"Story world, which stands in for {recipe.stand_in_for}: nothing is downloaded"


def _read_json(path: Path, default: Any) -> Any:
    if not path.exists():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        raise UserError(
            f"'{path}' is damaged; delete it (finished stages keep their results) and run again"
        ) from None
